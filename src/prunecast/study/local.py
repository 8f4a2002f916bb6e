"""Stages in processes of this machine: as many at once as its threads, its memory and its GPUs have room for.

Or one at a time in the process that asks for them.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Self

from prunecast.errors import UserError
from prunecast.stages.job import Job
from prunecast.study.executor import NOTHING, Completed, Resources, WorkerLost, Workload, here, visible_gpus
from prunecast.study.worker import execute, start_worker


@dataclass(eq=False)
class _Process:
    """A worker process of its own, so that the others go on when it is killed; it starts with its first stage."""

    visible_gpus: str
    threads: int
    exports: bool
    pool: ProcessPoolExecutor | None = None

    def submit(self, job: Job, root: str, machine_busy: bool) -> Future[None]:
        while True:
            if self.pool is None:
                self.pool = ProcessPoolExecutor(
                    max_workers=1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=start_worker,
                    initargs=(self.threads, self.visible_gpus, self.exports),
                )
            try:
                return self.pool.submit(execute, job, root, machine_busy)
            except BrokenProcessPool:  # it died with nothing to do
                self.pool = None


class LocalExecutor:
    """Runs stages on this machine, in processes each of which sees one GPU where its stage wants one.

    A UserError says when there is none.
    """

    def __init__(self, workload: Workload) -> None:
        self._needed, self._root = workload.needed, str(workload.store.root)
        needed = [self._needed(job) for job in workload.jobs]
        self._gpus = visible_gpus()
        if any(one.gpus for one in needed) and not self._gpus:
            raise UserError("device 'cuda' is not available here; set train.device and finetune.device to cpu")
        self._threads = max(one.threads for one in needed)
        self._exports = any(job.stage == "export" for job in workload.jobs)
        self._idle: list[_Process] = []
        self._running: dict[Future[None], tuple[Job, _Process]] = {}
        room = max(1, here().threads // self._threads)
        if workload.at_once is not None and workload.at_once > room:
            workload.monitor.note(
                f"{workload.at_once} workers asked for, {room} at once: a stage takes {self._threads} of "
                f"{here().threads} processors (train.threads, finetune.threads)"
            )

    @staticmethod
    def check() -> None:
        """Finds nothing missing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends all processes: after the stages that they run, or at once where the run itself is to end."""
        if isinstance(error[1], KeyboardInterrupt):
            for child in multiprocessing.active_children():
                child.terminate()
        for process in (*self._idle, *(process for _, process in self._running.values())):
            if process.pool is not None:
                process.pool.shutdown(wait=True, cancel_futures=True)

    def room(self) -> Resources:
        """Returns what this machine has."""
        return here()

    def submit(self, job: Job, *, machine_busy: bool = False) -> None:
        """Starts a stage; where it wants a GPU, on the one that runs the fewest. A timing sees all of them."""
        gpus = ",".join(self._gpus) if job.stage == "measure" else ""
        if self._needed(job).gpus:
            taken = Counter(process.visible_gpus for _, process in self._running.values())
            gpus = min(self._gpus, key=taken.__getitem__)
        process = next((idle for idle in self._idle if idle.visible_gpus == gpus), None)
        if process is None:
            process = _Process(gpus, self._threads, self._exports)
        else:
            self._idle.remove(process)
        self._running[process.submit(job, self._root, machine_busy)] = job, process

    def completed(self) -> Sequence[Completed]:
        """Waits until a process is through with a stage; returns all such."""
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        ended = []
        for future in finished:
            job, process = self._running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                error = WorkerLost("its worker process died (killed, or out of memory)")
            else:
                self._idle.append(process)
            ended.append(Completed(job, error))
        return ended


class InProcess:
    """Runs stages in this process, one at a time: a worker process imports for seconds what is imported here."""

    def __init__(self, workload: Workload) -> None:
        self._root = str(workload.store.root)
        self._submitted: list[tuple[Job, bool]] = []

    @staticmethod
    def check() -> None:
        """Finds nothing missing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Has nothing to end."""

    def room(self) -> Resources:
        """Returns nothing: each stage runs alone."""
        return NOTHING

    def submit(self, job: Job, *, machine_busy: bool = False) -> None:
        """Puts a stage down for `completed`."""
        self._submitted.append((job, machine_busy))

    def completed(self) -> Sequence[Completed]:
        """Runs the stage in a thread: its errors are its result, as with a process, and no interruption is lost."""
        job, machine_busy = self._submitted.pop()
        with ThreadPoolExecutor(1) as thread:
            return [Completed(job, thread.submit(execute, job, self._root, machine_busy).exception())]

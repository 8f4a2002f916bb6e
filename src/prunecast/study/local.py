"""Stages in processes of this machine: as many at once as its threads, its memory and its GPUs have room for."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field

from prunecast.errors import UserError
from prunecast.stages.job import Job
from prunecast.study.executor import Assignment, Settled, WorkerLost
from prunecast.study.resources import NOTHING, Resources, here, visible_gpus
from prunecast.study.worker import execute, start_worker


class LocalEngine:
    """Runs stages on this machine."""

    def check(self) -> None:
        """Finds nothing missing."""

    @contextmanager
    def hire(self, assignment: Assignment) -> Iterator[LocalWorkers]:
        """Hires processes of this machine, for as long as the block lasts.

        Raises:
            UserError: when a stage wants a GPU and there is none.
        """
        workers = LocalWorkers(assignment)
        try:
            yield workers
        finally:
            workers.close()


@dataclass(eq=False)
class _Process:
    """A worker process of its own, so that the others go on when it is killed; it starts with its first stage."""

    visible_gpus: str
    threads: int
    exports: bool
    pool: ProcessPoolExecutor | None = None

    def submit(self, job: Job, root: str, machine_busy: bool) -> Future[None]:
        try:
            return self.living().submit(execute, job, root, machine_busy)
        except BrokenProcessPool:  # it died with nothing to do
            self.pool = None
            return self.living().submit(execute, job, root, machine_busy)

    def living(self) -> ProcessPoolExecutor:
        if self.pool is None:
            self.pool = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=start_worker,
                initargs=(self.threads, self.visible_gpus, self.exports),
            )
        return self.pool


@dataclass
class _Gpu:
    """A GPU and the stages that run on it."""

    name: str
    stages: set[str] = field(default_factory=set)


class LocalWorkers:
    """Processes of this machine, each with one GPU where its stage wants one."""

    def __init__(self, assignment: Assignment) -> None:
        self._needed, self._root = assignment.shares.needed, str(assignment.store.root)
        needed = [self._needed(job) for job in assignment.jobs]
        self._gpus = [_Gpu(name) for name in visible_gpus()]
        if any(one.gpus for one in needed) and not self._gpus:
            raise UserError("device 'cuda' is not available here; set train.device and finetune.device to cpu")
        self._threads = max(one.threads for one in needed)
        self._exports = any(job.stage == "export" for job in assignment.jobs)
        self._idle: list[_Process] = []
        self._running: dict[Future[None], tuple[Job, _Process]] = {}
        self._say_how_many(assignment)

    def fits(self, taken: Resources, needed: Resources) -> bool:
        """Whether a stage can start beside those that run; one that asks for more than there is runs alone."""
        return taken == NOTHING or here().holds(taken + needed)

    def start(self, job: Job, *, machine_busy: bool = False) -> None:
        """Starts a stage in an idle process, or in a new one."""
        visible = self._visible_gpus(job)
        process = next((idle for idle in self._idle if idle.visible_gpus == visible), None)
        if process is None:
            process = _Process(visible, self._threads, self._exports)
        else:
            self._idle.remove(process)
        self._running[process.submit(job, self._root, machine_busy)] = job, process

    def settled(self) -> Sequence[Settled]:
        """Waits until a process is through with a stage; returns all such."""
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [self._settle(future) for future in finished]

    def close(self) -> None:
        """Ends all processes, after the stages that they run."""
        for process in (*self._idle, *(process for _, process in self._running.values())):
            if process.pool is not None:
                process.pool.shutdown(wait=True, cancel_futures=True)

    def _settle(self, future: Future[None]) -> Settled:
        job, process = self._running.pop(future)
        for gpu in self._gpus:
            gpu.stages.discard(job.fingerprint)
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            return Settled(job, WorkerLost("its worker process died (killed, or out of memory)"))
        self._idle.append(process)
        return Settled(job, error)

    def _visible_gpus(self, job: Job) -> str:
        """Returns the GPUs that a stage may see: its own; all where a clock runs, for then it is alone."""
        if job.exclusive:
            return ",".join(gpu.name for gpu in self._gpus)
        if not self._needed(job).gpus:
            return ""
        gpu = min(self._gpus, key=lambda gpu: len(gpu.stages))
        gpu.stages.add(job.fingerprint)
        return gpu.name

    def _say_how_many(self, assignment: Assignment) -> None:
        largest = max((self._needed(job) for job in assignment.jobs), key=lambda needed: needed.threads)
        room = max(1, here().threads // largest.threads)
        if assignment.at_once is not None and assignment.at_once > room:
            assignment.monitor.note(
                f"{assignment.at_once} workers asked for, {room} at once: a stage takes {largest.threads} of "
                f"{here().threads} processors (train.threads, finetune.threads)"
            )


ENGINE = LocalEngine()

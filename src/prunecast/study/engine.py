"""Runs a plan on local worker processes: what is present is not repeated, what fails is noted, the rest goes on."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Protocol

from prunecast.errors import UserError
from prunecast.records import Failure
from prunecast.stages import Job
from prunecast.store import Store
from prunecast.study.worker import execute, start_worker

ATTEMPTS = 3
"""How often a stage is tried whose worker process dies (killed, or out of memory)."""


class Monitor(Protocol):
    """Hears how a study goes."""

    def start(self, total: int, present: int) -> None:
        """Called once: all stages, and how many were there already."""

    def begin(self, job: Job) -> None:
        """Called when a stage begins."""

    def done(self, job: Job) -> None:
        """Called when a stage is in the store."""

    def failed(self, job: Job, reason: str) -> None:
        """Called when a stage failed, or cannot run because one that it needs failed."""

    def stop(self) -> None:
        """Called at the end, also after an error."""


@dataclass
class Outcome:
    """How many stages were there, were run, and failed (label -> reason)."""

    present: int = 0
    ran: int = 0
    failed: dict[str, str] = field(default_factory=dict)


Engine = Callable[[Iterable[Job], Store, int, Monitor], Outcome]
"""What runs a plan: stages, the store they go into (held for writing), processes, and who hears of progress."""


def run_plan(jobs: Iterable[Job], store: Store, workers: int, monitor: Monitor) -> Outcome:
    """Runs all stages of a plan that are not in the store yet; the caller holds the store for writing."""
    run = _Run(list(jobs), store, workers, monitor)
    try:
        return run.all()
    finally:
        run.close()


class _Run:
    def __init__(self, jobs: list[Job], store: Store, workers: int, monitor: Monitor) -> None:
        self.store, self.workers, self.monitor = store, workers, monitor
        self.waiting = {job.fingerprint: job for job in jobs if not store.has(job.fingerprint)}
        self.outcome = Outcome(present=len(jobs) - len(self.waiting))
        self.running: dict[Future[str], Job] = {}
        self.lost: Counter[str] = Counter()
        self.bad: set[str] = set()
        self.pool: ProcessPoolExecutor | None = None
        monitor.start(len(jobs), self.outcome.present)

    def all(self) -> Outcome:
        while self.waiting or self.running:
            self.submit()
            if not self.running:
                continue
            finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in finished:
                self.settle(self.running.pop(future), future)
        return self.outcome

    def close(self) -> None:
        self.monitor.stop()
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def submit(self) -> None:
        """Starts what can start. A stage with a clock in it runs alone, and so comes after all others."""
        self.drop_orphans()
        under_way = {job.fingerprint for job in self.running.values()} | self.waiting.keys()
        ready = [job for job in self.waiting.values() if not under_way.intersection(job.needs)]
        shared = [job for job in ready if not job.exclusive]
        if any(job.exclusive for job in self.running.values()):
            return
        for job in shared[: self.workers - len(self.running)]:
            self.start(job)
        if not self.running and ready and not shared:
            self.start(ready[0])
        assert ready or self.running or not self.waiting, "stages that wait for each other"

    def start(self, job: Job) -> None:
        if self.pool is None:
            spawn = multiprocessing.get_context("spawn")
            exports = any(waiting.stage == "export" for waiting in self.waiting.values())
            self.pool = ProcessPoolExecutor(
                self.workers, mp_context=spawn, initializer=start_worker, initargs=(exports,)
            )
        try:
            future = self.pool.submit(execute, job, self.store.root)
        except BrokenProcessPool:  # a worker died with nothing left to settle: the stage takes the next pool
            self.pool = None
            return
        del self.waiting[job.fingerprint]
        self.store.forgive(job.fingerprint)
        self.monitor.begin(job)
        self.running[future] = job

    def settle(self, job: Job, future: Future[str]) -> None:
        error = future.exception()
        if error is None:
            self.outcome.ran += 1
            self.monitor.done(job)
        elif isinstance(error, BrokenProcessPool):
            self.pool = None  # its other futures come back broken as well, each to its own settling
            self.lost[job.fingerprint] += 1
            if self.lost[job.fingerprint] < ATTEMPTS:
                self.waiting[job.fingerprint] = job
            else:
                self.fail(job, "its worker process died (killed, or out of memory)")
        else:
            self.fail(job, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")

    def fail(self, job: Job, reason: str) -> None:
        self.bad.add(job.fingerprint)
        self.outcome.failed[job.label] = reason
        self.store.fail(Failure(stage=job.stage, fingerprint=job.fingerprint, label=job.label, reason=reason))
        self.monitor.failed(job, reason)

    def drop_orphans(self) -> None:
        """Fails what rests on a failed stage, and what rests on that."""
        while orphans := [job for job in self.waiting.values() if self.bad.intersection(job.needs)]:
            for job in orphans:
                del self.waiting[job.fingerprint]
                self.fail(job, "a stage that it needs failed")

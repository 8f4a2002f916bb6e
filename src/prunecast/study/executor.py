"""Runs a plan: what fails is noted, what is lost is tried again, the rest goes on; who runs the stages is open here.

Workers fill a folder in the store's `work`; this process alone moves it to its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from prunecast.errors import UserError
from prunecast.measure.machine_lock import WAIT_S, alone
from prunecast.records import Failure
from prunecast.stages.job import Job
from prunecast.store import Damaged, Store
from prunecast.study.resources import Resources, Shares, total
from prunecast.study.schedule import Schedule

ATTEMPTS = 3
"""How often a stage is tried whose worker is lost (killed, out of memory, its machine gone)."""


class Monitor(Protocol):
    """Hears how a study goes."""

    def start(self, total: int, present: int) -> None:
        """Called once: all stages, and how many were there already."""

    def note(self, line: str) -> None:
        """Called with what is worth knowing about the run as a whole."""

    def begin(self, job: Job) -> None:
        """Called when a stage begins."""

    def done(self, job: Job) -> None:
        """Called when a stage is in the store."""

    def failed(self, job: Job, reason: str) -> None:
        """Called when a stage failed, or cannot run because one that it needs failed."""

    def damaged(self, job: Job, reason: str) -> None:
        """Called when a finished stage was found damaged, and set aside."""

    def stop(self) -> None:
        """Called at the end, also after an error."""


@dataclass
class Outcome:
    """How many stages were there and were run; which failed (label -> reason) and which were damaged (likewise)."""

    present: int = 0
    ran: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


class WorkerLost(Exception):
    """The worker of a stage is gone, and what it had done with it."""


@dataclass(frozen=True)
class Settled:
    """A stage that a worker is through with: its result lies in the store's `work`, or there is an error."""

    job: Job
    error: BaseException | None = None


class Workers(Protocol):
    """What runs stages, each in a process of its own."""

    def fits(self, taken: Resources, needed: Resources) -> bool:
        """Whether a stage can start beside those that run and take what is `taken`."""

    def start(self, job: Job, *, machine_busy: bool = False) -> None:
        """Starts a stage.

        Raises:
            Damaged: when a stage that it needs is not whole.
        """

    def settled(self) -> Sequence[Settled]:
        """Waits until a worker is through with a stage; returns all such."""


@dataclass(frozen=True)
class Assignment:
    """What an engine is hired for.

    Attributes:
        jobs: the stages that are to be run.
        store: where their results go, and where the stages that they need lie.
        shares: what a stage takes.
        at_once: the most stages that may run at once, or None.
        monitor: hears of it.
        keep_files: whether models and exported files stay when nothing waits for them any more.
        wait_s: how long at most a timing waits for other stages on this machine.
    """

    jobs: Sequence[Job]
    store: Store
    shares: Shares
    at_once: int | None
    monitor: Monitor
    keep_files: bool = True
    wait_s: float = WAIT_S


class Engine(Protocol):
    """What hires workers. A new one is one file and one registry line."""

    def check(self) -> None:
        """Checks that stages can be run, before anything is written.

        Raises:
            UserError: when they cannot.
        """

    def hire(self, assignment: Assignment) -> AbstractContextManager[Workers]:
        """Hires workers for as long as a block lasts.

        Raises:
            UserError: when the stages cannot be run by them.
        """


def run_plan(engine: Engine, assignment: Assignment, plan: Iterable[Job], outcome: Outcome) -> Outcome:
    """Runs the assigned stages; the caller holds the store for writing.

    Args:
        engine: hires who runs them.
        assignment: what is to be done.
        plan: the whole plan, parents first: a stage that was done may turn out to be damaged.
        outcome: as it stands before.
    """
    if not assignment.jobs:
        return outcome
    with engine.hire(assignment) as workers:
        return _Run(workers, assignment, plan, outcome).all()


def drop_files(jobs: Iterable[Job], store: Store) -> None:
    """Leaves finished stages their records alone; but a dense model stays, for whatever is new goes on from it."""
    for job in jobs:
        if not (job.stage == "train" and job.role == "dense") and store.has(job.fingerprint):
            store.strip(job.fingerprint)


class _Run:
    def __init__(self, workers: Workers, assignment: Assignment, plan: Iterable[Job], outcome: Outcome) -> None:
        self.workers, self.store, self.monitor = workers, assignment.store, assignment.monitor
        self.shares, self.at_once, self.keep_files = assignment.shares, assignment.at_once, assignment.keep_files
        self.schedule = Schedule(plan, self.shares.needed)
        self.running: dict[str, Job] = {}
        self.gate, self.wait_s = ExitStack(), assignment.wait_s
        self.patience_s = self.wait_s
        self.lost: Counter[str] = Counter()
        self.outcome = outcome
        for job in assignment.jobs:
            self.schedule.add(job)

    def all(self) -> Outcome:
        while self.schedule.unfinished:
            while job := self.next():
                self.start(job)
            if self.running:
                for settled in self.workers.settled():
                    del self.running[settled.job.fingerprint]
                    self.gate.close()
                    self.settle(settled.job, settled.error)
        return self.outcome

    def next(self) -> Job | None:
        if len(self.running) == self.at_once or any(job.exclusive for job in self.running.values()):
            return None
        taken = total(map(self.shares.needed, self.running.values()))
        return self.schedule.next(lambda needed: self.workers.fits(taken, needed), idle=not self.running)

    def start(self, job: Job) -> None:
        try:
            self.store.begin(job.fingerprint)
            busy = job.exclusive and self.gate.enter_context(alone(self.patience_s))
            self.patience_s = 0.0 if busy else self.wait_s  # what was waited for in vain is not waited for again
            self.workers.start(job, machine_busy=busy)
        except UserError as error:
            self.gate.close()
            self.settle(job, error)
            return
        self.running[job.fingerprint] = job
        self.monitor.begin(job)

    def settle(self, job: Job, error: BaseException | None) -> None:
        if error is None:
            error = self.commit(job)
        if error is None:
            self.schedule.done(job)
            self.outcome.ran += 1
            self.monitor.done(job)
            self.release((*job.needs, job.fingerprint))
        elif isinstance(error, Damaged | WorkerLost) and self.lost[job.fingerprint] < ATTEMPTS - 1:
            self.lost[job.fingerprint] += 1
            if isinstance(error, Damaged):
                self.renew(error)
            self.schedule.add(job)
        else:
            self.fail(job, _reason(error))

    def commit(self, job: Job) -> UserError | None:
        try:
            self.store.commit(job.fingerprint)
        except UserError as error:
            return error
        return None

    def renew(self, found: Damaged) -> None:
        """Has a finished stage computed again that turned out to be damaged."""
        job = self.schedule.job(found.directory.name)
        if job is None or self.schedule.is_open(job.fingerprint):
            return
        if not self.store.condition(job.fingerprint).bare:  # a record alone is sound: it stays until it is replaced
            if self.store.directory(job.fingerprint).exists():
                self.store.set_aside(job.fingerprint)
            self.outcome.damaged[job.label] = found.reason
            self.monitor.damaged(job, found.reason)
        self.schedule.add(job)

    def fail(self, job: Job, reason: str) -> None:
        self.note_failure(job, reason)
        for orphan in self.schedule.failed(job):
            self.note_failure(orphan, "a stage that it needs failed")

    def release(self, names: Iterable[str]) -> None:
        """Drops files that nothing waits for any more."""
        if self.keep_files:
            return
        jobs = (job for name in names if (job := self.schedule.job(name)) and not self.schedule.is_needed(name))
        drop_files(jobs, self.store)

    def note_failure(self, job: Job, reason: str) -> None:
        self.outcome.failed[job.label] = reason
        self.store.fail(Failure(stage=job.stage, fingerprint=job.fingerprint, label=job.label, reason=reason))
        self.monitor.failed(job, reason)


def _reason(error: BaseException) -> str:
    plain = isinstance(error, UserError | WorkerLost)
    return str(error) if plain else f"{type(error).__name__}: {error}"

"""Runs the stages of a plan in two phases: all that compute, side by side, then the timings, each alone on the machine.

A failure is recorded and the rest goes on; a stage whose worker is lost is tried again. Who runs the stages is open: an
`Executor` (see `local`, `ray`). Workers fill a folder in the store's `work`; this process alone moves it to its place.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from typing import Protocol, Self

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from prunecast.errors import UserError
from prunecast.measure.machine_lock import WAIT_S, alone
from prunecast.recipe import StudyConfig
from prunecast.records import Failure
from prunecast.stages.job import Job
from prunecast.store import Damaged, Store

ATTEMPTS = 3
"""How often a stage is tried whose worker is lost (killed, out of memory, its machine gone)."""

GIB = 2**30


# What a stage needs of a machine


@dataclass(frozen=True)
class Resources:
    """What a machine has or a stage takes: processor threads, GPUs (shares of one count) and bytes of its memory."""

    threads: int
    gpus: float
    memory_bytes: int

    def holds(self, needed: Resources) -> bool:
        """Whether there is enough here for what is needed."""
        return (
            needed.threads <= self.threads
            and needed.gpus <= self.gpus + 1e-9
            and needed.memory_bytes <= self.memory_bytes
        )

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.threads + other.threads, self.gpus + other.gpus, self.memory_bytes + other.memory_bytes)


NOTHING = Resources(0, 0.0, 0)


def needed_by(job: Job, study: StudyConfig) -> Resources:
    """Returns what a stage takes: threads as its recipe says, for its numbers follow them; the rest as its study does.

    It takes a GPU, or a share of one, where it trains on one.
    """
    section = {"train": job.recipe.train, "finetune": job.recipe.finetune}.get(job.stage)
    threads = max(job.recipe.train.threads, section.threads if section else 1)
    gpus = study.stage_gpus[job.stage] if section and section.device == "cuda" else 0.0
    return Resources(threads, gpus, round(study.stage_memory_gib[job.stage] * GIB))


@cache
def here() -> Resources:
    """Returns what this process may use of its machine."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Resources(threads, float(len(visible_gpus())), int(psutil.virtual_memory().total))


def visible_gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(count)]
    return tuple(name.strip() for name in names)[:count]


# Who hears of it


class Monitor:
    """Hears how a study goes, and says nothing; whoever wants to know overrides what they want to hear."""

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


PLAIN_EVERY = 10
"""Stages between two plain lines where there is no terminal."""


class ConsoleMonitor(Monitor):
    """Writes to stderr: one bar over all stages with the time left, or plain lines where there is no terminal.

    Failures and damage are named even where no progress is wanted.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet, self._plain = quiet, not (quiet or self._console.is_terminal)
        # No refreshing from a thread: while a stage is timed the parent must sleep.
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("study")
        self._done = self._total = 0

    def start(self, total: int, present: int) -> None:
        """Shows the bar; what was there already counts as done."""
        self._done, self._total = present, total
        self._bar.start()
        self._bar.reset(self._task, total=total - present)
        if self._plain:
            self._print(f"{total} stages, {present} of them done before")

    def note(self, line: str) -> None:
        """Says what concerns the run as a whole."""
        if not self._quiet:
            self._print(line)

    def begin(self, job: Job) -> None:
        """Names the stage that begins."""
        self._bar.update(self._task, description=job.label)
        self._bar.refresh()

    def done(self, job: Job) -> None:
        """Moves the bar."""
        self._advance()
        if self._plain and (self._done % PLAIN_EVERY == 0 or self._done == self._total):
            self._print(f"{self._done} of {self._total} stages done, last: {job.label}")

    def failed(self, job: Job, reason: str) -> None:
        """Names the failure."""
        self._advance()
        self._print(f"failed: {job.label}: {reason}")

    def damaged(self, job: Job, reason: str) -> None:
        """Names what was set aside."""
        self._print(f"damaged, set aside and computed again: {job.label}: {reason}")

    def stop(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def _advance(self) -> None:
        self._done += 1
        self._bar.advance(self._task)
        self._bar.refresh()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


# Who runs the stages


@dataclass
class Outcome:
    """How many stages were there and were run; which failed (label -> reason) and which were damaged (likewise)."""

    present: int = 0
    ran: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """What is to be run, and with what.

    Attributes:
        plan: all stages, parents first; one that was done before may turn out to be damaged.
        jobs: those of them that are to be run.
        store: where their results go, and where the stages that they need lie.
        study: what a stage takes, and whether files stay when nothing waits for them any more.
        at_once: the most stages that may run at once, or None.
        monitor: hears of it.
        wait_s: how long at most a timing waits for other stages on this machine.
    """

    plan: Sequence[Job]
    jobs: Sequence[Job]
    store: Store
    study: StudyConfig
    at_once: int | None
    monitor: Monitor
    wait_s: float = WAIT_S

    def needed(self, job: Job) -> Resources:
        """Returns what one of the stages takes while it runs."""
        return needed_by(job, self.study)


class WorkerLost(Exception):
    """The worker of a stage is gone, and what it had done with it."""


@dataclass(frozen=True)
class Completed:
    """A stage that has ended: its result lies in the store's `work`, or there is an error."""

    job: Job
    error: BaseException | None = None


class Executor(Protocol):
    """Runs stages, each in a process of its own; as a context manager it leaves no process behind.

    A new one is a file and a line in `registry.EXECUTORS`.
    """

    def __init__(self, workload: Workload) -> None:
        """Prepares to run a workload; raises a UserError when it cannot be run here."""

    @staticmethod
    def check() -> None:
        """Raises a UserError when no stages can be run, before anything is written."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def room(self) -> Resources:
        """Returns what there is for all stages together."""

    def submit(self, job: Job, *, machine_busy: bool = False) -> None:
        """Starts a stage; a timing on this machine, with the whole of it.

        Args:
            job: the stage.
            machine_busy: whether stages of others run beside a timing all the same; its record says so.

        Raises:
            Damaged: when a stage that it needs is not whole.
        """

    def completed(self) -> Sequence[Completed]:
        """Waits until a stage has ended; returns all that have."""


def run_plan(executor: Callable[[Workload], Executor], workload: Workload, outcome: Outcome) -> Outcome:
    """Runs the stages of a workload, and adds to the outcome before; the caller holds the store for writing."""
    if not workload.jobs:
        return outcome
    with executor(workload) as running:
        return _Run(running, workload, outcome).all()


def drop_files(jobs: Iterable[Job], store: Store) -> None:
    """Leaves finished stages their records alone; but a dense model stays, for whatever is new goes on from it."""
    for job in jobs:
        if not (job.stage == "train" and job.role == "dense") and store.has(job.fingerprint):
            store.strip(job.fingerprint)


class _Run:
    """One run of a workload.

    Attributes:
        plan: all stages by fingerprint, parents first; `place` says where each stands.
        children: of each stage, by fingerprint.
        waiting: the stages that are neither done nor failed, by fingerprint; those that run among them.
        undone: those and the failed ones, which the next run tries again.
        ready: stages whose parents are done, by what they take: heaps of (place in the plan, fingerprint).
        running: what those that run take.
        lost: how often each was lost.
        patience_s: how long the next timing waits for other stages on this machine.
    """

    def __init__(self, executor: Executor, workload: Workload, outcome: Outcome) -> None:
        self.executor, self.workload, self.outcome = executor, workload, outcome
        self.store, self.monitor = workload.store, workload.monitor
        self.plan = {job.fingerprint: job for job in workload.plan}
        self.place = {name: number for number, name in enumerate(self.plan)}
        self.children: defaultdict[str, list[str]] = defaultdict(list)
        for job in workload.plan:
            for name in job.needs:
                self.children[name].append(job.fingerprint)
        self.waiting = {job.fingerprint: job for job in workload.jobs}
        self.undone = set(self.waiting)
        self.ready: defaultdict[Resources, list[tuple[int, str]]] = defaultdict(list)
        self.running: dict[str, Resources] = {}
        self.lost: Counter[str] = Counter()
        self.patience_s = workload.wait_s

    def all(self) -> Outcome:
        while self.waiting:  # once; and again for the parents that a timing has found damaged
            while computing := [job for job in self.waiting.values() if job.stage != "measure"]:
                self.compute(computing)
            for job in sorted(self.waiting.values(), key=lambda job: self.place[job.fingerprint]):
                if self.can_run(job):
                    self.time(job)
        return self.outcome

    def can_run(self, job: Job) -> bool:
        return job.fingerprint in self.waiting and self.waiting.keys().isdisjoint(job.needs)

    def compute(self, jobs: Sequence[Job]) -> None:
        """Runs stages side by side; what rests on a parent that is found damaged is left for the next call."""
        names = {job.fingerprint for job in jobs}
        order = TopologicalSorter({job.fingerprint: names.intersection(job.needs) for job in jobs})
        order.prepare()
        while order.is_active():
            for name in order.get_ready():
                self.enqueue(self.plan[name])
            while job := self.next():
                if self.can_run(job):  # else a parent of it was found damaged meanwhile
                    self.submit(job)
            if not self.running:
                break
            for completed in self.executor.completed():
                name = completed.job.fingerprint
                del self.running[name]
                if self.settle(completed.job, completed.error):
                    order.done(name)
                elif isinstance(completed.error, WorkerLost) and name in self.waiting:
                    self.enqueue(completed.job)

    def enqueue(self, job: Job) -> None:
        heappush(self.ready[self.workload.needed(job)], (self.place[job.fingerprint], job.fingerprint))

    def next(self) -> Job | None:
        """Returns the first stage in the plan among those that are ready and for which there is room."""
        if len(self.running) == self.workload.at_once:
            return None
        taken, room = sum(self.running.values(), NOTHING), self.executor.room()
        fitting = [queue for needed, queue in self.ready.items() if queue and room.holds(taken + needed)]
        if not self.running:  # what asks for more than there is runs alone
            fitting = [queue for queue in self.ready.values() if queue]
        return self.plan[heappop(min(fitting))[1]] if fitting else None

    def submit(self, job: Job) -> None:
        try:
            self.store.begin(job.fingerprint)
            self.executor.submit(job)
        except UserError as error:
            self.settle(job, error)
            return
        self.running[job.fingerprint] = self.workload.needed(job)
        self.monitor.begin(job)

    def time(self, job: Job) -> None:
        """Runs a timing with the machine to itself, and waits until it has ended."""
        with alone(self.patience_s) as busy:
            # Who has waited in vain does not wait for the same again; when the machine was free once, patience is new.
            self.patience_s = 0.0 if busy else self.workload.wait_s
            try:
                self.store.begin(job.fingerprint)
                self.monitor.begin(job)
                self.executor.submit(job, machine_busy=busy)
                [completed] = self.executor.completed()
            except UserError as error:
                completed = Completed(job, error)
        self.settle(job, completed.error)

    def settle(self, job: Job, error: BaseException | None) -> bool:
        """Deals with a stage that has ended; returns whether it is done."""
        name = job.fingerprint
        if error is None:
            try:
                self.store.commit(name)
            except UserError as found:
                error = found
        if error is None:
            del self.waiting[name]
            self.undone.discard(name)
            self.outcome.ran += 1
            self.monitor.done(job)
            self.release((*job.needs, name))
        elif isinstance(error, Damaged | WorkerLost) and self.lost[name] < ATTEMPTS - 1:
            self.lost[name] += 1
            if isinstance(error, Damaged):
                self.renew(error)
        else:
            plain = isinstance(error, UserError | WorkerLost)
            self.fail(job, str(error) if plain else f"{type(error).__name__}: {error}")
        return error is None

    def renew(self, found: Damaged) -> None:
        """Has a finished stage computed again that turned out to be damaged."""
        job = self.plan.get(found.directory.name)
        if job is None or job.fingerprint in self.waiting:
            return
        if not self.store.condition(job.fingerprint).bare:  # a record alone is sound: it stays until it is replaced
            if self.store.directory(job.fingerprint).exists():
                self.store.set_aside(job.fingerprint)
            self.outcome.damaged[job.label] = found.reason
            self.monitor.damaged(job, found.reason)
        self.waiting[job.fingerprint] = job
        self.undone.add(job.fingerprint)

    def fail(self, job: Job, reason: str) -> None:
        """Records the failure of a stage, and of all that rest on it, which cannot run."""
        del self.waiting[job.fingerprint]
        self.outcome.failed[job.label] = reason
        self.store.fail(Failure(stage=job.stage, fingerprint=job.fingerprint, label=job.label, reason=reason))
        self.monitor.failed(job, reason)
        for child in self.children[job.fingerprint]:
            if child in self.waiting:
                self.fail(self.waiting[child], "a stage that it needs failed")

    def release(self, names: Iterable[str]) -> None:
        """Drops the files of stages that nothing waits for any more, in this run or in the next."""
        if not self.workload.study.keep_files:
            done = (name for name in names if name in self.plan and name not in self.undone)
            free = (self.plan[name] for name in done if self.undone.isdisjoint(self.children[name]))
            drop_files(free, self.store)

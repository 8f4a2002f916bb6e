"""Which stages can start, and what becomes of those that rest on a failed one; knows nothing of who runs them."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from prunecast.stages.job import Job
from prunecast.study.resources import Resources


class Schedule:
    """The stages that are still to be run, in the order of their plan as far as what they need allows.

    Args:
        plan: all stages, parents first.
        needed: tells what a stage takes while it runs.
    """

    def __init__(self, plan: Iterable[Job], needed: Callable[[Job], Resources]) -> None:
        self._plan: Mapping[str, Job] = {job.fingerprint: job for job in plan}
        self._order = {fingerprint: number for number, fingerprint in enumerate(self._plan)}
        self._needed = needed
        self._open: set[str] = set()
        self._readers: Counter[str] = Counter()
        self._blockers: dict[str, set[str]] = {}
        self._blocked: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._ready: defaultdict[Resources, list[tuple[int, str]]] = defaultdict(list)
        self._alone: list[tuple[int, str]] = []

    @property
    def unfinished(self) -> bool:
        """Whether a stage waits or runs."""
        return bool(self._open)

    def job(self, fingerprint: str) -> Job | None:
        """Returns a stage of the plan."""
        return self._plan.get(fingerprint)

    def is_open(self, fingerprint: str) -> bool:
        """Whether a stage waits or runs."""
        return fingerprint in self._open

    def is_needed(self, fingerprint: str) -> bool:
        """Whether a stage waits or runs, or one that is not done needs what it made: the next run tries it again."""
        return fingerprint in self._open or self._readers[fingerprint] > 0

    def add(self, job: Job) -> None:
        """Takes a stage that is to be run, after those that it needs; once more, when it was lost."""
        if job.fingerprint not in self._open:
            self._open.add(job.fingerprint)
            self._readers.update(job.needs)
        blockers = self._blockers[job.fingerprint] = self._open.intersection(job.needs)
        for blocker in blockers:
            self._blocked[blocker][job.fingerprint] = None
        if not blockers:
            self._is_ready(job)

    def next(self, fits: Callable[[Resources], bool], *, idle: bool) -> Job | None:
        """Returns the next stage that can start, or None; it waits no more.

        A stage with a clock in it runs alone, and so comes after all others.

        Args:
            fits: whether there is room for what a stage takes.
            idle: whether nothing runs.
        """
        fitting = [queue for resources, queue in self._ready.items() if queue and fits(resources)]
        if fitting:
            return self._plan[heapq.heappop(min(fitting))[1]]
        if idle and self._alone and not any(self._ready.values()):
            return self._plan[heapq.heappop(self._alone)[1]]
        return None

    def done(self, job: Job) -> None:
        """Takes note that a stage is done: what waited for it may be ready."""
        if job.fingerprint in self._open:
            self._open.discard(job.fingerprint)
            self._readers.subtract(job.needs)
        for name in self._blocked.pop(job.fingerprint, ()):
            blockers = self._blockers[name]
            blockers.discard(job.fingerprint)
            if not blockers and name in self._open:
                self._is_ready(self._plan[name])

    def failed(self, job: Job) -> list[Job]:
        """Takes note that a stage failed; returns all that rest on it, which cannot run."""
        self._open.discard(job.fingerprint)
        orphans: list[Job] = []
        for name in self._blocked.pop(job.fingerprint, ()):
            if name in self._open:
                orphans += [self._plan[name], *self.failed(self._plan[name])]
        return orphans

    def _is_ready(self, job: Job) -> None:
        queue = self._alone if job.exclusive else self._ready[self._needed(job)]
        heapq.heappush(queue, (self._order[job.fingerprint], job.fingerprint))

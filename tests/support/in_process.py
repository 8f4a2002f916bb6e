"""An executor for tests of what a study computes: stages run where the test runs, without starting a process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from prunecast.stages.job import Job
from prunecast.study.executor import NOTHING, Completed, Resources, Workload
from prunecast.study.worker import execute


class InProcess:
    """Runs one stage at a time; a worker process imports for seconds what is imported here."""

    def __init__(self, workload: Workload) -> None:
        self.root = str(workload.store.root)
        self.submitted: list[tuple[Job, bool]] = []

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
        self.submitted.append((job, machine_busy))

    def completed(self) -> Sequence[Completed]:
        """Runs the stage; what it raises is its result, as with a process."""
        job, machine_busy = self.submitted.pop()
        with ThreadPoolExecutor(1) as thread:
            return [Completed(job, thread.submit(execute, job, self.root, machine_busy).exception())]

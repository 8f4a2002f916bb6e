"""How a study shows its progress: one bar over the whole grid with the time left, or plain lines."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from prunecast.stages.job import Job

PLAIN_EVERY = 10
"""Stages between two plain lines where there is no terminal."""


class ConsoleMonitor:
    """Writes to stderr; failures and damage are named even where no progress is wanted."""

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
        self._say(f"{total} stages, {present} of them done before")

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
        if self._done % PLAIN_EVERY == 0 or self._done == self._total:
            self._say(f"{self._done} of {self._total} stages done, last: {job.label}")

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

    def _say(self, line: str) -> None:
        if self._plain:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

"""What training tells while it runs: a bar on a terminal, plain lines elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prunecast.records import Epoch


class Reporter:
    """Listens to a training run; this one says nothing."""

    def start(self, total_steps: int, done_steps: int) -> None:
        """Called once; `done_steps` is above zero when a run goes on from a checkpoint."""

    def step(self) -> None:
        """Called after each step."""

    def epoch(self, epoch: Epoch) -> None:
        """Called after each epoch's validation."""

    def stop(self) -> None:
        """Called at the end, also after an error."""


class ConsoleReporter(Reporter):
    """A progress bar on a terminal, one line per epoch elsewhere; both on stderr."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(title)

    def start(self, total_steps: int, done_steps: int) -> None:
        """Shows the bar."""
        self._bar.start()
        self._bar.update(self._task, total=total_steps, completed=done_steps)

    def step(self) -> None:
        """Moves the bar."""
        self._bar.advance(self._task)

    def epoch(self, epoch: Epoch) -> None:
        """Prints the epoch's losses above the bar."""
        self._console.print(
            f"{self._title}: epoch {epoch.epoch}, {epoch.steps} steps, train {epoch.train_loss:.4f}, "
            f"validation {epoch.validation_loss:.4f}, learning rate {epoch.learning_rate:.2e}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

"""Trainings that end before their time."""

from __future__ import annotations

from prunecast.records import Epoch
from prunecast.train.progress import Reporter


class Stop(Exception):
    """What an interruption looks like from inside."""


class StopsAfter(Reporter):
    """Interrupts a training after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch(self, epoch: Epoch) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stop

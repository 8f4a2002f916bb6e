"""Which clock a time comes from: runtimes, told apart by threads, batch and machine."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from prunecast.records import Environment, RunRecord, Timing
from prunecast.report.variants import Study


class Clock(NamedTuple):
    """Times of one clock may be put side by side."""

    machine: str
    runtime: str
    threads: int
    batch: int


class Clocks:
    """The clocks of a study. Those of the machine with the most timings have plain names and come first."""

    def __init__(self, study: Study) -> None:
        timed = [record for found in study.taken.values() for record in found if record.timing.runtimes]
        counts = Counter(record.environment.machine for record in timed)
        machines = {record.environment.machine: record.environment for record in timed}
        self.machines = tuple(machines[machine] for machine, _ in counts.most_common())
        self._taken = study.taken
        found = dict.fromkeys(_clock(record, timing) for record in timed for timing in record.timing.runtimes)
        order = [environment.machine for environment in self.machines]
        self._clocks = sorted(found, key=lambda clock: order.index(clock.machine))
        self._ways = Counter(clock[:2] for clock in self._clocks)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Labels of what was timed, in the order of the columns."""
        return tuple(self._label(clock) for clock in self._clocks)

    @property
    def main(self) -> str | None:
        """The label that charts show: ONNX Runtime where it was timed, else the first one."""
        labels = self.runtimes
        return next((label for label in labels if label.startswith("onnxruntime")), labels[0] if labels else None)

    def timings(self, record: RunRecord) -> dict[str, Timing]:
        """Returns the timings of a model, by label."""
        return {
            self._label(_clock(taken, timing)): timing
            for taken in self._taken.get(record.fingerprint, ())
            for timing in taken.timing.runtimes
        }

    def _label(self, clock: Clock) -> str:
        way = "" if self._ways[clock[:2]] == 1 else f" ({clock.threads} threads, batch {clock.batch})"
        return f"{clock.runtime}{way}{self._place(clock.machine)}"

    def _place(self, machine: str) -> str:
        """Returns " on ..." for a machine that is not the main one; its hash too where the name is the same."""
        first, *others = self.machines
        if machine == first.machine:
            return ""
        name = {environment.machine: machine_name(environment) for environment in others}[machine]
        twins = [environment for environment in self.machines if machine_name(environment) == name]
        return f" on {name}" + (f" [{machine[:6]}]" if len(twins) > 1 else "")


def machine_name(environment: Environment) -> str:
    """Returns what a machine computes with, in a few words."""
    return environment.accelerator or environment.processor


def _clock(record: RunRecord, timing: Timing) -> Clock:
    return Clock(record.environment.machine, timing.runtime, timing.threads, timing.batch)

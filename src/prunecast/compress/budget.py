"""What a compressed model may cost: an increase of the loss, and time, bytes and memory in one runtime.

And what the search for it may: time.
"""

from __future__ import annotations

import math
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from prunecast.errors import UserError
from prunecast.records import Strict
from prunecast.report.style import percent, size, three_digits

TIMES_MS: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3}
BYTES: Mapping[str, float] = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
PERCENT: Mapping[str, float] = {"%": 0.01}


class TimeUp(KeyboardInterrupt):
    """The time that a search may take is over: whoever runs stages ends them as for an interruption."""


class Costs(Strict):
    """What a model costs in one runtime: the median time of a call, its artefact, and the memory of its process.

    The time is not a number where nobody asked for it, see `Stopwatch.glance`. Of a model that may yet be written in
    8 bits, `int8_bytes` says what that artefact has; of one that was, `bytes` does.
    """

    latency_ms: float
    bytes: int
    memory_bytes: int | None = None
    int8_bytes: int | None = None

    @property
    def smallest(self) -> Costs:
        """The same with the bytes of the smaller artefact, in 32 bits or in 8."""
        return self.model_copy(update={"bytes": min(self.bytes, self.int8_bytes or self.bytes)})


@dataclass(frozen=True)
class BudgetLine:
    """One budget beside what was reached.

    Attributes:
        name: as an option has it.
        asked: the most that may be.
        reached: None where it is not known.
        cheapest: the least that any model of the search costs; None for the loss, of which nobody knows.
        dense: what the given model costs; None where that was not measured.
    """

    name: str
    asked: float
    reached: float | None
    cheapest: float | None
    dense: float | None

    @property
    def met(self) -> bool:
        """Whether what was reached is within the budget."""
        return self.reached is not None and self.reached <= self.asked

    def text(self, value: float | None) -> str:
        """Returns a value with its unit."""
        if value is None:
            return "unknown"
        if self.name == "max-loss-increase":
            return percent(value)
        return f"{three_digits(value)} ms" if self.name == "max-latency" else size(value)


class Budgets(Strict):
    """All that is asked for; a budget that is None is not held.

    Attributes:
        max_loss_increase: share of the dense model's validation error.
        max_latency_ms: of one call.
        max_bytes: of the artefact; of the constants in flash where the runtime is for devices.
        max_memory_bytes: of the process that runs it; of a forecast's memory where the runtime is for devices.
    """

    max_loss_increase: float
    max_latency_ms: float | None = None
    max_bytes: float | None = None
    max_memory_bytes: float | None = None

    @classmethod
    def parsed(
        cls,
        max_loss_increase: str,
        max_latency: str | None = None,
        max_size: str | None = None,
        max_memory: str | None = None,
    ) -> Self:
        """Returns the budgets of texts such as 1%, 2ms, 1MB and 256KB.

        Raises:
            UserError: when one is no such text.
        """
        return cls(
            max_loss_increase=amount("--max-loss-increase", max_loss_increase, PERCENT, "1%", zero=True),
            max_latency_ms=None if max_latency is None else amount("--max-latency", max_latency, TIMES_MS, "2ms"),
            max_bytes=None if max_size is None else amount("--max-size", max_size, BYTES, "1MB"),
            max_memory_bytes=None if max_memory is None else amount("--max-memory", max_memory, BYTES, "64MB"),
        )

    def lines(
        self, dense: Costs | None, cheapest: Costs, reached: Costs | None, increase: float | None
    ) -> list[BudgetLine]:
        """Returns a line for each budget: loss, time, bytes, memory.

        Args:
            dense: costs of the given model, where they are known.
            cheapest: costs of the smallest model of the search; its bytes in 8 bits where these are known.
            reached: costs of the chosen model.
            increase: upper end of the increase of its loss.
        """
        found = [BudgetLine("max-loss-increase", self.max_loss_increase, increase, None, 0.0)]
        for name, key, asked in self._of_costs():
            values = [None if costs is None else getattr(costs, key) for costs in (reached, cheapest.smallest, dense)]
            found.append(BudgetLine(name, asked, *values))
        return found

    def holds(self, costs: Costs) -> bool:
        """Whether a model's costs are within the budgets; a memory that is not known is."""
        return self.excess(costs) <= 0

    def excess(self, costs: Costs) -> float:
        """Returns by which share the worst of the budgets is exceeded; negative where all are met."""
        spent = [(getattr(costs, key), asked) for _, key, asked in self._of_costs()]
        return max((value / asked - 1 for value, asked in spent if value is not None), default=-1.0)

    def _of_costs(self) -> Sequence[tuple[str, str, float]]:
        """Returns name, key of `Costs` and amount of the budgets that are held."""
        held = (
            ("max-latency", "latency_ms", self.max_latency_ms),
            ("max-size", "bytes", self.max_bytes),
            ("max-memory", "memory_bytes", self.max_memory_bytes),
        )
        return [(name, key, asked) for name, key, asked in held if asked is not None]


def amount(option: str, text: str, units: Mapping[str, float], example: str, *, zero: bool = False) -> float:
    """Returns what a text such as 2ms is in the smallest unit.

    Args:
        option: whose value it is.
        text: a number and its unit.
        units: name -> how much it is.
        example: of such a text.
        zero: whether 0 is an amount.

    Raises:
        UserError: when it is no such text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z%]+)", text.strip())
    if match is None or match[2] not in units or (float(match[1]) == 0 and not zero):
        what = "a share in per cent" if units is PERCENT else f"an amount above 0 with its unit ({', '.join(units)})"
        raise UserError(f"{option}: expected {what}, as in {example}; found {text!r}")
    return float(match[1]) * units[match[2]]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `TimeUp` in the block after so many seconds, where the system has a timer and this is the main thread."""
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if math.isinf(seconds) or not usable:
        yield
        return

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

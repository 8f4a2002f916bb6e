"""Shares to whole numbers: what was asked for, whether it can be met, and the count that comes nearest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import floor
from typing import Literal

from prunecast.errors import UserError

Of = Literal["prunable", "model", "operations"]
Unit = Literal["weights", "parameters", "MACs"]

_UNITS: dict[Of, Unit] = {"prunable": "weights", "model": "parameters", "operations": "MACs"}


@dataclass(frozen=True)
class Budget:
    """How much is to go, in whole units of what `of` says."""

    of: Of
    total: int
    requested: int

    @property
    def unit(self) -> Unit:
        """What is counted."""
        return _UNITS[self.of]

    def refuse_above(self, most: float) -> None:
        """Checks that no more is asked for than can go.

        Raises:
            UserError: naming the largest share within reach.
        """
        if self.requested > most:
            share = floor(1000 * most / self.total) / 1000
            raise UserError(f"{self} cannot be met: at most {most:.0f} can go; use a sparsity of at most {share:g}")

    def refuse_below(self, gone: float) -> None:
        """Checks that no less is asked for than is gone already.

        Raises:
            UserError: saying both numbers.
        """
        if self.requested < gone:
            raise UserError(f"{self} cannot be met: {gone:.0f} are gone already, as masks hold them; ask for more")

    def __str__(self) -> str:
        return f"removing {self.requested} of {self.total} {self.unit}"


def budget_for(of: Of, total: int, share: float) -> Budget:
    """Returns the budget of a share: round(share x total) units, half to even.

    Raises:
        UserError: when that rounds to nothing, or to everything.
    """
    requested = round(share * total)
    if not 1 <= requested < total:
        raise UserError(
            f"sparsity {share:g} of {total} {_UNITS[of]} rounds to {requested}; expected at least 1 and fewer than all"
        )
    return Budget(of, total, requested)


def nearest_count(removed: Callable[[int], float], most: int, requested: int) -> int:
    """Returns the count in 1..most whose removal comes nearest to a request, the larger of two equally near.

    Args:
        removed: what removing so many units saves; never falls as the count grows; asked about log2(most) times.
        most: the largest count, with removed(most) >= requested.
        requested: what is to be saved.
    """
    saved = cache(removed)
    reaching = bisect_left(range(most + 1), requested, lo=1, key=saved)
    assert reaching <= most, "the caller checks that the request is within reach"
    short = reaching > 1 and requested - saved(reaching - 1) < saved(reaching) - requested
    return reaching - 1 if short else reaching

"""Shares to whole numbers: what was asked for, whether it can be met, and the count that comes nearest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor

from prunecast.errors import UserError
from prunecast.records import BudgetOf, BudgetUnit, Pruning

_UNITS: dict[BudgetOf, BudgetUnit] = {"prunable": "weights", "model": "parameters", "operations": "MACs"}


@dataclass(frozen=True)
class Budget:
    """How much is to go, in whole units of what `of` says."""

    of: BudgetOf
    total: int
    requested: int

    @property
    def unit(self) -> BudgetUnit:
        """What is counted."""
        return _UNITS[self.of]

    def check(self, most: float, gone: float = 0) -> None:
        """Checks that no more is asked for than can go, and no less than is gone already.

        Raises:
            UserError: naming the largest share within reach, or what is gone.
        """
        if self.requested > most:
            share = floor(1000 * most / self.total) / 1000
            raise UserError(f"{self} cannot be met: at most {most:.0f} can go; use a sparsity of at most {share:g}")
        if self.requested < gone:
            raise UserError(f"{self} cannot be met: {gone:.0f} are gone already, as masks hold them; ask for more")

    def outcome(
        self,
        method: str,
        realised: int,
        *,
        removed_weights: Mapping[str, int] | None = None,
        kept_units: Mapping[str, tuple[int, int]] | None = None,
    ) -> Pruning:
        """Returns what a record says of a pruning that was asked for this and removed `realised` units."""
        return Pruning(
            method=method,
            of=self.of,
            unit=self.unit,
            total=self.total,
            requested=self.requested,
            realised=realised,
            removed_weights=dict(removed_weights or {}),
            kept_units=dict(kept_units or {}),
        )

    def __str__(self) -> str:
        return f"removing {self.requested} of {self.total} {self.unit}"


def budget_for(of: BudgetOf, total: int, share: float) -> Budget:
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


def nearest_count(saved: Callable[[int], float], least: int, most: int, requested: int) -> int:
    """Returns the count in least..most whose saving comes nearest to a request, the larger of two equally near.

    Savings are nearly smooth in the count and dear to know, so this interpolates between the two ends, and gives an
    end that does not move less and less weight (the Illinois method, Dowell and Jarratt 1971): about eight questions
    where halving would ask fourteen (thousands of units) to twenty-four (millions of weights).

    Args:
        saved: what removing a count saves; never falls as the count grows. Some counts are asked for twice.
        least: the smallest count that may be.
        most: the largest, with saved(most) >= requested.
        requested: what is to be saved.
    """
    if saved(least) >= requested:
        return least
    low, high, moved = least, most, ""
    short, over = requested - saved(low), saved(high) - requested
    while high - low > 1:
        guess = low + round((high - low) * (short / (short + over) if over else 0.5))
        guess = min(max(guess, low + 1), high - 1)
        if saved(guess) < requested:
            over = over / 2 if moved == "low" else over
            low, short, moved = guess, requested - saved(guess), "low"
        else:
            short = short / 2 if moved == "high" else short
            high, over, moved = guess, saved(guess) - requested, "high"
    return low if requested - saved(low) < saved(high) - requested else high

"""A multiple-choice knapsack: one level for each group, with the least damage that a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from prunecast.errors import UserError

_Floats: TypeAlias = NDArray[np.float64]
_Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A state that a group may be left in.

    Attributes:
        damage: that it does; those of all groups add up.
        cost: what is left of the group costs so much, a whole number of whatever the budget counts.
        others: the same of further budgets, in their order.
    """

    damage: float
    cost: int
    others: tuple[int, ...] = ()

    @property
    def costs(self) -> tuple[int, ...]:
        """All of them."""
        return (self.cost, *self.others)


def choose(groups: Sequence[Sequence[Choice]], *budgets: int) -> tuple[int, ...]:
    """Returns the place of each group's level, so that damage is least among all choices that cost at most the budgets.

    Solved exactly: with one budget by a dynamic programme of the few levels that may be in a best choice, with several
    as an integer programme (HiGHS, by `scipy.optimize.milp`).

    Args:
        groups: the levels of each, at least one.
        budgets: one for each of the costs, in its unit.

    Raises:
        UserError: when even the cheapest levels cost more, or no choice meets all budgets at once.
    """
    owner = np.repeat(np.arange(len(groups)), [len(levels) for levels in groups])
    damages = np.array([level.damage for levels in groups for level in levels])
    costs_KN = np.array([level.costs for levels in groups for level in levels]).T
    least_KG = np.array(
        [[min(costs_K) for costs_K in zip(*(c.costs for c in levels), strict=True)] for levels in groups]
    ).T
    slack_K = np.array(budgets) - least_KG.sum(axis=1)
    if (slack_K < 0).any():
        short = int(slack_K.argmin())
        least = least_KG[short].sum()
        raise UserError(f"expected a budget of at least {least}, what the smallest levels cost, found {budgets[short]}")
    # what a level costs beyond the cheapest of its group: in large sums the solver would not see single units
    extra_KN = costs_KN - least_KG[:, owner]
    if len(budgets) == 1:
        found_G = _within_one(damages, extra_KN[0], owner, int(slack_K[0]))
        if found_G is not None:
            return found_G
    one_each = LinearConstraint((owner == np.arange(len(groups))[:, None]).astype(float), 1, 1)
    scale = max(float(np.abs(damages).max()), 1e-200)  # its tolerances are absolute: a gap of 1e-6
    unit_K, bound_K = np.maximum(slack_K, 1), slack_K.copy()
    while True:
        found = milp(
            damages * (1e4 / scale),
            integrality=np.ones(len(owner)),
            bounds=Bounds(0, np.where((extra_KN <= slack_K[:, None]).all(axis=0), 1, 0)),
            constraints=[one_each, LinearConstraint(extra_KN / unit_K[:, None], -np.inf, bound_K / unit_K)],
            options={"mip_rel_gap": 0},
        )
        if found.x is None:  # of one budget the cheapest levels are within it
            assert len(budgets) > 1, "the cheapest levels are within the budget"
            raise UserError(f"expected budgets that some choice of levels meets all at once, found {budgets}")
        chosen = tuple(int(found.x[owner == group].argmax()) for group in range(len(groups)))
        taken = [levels[place].costs for levels, place in zip(groups, chosen, strict=True)]
        excess_K = np.array(taken).sum(axis=0) - np.array(budgets)
        if (excess_K <= 0).all():
            return chosen
        # within the solver's tolerance, but too dear: costs are whole numbers, so ask for less
        bound_K -= np.maximum(excess_K, 0)


MOST_STATES = 200_000
"""Of a dynamic programme; it rarely has a thousand."""


def _within_one(damage_N: _Floats, extra_N: _Integers, owner_N: _Integers, slack: int) -> tuple[int, ...] | None:
    """Returns the best choice within one budget; None where it would take too many states.

    Group by group, the states are choices so far that are within the budget, of which no other costs and harms less.
    """
    worse_N, gap = _reduced(damage_N, extra_N, owner_N, slack)
    starts = np.flatnonzero(np.diff(owner_N, prepend=-1))
    levels_G = [np.flatnonzero((worse_N <= gap) & (owner_N == group)) for group in range(len(starts))]
    rest = sum(int(extra_N[levels].min()) for levels in levels_G)
    sums = np.zeros((3, 1))  # of each state: what it costs, harms, and is worse by
    trail: list[tuple[_Integers, _Integers]] = []
    for levels in levels_G:
        rest -= int(extra_N[levels].min())
        added = np.stack([extra_N[levels], damage_N[levels], worse_N[levels]])
        cost, harm, worse = both = (sums[:, :, None] + added[:, None]).reshape(3, -1)
        may = np.flatnonzero((worse <= gap) & (cost + rest <= slack))
        may = may[np.lexsort((harm[may], cost[may]))]
        before = np.minimum.accumulate(np.append(np.inf, harm[may]))[:-1]
        kept = may[harm[may] < before]
        if len(kept) > MOST_STATES:
            return None
        sums = both[:, kept]
        trail.append((kept // len(levels), levels[kept % len(levels)]))
    state, chosen = int(sums[1].argmin()), []
    for parents, places in reversed(trail):
        chosen.append(int(places[state]))
        state = int(parents[state])
    return tuple(place - int(start) for place, start in zip(reversed(chosen), starts, strict=True))


def _reduced(damage_N: _Floats, extra_N: _Integers, owner_N: _Integers, slack: int) -> tuple[_Floats, float]:
    """Returns how much a choice is worse for each level, at least, and how much worse than that bound the best may be.

    At a price for what a level costs each group has its own best level, and these tell a bound that no choice is below.
    A level that is so much worse than its group's best that with it the bound is above a choice that is known is out
    (variable fixing by reduced costs, Geoffrion 1974).
    """
    starts = np.flatnonzero(np.diff(owner_N, prepend=-1))

    def priced(price: float) -> tuple[_Floats, _Integers]:
        """Returns how much worse each level is than its group's best at a price, and these best levels."""
        whole_N = damage_N + price * extra_N
        worse_N = whole_N - np.minimum.reduceat(whole_N, starts)[owner_N]
        cheap_first_N = np.lexsort((extra_N, worse_N, owner_N))  # of equals the cheaper one is within more budgets
        return worse_N, cheap_first_N[starts]

    low, high = 0.0, float(np.ptp(damage_N)) + 1e-300  # at the latter one unit is worth more than all damage
    if extra_N[priced(low)[1]].sum() <= slack:
        high = low
    for _ in range(60 if high else 0):  # the least price at which the best levels are within the budget
        middle = (low + high) / 2
        low, high = (low, middle) if extra_N[priced(middle)[1]].sum() <= slack else (middle, high)
    worse_N, taken_G = priced(high)
    spent, known = int(extra_N[taken_G].sum()), float(damage_N[taken_G].sum())
    bound = known + high * (spent - slack)
    while True:  # the budget's rest buys what helps most
        better_N = damage_N[taken_G][owner_N] - damage_N
        better_N[extra_N - extra_N[taken_G][owner_N] > slack - spent] = 0
        best = int(better_N.argmax())
        if better_N[best] <= 0:
            break
        taken_G[owner_N[best]] = best
        spent, known = int(extra_N[taken_G].sum()), float(damage_N[taken_G].sum())
    return worse_N, known - bound + 1e-9 * float(np.abs(damage_N).sum())

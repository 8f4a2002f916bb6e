"""A multiple-choice knapsack: one level for each group, with the least damage that a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from prunecast.errors import UserError


@dataclass(frozen=True)
class Choice:
    """A state that a group may be left in.

    Attributes:
        damage: that it does; those of all groups add up.
        cost: what is left of the group costs so much, a whole number of whatever the budget counts.
    """

    damage: float
    cost: int


def choose(groups: Sequence[Sequence[Choice]], budget: int) -> tuple[int, ...]:
    """Returns the place of each group's level, so that damage is least among all choices that cost at most the budget.

    Solved exactly, as an integer programme (HiGHS, by `scipy.optimize.milp`).

    Args:
        groups: the levels of each, at least one.
        budget: in the unit of the costs.

    Raises:
        UserError: when even the cheapest levels cost more.
    """
    least = [min(level.cost for level in levels) for levels in groups]
    slack = budget - sum(least)
    if slack < 0:
        raise UserError(f"expected a budget of at least {sum(least)}, what the smallest levels cost, found {budget}")
    owner = np.repeat(np.arange(len(groups)), [len(levels) for levels in groups])
    damages = np.array([level.damage for levels in groups for level in levels])
    # what a level costs beyond the cheapest of its group: in large sums the solver would not see single units
    extra = np.array([level.cost - low for low, levels in zip(least, groups, strict=True) for level in levels])
    one_each = LinearConstraint((owner == np.arange(len(groups))[:, None]).astype(float), 1, 1)
    scale = max(float(np.abs(damages).max()), np.finfo(float).tiny)  # its tolerances are absolute: a gap of 1e-6
    bound = slack
    while True:
        found = milp(
            damages * (1e4 / scale),
            integrality=np.ones(len(owner)),
            bounds=Bounds(0, np.where(extra <= slack, 1, 0)),
            constraints=[one_each, LinearConstraint(extra[None] / max(slack, 1), -np.inf, bound / max(slack, 1))],
            options={"mip_rel_gap": 0},
        )
        assert found.x is not None, "the cheapest levels are within the budget"
        chosen = tuple(int(found.x[owner == group].argmax()) for group in range(len(groups)))
        excess = sum(levels[place].cost for levels, place in zip(groups, chosen, strict=True)) - budget
        if excess <= 0:
            return chosen
        bound -= excess  # within the solver's tolerance, but too dear: costs are whole numbers, so ask for less

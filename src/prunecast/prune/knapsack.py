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

    Solved exactly, as an integer programme (HiGHS, by `scipy.optimize.milp`).

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

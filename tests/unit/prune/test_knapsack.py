"""The knapsack against a dynamic programme, in units of any size."""

from __future__ import annotations

import random
from itertools import product

import pytest

from prunecast.errors import UserError
from prunecast.prune.knapsack import Choice, choose


def _least_damage(groups: list[list[Choice]], budget: int) -> float:
    """The oracle: for each number of units spent, the least damage of the groups so far."""
    best = {0: 0.0}
    for levels in groups:
        following: dict[int, float] = {}
        for spent, damage in best.items():
            for level in levels:
                total = spent + level.cost
                if total <= budget:
                    following[total] = min(following.get(total, float("inf")), damage + level.damage)
        best = following
    return min(best.values())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("unit", [1, 98_317], ids=["bytes", "multiply-adds"])
def test_it_equals_a_dynamic_programme(seed: int, unit: int) -> None:
    draw = random.Random(seed)
    groups = [
        [
            Choice(draw.random() * 10.0 ** draw.randint(-6, 0), unit * draw.randint(0, 30))
            for _ in range(draw.randint(1, 9))
        ]
        for _ in range(draw.randint(1, 12))
    ]
    cheapest, dearest = (sum(pick(level.cost for level in levels) for levels in groups) for pick in (min, max))
    budget = cheapest + (dearest - cheapest) * draw.randint(0, 4) // 4
    chosen = [levels[place] for levels, place in zip(groups, choose(groups, budget), strict=True)]
    assert sum(level.cost for level in chosen) <= budget
    assert sum(level.damage for level in chosen) == pytest.approx(_least_damage(groups, budget), rel=1e-5, abs=1e-9)


def test_the_cheapest_levels_are_within_reach_and_nothing_below() -> None:
    groups = [[Choice(0.0, 9), Choice(1.0, 4)], [Choice(0.0, 7), Choice(2.0, 3), Choice(1.0, 3)]]
    assert choose(groups, 7) == (1, 2)
    assert choose(groups, 16) == (0, 0)
    with pytest.raises(UserError, match="expected a budget of at least 7, what the smallest levels cost, found 6"):
        choose(groups, 6)


def test_a_budget_is_not_overdrawn_by_less_than_the_solver_sees() -> None:
    groups = [[Choice(0.0, 1_000_000_001), Choice(1.0, 1_000_000_000)] for _ in range(3)]
    assert sum(choose(groups, 3_000_000_001)) == 2


def test_any_cost_that_comes_in_whole_numbers() -> None:
    """Microseconds, say; a level may do good, as the one of a model that overfits."""
    assert choose([[Choice(0.0, 250), Choice(-0.1, 200)], [Choice(0.0, 80), Choice(0.5, 10)]], 280) == (1, 0)


@pytest.mark.parametrize("seed", range(4))
def test_several_budgets_are_met_at_once(seed: int) -> None:
    draw = random.Random(seed)
    groups = [
        [Choice(draw.random(), draw.randint(0, 30), (draw.randint(0, 30), draw.randint(0, 9))) for _ in range(4)]
        for _ in range(5)
    ]
    budgets = (80, 75, 25)
    met = {
        sum(choice.damage for choice in picked)
        for picked in product(*groups)
        if all(sum(c.costs[k] for c in picked) <= budget for k, budget in enumerate(budgets))
    }
    chosen = [levels[place] for levels, place in zip(groups, choose(groups, *budgets), strict=True)]
    assert sum(choice.damage for choice in chosen) == pytest.approx(min(met))


def test_budgets_that_no_choice_meets_together_are_named() -> None:
    groups = [[Choice(0.0, 1, (5,)), Choice(0.0, 5, (1,))]]
    with pytest.raises(
        UserError, match=r"expected budgets that some choice of levels meets all at once, found \(2, 2\)"
    ):
        choose(groups, 2, 2)

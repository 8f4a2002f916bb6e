"""Optimal brain surgery on units against constrained least squares, on data small enough for all of them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from prunecast.prune.surgeon import Consumer, removal

TOKENS = 200


def _consumer(seed: int, units: int = 5, each: int = 2, spare: int = 1) -> tuple[Consumer, Tensor]:
    """A map that reads units, and an input of nobody's beside them; and what it reads."""
    draw = torch.Generator().manual_seed(seed)
    inputs = units * each + spare
    mixed = torch.randn(inputs, inputs, generator=draw, dtype=torch.float64)
    x = torch.randn(TOKENS, inputs, generator=draw, dtype=torch.float64) @ mixed
    weight = torch.randn(4, inputs, generator=draw, dtype=torch.float64)
    index = torch.randperm(inputs, generator=draw)[: units * each].view(units, each)
    return Consumer(weight, x.T @ x / TOKENS, index), x


def _refitted(consumer: Consumer, x: Tensor, gone: tuple[int, ...]) -> float:
    """The least error that the columns which stay can reach, by least squares of its own."""
    stays = torch.ones(x.shape[1], dtype=torch.bool)
    stays[consumer.index_UE[list(gone)].flatten()] = False
    target = x @ consumer.weight_OI.T
    fitted = torch.linalg.lstsq(x[:, stays], target).solution
    return float((target - x[:, stays] @ fitted).square().sum() / TOKENS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("each", [1, 2, 3])
def test_the_damage_of_every_level_is_that_of_constrained_least_squares(seed: int, each: int) -> None:
    consumer, x = _consumer(seed, each=each)
    found = removal([consumer])
    assert sorted(found.order.tolist()) == list(range(5))
    for count in range(6):
        exact = _refitted(consumer, x, tuple(found.order[:count].tolist()))
        assert float(found.damage[count]) == pytest.approx(exact, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_next_to_go_is_the_one_whose_loss_leaves_the_least_error(seed: int) -> None:
    consumer, x = _consumer(seed, each=2)
    found, gone = removal([consumer]), ()
    for unit in found.order.tolist():
        best = min((other for other in range(5) if other not in gone), key=lambda u: _refitted(consumer, x, (*gone, u)))
        assert unit == best
        gone = (*gone, unit)


def test_greedy_removal_is_near_the_best_of_all_subsets() -> None:
    for seed in range(8):
        consumer, x = _consumer(seed, units=6, each=1)
        found = removal([consumer])
        best = min(_refitted(consumer, x, gone) for gone in combinations(range(6), 2))
        assert best <= float(found.damage[2]) + 1e-9 <= 2 * best + 1e-9


def test_what_several_consumers_lose_adds_up() -> None:
    (one, x_one), (other, x_other) = _consumer(1), _consumer(2)
    found = removal([one, other])
    for count in range(6):
        gone = tuple(found.order[:count].tolist())
        exact = _refitted(one, x_one, gone) + _refitted(other, x_other, gone)
        assert float(found.damage[count]) == pytest.approx(exact, rel=1e-8, abs=1e-8)


def test_some_units_go_first_and_a_copy_costs_nothing() -> None:
    consumer, x = _consumer(3, each=1)
    assert removal([consumer], first=(4, 2)).order[:2].tolist() == [4, 2]
    x[:, consumer.index_UE[0, 0]] = x[:, consumer.index_UE[3, 0]]
    moments = x.T @ x / TOKENS + 1e-9 * torch.eye(x.shape[1], dtype=torch.float64)
    twins = removal([Consumer(consumer.weight_OI, moments, consumer.index_UE)])
    assert int(twins.order[0]) in {0, 3}
    assert float(twins.damage[1]) == pytest.approx(0, abs=1e-6)


def test_of_many_units_several_go_at_once() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2_000, 300, generator=draw, dtype=torch.float64)
    weight = torch.randn(3, 300, generator=draw, dtype=torch.float64)
    moments, index = x.T @ x / len(x), torch.arange(300).unsqueeze(1)
    found = removal([Consumer(weight, moments, index)])
    assert sorted(found.order.tolist()) == list(range(300))
    assert (found.damage.diff() >= 0).all()
    target = x @ weight.T
    kept = found.order[2:].sort().values
    fitted = torch.linalg.lstsq(x[:, kept], target).solution
    assert float(found.damage[2]) == pytest.approx(float((target - x[:, kept] @ fitted).square().sum() / len(x)))

"""Choice and update together, layer by layer: exact counts, whole blocks, patterns, and where what goes costs least."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.small_models import small_inputs, small_model

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel
from prunecast.prune.apply import prune_model
from prunecast.prune.layerwise import block_shape, without_inputs
from prunecast.prune.methods import Masks, Pruned
from prunecast.prune.regression import Moments, Problem
from prunecast.prune.second_order import BlockShape, Pattern, damage, ridge
from prunecast.recipe import PruneConfig


def _batches(model: ForecastModel) -> list[Batch]:
    x, *marks = small_inputs(32)
    y = torch.zeros(32, model.config.horizon, model.config.outputs)
    whole = Batch(x.cumsum(1) / 3, y, *marks)
    return [Batch(*(part[start : start + 16] for part in whole)) for start in (0, 16)]


def _prune(model: ForecastModel, masks: Masks | None = None, **section: Any) -> Pruned:
    config, costs = PruneConfig(**section), {"cost": dense_macs, "weight_cost": macs_per_weight}
    return prune_model(model, config, seed=1, masks=masks, batches=_batches(model), **costs)


def _moved(pruned: Pruned, dense: ForecastModel) -> float:
    with torch.no_grad():
        pairs = [[of(b.x_BLC, b.x_mark_BLF, b.y_mark_BTF) for of in (pruned.model, dense)] for b in _batches(dense)]
    return sum(float((mine - other).square().mean()) for mine, other in pairs)


def _problem(inputs: int, outputs: int, *, tokens: int = 60, seed: int = 1) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(1, outputs, inputs, generator=generator, dtype=torch.float64)
    y = x @ weight[0].T + torch.randn(tokens, outputs, generator=generator, dtype=torch.float64)
    moments = Moments(
        tokens,
        x.mean(0)[None],
        y.mean(0)[None],
        (x.T @ x)[None] / tokens,
        (x.T @ y)[None] / tokens,
    )
    return Problem("map", weight, None, None, moments)


@pytest.mark.parametrize("name", ["transformer", "fedformer"])
@pytest.mark.parametrize("method", ["obc", "obc-layer", "unstructured", "sparsegpt", "alps", "forward", "wanda"])
def test_exactly_what_is_asked_for_goes_and_stays_away(name: str, method: str) -> None:
    dense = small_model(name)
    pruned = _prune(dense, method=method, sparsity=0.7)
    assert pruned.outcome.realised == pruned.outcome.requested == sum(pruned.outcome.removed_weights.values())
    for parameter, mask in pruned.masks.items():
        assert not pruned.model.get_parameter(parameter)[~mask].any()
        assert pruned.model.get_parameter(parameter)[mask].count_nonzero() == mask.sum()


@pytest.mark.parametrize("name", ["transformer", "autoformer", "fedformer", "crossformer", "itransformer", "patchtst"])
def test_an_update_moves_the_forecast_less_than_magnitude_does(name: str) -> None:
    dense = small_model(name)
    assert _moved(_prune(dense, method="obc", sparsity=0.5), dense) < _moved(
        _prune(dense, method="magnitude", sparsity=0.5), dense
    )


def test_counts_by_damage_move_the_forecast_less_than_the_same_share_everywhere() -> None:
    dense = small_model("itransformer")
    by_damage, uniform = (_moved(_prune(dense, method=method, sparsity=0.6), dense) for method in ("obc", "obc-layer"))
    assert by_damage < uniform


def test_a_pattern_holds_in_each_row() -> None:
    pruned = _prune(small_model("itransformer"), method="obc-2:4", sparsity=0.5)
    for mask in pruned.masks.values():
        whole = mask[:, : mask.shape[1] // 4 * 4]
        assert (whole.unflatten(1, (-1, 4)).sum(2) == 2).all()


@pytest.mark.parametrize(("method", "shape"), [("obc-1x4", (1, 4)), ("obc-16x1", (16, 1)), ("magnitude-1x16", (1, 16))])
def test_blocks_go_whole(method: str, shape: tuple[int, int]) -> None:
    pruned = _prune(small_model("itransformer"), method=method, sparsity=0.5)
    for mask in pruned.masks.values():
        rows, columns = (size // of * of for size, of in zip(mask.shape, shape, strict=True))
        blocks = mask[:rows, :columns].unflatten(1, (-1, shape[1])).unflatten(0, (-1, shape[0])).sum((1, 3))
        assert ((blocks == 0) | (blocks == shape[0] * shape[1])).all()
    # edges of these narrow layers are half a block or less, and have the least norm
    assert abs(pruned.outcome.realised / pruned.outcome.requested - 1) < 0.3


def test_what_is_gone_already_stays_gone_and_counts() -> None:
    dense = small_model("itransformer")
    first = _prune(dense, method="magnitude", sparsity=0.3)
    second = _prune(first.model, first.masks, method="obc", sparsity=0.6)
    assert second.outcome.realised == second.outcome.requested
    for name, mask in second.masks.items():
        assert not (mask & ~first.masks[name]).any()


def test_operations_are_met_as_near_as_weights_allow() -> None:
    dense = small_model("itransformer").float()
    batches = [Batch(*(part.float() for part in batch)) for batch in _batches(dense)]
    config = PruneConfig(method="obc-layer", sparsity=0.5, of="operations")
    pruned = prune_model(dense, config, seed=1, batches=batches, cost=dense_macs, weight_cost=macs_per_weight)
    outcome = pruned.outcome
    assert abs(outcome.realised - outcome.requested) <= 20


@pytest.mark.parametrize("blocks", ["", "4", "4:2", "0x1", "axb"])
def test_a_form_that_is_none_is_refused(blocks: str) -> None:
    with pytest.raises(UserError, match="outputs x inputs"):
        block_shape(blocks)


def test_forms() -> None:
    assert block_shape("1x16") == BlockShape(1, 16)
    assert block_shape("2:4") == Pattern(2, 4)


def test_a_pattern_has_its_own_share() -> None:
    with pytest.raises(UserError, match=r"removes 0\.5 of the weights, expected that sparsity, found 0\.6"):
        _prune(small_model("itransformer"), method="obc-2:4", sparsity=0.6)


def test_a_weight_in_no_map_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecast.prune.layerwise.maps_of", lambda model: {})
    with pytest.raises(UserError, match=r"'encoder\.embedding\.weight' of 'itransformer' is in none; use magnitude"):
        _prune(small_model("itransformer"), method="obc", sparsity=0.5)


def test_a_problem_without_some_inputs_has_the_minimum_and_the_damage_of_the_whole() -> None:
    whole = _problem(9, 4)
    gone = torch.tensor([False, True, False, False, True, False, False, False, False])
    part = without_inputs(whole, gone)
    best, best_part = ridge(whole).weight_GOI, ridge(part).weight_GOI
    assert torch.allclose(best[:, :, ~gone], best_part, atol=1e-9)
    mask = torch.rand(best_part.shape, generator=torch.Generator().manual_seed(3)) > 0.5
    lost = damage(part, ridge(Problem("part", part.weight_GOI, None, mask, part.moments)).weight_GOI)
    full = torch.ones_like(best, dtype=torch.bool)
    full[:, :, ~gone] = mask
    assert lost == pytest.approx(
        damage(whole, ridge(Problem("map", whole.weight_GOI, None, full, whole.moments)).weight_GOI)
    )


def test_inputs_that_do_not_move_decide_nothing() -> None:
    problem = _problem(5, 3)
    still = Moments(
        60,
        torch.ones(1, 5).double(),
        torch.ones(1, 3).double(),
        *(torch.zeros(1, 5, n).double() for n in (5, 3)),
    )
    solved = ridge(Problem("map", problem.weight_GOI, torch.zeros(3).double(), None, still))
    assert torch.allclose(solved.weight_GOI, problem.weight_GOI)

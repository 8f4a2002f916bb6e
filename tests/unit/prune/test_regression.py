"""The walk through a pruned model: each map is the least-squares solution of what it reads and should give."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from tests.support.small_models import prunable_models, small_inputs, small_model
from torch import Tensor

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, Layer
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import Statistics
from prunecast.prune.regression import Moments, Problem, Solution, maps_of, reconstruct
from prunecast.prune.second_order import ridge
from prunecast.prune.shrink import shrink
from prunecast.recipe import PruneConfig
from prunecast.records import GroupKind

WINDOWS = 48


def _solve(problem: Problem) -> Solution:
    """Solves the normal equations on the support, row by row."""
    weight = torch.zeros_like(problem.weight_GOI)
    support = torch.ones_like(weight).bool() if problem.support_GOI is None else problem.support_GOI
    for g, o in ((g, o) for g in range(weight.shape[0]) for o in range(weight.shape[1])):
        stays = support[g, o]
        hessian, right = problem.hessian_GII[g][stays][:, stays], problem.right_GIO[g, stays, o]
        weight[g, o, stays] = torch.linalg.solve(hessian, right)
    return problem.solution(weight)


def _statistics(model: ForecastModel) -> Statistics:
    x, *marks = small_inputs(WINDOWS)
    y = torch.zeros(WINDOWS, model.config.horizon, model.config.outputs)
    whole = Batch(x.cumsum(1) / 3, y, *marks)
    return Statistics(1, [Batch(*(part[start : start + 16] for part in whole)) for start in range(0, WINDOWS, 16)])


def _deviation(model: ForecastModel, dense: ForecastModel, statistics: Statistics) -> float:
    with torch.no_grad():
        pairs = [[of(b.x_BLC, b.x_mark_BLF, b.y_mark_BTF) for of in (model, dense)] for b in statistics.batches]
    return sum(float((mine - other).double().square().mean()) for mine, other in pairs)


def _same(mine: ForecastModel, other: ForecastModel) -> bool:
    pairs = zip(mine.parameters(), other.parameters(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("name", prunable_models())
def test_a_model_of_which_nothing_went_stays_as_it_is(name: str) -> None:
    dense = small_model(name).eval()
    statistics = _statistics(dense)
    solved = reconstruct(dense, copy.deepcopy(dense), _solve, statistics)
    assert _deviation(solved.model, dense, statistics) < 1e-8


@pytest.mark.parametrize("method", ["structured-random", "random"])
@pytest.mark.parametrize("name", prunable_models())
def test_what_is_solved_is_nearer_to_the_dense_model(name: str, method: str) -> None:
    dense = small_model(name).eval()
    statistics = _statistics(dense)
    kinds = ("head", "ffn", "width", "mode")
    config = PruneConfig(method=method, sparsity=0.4, **({"kinds": kinds} if method == "structured-random" else {}))
    pruned = prune_model(dense, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    before, twin = _deviation(pruned.model, dense, statistics), copy.deepcopy(pruned.model)
    solved = reconstruct(dense, pruned.model, _solve, statistics, keep=pruned.keep, masks=pruned.masks)
    assert _deviation(solved.model, dense, statistics) < before
    for parameter, mask in pruned.masks.items():
        assert not solved.model.get_parameter(parameter)[~mask].any()
    again = reconstruct(dense, twin, _solve, statistics, keep=pruned.keep, masks=pruned.masks)
    assert _same(again.model, solved.model)


@pytest.mark.parametrize("name", ["informer", "patchtst"])
def test_batch_norms_count_anew_what_a_repaired_model_reads(name: str) -> None:
    """So that in training, by the statistics of the batch, it is the model that it is in eval mode."""
    dense = small_model(name).eval()
    statistics = _statistics(dense)
    config = PruneConfig(method="random", sparsity=0.7)
    pruned = prune_model(dense, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    solved = reconstruct(dense, pruned.model, _solve, statistics, masks=pruned.masks).model
    batch = Batch(*(torch.cat(parts) for parts in zip(*statistics.batches, strict=True)))
    inputs = batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF
    norms = [module for module in solved.modules() if isinstance(module, Layer) and module.counted()]
    with torch.no_grad():
        wanted = solved(*inputs)
        for norm in norms:
            norm.train()
        found = solved(*inputs)
    assert (found - wanted).square().mean() < 1e-6 * wanted.var()
    assert norms


@pytest.mark.parametrize("kinds", [("layer",), ("router",), get_args(GroupKind)], ids="-".join)
@pytest.mark.parametrize("name", prunable_models())
def test_tokens_are_found_again_where_layers_or_routers_went(name: str, kinds: tuple[str, ...]) -> None:
    dense = small_model(name).eval()
    statistics = _statistics(dense)
    keep = {
        group.name: torch.arange(group.size)[-max(group.minimum, -(-group.size // 2)) :]
        for group in dense.groups()
        if group.kind in kinds
    }
    pruned = shrink(dense, keep)
    before = _deviation(pruned, dense, statistics)
    solved = reconstruct(dense, pruned, _solve, statistics, keep=keep)
    assert _deviation(solved.model, dense, statistics) < (before or 1e-8)


def test_a_map_solves_the_normal_equations_of_its_inputs_now_and_the_dense_results() -> None:
    dense = small_model("itransformer").eval()
    statistics = _statistics(dense)
    config = PruneConfig(method="structured-magnitude", sparsity=0.4)
    pruned = prune_model(dense, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    seen: dict[str, Problem] = {}

    def solve(problem: Problem) -> Solution:
        seen[problem.name] = problem
        return _solve(problem)

    small = reconstruct(dense, pruned.model, solve, statistics, keep=pruned.keep).model
    rows = pruned.keep["encoder.width"]
    reads: dict[ForecastModel, list[Tensor]] = {small: [], dense: []}
    results: list[Tensor] = []
    for model, heard in reads.items():
        layer = model.get_submodule("encoder.layers.0.feed_forward.down")
        layer.register_forward_pre_hook(lambda module, given, heard=heard: heard.append(given[0].flatten(0, 1)))
    dense.get_submodule("encoder.layers.0.feed_forward.down").register_forward_hook(
        lambda module, given, result: results.append(result.flatten(0, 1)[:, rows])
    )
    with torch.no_grad():
        for model in reads:
            for batch in statistics.batches:
                model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    x, y = torch.cat(reads[small]).double(), torch.cat(results).double()
    problem = seen["encoder.layers.0.feed_forward.down"]
    assert problem.moments.tokens == len(x)
    centred = x - x.mean(0)
    assert torch.allclose(problem.moments.xx_GII[0], centred.T @ centred / len(x), rtol=1e-4, atol=1e-6)
    assert torch.allclose(problem.moments.xy_GIO[0], centred.T @ (y - y.mean(0)) / len(x), rtol=1e-4, atol=1e-6)
    layer = small.get_submodule("encoder.layers.0.feed_forward.down")
    assert torch.allclose(layer.get_parameter("weight").double(), _solve(problem).weight_GOI[0], atol=1e-6)
    reached = x @ layer.get_parameter("weight").double().T + layer.get_parameter("bias").double()
    assert torch.allclose(reached.mean(0), y.mean(0), atol=1e-5)


def test_inputs_that_hardly_move_get_no_weights_that_a_later_level_would_blow_up() -> None:
    torch.manual_seed(0)
    x_NI = 1 + 1e-4 * torch.randn(64, 3, dtype=torch.float64)
    y_NO = torch.randn(64, 1, dtype=torch.float64)
    centred_NI, mean_I, target_mean_O = x_NI - x_NI.mean(0), x_NI.mean(0), y_NO.mean(0)
    xx_II, xy_IO = centred_NI.T @ centred_NI / 64, centred_NI.T @ (y_NO - target_mean_O) / 64
    moments = Moments(64, mean_I[None], target_mean_O[None], xx_II[None], xy_IO[None])
    plain_OI = torch.linalg.lstsq(centred_NI, y_NO).solution.T
    assert plain_OI.abs().max() > 1e2
    solution = ridge(Problem("map", torch.zeros_like(plain_OI)[None], torch.zeros(1).double(), None, moments))
    assert solution.weight_GOI.abs().max() < 1
    assert solution.bias_O is not None
    later_NO = (1.1 * x_NI) @ solution.weight_GOI[0].T + solution.bias_O  # a level a tenth higher
    assert (later_NO - target_mean_O).abs().max() < 0.1


def test_without_data_there_is_nothing_to_solve() -> None:
    dense = small_model("itransformer").eval()
    with pytest.raises(UserError, match="found none"):
        reconstruct(dense, copy.deepcopy(dense), _solve, Statistics(1))


def test_an_error_of_the_solver_ends_both_forecasts() -> None:
    dense = small_model("itransformer").eval()

    def fail(problem: Problem) -> Solution:
        raise UserError(f"no {problem.name}")

    with pytest.raises(UserError, match=r"no encoder\.embedding"):
        reconstruct(dense, copy.deepcopy(dense), fail, _statistics(dense))
    assert not any(module._forward_pre_hooks for module in dense.modules())


def test_every_map_is_named_once() -> None:
    for name in prunable_models():
        model = small_model(name)
        names = [(layer, part) for (layer, _), own in maps_of(model).items() for part in own.parameters]
        assert len(names) == len(set(names))

"""Allocation by damage: the measured harm, the budget, what cannot be reached, and the same choice each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from, example_inputs
from prunecast.prune.apply import prune_model
from prunecast.prune.damage import Trial
from prunecast.prune.methods import Pruned, Statistics
from prunecast.recipe import PruneConfig
from prunecast.registry import METHODS

SMALL: dict[str, Any] = {
    "lookback": 12,
    "horizon": 6,
    "label_len": 6,
    "channels": 3,
    "d_model": 8,
    "n_heads": 4,
    "dropout": 0,
}
WIDE = {"d_ff": 16}
MODELS: dict[str, dict[str, Any]] = {
    "informer": SMALL | WIDE,
    "fedformer": SMALL | WIDE | {"moving_avg": 5, "modes": 4},
    "crossformer": SMALL | WIDE | {"seg_len": 3, "encoder_layers": 1},
    "patchtst": SMALL | WIDE | {"patch_len": 4, "stride": 2},
    "itransformer": SMALL | WIDE,
}


def _model(name: str) -> ForecastModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config_from({"name": name} | MODELS[name])).eval()


def _windows(model: ForecastModel, count: int = 4) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    x, x_mark, y_mark = (torch.randn(16, *part.shape[1:], generator=draw) for part in example_inputs(model.config))
    with torch.no_grad():
        return [Batch(x + step, model(x + step, x_mark, y_mark), x_mark, y_mark) for step in range(count)]


def _prune(model: ForecastModel, sparsity: float, **section: Any) -> Pruned:
    config = PruneConfig(method="structured", sparsity=sparsity, **section)
    windows = _windows(model)
    return prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight, batches=windows)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_near_the_budget(name: str) -> None:
    model = _model(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned = _prune(model, 0.5)
    assert pruned.outcome.realised == dense_macs(model.config) - dense_macs(pruned.model.config)
    assert abs(pruned.outcome.realised - pruned.outcome.requested) < 0.06 * pruned.outcome.total
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_the_choice_is_the_same_each_time() -> None:
    pruned, again = _prune(_model("itransformer"), 0.5), _prune(_model("itransformer"), 0.5)
    assert pruned.model.config == again.model.config
    assert all(torch.equal(a, b) for a, b in zip(pruned.model.parameters(), again.model.parameters(), strict=True))


def test_it_harms_less_than_the_same_budget_at_random() -> None:
    model = _model("itransformer")
    trial = Trial(model, Statistics(0, _windows(model)))
    chosen = trial.damage(_prune(model, 0.6).keep)
    for seed in range(3):
        config = PruneConfig(method="structured-random", sparsity=0.6)
        drawn = prune_model(model, config, seed=seed, cost=dense_macs, weight_cost=macs_per_weight)
        assert chosen < trial.damage(drawn.keep)


def test_a_layer_that_does_nothing_is_no_loss() -> None:
    model = _model("patchtst")
    layer = model.get_submodule("encoder.layers.1")
    with torch.no_grad():
        for linear in (layer.get_submodule("attention.out"), layer.get_submodule("feed_forward.down")):
            for parameter in linear.parameters():
                parameter.zero_()
    keep = {"encoder.layers": torch.tensor([0, 2])}
    trial = Trial(model, Statistics(0, _windows(model)))
    assert trial.damage(keep) == pytest.approx(0, abs=1e-4)
    share = 1 - dense_macs(model.shrunk_config(keep)) / dense_macs(model.config)
    assert trial.damage(_prune(model, share).keep) < 1e-3


def test_kinds_of_the_method_and_of_the_recipe() -> None:
    model = _model("patchtst")
    kinds = {group.name: group.kind for group in model.groups()}
    pruned = _prune(model, 0.1, kinds=("ffn",))
    assert {kinds[name] for name in pruned.keep} == {"ffn"}
    assert PruneConfig(method="structured").model_dump()["kinds"] == METHODS.load("structured").kinds
    assert PruneConfig().model_dump(mode="json")["kinds"] == ["head", "ffn", "width"]


def test_what_cannot_be_met_and_what_has_no_use_is_named() -> None:
    model = _model("itransformer")
    with pytest.raises(UserError, match="cannot be met: at most"):
        _prune(model, 0.99)
    with pytest.raises(UserError, match=r"method 'structured' has no use for prune\.step"):
        _prune(model, 0.5, step=0.1, kinds=("ffn",))
    config = PruneConfig(method="structured", sparsity=0.5)
    with pytest.raises(UserError, match="looks at data, expected batches"):
        prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)


def test_any_cost_is_met_whatever_it_counts() -> None:
    model = _model("itransformer")
    pruned = _prune(model, 0.4, of="model")
    assert pruned.outcome.unit == "parameters"
    assert abs(pruned.outcome.realised - pruned.outcome.requested) < 0.06 * pruned.outcome.total


def test_few_windows_are_enough() -> None:
    model = _model("itransformer")
    config = PruneConfig(method="structured", sparsity=0.5)
    windows = _windows(model, count=1)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight, batches=windows)
    assert 0 < pruned.outcome.realised < pruned.outcome.total

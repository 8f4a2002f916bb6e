"""PatchTST beyond its published sizes: patches, targets, batch normalisation, widths, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published
from prunecast.models.layers.blocks import sinusoids
from prunecast.models.layers.transforms import BatchNorm
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

SMALL = {
    "channels": 3,
    "lookback": 20,
    "horizon": 5,
    "label_len": 4,
    "d_model": 8,
    "n_heads": 2,
    "d_ff": 6,
    "encoder_layers": 2,
}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "patchtst"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 4) -> Tensor:
    return torch.randn(batch, model.config.lookback, model.config.channels)


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({"d_model": 512, "n_heads": 8, "d_ff": 2048, "encoder_layers": 2}, 6_903_904),
        ({}, 547_296),
    ],
    ids=["paper size", "defaults"],
)
def test_parameters(values: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "patchtst", "channels": 7} | values))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"encoder_layers": 3},
        {"d_model": 15, "n_heads": 3},
        {"channels": 1, "activation": "relu"},
        {"n_heads": 3, "head_size": 5},
        {"lookback": 8, "horizon": 1},
        {"lookback": 1, "patch_len": 2, "stride": 1, "label_len": 0},
        {"patch_len": 1, "stride": 1},
        {"patch_len": 3, "stride": 5},
        {"marks": 0, "head_dropout": None},
    ],
    ids=str,
)
def test_sizes_other_than_published(values: dict[str, Any]) -> None:
    model = _model(**values)
    forecast = model(_inputs(model))
    assert forecast.shape == (4, model.config.horizon, model.config.channels)
    model.train()(_inputs(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("values", [{}, {"patch_len": 5, "stride": 3}, {"patch_len": 4, "stride": 4}], ids=str)
def test_patches_overlap_and_the_end_repeats_the_last_value(values: dict[str, Any]) -> None:
    model = _model(**values)
    config, x = model.config, torch.randn(2, 20)
    padded = torch.cat([x, x[:, -1:].expand(-1, config.stride)], dim=1)
    patches = padded.unfold(1, config.patch_len, config.stride)
    assert patches.shape[1] == config.patches
    expected = patches @ model.encoder.embedding.value.weight.T + sinusoids(config.patches, 8)
    torch.testing.assert_close(model.encoder.embedding(x.unsqueeze(2)), expected)  # one channel


def test_channels_are_forecast_alone_and_marks_are_not_used() -> None:
    every, one = _model(), _model(targets=(1,))
    one.load_state_dict(every.state_dict())
    x = _inputs(every)
    torch.testing.assert_close(one(x), every(x)[..., 1:2])
    assert torch.equal(every(x), every(x, torch.randn(4, 20, 4), torch.randn(4, 9, 4)))
    other = x.clone()
    other[..., 0] = 0
    assert torch.equal(one(other), one(x))


def test_each_window_is_forecast_in_its_own_units() -> None:
    model = _model()
    x = _inputs(model)
    torch.testing.assert_close(model(3 * x - 7), 3 * model(x) - 7, rtol=1e-4, atol=1e-4)


def test_dropout_of_the_forecast_is_its_own() -> None:
    """Time-Series-Library drops steps of the standardised forecast too: they come out as the window's mean."""
    shares = []
    for head_dropout in (0.0, None, 0.6):
        model = _model(dropout=0.3, head_dropout=head_dropout).train()
        x = torch.randn(200, 20, 3)
        with torch.no_grad():
            shares.append(((model(x) - x.mean(1, keepdim=True)).abs() < 1e-6).float().mean().item())
    assert shares[0] < 0.01
    assert shares[1:] == pytest.approx([0.3, 0.6], abs=0.05)


def test_batch_normalisation_is_the_usual_one() -> None:
    torch.manual_seed(1)
    ours, usual = BatchNorm(5), nn.BatchNorm1d(5)
    x = torch.randn(6, 4, 5) * 3 + 1
    for _ in range(2):
        torch.testing.assert_close(ours(x), usual(x.mT).mT)
    torch.testing.assert_close(ours.mean, usual.running_mean)
    torch.testing.assert_close(ours.variance, usual.running_var)
    torch.testing.assert_close(ours.eval()(x), usual.eval()(x.mT).mT)


def test_a_batch_of_one_row_trains_with_the_running_statistics() -> None:
    model = _model(channels=1, lookback=8).train()
    forecast = model(_inputs(model, batch=1))
    assert forecast.isfinite().all()
    assert model.encoder.norm.variance.tolist() == [1] * 8


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model()
    keep = {
        "encoder.width": torch.tensor([0, 3, 7]),
        "encoder.layers": torch.tensor([1]),
        "encoder.layers.1.attention.heads": torch.tensor([1]),
        "encoder.layers.1.feed_forward.units": torch.tensor([2, 4]),
    }
    config = model.shrunk_config(keep)
    assert config_from(config.model_dump(mode="json")) == config
    assert config.model_dump(mode="json")["encoder"] == {"width": 3, "layers": [{"heads": 1, "d_ff": 2}]}
    small = build(config)
    assert small.get_parameter("head.weight").shape == (5, 3 * config.patches)
    assert small(_inputs(small)).shape == (4, 5, 3)


def test_prunable_names_are_weights_of_the_model() -> None:
    model = _model()
    assert model.output_layer() == ("head.weight",)
    assert set(model.prunable()) == {name for name, parameter in model.named_parameters() if parameter.dim() > 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_len": 29}, r"patch_len: expected at most lookback \+ stride \(28\), found 29"),
        ({"lookback": 7}, r"patch_len: expected at most lookback \+ stride \(15\), found 16"),
        ({"n_heads": 3}, r"n_heads: expected a divisor of d_model \(8\) or head_size beside it, found 3"),
        ({"stride": 0}, "model.stride: .*found 0"),
        ({"head_dropout": 1.0}, "model.head_dropout: .*found 1.0"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "patchtst"} | SMALL | values)
    assert "\n" not in str(error.value)


def test_a_wrong_lookback_is_refused() -> None:
    with pytest.raises(UserError, match=r"x: expected \(batch, 20, 3\), found \(4, 19, 3\)"):
        _model()(torch.randn(4, 19, 3))


def test_a_structured_pruning_at_paper_size_meets_its_budget() -> None:
    sizes = {"d_model": 512, "n_heads": 8, "d_ff": 2048, "encoder_layers": 2}
    model = build(config_from({"name": "patchtst", "channels": 7} | sizes))
    config = PruneConfig(method="structured-magnitude", sparsity=0.75)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    assert pruned.outcome.realised / pruned.outcome.total == pytest.approx(0.75, abs=0.01)


def test_a_published_checkpoint_shows_its_sizes() -> None:
    shapes = {
        "patch_embedding.value_embedding.weight": (12, 16),
        "encoder.attn_layers.0.conv1.weight": (20, 12, 1),
        "encoder.attn_layers.1.conv1.weight": (20, 12, 1),
        "encoder.norm.1.num_batches_tracked": (),
        "encoder.norm.1.running_var": (12,),
        "head.linear.weight": (9, 36),
    }
    known = published("patchtst")
    found = known.sizes({name: torch.zeros(shape) for name, shape in shapes.items()})
    assert found == {"horizon": 9, "patch_len": 16, "d_model": 12, "d_ff": 20, "encoder_layers": 2}
    assert known.config({"dropout": 0.1, "e_layers": 4}) == {
        "dropout": 0.1,
        "encoder_layers": 4,
        "patch_len": 16,
        "stride": 8,
        "head_dropout": None,
    }

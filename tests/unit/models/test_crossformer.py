"""Crossformer beyond its published sizes: segments, variants, routers, scales that go, widths, mistakes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.support.half_models import check_half
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.errors import UserError
from prunecast.kernels import attention
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published
from prunecast.models.crossformer import Crossformer, CrossformerConfig, SegmentMerging, TwoStageLayer
from prunecast.models.layers.blocks import Attention
from prunecast.prune.apply import prune_model
from prunecast.prune.shrink import shrink
from prunecast.recipe import PruneConfig

SMALL = {
    "channels": 3,
    "lookback": 20,
    "horizon": 7,
    "seg_len": 4,
    "d_model": 8,
    "n_heads": 2,
    "d_ff": 6,
    "encoder_layers": 2,
    "factor": 2,
}
PAPER = {
    "d_model": 512,
    "n_heads": 8,
    "d_ff": 2048,
    "encoder_layers": 2,
    "factor": 3,
    "variant": "tslib",
    "seg_len": 12,
}


def _model(**values: Any) -> Crossformer:
    torch.manual_seed(1)
    return cast("Crossformer", build(config_from({"name": "crossformer"} | SMALL | values)).eval())


def _inputs(model: ForecastModel, batch: int = 4) -> Tensor:
    return torch.randn(batch, model.config.lookback, model.config.channels)


@pytest.mark.parametrize(
    ("values", "parameters"), [(PAPER, 42_176_036), ({}, 11_370_776)], ids=["paper size", "defaults"]
)
def test_parameters(values: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "crossformer", "channels": 7} | values))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    "values",
    [
        {"variant": "tslib", "seg_len": 12},
        {"label_len": 5, "baseline": True},
        {"encoder_layers": 1},
        {"encoder_layers": 4},
        {"encoder_layers": 3, "win_size": 3},
        {"encoder_layers": 3, "win_size": 1},
        {"channels": 1},
        {"factor": 1, "d_model": 15, "n_heads": 3},
        {"n_heads": 3, "head_size": 5},
        {"seg_len": 1},
        {"seg_len": 30},
        {"lookback": 1, "horizon": 1},
    ],
    ids=str,
)
def test_sizes_other_than_published(values: dict[str, Any]) -> None:
    model = _model(**values)
    assert model(_inputs(model)).shape == (4, model.config.horizon, model.config.channels)
    model.train()(_inputs(model)).square().sum().backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert without == set(model.unused_parameters())
    assert not without & set(model.prunable())


def test_the_marks_are_not_used_and_may_be_left_out() -> None:
    model = _model()
    x = _inputs(model)
    assert torch.equal(model(x), model(x, torch.randn(4, 20, 4), torch.randn(4, 99, 4)))
    assert not model.uses_marks
    with pytest.raises(UserError, match=r"x: expected \(batch, 20, 3\), found \(4, 20, 2\)"):
        model(x[:, :, :2])


def test_targets_select_of_a_forecast_that_all_channels_shape() -> None:
    whole, chosen = _model(), _model(targets=(2, 0))
    chosen.load_state_dict(whole.state_dict())
    x = _inputs(whole)
    assert torch.equal(chosen(x), whole(x)[:, :, [2, 0]])
    changed = x.clone()
    changed[:, :, 1] += 1
    assert (chosen(x) - chosen(changed)).abs().min() > 1e-6


@pytest.mark.parametrize(("variant", "end"), [("original", 0), ("tslib", -1)])
def test_a_segment_is_completed_by_repeating_the_value_at_the_variants_end(variant: str, end: int) -> None:
    """A look-back that is already longer by what would be repeated gives the same forecast."""
    short, whole = (_model(variant=variant, lookback=lookback) for lookback in (18, 20))
    whole.load_state_dict(short.state_dict())
    x = _inputs(short)
    edge = x[:, [end, end]]
    torch.testing.assert_close(short(x), whole(torch.cat([edge, x] if end == 0 else [x, edge], dim=1)))


@pytest.mark.parametrize(("variant", "first"), [("original", 0), ("tslib", 1)])
def test_the_variants_cut_whole_segments_at_different_ends(variant: str, first: int) -> None:
    cut, whole = _model(variant=variant), _model(variant=variant, horizon=8)
    whole.load_state_dict(cut.state_dict())
    x = _inputs(cut)
    assert torch.equal(cut(x), whole(x)[:, first : first + 7])


def test_the_baseline_is_the_mean_of_the_look_back() -> None:
    plain, raised = _model(), _model(baseline=True)
    raised.load_state_dict(plain.state_dict())
    x = _inputs(plain)
    torch.testing.assert_close(raised(x) - plain(x), x.mean(1, keepdim=True).expand(-1, 7, -1))


def test_segments_are_merged_in_windows_and_the_last_window_is_filled_from_the_end() -> None:
    merging = SegmentMerging(window=3, width=2, coarser_width=5)
    x = torch.randn(2, 4, 5, 2)
    places = torch.tensor([[0, 1, 2], [3, 4, 4]])
    windows = torch.stack([torch.cat([x[:, :, i] for i in row], dim=2) for row in places], dim=2)
    torch.testing.assert_close(merging(x), merging.linear(merging.norm(windows)))


def test_a_two_stage_layer_is_what_the_paper_says() -> None:
    """Equations 4 to 7: among the segments of a channel, then from channels to routers and back, segment by segment."""
    layer = cast("TwoStageLayer", _model().encoder.layers[0])
    x, stage = torch.randn(2, 3, 5, 8), layer.channel_attention
    time_stage = torch.stack([layer.time_attention(x[:, c], x[:, c]) for c in range(3)], dim=1)
    x_time = layer.norm1(x + time_stage)
    x_time = layer.norm2(x_time + layer.time_feed_forward(x_time))
    channel_stage = []
    for s in range(5):
        at_s = x_time[:, :, s]
        messages = stage.sender(stage.routers[:, s].expand(2, -1, -1), at_s)
        channel_stage.append(stage.receiver(at_s, messages))
    x_both = layer.norm3(x_time + torch.stack(channel_stage, dim=2))
    torch.testing.assert_close(layer(x), layer.norm4(x_both + layer.channel_feed_forward(x_both)))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("many", [1, 99], ids=["fast", "plain"])
def test_attention_along_a_dimension_repeats_what_is_the_same_for_all(
    dim: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MANY", many)
    torch.manual_seed(1)
    layer = Attention(6, 4, heads=2, head_size=3, dropout=0.0).double().train()
    x, memory = torch.randn(1, 5, 7, 6).double(), torch.randn(3, 5, 7, 4).double()
    rows, steps = x.expand(3, -1, -1, -1).transpose(dim, 2), memory.transpose(dim, 2)
    q, k, v = (
        part(tensor).unflatten(3, (2, 3)).transpose(2, 3)
        for part, tensor in ((layer.query, rows), (layer.key, steps), (layer.value, steps))
    )
    expected = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3).transpose(dim, 2)
    torch.testing.assert_close(layer(x, memory, dim=dim), layer.out(expected))


def test_in_training_each_sample_drops_other_things_from_the_first_layer_on() -> None:
    model = _model(dropout=0.3)
    x = _inputs(model, batch=1).expand(2, -1, -1)
    torch.testing.assert_close(*model(x))
    for layer in model.decoder.layers:  # nothing is drawn behind the first self-attention
        layer.cross_attention.dropout.p = layer.dropout.p = 0.0
    for layer in [*model.encoder.layers, *(layer.self_attention for layer in model.decoder.layers[1:])]:
        layer.eval()
    model.decoder.train()
    model.decoder.layers[1:].eval()
    assert not torch.allclose(*model(x))


def test_training_is_the_same_for_the_same_seed() -> None:
    model = _model(dropout=0.3).train()
    x, forecasts = _inputs(model), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        forecasts.append(model(x))
    assert torch.equal(forecasts[0], forecasts[1])
    assert not torch.equal(forecasts[0], forecasts[2])


def test_a_removed_encoder_layer_leaves_its_merging_and_what_is_looked_at() -> None:
    model = _model(encoder_layers=3)
    small = cast("Crossformer", shrink(model, {"encoder.layers": torch.tensor([0, 2])}))
    assert [layer.scale for layer in small.config.encoder_widths.layers] == [0, 2]
    assert [layer.memory for layer in small.config.decoder_widths.layers] == [0, 1, 2, 3]
    assert len(small.encoder.merging) == 2
    finest, middle, coarsest = (memory for memory in small.encoder(_inputs(small))[1:])
    torch.testing.assert_close(middle, small.encoder.merging[0](finest))
    torch.testing.assert_close(coarsest, small.encoder.layers[1](small.encoder.merging[1](middle)))


def test_scales_that_no_decoder_layer_looks_at_are_dead_and_cost_nothing() -> None:
    model = _model(encoder_layers=3)
    small = cast("Crossformer", shrink(model, {"decoder.layers": torch.tensor([1])}))
    assert [layer.memory for layer in small.config.decoder_widths.layers] == [1]
    unread = ("encoder.layers.1.", "encoder.layers.2.", "encoder.merging.")
    assert set(small.unused_parameters()) == {name for name, _ in small.named_parameters() if name.startswith(unread)}
    assert not any(name.startswith(unread) for name in small.prunable())
    assert next(group.unused_units for group in small.groups() if group.name == "encoder.layers") == (1, 2)
    small(_inputs(small)).sum().backward()
    assert all(
        (weight.grad is None) == (name in small.unused_parameters()) for name, weight in small.named_parameters()
    )


def test_what_weighs_a_single_memory_step_is_unused() -> None:
    model = _model(encoder_layers=4, channels=1, factor=1)  # 5, 3, 2, 1 segments
    unused = set(model.unused_parameters())
    assert {"encoder.layers.3.time_attention.query.weight", "decoder.layers.4.cross_attention.key.bias"} <= unused
    assert "encoder.layers.2.time_attention.query.weight" not in unused
    stage = "encoder.layers.0.channel_attention"
    assert {f"{stage}.routers", f"{stage}.sender.key.weight", f"{stage}.receiver.query.weight"} <= unused
    x = _inputs(model)
    forecast = model(x)
    with torch.no_grad():
        for name in unused:
            model.get_parameter(name).normal_()
    torch.testing.assert_close(model(x), forecast)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3}, r"n_heads: expected a divisor of d_model \(8\) or head_size beside it, found 3"),
        ({"win_size": 11}, "win_size: expected at most 10, twice the segments of a scale, found 11"),
        ({"encoder_layers": 3, "win_size": 5}, "win_size: expected at most 2, twice the segments of a scale, found 5"),
        ({"variant": "mine"}, "model.variant: .*found 'mine'"),
        ({"factor": 0}, "model.factor"),
        ({"encoder": {"widths": [8], "layers": [{"scale": 0}]}}, "model.encoder.layers.0"),
        ({"seg_lenn": 4}, "unknown key 'model.seg_lenn'; did you mean 'seg_len'?"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "crossformer"} | SMALL | values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("encoder", {"widths": [8]}, "encoder.widths: expected 2, one for each scale, found 1"),
        ("encoder", {"scale": [1, 0]}, r"encoder.layers: expected rising scales below 2, found \[1, 0\]"),
        ("encoder", {"scale": [0, 2]}, r"encoder.layers: expected rising scales below 2, found \[0, 2\]"),
        ("decoder", {"memory": [0, 3]}, "decoder.layers: expected memories up to 2, found 3"),
    ],
    ids=str,
)
def test_widths_that_do_not_fit_are_refused(part: str, changes: dict[str, list[int]], message: str) -> None:
    model = _model()
    values = model.shrunk_config({}).model_dump(mode="json")
    widths = values[part]
    for key, value in changes.items():
        if key in widths:
            widths[key] = value
        else:
            widths["layers"] = [layer | {key: at} for layer, at in zip(widths["layers"], value, strict=False)]
    with pytest.raises(UserError, match=message) as error:
        config_from(values)
    assert "\n" not in str(error.value)


def test_untrusted_sizes_are_refused_at_once() -> None:
    started = time.perf_counter()
    config_from({"name": "crossformer", "channels": 1, "encoder_layers": 10**12, "lookback": 10**15})
    assert time.perf_counter() - started < 1


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model()
    layer = "encoder.layers.1"
    keep = {
        "encoder.widths.0": torch.tensor([0, 3, 7]),
        "decoder.width": torch.tensor([1, 2]),
        "encoder.layers": torch.tensor([1]),
        f"{layer}.time_attention.heads": torch.tensor([1]),
        f"{layer}.channel_attention.routers": torch.tensor([0]),
        f"{layer}.channel_attention.router_width": torch.tensor([0, 1, 2, 3, 4]),
        f"{layer}.channel_feed_forward.units": torch.tensor([2, 4]),
        "decoder.layers.2.self_attention.channel_attention.sender.heads": torch.tensor([0]),
        "decoder.layers.2.feed_forward.units": torch.tensor([5]),
        "decoder.layers": torch.tensor([0, 2]),
    }
    config = cast("CrossformerConfig", model.shrunk_config(keep))
    assert config_from(config.model_dump(mode="json")) == config
    values = config.model_dump(mode="json")
    full = {"time_heads": 2, "time_d_ff": 6, "sender_heads": 2, "receiver_heads": 2, "routers": 2, "router_width": 8}
    full |= {"channel_d_ff": 6}
    changed = {"time_heads": 1, "routers": 1, "router_width": 5, "channel_d_ff": 2}
    assert values["encoder"] == {"widths": [3, 8], "layers": [full | changed | {"scale": 1}]}
    first, last = ({"memory": memory, "cross_heads": 2, "d_ff": d_ff} for memory, d_ff in ((0, 8), (2, 1)))
    assert values["decoder"] == {"width": 2, "layers": [full | first, full | last | {"sender_heads": 1}]}
    small = build(config)
    assert small(_inputs(small)).shape == (4, 7, 3)


@pytest.mark.slow
@pytest.mark.parametrize("values", [{"variant": "tslib"}, {"win_size": 1, "targets": [2, 0]}], ids=str)
def test_half_of_every_group_goes_through_the_chain(values: dict[str, Any], tmp_path: Path) -> None:
    check_half("crossformer", tmp_path, **values)


def test_prunable_are_the_weights_of_all_linear_layers() -> None:
    model = _model(encoder_layers=1)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set(model.prunable()) == linear
    assert model.output_layer() == ("decoder.layers.0.projection.weight", "decoder.layers.1.projection.weight")


def test_a_structured_pruning_at_paper_size_meets_its_budget() -> None:
    model = build(config_from({"name": "crossformer", "channels": 7} | PAPER)).eval()
    config = PruneConfig(method="structured-magnitude", sparsity=0.5)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    assert abs(pruned.outcome.realised / pruned.outcome.total - 0.5) < 0.001


@pytest.mark.parametrize("source", ["tslib", "original"])
@pytest.mark.parametrize("window", [None, 2, 3])
def test_sizes_are_read_from_a_published_checkpoint(source: str, window: int | None) -> None:
    value = {"tslib": "value_embedding", "original": "linear"}[source]
    first = "encoder.encode_blocks.0.encode_layers.0"
    tensors = {
        "enc_pos_embedding": torch.zeros(1, 7, 4, 16),
        f"enc_value_embedding.{value}.weight": torch.zeros(16, 6),
        f"{first}.MLP1.0.weight": torch.zeros(32, 16),
        f"{first}.router": torch.zeros(4, 3, 16),
        "encoder.encode_blocks.1.encode_layers.0.router": torch.zeros(2, 3, 16),
    }
    if window is not None:
        tensors["encoder.encode_blocks.1.merge_layer.norm.weight"] = torch.zeros(16 * window)
    sizes = {"channels": 7, "seg_len": 6, "d_model": 16, "d_ff": 32, "encoder_layers": 2, "factor": 3}
    assert published("crossformer", source).sizes(tensors) == sizes | {"win_size": window or 1}

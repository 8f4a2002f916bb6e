"""FEDformer beyond its published sizes: shapes, shared blocks, modes, unused weights, widths, mistakes, imports."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.support.half_models import check_half
from torch import Tensor

from prunecast.errors import UserError
from prunecast.export.onnx import MODEL, onnx_bytes, read_model
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.measure.size import measure_size
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published, published_state
from prunecast.models.io import DataSource, ModelMetadata, SavedModel, ScalerFacts, load_model, save_model
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import Statistics
from prunecast.prune.scores import unit_magnitude
from prunecast.prune.shrink import shrink
from prunecast.recipe import PruneConfig

SMALL = {
    "channels": 3,
    "lookback": 12,
    "horizon": 5,
    "label_len": 4,
    "d_model": 8,
    "n_heads": 2,
    "d_ff": 6,
    "modes": 4,
    "moving_avg": 5,
}
ORIGINAL = {"position_embedding": False, "complex_tanh": True, "moving_avg": (4, 7)}
MODES = {
    "encoder.attn_layers.1.attention.inner_correlation.index": [0, 2, 3, 5],
    "decoder.layers.0.self_attention.inner_correlation.index": [0, 1, 2, 4],
    "decoder.layers.0.cross_attention.inner_correlation.index_q": [1, 2, 3, 4],
    "decoder.layers.0.cross_attention.inner_correlation.index_kv": [0, 1, 4, 5],
}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "fedformer"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    x = torch.randn(batch, config.lookback, config.channels)
    x_mark = torch.randn(batch, config.lookback, config.marks)
    return x, x_mark, torch.randn(batch, config.label_len + config.horizon, config.marks)


def _saved(model: ForecastModel) -> SavedModel:
    metadata = ModelMetadata(
        model=model.config.model_dump(mode="json"),
        channels=("a", "b", "c"),
        targets=("a", "b", "c"),
        scaler=ScalerFacts(mean=(0, 0, 0), std=(1, 1, 1)),
        dense_parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=DataSource(name="made-up", sha256="0" * 64),
    )
    return SavedModel(model, metadata)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 22_070_279),
        ({"modes": 32}, 16_827_399),
        # the original counts 16,303,127, complex numbers as one
        ({"position_embedding": False, "complex_tanh": True, "moving_avg": (24,)}, 22_070_295),
    ],
    ids=str,
)
def test_parameters_at_paper_size(values: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "fedformer", "channels": 7} | values))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    projections = [name for name in model.unused_parameters() if ".mixture." not in name]
    assert sum(model.get_parameter(name).numel() for name in projections) == 1_838_592


@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"label_len": 12},
        {"label_len": 1, "horizon": 1},
        {"decoder_layers": 3, "encoder_layers": 3},
        {"d_model": 15, "n_heads": 3},
        {"channels": 1, "activation": "relu"},
        {"n_heads": 3, "head_size": 5},
        {"lookback": 2, "label_len": 1, "horizon": 2},
        {"marks": 0},
        {"modes": 64},
        {"modes": 1, "mode_select": "low"},
        ORIGINAL,
    ],
    ids=str,
)
def test_sizes_other_than_published(values: dict[str, Any]) -> None:
    model = _model(**values)
    forecast = model(*_inputs(model))
    assert forecast.shape == (2, model.config.horizon, model.config.channels)
    model.train()(*_inputs(model)).sum().backward()
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert still == set(model.unused_parameters())


def test_targets_choose_output_channels() -> None:
    whole, some = _model(), _model(targets=(2, 0))
    assert some(*_inputs(some)).shape == (2, 5, 2)
    names = "decoder.projection.weight", "decoder.projection.bias", "decoder.layers.0.trend.weight"
    state = whole.state_dict()
    some.load_state_dict(state | {name: state[name][[2, 0]] for name in names})
    inputs = _inputs(whole)
    torch.testing.assert_close(some(*inputs), whole(*inputs)[..., [2, 0]])


def test_marks_reach_the_forecast_and_may_not_be_left_out() -> None:
    model = _model()
    x, x_mark, y_mark = _inputs(model)
    assert not torch.allclose(model(x, x_mark, y_mark), model(x, x_mark, y_mark + 1))
    with pytest.raises(UserError, match=r"x_mark: expected calendar features \(batch, 12, 4\), found none"):
        model(x)


def test_layers_share_a_block_that_is_stored_once(tmp_path: Path) -> None:
    model = _model(encoder_layers=3)
    state = model.state_dict()
    assert [name for name in state if name.endswith(".index")] == [
        f"fourier.{b}.index" for b in ("encoder", "decoder", "cross")
    ]
    memory = {tensor.data_ptr() for tensor in state.values()}
    assert len(memory) == len(state)
    save_model(_saved(model), tmp_path)
    twin, inputs = copy.deepcopy(model), _inputs(model)
    forecast = model(*inputs)
    with torch.no_grad():
        model.get_parameter("fourier.encoder.weight").zero_()
    assert torch.equal(twin(*inputs), forecast)
    assert not torch.equal(model(*inputs), forecast)
    assert torch.equal(load_model(tmp_path).model(*inputs), forecast)


def test_modes_come_back_with_the_weights() -> None:
    model, other = _model(), build(_model().config).eval()
    assert not all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    other.load_state_dict(model.state_dict())
    inputs = _inputs(model)
    assert torch.equal(other(*inputs), model(*inputs))


def test_dead_weights_do_not_matter_and_are_told_apart() -> None:
    model = _model(decoder_layers=2)
    inputs = _inputs(model)
    forecast, size = model(*inputs), measure_size(_saved(model))
    assert size.dead == (2 + 2) * 2 * 72 + 2 * 72  # key and value of self blocks, value of cross blocks
    assert size.dead + size.prunable < size.parameters
    with torch.no_grad():
        for name in model.unused_parameters():
            model.get_parameter(name).fill_(torch.nan)
    assert torch.equal(model(*inputs), forecast)
    scores = unit_magnitude(model, Statistics(1))
    assert all(score.isfinite().all() for score in scores.values())


def test_what_may_be_pruned() -> None:
    model = _model(moving_avg=(4, 7))
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() > 1 and ".mixture" not in name}
    assert set(model.prunable()) == weights - set(model.unused_parameters())
    assert set(model.output_layer()) <= set(model.prunable())
    blocks = {f"fourier.{block}.weight" for block in ("encoder", "decoder", "cross")}
    assert set(model.paper_candidates()) == set(model.prunable()) - blocks


@pytest.mark.slow
@pytest.mark.parametrize("values", [ORIGINAL, {"targets": (2, 0)}], ids=str)
def test_half_of_everything(tmp_path: Path, values: dict[str, Any]) -> None:
    check_half("fedformer", tmp_path, **values)


def test_modes_can_be_removed_by_a_method() -> None:
    model = _model(d_model=16, lookback=24, horizon=16, modes=8)
    config = PruneConfig(method="structured-magnitude", sparsity=0.15, kinds=("mode",))
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    kept = pruned.outcome.kept_units
    assert kept.keys() == {
        f"fourier.{group}" for group in ("encoder.modes", "decoder.modes", "cross.modes", "cross.key_modes")
    }
    assert all(0 < some < every == 8 for some, every in kept.values())
    for group, (some, _) in kept.items():
        block, _, modes = group.rpartition(".")
        index = f"{block}.index" if modes == "modes" else f"{block}.key_index"
        left, before = (set(m.get_buffer(index).tolist()) for m in (pruned.model, model))
        assert len(left) == some
        assert left < before


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model(encoder_layers=2, decoder_layers=2)
    keep = {
        "fourier.encoder.heads": torch.tensor([1]),
        "fourier.encoder.inputs": torch.tensor([0, 3]),
        "fourier.encoder.modes": torch.tensor([0, 2]),
        "fourier.cross.outputs": torch.tensor([1]),
        "fourier.cross.key_modes": torch.tensor([0, 1, 3]),
        "encoder.width": torch.tensor([0, 3, 7]),
        "encoder.layers": torch.tensor([1]),
    }
    small = shrink(model, keep)
    values = small.config.model_dump(mode="json")
    assert config_from(values) == small.config
    assert values["encoder"] == {"width": 3, "layers": [{"heads": 1, "d_ff": 6}]}
    assert values["fourier"] == {
        "encoder": {"inputs": 2, "outputs": 4, "modes": 2},
        "decoder": {"inputs": 4, "outputs": 4, "modes": 4},
        "cross": {"inputs": 4, "outputs": 1, "modes": 4, "key_modes": 3},
    }
    state = small.state_dict()
    assert state["fourier.encoder.places"].tolist() == [[4, 5, 6, 7]]
    assert state["fourier.encoder.bins"].tolist() == [0, 2]
    assert state["fourier.cross.places"].tolist() == [[1], [5]]
    assert state["encoder.layers.0.attention.out.weight"].shape == (3, 8)  # the layout keeps its width


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modes": 0}, "model.modes"),
        ({"lookback": 1, "label_len": 0}, "model.lookback"),
        ({"mode_select": "high"}, "model.mode_select"),
        ({"n_heads": 3}, r"n_heads: expected a divisor of d_model \(8\) or head_size beside it, found 3"),
        (
            {"encoder": {"width": 8, "layers": [{"heads": 1, "d_ff": 6}, {"heads": 2, "d_ff": 6}]}},
            r"encoder heads: expected the same in all layers, which share a block, found \[1, 2\]",
        ),
        (
            {"encoder": {"width": 8, "layers": [{"heads": 3, "d_ff": 6}, {"heads": 3, "d_ff": 6}]}},
            r"encoder heads: expected at most n_heads \(2\), found 3",
        ),
        (
            {"fourier": {"encoder": {"inputs": 4, "outputs": 5, "modes": 4}}},
            "model.fourier.decoder",
        ),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "fedformer"} | SMALL | values)
    assert "\n" not in str(error.value)


def test_widths_above_the_dense_ones_are_refused() -> None:
    values = shrink(_model(), {"fourier.encoder.modes": torch.tensor([1])}).config.model_dump(mode="json")
    values["fourier"]["encoder"]["outputs"] = 5
    with pytest.raises(UserError, match=r"fourier\.encoder\.outputs: expected at most 4, found 5"):
        config_from(values)


@pytest.mark.parametrize("keep", [{}, {"fourier.encoder.outputs": torch.tensor([1, 2])}], ids=["dense", "pruned"])
def test_an_onnx_file_lacks_what_is_dead_and_nothing_else(tmp_path: Path, keep: dict[str, Tensor]) -> None:
    model = shrink(_model(**ORIGINAL), keep)
    path, inputs = tmp_path / "model.onnx", _inputs(model)
    path.write_bytes(onnx_bytes(_saved(model)))
    file = onnx.load(path)
    stored = {entry.name.removeprefix(MODEL) for entry in file.graph.initializer}
    assert not stored & set(model.unused_parameters())
    read = read_model(path).model
    assert torch.equal(read(*inputs), model(*inputs))
    assert all(not read.get_parameter(name).any() for name in model.unused_parameters())
    assert measure_size(_saved(read)).nonzero == measure_size(_saved(model)).nonzero
    assert {name for name, _ in read.named_parameters()} == {name for name, _ in model.named_parameters()}
    for name in ("fourier.encoder.weight", "fourier.cross.key_index", "decoder.layers.0.cross_attention.key.bias"):
        assert name in stored
        lacking = copy.deepcopy(file)
        lacking.graph.initializer.remove(next(e for e in lacking.graph.initializer if e.name == MODEL + name))
        onnx.save(lacking, path)
        with pytest.raises(UserError, match=f"{name!r} is missing"):
            read_model(path)


def test_modes_of_the_published_model_become_buffers() -> None:
    model = _model()
    known = published("fedformer")
    assert known.modes is not None
    buffers = known.modes(model.config, MODES)
    model.load_state_dict(model.state_dict() | buffers)
    assert model.get_buffer("fourier.encoder.index").tolist() == [0, 2, 3, 5]
    assert model.get_buffer("fourier.cross.key_index").tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder.attn_layers.1.attention.inner_correlation.index": [0, 2, 3]}, "expected 4 different ones below 6"),
        ({"encoder.attn_layers.1.attention.inner_correlation.index": [0, 2, 3, 3]}, "expected 4 different ones"),
        (
            {"decoder.layers.0.self_attention.inner_correlation.index": [0, 1, 2, 5]},
            "expected 4 different ones below 5",
        ),
        ({"encoder.attn_layers.0.attention.inner_correlation.index": [0, 1, 2, 3]}, "expected one list, found 2"),
    ],
    ids=str,
)
def test_modes_that_are_not_the_models_are_refused(changed: dict[str, list[int]], message: str) -> None:
    known = published("fedformer")
    assert known.modes is not None
    with pytest.raises(UserError, match=message):
        known.modes(_model().config, MODES | changed)
    with pytest.raises(UserError, match="expected one list, found 0"):
        known.modes(_model().config, {})


@pytest.mark.parametrize("source", ["tslib", "original"])
def test_modes_are_drawn_as_the_published_code_draws_them(source: str) -> None:
    known, config = published("fedformer", source), _model(lookback=24, horizon=16).config
    assert known.modes is not None
    assert known.drawn_modes is not None
    np.random.seed(2021)
    expected = []
    for steps in (24, 28, 28, 24):  # encoder, decoder, queries and keys of the cross block
        every = list(range(steps // 2))
        np.random.shuffle(every)
        expected.append(sorted(every[:4]))
    drawn = known.drawn_modes(config, 2021)
    assert [*drawn.values()] == expected
    assert known.modes(config, drawn).keys() == {
        "fourier.encoder.index",
        "fourier.decoder.index",
        "fourier.cross.index",
        "fourier.cross.key_index",
    }
    low = known.drawn_modes(_model(mode_select="low").config, 5)
    assert all(modes == [0, 1, 2, 3] for modes in low.values())


def test_layers_with_different_blocks_are_no_fedformer() -> None:
    name = "encoder.attn_layers.{}.attention.inner_correlation.weights1"
    weights = torch.randn(2, 4, 4, 4)
    with pytest.raises(UserError, match=r"layers\.1.*expected the weights that the first layer has"):
        published_state(_model(), {name.format(0): weights, name.format(1): weights + 1})

"""Informer beyond its published sizes: sampling, choice, mixed heads, distilling, variants, widths, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conformance.test_groups import deviation, zeroed
from tests.support.foreign_checkpoints import embedding, filled, layer, linear, norm
from tests.support.half_models import check_half
from tests.support.small_models import small_inputs, small_model
from torch import Tensor

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.export.onnxruntime import RUNTIME
from prunecast.export.parity import check_parity
from prunecast.export.raw import raw_inputs
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, Group, build, config_from
from prunecast.models.convert.convert import published, published_state
from prunecast.models.io import ModelMetadata, SavedModel, ScalerFacts
from prunecast.prune.apply import prune_model
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
    "encoder_layers": 3,
    "factor": 1,
}
ORIGINAL = {"cross_attention": "full", "mix_all": False, "distil_padding": 1, "embedding_bias": True}
VARIANTS = pytest.mark.parametrize("variant", [{}, {"cross_attention": "full"}, ORIGINAL, {"mix": False}], ids=str)


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "informer"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    x = torch.randn(batch, config.lookback, config.channels)
    x_mark = torch.randn(batch, config.lookback, config.marks)
    return x, x_mark, torch.randn(batch, config.label_len + config.horizon, config.marks)


@pytest.mark.parametrize(("variant", "parameters"), [({}, 11_328_007), (ORIGINAL, 11_330_055)], ids=str)
def test_parameters_at_paper_size(variant: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "informer", "channels": 7} | variant))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@VARIANTS
@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"label_len": 12},
        {"decoder_layers": 3, "encoder_layers": 4},
        {"encoder_layers": 1},
        {"distil": False},
        {"d_model": 15, "n_heads": 3},
        {"channels": 1, "activation": "relu", "factor": 40},
        {"n_heads": 3, "head_size": 5},
        {"lookback": 2, "label_len": 1, "horizon": 1},
        {"lookback": 1, "label_len": 0, "horizon": 1},
        {"marks": 0},
    ],
    ids=str,
)
def test_sizes_other_than_published(variant: dict[str, Any], values: dict[str, Any]) -> None:
    model = _model(**variant, **values)
    forecast = model(*_inputs(model))
    assert forecast.shape == (3, model.config.horizon, model.config.channels)
    assert forecast.isfinite().all()
    model.train()(*_inputs(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_targets_choose_output_channels() -> None:
    model = _model(targets=(2, 0))
    assert model(*_inputs(model)).shape == (3, 5, 2)
    assert model.get_parameter("decoder.projection.weight").shape == (2, 8)


def test_marks_reach_the_forecast_and_may_not_be_left_out() -> None:
    model = _model()
    x, x_mark, y_mark = _inputs(model)
    assert not torch.allclose(model(x, x_mark, y_mark), model(x, x_mark, y_mark + 1))
    with pytest.raises(UserError, match=r"x_mark: expected calendar features \(batch, 12, 4\), found none"):
        model(x)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"factor": 0}, "model.factor"),
        ({"distil_padding": 3}, "model.distil_padding"),
        ({"cross_attention": "sparse"}, "model.cross_attention"),
        ({"encoder": {"width": 5, "layers": [{"heads": 1, "d_ff": 2, "places": [0]}]}}, "model.encoder.layers.0"),
        (
            {"encoder": {"width": 5, "layers": [{"heads": 1, "d_ff": 2, "places": [0], "segment": 1}]}}
            | {"encoder_layers": 1},
            r"encoder.layers: expected segments that ascend, all below 1, found \[1\]",
        ),
        (
            {"encoder": {"width": 5, "layers": [{"heads": 1, "d_ff": 2, "places": [2], "segment": 0}]}}
            | {"encoder_layers": 1},
            r"places: expected 1 ascending numbers below 2, found \(2,\)",
        ),
        (
            {"encoder": {"width": 5, "earlier": [4], "layers": [{"heads": 1, "d_ff": 2, "places": [1], "segment": 1}]}}
            | {"encoder_layers": 1, "distil": False},
            "distil: expected true, since encoder.earlier has 1 widths, found false",
        ),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "informer"} | SMALL | values)
    assert "\n" not in str(error.value)


# --- sampling and choice


def test_sampled_keys_are_drawn_once_and_stay() -> None:
    model, other = _model(), _model()
    names = [name for name in model.state_dict() if name.endswith(".sampled")]
    assert [model.state_dict()[name].shape for name in names] == [(12, 3), (7, 2), (5, 2), (9, 3), (9, 2)]
    assert all(model.state_dict()[name].dtype == torch.int64 for name in names)
    inputs = _inputs(model)
    assert torch.equal(model(*inputs), model(*inputs))
    assert torch.equal(model(*inputs), other(*inputs))  # the same seed
    for name in names:
        other.get_buffer(name).random_(0, 5)
    assert not torch.allclose(model(*inputs), other(*inputs))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(*inputs), other(*inputs))


def test_training_samples_anew_only_when_asked() -> None:
    held, anew = _model(dropout=0.0).train(), _model(dropout=0.0, resample=True).train()
    inputs = _inputs(held)
    assert torch.equal(held(*inputs), held(*inputs))
    before = {name: tensor for name, tensor in anew.state_dict().items() if name.endswith("sampled")}
    assert not torch.equal(anew(*inputs), anew(*inputs))
    assert all(torch.equal(anew.get_buffer(name), tensor) for name, tensor in before.items())
    anew.eval()
    assert torch.equal(anew(*inputs), anew(*inputs))
    forecasts = []
    for _ in range(2):
        torch.manual_seed(3)
        forecasts.append(anew.train()(*inputs))
    assert torch.equal(*forecasts)


def test_of_equal_queries_the_first_ones_attend_in_every_runtime(tmp_path: Path) -> None:
    model = _model(horizon=12, factor=2)
    with torch.no_grad():  # a head without weights: all queries and keys are equal
        for part in ("query", "key"):
            model.get_parameter(f"decoder.layers.0.self_attention.{part}.weight").zero_()
    attention = model.get_submodule("decoder.layers.0.self_attention")
    assert attention._chosen(torch.ones(1, 2, 16, 4), torch.ones(1, 2, 16, 4), attention.sampled).tolist() == [
        [list(range(attention.sampling.chosen))] * 2
    ]
    saved = SavedModel(model, _metadata(model))
    path = RUNTIME.export(saved, tmp_path / "model.onnx")
    assert check_parity(saved, "onnxruntime", path, [_batch(model)]).max_deviation < 1e-5


# --- parity where the choice hangs on the last digits


def _metadata(model: ForecastModel) -> ModelMetadata:
    names = tuple(f"c{number}" for number in range(model.config.channels))
    return ModelMetadata(
        model=model.config.model_dump(mode="json"),
        channels=names,
        targets=names,
        scaler=ScalerFacts(mean=(0.0,) * len(names), std=(1.0,) * len(names)),
        dense_parameters=1,
        data=None,
    )


def _batch(model: ForecastModel, size: int = 3) -> Batch:
    x, x_mark, y_mark = _inputs(model, size)
    return Batch(x, torch.zeros(size, model.config.horizon, model.config.outputs), x_mark, y_mark)


def _jump(model: ForecastModel, batch: Batch) -> tuple[Batch, Batch]:
    """Returns two neighbours, equal but for the last digits, between which another query is chosen."""
    other = _batch(model, len(batch.x_BLC))
    low, high = batch.x_BLC, other.x_BLC
    forecast: Callable[[Tensor], Tensor] = lambda x: model(x, batch.x_mark_BLF, batch.y_mark_BTF)  # noqa: E731
    for _ in range(40):
        middle = (low + high) / 2
        if torch.equal(middle, low) or torch.equal(middle, high):
            break
        if (forecast(middle) - forecast(low)).abs().max() > (forecast(high) - forecast(middle)).abs().max():
            high = middle
        else:
            low = middle
    return batch._replace(x_BLC=low), batch._replace(x_BLC=high)


def test_an_export_may_choose_otherwise_where_the_last_digits_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        model = _model()
        low, high = _jump(model, _batch(model, 1))
        assert (low.x_BLC - high.x_BLC).abs().max() < 1e-6
        there = model(high.x_BLC, high.x_mark_BLF, high.y_mark_BTF)
        jump = (there - model(low.x_BLC, low.x_mark_BLF, low.y_mark_BTF)).abs().max().item()
    assert jump > 1e-3

    class Runtime:
        tolerance = RUNTIME.tolerance

        def __init__(self, forecast: Tensor) -> None:
            self.forecast = forecast

        def load(self, path: Path, threads: int) -> Callable[..., Any]:
            return lambda inputs: self.forecast.numpy()

    def parity(forecast: Tensor) -> float:
        table = type("Table", (), {"load": lambda _, name: Runtime(forecast)})()
        monkeypatch.setattr("prunecast.export.parity.RUNTIMES", table)
        return check_parity(SavedModel(model, _metadata(model)), "onnxruntime", Path(), [low]).max_deviation

    assert raw_inputs(_metadata(model), low)["history"] == pytest.approx(low.x_BLC.numpy())
    assert parity(there) < 1e-5
    with pytest.raises(RuntimeError, match="it does not forecast what the model does"):
        parity(there + 0.01)


# --- distilling


def test_each_segment_sees_half_of_the_steps() -> None:
    assert config_from({"name": "informer", "channels": 1, "encoder_layers": 3}).segment_steps == (96, 49, 26)
    original = {"name": "informer", "channels": 1, "encoder_layers": 3} | ORIGINAL
    assert config_from(original).segment_steps == (96, 48, 24)
    assert config_from(original | {"distil": False}).segment_steps == (96,)


# --- pruning


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model(n_heads=4)
    keep = {
        "encoder.width.0": torch.tensor([0, 3, 7]),
        "encoder.width.2": torch.tensor([0, 1, 2, 3]),
        "encoder.layers": torch.tensor([0, 2]),
        "encoder.layers.2.attention.heads": torch.tensor([1, 3]),
        "decoder.layers.0.cross_attention.heads": torch.tensor([3]),
        "decoder.layers.0.feed_forward.units": torch.tensor([2, 4]),
    }
    config = model.shrunk_config(keep)
    assert config_from(config.model_dump(mode="json")) == config
    values = config.model_dump(mode="json")
    assert values["encoder"] == {
        "width": 4,
        "earlier": [3, 8],
        "layers": [
            {"heads": 4, "d_ff": 6, "places": [0, 1, 2, 3], "segment": 0},
            {"heads": 2, "d_ff": 6, "places": [1, 3], "segment": 2},
        ],
    }
    (decoder,) = values["decoder"]["layers"]
    assert (decoder["heads"], decoder["cross_heads"], decoder["cross_places"], decoder["d_ff"]) == (4, 1, [3], 2)
    again = build(config).shrunk_config({"encoder.layers.1.attention.heads": torch.tensor([1])})
    assert again.encoder_widths.layers[1].places == (3,)
    small = build(config)
    assert small(*_inputs(small)).shape == (3, 5, 3)


def test_a_layer_that_goes_takes_its_sampled_keys_along_and_leaves_the_convolutions() -> None:
    model = _model()
    small = shrink(model, {"encoder.layers": torch.tensor([0, 2])})
    for after, before in ((0, 0), (1, 2)):
        name = "encoder.layers.{}.attention.sampled"
        assert torch.equal(small.get_buffer(name.format(after)), model.get_buffer(name.format(before)))
    assert len(small.encoder.distilling) == 2
    lonely = shrink(small, {"encoder.layers": torch.tensor([1])})
    assert lonely.config.encoder_widths.layers[0].segment == 2
    assert lonely(*_inputs(lonely)).shape == (3, 5, 3)


@VARIANTS
@pytest.mark.parametrize("seed", range(4))
def test_zeroed_equals_removed_in_every_variant(variant: dict[str, Any], seed: int) -> None:
    model = small_model("informer", **variant)
    sizes = torch.Generator().manual_seed(seed)
    keep = {}
    for group in model.groups():
        size = int(torch.randint(group.minimum, group.size + 1, (), generator=sizes))
        keep[group.name] = torch.randperm(group.size, generator=sizes)[:size].sort().values
    assert deviation(model, keep) < 1e-10


@pytest.mark.slow
@VARIANTS
def test_half_of_every_group_goes_through_the_chain(variant: dict[str, Any], tmp_path: Path) -> None:
    check_half("informer", tmp_path, **variant)


def _group(model: ForecastModel, name: str) -> Group:
    return next(group for group in model.groups() if group.name == name)


CROSS = "decoder.layers.1.cross_attention.heads"


def test_heads_that_write_before_the_horizon_are_idle() -> None:
    """6 of 15 steps are known and 4 heads lie one after the other: the first writes rows 0 to 3 only."""
    model = small_model("informer")
    assert _group(model, CROSS).unused_units == (0,)
    assert _group(model, "decoder.layers.0.cross_attention.heads").unused_units == ()
    assert _group(model, "decoder.layers.1.self_attention.heads").unused_units == ()
    with torch.no_grad():
        dense = model(*small_inputs())
        for unit in range(4):
            without = zeroed(model, {CROSS: torch.tensor([other for other in range(4) if other != unit])})
            assert torch.equal(without(*small_inputs()), dense) == (unit == 0)
    full = small_model("informer", cross_attention="full")
    assert _group(full, "decoder.layers.1.self_attention.heads").unused_units == (0,)
    assert _group(full, CROSS).unused_units == ()
    assert _group(small_model("informer", mix_all=False), CROSS).unused_units == ()


@pytest.mark.parametrize("method", ["structured-magnitude", "structured-random"])
def test_idle_heads_go_first(method: str) -> None:
    model = small_model("informer").float()
    with torch.no_grad():
        for part in ("query", "key", "value"):
            model.get_parameter(f"decoder.layers.1.cross_attention.{part}.weight")[:6] *= 100
    config = PruneConfig(method=method, sparsity=0.25, kinds=("head",))
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    kept = pruned.model.config.decoder_widths.layers[1].cross_places
    assert len(kept) < 4
    assert 0 not in kept


def test_what_only_idle_heads_read_is_dead(tmp_path: Path) -> None:
    model = small_model("informer", decoder_layers=1).float()
    name = "decoder.layers.0.cross_attention"
    small = shrink(model, {f"{name}.heads": torch.tensor([0])})
    unused = set(small.unused_parameters())
    assert unused == {
        parameter
        for parameter, _ in small.named_parameters()
        if parameter.startswith(("encoder.", name)) and parameter != f"{name}.out.bias"
    }
    assert not set(small.prunable()) & unused
    small.train()(*(part.float() for part in small_inputs())).sum().backward()
    assert {parameter for parameter, weight in small.named_parameters() if weight.grad is None} == unused
    saved = SavedModel(small.eval(), _metadata(small))
    path = RUNTIME.export(saved, tmp_path / "model.onnx")
    assert check_parity(saved, "onnxruntime", path, [_batch(small)]).max_deviation < 1e-5
    inputs = _inputs(small)
    assert torch.equal(RUNTIME.read(path).model(*inputs), small(*inputs))


def test_a_structured_pruning_at_paper_size_meets_its_budget() -> None:
    with torch.random.fork_rng(devices=[]):
        model = build(config_from({"name": "informer", "channels": 7})).eval()
    kinds = ("head", "ffn", "width", "layer")
    config = PruneConfig(method="structured-magnitude", sparsity=0.75, kinds=kinds)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    assert abs(pruned.outcome.realised - pruned.outcome.requested) < 0.05 * pruned.outcome.total


# --- published variants


def original(lookback_layers: int = 2, width: int = 8, d_ff: int = 6) -> dict[str, Tensor]:
    """A state dict with the names and shapes of Informer2020."""
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("enc_embedding", "dec_embedding"):
        shapes |= dict(embedding(part, 3, 4, width))
        shapes |= {
            f"{part}.value_embedding.tokenConv.bias": (width,),
            f"{part}.temporal_embedding.embed.bias": (width,),
        }
    for number in range(lookback_layers):
        shapes |= dict(layer(f"encoder.attn_layers.{number}", ("attention",), width, d_ff))
    for number in range(lookback_layers - 1):
        name = f"encoder.conv_layers.{number}"
        shapes |= {f"{name}.downConv.weight": (width, width, 3), f"{name}.downConv.bias": (width,)} | dict(
            norm(f"{name}.norm", width)
        )
        shapes |= {f"{name}.norm.running_mean": (width,), f"{name}.norm.running_var": (width,)}
        shapes |= {f"{name}.norm.num_batches_tracked": ()}
    shapes |= dict(layer("decoder.layers.0", ("self_attention", "cross_attention"), width, d_ff))
    shapes |= dict((*norm("encoder.norm", width), *norm("decoder.norm", width), *linear("projection", 3, width)))
    return filled(shapes)


def test_the_original_has_its_own_names_biases_padding_and_attention() -> None:
    known, state = published("informer", "original"), original()
    values = known.sizes(state)
    assert values == {
        "channels": 3,
        "marks": 4,
        "d_model": 8,
        "d_ff": 6,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "distil": True,
    }
    config = known.config({"seq_len": 12, "pred_len": 5, "label_len": 4, "factor": 5, "n_heads": 2, "mix": False})
    assert {key: config[key] for key in ORIGINAL} == ORIGINAL
    assert (config["mix"], config["factor"]) == (False, 5)
    model = build(config_from({"name": "informer"} | values | config))
    model.load_state_dict(published_state(model, state, "original"))
    for part, bias in (("value", "value_embedding.tokenConv"), ("calendar", "temporal_embedding.embed")):
        assert torch.equal(model.get_parameter(f"encoder.embedding.{part}.bias"), state[f"enc_embedding.{bias}.bias"])
    variance = model.get_buffer("encoder.distilling.0.norm.variance")
    assert torch.equal(variance, state["encoder.conv_layers.0.norm.running_var"])
    assert torch.equal(model.get_parameter("decoder.projection.weight"), state["projection.weight"])


def test_biases_of_the_embedding_reach_the_tokens() -> None:
    model = _model(**ORIGINAL)
    inputs = _inputs(model)
    before = model(*inputs)
    for part in ("value", "calendar"):
        with torch.no_grad():
            model.get_parameter(f"decoder.embedding.{part}.bias")[0] += 1
        after = model(*inputs)
        assert not torch.allclose(before, after)
        before = after

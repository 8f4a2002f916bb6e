"""Linear maps of every model's layers: dense, or cut in every kind of group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.small_models import TRAINED, small_inputs, small_model
from torch import Tensor, nn

from prunecast.kernels import to_series
from prunecast.models.base import ForecastModel, Layer, LinearMap, linear_map
from prunecast.models.fedformer import FourierAttention, FourierBlock, FourierCrossBlock, FourierWeights, _projected
from prunecast.models.fits import FITS
from prunecast.models.layers.blocks import DataEmbedding
from prunecast.models.layers.decomposition import TrendProjection
from prunecast.models.layers.transforms import BatchNorm, standardised
from prunecast.models.lstm import LSTMLayer
from prunecast.models.sparsetsf import SparseTSF
from prunecast.prune.shrink import shrink

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in TRAINED),
    ("transformer", {"marks": 0}),
    ("informer", {"cross_attention": "full", "mix_all": False, "distil_padding": 1, "embedding_bias": True}),
    ("informer", {"distil": False, "mix": False, "targets": (1,)}),
    ("fedformer", {"complex_tanh": True, "moving_avg": (3, 5), "position_embedding": False}),
    ("autoformer", {"horizon": 8, "targets": (2, 0)}),
    ("crossformer", {"variant": "tslib"}),
    ("fits", {"individual": True}),
    ("sparsetsf", {"model_type": "linear"}),
)
CUTS = ("dense", "units", "all")


def cut_model(name: str, values: dict[str, Any], cut: str, but: str = "") -> ForecastModel:
    """Returns a small model whole, with half of the units of every group but layers gone, or with layers gone too."""
    model = small_model(name, **values)
    keep = {
        group.name: torch.arange(group.size)[-max(group.minimum, -(-group.size // 2)) :]
        for group in model.groups()
        if group.kind != but and (cut == "all" or (cut == "units" and group.kind != "layer"))
    }
    return shrink(model, keep)


def inputs_of(model: ForecastModel, batch: int = 3) -> tuple[Tensor, ...]:
    marks = model.config.marks
    known = model.config.label_len + model.config.horizon
    x, x_mark, y_mark = small_inputs(batch)
    return x, x_mark[..., :marks], y_mark[:, :known, :marks]


def found_maps(model: ForecastModel) -> dict[str, tuple[nn.Module, str, LinearMap]]:
    """Returns name -> module that is listened to, its name, and its map: what layers declare, then linear layers."""
    found: dict[str, tuple[nn.Module, str, LinearMap]] = {}
    for name, module in model.named_modules():
        for label, own in (module.linear_maps() if isinstance(module, Layer) else {}).items():
            found[f"{name}.{label}".strip(".")] = module, name, own
    taken = {f"{name}.{part}".removeprefix(".") for _, name, own in found.values() for part in own.parameters}
    prunable = set(model.prunable())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" in prunable - taken:
            found[name] = module, name, linear_map(module)
    return found


def calls(model: ForecastModel, modules: dict[str, nn.Module], *inputs: Tensor) -> dict[str, list[Any]]:
    """Returns name -> positional arguments and result of each call of the modules that are listened to."""
    heard: dict[str, list[Any]] = {name: [] for name in modules}
    handles = [
        module.register_forward_hook(lambda _, args, result, name=name: heard[name].append((args, result)))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return heard


def expected(module: nn.Module, label: str, args: tuple[Any, ...], result: Any) -> Tensor:
    """Returns what a map's result has to be, (N, O), or (G, N, O), from a call of its module."""
    if isinstance(module, DataEmbedding):
        added = result if module.position is None else result - module.position
        if module.calendar is not None and module.calendar.bias is not None:
            added = added - module.calendar.bias
        return added.flatten(0, 1)
    if isinstance(module, FourierAttention):
        return _of_projection(module, label, args)
    if isinstance(module, nn.Linear | TrendProjection):
        return result.reshape(-1, result.shape[-1])
    if isinstance(module, LSTMLayer):
        return _gates(module, args[0], result)
    if isinstance(module, FITS):
        return _written(module, args[0])
    convolution = module.get_submodule(label)
    assert isinstance(convolution, nn.Conv1d)
    if isinstance(module, SparseTSF):
        series = module.select(args[0])
        series = (series - series.mean(1, keepdim=True)).transpose(1, 2).flatten(0, 1)
        return convolution(series.unsqueeze(1)).reshape(-1, 1)
    ring = torch.cat([args[0][:, -1:], args[0], args[0][:, :1]], dim=1)
    return convolution(ring.mT).mT.flatten(0, 1)


def _of_projection(module: FourierAttention, label: str, args: tuple[Any, ...]) -> Tensor:
    block = module.block
    if label == "query":
        transform, bins, stream = block.transform, block.index, args[0]
    else:
        assert isinstance(block, FourierCrossBlock)
        transform, bins, stream = block.key_transform, block.key_index, args[1]
    parts = _projected(transform.forth(bins), stream, getattr(module, label), block.heads)
    shape = len(stream), transform.forth_PRQ.shape[1] - 1, getattr(module, label).out_features
    places = []
    for part in parts:  # modes lie at their bins, all else is zero
        placed = part.new_zeros(shape)
        placed[:, bins] = part.flatten(2)
        places.append(placed)
    return torch.cat(places, dim=1).flatten(0, 1)


def _gates(module: LSTMLayer, x: Tensor, states: Tensor) -> Tensor:
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    gates = x @ module.input_weight.T + before @ module.recurrent_weight.T + module.bias
    forgetting = gates.chunk(4, dim=2)
    cell = torch.zeros_like(states[:, 0])
    for step in range(x.shape[1]):  # they are the gates: the states follow from them
        i, f, g, o = (gate[:, step] for gate in forgetting)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        torch.testing.assert_close(o.sigmoid() * cell.tanh(), states[:, step])
    return gates.flatten(0, 1)


def _written(module: FITS, x: Tensor) -> Tensor:
    standard, _, _ = standardised(module.select(x), correction=1)
    spectrum = torch.fft.rfft(standard, dim=1)[:, module.read_bins].transpose(1, 2)  # B, O, I
    weight, bias = torch.complex(module.real, module.imaginary), torch.complex(module.real_bias, module.imaginary_bias)
    written = (spectrum.unsqueeze(2) @ weight.mT).squeeze(2) if module.config.individual else spectrum @ weight.T
    by_part = torch.view_as_real(written + bias).permute(1, 3, 0, 2)  # O, P, B, W
    return by_part.flatten(1, 2) if module.config.individual else by_part.flatten(0, 2)


def assert_synthesis(module: FourierWeights, result_GNO: Tensor, output: Tensor) -> None:
    """Asserts that modes which a map gives make the series that the block returns."""
    y = result_GNO.unflatten(0, module.weight.shape[:2]).unflatten(2, (-1, 2)).permute(2, 3, 0, 1, 4)
    bins = module.bins if isinstance(module, FourierBlock) else module.index
    torch.testing.assert_close(module.place(to_series(y.flatten(1, 2).flatten(2), module.transform.back(bins))), output)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_a_map_gives_what_its_layer_adds(name: str, values: dict[str, Any], cut: str) -> None:
    model = cut_model(name, values, cut)
    state = dict(model.named_parameters())
    heard = calls(model, {at: module for module, at, _ in found_maps(model).values()}, *inputs_of(model))
    for full, (module, at, own) in found_maps(model).items():
        assert heard[at], f"{full}: never called"
        weights = own.matrix({part: state[f"{at}.{part}".removeprefix(".")] for part in own.parameters})
        for args, output in heard[at]:
            with torch.no_grad():
                result = own.features(*args) @ weights.mT
                if own.bias is not None:
                    result = result + state[f"{at}.{own.bias}".removeprefix(".")]
                if isinstance(module, FourierWeights):
                    assert_synthesis(module, result, output)
                else:
                    wanted = expected(module, full.removeprefix(at).strip("."), args, output)
                    torch.testing.assert_close(result, wanted if wanted.dim() == 3 else wanted.unsqueeze(0))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_a_matrix_is_its_parameters_in_another_order(name: str, values: dict[str, Any], cut: str) -> None:
    model = cut_model(name, values, cut)
    state = dict(model.named_parameters())
    for full, (_, at, own) in found_maps(model).items():
        weights = {part: state[f"{at}.{part}".removeprefix(".")].detach() for part in own.parameters}
        numbers = {part: torch.arange(weight.numel()).view(weight.shape) for part, weight in weights.items()}
        for tensors in (weights, numbers, {part: weight > 0 for part, weight in weights.items()}):
            matrix = own.matrix(tensors)
            assert matrix.dim() == 3
            assert matrix.numel() == sum(map(torch.numel, weights.values())), full
            back = own.tensors(matrix)
            assert back.keys() == tensors.keys()
            for part, tensor in tensors.items():
                assert back[part].dtype == tensor.dtype
                assert torch.equal(back[part], tensor), (full, part)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_what_is_prunable_is_in_one_map(name: str, values: dict[str, Any], cut: str) -> None:
    model = cut_model(name, values, cut)
    parts = [f"{at}.{part}".removeprefix(".") for _, at, own in found_maps(model).values() for part in own.parameters]
    assert len(parts) == len(set(parts))
    assert set(model.prunable()) <= set(parts)


@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_tokens_of_a_smaller_model_have_the_same_places(name: str, values: dict[str, Any]) -> None:
    """But for routers, which are tokens themselves."""
    model, smaller = small_model(name, **values), cut_model(name, values, "units", but="router")
    inputs = inputs_of(model)
    maps, fewer = found_maps(model), found_maps(smaller)
    heard = calls(model, {at: module for module, at, _ in maps.values()}, *inputs)
    heard_of_smaller = calls(smaller, {at: module for module, at, _ in fewer.values()}, *inputs)
    for full, (_, at, own) in fewer.items():
        pairs = zip(heard[at], heard_of_smaller[at], strict=True)
        for (args, _), (args_of_smaller, _) in pairs:
            with torch.no_grad():
                assert own.features(*args_of_smaller).shape[1] == maps[full][2].features(*args).shape[1], full


def listened(model: ForecastModel) -> dict[str, nn.Module]:
    """Returns what a regression listens to."""
    found = {at: module for module, at, _ in found_maps(model).values()}
    unused = set(model.unused_parameters())
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm | BatchNorm)}
    return found | {name: norm for name, norm in norms.items() if f"{name}.weight" not in unused}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_to_listen_changes_no_forecast(name: str, values: dict[str, Any], cut: str) -> None:
    model = cut_model(name, values, cut)
    with torch.no_grad():
        alone = model(*inputs_of(model))
    modules = listened(model)
    last = calls(model, {**modules, "": model}, *inputs_of(model))[""][0][1]
    torch.testing.assert_close(last, alone)


@pytest.mark.parametrize("batch", [4, 32])
@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_hooks_are_called_alone_and_all_at_once(name: str, values: dict[str, Any], batch: int) -> None:
    model = small_model(name, **values).float()
    inputs = [x.float() for x in inputs_of(model, batch)]
    modules = listened(model)
    kinds = {(type(model.get_submodule(at.rpartition(".")[0])), at.rpartition(".")[2]): at for at in modules}
    for some in (*({one: modules[one]} for one in kinds.values()), modules):
        heard = calls(model, some, *inputs)
        assert not [one for one in some if not heard[one]]

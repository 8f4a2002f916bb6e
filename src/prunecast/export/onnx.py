"""A forecaster as an ONNX graph: from raw units to raw units, weights and model metadata inside the one file.

The graph follows from the model's config alone: it is traced with all weights as inputs, once per config and process,
and each model's weights are then put in by name. Tracing takes seconds, filling in takes milliseconds; and since
nothing was folded, the file still has every weight under its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer
from torch import Tensor, nn

from prunecast.errors import UserError
from prunecast.export.base import (
    BATCH_KEY,
    LESS_OFFSET,
    OFFSET_KEY,
    OLDEST_RUNTIME,
    OPSET,
    RUNTIME_KEY,
    UNNAMED,
    AnotherRuntimes,
)
from prunecast.export.onnx_graph import shapes_of, simplified
from prunecast.export.raw import RawForecaster, offset_of, raw_forecaster
from prunecast.models.base import ForecastModel, blank, config_from, example_inputs
from prunecast.models.io import SavedModel, metadata_from, parse_metadata, with_tensors

INPUTS = ("history", "x_mark", "y_mark")
OUTPUT = "forecast"
METADATA_KEY, SEAL_KEY = "prunecast", "prunecast_sha256"
"""Keys in the file's metadata: of the model metadata, and of the hash of all bytes before it."""

MODEL = "model."
"""What stands before the names of the model's own tensors."""

SCALER = ("mean_C", "std_C", "mean_O", "std_O")
"""Names of the raw forecaster's own buffers."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)

TRANSPOSED, QUANTISED, SCALE = ".T", "_quantized", "_scale"
"""What is added to the name of a weight that lies as products take it: `weight.T` (inputs, outputs), in a graph of
fixed shapes or beside 8 bits; in 8 bits `weight.T_quantized` (inputs, outputs) and `weight.T_scale` (outputs,)."""

FOLDED_NUMBERS = 2**24
"""The most that a constant of a graph of fixed shapes may hold."""


def warm_up() -> None:
    """Traces the smallest graph there is: the exporter builds its tables, which takes seconds, on its first call."""
    smallest = {"name": "repeat", "lookback": 1, "label_len": 0, "horizon": 1, "channels": 1, "marks": 0}
    _graph(config_from(smallest).model_dump_json())


def onnx_bytes(saved: SavedModel, opset: int = OPSET, runtime: str = UNNAMED, batch: int | None = None) -> bytes:
    """Returns the content of the ONNX file of a model: equal for equal models, without a word about this machine.

    `batch` makes a graph of fixed shapes, see `onnx_model`.
    """
    return sealed(onnx_model(saved, opset, batch), runtime)


def onnx_model(
    saved: SavedModel, opset: int = OPSET, batch: int | None = None, *, plain: bool = False
) -> onnx.ModelProto:
    """Returns the graph of a model with its weights and metadata.

    Args:
        saved: the model.
        opset: version of the operators: a key of `OLDEST_RUNTIME`, which says what file format goes with it.
        batch: of all inputs, where the graph is to have fixed shapes and compute none; any when None.
        plain: each linear map as it stands in the model, and not put together for speed.

    Raises:
        UserError: when the model cannot be written in this version.
    """
    model = onnx.ModelProto.FromString(_graph(saved.model.config.model_dump_json(), opset, batch, plain=plain))
    model.ir_version = OLDEST_RUNTIME[opset][0]
    weights = raw_forecaster(saved).state_dict()
    for name in sorted(weights.keys() & _read_by_nodes(model)):
        weight = weights[name].detach().cpu()
        if weight.is_floating_point():  # numbers below the normal range cost time on many processors
            weight = weight.masked_fill(weight.abs() < torch.finfo(weight.dtype).tiny, 0.0)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), name))
    if batch is not None:
        for entry in model.graph.initializer:
            if entry.name.startswith(MODEL):
                transpose(model.graph, entry)
    metadata = saved.metadata.model_dump(mode="json") | {"model": saved.model.config.model_dump(mode="json")}
    properties = {METADATA_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)}
    if offset := offset_of(saved.metadata):
        properties[OFFSET_KEY] = offset.text()
        _rename(model.graph, {name: name + LESS_OFFSET for name in ("history", OUTPUT)})
    if batch is not None:
        properties[BATCH_KEY] = str(batch)
    onnx.helper.set_model_props(model, properties)
    return model


def transpose(graph: onnx.GraphProto, weight: onnx.TensorProto) -> None:
    """Stores a weight (outputs, inputs) as `weight.T` (inputs, outputs) where all that read it transpose it first."""
    outputs = turns(graph, weight.name) if len(weight.dims) == 2 else []
    if outputs:
        values, name = onnx.numpy_helper.to_array(weight), weight.name + TRANSPOSED
        for node in readers(graph, weight.name):
            graph.node.remove(node)
        _rename(graph, dict.fromkeys(outputs, name))
        weight.CopyFrom(onnx.numpy_helper.from_array(values.T.copy(), name))


def turns(graph: onnx.GraphProto, name: str) -> list[str]:
    """Returns what a weight is called after each node that transposes it; nothing where it is also read otherwise."""
    found = readers(graph, name)
    return [node.output[0] for node in found] if all(node.op_type == "Transpose" for node in found) else []


def readers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """Returns the nodes that read a value."""
    return [node for node in graph.node if name in node.input]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives values of a graph other names."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for entry in (*graph.input, *graph.output):
        entry.name = names.get(entry.name, entry.name)


def sealed(model: onnx.ModelProto, runtime: str) -> bytes:
    """Returns the content of a file whose last bytes have the hash of all before them, as one more of its metadata.

    Args:
        model: its graph; takes the name of the runtime into its metadata.
        runtime: that the file is written for; `UNNAMED` is not named.
    """
    if runtime != UNNAMED:
        model.metadata_props.add(key=RUNTIME_KEY, value=runtime)
    content: bytes = model.SerializeToString(deterministic=True)
    return content + _seal(content)


def _seal(content: bytes) -> bytes:
    last = onnx.ModelProto()
    last.metadata_props.add(key=SEAL_KEY, value=hashlib.sha256(content).hexdigest())
    seal: bytes = last.SerializeToString(deterministic=True)
    return seal


def read_model(path: Path, runtime: str | None = None) -> SavedModel:
    """Returns the model inside an ONNX file.

    Args:
        path: of the file.
        runtime: that is to run it; any when None.

    Raises:
        AnotherRuntimes: when the file names another runtime.
        UserError: when it is not an ONNX file, none that Prunecast wrote, or one that was changed since.
    """
    content = _content(path)
    try:
        file = onnx.ModelProto.FromString(content)
        _check_texts(file)
        texts = {entry.key: entry.value for entry in reversed(file.metadata_props)}  # of equal keys the first counts
        if METADATA_KEY not in texts:
            raise UserError(f"{path}: expected an ONNX file that prunecast wrote, found no model metadata in it")
        named = texts.get(RUNTIME_KEY, runtime)
        if runtime is not None and named != runtime:
            raise AnotherRuntimes(f"{path} is for the runtime {named!r}, and {runtime!r} was asked for")
        source = f"{path}: its model metadata"
        metadata = metadata_from(parse_metadata(texts[METADATA_KEY], source), source)
        weights, read = dict(_weights(file, path)), _read_by_nodes(file)
        _check_constants(file, path)
    except (DecodeError, UnicodeDecodeError):  # the latter where a name is no text
        raise UserError(f"{path}: expected an ONNX file, found something else (or a part of one)") from None

    def may_lack(model: ForecastModel) -> Collection[str]:
        return {*model.unused_parameters(), *(name for name, _ in model.named_buffers() if MODEL + name not in read)}

    model = with_tensors(config_from(metadata.model), weights, path, "its model metadata", may_lack)
    length = len(_seal(b""))
    if SEAL_KEY in texts and content[-length:] != _seal(content[:-length]):
        raise UserError(f"{path} is damaged: it does not have the hash that it names; take an intact copy")
    return SavedModel(model.eval(), metadata)


def _read_by_nodes(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.input}


def _check_texts(file: onnx.ModelProto) -> None:
    """Sees to it that names are texts: the parser lets bytes through that are none.

    Raises:
        DecodeError: where one is not.
    """
    names = [name for node in file.graph.node for name in (*node.input, *node.output, node.op_type)]
    names += [entry.name for entry in (*file.graph.initializer, *file.graph.input, *file.graph.output)]
    names += [text for entry in file.metadata_props for text in (entry.key, entry.value)]
    if not all(isinstance(name, str) for name in names):
        raise DecodeError("a name is no text")


def _weights(file: onnx.ModelProto, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yields the model's tensors by name; a weight in 8 bits comes as the numbers (outputs, inputs) it stands for."""
    stored = {entry.name: entry for entry in file.graph.initializer if entry.name.startswith(MODEL)}
    for full, entry in stored.items():
        name, mark, part = full.removeprefix(MODEL).partition(TRANSPOSED + "_")
        if not mark:
            value = _tensor(entry, path)
            yield name.removesuffix(TRANSPOSED), value.T if name.endswith(TRANSPOSED) else value
        elif f"_{part}" == QUANTISED:
            scales = stored.get(MODEL + name + TRANSPOSED + SCALE)
            if scales is None:
                raise UserError(f"{path}: {name}: found 8 bits without their scale; export it again")
            value, scale = _tensor(entry, path), _tensor(scales, path)
            if value.ndim != 2 or scale.shape != value.shape[1:]:
                raise UserError(
                    f"{path}: {name}: expected a scale per output of {tuple(value.shape)}, "
                    f"found {tuple(scale.shape)}; export it again"
                )
            yield name, (value * scale).T


def _check_constants(file: onnx.ModelProto, path: Path) -> None:
    """Sees to it that the graph computes with numbers beside its weights, too; attention takes an infinity as a mask.

    Raises:
        UserError: naming the tensor that holds another.
    """
    for entry in file.graph.initializer:
        if entry.name.startswith(MODEL) or entry.data_type not in _FLOATS:
            continue
        value = _tensor(entry, path)
        bad = ~value.isfinite() if entry.name in SCALER else value.isnan()
        if bad.any():
            raise UserError(f"{path}: {entry.name}: expected finite numbers, found others; export it again")


def _tensor(entry: onnx.TensorProto, path: Path) -> Tensor:
    if entry.data_location == onnx.TensorProto.EXTERNAL:
        raise UserError(f"{path}: expected all weights inside the file, found {entry.name!r} outside; export it again")
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(entry).copy())
    except (TypeError, ValueError) as error:  # TypeError: a type of numbers that torch does not have
        raise UserError(f"{path}: {entry.name}: {error}; export it again") from None


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > 2**31:
            raise UserError(f"{path}: expected an ONNX file, which has at most 2 GB")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


@lru_cache(maxsize=32)
def _graph(config_json: str, opset: int = OPSET, batch: int | None = None, *, plain: bool = False) -> bytes:
    """Returns the serialised graph of a config, without weights, for one batch or any, see `onnx_model`."""
    config = config_from(json.loads(config_json))
    ones = torch.ones(config.channels)
    raw = RawForecaster(blank(config).eval(), ones, ones)
    weights = raw.state_dict()
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            _Functional(raw).eval(),
            # where the batch is free, a size of one would be taken for a constant
            (weights, *example_inputs(config, batch=2 if batch is None else batch)),
            input_names=[*weights, *INPUTS],
            output_names=[OUTPUT],
            dynamic_shapes=None if batch else (dict.fromkeys(weights), *({0: "batch"} for _ in INPUTS)),
            opset_version=opset,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        # all that the whole optimiser does for a second is not worth it: runtimes have their own
        if batch is None:
            optimizer.fold_constants(program.model)
        else:
            optimizer.fold_constants(
                program.model, onnx_shape_inference=True, output_size_limit=FOLDED_NUMBERS, should_fold=_is_fill
            )
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(program.model)
        optimizer.remove_unused_nodes(program.model)
    shapes, model = shapes_of(program.model_proto), _cleaned(program.model_proto)
    if batch is None and not plain:  # with fixed shapes, runtimes do the same by themselves
        model = simplified(model, shapes)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _is_fill(node: ir.Node) -> bool | None:
    """Says of a tensor of equal numbers that it is to be folded, which it is not by itself."""
    return True if node.op_type == "ConstantOfShape" else None


class _Functional(nn.Module):
    """A module that is called with its weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.hidden = (module,)  # in a tuple, so that its weights do not become this module's own

    def forward(self, weights: Mapping[str, Tensor], history: Tensor, x_mark: Tensor, y_mark: Tensor) -> Tensor:
        inputs = (history, x_mark, y_mark)
        forecast: Tensor = torch.func.functional_call(self.hidden[0], dict(weights), inputs, tie_weights=False)
        return forecast


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drops inputs that nothing reads, and all that tells of the tracing: source files, lines, symbolic names."""
    graph = model.graph
    used = _read_by_nodes(model) & set(INPUTS)
    kept = [entry for entry in graph.input if entry.name in used]
    for entries in (graph.input, graph.value_info, graph.metadata_props, model.metadata_props):
        entries.clear()
    graph.input.extend(kept)
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what torch's exporter and ONNX Runtime's quantiser say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

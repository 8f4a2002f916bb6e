"""A forecaster as an ONNX graph: from raw units to raw units, weights and model metadata inside the one file.

The graph follows from the model's config alone: it is traced with all weights as inputs, once per config and process,
and each model's weights are then put in by name. Tracing takes seconds, filling in takes milliseconds; and since
nothing was folded, the file still has every weight under its name.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnxscript import optimizer
from torch import Tensor, nn

from prunecast.errors import UserError
from prunecast.export.raw import RawForecaster, raw_forecaster
from prunecast.models.base import ForecastModel, blank, config_from, example_inputs
from prunecast.models.io import SavedModel, filled, metadata_from, parse_metadata

INPUTS = ("history", "x_mark", "y_mark")
OUTPUT = "forecast"
METADATA_KEY = "prunecast"
"""Key of the model metadata in the file's metadata."""

MODEL = "model."
"""What stands before the names of the model's own tensors."""

TRANSPOSED, QUANTISED, SCALE = ".T", "_quantized", "_scale"
"""What `int8` adds to the name of a weight: `weight.T_quantized` (inputs, outputs) and `weight.T_scale` (outputs,)."""


def warm_up() -> None:
    """Traces the smallest graph there is: the exporter builds its tables, which takes seconds, on its first call."""
    smallest = {"name": "repeat", "lookback": 1, "label_len": 0, "horizon": 1, "channels": 1, "marks": 0}
    _graph(config_from(smallest).model_dump_json())


def onnx_bytes(saved: SavedModel) -> bytes:
    """Returns the content of the ONNX file of a model: equal for equal models, without a word about this machine."""
    model = onnx.ModelProto.FromString(_graph(saved.model.config.model_dump_json()))
    weights = raw_forecaster(saved).state_dict()
    for name in sorted(weights.keys() & _read_by_nodes(model)):
        weight = weights[name].detach().cpu()
        if weight.is_floating_point():  # numbers below the normal range cost time on many processors
            weight = weight.masked_fill(weight.abs() < torch.finfo(weight.dtype).tiny, 0.0)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), name))
    metadata = saved.metadata.model_dump(mode="json") | {"model": saved.model.config.model_dump(mode="json")}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, sort_keys=True, allow_nan=False)})
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def read_model(path: Path) -> SavedModel:
    """Returns the model inside an ONNX file.

    Raises:
        UserError: when it is not an ONNX file, none that Prunecast wrote, or one that was changed since.
    """
    try:
        file = onnx.load(path, load_external_data=False)  # nobody else's path is followed
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except DecodeError:
        raise UserError(f"{path}: expected an ONNX file, found something else (or a part of one)") from None
    texts = [entry.value for entry in file.metadata_props if entry.key == METADATA_KEY]
    if not texts:
        raise UserError(f"{path}: expected an ONNX file that prunecast wrote, found no model metadata in it")
    source = f"{path}: its model metadata"
    metadata = metadata_from(parse_metadata(texts[0], source), source)
    weights, read = dict(_weights(file, path)), _read_by_nodes(file)

    def may_lack(model: ForecastModel) -> Collection[str]:
        return {*model.unused_parameters(), *(name for name, _ in model.named_buffers() if MODEL + name not in read)}

    model = filled(config_from(metadata.model), weights, path, "its model metadata", may_lack)
    return SavedModel(model.eval(), metadata)


def _read_by_nodes(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.input}


def _weights(file: onnx.ModelProto, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yields the model's tensors by name; a weight in 8 bits comes as the numbers (outputs, inputs) it stands for."""
    stored = {entry.name: entry for entry in file.graph.initializer if entry.name.startswith(MODEL)}
    for full, entry in stored.items():
        name, mark, part = full.removeprefix(MODEL).partition(TRANSPOSED + "_")
        if not mark:
            yield name, _tensor(entry, path)
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


def _tensor(entry: onnx.TensorProto, path: Path) -> Tensor:
    if entry.data_location == onnx.TensorProto.EXTERNAL:
        raise UserError(f"{path}: expected all weights inside the file, found {entry.name!r} outside; export it again")
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(entry).copy())
    except (TypeError, ValueError) as error:  # TypeError: a type of numbers that torch does not have
        raise UserError(f"{path}: {entry.name}: {error}; export it again") from None


@lru_cache(maxsize=32)
def _graph(config_json: str) -> bytes:
    """Returns the serialised graph of a config, without weights."""
    config = config_from(json.loads(config_json))
    ones = torch.ones(config.channels)
    raw = RawForecaster(blank(config).eval(), ones, ones)
    weights = raw.state_dict()
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            _Functional(raw).eval(),
            (weights, *example_inputs(config, batch=2)),  # a size of one would be taken for a constant
            input_names=[*weights, *INPUTS],
            output_names=[OUTPUT],
            dynamic_shapes=(dict.fromkeys(weights), *({0: "batch"} for _ in INPUTS)),
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        # all that the whole optimiser does for a second is not worth it: runtimes have their own
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    content: bytes = _cleaned(program.model_proto).SerializeToString(deterministic=True)
    return content


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

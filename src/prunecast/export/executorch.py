"""ExecuTorch with XNNPACK on the processor: one `.pte` file of fixed shapes, for phones and small boards.

The program stands first in the file, as every loader of such files takes it. Behind it stand the model metadata, where
in the program each of the model's tensors lies (those that lie there as something else are added), and a hash of all.
Exporting takes torch; so does the Python package that runs a program, but no device.

O outputs, I inputs of a linear map.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import FixedBatch, Inputs, Offset, Predictor, Quantised, Tolerance, whole_batches
from prunecast.records import Strict

if TYPE_CHECKING:
    from torch import Tensor, fx
    from torch.export import ExportedProgram

    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel
    from prunecast.records import Quantizer

ENDING, HASH_BYTES, LENGTH_BYTES = b"prunecast pte 1\n", 32, 8
"""What such a file ends with: the length of what stands behind the program, the hash of all before, and these words."""

LEAST_FOUND = 64
"""Bytes from which a tensor is looked for in the program; smaller ones are added."""


class ExecuTorch:
    """Runs a program of ExecuTorch, whose products and activations are XNNPACK's."""

    name = "executorch"
    title = "ExecuTorch"
    suffix = ".pte"
    tolerance = Tolerance(1e-4, "float32 sums in another order, fused activation")
    packages = ("executorch", "torch")
    extra = "executorch"
    quantizers: tuple[Quantizer, ...] = ("static", "dynamic")
    fixed_batch: Literal[True] = True

    def needs(self, opset: int | None) -> str:
        """Returns the version that is installed: older runtimes may lack an operator."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"ExecuTorch {version('executorch')} with XNNPACK, with which it was tried, or later"
        except PackageNotFoundError:
            raise MissingExtra("executorch", "executorch") from None

    def start(self) -> None:
        """Imports ExecuTorch, and torch with it."""
        _runtime()

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns None: it runs every model."""
        _runtime()
        return None

    def export(self, saved: SavedModel, path: Path, batch: int | None = None) -> Path:
        """Writes the program for `batch` windows in one call, one when None, whole or not at all, see `Runtime`."""
        _runtime()
        size = batch or 1
        return _written(path, saved, _program(_exported(saved, size)), {}, size)

    def quantised(
        self,
        saved: SavedModel,
        windows: Iterable[Inputs],
        batch: int | None = None,
        quantizer: Quantizer | None = None,
    ) -> Quantised:
        """Returns the model with the products of linear layers in 8 bits, see `Int8Runtime`."""
        _runtime()
        return _Int8(saved, [*windows], batch or 1, dynamic=quantizer == "dynamic")

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the program with the products of linear layers in 8 bits, see `Int8Runtime`."""
        return self.quantised(saved, windows).export(path)

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a file that `export` or a quantised model wrote, see `Runtime`."""
        from prunecast.models.base import config_from
        from prunecast.models.io import SavedModel, metadata_from, parse_metadata, with_tensors

        file = _File.read(path)
        source = f"{path}: its model metadata"
        metadata = metadata_from(parse_metadata(file.facts.metadata, source), source)
        tensors = file.tensors(path)
        model = with_tensors(config_from(metadata.model), tensors, path, "its model metadata")
        return SavedModel(model.eval(), metadata)

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a file of this runtime; it sets ExecuTorch's threads for the whole process."""
        file = _File.read(path)
        runtime = _runtime()
        import torch
        from executorch.extension.pybindings import portable_lib

        with _silent():
            portable_lib._unsafe_reset_threadpool(threads)  # there is no other way to choose their number
            try:
                program = runtime.get().load_program(file.program)
                program.load_method("forward")
            except RuntimeError as error:
                raise UserError(f"{path}: ExecuTorch cannot load it: {str(error).strip().splitlines()[0]}") from None

        def predict(inputs: Inputs) -> NDArray[np.floating]:
            tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in ("history", "x_mark", "y_mark")]
            method = program.load_method("forward")  # loaded already; without the program, its memory would be gone
            forecast: NDArray[np.float32] = method.execute(tensors)[0].numpy().copy()
            return forecast

        offset = Offset.of(file.facts.offset, path)
        return FixedBatch(predict if offset is None else offset.around(predict), file.facts.batch, path)


# From a model to a program


def _exported(saved: SavedModel, batch: int) -> ExportedProgram:
    """Returns the graph of the model from raw units to raw units, for one number of windows."""
    import torch

    from prunecast.export.raw import raw_forecaster
    from prunecast.models.base import example_inputs
    from prunecast.models.io import SavedModel

    module = raw_forecaster(SavedModel(copy.deepcopy(saved.model), saved.metadata))
    for weight in module.parameters():  # numbers below the normal range cost time on many processors
        weight.data.masked_fill_(weight.data.abs() < torch.finfo(weight.dtype).tiny, 0.0)
    for layer in module.modules():  # the lowering knows no buffer that is not in the state dict
        for name, buffer in [*layer.named_buffers(recurse=False)]:
            delattr(layer, name)
            layer.register_buffer(name, buffer)
    with torch.no_grad(), _quiet():
        whole = torch.export.export(module, example_inputs(saved.model.config, batch))
        # ExecuTorch has no kernel for a variance and a mean at once, and no rule that takes them apart
        exported: ExportedProgram = whole.run_decompositions({torch.ops.aten.var_mean.correction: _var_mean})
    return exported


def _var_mean(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(range(x.dim())) if dim is None else dim
    mean = x.mean(dims, keepdim=True)
    count = math.prod(x.shape[axis] for axis in dims)
    variance = (x - mean).square().sum(dims, keepdim=keepdim) / (count - (1 if correction is None else correction))
    return variance, mean if keepdim else x.mean(dims)


def _program(exported: ExportedProgram) -> bytes:
    """Returns the program of a graph: as much of it as XNNPACK takes, the rest by ExecuTorch's own kernels."""
    import torch

    with torch.no_grad(), _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


class _Int8:
    """A model whose linear layers are to be in 8 bits, see `base.Quantised`."""

    def __init__(self, saved: SavedModel, windows: list[Inputs], batch: int, *, dynamic: bool) -> None:
        from prunecast.export.raw import offset_of

        self.saved, self.batch, self.dynamic = saved, batch, dynamic
        self.graph = _exported(saved, batch).module()
        body = {*saved.model.prunable()} - {*saved.model.output_layer()}
        read = [_weight_of(node) for node in self.graph.graph.nodes]
        self.weights = tuple(dict.fromkeys(name for name in read if name in body))
        if not self.weights:
            raise UserError(f"{saved.model.config.name} has no weight that 8 bits could hold; leave out --int8")
        offset = offset_of(saved.metadata)
        taken_off = offset.taken_off if offset else dict
        self.windows = [part for inputs in windows for part in whole_batches(taken_off(inputs), batch)]

    def export(self, path: Path, float32: Collection[str] = ()) -> Path:
        """Writes the program and returns its path."""
        import torch

        chosen = {*self.weights} - {*float32}
        if not chosen:
            return _written(path, self.saved, _program(_exported(self.saved, self.batch)), {}, self.batch)
        with torch.no_grad(), _quiet():
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=self.dynamic)
            quantizer = XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, config)
            quantizer.set_filter_function(lambda node: _weight_of(node) in chosen)
            prepared = prepare_pt2e(copy.deepcopy(self.graph), quantizer)
            for inputs in self.windows:
                prepared(*(torch.from_numpy(inputs[name]) for name in ("history", "x_mark", "y_mark")))
            converted = convert_pt2e(prepared)
            example = tuple(torch.from_numpy(self.windows[0][name]) for name in ("history", "x_mark", "y_mark"))
            program = _program(torch.export.export(converted, example))
        return _written(path, self.saved, program, _in_8_bits(self.graph, converted, chosen), self.batch)


def _weight_of(node: fx.Node) -> str | None:
    """Returns the name, in the model, of the weight that a node multiplies with; None of any other node."""
    import torch

    if node.target is not torch.ops.aten.linear.default:
        return None
    weight: Any = node.args[1]
    return str(weight.target).removeprefix("model.") if getattr(weight, "op", "") == "get_attr" else None


def _in_8_bits(
    before: fx.GraphModule, converted: fx.GraphModule, chosen: Collection[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns of each weight in 8 bits its numbers (O, I) and their scale (O,)."""
    import torch

    names = [_weight_of(node) for node in before.graph.nodes if node.target is torch.ops.aten.linear.default]
    products = [node for node in converted.graph.nodes if node.target is torch.ops.aten.linear.default]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, node in zip(names, products, strict=True):
        if name is not None and name in chosen:
            weight: Any = node.args[1]
            numbers, scale = weight.args[:2]
            found[name] = (attrgetter(numbers.target)(converted), attrgetter(scale.target)(converted).float())
    return found


# The file


class _Facts(Strict):
    """What is said of a program.

    Attributes:
        metadata: of the model, as JSON.
        batch: windows in one call.
        offset: as `Offset.text` has it; None where there is none.
        where: name of a tensor -> where it begins in the program, its shape, and its kind of numbers.
        in_8_bits: names of weights whose numbers stand for others, by a scale for each output.
    """

    metadata: str
    batch: int = Field(ge=1)
    offset: str | None
    where: dict[str, tuple[int, tuple[int, ...], str]]
    in_8_bits: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """What is in a file: the program, what is said of it, and tensors that it does not hold."""

    program: bytes
    facts: _Facts
    added: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> _File:
        """Reads a file whose hash is right.

        Raises:
            UserError: when it is none that Prunecast wrote, or was changed since.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if not content.endswith(ENDING) or len(content) < (fixed := LENGTH_BYTES + HASH_BYTES + len(ENDING)):
            raise UserError(f"{path}: expected an ExecuTorch program that prunecast wrote, found something else")
        hashed, length = content[: -HASH_BYTES - len(ENDING)], int.from_bytes(content[-fixed:][:LENGTH_BYTES], "little")
        if hashlib.sha256(hashed).digest() != content[len(hashed) : -len(ENDING)]:
            raise UserError(f"{path} is damaged: it does not have the hash that it names; take an intact copy")
        from safetensors import SafetensorError
        from safetensors.torch import load

        behind = hashed[-LENGTH_BYTES - length : -LENGTH_BYTES]
        try:
            header = json.loads(behind[8 : 8 + int.from_bytes(behind[:8], "little")])
            facts = _Facts.model_validate_json(header["__metadata__"]["prunecast"])
            return cls(hashed[: -LENGTH_BYTES - length], facts, load(behind))
        except (ValueError, LookupError, TypeError, SafetensorError):
            raise UserError(f"{path}: expected the facts of an export behind its program, found others") from None

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """Returns the model's tensors by name; of a weight in 8 bits the numbers that they stand for."""
        import torch

        try:
            found = {name: value for name, value in self.added.items() if "/" not in name}
            for name, (start, shape, kind) in self.facts.where.items():
                count = int(np.prod(shape))
                values = np.frombuffer(self.program, kind, count, start).reshape(shape)
                found[name] = torch.from_numpy(values.copy())
            for name in self.facts.in_8_bits:
                numbers = found.pop(name) if name in found else self.added[f"{name}/numbers"]
                found[name] = numbers.float() * self.added[f"{name}/scale"].unsqueeze(1)
        except (ValueError, LookupError, TypeError, RuntimeError):
            raise UserError(f"{path}: expected the model's tensors in its program, found others") from None
        return found


def _written(
    path: Path,
    saved: SavedModel,
    program: bytes,
    in_8_bits: Mapping[str, tuple[Tensor, Tensor]],
    batch: int,
) -> Path:
    """Writes program, facts and hash, whole or not at all."""
    from safetensors.torch import save

    from prunecast.export.raw import offset_of
    from prunecast.store import new_file

    where: dict[str, tuple[int, tuple[int, ...], str]] = {}
    added: dict[str, Tensor] = {}
    for name, tensor in sorted(saved.model.state_dict().items()):
        if name in in_8_bits:
            values, added[f"{name}/scale"] = in_8_bits[name]
        else:
            values = tensor.detach().cpu()
        content = values.contiguous().numpy().tobytes()
        start = program.find(content) if len(content) >= LEAST_FOUND else -1
        if start >= 0:
            where[name] = (start, tuple(values.shape), values.numpy().dtype.str)
        else:
            added[f"{name}/numbers" if name in in_8_bits else name] = values.contiguous().clone()
    metadata = saved.metadata.model_dump(mode="json") | {"model": saved.model.config.model_dump(mode="json")}
    offset = offset_of(saved.metadata)
    facts = _Facts(
        metadata=json.dumps(metadata, sort_keys=True, allow_nan=False),
        batch=batch,
        offset=offset.text() if offset else None,
        where=where,
        in_8_bits=tuple(sorted(in_8_bits)),
    )
    behind = save(added, {"prunecast": facts.model_dump_json()})
    hashed = program + behind + len(behind).to_bytes(LENGTH_BYTES, "little")
    with new_file(path, replace=True) as temporary:
        temporary.write_bytes(hashed + hashlib.sha256(hashed).digest() + ENDING)
    return path


# The package


def _runtime() -> Any:
    """Imports ExecuTorch's runtime, or raises MissingExtra."""
    try:
        with _quiet():
            from executorch.runtime import Runtime
    except ModuleNotFoundError:
        raise MissingExtra("executorch", "executorch") from None
    return Runtime


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what ExecuTorch and torch's exporter say about themselves, also from outside Python."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), _silent():
            yield
    finally:
        logging.disable(before)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps what libraries write into the standard error stream of the process from the terminal."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


RUNTIME = ExecuTorch()

"""PyTorch itself, which runs the model folder: as it is, with sparse weights in CSR, and through `torch.compile`.

CSR: the products are MKL's, through `torch.sparse`. One is faster than the dense product of the same shape only where
most weights are zero: on one thread of an AMD EPYC with AVX-512 and 96 tokens, 512 x 512 weights take 506 us dense and
883, 693, 469, 253, 152 us in CSR with 60, 70, 80, 90, 95 % zeros; 2048 x 512 break even at 75 %, 256 x 64 at 85 %,
64 x 64 nowhere. So layers with fewer zeros, and small ones, stay dense.

`torch.compile` takes a C++ compiler on the machine that forecasts, and seconds to a minute before the first forecast of
each batch size: shapes are fixed. Weights are packed into the layout that the processor's fast products read.

O outputs, I inputs, N rows.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunecast.errors import UserError
from prunecast.export.base import Inputs, Predictor, Tolerance

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel
    from prunecast.records import Profile

LEAST_ZEROS, LEAST_SIZE = 0.8, 2**14
"""Share of zeros, and count of weights, from which a layer is held in CSR."""

_COMPILERS = {"darwin": "clang++", "win32": "cl"}
"""By platform; g++ elsewhere."""


class Eager:
    """The runtime that needs no export."""

    name = "eager"
    title = "PyTorch"
    suffix = ""
    tolerance = Tolerance(1e-5, "the same operators; only the scaling to raw units and back is added")
    packages = ("torch", "numba")
    extra = None

    def needs(self, opset: int | None) -> str:
        """Returns what a model folder runs on."""
        return "PyTorch and Prunecast"

    def start(self) -> None:
        """Imports torch and the models."""
        import prunecast.export.raw
        import prunecast.models.io  # noqa: F401 - what `load` needs

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns None: it runs every model."""
        return None

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Raises, since there is nothing to write: this runtime loads the model directory."""
        raise AssertionError("eager loads the model directory; nothing is exported for it")

    def read(self, path: Path) -> SavedModel:
        """Returns the model of a model directory, see `Runtime`."""
        from prunecast.models.io import load_model

        return load_model(path)

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a model directory; it sets the number of torch's threads for the whole process."""
        return predictor_of(self.read(path), threads)

    def profile(self, path: Path, threads: int, inputs: Inputs, calls: int) -> Profile:
        """Returns the time of each of torch's operators without those that it calls, see `ProfilingRuntime`."""
        import torch
        from torch.profiler import ProfilerActivity

        from prunecast.records import OperatorTime, Profile

        predict, whole = self.load(path, threads), []
        predict(inputs)
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(calls):
                clock = time.perf_counter()
                predict(inputs)
                whole.append((time.perf_counter() - clock) * 1e6)
        found = (
            OperatorTime(operator=entry.key, count=entry.count / calls, ms=entry.self_cpu_time_total / calls / 1e3)
            for entry in profiler.key_averages()
        )
        mean = Profile.of([sum(whole) / calls], {})  # torch has sums alone: the whole is a mean as well
        return mean.model_copy(update={"calls": calls, "operators": tuple(sorted(found, key=lambda entry: -entry.ms))})


def predictor_of(
    saved: SavedModel, threads: int, made_fast: Callable[[nn.Module], Callable[..., Any]] | None = None
) -> Predictor:
    """Returns a callable on a model in memory; it sets the number of torch's threads for the whole process.

    Args:
        saved: the model.
        threads: of torch.
        made_fast: what to call in the place of the module from raw units to raw units.
    """
    import torch

    from prunecast.export.raw import offset_of, raw_forecaster

    torch.set_num_threads(threads)
    module, offset = raw_forecaster(saved), offset_of(saved.metadata)
    call: Callable[..., Any] = module if made_fast is None else made_fast(module)

    def predict(inputs: Inputs) -> NDArray[np.floating]:
        tensors = [torch.from_numpy(inputs[name]) for name in ("history", "x_mark", "y_mark")]
        with torch.inference_mode():
            forecast: NDArray[np.floating] = call(*tensors).numpy()
        return forecast

    return offset.around(predict) if offset else predict


class Csr(Eager):
    """Runs a model folder with PyTorch, where it pays by products that read no zero."""

    name = "csr"
    title = "PyTorch, CSR weights"
    tolerance = Tolerance(1e-4, "sparse products add float32 numbers in another order")

    def needs(self, opset: int | None) -> str:
        """Returns what a model folder runs on."""
        return "PyTorch with MKL, and Prunecast"

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why this PyTorch has no fast sparse products, or None when it has them."""
        import torch

        if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
            return None
        return "this PyTorch has no MKL, whose products of CSR weights it would call"

    def sparse_weights(self, model: ForecastModel) -> tuple[str, ...]:
        """Returns the names of the weights that are held in CSR, see `SparseRuntime`."""
        return tuple(f"{name}.weight" for name in _sparse_layers(model, LEAST_ZEROS, LEAST_SIZE))

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a model directory; it sets the number of torch's threads for the whole process."""
        return csr_predictor(self.read(path), threads)


def csr_predictor(
    saved: SavedModel, threads: int, least_zeros: float = LEAST_ZEROS, least_size: int = LEAST_SIZE
) -> Predictor:
    """Returns a callable on a model in memory, whose sparse layers hold CSR from then on.

    Args:
        saved: the model; it is changed.
        threads: of torch, for the whole process.
        least_zeros: share of zeros from which a layer is held in CSR.
        least_size: count of weights from which it is.
    """
    for name, layer in _sparse_layers(saved.model, least_zeros, least_size).items():
        layer.hold_csr()
        saved.model.set_submodule(name, layer)
    return predictor_of(saved, threads)


def _sparse_layers(model: ForecastModel, least_zeros: float, least_size: int) -> dict[str, Any]:
    """Returns by name what may stand in the place of the linear layers for which CSR pays.

    Of some layers others read the weight without calling them. One forecast tells which these are: they stay dense.
    """
    import torch
    from torch import nn

    from prunecast.models.base import example_inputs

    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer.weight.numel() >= least_size
        and int(torch.count_nonzero(layer.weight)) <= (1 - least_zeros) * layer.weight.numel()
    }
    if not layers:
        return {}
    found = {name: _csr_linear()(layer) for name, layer in layers.items()}
    try:
        for name, layer in found.items():
            model.set_submodule(name, layer)
        with torch.no_grad():
            model(*example_inputs(model.config))
    finally:
        for name, dense in layers.items():
            model.set_submodule(name, dense)
    return {name: layer for name, layer in found.items() if layer.is_called and not layer.is_read}


@cache
def _csr_linear() -> type[nn.Module]:
    """Returns the layer's class: torch is imported only when a model is loaded."""
    import torch
    from torch import nn

    class CsrLinear(nn.Module):
        """A linear layer that knows how it is used, and can hold its weight (O, I) in CSR."""

        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.bias, self.held = layer.bias, layer.weight.detach()
            self.is_called = self.is_read = False

        @property
        def weight(self) -> Tensor:
            """The weight, for whoever computes with it without calling this layer."""
            self.is_read = True
            return self.held

        def hold_csr(self) -> None:
            """Gives the zeros away."""
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's CSR calls itself a beta
                self.held = self.held.to_sparse_csr()

        def forward(self, x: Tensor) -> Tensor:
            """Returns (..., O) of (..., I)."""
            return self._product(x, self.bias)

        def without_bias(self, x: Tensor) -> Tensor:
            """Returns the same without the bias."""
            return self._product(x, None)

        def _product(self, x: Tensor, bias_O: Tensor | None) -> Tensor:
            self.is_called = True
            x_IN = x.reshape(-1, x.shape[-1]).mT.contiguous()
            y_ON = self.held @ x_IN if bias_O is None else torch.addmm(bias_O.unsqueeze(1), self.held, x_IN)
            return y_ON.mT.reshape(*x.shape[:-1], -1)

    return CsrLinear


class Compile(Eager):
    """Runs a model folder with what torch's compiler makes of it."""

    name = "compile"
    title = "torch.compile"
    tolerance = Tolerance(1e-4, "float32 sums in another order, fused normalisation and activation")

    def needs(self, opset: int | None) -> str:
        """Returns what a model folder runs on."""
        return "PyTorch, Prunecast and a C++ compiler"

    def start(self) -> None:
        """Imports torch, its compiler and the models, see `Runtime`.

        Raises:
            UserError: where there is no C++ compiler.
        """
        _check_compiler()
        super().start()
        import torch

        _compiled(torch.neg)(torch.zeros(1))  # the compiler is imported when it has something to compile

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns that the C++ compiler is absent, or None where it is there."""
        try:
            _check_compiler()
        except UserError as error:
            return str(error)
        return None

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a model directory; it sets the number of torch's threads for the whole process."""
        _check_compiler()
        return predictor_of(self.read(path), threads, _compiled)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what torch's compiler makes of a function of tensors; it compiles in silence, at the first call."""
    import torch

    # a process may load many models: without isolation, torch gives up at the ninth that shares its code with others
    compiled: Any = partial(torch.compile, function, fullgraph=True, dynamic=False)
    packed = compiled(isolate_recompiles=True, options={"freezing": True})
    plain = compiled(isolate_recompiles=True, options={"pattern_matcher": False})
    chosen: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def call(*tensors: Tensor) -> Any:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes in chosen:
            return chosen[shapes](*tensors)
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            with warnings.catch_warnings(action="ignore"):
                try:
                    chosen[shapes], result = packed, packed(*tensors)
                except RuntimeError:  # its search for attention to fuse fails on Crossformer's, of five dimensions
                    chosen[shapes], result = plain, plain(*tensors)
        finally:
            logging.disable(before)
        return result

    return call


def _check_compiler() -> None:
    """Looks for the C++ compiler that torch would call, and at torch itself.

    Raises:
        UserError: where there is none, or torch is too old.
    """
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"torch.compile needs a C++ compiler, and found no {compiler}; install it, or name one in CXX")
    import torch

    if "isolate_recompiles" not in signature(torch.compile).parameters:
        raise UserError(f"the runtime compile needs PyTorch 2.13 or later, found {torch.__version__}; upgrade torch")


RUNTIME, CSR, COMPILE = Eager(), Csr(), Compile()

"""Multiply-adds of one forecast, counted where torch dispatches them, whatever module asked for them.

Counted are matrix products, convolutions, attention and Fourier transforms; einsum, linear layers and fused modules
arrive here as these. Element-wise work (normalisation, activations, softmax) is not counted, as is usual. A complex
multiply-add is four real ones. A fast Fourier transform of n points is taken as 2.5 n log2(n) real multiply-adds, half
of that when one side is real (Cooley and Tukey 1965; half the usual count of floating-point operations).
A causal mask saves nothing: what is masked is computed and thrown away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _DisableTorchDispatch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from prunecast.measure.size import count_nonzero, real_numbers
from prunecast.models.base import ForecasterConfig, ForecastModel, blank, example_inputs
from prunecast.models.io import SavedModel
from prunecast.records import Operations

FEW_CHANNELS = 32
"""Up to so many a forecast is made of zeros: what torch imports for tensors without values takes seconds once. With
more the forecast itself is dear: 2.3 s for Crossformer with 321 channels, against 0.1 s without values."""

_aten = torch.ops.aten


def count_operations(saved: SavedModel, skips_zeros: bool = False) -> Operations:
    """Returns dense, effective and executed multiply-adds of one forecast (batch 1).

    Args:
        saved: the model; pruned weights are zeros in it.
        skips_zeros: whether the runtime in question leaves out products with a zero weight.
    """
    products = _products(saved.model, example_inputs(saved.model.config), _Counter(saved.model))
    dense = sum(product.macs for product in products)
    effective = sum(product.effective_macs() for product in products)
    return Operations(dense_macs=dense, effective_macs=effective, executed_macs=effective if skips_zeros else dense)


@lru_cache(maxsize=1024)
def dense_macs(config: ForecasterConfig) -> int:
    """Returns the multiply-adds of one forecast (batch 1) of a model of this config."""
    with nullcontext() if config.channels <= FEW_CHANNELS else torch.device("meta"):
        model, inputs = blank(config), example_inputs(config)
    return sum(product.macs for product in _products(model, inputs, _Counter()))


def macs_per_weight(model: ForecastModel) -> Mapping[str, float]:
    """Returns how many multiply-adds of one forecast each number of a parameter takes part in, by parameter name.

    A parameter that is used in parts gets the mean over its numbers; one that is in no product is absent.
    """
    sizes = {name: real_numbers(parameter) for name, parameter in model.named_parameters()}
    total: Counter[str] = Counter()
    for product in _products(model, example_inputs(model.config), _Counter(model)):
        for _, parameters in product.weights:
            together = sum(sizes[name] for name in parameters)
            for name in parameters:
                total[name] += product.macs * sizes[name] // together
    return {name: macs / sizes[name] for name, macs in total.items()}


@dataclass(frozen=True)
class _Product:
    """One counted operation; `weights` are the factors that were computed from parameters alone, and from which."""

    macs: int
    weights: tuple[tuple[Tensor, frozenset[str]], ...]

    def effective_macs(self) -> int:
        """Returns the multiply-adds without a zero weight; each number of a weight is used equally often."""
        macs = self.macs
        for weight, _ in self.weights:  # two where no input takes part
            macs = macs * count_nonzero([weight]) // real_numbers(weight)
        return macs


def _products(model: nn.Module, inputs: Iterable[Tensor], counter: _Counter) -> list[_Product]:
    was_training = model.training
    try:
        # not inference mode: there, composite operators would reach the counter in one piece
        with torch.no_grad(), counter, _Recurrence(counter):
            model.eval()(*inputs)
    finally:
        model.train(was_training)
    return counter.products


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every product and, of a model that it is given, which of its weights are factors.

    A weight often reaches its product as something computed from it: transposed, joined with others, converted.
    `origins` knows such tensors by their memory: the parameters that went into them, none for constants. What a product
    of parameters gives is no weight any more (queries of learned positions, say): no number of it goes when one goes.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[_Product] = []
        self.origins: dict[StorageWeakRef, frozenset[str]] | None = None
        if model is not None:
            self.origins = {_memory(buffer): frozenset() for buffer in model.buffers()}
            self.origins |= {_memory(weight): frozenset([name]) for name, weight in model.named_parameters()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the mode would import torch._dynamo, which takes a second, to keep itself from being compiled

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        shaped = _SHAPED.get(func.overloadpacket)
        out = func(*args, **kwargs) if shaped is None or not args[0].is_meta else shaped(*args)
        macs = _MACS.get(func.overloadpacket)
        if macs is not None:
            self.count(macs(args, out), [args[i] for i in _FACTORS.get(func.overloadpacket, ())])
        self.follow((*args, *kwargs.values()), out, product=macs is not None)
        return out

    def count(self, macs: int, factors: Sequence[Tensor]) -> None:
        """Writes down one product of some factors."""
        if any(factor.is_complex() for factor in factors):
            macs *= 4
        known = self.origins or {}
        weights = ((factor, known.get(_memory(factor))) for factor in factors if known)
        self.products.append(_Product(macs, tuple((factor, names) for factor, names in weights if names)))

    def follow(self, operands: Any, results: Any, product: bool = False) -> None:
        """Writes down what the results of an operator come from."""
        if self.origins is None:
            return
        sources = [self.origins.get(_memory(operand)) for operand in _tensors(operands)]
        known = None if None in sources else frozenset[str]().union(*(names for names in sources if names))
        if product and known:
            known = None
        for result in _tensors(results):
            if known is None:
                self.origins.pop(_memory(result), None)  # written in place: no constant any more
            else:
                self.origins[_memory(result)] = known


class _Recurrence(TorchFunctionMode):
    """Counts a whole recurrent layer at once, where it is called: dispatched it would be one unknown operator on the
    processor, and thousands of small ones elsewhere.
    """

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func != torch.lstm:
            return func(*args, **(kwargs or {}))
        rows, states, weights = args[0], args[1], args[2]
        for weight in weights:
            if weight.dim() == 2:  # biases are none
                self.counter.count(rows.shape[0] * rows.shape[1] * weight.numel(), [weight])
        # what the operator is made of would be counted again; torch has no public way to switch a dispatch mode off
        with _DisableTorchDispatch():
            if rows.is_meta:  # tensors of the shapes of the results, of a layer in one direction
                output = rows.new_empty(*rows.shape[:2], states[0].shape[2])
                results = (output, *(torch.empty_like(state) for state in states))
            else:
                results = func(*args, **(kwargs or {}))
        self.counter.follow([rows], results)
        return results


def _memory(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _tensors(values: Any) -> list[Tensor]:
    """Returns the tensors in an operator's arguments or results: alone, or in a list or tuple."""
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return [values] if isinstance(values, Tensor) else []


_Macs = Callable[[tuple[Any, ...], Any], int]
"""(arguments, result) -> multiply-adds."""


def _matrix_product(left: int) -> _Macs:
    """Of an operator whose argument `left` is the left factor."""
    return lambda args, out: int(out.numel() * args[left].shape[-1])


def _convolution(args: tuple[Any, ...], out: Tensor) -> int:
    image, weight, transposed = args[0], args[1], args[6]
    return int((image if transposed else out).numel() * weight[0].numel())


def _attention(args: tuple[Any, ...], out: tuple[Tensor, ...]) -> int:
    query, steps = args[0], args[1].shape[-2]
    return int((query.numel() + out[0].numel()) * steps)


def _fourier(args: tuple[Any, ...], out: Tensor) -> int:
    longer: Tensor = max(args[0], out, key=Tensor.numel)  # the real side of a real transform has all points
    points = math.prod(longer.shape[dim] for dim in args[1])
    both_complex = args[0].is_complex() and out.is_complex()
    return round(longer.numel() * math.log2(points) * (2.5 if both_complex else 1.25))


def _shapes_of_norm(x: Tensor, over: Sequence[int], *_: Any) -> tuple[Tensor, ...]:
    rows = x.shape[: x.dim() - len(over)]
    return x.new_empty(x.shape), *(x.new_empty(*rows, *(1 for _ in over)) for _ in range(2))


_SHAPED: Mapping[Any, Callable[..., Any]] = {
    _aten.addmm: lambda _, left, right: left.new_empty(left.shape[0], right.shape[1]),
    _aten.native_layer_norm: _shapes_of_norm,
    _aten.gelu: lambda x: x.new_empty(x.shape),
}
"""Operators without values, by shape alone: torch's own way there is written in Python and takes a millisecond each."""

_FACTORS: Mapping[Any, tuple[int, int]] = {
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.mv: (0, 1),
    _aten.dot: (0, 1),
    _aten.addmm: (1, 2),
    _aten.baddbmm: (1, 2),
    _aten.addmv: (1, 2),
    _aten.convolution: (0, 1),
}
"""Which arguments are multiplied; one of them may be a weight. Attention and Fourier transforms have none."""

_MACS: Mapping[Any, _Macs] = {
    **{operator: _matrix_product(left) for operator, (left, _) in _FACTORS.items()},
    _aten.convolution: _convolution,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention: _attention,
    _aten._scaled_dot_product_efficient_attention: _attention,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention,
    _aten._fft_r2c: _fourier,
    _aten._fft_c2r: _fourier,
    _aten._fft_c2c: _fourier,
}

"""From a forecaster to a program: torch's own export, then each of its operators in words of the intermediate form.

What depends on weights alone is computed here, once. What a model's export names and this table does not know is
refused by its name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from prunecast.errors import UserError
from prunecast.export.c.program import ARGUMENTS, RESULT, Code, Numbers, Operation, Program
from prunecast.export.raw import RawForecaster, raw_forecaster
from prunecast.models.base import ForecastModel, blank, config_from, example_inputs
from prunecast.models.io import SavedModel

LARGEST = float(np.finfo(np.float32).max)
"""What stands for an infinity: the C computes with finite numbers only."""

SAME = ("clone", "detach", "alias", "contiguous", "dropout", "_to_copy")
"""Operators that change no number."""

OF_TWO = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "maximum": "maximum", "gt": "greater"}
OF_ONE = ("neg", "square", "sqrt", "rsqrt", "exp", "tanh", "sigmoid", "relu", "abs")
FILLS = {"new_zeros": 0.0, "zeros_like": 0.0, "new_ones": 1.0, "ones_like": 1.0}
OVER_DIMENSIONS = {"sum": "sum", "mean": "mean", "amax": "max"}


def lower(saved: SavedModel) -> Program:
    """Returns the program of a model from raw units less their offset to the same, for one window.

    Raises:
        UserError: naming an operator that it does not know.
    """
    return _Lowering(_exported(saved.model.config.model_dump_json()), raw_forecaster(saved).state_dict()).program()


def lower_model(model: ForecastModel) -> Program:
    """Returns the program of a model whose values are standardised already, see `lower`."""
    zeros, ones = torch.zeros(model.config.channels), torch.ones(model.config.channels)
    return _Lowering(
        _exported(model.config.model_dump_json()), RawForecaster(model, zeros, ones).state_dict()
    ).program()


@lru_cache(maxsize=16)
def _exported(config_json: str) -> ExportedProgram:
    """Returns the graph of a config: it is the same for all weights, and takes seconds."""
    config = config_from(json.loads(config_json))
    zeros, ones = torch.zeros(config.channels), torch.ones(config.channels)  # two: one tensor would have one name
    module = RawForecaster(blank(config).float().eval(), zeros, ones).eval()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        # without any of the decompositions, products, norms and activations stay whole
        found: ExportedProgram = torch.export.export(module, example_inputs(config)).run_decompositions({})
    return found


class _Lowering:
    """The way from a graph to a program: what is known of each node so far.

    Attributes:
        known: node -> its tensor, where that depends on no input.
        names: node -> the name of its value.
        parts: node -> the names of its values, where it gives several.
    """

    def __init__(self, exported: ExportedProgram, weights: Mapping[str, Tensor]) -> None:
        self.exported, self.weights = exported, weights
        self.known: dict[torch.fx.Node, Any] = {}
        self.names: dict[torch.fx.Node, str] = {}
        self.parts: dict[torch.fx.Node, list[str]] = {}
        self.constants: dict[str, Numbers] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.operations: list[Operation] = []
        self.counter = count()

    def program(self) -> Program:
        """Returns the whole program."""
        signature = self.exported.graph_signature
        tensors = signature.inputs_to_parameters | signature.inputs_to_buffers
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                if node.name in ARGUMENTS:
                    self.names[node] = node.name
                    self.shapes[node.name] = self.inputs[node.name] = tuple(node.meta["val"].shape)
                elif node.name in tensors:
                    self.known[node] = self._tensor(tensors[node.name])
                else:
                    self.known[node] = self.exported.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                [result] = node.args[0]
                self._give(self._name(result))
        return self._without_unread()

    def _tensor(self, name: str) -> Tensor:
        if name in self.weights:
            return self.weights[name].detach()
        constant: Tensor = self.exported.constants[name]  # a buffer that is not in the state dict
        return constant

    def _give(self, name: str) -> None:
        self.operations.append(Operation(op="reshape", inputs=(name,), output=RESULT, numbers=self.shapes[name]))

    def _without_unread(self) -> Program:
        read, kept = {RESULT}, []
        for operation in reversed(self.operations):
            if operation.output in read:
                kept.append(operation)
                read.update(operation.inputs)
        inputs = {name: shape for name, shape in self.inputs.items() if name in read}
        code = Code(inputs=inputs, operations=tuple(reversed(kept)))
        return Program(code, {name: value for name, value in self.constants.items() if name in read})

    # names and values

    def _name(self, node: Any) -> str:
        """Returns the name of a node's value, or of a constant that it is."""
        if not isinstance(node, torch.fx.Node):
            return self._constant(torch.tensor(float(node)))
        if node not in self.names:
            self.names[node] = self._constant(self.known[node])
        return self.names[node]

    def _constant(self, tensor: Tensor) -> str:
        value = np.ascontiguousarray(tensor.detach().to(torch.float32).clamp(-LARGEST, LARGEST).numpy())
        value = np.where(np.abs(value) < np.finfo(np.float32).tiny, np.float32(0), value)  # these cost time
        name = f"c{len(self.constants)}"
        self.constants[name], self.shapes[name] = value, value.shape
        return name

    def _add(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], numbers: Iterable[int] = (), value: float = 0.0
    ) -> str:
        """Adds an operation and returns the name of its value."""
        name = f"v{next(self.counter)}"
        operation = Operation.model_validate(
            {"op": op, "inputs": tuple(inputs), "output": name, "numbers": tuple(numbers), "value": value}
        )
        self.operations.append(operation)
        self.shapes[name] = tuple(shape)
        return name

    def _reshape(self, name: str, shape: Sequence[int]) -> str:
        return name if self.shapes[name] == tuple(shape) else self._add("reshape", [name], shape, shape)

    def _slice(self, name: str, dim: int, start: int, count: int, step: int = 1) -> str:
        shape = [*self.shapes[name]]
        if (start, count, step) == (0, shape[dim], 1):
            return name
        shape[dim] = count
        return self._add("slice", [name], shape, (dim, start, count, step))

    def _permute(self, name: str, order: Sequence[int]) -> str:
        if [*order] == [*range(len(order))]:
            return name
        return self._add("permute", [name], [self.shapes[name][dim] for dim in order], order)

    def _concat(self, names: Sequence[str], dim: int) -> str:
        shape = [*self.shapes[names[0]]]
        shape[dim] = sum(self.shapes[name][dim] for name in names)
        return names[0] if len(names) == 1 else self._add("concat", names, shape, [dim])

    # operators

    def _call(self, node: Any) -> None:
        """Adds what one node of the graph does."""
        arguments = torch.fx.node.map_arg((node.args, node.kwargs), lambda argument: argument)
        nodes = node.all_input_nodes
        if all(argument in self.known for argument in nodes):
            args, kwargs = torch.fx.node.map_arg(arguments, lambda argument: self.known[argument])
            assert callable(node.target)
            self.known[node] = node.target(*args, **kwargs)
            return
        if getattr(node.target, "__name__", "") == "getitem":
            source, index = node.args
            self.names[node] = self.parts[source][index]
            return
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        shape = tuple(node.meta["val"].shape) if isinstance(node.meta["val"], Tensor) else ()
        if name in FILLS:  # of the input they take the shape alone
            self.known[node] = torch.full(shape, FILLS[name])
        elif name in OF_TWO:
            self.names[node] = self._by_two(OF_TWO[name], node, shape)
        elif name in OF_ONE:
            self.names[node] = self._add(name, [self._name(node.args[0])], shape)
        elif name in OVER_DIMENSIONS:
            self.names[node] = self._reduced(OVER_DIMENSIONS[name], node, shape)
        elif name in SAME:
            self.names[node] = self._name(node.args[0])
        elif name in {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten"}:
            self.names[node] = self._reshape(self._name(node.args[0]), shape)
        elif (handler := _HANDLERS.get(name)) is not None:
            found = handler(self, node, shape)
            if isinstance(found, str):
                self.names[node] = found
            else:
                self.parts[node] = found
        else:
            raise UserError(f"the runtime 'c' has no operator {str(node.target)!r}, which this model needs")

    def _by_two(self, op: str, node: Any, shape: Sequence[int]) -> str:
        x, y = node.args[:2]
        if alpha := node.kwargs.get("alpha"):
            assert not isinstance(y, torch.fx.Node) or y in self.known, "a factor of what is added"
            y = self._constant(torch.as_tensor(self.known.get(y, y)) * alpha)
            return self._add(op, [self._name(x), y], shape)
        assert node.kwargs.get("rounding_mode") is None, "a division that rounds"
        return self._add(op, [self._name(x), self._name(y)], shape)

    def _reduced(self, op: str, node: Any, shape: Sequence[int]) -> str:
        name = self._name(node.args[0])
        whole = self.shapes[name]
        dims = [dim % len(whole) for dim in (node.args[1] if len(node.args) > 1 else range(len(whole)))]
        kept = [1 if dim in dims else size for dim, size in enumerate(whole)]
        return self._reshape(self._add(op, [name], kept, dims), shape)

    def _dim(self, node: Any, position: int = 1) -> int:
        dim: Any = node.args[position] if len(node.args) > position else 0
        return int(dim) % len(node.args[0].meta["val"].shape)


def _slice(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    name, dim = to._name(node.args[0]), to._dim(node)
    start, stop, step = (node.args[position] if len(node.args) > position else None for position in (2, 3, 4))
    first, _, by = slice(start, stop, step).indices(to.shapes[name][dim])
    return to._slice(name, dim, first, shape[dim], by)


def _select(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    name, dim = to._name(node.args[0]), to._dim(node)
    index = int(node.args[2]) % to.shapes[name][dim]
    return to._reshape(to._slice(name, dim, index, 1), shape)


def _unbind(to: _Lowering, node: Any, shape: tuple[int, ...]) -> list[str]:
    name, dim = to._name(node.args[0]), to._dim(node)
    whole = to.shapes[name]
    rest = (*whole[:dim], *whole[dim + 1 :])
    return [to._reshape(to._slice(name, dim, index, 1), rest) for index in range(whole[dim])]


def _split(to: _Lowering, node: Any, shape: tuple[int, ...]) -> list[str]:
    name, dim = to._name(node.args[0]), to._dim(node, 2)
    size, asked = to.shapes[name][dim], node.args[1]
    sizes = asked if not isinstance(asked, int) else [min(asked, size - at) for at in range(0, size, asked)]
    starts = np.cumsum([0, *sizes])
    return [to._slice(name, dim, int(start), int(one)) for start, one in zip(starts, sizes, strict=False)]


def _flip(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    name = to._name(node.args[0])
    for dim in node.args[1]:
        size = to.shapes[name][dim]
        name = to._slice(name, dim % len(shape), size - 1, size, -1)
    return name


def _transpose(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    order = [*range(len(shape))]
    one, other = to._dim(node, 1), to._dim(node, 2)
    order[one], order[other] = order[other], order[one]
    return to._permute(to._name(node.args[0]), order)


def _permute(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    return to._permute(to._name(node.args[0]), [dim % len(shape) for dim in node.args[1]])


def _expand(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    name = to._name(node.args[0])
    name = to._reshape(name, (*(1,) * (len(shape) - len(to.shapes[name])), *to.shapes[name]))
    return name if to.shapes[name] == shape else to._add("expand", [name], shape, shape)


def _repeat(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    name = to._name(node.args[0])
    times: Any = node.args[1]
    sizes = (*(1,) * (len(times) - len(to.shapes[name])), *to.shapes[name])
    apart = [size for one in sizes for size in (1, one)]
    wide = [size for pair in zip(times, sizes, strict=True) for size in pair]
    return to._reshape(to._add("expand", [to._reshape(name, apart)], wide, wide), shape)


def _cat(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    parts: Any = node.args[0]
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    return to._concat([to._name(part) for part in parts], int(dim) % len(shape))


def _stack(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    parts: Any = node.args[0]
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    dim = int(dim) % len(shape)
    one = (*shape[:dim], 1, *shape[dim + 1 :])
    return to._concat([to._reshape(to._name(part), one) for part in parts], dim)


def _index(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    indices: Any = node.args[1]
    chosen = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(chosen) != 1 or chosen[0][1] not in to.known or to.known[chosen[0][1]].dim() != 1:
        raise UserError("the runtime 'c' chooses along one dimension, by constants; this model needs more")
    dim, index = chosen[0]
    return to._add("take", [to._name(node.args[0])], shape, (dim, *to.known[index].tolist()))


def _index_select(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    index: Any = node.args[2]
    return to._add("take", [to._name(node.args[0])], shape, (to._dim(node), *to.known[index].tolist()))


def _gather(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    return to._add("gather", [to._name(node.args[0]), to._name(node.args[2])], shape, [to._dim(node)])


def _scatter(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    names = [to._name(node.args[position]) for position in (0, 2, 3)]
    return to._add("scatter", names, shape, [to._dim(node)])


def _top(to: _Lowering, node: Any, shape: tuple[int, ...]) -> list[str]:
    name, number = to._name(node.args[0]), int(node.args[1])
    dim: Any = node.args[2] if len(node.args) > 2 else -1
    dim = int(dim) % len(to.shapes[name])
    sizes = [number if at == dim else size for at, size in enumerate(to.shapes[name])]
    index = to._add("top", [name], sizes, [dim, number])
    return [to._add("gather", [name, index], sizes, [dim]), index]


def _softmax(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    return to._add("softmax", [to._name(node.args[0])], shape, [to._dim(node)])


def _cumsum(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    return to._add("cumsum", [to._name(node.args[0])], shape, [to._dim(node)])


def _masked_fill(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    return to._add("where", [to._name(node.args[position]) for position in (1, 2, 0)], shape)


def _gelu(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    if node.kwargs.get("approximate", "none") != "none":
        raise UserError("the runtime 'c' computes gelu with erf; this model asks for an approximation")
    return to._add("gelu", [to._name(node.args[0])], shape)


def _elu(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    assert node.args[1:] in ((), (1.0,)), "a scaled elu"
    return to._add("elu", [to._name(node.args[0])], shape)


def _layer_norm(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    x, normalised, weight, bias, epsilon = (*node.args, *(None,) * 5)[:5]
    size: Any = normalised
    assert len(size) == 1, "a norm over the last dimension"
    given = [
        to._constant(fill(*size)) if part is None else to._name(part)
        for part, fill in ((weight, torch.ones), (bias, torch.zeros))
    ]
    return to._add("layer_norm", [to._name(x), *given], shape, value=1e-5 if epsilon is None else float(epsilon))


def _linear(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    if node.args[1] not in to.known:
        raise UserError("the runtime 'c' has no linear map whose weight is computed from the inputs")
    return to._add("linear", [to._name(part) for part in node.args if part is not None], shape)


def _matmul(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    """A product with a constant matrix is a linear map; of others, the dimensions before the last two become equal."""
    x, y = node.args[:2]
    if y in to.known and to.known[y].dim() == 2:
        return to._add("linear", [to._name(x), to._constant(to.known[y].mT)], shape)
    if x in to.known and to.known[x].dim() == 2:
        name, last = to._name(y), len(shape) - 1
        swap = [*range(last - 1), last, last - 1]
        turned = to._permute(name, swap)
        sizes = (*(to.shapes[turned][:-1]), shape[-2])
        return to._permute(to._add("linear", [turned, to._constant(to.known[x])], sizes), swap)
    names = []
    for part in (x, y):
        name = to._name(part)
        assert len(to.shapes[name]) > 1, "a product of matrices"
        batch = (*shape[:-2], *to.shapes[name][-2:])
        name = to._reshape(name, (*(1,) * (len(shape) - len(to.shapes[name])), *to.shapes[name]))
        names.append(name if to.shapes[name] == batch else to._add("expand", [name], batch, batch))
    return to._add("matmul", names, shape)


def _convolution(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    """A convolution is a linear map of shifted copies, one for each of its taps."""
    x, weight, bias, stride, padding, dilation, groups = (*node.args, *(None,) * 7)[:7]
    if weight not in to.known or (dilation or [1])[0] != 1 or (groups or 1) != 1:
        raise UserError("the runtime 'c' has no convolution with dilation or groups; this model needs one")
    kernel, step = to.known[weight], (stride or [1])[0]
    x_BLC, pad = to._permute(to._name(x), [0, 2, 1]), (padding or [0])[0]
    if pad:
        edge = to._constant(torch.zeros(shape[0], pad, kernel.shape[1]))
        x_BLC = to._concat([edge, x_BLC, edge], 1)
    taps = [to._slice(x_BLC, 1, tap, shape[2], step) for tap in range(kernel.shape[2])]
    by_tap = to._constant(kernel.permute(0, 2, 1).flatten(1))
    inputs = [to._concat(taps, 2), by_tap, *([] if bias is None else [to._name(bias)])]
    return to._permute(to._add("linear", inputs, (shape[0], shape[2], shape[1])), [0, 2, 1])


def _max_pool(to: _Lowering, node: Any, shape: tuple[int, ...]) -> str:
    """The largest of a few neighbours is the larger of shifted copies."""
    x, kernel, stride, padding = (*node.args, None, None, None)[:4]
    name = to._name(x)
    for dim, size, step, pad in zip((2, 3), kernel, stride or kernel, padding or (0, 0), strict=True):
        if pad:
            sizes = [pad if at == dim else one for at, one in enumerate(to.shapes[name])]
            edge = to._constant(torch.full(sizes, -LARGEST))
            name = to._concat([edge, name, edge], dim)
        taps = [to._slice(name, dim, tap, shape[dim], step) for tap in range(size)]
        name = taps[0]
        for tap in taps[1:]:
            name = to._add("maximum", [name, tap], to.shapes[tap])
    return name


def _lstm(to: _Lowering, node: Any, shape: tuple[int, ...]) -> list[str]:
    """The products with the inputs of all steps come first, as one; the operator has what follows step by step."""
    x, state, weights, has_bias, layers, _, _, two_ways, batch_first = node.args[:9]
    start: Any = state
    if two_ways or not batch_first or layers != 1 or any(bool(to.known[part].any()) for part in start):
        raise UserError("the runtime 'c' has an LSTM of one layer, one direction, from zeros; this model has another")
    name, given = to._name(x), [*weights]
    by_input = [name, to._name(given[0])]
    if has_bias:
        by_input.append(to._constant(to.known[given[2]] + to.known[given[3]]))
    _, length, _ = to.shapes[name]
    hidden = to.known[given[1]].shape[1]
    gates = to._add("linear", by_input, (1, length, 4 * hidden))
    found = to._add("lstm", [to._reshape(gates, (length, 4 * hidden)), to._name(given[1])], (length, hidden))
    return [to._reshape(found, (1, length, hidden))]


_HANDLERS: Mapping[str, Callable[[_Lowering, Any, tuple[int, ...]], str | list[str]]] = {
    "slice": _slice,
    "select": _select,
    "unbind": _unbind,
    "split": _split,
    "split_with_sizes": _split,
    "flip": _flip,
    "transpose": _transpose,
    "permute": _permute,
    "expand": _expand,
    "repeat": _repeat,
    "cat": _cat,
    "stack": _stack,
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "scatter": _scatter,
    "topk": _top,
    "softmax": _softmax,
    "cumsum": _cumsum,
    "masked_fill": _masked_fill,
    "gelu": _gelu,
    "elu": _elu,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "conv1d": _convolution,
    "max_pool2d": _max_pool,
    "lstm": _lstm,
}
"""aten's name -> what it becomes. A handler gives the name of a value, or names where an operator gives several."""

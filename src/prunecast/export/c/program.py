"""The intermediate form between a model and its C: a list of about forty operators on float32 arrays of fixed shapes.

A program is straight-line: each operation names its inputs and the one value that it gives. It is stored as JSON beside
the constants, which are safetensors. All numbers are float32, indices too (they are below 2^24). `interpret` says in
NumPy what each operator means, and is what the C is held against in tests.

| operator | inputs | numbers | meaning |
|---|---|---|---|
| reshape, permute, expand | x | shape; order of dimensions; shape | as in NumPy; expand repeats sizes of one |
| slice | x | dimension, start, count, step | the step may be negative |
| take | x | dimension, indices... | chooses along a dimension, by constants |
| concat | x, ... | dimension | |
| gather, scatter | x, index (, source) | dimension | as `torch.gather` and `torch.scatter` |
| top | x | dimension, count | indices of the largest, in falling order |
| add, sub, mul, div, maximum, greater | x, y | | by element, with broadcasting |
| neg, square, sqrt, rsqrt, exp, tanh, sigmoid, relu, elu, gelu, abs | x | | by element; gelu with erf |
| where | condition, x, y | | by element |
| sum, mean, max | x | dimensions... | these stay with size one |
| cumsum, softmax | x | dimension | |
| layer_norm | x, weight, bias | | over the last dimension; `value` is added to the variance |
| linear | x, weight (O, I) (, bias) | | over the last dimension |
| matmul | x, y | | of the last two dimensions; those before are equal |
| lstm | gates (L, 4 H), weight (4 H, H) | | all hidden states (L, H) from zeros; gates in torch's order |
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator

from prunecast.errors import UserError
from prunecast.records import Strict

Numbers = NDArray[np.float32]

UNARY: Mapping[str, Callable[[Numbers], Numbers]] = {
    "neg": np.negative,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.asarray(1 / np.sqrt(x), np.float32),
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.asarray(1 / (1 + np.exp(-x)), np.float32),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: np.asarray(0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float32])(x / math.sqrt(2)))),
}
BINARY: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "greater": lambda x, y: (x > y).astype(np.float32),
}
REDUCTIONS: Mapping[str, Callable[..., Numbers]] = {"sum": np.sum, "mean": np.mean, "max": np.max}

BY_ELEMENT = (*UNARY, *BINARY, "where")
"""What a value of one place needs of its inputs is at that place."""

VIEWS = ("reshape", "permute", "expand", "slice")
"""Operators that move nothing where strides can say the same."""

OPERATORS = {
    *(*VIEWS, *BY_ELEMENT, *REDUCTIONS, "take", "concat", "gather", "scatter", "top", "cumsum", "softmax"),
    *("layer_norm", "linear", "matmul", "lstm"),
}

ARGUMENTS = ("history", "x_mark", "y_mark")
RESULT = "forecast"

MOST_EIGHT = 127
"""The largest number in 8 bits: a weight's largest of each row becomes this."""

MOST_INDEX = 2**24
"""Indices are float32 numbers, whole up to here."""


class Operation(Strict):
    """One operation.

    Attributes:
        op: name of its operator.
        inputs: names of values.
        output: name of the value that it gives.
        numbers: see the table of the module.
        value: see the table of the module.
    """

    op: str
    inputs: tuple[str, ...] = Field(min_length=1)
    output: str
    numbers: tuple[int, ...] = ()
    value: float = 0.0

    @field_validator("op")
    @classmethod
    def _known(cls, op: str) -> str:
        if op not in OPERATORS:
            raise ValueError("an operator that there is not")
        return op


class Code(Strict):
    """What of a program is not an array.

    Attributes:
        inputs: name -> shape, of those of `ARGUMENTS` that it reads.
        operations: in the order in which they can be done; the last gives `RESULT`.
        scales: weight of `linear` that 8 bits hold -> constant (O,): its rows are whole numbers up to 127 times these.
    """

    inputs: dict[str, tuple[int, ...]]
    operations: tuple[Operation, ...] = Field(min_length=1)
    scales: Mapping[str, str] = Field(default_factory=dict)


class Program:
    """A program whose shapes are known to fit.

    Attributes:
        code: the operations.
        constants: name -> array.
        shapes: name of each value -> its shape.
    """

    def __init__(self, code: Code, constants: Mapping[str, Numbers]) -> None:
        self.code, self.constants = code, constants
        self.shapes: dict[str, tuple[int, ...]] = {name: value.shape for name, value in constants.items()}
        self.shapes |= code.inputs
        for operation in code.operations:
            try:
                shapes = [self.shapes[name] for name in operation.inputs]
                found = _shape(operation, shapes)
            except (LookupError, ValueError, TypeError) as error:
                raise UserError(
                    f"the program's {operation.op} that gives {operation.output!r} does not fit: {error}"
                ) from None
            if operation.output in self.shapes:
                raise UserError(f"the program gives {operation.output!r} twice")
            self.shapes[operation.output] = found
        for weight in code.scales:
            self._check_scale(weight)
        if code.operations[-1].output != RESULT:
            raise UserError(f"the program ends with {code.operations[-1].output!r}, expected {RESULT!r}")

    def _check_scale(self, weight: str) -> None:
        value, scale = self.constants.get(weight), self.constants.get(self.code.scales[weight])
        if value is None or scale is None or value.ndim != 2 or scale.shape != value.shape[:1] or scale.min() <= 0:
            raise UserError(f"the program's weight {weight!r} has no scale for each of its rows")
        whole = np.rint(value / scale[:, None])
        if np.abs(whole).max() > MOST_EIGHT or not np.array_equal(whole * scale[:, None], value):
            raise UserError(f"the program's weight {weight!r} is not what 8 bits hold")

    @classmethod
    def read(cls, text: str, constants: Mapping[str, Numbers]) -> Program:
        """Returns the program of a JSON text and its constants.

        Raises:
            UserError: when they are none, or shapes do not fit.
        """
        try:
            return cls(Code.model_validate_json(text), constants)
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UserError(
                f"expected a program of the C engine, found another thing at {place or 'its start'}"
            ) from None

    def text(self) -> str:
        """Returns the operations as JSON, one a line."""
        whole = self.code.model_dump(mode="json", exclude_defaults=True)
        lines = ",\n".join(json.dumps(operation) for operation in whole.pop("operations"))
        return json.dumps(whole)[:-1] + f', "operations": [\n{lines}\n]}}\n'


def _shape(operation: Operation, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of what an operation gives; ValueError where its inputs do not fit."""
    op, numbers, first = operation.op, operation.numbers, shapes[0]
    arity = {"where": 3, "layer_norm": 3, "scatter": 3, "gather": 2, "matmul": 2, "lstm": 2}
    expected = {1} if op in UNARY else {2} if op in BINARY else {arity.get(op, 1)}
    if op not in {"concat"} and len(shapes) not in ({2, 3} if op == "linear" else expected):
        raise ValueError(f"{len(shapes)} inputs")
    if op in BY_ELEMENT:
        return np.broadcast_shapes(*shapes)
    if op == "reshape":
        _check(math.prod(numbers) == math.prod(first) and min(numbers, default=1) >= 0, f"{first} as {numbers}")
        return numbers
    if op == "permute":
        _check(sorted(numbers) == [*range(len(first))], f"an order of {numbers}")
        return tuple(first[number] for number in numbers)
    if op == "expand":
        _check(np.broadcast_shapes(first, numbers) == numbers, f"{first} to {numbers}")
        return numbers
    if op in REDUCTIONS:
        _check({*numbers} <= {*range(len(first))}, f"dimensions {numbers}")
        return tuple(1 if dim in numbers else size for dim, size in enumerate(first))
    if op in {"layer_norm", "linear"}:
        expected_weight = first[-1:] if op == "layer_norm" else (shapes[1][0], first[-1])
        bias = shapes[1] if op == "layer_norm" else shapes[1][:1]
        _check(shapes[1] == expected_weight and shapes[2:] in ([], [bias]), f"{shapes}")
        return first if op == "layer_norm" else (*first[:-1], shapes[1][0])
    if op == "matmul":
        _check(len(first) > 1 and first[:-2] == shapes[1][:-2] and first[-1] == shapes[1][-2], f"{shapes}")
        return (*first[:-1], shapes[1][-1])
    if op == "lstm":
        _check(len(first) == 2 and first[1] % 4 == 0 and shapes[1] == (first[1], first[1] // 4), f"{shapes}")
        return (first[0], first[1] // 4)
    return _shape_along(op, numbers, shapes)


def _shape_along(op: str, numbers: tuple[int, ...], shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of what an operation along one dimension gives."""
    dim, first = numbers[0], shapes[0]
    _check(0 <= dim < len(first), f"dimension {dim} of {first}")
    size = first[dim]
    if op == "concat":
        rest = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
        _check(len(rest) == 1, f"{shapes}")
        size = sum(shape[dim] for shape in shapes)
    elif op == "slice":
        _, start, count, step = numbers
        last = start + (count - 1) * step
        _check(count > 0 and 0 <= start < size and 0 <= last < size, f"{numbers} of {first}")
        size = count
    elif op == "take":
        _check(all(0 <= index < size for index in numbers[1:]), f"indices of {size}")
        size = len(numbers) - 1
    elif op == "top":
        _check(len(numbers) == 2 and 0 < numbers[1] <= size <= MOST_INDEX, f"{numbers[1:]} of {size}")
        size = numbers[1]
    elif op == "gather":
        _check(len(first) == len(shapes[1]), f"{shapes}")
        _check(all(at == dim or b <= a for at, (a, b) in enumerate(zip(first, shapes[1], strict=True))), f"{shapes}")
        return shapes[1]
    elif op == "scatter":
        fits = all(at == dim or b <= a for at, (a, b) in enumerate(zip(first, shapes[1], strict=True)))
        _check(shapes[1] == shapes[2] and fits, f"{shapes}")
    return (*first[:dim], size, *first[dim + 1 :])


def _check(fits: bool, found: str) -> None:
    if not fits:
        raise ValueError(f"found {found}")


def interpret(program: Program, inputs: Mapping[str, Numbers]) -> Numbers:
    """Returns what a program gives, by NumPy: slow, and what every operator means.

    Args:
        program: what to do.
        inputs: name -> array, of what it reads.
    """
    values: dict[str, Numbers] = {**program.constants, **{name: inputs[name] for name in program.code.inputs}}
    for operation in program.code.operations:
        found = _value(operation, [values[name] for name in operation.inputs])
        values[operation.output] = np.asarray(found, dtype=np.float32)
    return values[RESULT]


def _value(operation: Operation, inputs: list[Numbers]) -> Numbers:
    op, numbers, x = operation.op, operation.numbers, inputs[0]
    dim = numbers[0] if numbers else 0
    if op in UNARY:
        return UNARY[op](x)
    if op in BINARY:
        return BINARY[op](x, inputs[1])
    if op in REDUCTIONS:
        return REDUCTIONS[op](x, axis=numbers, keepdims=True)
    if op == "softmax":
        e = np.exp(x - x.max(dim, keepdims=True))
        return np.asarray(e / e.sum(dim, keepdims=True))
    if op == "layer_norm":
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + operation.value)
        return np.asarray(normal * inputs[1] + inputs[2])
    if op == "lstm":
        return _lstm(x, inputs[1])
    plain: Mapping[str, Callable[[], Numbers]] = {
        "reshape": lambda: x.reshape(numbers),
        "permute": lambda: x.transpose(numbers),
        "expand": lambda: np.broadcast_to(x, numbers),
        "slice": lambda: np.take(x, numbers[1] + numbers[3] * np.arange(numbers[2]), dim),
        "take": lambda: np.take(x, numbers[1:], dim),
        "concat": lambda: np.concatenate(inputs, dim),
        "where": lambda: np.where(x != 0, inputs[1], inputs[2]),
        "cumsum": lambda: np.cumsum(x, dim),
        "top": lambda: np.argsort(-x, dim, kind="stable").take(range(numbers[1]), dim).astype(np.float32),
        "gather": lambda: _gather(x, inputs[1], dim),
        "scatter": lambda: _scatter(x, inputs[1], inputs[2], dim),
        "linear": lambda: x @ inputs[1].T + (inputs[2] if inputs[2:] else np.float32(0)),
        "matmul": lambda: x @ inputs[1],
    }
    return plain[op]()


def _places(index: Numbers, dim: int) -> tuple[NDArray[np.intp], ...]:
    places: list[NDArray[np.intp]] = [*np.indices(index.shape)]
    places[dim] = index.astype(np.intp)
    return tuple(places)


def _gather(x: Numbers, index: Numbers, dim: int) -> Numbers:
    return x[_places(index, dim)]


def _scatter(x: Numbers, index: Numbers, source: Numbers, dim: int) -> Numbers:
    found = x.copy()
    found[_places(index, dim)] = source
    return found


def _lstm(gates: Numbers, weight: Numbers) -> Numbers:
    sigmoid, hidden, cell, found = UNARY["sigmoid"], np.zeros(weight.shape[1]), np.zeros(weight.shape[1]), []
    for row in gates:
        i, f, g, o = np.split(row + weight @ hidden, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        found.append(hidden)
    return np.stack(found)

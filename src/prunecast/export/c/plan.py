"""From a program to steps on memory: where each value lies, what is done in one go, and how much memory that takes.

Values lie feature-major: what a product multiplies with (the tokens) is contiguous, and a row of it is a feature. So a
weight is one number that is multiplied with a vector of tokens, whatever the width of the processor's vectors, and most
permutations of a model become other strides on the same numbers. Rows are padded to whole vectors; what stands in the
padding is never read as a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prunecast.export.c.program import BY_ELEMENT, REDUCTIONS, RESULT, UNARY, Numbers, Operation, Program
from prunecast.export.c.steps import (
    Along,
    ByElement,
    Expression,
    Move,
    Plan,
    Product,
    Recurrent,
    Reduce,
    View,
    fit_memory,
    up,
)

PADDING = 16
"""Numbers in the widest vector: rows are padded to a multiple of it, and what may be read past an end is less."""

MOST_LEAVES = 8
"""Arrays that one step by element reads at most."""

MOST_EXPANDED = 4096
"""Numbers up to which a constant is written out along the columns that it is the same for."""

ACTIVATIONS = ("gelu", "relu", "elu", "tanh", "sigmoid")
"""What a product can apply to its results before they are stored."""


Value = View | Numbers | Expression | Product
"""What is known of a value: where it lies, its constant, or what would compute it."""


def plan_of(program: Program, padding: int = PADDING) -> Plan:
    """Returns the steps of a program and its memory.

    Args:
        program: what to do.
        padding: numbers to a multiple of which rows are padded; a vector has at most as many.
    """
    planner = _Planner(program, padding)
    for operation in program.code.operations:
        planner.add(operation)
    plan = planner.plan
    plan.outcome = planner.view(planner.values[RESULT], program.shapes[RESULT])
    fit_memory(plan, padding)
    return plan


class _Planner:
    """The way from a program to its steps."""

    def __init__(self, program: Program, padding: int) -> None:
        self.program, self.padding, self.plan = program, padding, Plan()
        self.values: dict[str, Value] = dict(program.constants)
        self.readers: dict[str, list[Operation]] = {}
        self.known: dict[tuple[bytes, tuple[int, ...]], str] = {}
        self.feature_major: set[str] = set()
        for operation in program.code.operations:
            for name in operation.inputs:
                self.readers.setdefault(name, []).append(operation)
        for name, shape in program.code.inputs.items():
            view = self._tight(shape, f"in_{name}")
            self.plan.inputs[name] = self.values[name] = view

    # memory

    def _tight(self, shape: tuple[int, ...], name: str) -> View:
        self.plan.sizes[name] = math.prod(shape)
        return View(name, 0, shape, _strides(shape, range(len(shape)))[0])

    def room(self, shape: tuple[int, ...], order: Sequence[int], columns: int, run: int | None = None) -> View:
        """Returns a new buffer.

        Args:
            shape: of the value.
            order: all dimensions of more than one element, outermost first.
            columns: how many of the last of `order` make a row, which is padded.
            run: columns that one call writes, where that is not the whole row.
        """
        columns = min(max(columns, 1), len(order))
        inner, total = order[len(order) - columns :], 1
        strides = [0] * len(shape)
        for dim in reversed(inner):
            strides[dim], total = total, total * shape[dim]
        run = total if run is None else run
        pitch = up(max(total, total - run + up(run, self.padding)), self.padding) if columns else 1
        for dim in reversed(order[: len(order) - columns]):
            strides[dim], pitch = pitch, pitch * shape[dim]
        name = f"b{len(self.plan.sizes)}"
        self.plan.sizes[name] = max(pitch, 1)
        return View(name, 0, shape, tuple(strides))

    def constant(self, value: Numbers) -> str:
        """Returns the buffer of an array in C order, the same for equal ones."""
        value = np.ascontiguousarray(value, dtype=np.float32)
        key = (value.tobytes(), value.shape)
        if key not in self.known:
            self.known[key] = f"k{len(self.known)}"
            self.plan.constants[self.known[key]] = value
        return self.known[key]

    def constant_like(self, value: Numbers, target: View) -> View:
        """Returns a constant that lies like `target`, as far as it is not the same along a dimension."""
        value = value.reshape((1,) * (len(target.shape) - value.ndim) + value.shape)
        order = target.order()
        columns = _columns_of(target)
        inner = order[len(order) - columns :]
        varies = [dim for dim in inner if value.shape[dim] > 1]
        if varies and math.prod(target.shape[dim] for dim in inner) <= MOST_EXPANDED:
            sizes = [target.shape[dim] if dim in inner else size for dim, size in enumerate(value.shape)]
            value = np.broadcast_to(value, sizes)
        kept = [dim for dim in order if value.shape[dim] > 1]
        rest = [dim for dim in range(value.ndim) if dim not in kept]
        array = value.transpose([*rest, *kept])
        split = len(rest) + sum(dim not in inner for dim in kept)
        rows = array.reshape(math.prod(array.shape[:split]), -1)
        pitch = up(rows.shape[1], self.padding) if rows.shape[1] > 1 else 1
        rows = np.pad(rows, ((0, 0), (0, pitch - rows.shape[1])))
        strides, step = [0] * value.ndim, 1
        for dim in reversed([dim for dim in kept if dim in inner]):
            strides[dim], step = step, step * value.shape[dim]
        step = pitch
        for dim in reversed([dim for dim in kept if dim not in inner]):
            strides[dim], step = step, step * value.shape[dim]
        return View(self.constant(rows), 0, target.shape, tuple(strides))

    def view(self, value: Value, shape: tuple[int, ...]) -> View:
        """Returns where a value lies, once it does."""
        if isinstance(value, View):
            return value
        if isinstance(value, Product):
            return self._emit_product(value)
        if isinstance(value, Expression):
            return self._emit_expression(value, shape)
        array = np.ascontiguousarray(value)
        return View(self.constant(array), 0, array.shape, _strides(array.shape, range(array.ndim))[0])

    def relaid(self, view: View, order: Sequence[int], columns: int) -> View:
        """Copies a view into a new buffer of another order."""
        target = self.room(view.shape, order, columns)
        self.plan.steps.append(Move(target, [view]))
        return target

    # operations

    def add(self, operation: Operation) -> None:
        """Adds what one operation does."""
        op, shape = operation.op, self.program.shapes[operation.output]
        inputs = [self.values[name] for name in operation.inputs]
        found: Value
        if op in BY_ELEMENT:
            found = self._absorbed(operation, inputs, shape) or self._by_element(operation, shape)
        elif op == "linear":
            found = self._linear(inputs, shape, self.program.code.scales.get(operation.inputs[1]))
        elif op == "matmul":
            found = self._matmul(operation, inputs, shape)
        else:
            views = [
                self.view(value, self.program.shapes[name])
                for value, name in zip(inputs, operation.inputs, strict=True)
            ]
            found = self._moved(operation, views, shape)
        if not isinstance(found, View) and not self._can_wait(operation.output, found, shape):
            found = self.view(found, shape)
        self.values[operation.output] = found

    def _can_wait(self, name: str, found: Value, shape: tuple[int, ...]) -> bool:
        """Whether the one reader of a value can compute it on its way."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or readers[0].op not in BY_ELEMENT or [*readers[0].inputs].count(name) != 1:
            return False
        return self.program.shapes[readers[0].output] == shape

    def _moved(self, operation: Operation, views: list[View], shape: tuple[int, ...]) -> View:
        op, numbers, x = operation.op, operation.numbers, views[0]
        if op == "permute":
            strides = tuple(x.strides[dim] for dim in numbers)
            return View(x.buffer, x.offset, shape, strides)
        if op == "expand":
            missing = (0,) * (len(shape) - len(x.shape))
            return View(x.buffer, x.offset, shape, missing + x.strides)
        if op == "slice":
            dim, start, size, step = numbers
            wide = x.strides[dim]
            moved = tuple(s if at != dim else s * step if size > 1 else 0 for at, s in enumerate(x.strides))
            return View(x.buffer, x.offset + start * wide, shape, moved)
        if op == "reshape":
            return self._reshaped(x, shape)
        if op == "concat":
            return self._concat(views, shape, numbers[0])
        if op in REDUCTIONS:
            order = [dim for dim in x.order() if dim not in numbers]
            target = self.room(shape, order, _columns_of(x))
            self.plan.steps.append(Reduce(target, [x], op, numbers))
            return target
        if op == "lstm":
            return self._lstm(views, shape)
        return self._along(operation, views, shape)

    def _reshaped(self, x: View, shape: tuple[int, ...]) -> View:
        strides = _reshaped_strides(x, shape)
        if strides is None:
            order = [dim for dim in range(len(x.shape)) if x.shape[dim] > 1]
            x = self.relaid(x, order, len(order))
            strides = _reshaped_strides(x, shape)
            assert strides is not None
        return View(x.buffer, x.offset, shape, strides)

    def _concat(self, views: list[View], shape: tuple[int, ...], dim: int) -> View:
        main = max(views, key=lambda view: math.prod(view.shape) * (view.buffer in self.plan.sizes))
        order = [at for at in main.order() if shape[at] > 1]
        order = [*(at for at in range(len(shape)) if shape[at] > 1 and at not in order), *order]
        target = self.room(shape, order, _columns_of(main))
        start = 0
        for view in views:
            part = View(target.buffer, start * target.strides[dim], view.shape, target.strides)
            self.plan.steps.append(Move(part, [view]))
            start += view.shape[dim]
        if main.buffer in self.feature_major:
            self.feature_major.add(target.buffer)
        return target

    def _along(self, operation: Operation, views: list[View], shape: tuple[int, ...]) -> View:
        op, x, numbers = operation.op, views[0], operation.numbers
        dim = numbers[0] if numbers else len(shape) - 1
        indices = numbers[1:] if op == "take" else ()
        if op in {"softmax", "layer_norm"}:
            x = views[0] = self._with_columns(x, dim, 4.0)[0]
        order = [at for at in x.order() if shape[at] > 1]
        order = [*(at for at in range(len(shape)) if shape[at] > 1 and at not in order), *order]
        target = self.room(shape, order, _columns_of(x))
        if op == "scatter":
            self.plan.steps.append(Move(target, [x]))
        if op == "top":
            views.append(self.room((x.shape[dim],), [0], 1))
        self.plan.steps.append(Along(target, views, op, dim, operation.value, indices))
        if x.buffer in self.feature_major:
            self.feature_major.add(target.buffer)
        return target

    def _lstm(self, views: list[View], shape: tuple[int, ...]) -> View:
        length, hidden = shape
        gates, weight = views
        if gates.strides[1] != 1:
            gates = self.relaid(gates, [0, 1] if length > 1 else [1], 1)
        turned = np.pad(self.plan.constants[weight.buffer].T, ((0, 0), (0, up(4 * hidden, self.padding) - 4 * hidden)))
        by_input = View(self.constant(turned), 0, turned.shape, _strides(turned.shape, range(2))[0])
        target, state = self.room(shape, [0, 1], 1), self.room((up(4 * hidden, self.padding) + hidden,), [0], 1)
        self.plan.steps.append(Recurrent(target, [gates, by_input, state], length, hidden))
        return target

    # by element

    def _by_element(self, operation: Operation, shape: tuple[int, ...]) -> Value:
        parts = []
        for name in operation.inputs:
            value = self.values[name]
            if isinstance(value, Expression) and len(value.leaves()) < MOST_LEAVES // 2:
                parts.append(value)
            elif isinstance(value, np.ndarray) and value.size == 1:
                parts.append(Expression("leaf", leaf=float(value.reshape(-1)[0])))
            elif isinstance(value, np.ndarray):
                parts.append(Expression("leaf", array=value))
            else:
                view = self.values[name] = self.view(value, self.program.shapes[name])
                parts.append(Expression("leaf", leaf=_broadcast(view, shape)))
        return Expression(operation.op, tuple(parts))

    def _emit_expression(self, expression: Expression, shape: tuple[int, ...]) -> View:
        leaves = expression.leaves()
        main = max(leaves, key=lambda leaf: math.prod(leaf.shape[dim] for dim in leaf.order() if leaf.strides[dim]))
        order = [dim for dim in main.order() if main.strides[dim]]
        order = [*(dim for dim in range(len(shape)) if shape[dim] > 1 and dim not in order), *order]
        target = self.room(shape, order, _columns_of(main))

        def settled(part: Expression) -> Expression:
            if part.array is not None:
                return Expression("leaf", leaf=self.constant_like(part.array, target))
            return replace(part, parts=tuple(settled(inner) for inner in part.parts))

        whole = settled(expression)
        self.plan.steps.append(ByElement(target, whole.leaves(), whole))
        if main.buffer in self.feature_major:
            self.feature_major.add(target.buffer)
        return target

    def _absorbed(self, operation: Operation, inputs: list[Value], shape: tuple[int, ...]) -> Product | None:
        """Returns a product that does an operation by element on its way, where it can."""
        at = next((at for at, value in enumerate(inputs) if isinstance(value, Product)), None)
        if at is None:
            return None
        product, op = inputs[at], operation.op
        assert isinstance(product, Product)
        if op in UNARY:
            free = product.activation is None and product.residual is None
            return replace(product, activation=op) if op in ACTIVATIONS and free else None
        if op not in {"mul", "div", "add"} or len(inputs) != 2:
            return None
        other = inputs[1 - at]
        if op in {"mul", "div"}:
            plain = product.bias is None and product.activation is None and product.residual is None
            if not isinstance(other, np.ndarray) or other.size != 1 or not plain or (op == "div" and at):
                return None
            factor = float(other.reshape(-1)[0])
            return replace(product, scale=product.scale * (factor if op == "mul" else 1 / factor))
        if product.residual is not None or isinstance(other, Product):
            return None
        if isinstance(other, np.ndarray):
            residual = self.constant_like(other, product.target)
        else:
            name = operation.inputs[1 - at]
            view = self.values[name] = self.view(other, self.program.shapes[name])
            residual = _broadcast(view, shape)
        return self._with_residual(product, residual)

    def _with_residual(self, product: Product, residual: View) -> Product | None:
        """Returns the product with something added, where that lies in the same order as what it writes."""
        looped = {loop[0] for loop in product.loops}
        inner = [dim for dim in product.target.order() if dim not in looped and dim != product.row]
        if any(residual.strides[dim] != product.target.strides[dim] for dim in inner):
            return None
        return replace(product, residual=residual)

    # products

    def _with_columns(self, x: View, row: int, tolerated: float = 1.25) -> tuple[View, list[int], int]:
        """Returns a view whose dimensions but one make contiguous columns: those that do not, outermost, and the rest.

        What lies otherwise is copied: with the one dimension first.

        Returns:
            the view; the dimensions that are looped over; how many columns are contiguous.
        """
        loops, run = _run_of(x, row)
        others = [dim for dim, size in enumerate(x.shape) if size > 1 and dim != row]
        total, count = math.prod(x.shape[dim] for dim in others), math.prod(x.shape[dim] for dim in loops)
        wasted = count * up(run, self.padding) > tolerated * up(total, self.padding)
        if (others and len(loops) == len(others)) or (loops and wasted):
            order = [*([row] if x.shape[row] > 1 else []), *others]
            x = self.relaid(x, order, len(others))
            loops, run = _run_of(x, row)
        return x, loops, run

    def _linear(self, inputs: list[Value], shape: tuple[int, ...], scale: str | None) -> Product:
        weight, bias = inputs[1], inputs[2] if inputs[2:] else None
        assert isinstance(weight, np.ndarray)
        x = self.view(inputs[0], (*shape[:-1], weight.shape[1]))
        last, tokens = len(shape) - 1, math.prod(shape[:-1])
        zeros = 1 - np.count_nonzero(weight) / weight.size
        outputs = shape[-1]
        by_token = up(tokens, self.padding) * outputs * max(1 - zeros, 0.05)
        by_output = tokens * up(outputs, self.padding)
        contiguous = x.strides[last] == 1 or x.shape[last] == 1
        scales = None if scale is None else self.program.constants[scale]
        if contiguous and x.buffer in self.feature_major and by_output <= 1.5 * by_token:
            return self._turned(x, weight, scales, bias, shape)
        if by_output <= 0.6 * by_token:
            return self._turned(x, weight, scales, bias, shape)
        x, loops, run = self._with_columns(x, last)
        order = [*([last] if outputs > 1 else []), *(dim for dim in x.order() if dim != last)]
        target = self.room(shape, order, len(order) - (outputs > 1), run)
        self.feature_major.add(target.buffer)
        given = None
        if bias is not None:
            assert isinstance(bias, np.ndarray)
            given = View(self.constant(bias), 0, bias.shape, (1,))
        turns = [(dim, x.strides[dim], 0) for dim in loops]
        return Product(target, [], last, weight.shape[1], run, x, None, weight, turns, scales, given)

    def _turned(
        self, x: View, weight: Numbers, scales: Numbers | None, bias: Value | None, shape: tuple[int, ...]
    ) -> Product:
        """Returns the product whose columns are the outputs: where the inputs are what is contiguous."""
        last, outputs = len(shape) - 1, shape[-1]
        tokens = [dim for dim in x.order() if dim != last]
        row = max(tokens, key=lambda dim: x.shape[dim]) if tokens else 0
        order = [*tokens, *([last] if outputs > 1 else [])]
        target = self.room(shape, order, 1)
        if x.buffer in self.feature_major:
            self.feature_major.add(target.buffer)
        width = up(outputs, self.padding)
        turned = np.pad(weight.T, ((0, 0), (0, width - outputs)))
        vector = View(self.constant(turned), 0, turned.shape, (width, 1))
        loops = [(dim, 0, x.strides[dim]) for dim in tokens if dim != row]
        given = None
        if bias is not None:
            assert isinstance(bias, np.ndarray)
            given = View(self.constant(np.pad(bias, (0, width - outputs))), 0, (width,), (1,))
        vector = View(vector.buffer, 0, (*(1,) * last, weight.shape[1]), (*(0,) * last, width))
        scalar = View(x.buffer, x.offset, (x.shape[row], x.shape[last]), (x.strides[row], x.strides[last]))
        if scales is not None:
            scales = np.pad(scales, (0, width - outputs), constant_values=1.0)
        depth = weight.shape[1]
        return Product(target, [], row, depth, outputs, vector, scalar, None, loops, scales, given, by_column=True)

    def _matmul(self, operation: Operation, inputs: list[Value], shape: tuple[int, ...]) -> Product:
        a, b = (
            self.view(value, self.program.shapes[name]) for value, name in zip(inputs, operation.inputs, strict=True)
        )
        m, n = len(shape) - 2, len(shape) - 1
        by_m = up(shape[m], self.padding) * shape[n]
        by_n = shape[m] * up(shape[n], self.padding)
        along_m, along_n = a.strides[m] == 1 or shape[m] == 1, b.strides[n] == 1
        if not along_n and not along_m:
            order = [dim for dim in range(len(a.shape)) if a.shape[dim] > 1 and dim != m] + [m]
            a, along_m = self.relaid(a, order, 1), True
        if along_m and (not along_n or by_m <= 2 * by_n):
            vector, scalar, row, column, depth, lines = a, b, n, m, n, m
        else:
            vector, scalar, row, column, depth, lines = b, a, m, n, m, n
        # a matrix of the batch may have its columns between those of another: then so has what comes out
        batch = [dim for dim in range(m) if shape[dim] > 1]
        between = [
            dim
            for dim in batch
            if 0 < vector.strides[dim] < vector.strides[depth]
            or 0 < scalar.strides[dim] < _row_stride(scalar, row, lines)
        ]
        outer = [dim for dim in batch if dim not in between]
        between.sort(key=lambda dim: -max(vector.strides[dim], scalar.strides[dim]))
        rows = [row] if shape[row] > 1 else []
        inner = [*between, *([column] if shape[column] > 1 else [])]
        target = self.room(shape, [*outer, *rows, *inner], len(inner), shape[column])
        self.feature_major.add(target.buffer)
        loops = [(dim, vector.strides[dim], scalar.strides[dim]) for dim in [*outer, *between]]
        # of the vector's dimensions the last is the depth; of the scalar's the last are row and depth
        lies = View(vector.buffer, vector.offset, (vector.shape[depth],), (vector.strides[depth],))
        given = View(
            scalar.buffer,
            scalar.offset,
            (shape[row], scalar.shape[lines]),
            (scalar.strides[row], scalar.strides[lines]),
        )
        return Product(target, [], row, vector.shape[depth], shape[column], lies, given, None, loops)

    def _emit_product(self, product: Product) -> View:
        given = (product.vector, product.scalar, product.bias, product.residual)
        product.sources = [view for view in given if view is not None]
        self.plan.steps.append(product)
        return product.target


def _row_stride(scalar: View, row: int, depth: int) -> int:
    return max(abs(scalar.strides[row]), abs(scalar.strides[depth]))


def _strides(shape: tuple[int, ...], order: Sequence[int]) -> tuple[tuple[int, ...], int]:
    strides, step = [0] * len(shape), 1
    for dim in reversed([*order]):
        if shape[dim] > 1:
            strides[dim], step = step, step * shape[dim]
    return tuple(strides), step


def _broadcast(view: View, shape: tuple[int, ...]) -> View:
    """Returns a view of a larger shape, the same along what it does not have."""
    missing = len(shape) - len(view.shape)
    return View(view.buffer, view.offset, shape, (0,) * missing + view.strides)


def _columns_of(view: View) -> int:
    """Returns how many of the innermost dimensions are contiguous together."""
    step, columns = 1, 0
    for dim in reversed(view.order()):
        if view.strides[dim] != step:
            break
        columns, step = columns + 1, step * view.shape[dim]
    return columns


def _run_of(x: View, row: int) -> tuple[list[int], int]:
    """Returns the dimensions, but one, that are not contiguous together, and how many elements the others have."""
    order = [dim for dim in x.order() if dim != row]
    run = 1
    while order and x.strides[order[-1]] == run:
        run *= x.shape[order.pop()]
    return order, run


def _reshaped_strides(view: View, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the strides of another shape on the same places, None where there are none."""
    old = [(size, stride) for size, stride in zip(view.shape, view.strides, strict=True) if size > 1]
    merged: list[tuple[int, int]] = []  # as few dimensions as hold the same places
    for size, stride in old:
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    strides, left = [0] * len(shape), [*merged]
    for dim in reversed(range(len(shape))):
        if shape[dim] == 1:
            continue
        size, stride = left.pop()
        if size % shape[dim]:
            return None
        strides[dim] = stride
        if size > shape[dim]:
            left.append((size // shape[dim], stride * shape[dim]))
    return tuple(strides)

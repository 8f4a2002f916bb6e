"""The C of a model: each step as a function of the arena and the weights, and the functions that call them in order.

Every name in it is made here; of a model only numbers are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from prunecast.export.c import kernels
from prunecast.export.c.kernels import KernelChoice, packed_weight
from prunecast.export.c.plan import ACTIVATIONS, PADDING, plan_of
from prunecast.export.c.program import ARGUMENTS, BINARY, Numbers, Program
from prunecast.export.c.steps import Along, ByElement, Expression, Move, Plan, Product, Recurrent, Reduce, Step, View

ORDER = {"add": "+", "sub": "-", "mul": "*", "div": "/"}

NOT_FINITE = {name: code for code, name in enumerate(ARGUMENTS, start=1)}
"""What the C returns where an input has a number that is none, or infinite."""

HEADER = """\
#ifndef PRUNECAST_FORECAST_H
#define PRUNECAST_FORECAST_H

{sizes}
/* Forecasts from raw values to raw values. All arrays are in C order.
   Returns 0, or 1, 2, 3 where history, x_mark or y_mark has a number that is not finite. */
int prunecast_run(const float *weights, const unsigned char *codes, float *arena, const float *history,
                  const float *x_mark, const float *y_mark, float *forecast);

#endif
"""


@dataclass(frozen=True, eq=False)
class Source:
    """A model in C.

    Attributes:
        header: `forecast.h`.
        code: `forecast.c`, without the weights.
        weights: all numbers that the code reads.
        codes: counts and columns of sparse weights.
        plan: what it was written from.
        kernels: kernel -> how many products are by it.
    """

    header: str
    code: str
    weights: Numbers
    codes: NDArray[np.uint8]
    plan: Plan
    kernels: dict[str, int]

    @property
    def flash_bytes(self) -> int:
        """Bytes of constants: what stays in flash beside the code."""
        return self.weights.nbytes + self.codes.nbytes

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that a forecast takes beside its inputs and its output."""
        return 4 * self.plan.arena


def source_of(program: Program, padding: int = PADDING, choose: KernelChoice | None = None) -> Source:
    """Returns the C of a program.

    Args:
        program: what to do.
        padding: numbers in the widest vector that it is compiled for.
        choose: the kernel of each weight; by the model of costs when None.
    """
    return _Writer(program, padding, choose).source()


@dataclass
class _Blobs:
    """The numbers and codes of all constants, one after the other."""

    padding: int
    numbers: list[Numbers] = field(default_factory=list)
    codes: list[NDArray[np.uint8]] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    used: int = 0
    used_codes: int = 0

    def place(self, name: str, array: Numbers) -> int:
        """Returns where a constant begins; it is added the first time."""
        if name not in self.places:
            flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
            flat = np.pad(flat, (0, -flat.size % self.padding))
            self.places[name] = self.used
            self.numbers.append(flat)
            self.used += flat.size
        return self.places[name]

    def place_codes(self, codes: NDArray[np.uint8]) -> int:
        """Returns where codes begin."""
        start = self.used_codes
        self.codes.append(codes)
        self.used_codes += codes.size
        return start


class _Writer:
    """The way from a plan to its text."""

    def __init__(self, program: Program, padding: int, choose: KernelChoice | None) -> None:
        self.program, self.padding, self.choose = program, padding, choose
        self.plan, self.blobs = plan_of(program, padding), _Blobs(padding)
        self.kernels: dict[str, int] = {}

    def source(self) -> Source:
        """Returns the whole text and the numbers."""
        bodies = [self._step(step) for step in self.plan.steps]
        functions = [
            "PC_APART void pc_step"
            + f"{at}(float *a, const float *w, const unsigned char *q, int turn)\n{{\n"
            + "\n".join(f"    {line}" for line in body)
            + "\n    (void)a; (void)w; (void)q; (void)turn;\n}\n"
            for at, body in enumerate(bodies)
        ]
        parts = ["/* Written by Prunecast; `make` and README.md say how to use it. */"]
        parts += ['#include "forecast.h"', f"#define PC_PADDING {self.padding}", kernels.VECTORS, kernels.ALONG]
        if self.kernels:
            parts.append(kernels.PRODUCT)
            parts.append(kernels.products(self.kernels))
        parts += [*functions, self._run()]
        weights = np.concatenate([*self.blobs.numbers, np.zeros(self.padding, np.float32)])
        codes = np.concatenate([*self.blobs.codes, np.zeros(1, np.uint8)])
        return Source(self._header(weights.size, codes.size), "\n".join(parts), weights, codes, self.plan, self.kernels)

    def _header(self, numbers: int, codes: int) -> str:
        sizes = {name.upper(): math.prod(shape) for name, shape in self.program.code.inputs.items()}
        sizes |= {"FORECAST": math.prod(self.plan.outcome.shape), "ARENA": self.plan.arena}
        sizes |= {"WEIGHTS": numbers, "CODES": codes}
        return HEADER.format(sizes="".join(f"#define PRUNECAST_{name} {size}\n" for name, size in sizes.items()))

    def _run(self) -> str:
        lines = [
            "int prunecast_run(const float *weights, const unsigned char *codes, float *arena, const float *history,",
            "                  const float *x_mark, const float *y_mark, float *forecast)",
            "{",
        ]
        lines += [f"    (void){name};" for name in ARGUMENTS if name not in self.plan.inputs]
        for name, view in self.plan.inputs.items():
            size = math.prod(view.shape)
            lines.append(f"    if (!pc_finite({name}, {size})) return {NOT_FINITE[name]};")
            if view.buffer in self.plan.offsets:
                place = self.plan.offsets[view.buffer]
                lines.append(f"    memcpy(arena + {place}, {name}, {size} * sizeof(float));")
        steps = enumerate(self.plan.steps)
        for loop, group in groupby(steps, key=lambda one: one[1].loop):
            calls = [at for at, _ in group]
            if loop is None:
                lines += [f"    pc_step{at}(arena, weights, codes, 0);" for at in calls]
                continue
            lines.append(f"    for (int turn = 0; turn < {self.plan.loops[loop]}; turn++) {{")
            lines += [*(f"        pc_step{at}(arena, weights, codes, turn);" for at in calls), "    }"]
        outcome = self.plan.outcome
        target = View("forecast", 0, outcome.shape, _tight(outcome.shape))
        lines += ["    {", "        const float *a = arena, *w = weights; (void)a; (void)w;"]
        lines += [f"        {line}" for line in self._copied(outcome, target)]
        return "\n".join([*lines, "    }", "    return 0;", "}", ""])

    # where things lie

    def _base(self, view: View) -> str:
        """Returns the C of the place where a view begins."""
        return self._start(view) + (f" + turn * {view.moves}" if view.moves else "")

    def _start(self, view: View) -> str:
        if view.buffer == "forecast":
            return f"forecast + {view.offset}"
        if view.buffer in self.plan.constants:
            return f"w + {self.blobs.place(view.buffer, self.plan.constants[view.buffer]) + view.offset}"
        return f"a + {self.plan.offsets[view.buffer] + view.offset}"

    # steps

    def _step(self, step: Step) -> list[str]:
        if isinstance(step, ByElement):
            return [*self._elements(step)]
        if isinstance(step, Move):
            return [*self._copied(step.sources[0], step.target)]
        if isinstance(step, Reduce):
            return [*self._reduced(step)]
        if isinstance(step, Product):
            return [*self._product(step)]
        if isinstance(step, Recurrent):
            gates, weight, state = step.sources
            cells = -(-4 * step.hidden // self.padding) * self.padding
            return [
                f"pc_lstm({self._base(gates)}, {gates.strides[0]}, {self._base(weight)}, {weight.strides[0]}, "
                f"{self._base(step.target)}, {step.target.strides[0]}, {self._base(state)}, {cells}, "
                f"{step.length}, {step.hidden});"
            ]
        assert isinstance(step, Along)
        return [*self._along(step)]

    def _elements(self, step: ByElement) -> Iterator[str]:
        leaves = step.expression.leaves()
        order = step.target.order()
        loops = _collapsed(step.target.shape, order, [step.target, *leaves])
        outer, (size, steps) = loops[:-1], loops[-1]
        names = {leaf: f"x{at}" for at, leaf in enumerate(leaves)}
        yield from _open(outer, ["y", *names.values()], [self._base(view) for view in (step.target, *leaves)])
        indent = "    " * len(outer)
        for at, stride in enumerate(steps[1:]):
            if stride == 0:
                yield f"{indent}const pc_v s{at} = pc_set(*x{at});"
        rows = [strides[0] for _, strides in outer]
        padded = all(stride >= -(-size // self.padding) * self.padding for stride in rows) and size > 1
        texts = {}
        for at, leaf in enumerate(leaves):
            stride = steps[at + 1]
            strided = f"pc_lds(x{at} + j * {stride}, {stride}, {size} - j)"
            texts[leaf] = f"s{at}" if stride == 0 else f"pc_ld(x{at} + j)" if stride == 1 else strided
        value = _expression(step.expression, texts)
        store = f"pc_st(y + j, {value})" if padded else f"pc_stn(y + j, {value}, {size} - j)"
        yield f"{indent}for (int j = 0; j < {size}; j += PC_W) {store};"
        yield from _close(outer)

    def _copied(self, source: View, target: View) -> Iterator[str]:
        loops = _collapsed(target.shape, target.order(), [target, source])
        outer, (size, (to, by)) = loops[:-1], loops[-1]
        yield from _open(outer, ["y", "x"], [self._base(target), self._base(source)])
        indent = "    " * len(outer)
        if to == 1 and by == 1:
            yield f"{indent}memcpy(y, x, {size} * sizeof(float));"
        else:
            yield f"{indent}for (int j = 0; j < {size}; j++) y[j * {to}] = x[j * {by}];"
        yield from _close(outer)

    def _reduced(self, step: Reduce) -> Iterator[str]:
        [x] = step.sources
        kept = step.target.order()
        loops = _collapsed(step.target.shape, kept, [step.target, x])
        outer, (size, (_, by)) = loops[:-1], loops[-1]
        reduced = [dim for dim in x.order() if dim in step.dims]
        inner = _collapsed(x.shape, reduced, [x])
        count = math.prod(x.shape[dim] for dim in step.dims)
        yield from _open(outer, ["y", "x"], [self._base(step.target), self._base(x)])
        yield f"for (int j = 0; j < {size}; j += PC_W) {{"
        place = " + ".join(["x", f"j * {by}", *(f"r{at} * {steps[0]}" for at, (_, steps) in enumerate(inner))])
        load = f"pc_ld({place})" if by == 1 else f"pc_lds({place}, {by}, {size} - j)"
        first = f"pc_ld(x + j * {by})" if by == 1 else f"pc_lds(x + j * {by}, {by}, {size} - j)"
        yield f"    pc_v sum = {first if step.op == 'max' else 'pc_set(0.0f)'};"
        for at, (times, _) in enumerate(inner):
            yield f"    for (int r{at} = 0; r{at} < {times}; r{at}++)"
        yield f"        sum = {f'pc_maximum(sum, {load})' if step.op == 'max' else f'sum + {load}'};"
        if step.op == "mean":
            yield f"    sum = sum / {_number(count)};"
        yield f"    pc_stn(y + j, sum, {size} - j);"
        yield "}"
        yield from _close(outer)

    def _along(self, step: Along) -> Iterator[str]:
        dim, x, y = step.dim, step.sources[0], step.target
        size, by, to = x.shape[dim], x.strides[dim], y.strides[dim]
        if step.op in {"softmax", "layer_norm"}:
            loops = _collapsed(y.shape, [at for at in y.order() if at != dim], [y, x])
            outer, (run, steps) = loops[:-1], loops[-1]
            assert run == 1 or steps == (1, 1), "columns that are contiguous"
            given = [self._base(y), self._base(x), *(self._base(view) for view in step.sources[1:])]
            yield from _open(outer, ["y", "x", *["weight", "bias"][: len(given) - 2]], given)
            rest = f", weight, bias, {_number(step.value)}" if step.op == "layer_norm" else ""
            yield f"pc_{step.op}(x, {by}, y, {to}, {size}, {run}{rest});"
            yield from _close(outer)
            return
        if step.op in {"cumsum", "top"}:
            loops = _collapsed(y.shape, [at for at in y.order() if at != dim], [y, x], keep_last=False)
            yield from _open(loops, ["y", "x"], [self._base(y), self._base(x)])
            if step.op == "top":
                yield f"pc_top(x, {by}, {size}, y, {to}, {y.shape[dim]}, {self._base(step.sources[1])});"
            else:
                yield f"float sum = 0.0f;\nfor (int j = 0; j < {size}; j++) y[j * {to}] = sum += x[j * {by}];"
            yield from _close(loops)
            return
        yield from self._indexed(step, x, y, dim)

    def _indexed(self, step: Along, x: View, y: View, dim: int) -> Iterator[str]:
        """Yields what moves numbers to or from places that are told by indices."""
        without = View(x.buffer, x.offset, x.shape, tuple(0 if at == dim else s for at, s in enumerate(x.strides)))
        if step.op == "take":
            yield f"static const int at[{len(step.indices)}] = {{{', '.join(map(str, step.indices))}}};"
            loops = _collapsed(y.shape, [at for at in y.order() if at != dim], [y, without], keep_last=False)
            yield from _open(loops, ["y", "x"], [self._base(y), self._base(x)])
            count = len(step.indices)
            yield f"for (int j = 0; j < {count}; j++) y[j * {y.strides[dim]}] = x[at[j] * {x.strides[dim]}];"
            yield from _close(loops)
            return
        index = step.sources[1]
        if step.op == "gather":
            loops = _collapsed(y.shape, y.order(), [y, index, without], keep_last=False)
            yield from _open(loops, ["y", "at", "x"], [self._base(y), self._base(index), self._base(x)])
            yield f"*y = x[pc_at(*at, {x.shape[dim]}) * {x.strides[dim]}];"
        else:
            source = step.sources[2]
            target = View(y.buffer, y.offset, y.shape, tuple(0 if at == dim else s for at, s in enumerate(y.strides)))
            loops = _collapsed(source.shape, source.order(), [target, index, source], keep_last=False)
            yield from _open(loops, ["y", "at", "x"], [self._base(y), self._base(index), self._base(source)])
            yield f"y[pc_at(*at, {y.shape[dim]}) * {y.strides[dim]}] = *x;"
        yield from _close(loops)

    def _product(self, step: Product) -> Iterator[str]:
        target, weight = step.target, step.weight
        found = packed_weight(weight, step.columns, self.choose, step.scales) if weight is not None else None
        by_column = found is None and step.scales is not None
        kernel = found.kernel if found is not None else "columns8" if by_column else "product"
        self.kernels[kernel] = self.kernels.get(kernel, 0) + 1
        facts: dict[str, object] = {
            "ldx": step.vector.strides[-1],
            "ldy": target.strides[step.row],
            "rows": step.rows,
            "depth": step.depth,
            "columns": step.columns,
            "scale": _number(step.scale),
            "activation": 0 if step.activation is None else ACTIVATIONS.index(step.activation) + 1,
        }
        if found is not None:
            facts |= {"s_row": 1, "s_depth": 4, "s_rows": 4 * step.depth}
            if step.scales is None:
                facts["s"] = f"w + {self._packed(found.numbers.astype(np.float32))}"
            else:
                facts["eight"] = f"q + {self.blobs.place_codes(found.numbers.view(np.uint8))}"
                facts["scales"] = f"w + {self._packed(step.scales)}"
            if found.codes.size:
                facts |= {"q": f"q + {self.blobs.place_codes(found.codes)}", "block": found.block}
        else:
            assert step.scalar is not None
            row, depth = step.scalar.strides
            facts |= {"s": self._base(step.scalar), "s_row": row, "s_depth": depth, "s_rows": 4 * row}
        if by_column:
            assert step.scales is not None
            whole = np.rint(self.plan.constants[step.vector.buffer] / step.scales).astype(np.int8)
            facts["eight"] = f"q + {self.blobs.place_codes(whole.reshape(-1).view(np.uint8))}"
            facts["scales_columns"] = f"w + {self._packed(step.scales)}"
        if step.bias is not None:
            facts["bias_columns" if step.by_column else "bias_rows"] = self._base(step.bias)
        if step.residual is not None:
            facts["ldr"] = step.residual.strides[step.row]
        moving = bool(step.loops) and found is None
        given = ", ".join(f".{name} = {value}" for name, value in facts.items())
        yield f"struct pc_product p = {{{given}}};"
        loops = []
        for dim, by, scalar in step.loops:
            residual = 0 if step.residual is None else step.residual.strides[dim]
            loops.append((target.shape[dim], (target.strides[dim], by, scalar, residual)))
        residual_base = "NULL" if step.residual is None else self._base(step.residual)
        names = ["y", "x", "s", "residual"] if step.residual is not None else ["y", "x", "s"]
        vector = "NULL" if by_column else self._base(step.vector)
        bases = [self._base(target), vector, str(facts.get("s", "NULL")), residual_base]
        yield from _open(loops, names, bases[: len(names)])
        if moving:
            yield "p.s = s;"
        yield f"pc_{kernel}(&p, x, y, {'residual' if step.residual is not None else 'NULL'}); (void)s;"
        yield from _close(loops)

    def _packed(self, numbers: Numbers) -> int:
        return self.blobs.place(f"packed{len(self.blobs.places)}", numbers)


# C


def _number(value: float) -> str:
    """Returns the C of a float32 number: all of its digits."""
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _expression(part: Expression, texts: dict[View, str]) -> str:
    if isinstance(part.leaf, View):
        return texts[part.leaf]
    if part.leaf is not None:
        return f"pc_set({_number(part.leaf)})"
    inner = [_expression(one, texts) for one in part.parts]
    if part.op in ORDER:
        return f"({inner[0]} {ORDER[part.op]} {inner[1]})"
    assert part.op in BINARY or len(inner) in {1, 3}
    return f"pc_{part.op}({', '.join(inner)})"


Loop = tuple[int, tuple[int, ...]]
"""How often, and how far each of several places moves each time."""


def _tight(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for dim in reversed(range(len(shape))):
        strides[dim], step = step, step * shape[dim]
    return tuple(strides)


def _collapsed(
    shape: tuple[int, ...], order: Sequence[int], views: Sequence[View], *, keep_last: bool = True
) -> list[Loop]:
    """Returns the loops over dimensions, as few as all views allow; at least one where `keep_last`."""
    loops: list[Loop] = []
    for dim in order:
        steps = tuple(view.strides[dim] for view in views)
        if loops and all(wide == step * shape[dim] for wide, step in zip(loops[-1][1], steps, strict=True)):
            loops[-1] = (loops[-1][0] * shape[dim], steps)
        else:
            loops.append((shape[dim], steps))
    return loops or ([(1, (1,) * len(views))] if keep_last else [])


def _open(loops: Sequence[Loop], names: Sequence[str], bases: Sequence[str]) -> Iterator[str]:
    """Yields the heads of loops and the pointers inside the last."""
    for at, (size, _) in enumerate(loops):
        yield f"for (int i{at} = 0; i{at} < {size}; i{at}++) {{"
    for position, (name, base) in enumerate(zip(names, bases, strict=True)):
        moves = "".join(f" + i{at} * {steps[position]}" for at, (_, steps) in enumerate(loops) if steps[position])
        yield f"{'' if name == 'y' else 'const '}float *{name} = {base}{moves};"


def _close(loops: Sequence[Loop]) -> Iterator[str]:
    if loops:
        yield "}" * len(loops)

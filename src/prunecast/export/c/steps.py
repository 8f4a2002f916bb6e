"""Steps on memory: what there are, how long each buffer lives, and where it lies.

A step writes one buffer. Buffers that are not needed at the same time share memory: each lies at the lowest place that
is free for as long as it lives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from prunecast.export.c.program import Numbers


@dataclass(frozen=True)
class View:
    """Where the elements of a value lie.

    Attributes:
        buffer: name; of a constant, or of a part of the arena.
        offset: of its first element, in numbers.
        shape: of the value.
        strides: in numbers; 0 for a dimension of size one, or along which it is the same.
        moves: by how many numbers from turn to turn of the loop that its step is in.
    """

    buffer: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    moves: int = 0

    def order(self) -> list[int]:
        """Returns the dimensions of more than one element, from the widest stride to the narrowest."""
        dims = [dim for dim, size in enumerate(self.shape) if size > 1]
        return sorted(dims, key=lambda dim: (self.strides[dim] != 0, -abs(self.strides[dim]), dim))

    def same_places(self, other: View) -> bool:
        """Whether both have their elements at the same places of their buffers."""
        return replace(self, buffer="") == replace(other, buffer="")


@dataclass(frozen=True)
class Expression:
    """What is done by element, as a tree.

    Attributes:
        op: an operator by element, or "leaf".
        parts: expressions; of a leaf none.
        leaf: a number, or what is read.
        array: of a leaf that is a constant and lies nowhere yet.
    """

    op: str
    parts: tuple[Expression, ...] = ()
    leaf: View | float | None = None
    array: Numbers | None = None

    def leaves(self) -> list[View]:
        """Returns the views that it reads, each once."""
        own = [self.leaf] if isinstance(self.leaf, View) else []
        return [*dict.fromkeys([*own, *(leaf for part in self.parts for leaf in part.leaves())])]


@dataclass
class Step:
    """What one loop nest or kernel does.

    Attributes:
        target: what it writes.
        sources: what it reads.
        loop: number of the loop that it is in together with its neighbours; None outside of any.
    """

    target: View
    sources: list[View]
    loop: int | None = field(default=None, kw_only=True)


@dataclass
class ByElement(Step):
    """Computes an expression."""

    expression: Expression


@dataclass
class Move(Step):
    """Copies a view to another of its shape."""


@dataclass
class Reduce(Step):
    """Sums, means or maxima over dimensions."""

    op: str
    dims: tuple[int, ...]


@dataclass
class Along(Step):
    """An operator along one dimension: softmax, layer_norm, cumsum, top, take, gather, scatter.

    The indices of `take` are `indices`; the view of other operands follows the first among the sources.
    """

    op: str
    dim: int
    value: float = 0.0
    indices: tuple[int, ...] = ()


@dataclass
class Recurrent(Step):
    """An LSTM after its products with the inputs: sources are gates, the turned weight (H, 4 H), room for its state."""

    length: int
    hidden: int


@dataclass
class Product(Step):
    """A matrix product of many rows of numbers with vectors of columns, and what follows it by element.

    Attributes:
        row: dimension of the target whose elements are rows.
        depth: numbers in each sum.
        columns: how many are contiguous.
        vector: where the columns lie; its last stride is that of the depth.
        scalar: what they are multiplied with, or None where that is `weight`: strides of row and depth come last.
        weight: a constant matrix (rows, depth).
        loops: (dimension of the target, stride of `vector`, stride of `scalar`, stride of the residual).
        scales: of rows, or of columns when `by_column`, whose weight is whole numbers times these, which are what is
            stored; None where it is stored as it is.
        bias: of rows, or of columns when `by_column`.
        name: of the weight, for people.
    """

    row: int
    depth: int
    columns: int
    vector: View
    scalar: View | None
    weight: Numbers | None
    loops: list[tuple[int, int, int]]
    scales: Numbers | None = None
    bias: View | None = None
    by_column: bool = False
    scale: float = 1.0
    activation: str | None = None
    residual: View | None = None

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.target.shape[self.row]

    @property
    def macs(self) -> int:
        """Multiply-adds of one turn, without leaving out zeros."""
        return math.prod(self.target.shape) * self.depth


@dataclass
class Plan:
    """All steps, and where everything lies.

    Attributes:
        steps: in order.
        inputs: name -> the buffer that it is copied to, tight.
        outcome: the view of the forecast, which is copied out.
        constants: name of a buffer -> its numbers.
        sizes: name of a buffer of the arena -> its numbers.
        offsets: name of a buffer of the arena -> where it begins.
        arena: numbers in the arena.
        loops: number of a loop -> its turns.
    """

    steps: list[Step] = field(default_factory=list)
    loops: dict[int, int] = field(default_factory=dict)
    inputs: dict[str, View] = field(default_factory=dict)
    outcome: View = field(default_factory=lambda: View("", 0, (), ()))
    constants: dict[str, Numbers] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    arena: int = 0


# Memory


def fit_memory(plan: Plan, padding: int) -> None:
    """Gives each buffer of a plan its place, with as few and as small buffers as its steps allow."""
    _head_by_head(plan)
    _in_place(plan)
    _place(plan, padding)


def up(count: int, multiple: int) -> int:
    """Returns the next multiple that is no less than a count."""
    return -(-count // multiple) * multiple


def _head_by_head(plan: Plan) -> None:
    """Puts the steps from attention's scores to its sums into one loop over the heads: scores are kept of one only."""
    uses = Counter(buffer for step in plan.steps for buffer in {*_buffers(step)})
    at = 0
    while at < len(plan.steps):
        chain = _chain(plan, at, uses)
        if not chain:
            at += 1
            continue
        first = chain[0].target
        dim, number = first.order()[0], len(plan.loops)
        plan.loops[number] = first.shape[dim]
        local = {step.target.buffer for step in chain[:-1]}
        for buffer in local:
            plan.sizes[buffer] //= plan.loops[number]
        for step in chain:
            _put_into_loop(step, dim, local)
            step.loop = number
        at += len(chain)


def _chain(plan: Plan, at: int, uses: Counter[str]) -> list[Step]:
    """Returns the steps from a product of heads to the next that reads what became of it; none where others do."""
    first = plan.steps[at]
    if not isinstance(first, Product) or first.scalar is None or not first.loops:
        return []
    dim = first.target.order()[0]
    if dim not in {loop[0] for loop in first.loops}:
        return []
    chain: list[Step] = [first]
    for step in plan.steps[at + 1 :]:
        before = chain[-1].target
        if uses[before.buffer] != 2 or before.buffer not in {view.buffer for view in step.sources}:
            return []
        if isinstance(step, Product):
            looped = dim in {loop[0] for loop in step.loops}
            vector = step.vector.buffer == before.buffer and step.scalar is not None
            whole = vector and (step.residual is None or step.residual.buffer != before.buffer)
            return [*chain, step] if looped and whole else []
        plain = isinstance(step, ByElement) or (isinstance(step, Along) and step.op == "softmax" and step.dim != dim)
        if not plain or step.target.shape != before.shape or step.target.order()[0] != dim:
            return []
        chain.append(step)
    return []


def _put_into_loop(step: Step, dim: int, local: set[str]) -> None:
    """Makes a step do one turn of a loop over one of its dimensions."""

    def moved(view: View) -> View:
        shape, strides = [*view.shape], [*view.strides]
        moves = 0 if view.buffer in local else strides[dim]
        shape[dim], strides[dim] = 1, 0
        return View(view.buffer, view.offset, tuple(shape), tuple(strides), moves)

    if not isinstance(step, Product):
        _rename(step, moved)
        return
    [(_, by, scalar)] = [loop for loop in step.loops if loop[0] == dim]
    step.loops = [loop for loop in step.loops if loop[0] != dim]
    assert step.scalar is not None
    step.target = moved(step.target)
    step.vector = replace(step.vector, moves=0 if step.vector.buffer in local else by)
    step.scalar = replace(step.scalar, moves=scalar)
    step.residual = None if step.residual is None else moved(step.residual)


def _buffers(step: Step) -> Iterator[str]:
    yield step.target.buffer
    for view in step.sources:
        yield view.buffer


def _lives(plan: Plan) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the first and the last step that each buffer is used in; all of a loop, unless it is its own."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    spans: dict[int, tuple[int, int]] = {}
    loops: dict[str, set[int | None]] = {}
    for at, step in enumerate(plan.steps):
        if step.loop is not None:
            spans[step.loop] = (spans.get(step.loop, (at, at))[0], at)
        for buffer in _buffers(step):
            first.setdefault(buffer, at)
            last[buffer] = at
            loops.setdefault(buffer, set()).add(step.loop)
    for view in plan.inputs.values():
        first[view.buffer] = -1
        last.setdefault(view.buffer, -1)
    last[plan.outcome.buffer] = len(plan.steps)
    for buffer, inside in loops.items():
        for loop in inside - {None}:
            start, end = spans[loop]  # type: ignore[index]
            if len(inside) > 1 or not start <= first[buffer] <= last[buffer] <= end or not _is_local(plan, buffer):
                first[buffer], last[buffer] = min(first[buffer], start), max(last[buffer], end)
    return first, last


def _is_local(plan: Plan, buffer: str) -> bool:
    """Whether each turn of a loop writes a buffer anew."""
    views = [view for step in plan.steps for view in (step.target, *step.sources) if view.buffer == buffer]
    return all(view.moves == 0 for view in views)


def _in_place(plan: Plan) -> None:
    """Lets steps by element, and norms, write where they read what is read no more."""
    _, last = _lives(plan)
    writes = Counter(step.target.buffer for step in plan.steps)
    renamed: dict[str, str] = {}

    def now(view: View) -> View:
        return replace(view, buffer=renamed[view.buffer]) if view.buffer in renamed else view

    for at, step in enumerate(plan.steps):
        _rename(step, now)
        if not isinstance(step, ByElement) and not (isinstance(step, Along) and step.op in {"softmax", "layer_norm"}):
            continue
        sources = step.sources if isinstance(step, ByElement) else step.sources[:1]
        for source in sources:
            old, target = source.buffer, step.target.buffer
            same = source.same_places(step.target) and plan.sizes.get(old) == plan.sizes[target]
            others = [view for view in step.sources if view.buffer == old and view != source]
            if same and last[old] == at and not others and old not in plan.inputs and writes[target] == 1:
                renamed[target] = old
                last[old] = last[target]
                del plan.sizes[target]
                step.target = now(step.target)
                break
    plan.outcome = now(plan.outcome)


def _rename(step: Step, now: Callable[[View], View]) -> None:
    step.target, step.sources = now(step.target), [now(view) for view in step.sources]
    if isinstance(step, ByElement):

        def settled(part: Expression) -> Expression:
            leaf = now(part.leaf) if isinstance(part.leaf, View) else part.leaf
            return replace(part, leaf=leaf, parts=tuple(settled(inner) for inner in part.parts))

        step.expression = settled(step.expression)
    if isinstance(step, Product):
        step.vector = now(step.vector)
        step.scalar = None if step.scalar is None else now(step.scalar)
        step.residual = None if step.residual is None else now(step.residual)


def _place(plan: Plan, padding: int) -> None:
    """Gives each buffer its place in the arena: each in turn at the lowest that is free while it lives.

    What comes first is what decides. Three orders are tried: the largest first; those of most numbers times steps;
    those that live while the most memory is in use. The last reaches that most nearly always.
    """
    first, last = _lives(plan)
    living = sorted(name for name in plan.sizes if name in first)
    sizes = {name: up(plan.sizes[name], padding) for name in living}
    used: Counter[int] = Counter()
    for name in living:
        used.update(dict.fromkeys(range(first[name], last[name] + 1), sizes[name]))
    fullest = {name: max(used[at] for at in range(first[name], last[name] + 1)) for name in living}
    orders = [
        sorted(living, key=lambda name: -sizes[name]),
        sorted(living, key=lambda name: -sizes[name] * (last[name] - first[name] + 1)),
        sorted(living, key=lambda name: (-fullest[name], -sizes[name])),
    ]
    found = []
    for order in orders:
        places: dict[str, int] = {}
        for name in order:
            together = [other for other in places if first[other] <= last[name] and first[name] <= last[other]]
            place = 0
            for other in sorted(together, key=places.__getitem__):
                if place + sizes[name] <= places[other]:
                    break
                place = max(place, places[other] + sizes[other])
            places[name] = place
        found.append((max((places[name] + sizes[name] for name in living), default=0), places))
    most, plan.offsets = min(found, key=lambda one: one[0])
    plan.arena = most + padding

"""An exported graph with fewer and cheaper nodes, equal to the rounding: a small model spends its time on their number.

What ONNX Runtime does by itself where it knows all shapes it leaves undone where the batch is free; this knows that all
other sizes are fixed:

- the shape of a reshape is a constant, with -1 for the batch, and not computed anew in each call by three nodes;
- a linear map of a stream (B, S, D) is a product of two matrices, (B * S, D) by (D, W), which takes its bias with it,
  and so is all that goes row by row until somebody asks for the other dimensions;
- a factor of what a linear map gives is one of its weights, which are computed when the file is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

Shapes = Mapping[str, Sequence[int | None]]
"""Name of a value -> its sizes; None for one that depends on the batch."""

ROW_BY_ROW = frozenset({"Gelu", "Relu", "LayerNormalization", "Add", "Mul", "Sub", "Div"})
"""Operators that do the same to each row of the last dimension, whatever stands before it."""


def shapes_of(model: onnx.ModelProto) -> Shapes:
    """Returns the shapes that the exporter wrote down, and those that follow from them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found: dict[str, Sequence[int | None]] = {entry.name: list(entry.dims) for entry in graph.initializer}
    for entry in (*graph.value_info, *graph.input, *graph.output):
        if entry.type.tensor_type.HasField("shape"):
            sizes = entry.type.tensor_type.shape.dim
            found[entry.name] = [size.dim_value if size.HasField("dim_value") else None for size in sizes]
    for node in graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            found[node.output[0]] = list(value.dims) if isinstance(value, onnx.TensorProto) else list(np.shape(value))
    return found


def simplified(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """Returns the graph with products of matrices, constant shapes, and no node that nothing reads."""
    graph = model.graph
    rows = _Rows(graph, shapes)
    nodes = [new for node in graph.node for new in rows.rewritten(node)]
    nodes += [new for entry in graph.output for new in rows.whole(entry.name)]
    del graph.node[:]
    graph.node.extend(sorted(nodes, key=lambda node: node.op_type != "Constant"))  # constants first: weights need them
    graph.initializer.extend(rows.constants.values())
    _take_in_factors(graph, shapes)
    _drop_unread(graph)
    return model


class _Rows:
    """Rewrites nodes in their order; knows which values there are as rows, (rows, D), and which as they were."""

    def __init__(self, graph: onnx.GraphProto, shapes: Shapes) -> None:
        self.shapes = shapes
        self.rows: dict[str, str] = {}
        self.made = {entry.name for entry in (*graph.input, *graph.initializer)}
        self.constants: dict[str, onnx.TensorProto] = {}

    def rewritten(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yields what stands for a node."""
        [output, *_] = node.output
        if node.op_type == "Reshape" and self._constant(output) is not None:
            node.input[0] = self.rows.get(node.input[0], node.input[0])
            node.input[1] = self._constant(output) or ""
        elif self._is_linear(node) or self._goes_by_rows(node):
            width = len(self.shapes[output])
            for place, name in enumerate(node.input):
                if len(self.shapes.get(name, ())) == width and (place == 0 or node.op_type in {"Add", "Sub"}):
                    yield from self._as_rows(name)
                    node.input[place] = self.rows[name]
            node.output[0] = self.rows[output] = f"{output}_rows"
            yield node
            return
        else:
            for name in node.input:
                yield from self.whole(name)
        self.made.update(node.output)
        yield node

    def whole(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yields the node that makes a value out of its rows, where there is none yet."""
        if name in self.rows and name not in self.made:
            self.made.add(name)
            yield onnx.helper.make_node("Reshape", [self.rows[name], self._constant(name) or ""], [name])

    def _as_rows(self, name: str) -> Iterator[onnx.NodeProto]:
        if name not in self.rows:
            self.rows[name] = f"{name}_rows"
            shape = self._number([-1, self.shapes[name][-1] or 0])
            yield onnx.helper.make_node("Reshape", [name, shape], [self.rows[name]])

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "MatMul" or self._constant(node.output[0]) is None:
            return False
        left, right = (self.shapes.get(name, ()) for name in node.input)
        return len(left) > 2 and len(right) == 2 and left[-1] is not None and None not in right

    def _goes_by_rows(self, node: onnx.NodeProto) -> bool:
        """Whether an operator has rows to work on, and its other inputs are of its shape or the same for each row."""
        if node.op_type not in ROW_BY_ROW or not self.rows.keys() & {*node.input}:
            return False
        shape = self.shapes.get(node.output[0], ())
        if node.op_type == "LayerNormalization":
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), -1)
            return axis in {-1, len(shape) - 1} and node.input[0] in self.rows
        if len(shape) < 3 or self._constant(node.output[0]) is None:
            return False
        # of one shape, or one number or row for all; a decoder's learned start of batch 1 is added to any batch
        first, *others = (list(self.shapes.get(name, ())) for name in node.input)
        same = [first == list(shape), *(len(other) < 2 for other in others)]
        either = all(len(other) < 2 or other == list(shape) for other in (first, *others))
        known = all(name in self.shapes for name in node.input)
        return known and (either if node.op_type in {"Add", "Sub"} else all(same) and node.input[0] in self.rows)

    def _constant(self, name: str) -> str | None:
        """Returns the name of a constant with the shape of a value, -1 for the batch; None where that does not do."""
        shape = self.shapes.get(name)
        if not shape or list(shape).count(None) > 1 or 0 in shape:
            return None
        return self._number([-1 if size is None else size for size in shape])

    def _number(self, shape: Sequence[int]) -> str:
        name = "shape_" + "_".join("batch" if size < 0 else str(size) for size in shape)
        self.constants[name] = onnx.numpy_helper.from_array(np.array(shape, dtype=np.int64), name)
        return name


def _take_in_factors(graph: onnx.GraphProto, shapes: Shapes) -> None:
    """Multiplies weight and bias of a linear map by the number that its result is multiplied by, and nothing else."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    new: dict[int, list[onnx.NodeProto]] = {}
    for node in graph.node:
        added = makers.get(node.input[0]) if node.op_type == "Mul" and shapes.get(node.input[1]) == [] else None
        if added is None or added.op_type != "Add" or readers[added.output[0]] > 1:
            continue
        product = makers.get(added.input[0])
        if product is None or product.op_type != "MatMul" or readers[product.output[0]] > 1:
            continue
        if len(shapes.get(product.input[1], ())) != 2 or len(shapes.get(added.input[1], ())) != 1:
            continue
        for part, name in ((product, product.input[1]), (added, added.input[1])):
            part.input[1] = f"{node.output[0]}_{name}"
            new.setdefault(id(product), []).append(onnx.helper.make_node("Mul", [name, node.input[1]], [part.input[1]]))
        added.output[0], node.output[0] = node.output[0], f"{node.output[0]}_before"
        node.input[0] = added.output[0]
    if not new:
        return
    nodes = [one for node in graph.node for one in (*new.get(id(node), ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [entry for entry in graph.initializer if entry.name in read]
    del graph.initializer[:]
    graph.initializer.extend(initializers)

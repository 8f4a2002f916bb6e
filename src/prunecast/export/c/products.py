"""How a constant weight is stored and multiplied with: every number, or only those that are not zero.

Two kernels leave zeros out. `jammed` takes four rows together: a column that several of them have is loaded once for
all. `rowwise` takes one row at a time, which has less to look up where hardly any column is shared. Both go through the
weight in blocks of columns, so that what they load of the activations stays in the processor's nearest cache, and so
that eight bits tell a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunecast.export.c.kernels import ROWS
from prunecast.export.c.program import Numbers

Kernel = Literal["product", "jammed", "rowwise"]

MOST_COLUMNS = 255
"""Columns in a block: eight bits count them."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight as a kernel reads it.

    Attributes:
        kernel: name of the kernel.
        numbers: in the order in which they are read.
        codes: counts and columns in that order; empty of a dense one.
        block: columns in a block of a sparse one.
    """

    kernel: Kernel
    numbers: Numbers
    codes: NDArray[np.uint8]
    block: int

    @property
    def bytes(self) -> int:
        """What it takes of flash."""
        return self.numbers.nbytes + self.codes.nbytes


def packed_weight(weight: Numbers, columns: int) -> Packed:
    """Returns a weight (O, I) as the fastest kernel reads it, by the model of costs.

    Args:
        weight: its numbers.
        columns: of what it is multiplied with.
    """
    kernel, block = chosen(weight, columns)
    if kernel == "product":
        return dense_weight(weight)
    return sparse_weight(weight, kernel, block)


def chosen(weight: Numbers, columns: int) -> tuple[Kernel, int]:
    """Returns the kernel for a weight (O, I) and the columns in a block of it."""
    zeros = 1 - np.count_nonzero(weight) / weight.size
    blocks = -(-weight.shape[1] // MOST_COLUMNS)
    block = -(-weight.shape[1] // blocks)
    if zeros < 0.3:
        return "product", block
    return ("jammed" if zeros < 0.85 else "rowwise"), block


def dense_weight(weight: Numbers) -> Packed:
    """Returns a weight with four rows interleaved, the last of them filled up with zeros."""
    outputs, inputs = weight.shape
    filled = np.pad(weight, ((0, -outputs % ROWS), (0, 0)))
    numbers = filled.reshape(-1, ROWS, inputs).transpose(0, 2, 1)
    return Packed("product", np.ascontiguousarray(numbers).reshape(-1), np.empty(0, np.uint8), inputs)


def sparse_weight(weight: Numbers, kernel: Kernel, block: int) -> Packed:
    """Returns a weight without its zeros.

    For each block of columns, for each group of rows, come first how many columns are in each subset of the rows (of
    one row there is one subset), then these columns, counted from the start of the block.
    """
    rows = ROWS if kernel == "jammed" else 1
    outputs, inputs = weight.shape
    filled = np.pad(weight, ((0, -outputs % rows), (0, 0))).reshape(-1, rows, inputs)
    groups, blocks, subsets = filled.shape[0], -(-inputs // block), 2**rows - 1
    subset = ((filled != 0) * (1 << np.arange(rows))[:, None]).sum(1)
    group, column = np.nonzero(subset)
    which = subset[group, column] - 1
    order = np.lexsort((column, which, group, column // block))
    group, column, which = group[order], column[order], which[order]
    there = filled[group, :, column]
    numbers = there[there != 0]
    chunk = (column // block) * groups + group
    counts = np.zeros((blocks * groups, subsets), np.intp)
    np.add.at(counts, (chunk, which), 1)
    starts = np.cumsum(np.r_[0, counts.sum(1) + subsets])
    codes = np.zeros(starts[-1], np.uint8)
    codes[(starts[:-1, None] + np.arange(subsets)).reshape(-1)] = counts.reshape(-1)
    codes[np.arange(len(column)) + (chunk + 1) * subsets] = column % block
    return Packed(kernel, np.ascontiguousarray(numbers, dtype=np.float32), codes, block)

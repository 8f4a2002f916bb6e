"""Dropout, addition and layer normalisation in one pass, forward and backward.

All arrays are contiguous, positions are those of a tensor's numbers laid end to end, ascending.
R rows, D width, P parts of the rows.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from prunecast.kernels.compiled import CHUNK, F, Floats, Integers, in_parallel, inlined


def parts(rows: int, width: int) -> int:
    """Returns P."""
    return -(-rows // max(1, CHUNK // width))


@in_parallel
def add_and_norm(  # noqa: PLR0917 - compiled functions take positions only
    x_RD: Floats,
    y_RD: Floats,
    dropped: Integers,
    scale: float,
    weight_D: Floats,
    bias_D: Floats,
    epsilon: float,
    normal_RD: Floats,
    deviation_R: Floats,
    result_RD: Floats,
) -> None:
    """Fills in the norm of x + scale * y, of x alone where y is dropped; and what the backward pass needs.

    `normal` is the sum less its mean, over its deviation; the result that times `weight` plus `bias`.
    """
    rows, width = x_RD.shape
    step = max(1, CHUNK // width)
    for part in prange(-(-rows // step)):
        start, end = part * step, min(rows, (part + 1) * step)
        x, y, normal, result = x_RD[start:end], y_RD[start:end], normal_RD[start:end], result_RD[start:end]
        deviation = deviation_R[start:end]
        for row in range(len(x)):
            for i in range(width):
                normal[row, i] = x[row, i] + F(scale) * y[row, i]
        first, after = np.searchsorted(dropped, start * width), np.searchsorted(dropped, end * width)
        for position in dropped[first:after]:
            row, i = position // width - start, position % width
            normal[row, i] = x[row, i]
        for row in range(len(x)):
            deviation[row] = _normalise(normal[row], F(epsilon))
            for i in range(width):
                result[row, i] = normal[row, i] * weight_D[i] + bias_D[i]


@in_parallel
def add_and_norm_backward(  # noqa: PLR0917 - compiled functions take positions only
    gradient_RD: Floats,
    normal_RD: Floats,
    deviation_R: Floats,
    weight_D: Floats,
    dropped: Integers,
    scale: float,
    d_x_RD: Floats,
    d_y_RD: Floats,
    d_weight_PD: Floats,
    d_bias_PD: Floats,
) -> None:
    """Fills in the gradients; those of the weight and the bias are to be summed over the parts."""
    rows, width = gradient_RD.shape
    step = max(1, CHUNK // width)
    for part in prange(-(-rows // step)):
        start, end = part * step, min(rows, (part + 1) * step)
        gradient, normal, deviation = gradient_RD[start:end], normal_RD[start:end], deviation_R[start:end]
        d_x, d_y, d_weight, d_bias = d_x_RD[start:end], d_y_RD[start:end], d_weight_PD[part], d_bias_PD[part]
        d_weight[:] = F(0)
        d_bias[:] = F(0)
        for row in range(len(gradient)):
            _normalise_backward(gradient[row], normal[row], weight_D, deviation[row], d_x[row])
            for i in range(width):
                d_y[row, i] = d_x[row, i] * F(scale)
                d_weight[i] += gradient[row, i] * normal[row, i]
                d_bias[i] += gradient[row, i]
        first, after = np.searchsorted(dropped, start * width), np.searchsorted(dropped, end * width)
        for position in dropped[first:after]:
            d_y[position // width - start, position % width] = F(0)


@inlined
def _normalise(x: Floats, epsilon: np.float32) -> np.float32:
    """Takes the mean from all numbers and divides them by their deviation; returns that."""
    total, squares = F(0), F(0)
    for i in range(len(x)):
        total += x[i]
    mean = total / F(len(x))
    for i in range(len(x)):
        x[i] -= mean
        squares += x[i] * x[i]
    deviation = F(math.sqrt(squares / F(len(x)) + epsilon))
    for i in range(len(x)):
        x[i] /= deviation
    return deviation


@inlined
def _normalise_backward(gradient: Floats, normal: Floats, weight: Floats, deviation: np.float32, d_x: Floats) -> None:
    along_one, along_normal = F(0), F(0)
    for i in range(len(normal)):
        d_x[i] = gradient[i] * weight[i]
        along_one += d_x[i]
        along_normal += d_x[i] * normal[i]
    along_one /= F(len(normal))
    along_normal /= F(len(normal))
    for i in range(len(normal)):
        d_x[i] = (d_x[i] - along_one - normal[i] * along_normal) / deviation

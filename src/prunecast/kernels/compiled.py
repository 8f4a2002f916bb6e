"""Loops over numbers that no operator of torch makes in one pass, compiled by numba when first used, and kept on disk.

Importing numba takes half a second: whoever calls a kernel imports this module where it calls, so that only training
and Informer in batches wait for it.

All arrays are contiguous, positions are those of a tensor's numbers laid end to end, ascending.
R rows, D width of a stream, F features, P parts of the rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import njit, prange
from numba.extending import intrinsic
from numpy.typing import NDArray

# one pool of threads with torch, where there is OpenMP: two would fight for the cores
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

Function = TypeVar("Function", bound=Callable[..., Any])

Float32s = NDArray[np.float32]
Integers = NDArray[np.int64]

F = np.float32
"""Without it a number in a kernel is a float64, and half as many fit into a vector."""

CHUNK = 2**13
"""Numbers that a thread works on at a time, or one row: its part of a few tensors stays in the cache."""

SMALLEST = F(-87)
"""Below it, e**x is no longer a normal number."""

LOG2_E, LN_2_HIGH, LN_2_LOW = F(math.log2(math.e)), F(0.693359375), F(math.log(2) - 0.693359375)
"""ln 2 in two parts, of which a whole multiple of the first is exact (Cody and Waite)."""

TAYLOR = tuple(F(1 / math.factorial(n)) for n in range(7, -1, -1))


SOURCE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Returns a decorator: sums in any order, so that vector instructions take them; NaN stays NaN."""
    options = {"error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz"}} | options

    def decorate(function: Function) -> Function:
        # kept under a name that goes with the source: numba looks at one file and its date, and dates in a wheel are
        # all the same
        function.__qualname__ += f"-{SOURCE[:12]}"
        try:
            kernel = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in: every process compiles it
            kernel = njit(**options)(function)
        return cast("Function", kernel)

    return decorate


inlined = compiled(inline="always")
"""For what is small and called in loops: a call would cost the vector instructions half of their rate."""

in_parallel = compiled(parallel=True, nogil=True)
"""For kernels: their `prange` loops are shared among threads."""


@inlined
def exponential(x: np.float32) -> np.float32:
    """Returns e**x of a number up to 0, to a unit or two of the last place; zero below `SMALLEST`."""
    bounded = SMALLEST if x < SMALLEST else x
    whole = np.int32(bounded * LOG2_E - F(0.5))  # towards zero: the nearest
    rest = bounded - F(whole) * LN_2_HIGH - F(whole) * LN_2_LOW
    power = F(0)
    for coefficient in TAYLOR:
        power = power * rest + coefficient
    power *= as_float(np.int32((whole + np.int32(127)) << np.int32(23)))
    return F(0) if x < SMALLEST else power


@intrinsic  # type: ignore[untyped-decorator]
def as_float(typingctx: Any, bits: Any) -> Any:
    """Returns the float32 that has the bits of an int32."""
    return numba.float32(numba.int32), _same_bits


@intrinsic  # type: ignore[untyped-decorator]
def as_integer(typingctx: Any, number: Any) -> Any:
    """Returns the bits of a float32, as an int32."""
    return numba.int32(numba.float32), _same_bits


def _same_bits(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))


DISTANCES = 2**10
"""Distances that are found before they are added up: vector instructions take the one, not the other."""

HALF_ROOT, LN_2 = np.int32(0x3F3504F3), F(math.log(2))
"""The bits of sqrt(1/2): from there to sqrt(2) lie the numbers whose logarithm the polynomial gives."""


def _logarithm_coefficients() -> tuple[np.float32, ...]:
    """Returns c, highest first: log(1 + r) is r times the polynomial in r there, to 7e-8."""
    r = np.linspace(math.sqrt(0.5) - 1, math.sqrt(2) - 1, 1000)
    fit = np.polynomial.Chebyshev.fit(r, np.log1p(r) / r, 8).convert(kind=np.polynomial.Polynomial)
    return tuple(F(coefficient) for coefficient in fit.coef[::-1])


LOGARITHM = _logarithm_coefficients()


@compiled(nogil=True)
def place(uniform: Float32s, factor: float, count: int, positions: Integers) -> int:
    """Fills in ascending positions; the distance to each is 1 + the whole part of factor * log(1 - uniform number).

    Returns how many of them lie below `count`; -1 if all do, so that there may be more.
    """
    distances, position = np.empty(DISTANCES, F), np.int64(-1)
    for start in range(0, len(uniform), DISTANCES):
        size = min(DISTANCES, len(uniform) - start)
        drawn, placed = uniform[start : start + size], positions[start : start + size]
        for i in range(size):
            distances[i] = _logarithm(F(1) - drawn[i]) * F(factor)
        for i in range(size):
            position += np.int64(distances[i]) + 1
            if position >= count:
                return start + i
            placed[i] = position
    return -1


@inlined
def _logarithm(x: np.float32) -> np.float32:
    """Returns the natural logarithm of a positive normal number."""
    bits = as_integer(x)
    exponent = np.int32(bits - HALF_ROOT) >> np.int32(23)
    rest = as_float(np.int32(bits - (exponent << np.int32(23)))) - F(1)
    power = F(0)
    for coefficient in LOGARITHM:
        power = power * rest + coefficient
    logarithm: np.float32 = F(exponent) * LN_2 + rest * power
    return logarithm


def _tail_coefficients() -> tuple[np.float32, ...]:
    """Returns c, highest first: erfc(z) e**(z**2) is t times the polynomial in t = 1 / (1 + z / 2), to 7e-8.

    The normal distribution's tail is e**(-x**2 / 2) times a smooth function, with z = |x| / sqrt(2) this one, so that
    the tail and the density share the one exponential.
    """
    t = np.linspace(0.1, 1, 1000)
    z = 2 / t - 2
    scaled = np.array([math.erfc(number) * math.exp(number**2) for number in z]) / t
    fit = np.polynomial.Chebyshev.fit(t, scaled, 8, w=1 / scaled).convert(kind=np.polynomial.Polynomial)
    return tuple(F(coefficient) for coefficient in fit.coef[::-1])


TAIL = _tail_coefficients()
ROOT_HALF, DENSITY = F(math.sqrt(0.5)), F(1 / math.sqrt(2 * math.pi))


@in_parallel
def activate(  # noqa: PLR0917 - compiled functions take positions only
    x_RF: Float32s, bias_F: Float32s, gelu: bool, dropped: Integers, y_RF: Float32s, slope_RF: Float32s
) -> None:
    """Fills in GELU or ReLU of x, to which the bias is added, and its derivative; zeros where dropped."""
    rows, features = x_RF.shape
    step = max(1, CHUNK // features)
    for part in prange(-(-rows // step)):
        start, end = part * step, min(rows, (part + 1) * step)
        x, y, slope = x_RF[start:end], y_RF[start:end], slope_RF[start:end]
        if gelu:
            _gelu(x, bias_F, y, slope)
        else:
            _relu(x, bias_F, y, slope)
        _drop(dropped, start, y, slope)


@compiled()
def _gelu(x: Float32s, bias: Float32s, y: Float32s, slope: Float32s) -> None:
    """Fills in x * P(normal <= x)."""
    for row in range(len(x)):
        for i in range(len(bias)):
            number = x[row, i] + bias[i]
            z = abs(number) * ROOT_HALF
            bell = exponential(-z * z)
            tail = _tail(z) * bell
            share = F(1) - tail if number > F(0) else tail
            y[row, i] = number * share
            slope[row, i] = share + number * DENSITY * bell


@compiled()
def _relu(x: Float32s, bias: Float32s, y: Float32s, slope: Float32s) -> None:
    """Fills in max(x, 0)."""
    for row in range(len(x)):
        for i in range(len(bias)):
            number = x[row, i] + bias[i]
            y[row, i] = F(0) if number <= F(0) else number
            slope[row, i] = F(0) if number <= F(0) else F(1)


@inlined
def _tail(z: np.float32) -> np.float32:
    """Returns erfc(z) * e**(z**2) / 2."""
    t = F(1) / (F(1) + F(0.5) * z)
    power = F(0)
    for coefficient in TAIL:
        power = power * t + coefficient
    return F(0.5) * t * power


@inlined
def _drop(dropped: Integers, start: int, y: Float32s, slope: Float32s) -> None:
    """Zeroes what is dropped among these rows, the first of which is number `start`."""
    rows, features = y.shape
    first, end = np.searchsorted(dropped, start * features), np.searchsorted(dropped, (start + rows) * features)
    for position in dropped[first:end]:
        row, i = position // features - start, position % features
        y[row, i] = F(0)
        slope[row, i] = F(0)


def parts(rows: int, width: int) -> int:
    """Returns P."""
    return -(-rows // max(1, CHUNK // width))


@in_parallel
def add_norm_rows(  # noqa: PLR0917 - compiled functions take positions only
    x_RD: Float32s,
    y_RD: Float32s,
    dropped: Integers,
    scale: float,
    weight_D: Float32s,
    bias_D: Float32s,
    epsilon: float,
    normal_RD: Float32s,
    deviation_R: Float32s,
    result_RD: Float32s,
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
def add_norm_backward(  # noqa: PLR0917 - compiled functions take positions only
    gradient_RD: Float32s,
    normal_RD: Float32s,
    deviation_R: Float32s,
    weight_D: Float32s,
    dropped: Integers,
    scale: float,
    d_x_RD: Float32s,
    d_y_RD: Float32s,
    d_weight_PD: Float32s,
    d_bias_PD: Float32s,
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
def _normalise(x: Float32s, epsilon: np.float32) -> np.float32:
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
def _normalise_backward(
    gradient: Float32s, normal: Float32s, weight: Float32s, deviation: np.float32, d_x: Float32s
) -> None:
    along_one, along_normal = F(0), F(0)
    for i in range(len(normal)):
        d_x[i] = gradient[i] * weight[i]
        along_one += d_x[i]
        along_normal += d_x[i] * normal[i]
    along_one /= F(len(normal))
    along_normal /= F(len(normal))
    for i in range(len(normal)):
        d_x[i] = (d_x[i] - along_one - normal[i] * along_normal) / deviation

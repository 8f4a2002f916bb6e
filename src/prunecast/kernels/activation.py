"""Bias, GELU or ReLU and dropout in one pass, with the slope that the backward pass needs.

The normal distribution's tail is e**(-x**2 / 2) times a smooth function, here a polynomial in 1 / (1 + z / 2) with
z = |x| / sqrt(2), so that both share the one exponential.

All arrays are contiguous, positions are those of a tensor's numbers laid end to end, ascending.
R rows, F features.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from prunecast.kernels.compiled import (
    CHUNK,
    F,
    Floats,
    Integers,
    compiled,
    exponential,
    in_parallel,
    inlined,
)


def _tail_coefficients() -> tuple[np.float32, ...]:
    """Returns c, highest first: erfc(z) e**(z**2) is t times the polynomial in t = 1 / (1 + z / 2), to 7e-8."""
    t = np.linspace(0.1, 1, 1000)
    z = 2 / t - 2
    scaled = np.array([math.erfc(number) * math.exp(number**2) for number in z]) / t
    fit = np.polynomial.Chebyshev.fit(t, scaled, 8, w=1 / scaled).convert(kind=np.polynomial.Polynomial)
    return tuple(F(coefficient) for coefficient in fit.coef[::-1])


TAIL = _tail_coefficients()
ROOT_HALF, DENSITY = F(math.sqrt(0.5)), F(1 / math.sqrt(2 * math.pi))


@in_parallel
def activate(  # noqa: PLR0917 - compiled functions take positions only
    x_RF: Floats, bias_F: Floats, gelu: bool, dropped: Integers, y_RF: Floats, slope_RF: Floats
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
def _gelu(x: Floats, bias: Floats, y: Floats, slope: Floats) -> None:
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
def _relu(x: Floats, bias: Floats, y: Floats, slope: Floats) -> None:
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
def _drop(dropped: Integers, start: int, y: Floats, slope: Floats) -> None:
    """Zeroes what is dropped among these rows, the first of which is number `start`."""
    rows, features = y.shape
    first, end = np.searchsorted(dropped, start * features), np.searchsorted(dropped, (start + rows) * features)
    for position in dropped[first:end]:
        row, i = position // features - start, position % features
        y[row, i] = F(0)
        slope[row, i] = F(0)

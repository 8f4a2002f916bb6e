"""The positions that dropout hits: geometric distances, added up."""

from __future__ import annotations

import math

import numpy as np

from prunecast.kernels.compiled import F, Floats, Integers, as_float, as_integer, compiled, inlined

CHUNK = 2**10
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
def place(uniform: Floats, factor: float, count: int, positions: Integers) -> int:
    """Fills in ascending positions; the distance to each is 1 + the whole part of factor * log(1 - uniform number).

    Returns how many of them lie below `count`; -1 if all do, so that there may be more.
    """
    distances, position = np.empty(CHUNK, F), np.int64(-1)
    for start in range(0, len(uniform), CHUNK):
        size = min(CHUNK, len(uniform) - start)
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

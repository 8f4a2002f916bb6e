"""How kernels are compiled, and the functions of numbers that they share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

# one pool of threads with torch, where there is OpenMP: two would fight for the cores
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

Function = TypeVar("Function", bound=Callable[..., Any])

Floats = NDArray[np.float32]
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

"""Loops over numbers on the processor that no operator of torch makes in one pass, compiled when first used.

`compiled` says how; the other modules here are the kernels. They import numba, which takes half a second: whoever calls
one imports it where it is called, so that only training, and Informer in batches, waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from threading import Lock, local
from typing import Any

import torch
from torch import Tensor, nn

from prunecast.kernels.linear import by_hand

_LOCK = Lock()
"""One kernel at a time: each uses all threads, and not every pool of threads can be entered twice."""

_SHARED = local()
"""How many threads the kernels of this thread have, as numba counts them."""

_PROCESSES: list[int] = []
"""The process that started threads for kernels, once one has."""


def suit(x: Tensor) -> bool:
    """Whether there are kernels for numbers like these: float32 on the processor, with no compiler looking on.

    A process that is forked when kernels have run has no threads for them, and starting others would end it.
    """
    plain = by_hand(x) and x.dtype == torch.float32 and type(x) in {Tensor, nn.Parameter}
    return plain and not torch.is_autocast_enabled("cpu") and _PROCESSES in ([], [os.getpid()])


def run(kernel: Callable[..., Any], *arguments: Tensor | Any) -> Any:
    """Calls a kernel on contiguous tensors, with as many threads as torch has; returns what it returns."""
    arrays = [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]
    with _LOCK:
        if getattr(kernel, "targetoptions", {}).get("parallel"):
            _share_threads(torch.get_num_threads())
        return kernel(*arrays)


def _share_threads(count: int) -> None:
    """Gives kernels as many threads as torch has; numba is asked only when that changes, which is slow."""
    if getattr(_SHARED, "count", None) != count:
        numba = import_module("numba")
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
        torch.set_num_threads(
            count
        )  # the first call starts threads, and tells OpenMP, which torch asks, of all of them
        _SHARED.count = count
        if not _PROCESSES:
            _PROCESSES.append(os.getpid())

"""When code that is written for the processor computes, and how compiled kernels are called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock, local
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 16
"""Samples from which fast paths pay outside training too; one thread has the fast library for so many and more."""

_LOCK = Lock()
"""One kernel at a time: each uses all threads, and not every pool of threads can be entered twice."""

_SHARED = local()
"""Of this thread: how many threads its kernels have, as numba counts them, and whether it has plain operators only."""

_PROCESSES: list[int] = []
"""The process that started threads for kernels, once one has."""


@contextmanager
def plain_operators() -> Iterator[None]:
    """Keeps this thread from fast paths, whose gradients are written by hand: torch.func sees through plain operators.

    Nor can such a gradient be differentiated again.
    """
    before, _SHARED.plain = getattr(_SHARED, "plain", False), True
    try:
        yield
    finally:
        _SHARED.plain = before


def takes_fast_path(x: Tensor, *layers: nn.Module, training: bool = True, compiled: bool = False) -> bool:
    """Returns whether hand-written code computes with x, in the place of the plain operators.

    This is the only place that chooses. A compiler has its own ways and sees through none of ours, so that whatever is
    compiled or exported has the plain operators.

    Args:
        x: the numbers; they lie on the processor, or the plain operators compute with them.
        layers: modules whose weights are read without calling them. A hook, another forward or another class in the
            place of one would never be called, so that the plain way is taken with these.
        training: whether x is a batch of training; otherwise it needs `BATCH` samples.
        compiled: whether numba kernels are to compute. They know float32 and no type that autocast chooses; a process
            that was forked after kernels ran has no threads for them, and starting others would end it.
    """
    if not x.is_cpu or torch.compiler.is_compiling() or not (training or x.shape[0] >= BATCH):
        return False
    if getattr(_SHARED, "plain", False):
        return False
    if compiled and not (x.dtype == torch.float32 and type(x) in {Tensor, nn.Parameter}):
        return False
    if compiled and (torch.is_autocast_enabled("cpu") or _PROCESSES not in ([], [os.getpid()])):
        return False
    return all(map(is_plain, layers))


def is_plain(layer: nn.Module) -> bool:
    """Returns whether calling a layer does no more than its weights say: it is one of ours, and has no hooks."""
    kind = type(layer)
    if "forward" in layer.__dict__ or not (kind is nn.LayerNorm or kind.__module__.startswith("prunecast.kernels.")):
        return False
    # torch has no public way to ask for them
    return not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def run(kernel: Callable[..., Any], *arguments: Tensor | Any) -> Any:
    """Calls a compiled kernel on contiguous tensors, with as many threads as torch has; returns what it returns."""
    arrays = [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]
    parallel, count = getattr(kernel, "targetoptions", {}).get("parallel"), torch.get_num_threads()
    with _LOCK:
        if parallel and getattr(_SHARED, "count", None) != count:  # numba is asked only then, which is slow
            numba = import_module("numba")
            numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
            # the first call starts threads, and tells OpenMP, which torch asks, of all of them
            torch.set_num_threads(count)
            _SHARED.count = count
            if not _PROCESSES:
                _PROCESSES.append(os.getpid())
        return kernel(*arrays)

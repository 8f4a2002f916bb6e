"""Linear layers at the processor's full rate.

On AMD's processors with AVX-512 the library behind `F.linear` computes with half of the vector width that the library
behind convolutions uses. A convolution of width one over rows that are laid out channels last is the same product,
without a copy: 115 against 235 GMAC/s on two threads of an EPYC (Zen 5), forward and backward. Other processors have
the plain product: with AVX2 alone (an EPYC whose AVX-512 is hidden) a convolution's backward pass takes 1.5 to 2.3
times as long.
A graph that is exported has the plain operator, which every runtime takes. A single forecast in inference mode, where
nothing is differentiated, calls the fast library by the name that the compiler calls it by: 55 against 115 GMAC/s.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.environment import processor

BATCH = 16
"""From so many samples on the fast library is used, even by one thread."""

SMALL = 2**22
"""Multiply-adds below which a product is done before a convolution has begun: 0.12 against 0.18 ms for 1.4 million."""

WIDE = 16
"""Features from which a convolution mixes steps faster: 7 features take 3 ms instead of 0.2."""


class Linear(nn.Linear):
    """`nn.Linear`, at the processor's full rate in training and for batches."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., outputs) of (..., inputs)."""
        return self._product(x, self.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """Returns the same without the bias."""
        return self._product(x, None)

    def _product(self, x: Tensor, bias_O: Tensor | None) -> Tensor:
        product = linear if self.training or is_batch(x) else _single
        return product(x, self.weight, bias_O)


def is_plain(layer: nn.Module) -> bool:
    """Whether calling a layer does no more than its product: nobody listens to it or has put another in its place."""
    return type(layer) is Linear and not has_hooks(layer)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody listens to the calls of a module, or answers them in its place."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__


def by_hand(x: Tensor) -> bool:
    """Whether code that is written for the processor is to be used: x lies there, and no compiler looks on.

    A compiler has its own ways, and sees through none of ours.
    """
    return x.is_cpu and not torch.compiler.is_compiling()


def is_batch(x: Tensor) -> bool:
    """Whether x are numbers of many samples on the processor, and no graph is being traced."""
    return is_bulk(x, training=False)


def is_bulk(x: Tensor, *, training: bool) -> bool:
    """Whether x are numbers on the processor, in training or of many samples, and no graph is being traced."""
    return by_hand(x) and (training or x.shape[0] >= BATCH)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Returns x @ weight.T + bias by the fastest way for many rows; O outputs, I inputs."""
    if not (prefers_convolutions(x) and x.numel()) or x.numel() * weight_OI.shape[0] < SMALL:
        return F.linear(x, weight_OI, bias_O)
    # channels last, as the memory lies already; one thread gets the fast library for sixteen and more in a batch
    x_BIN1 = x.reshape(x.shape[0], -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y_BON1 = F.conv2d(x_BIN1, weight_OI[:, :, None, None], bias_O)
    return y_BON1.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight_OI.shape[0])


def over_time(matrix_QL: Tensor, x_BLD: Tensor) -> Tensor:
    """Returns matrix @ x, (B, Q, D): steps of each sample, mixed by one matrix."""
    if is_batch(x_BLD) and prefers_convolutions(x_BLD) and x_BLD.shape[2] >= WIDE:
        # time as the channels of a convolution of width one: 85 against 52 GMAC/s
        return F.conv1d(x_BLD, matrix_QL.unsqueeze(2))
    if _is_single(x_BLD):
        return _single(matrix_QL, x_BLD[0].mT, None).unsqueeze(0)
    return matrix_QL @ x_BLD


def to_series(x_BRC: Tensor, matrix_RQ: Tensor) -> Tensor:
    """Returns x.mT @ matrix, (B, C, Q): a series of each column."""
    if _is_single(x_BRC):
        return _single(x_BRC[0].mT, matrix_RQ.mT, None).unsqueeze(0)
    return x_BRC.mT @ matrix_RQ


def prefers_convolutions(x: Tensor) -> bool:
    """Whether numbers like these are multiplied faster by a convolution of width one."""
    return by_hand(x) and x.dtype == torch.float32 and _convolutions_are_faster()


@cache
def _convolutions_are_faster() -> bool:
    """Whether this is a processor whose convolutions run at a higher rate than its matrix products."""
    # by its name, not by a clock: a run that goes on must compute as it began
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return wide and "AMD" in processor()


def _is_single(x: Tensor) -> bool:
    """Whether x is one sample in inference mode, and no graph is being traced."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled() and len(x) == 1


def _single(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    fast = torch.is_inference_mode_enabled() and by_hand(x)
    if not (fast and x.dtype == torch.float32 and x.numel() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return F.linear(x, weight_OI, bias_O)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return product

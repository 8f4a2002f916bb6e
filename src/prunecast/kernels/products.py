"""Linear layers and products at the processor's full rate.

On AMD's processors with AVX-512 the library behind `F.linear` computes with half of the vector width that the library
behind convolutions uses. A convolution of width one over rows that are laid out channels last is the same product,
without a copy: 115 against 235 GMAC/s on two threads of an EPYC (Zen 5), forward and backward. Other processors have
the plain product: with AVX2 alone (an EPYC whose AVX-512 is hidden) a convolution's backward pass takes 1.5 to 2.3
times as long.
A graph that is exported has the plain operator, which every runtime takes.

B batch, S steps, D width of a stream, W width of the heads.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prunecast.kernels.base import takes_fast_path

SMALL = 2**22
"""Multiply-adds below which a product is done before a convolution has begun: 0.12 against 0.18 ms for 1.4 million."""

WIDE_SERIES = 16
"""Features from which a convolution mixes steps faster: 7 features take 3 ms instead of 0.2."""

WIDE_STREAM = 256
"""Width from which a product outweighs a copy, where another layout has the faster product."""

FEW_WEIGHTS = 2**21
"""Numbers in the gradients of single samples' weights up to which they are written out and summed: 8 MB."""

FEW_ROWS = 2
"""Rows of one sample's Fourier mode: its real and its imaginary part."""

Affine = tuple[Tensor, Tensor]
"""Weight (outputs, inputs) and bias (outputs) of a linear map."""


class Linear(nn.Linear):
    """`nn.Linear`, at the processor's full rate in training, for batches and for single forecasts."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., outputs) of (..., inputs)."""
        return self._product(x, self.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """Returns the same without the bias."""
        return self._product(x, None)

    def _product(self, x: Tensor, bias_O: Tensor | None) -> Tensor:
        if self.training or takes_fast_path(x, training=False):
            return linear(x, self.weight, bias_O)
        return _single(x, self.weight, bias_O)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, training: bool = True) -> Tensor:
    """Returns x @ weight.T + bias by the fastest way for many rows; O outputs, I inputs.

    Args:
        x: (batch, ..., I).
        weight_OI: of the map.
        bias_O: of the map, or None.
        training: whether x is a batch of training; otherwise only many samples take another way than the plain one.
    """
    pays = _convolutions_pay(x, training=training) and x.numel() * weight_OI.shape[0] >= SMALL
    if not (pays and x.numel()):
        return F.linear(x, weight_OI, bias_O)
    # channels last, as the memory lies already; one thread gets the fast library for sixteen and more in a batch
    x_BIN1 = x.reshape(x.shape[0], -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y_BON1 = F.conv2d(x_BIN1, weight_OI[:, :, None, None], bias_O)
    return y_BON1.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight_OI.shape[0])


def over_time(matrix_QL: Tensor, x_BLD: Tensor) -> Tensor:
    """Returns matrix @ x, (B, Q, D): steps of each sample, mixed by one matrix."""
    if _convolutions_pay(x_BLD, training=False) and x_BLD.shape[2] >= WIDE_SERIES:
        # time as the channels of a convolution of width one: 85 against 52 GMAC/s
        return F.conv1d(x_BLD, matrix_QL.unsqueeze(2))
    if _is_one_forecast(x_BLD):
        return _single(matrix_QL, x_BLD[0].mT, None).unsqueeze(0)
    return matrix_QL @ x_BLD


def to_series(x_BRC: Tensor, matrix_RQ: Tensor) -> Tensor:
    """Returns x.mT @ matrix, (B, C, Q): a series of each column."""
    if _is_one_forecast(x_BRC):
        return _single(x_BRC[0].mT, matrix_RQ.mT, None).unsqueeze(0)
    return x_BRC.mT @ matrix_RQ


def times_each(rows_MHRE: Tensor, weight_MHOE: Tensor) -> Tensor:
    """Returns rows @ weight.mT, (M, H, R, O), by the way that reads many small weights fastest."""
    if torch.compiler.is_exporting():  # ONNX Runtime: 0.8 ms row by row, 1.7 ms otherwise (64 x 8 x 64 x 128)
        return (rows_MHRE.unsqueeze(3) @ weight_MHOE.mT.unsqueeze(2)).squeeze(3)
    if rows_MHRE.shape[2] <= FEW_ROWS:  # 0.7 against 1.2 ms
        return (weight_MHOE @ rows_MHRE.mT).mT
    return rows_MHRE @ weight_MHOE.mT


def to_heads(x_BSD: Tensor, *maps: Affine) -> tuple[Tensor, ...]:
    """Returns weight @ x.mT + bias, (B, W, S), of each map of the same stream.

    Attention over many steps is fastest with the steps contiguous (see `attention.py`). A matrix product reads and
    writes either layout, so projections go from one to the other on their way, forward and backward, and nothing is
    copied: at width 64 that spares a training step of the Transformer or of Informer a tenth of its time.
    """
    if _copy_pays(x_BSD, x_BSD.shape[2]):
        return tuple(linear(x_BSD, *affine).mT.contiguous() for affine in maps)
    weights_WD, biases_W = zip(*maps, strict=True)
    return cast("tuple[Tensor, ...]", _ToHeads.apply(x_BSD, *weights_WD, *biases_W))  # type: ignore[no-untyped-call]


def to_stream(y_BWS: Tensor, weight_DW: Tensor, bias_D: Tensor) -> Tensor:
    """Returns y.mT @ weight.mT + bias, (B, S, D), from heads that lie as `to_heads` writes them."""
    if _copy_pays(y_BWS, y_BWS.shape[1]):
        return linear(y_BWS.mT.contiguous(), weight_DW, bias_D)
    return cast("Tensor", _ToStream.apply(y_BWS, weight_DW, bias_D))  # type: ignore[no-untyped-call]


def _copy_pays(x: Tensor, width: int) -> bool:
    """Whether the plain product is to be taken, and a copy: it is the faster one, or autocast chooses its type."""
    return (width >= WIDE_STREAM and _convolutions_pay(x)) or torch.is_autocast_enabled(x.device.type)


def _convolutions_pay(x: Tensor, *, training: bool = True) -> bool:
    """Whether numbers like these are multiplied faster by a convolution of width one."""
    return x.dtype == torch.float32 and takes_fast_path(x, training=training) and _convolutions_are_faster()


@cache
def _convolutions_are_faster() -> bool:
    """Whether this is a processor whose convolutions run at a higher rate than its matrix products."""
    # by its name, not by a clock: a run that goes on must compute as it began
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return wide and "AMD" in _maker()


def _maker() -> str:
    """Returns what says who made the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor()
    return next((line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), "")


def _is_one_forecast(x: Tensor) -> bool:
    """Whether x is one sample in inference mode."""
    return takes_fast_path(x) and torch.is_inference_mode_enabled() and len(x) == 1


def _single(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Returns x @ weight.T + bias of few rows.

    In inference mode, where nothing is differentiated, by the operator that torch's own compiler calls: 55 against 115
    GMAC/s. It has no public name, and no public operator calls that library for a product of matrices.
    """
    fast = takes_fast_path(x) and torch.is_inference_mode_enabled() and x.dtype == torch.float32 and x.numel() > 0
    if not (fast and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return F.linear(x, weight_OI, bias_O)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return product


class _ToHeads(torch.autograd.Function):
    """Several maps at once: the gradients of their common input are added up as they are computed."""

    @staticmethod
    def forward(ctx: Any, x_BSD: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        half = len(parameters) // 2
        ctx.save_for_backward(x_BSD, *parameters[:half])
        pairs = zip(parameters[:half], parameters[half:], strict=True)
        return tuple(torch.baddbmm(b.unsqueeze(1), _each(w, x_BSD), x_BSD.mT) for w, b in pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_BWS: Tensor) -> tuple[Tensor | None, ...]:
        x_BSD, *weights = ctx.saved_tensors
        d_x_BSD = None
        if ctx.needs_input_grad[0]:
            d_x_BSD = torch.bmm(gradients_BWS[0].mT, _each(weights[0], x_BSD))
            for gradient, weight in zip(gradients_BWS[1:], weights[1:], strict=True):
                d_x_BSD.baddbmm_(gradient.mT, _each(weight, x_BSD))
        d_weights = (_weight_gradient(gradient, x_BSD) for gradient in gradients_BWS)
        return d_x_BSD, *d_weights, *(gradient.sum((0, 2)) for gradient in gradients_BWS)


class _ToStream(torch.autograd.Function):
    """One map, whose gradient comes back feature-major."""

    @staticmethod
    def forward(ctx: Any, y_BWS: Tensor, weight_DW: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(y_BWS, weight_DW)
        return torch.baddbmm(bias_D, y_BWS.mT, _each(weight_DW.mT, y_BWS))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y_BWS, weight_DW = ctx.saved_tensors
        d_y_BWS = torch.bmm(_each(weight_DW.mT, y_BWS), gradient_BSD.mT)
        return d_y_BWS, _weight_gradient(gradient_BSD.mT, y_BWS.mT), gradient_BSD.sum((0, 1))


def _each(weight: Tensor, samples: Tensor) -> Tensor:
    """Returns the weight for each sample, without a copy."""
    return weight.expand(len(samples), -1, -1)


def _weight_gradient(y_BWS: Tensor, x_BSD: Tensor) -> Tensor:
    """Returns the sum of y @ x over all samples, (W, D)."""
    batch, width, steps = y_BWS.shape
    if batch * width * x_BSD.shape[2] <= FEW_WEIGHTS:
        return torch.bmm(y_BWS, x_BSD).sum(0)
    return y_BWS.transpose(0, 1).reshape(width, batch * steps) @ x_BSD.reshape(batch * steps, -1)

"""The distilling step between two segments of Informer's encoder: it halves the steps that the next one sees.

Zhou et al. 2021, "Informer", equation 5: convolution over three steps, batch normalisation, ELU, max-pooling.

B batch, L steps, P steps after the convolution, D width of the stream before it, E width of the stream after it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prunecast.kernels.linear import by_hand, linear
from prunecast.models.base import Member
from prunecast.models.layers.batchnorm import BatchNorm
from prunecast.models.layers.groups import inputs, outputs, unit_index


class Distilling(nn.Module):
    """Convolution, batch normalisation, ELU and pooling of a stream.

    The convolution is circular. `padding` is what the published code writes there: 1 keeps the number of steps, 2
    adds one at both ends. Those two are the convolution's last and first step once more, so it need not compute them.
    """

    def __init__(self, width: int, next_width: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.convolution = nn.Conv1d(width, next_width, 3)
        self.norm = BatchNorm(next_width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, `distilled_steps`, E)."""
        weight_EDK, bias_E = self.convolution.weight, self.convolution.bias
        if _is_trained(x_BLD):  # as a product: a sixth less time than the convolution, and its result is contiguous
            y_BPE = linear(_WithNeighbours.apply(x_BLD), weight_EDK.transpose(1, 2).flatten(1), bias_E)  # type: ignore[no-untyped-call]
        else:
            y_BPE = F.conv1d(_ring(x_BLD).mT, weight_EDK, bias_E).mT
        for _ in range(self.padding - 1):
            y_BPE = _ring(y_BPE)
        return F.elu(_pooled(self.norm(y_BPE)))

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream before owns here."""
        return inputs(f"{name}.convolution", unit_index(self.convolution.in_channels))

    def next_width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream after owns here."""
        index = unit_index(self.convolution.out_channels)
        return (*outputs(f"{name}.convolution", index), *self.norm.width_members(f"{name}.norm"))


def distilled_steps(steps: int, padding: int) -> int:
    """Returns how many steps are left of so many."""
    return (steps + 2 * (padding - 1) - 1) // 2 + 1


def _is_trained(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and by_hand(x)


def _ring(x_BLD: Tensor) -> Tensor:
    """Returns the steps with the last one before and the first one after them."""
    if _is_trained(x_BLD):
        return cast("Tensor", _Ring.apply(x_BLD))  # type: ignore[no-untyped-call]
    return _Ring.of(x_BLD)


class _Ring(torch.autograd.Function):
    """Closes the ring; the gradient of a slice would be a tensor of the whole size for each end."""

    @staticmethod
    def of(x_BLD: Tensor) -> Tensor:
        return torch.cat([x_BLD[:, -1:], x_BLD, x_BLD[:, :1]], dim=1)

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor) -> Tensor:
        return _Ring.of(x_BLD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BLD: Tensor) -> Tensor:
        inner_BLD = gradient_BLD[:, 1:-1].clone(memory_format=torch.contiguous_format)
        inner_BLD[:, -1] += gradient_BLD[:, 0]
        inner_BLD[:, 0] += gradient_BLD[:, -1]
        return inner_BLD


class _WithNeighbours(torch.autograd.Function):
    """Each step between the one before and the one after, (B, L, 3D), on a ring."""

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor) -> Tensor:
        ring_BLD = _Ring.of(x_BLD)
        return torch.cat([ring_BLD[:, :-2], x_BLD, ring_BLD[:, 2:]], dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BLW: Tensor) -> Tensor:
        before, here, after = gradient_BLW.chunk(3, dim=2)
        d_x_BLD = here.clone(memory_format=torch.contiguous_format)
        d_x_BLD[:, :-1] += before[:, 1:]
        d_x_BLD[:, -1] += before[:, 0]
        d_x_BLD[:, 1:] += after[:, :-1]
        d_x_BLD[:, 0] += after[:, -1]
        return d_x_BLD


def _pooled(x_BPE: Tensor) -> Tensor:
    """Returns the largest of every second step and its neighbours; ELU never changes which one that is.

    Pooled as an image of one column, channels last as the memory lies: three times as fast as a copy that is not.
    """
    image_BEP1 = x_BPE.unsqueeze(2).permute(0, 3, 1, 2)
    return F.max_pool2d(image_BEP1, (3, 1), (2, 1), (1, 0)).permute(0, 2, 3, 1).squeeze(2)

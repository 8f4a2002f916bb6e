"""The distilling step between two segments of Informer's encoder: it halves the steps that the next one sees.

Zhou et al. 2021, "Informer", equation 5: convolution over three steps, batch normalisation, ELU, max-pooling.

B batch, L steps, P steps after the convolution, D width of the stream before it, E width of the stream after it.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import ring, ring_convolution
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
        bias_E = cast("Tensor", self.convolution.bias)
        y_BPE = ring_convolution(x_BLD, self.convolution.weight, bias_E)
        for _ in range(self.padding - 1):
            y_BPE = ring(y_BPE)
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


def _pooled(x_BPE: Tensor) -> Tensor:
    """Returns the largest of every second step and its neighbours; ELU never changes which one that is.

    Pooled as an image of one column, channels last as the memory lies: three times as fast as a copy that is not.
    """
    image_BEP1 = x_BPE.unsqueeze(2).permute(0, 3, 1, 2)
    return F.max_pool2d(image_BEP1, (3, 1), (2, 1), (1, 0)).permute(0, 2, 3, 1).squeeze(2)

"""Linear layers that train at the processor's full rate.

On some processors (AMD's with AVX-512, for one) the library behind `F.linear` computes with half of the vector width
that the library behind convolutions uses. A convolution of width one over rows that are laid out channels last is the
same product, without a copy: 115 against 235 GMAC/s on two threads of an EPYC (Zen 5), forward and backward.
In eval mode a layer is the plain operator, which every runtime takes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """`nn.Linear`, trained at the processor's full rate."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., outputs) of (..., inputs)."""
        return linear(x, self.weight, self.bias) if self.training else F.linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Returns x @ weight.T + bias by the fastest way to train; O outputs, I inputs."""
    if not (x.is_cpu and x.dtype == torch.float32 and x.numel() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return F.linear(x, weight_OI, bias_O)
    # channels last, as the memory lies already; one thread gets the fast library for sixteen and more in a batch
    x_BIN1 = x.reshape(x.shape[0], -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y_BON1 = F.conv2d(x_BIN1, weight_OI[:, :, None, None], bias_O)
    return y_BON1.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight_OI.shape[0])

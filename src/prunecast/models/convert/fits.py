"""FITS of its authors: one complex layer, or one for each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunecast.models.convert.base import SIZES, Published, Tensors

LAYER = "freq_upsampler."


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names: real and imaginary parts, layers of channels in one tensor; all bins."""
    weight, bias = _stacked(published, "weight"), _stacked(published, "bias")
    writes, reads = weight.shape[-2:]
    return {
        "read_bins": torch.arange(reads),
        "written_bins": torch.arange(writes),
        "real": weight.real.contiguous(),
        "imaginary": weight.imag.contiguous(),
        "real_bias": bias.real.contiguous(),
        "imaginary_bias": bias.imag.contiguous(),
    } | {name: tensor for name, tensor in published.items() if not name.startswith(LAYER)}


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    individual = f"{LAYER}0.weight" in published
    found = {"cut_freq": _stacked(published, "weight").shape[-1], "individual": individual}
    return found | ({"channels": len(published) // 2} if individual else {})


def _stacked(published: Tensors, part: str) -> Tensor:
    if f"{LAYER}{part}" in published:
        return published[f"{LAYER}{part}"]
    return torch.stack([published[f"{LAYER}{channel}.{part}"] for channel in range(len(published) // 2)])


ARGUMENTS = {**SIZES, "cut_freq": "cut_freq", "individual": "individual"}

ORIGINAL = Published(ARGUMENTS, tensors, sizes, ("lookback", "horizon", "channels"))

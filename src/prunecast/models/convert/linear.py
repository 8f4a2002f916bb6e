"""Models that are linear maps: DLinear, FITS and SparseTSF."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunecast.models.convert.base import SIZES, Published, Tensors, renamed


def dlinear_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, (("Linear_Seasonal.", "seasonal."), ("Linear_Trend.", "trend.")))


def dlinear_sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    horizon, lookback = published["Linear_Seasonal.weight"].shape
    return {"lookback": lookback, "horizon": horizon}


DLINEAR_TSLIB = Published(
    {**SIZES, "moving_avg": "moving_avg"}, dlinear_tensors, dlinear_sizes, ("channels", "moving_avg")
)

DLINEAR_ORIGINAL = Published(SIZES, dlinear_tensors, dlinear_sizes, ("channels",), {"moving_avg": 25})
"""Its moving average is fixed."""


FITS_LAYER = "freq_upsampler."


def fits_tensors(published: Tensors) -> dict[str, Tensor]:
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
    } | {name: tensor for name, tensor in published.items() if not name.startswith(FITS_LAYER)}


def fits_sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    individual = f"{FITS_LAYER}0.weight" in published
    found = {"cut_freq": _stacked(published, "weight").shape[-1], "individual": individual}
    return found | ({"channels": len(published) // 2} if individual else {})


def _stacked(published: Tensors, part: str) -> Tensor:
    if f"{FITS_LAYER}{part}" in published:
        return published[f"{FITS_LAYER}{part}"]
    return torch.stack([published[f"{FITS_LAYER}{channel}.{part}"] for channel in range(len(published) // 2)])


FITS_ARGUMENTS = {**SIZES, "cut_freq": "cut_freq", "individual": "individual"}

FITS = Published(FITS_ARGUMENTS, fits_tensors, fits_sizes, ("lookback", "horizon", "channels"))


SPARSETSF_NAMES = (("conv1d.", "aggregation."), ("linear.", "map."), ("mlp.", "map."))


def sparsetsf_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, SPARSETSF_NAMES)


def sparsetsf_sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    if "mlp.0.weight" not in published:
        return {"model_type": "linear"}
    return {"model_type": "mlp", "d_model": published["mlp.0.weight"].shape[0]}


SPARSETSF_ARGUMENTS = {**SIZES, "period_len": "period_len", "model_type": "model_type", "d_model": "d_model"}

SPARSETSF = Published(
    SPARSETSF_ARGUMENTS, sparsetsf_tensors, sparsetsf_sizes, ("lookback", "horizon", "period_len", "channels")
)

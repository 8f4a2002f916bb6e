"""The Autoformer of Time-Series-Library and the original; both name their tensors alike."""

from __future__ import annotations

from torch import Tensor

from prunecast.models.convert import transformer
from prunecast.models.convert.base import ENCODER_DECODER, Published, Tensors, renamed

NAMES = (
    *transformer.NAMES,
    ("norm.layernorm.", "norm.norm."),
    (".projection.", ".trend."),
    ("decoder.trend.", "decoder.projection."),
)
"""A layer's projection is that of its trend; the decoder's own is that of the season."""

ARGUMENTS = {**ENCODER_DECODER, "factor": "factor", "moving_avg": "moving_avg"}
UNSEEN = (*transformer.UNSEEN, "factor", "moving_avg")

sizes = transformer.sizes


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, NAMES)


def original_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; a mixture of a single moving average, whose weight is 1, is left out."""
    return tensors({n: t for n, t in published.items() if not (".layer." in n and t.numel() == 1)})


TSLIB = Published(ARGUMENTS, tensors, sizes, UNSEEN, {"odd_lengths": "resampled"})
ORIGINAL = Published(ARGUMENTS, original_tensors, sizes, UNSEEN, {"odd_lengths": "exact"})
"""Also that of the FEDformer repository, whose moving average is 24 steps by default, written as a list of one."""

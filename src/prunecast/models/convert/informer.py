"""Informer of Time-Series-Library (and of the Autoformer and FEDformer repositories), and the original."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert import transformer
from prunecast.models.convert.base import ENCODER_DECODER, Published, Tensors, renamed

NAMES = (
    *transformer.NAMES,
    ("encoder.conv_layers.", "encoder.distilling."),
    ("downConv.", "convolution."),
    ("running_mean", "mean"),
    ("running_var", "variance"),
)


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; how many batches a normalisation has seen is left out."""
    return renamed({name: tensor for name, tensor in published.items() if not name.endswith("_tracked")}, NAMES)


def original_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; the original's last projection stands beside its decoder."""
    return tensors({f"decoder.{name}" if name.startswith("projection.") else name: t for name, t in published.items()})


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config; with one encoder layer there is nothing to distil."""
    found = transformer.sizes(published)
    distils = any(name.startswith("encoder.conv_layers.") for name in published)
    return found | {"distil": distils or found["encoder_layers"] == 1}


ARGUMENTS = {**ENCODER_DECODER, "factor": "factor", "distil": "distil"}
UNSEEN = (*transformer.UNSEEN, "factor", "cross_attention")

TSLIB = Published(ARGUMENTS, tensors, sizes, UNSEEN)
"""A checkpoint of the Autoformer repository needs `cross_attention: full`."""

ORIGINAL = Published(
    {**ARGUMENTS, "mix": "mix"},
    original_tensors,
    sizes,
    (*transformer.UNSEEN, "factor", "mix"),
    {"cross_attention": "full", "mix_all": False, "distil_padding": 1, "embedding_bias": True},
)
"""Informer2020, with attention "prob" and calendar features "timeF", its defaults."""

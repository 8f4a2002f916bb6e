"""iTransformer of Time-Series-Library, and the authors' own, which names its last layer differently."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import ENCODER, Published, Tensors, layers_of, renamed

NAMES = (
    ("enc_embedding.value_embedding.", "encoder.embedding."),
    ("projector.", "projection."),
    ("attn_layers.", "layers."),
    ("_projection.", "."),
    ("conv1.", "feed_forward.up."),
    ("conv2.", "feed_forward.down."),
)


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, NAMES)


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    d_model, lookback = published["enc_embedding.value_embedding.weight"].shape
    (last,) = published.keys() & {"projection.weight", "projector.weight"}
    return {
        "lookback": lookback,
        "horizon": published[last].shape[0],
        "d_model": d_model,
        "d_ff": published["encoder.attn_layers.0.conv1.weight"].shape[0],
        "encoder_layers": layers_of(published, "encoder.attn_layers."),
    }


UNSEEN = ("channels", "marks", "n_heads", "activation", "dropout")

TSLIB = Published(ENCODER, tensors, sizes, UNSEEN)
ORIGINAL = Published(ENCODER, tensors, sizes, UNSEEN)

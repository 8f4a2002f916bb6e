"""The Transformer of Time-Series-Library, and of the Autoformer and FEDformer repositories: names and sums alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import ENCODER_DECODER, Published, Tensors, layers_of, renamed

NAMES = (
    ("enc_embedding.", "encoder.embedding."),
    ("dec_embedding.", "decoder.embedding."),
    ("value_embedding.tokenConv.", "value."),
    ("temporal_embedding.embed.", "calendar."),
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
    d_model, channels, _ = published["enc_embedding.value_embedding.tokenConv.weight"].shape
    return {
        "channels": channels,
        "marks": published["enc_embedding.temporal_embedding.embed.weight"].shape[1],
        "d_model": d_model,
        "d_ff": published["encoder.attn_layers.0.conv1.weight"].shape[0],
        "encoder_layers": layers_of(published, "encoder.attn_layers."),
        "decoder_layers": layers_of(published, "decoder.layers."),
    }


UNSEEN = ("lookback", "horizon", "label_len", "n_heads", "activation", "dropout")

TSLIB = Published(ENCODER_DECODER, tensors, sizes, UNSEEN)

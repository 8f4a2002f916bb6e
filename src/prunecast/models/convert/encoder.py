"""Models that are an encoder alone: iTransformer and PatchTST."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import ENCODER, Published, Tensors, layers_of, renamed

ITRANSFORMER_NAMES = (
    ("enc_embedding.value_embedding.", "encoder.embedding."),
    ("projector.", "projection."),
    ("attn_layers.", "layers."),
    ("_projection.", "."),
    ("conv1.", "feed_forward.up."),
    ("conv2.", "feed_forward.down."),
)


def itransformer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, ITRANSFORMER_NAMES)


def itransformer_sizes(published: Tensors) -> dict[str, Any]:
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


ITRANSFORMER_UNSEEN = ("channels", "marks", "n_heads", "activation", "dropout")

ITRANSFORMER = Published(ENCODER, itransformer_tensors, itransformer_sizes, ITRANSFORMER_UNSEEN)
"""Of Time-Series-Library and of the authors, who name the last layer differently."""


PATCHTST_NAMES = (
    ("patch_embedding.value_embedding.", "encoder.embedding.value."),
    ("encoder.norm.1.running_", "encoder.norm."),
    ("encoder.norm.1.", "encoder.norm."),
    ("encoder.norm.var", "encoder.norm.variance"),
    ("head.linear.", "head."),
    ("attn_layers.", "layers."),
    ("_projection.", "."),
    ("conv1.", "feed_forward.up."),
    ("conv2.", "feed_forward.down."),
)


def patchtst_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; how many batches there were is nothing that we count."""
    counted = "encoder.norm.1.num_batches_tracked"
    return renamed({name: tensor for name, tensor in published.items() if name != counted}, PATCHTST_NAMES)


def patchtst_sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    d_model, patch_len = published["patch_embedding.value_embedding.weight"].shape
    return {
        "horizon": published["head.linear.weight"].shape[0],
        "patch_len": patch_len,
        "d_model": d_model,
        "d_ff": published["encoder.attn_layers.0.conv1.weight"].shape[0],
        "encoder_layers": layers_of(published, "encoder.attn_layers."),
    }


PATCHTST_UNSEEN = ("lookback", "stride", "channels", "n_heads", "activation", "dropout")

PATCHTST = Published(
    ENCODER, patchtst_tensors, patchtst_sizes, PATCHTST_UNSEEN, {"patch_len": 16, "stride": 8, "head_dropout": None}
)
"""Its patch length and stride are fixed, and dropout also hits the forecast."""

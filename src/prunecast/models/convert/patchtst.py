"""PatchTST of Time-Series-Library."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import ENCODER, Published, Tensors, layers_of, renamed

NAMES = (
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


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; how many batches there were is nothing that we count."""
    counted = "encoder.norm.1.num_batches_tracked"
    return renamed({name: tensor for name, tensor in published.items() if name != counted}, NAMES)


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    d_model, patch_len = published["patch_embedding.value_embedding.weight"].shape
    return {
        "horizon": published["head.linear.weight"].shape[0],
        "patch_len": patch_len,
        "d_model": d_model,
        "d_ff": published["encoder.attn_layers.0.conv1.weight"].shape[0],
        "encoder_layers": layers_of(published, "encoder.attn_layers."),
    }


UNSEEN = ("lookback", "stride", "channels", "n_heads", "activation", "dropout")

TSLIB = Published(ENCODER, tensors, sizes, UNSEEN, {"patch_len": 16, "stride": 8, "head_dropout": None})
"""Its patch length and stride are fixed, and dropout also hits the forecast."""

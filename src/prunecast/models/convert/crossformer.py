"""Crossformer: the authors' code, and Time-Series-Library's, which names and sizes its embedding differently."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from prunecast.models.convert.base import SIZES, Published, Tensors, layers_of, renamed

NAMES = (
    ("enc_value_embedding.value_embedding.", "encoder.embedding.value."),
    ("enc_value_embedding.linear.", "encoder.embedding.value."),
    ("enc_pos_embedding", "encoder.embedding.position"),
    ("pre_norm.", "encoder.embedding.norm."),
    ("dec_pos_embedding", "decoder.position"),
    ("encode_blocks.", "layers."),
    ("decode_layers.", "layers."),
    ("dim_sender.", "channel_attention.sender."),
    ("dim_receiver.", "channel_attention.receiver."),
    ("router", "channel_attention.routers"),
    ("_projection.", "."),
    ("linear_pred.", "projection."),
    ("linear_trans.", "linear."),
    ("self_attention.MLP1.", "self_attention.time_feed_forward."),
    ("MLP2.", "channel_feed_forward."),
)
"""The one MLP1 that is left is the encoder's first or the decoder's own."""

LATER = (("_forward.0.", "_forward.up."), ("_forward.2.", "_forward.down."))


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; routers come before segments, position tables without a batch."""
    result = {}
    for name, tensor in renamed(published, NAMES).items():
        own = _encoder_name(name) if name.startswith("encoder.layers.") else name.replace("MLP1.", "feed_forward.")
        for theirs, ours in LATER:
            own = own.replace(theirs, ours)
        if own.endswith("position"):
            tensor = tensor.squeeze(0)  # noqa: PLW2901
        result[own] = tensor.transpose(0, 1) if own.endswith("routers") else tensor
    return result


def _encoder_name(name: str) -> str:
    """Returns our name of an encoder's tensor: scale by scale there, layers and mergings apart here."""
    merging = re.fullmatch(r"encoder\.layers\.(\d+)\.merge_layer\.(.*)", name)
    if merging:
        return f"encoder.merging.{int(merging[1]) - 1}.{merging[2]}"
    return name.replace(".encode_layers.0.", ".").replace("MLP1.", "time_feed_forward.")


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    first = "encoder.encode_blocks.0.encode_layers.0"
    own, library = (f"enc_value_embedding.{part}.weight" for part in ("linear", "value_embedding"))
    d_model, seg_len = published[own if own in published else library].shape
    scales = layers_of(published, "encoder.encode_blocks.")
    return _window(published, scales, d_model) | {
        "channels": published["enc_pos_embedding"].shape[1],
        "seg_len": seg_len,
        "d_model": d_model,
        "d_ff": published[f"{first}.MLP1.0.weight"].shape[0],
        "encoder_layers": scales,
        "factor": published[f"{first}.router"].shape[1],
    }


def _window(published: Tensors, scales: int, d_model: int) -> dict[str, int]:
    """Returns the window of a merging; with a window of one nothing is merged, and one scale does not show it."""
    merged = published.get("encoder.encode_blocks.1.merge_layer.norm.weight")
    if merged is None:
        return {"win_size": 1} if scales > 1 else {}
    return {"win_size": merged.shape[0] // max(d_model, 1)}


OWN = {
    "d_model": "d_model",
    "n_heads": "n_heads",
    "d_ff": "d_ff",
    "encoder_layers": "e_layers",
    "factor": "factor",
    "dropout": "dropout",
}

TSLIB = Published(
    {**SIZES, **OWN},
    tensors,
    sizes,
    ("lookback", "horizon", "n_heads", "dropout"),
    {"variant": "tslib", "seg_len": 12, "win_size": 2},
)
"""Its segment length and window are fixed."""

ORIGINAL = Published(
    {
        "lookback": "in_len",
        "horizon": "out_len",
        "channels": "data_dim",
        "seg_len": "seg_len",
        "win_size": "win_size",
        "baseline": "baseline",
        **OWN,
    },
    tensors,
    sizes,
    ("lookback", "horizon", "win_size", "n_heads", "dropout", "baseline"),
    {"variant": "original"},
)

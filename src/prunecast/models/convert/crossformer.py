"""Crossformer: the authors' code, and Time-Series-Library's, which names and sizes its embedding differently."""

from __future__ import annotations

import re
from dataclasses import replace

from prunecast.models.convert.published import SIZES, NamePairs, Published, Tensors

NAMES: NamePairs = (
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
    (".encode_layers.0.MLP1.", ".time_feed_forward."),
    (".encode_layers.0.", "."),
    ("MLP1.", "feed_forward."),
    ("_forward.0.", "_forward.up."),
    ("_forward.2.", "_forward.down."),
)
"""The one MLP1 that is left after the encoder's is the decoder's own."""


def _rearranged(published: Tensors) -> Tensors:
    """Routers come before segments, position tables without a batch; mergings are counted apart, from the second scale.

    A scale's layers and its merging stand together in the published models.
    """
    result = {}
    for name, tensor in published.items():
        merging = re.fullmatch(r"encoder\.encode_blocks\.(\d+)\.merge_layer\.(.*)", name)
        own = f"encoder.merging.{int(merging[1]) - 1}.{merging[2]}" if merging else name
        if name.endswith("pos_embedding"):
            result[own] = tensor.squeeze(0)
        else:
            result[own] = tensor.transpose(0, 1) if name.endswith("router") else tensor
    return result


def _window(published: Tensors) -> dict[str, int]:
    """Returns the window of a merging; with a window of one nothing is merged, and one scale does not show it."""
    merged = published.get("encoder.encode_blocks.1.merge_layer.norm.weight")
    if merged is not None:
        return {"win_size": merged.shape[0] // max(published["enc_pos_embedding"].shape[-1], 1)}
    return {"win_size": 1} if any(name.startswith("encoder.encode_blocks.1.") for name in published) else {}


OWN = {
    "d_model": "d_model",
    "n_heads": "n_heads",
    "d_ff": "d_ff",
    "encoder_layers": "e_layers",
    "factor": "factor",
    "dropout": "dropout",
}

EMBEDDING = "enc_value_embedding.linear.weight|enc_value_embedding.value_embedding.weight"

TSLIB = Published(
    arguments=SIZES | OWN,
    names=NAMES,
    rearranged=_rearranged,
    shown={
        "channels": ("enc_pos_embedding", 1),
        "seg_len": (EMBEDDING, 1),
        "d_model": (EMBEDDING, 0),
        "d_ff": ("encoder.encode_blocks.0.encode_layers.0.MLP1.0.weight", 0),
        "encoder_layers": "encoder.encode_blocks.",
        "factor": ("encoder.encode_blocks.0.encode_layers.0.router", 1),
    },
    more_shown=_window,
    unseen=("lookback", "horizon", "n_heads", "dropout"),
    constants={"variant": "tslib", "seg_len": 12, "win_size": 2},
)
"""Its segment length and window are fixed."""

ORIGINAL = replace(
    TSLIB,
    arguments={
        "lookback": "in_len",
        "horizon": "out_len",
        "channels": "data_dim",
        "seg_len": "seg_len",
        "win_size": "win_size",
        "baseline": "baseline",
        **OWN,
    },
    unseen=("lookback", "horizon", "win_size", "n_heads", "dropout", "baseline"),
    constants={"variant": "original"},
)

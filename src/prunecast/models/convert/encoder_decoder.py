"""The Transformer, Informer and Autoformer, of Time-Series-Library and their own repositories: encoders and decoders.

Their parts have the same names, so that one table of names serves all, with a few more for each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunecast.models.convert.base import ENCODER_DECODER, Published, Tensors, layers_of, renamed

TRANSFORMER_NAMES = (
    ("enc_embedding.", "encoder.embedding."),
    ("dec_embedding.", "decoder.embedding."),
    ("value_embedding.tokenConv.", "value."),
    ("temporal_embedding.embed.", "calendar."),
    ("attn_layers.", "layers."),
    ("_projection.", "."),
    ("conv1.", "feed_forward.up."),
    ("conv2.", "feed_forward.down."),
)


def transformer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, TRANSFORMER_NAMES)


def encoder_decoder_sizes(published: Tensors) -> dict[str, Any]:
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


TRANSFORMER_UNSEEN = ("lookback", "horizon", "label_len", "n_heads", "activation", "dropout")

TRANSFORMER = Published(ENCODER_DECODER, transformer_tensors, encoder_decoder_sizes, TRANSFORMER_UNSEEN)
"""Of Time-Series-Library, and of the Autoformer and FEDformer repositories: names and sums alike."""


INFORMER_NAMES = (
    *TRANSFORMER_NAMES,
    ("encoder.conv_layers.", "encoder.distilling."),
    ("downConv.", "convolution."),
    ("running_mean", "mean"),
    ("running_var", "variance"),
)


def informer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; how many batches a normalisation has seen is left out."""
    return renamed(
        {name: tensor for name, tensor in published.items() if not name.endswith("_tracked")}, INFORMER_NAMES
    )


def original_informer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; the original's last projection stands beside its decoder."""
    return informer_tensors(
        {f"decoder.{name}" if name.startswith("projection.") else name: t for name, t in published.items()}
    )


def informer_sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config; with one encoder layer there is nothing to distil."""
    found = encoder_decoder_sizes(published)
    distils = any(name.startswith("encoder.conv_layers.") for name in published)
    return found | {"distil": distils or found["encoder_layers"] == 1}


INFORMER_ARGUMENTS = {**ENCODER_DECODER, "factor": "factor", "distil": "distil"}
INFORMER_UNSEEN = (*TRANSFORMER_UNSEEN, "factor", "cross_attention")

INFORMER_TSLIB = Published(INFORMER_ARGUMENTS, informer_tensors, informer_sizes, INFORMER_UNSEEN)
"""A checkpoint of the Autoformer repository needs `cross_attention: full`."""

INFORMER_ORIGINAL = Published(
    {**INFORMER_ARGUMENTS, "mix": "mix"},
    original_informer_tensors,
    informer_sizes,
    (*TRANSFORMER_UNSEEN, "factor", "mix"),
    {"cross_attention": "full", "mix_all": False, "distil_padding": 1, "embedding_bias": True},
)
"""Informer2020, with attention "prob" and calendar features "timeF", its defaults."""


AUTOFORMER_NAMES = (
    *TRANSFORMER_NAMES,
    ("norm.layernorm.", "norm.norm."),
    (".projection.", ".trend."),
    ("decoder.trend.", "decoder.projection."),
)
"""A layer's projection is that of its trend; the decoder's own is that of the season."""

AUTOFORMER_ARGUMENTS = {**ENCODER_DECODER, "factor": "factor", "moving_avg": "moving_avg"}
AUTOFORMER_UNSEEN = (*TRANSFORMER_UNSEEN, "factor", "moving_avg")


def autoformer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names."""
    return renamed(published, AUTOFORMER_NAMES)


def original_autoformer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; a mixture of a single moving average, whose weight is 1, is left out."""
    return autoformer_tensors({n: t for n, t in published.items() if not (".layer." in n and t.numel() == 1)})


AUTOFORMER_TSLIB = Published(
    AUTOFORMER_ARGUMENTS, autoformer_tensors, encoder_decoder_sizes, AUTOFORMER_UNSEEN, {"odd_lengths": "resampled"}
)
AUTOFORMER_ORIGINAL = Published(
    AUTOFORMER_ARGUMENTS,
    original_autoformer_tensors,
    encoder_decoder_sizes,
    AUTOFORMER_UNSEEN,
    {"odd_lengths": "exact"},
)
"""Also that of the FEDformer repository, whose moving average is 24 steps by default, written as a list of one."""

"""FEDformer with Fourier blocks, of Time-Series-Library and the original.

The Fourier modes that a model keeps are attributes of its modules and no part of its state dict; the functions here
also take them from a list, or draw them as the published code does.

H heads, I channels of a head that are read, O channels of a head that are written, M modes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig
from prunecast.models.convert.published import (
    AUTOFORMER_TSLIB,
    ENCODER_DECODER,
    ENCODER_DECODER_SHOWN,
    TRANSFORMER_UNSEEN,
    Modes,
    Published,
    Tensors,
)
from prunecast.models.fedformer import FEDformerConfig

SHARED = ("inner_correlation.weights1", "inner_correlation.weights2")
"""Of all layers of a stack the same weights, which a state dict lists with each of them."""

BLOCKS = {"encoder": "encoder.attn_layers.", "decoder": "self_attention.", "cross": "cross_attention."}
"""Our block -> what the published names of its weights hold."""

MODES = {
    "fourier.encoder.index": "encoder.attn_layers.0.attention.inner_correlation.index",
    "fourier.decoder.index": "decoder.layers.0.self_attention.inner_correlation.index",
    "fourier.cross.index": "decoder.layers.0.cross_attention.inner_correlation.index_q",
    "fourier.cross.key_index": "decoder.layers.0.cross_attention.inner_correlation.index_kv",
}
"""Our buffer -> the published module and attribute, in the order in which the published code draws them."""


def _shared_once(published: Tensors) -> Tensors:
    """Complex weights (H, I, O, M), or their two parts, become ours (M, H, O, 2, I), once for each shared block.

    Raises:
        UserError: when layers that share a block have different weights for it.
    """
    result, parts = {}, cast("dict[str, dict[str, Tensor]]", {})
    for name, weight in published.items():
        if not name.endswith(SHARED):
            result[name] = weight
            continue
        (block,) = (block for block, part in BLOCKS.items() if part in name)
        first = parts.setdefault(block, {}).setdefault(name.rpartition(".")[2], weight)
        if not torch.equal(first, weight):
            raise UserError(f"{name}: expected the weights that the first layer has, found others")
    for block, found in parts.items():
        weights1, weights2 = found["weights1"], found.get("weights2")
        both = (weights1.real, weights1.imag) if weights2 is None else (weights1, weights2)
        result[f"fourier.{block}.weight"] = torch.stack(both).permute(4, 1, 3, 0, 2).contiguous()
    return result


def _block_sizes(published: Tensors) -> dict[str, int]:
    shapes = [published[MODES[f"fourier.{block}.index"].rpartition(".")[0] + ".weights1"].shape for block in BLOCKS]
    heads, channels, _, _ = shapes[0]
    d_model = published["enc_embedding.value_embedding.tokenConv.weight"].shape[0]
    size = {} if heads * channels == d_model else {"head_size": channels}
    return {"n_heads": heads, **size, "modes": max(shape[3] for shape in shapes)}


def _chosen(config: ForecasterConfig) -> dict[str, tuple[int, int]]:
    """Returns our buffer -> below how many its modes are chosen, and how many."""
    model = cast("FEDformerConfig", config)
    known, ahead, widths = model.lookback // 2, model.decoder_length // 2, model.fourier_widths
    below = known, ahead, ahead, known
    counts = widths.encoder.modes, widths.decoder.modes, widths.cross.modes, widths.cross.key_modes
    return dict(zip(MODES, zip(below, counts, strict=True), strict=True))


def modes(config: ForecasterConfig, published: Modes) -> dict[str, Tensor]:
    """Returns our buffers for the modes that a published model keeps.

    Args:
        config: of our model.
        published: name of the published module and attribute -> indices; of layers that share a block any.

    Raises:
        UserError: when modes are missing, or are not those of a model of this config.
    """
    found = {}
    for theirs in MODES.values():
        of_any_layer = re.compile(re.escape(theirs).replace(r"\.0\.", r"\.\d+\."))
        same = {tuple(indices) for name, indices in published.items() if of_any_layer.fullmatch(name)}
        if len(same) != 1:
            names = ", ".join(sorted(published))
            raise UserError(f"modes {theirs!r}: expected one list, found {len(same)} among {names}")
        found[theirs] = same.pop()
    for ours, (most, count) in _chosen(config).items():
        indices = found[MODES[ours]]
        if len(indices) != count or len(set(indices)) != count or not all(0 <= index < most for index in indices):
            raise UserError(f"modes {MODES[ours]!r}: expected {count} different ones below {most}, found {[*indices]}")
    return {ours: torch.tensor([*found[theirs]]) for ours, theirs in MODES.items()}


def drawn_modes(config: ForecasterConfig, seed: int) -> Mapping[str, list[int]]:
    """Returns the modes that the published code draws when NumPy starts from a seed, under its own names."""
    generator, drawn = np.random.RandomState(seed), {}
    for ours, (most, count) in _chosen(config).items():
        every = list(range(most))
        if cast("FEDformerConfig", config).mode_select == "random":
            generator.shuffle(every)
        drawn[MODES[ours]] = sorted(every[:count])
    return drawn


TSLIB = Published(
    arguments=ENCODER_DECODER | {"moving_avg": "moving_avg", "modes": "modes"},
    names=(
        *AUTOFORMER_TSLIB.names,
        ("decomp.", "decomposition."),
        *((f"decomp{number}.", f"decomposition{number}.") for number in (1, 2, 3)),
        (".layer.", ".mixture."),
    ),
    rearranged=_shared_once,
    shown=ENCODER_DECODER_SHOWN,
    more_shown=_block_sizes,
    unseen=(*(key for key in TRANSFORMER_UNSEEN if key != "n_heads"), "moving_avg"),
    modes=modes,
    drawn_modes=drawn_modes,
)

ORIGINAL = replace(
    TSLIB,
    arguments=TSLIB.arguments | {"mode_select": "mode_select"},
    constants={"position_embedding": False, "complex_tanh": True},
)

"""FEDformer with Fourier blocks, of Time-Series-Library and the original.

The Fourier modes that a model keeps are attributes of its modules and no part of its state dict; the functions here
also take them from a list, or draw them as the published code does.

H heads, I channels of a head that are read, O channels of a head that are written, M modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig
from prunecast.models.convert.base import ENCODER_DECODER, Modes, Published, Tensors, renamed
from prunecast.models.convert.encoder_decoder import AUTOFORMER_NAMES, AUTOFORMER_UNSEEN, encoder_decoder_sizes
from prunecast.models.fedformer import FEDformerConfig

NAMES = (
    *AUTOFORMER_NAMES,
    ("decomp.", "decomposition."),
    *((f"decomp{number}.", f"decomposition{number}.") for number in (1, 2, 3)),
    (".layer.", ".mixture."),
)

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


def tensors(published: Tensors) -> dict[str, Tensor]:
    """Returns the tensors under our names; complex weights as their two parts, each shared block once.

    Raises:
        UserError: when layers that share a block have different weights for it.
    """
    shared = {name: tensor for name, tensor in published.items() if name.endswith(SHARED)}
    own = {name: tensor for name, tensor in published.items() if name not in shared}
    return renamed(own, NAMES) | _blocks(shared)


def _blocks(published: Tensors) -> dict[str, Tensor]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, weight in published.items():
        (block,) = (block for block, part in BLOCKS.items() if part in name)
        first = parts.setdefault(block, {}).setdefault(name.rpartition(".")[2], weight)
        if not torch.equal(first, weight):
            raise UserError(f"{name}: expected the weights that the first layer has, found others")
    return {
        f"fourier.{block}.weight": _weight(found["weights1"], found.get("weights2")) for block, found in parts.items()
    }


def _weight(weights1: Tensor, weights2: Tensor | None = None) -> Tensor:
    """Returns our weight (M, H, O, 2, I) of complex numbers (H, I, O, M), or of their parts."""
    parts = (weights1.real, weights1.imag) if weights2 is None else (weights1, weights2)
    return torch.stack(parts).permute(4, 1, 3, 0, 2).contiguous()


def sizes(published: Tensors) -> dict[str, Any]:
    """Returns what the tensors show of the config."""
    found = encoder_decoder_sizes(published)
    heads, channels, _, _ = _weights(published, "encoder").shape
    whole = heads * channels == found["d_model"]
    return found | {
        "n_heads": heads,
        **({} if whole else {"head_size": channels}),
        "modes": max(_weights(published, block).shape[3] for block in BLOCKS),
    }


def _weights(published: Tensors, block: str) -> Tensor:
    return published[MODES[f"fourier.{block}.index"].rpartition(".")[0] + ".weights1"]


def modes(config: ForecasterConfig, published: Modes) -> dict[str, Tensor]:
    """Returns our buffers for the modes that a published model keeps.

    Args:
        config: of our model.
        published: name of the published module and attribute -> indices; of layers that share a block any.

    Raises:
        UserError: when modes are missing, or are not those of a model of this config.
    """
    lengths, counts = _lengths(config), _counts(config)
    found = {ours: _found(theirs, published) for ours, theirs in MODES.items()}
    for ours, indices in found.items():
        most, count = lengths[ours] // 2, counts[ours]
        if len(indices) != count or len(set(indices)) != count or not all(0 <= index < most for index in indices):
            raise UserError(f"modes {MODES[ours]!r}: expected {count} different ones below {most}, found {[*indices]}")
    return {ours: torch.tensor([*indices]) for ours, indices in found.items()}


def _found(theirs: str, published: Modes) -> tuple[int, ...]:
    first, second = theirs.split(".0.")
    same = {tuple(indices) for name, indices in published.items() if _belongs(name, f"{first}.", f".{second}")}
    if len(same) != 1:
        raise UserError(f"modes {theirs!r}: expected one list, found {len(same)} among {', '.join(sorted(published))}")
    return same.pop()


def _belongs(name: str, start: str, end: str) -> bool:
    middle = name.removeprefix(start).removesuffix(end)
    return name == start + middle + end and middle.isdigit()


def drawn_modes(config: ForecasterConfig, seed: int) -> Mapping[str, list[int]]:
    """Returns the modes that the published code draws when NumPy starts from a seed, under its own names."""
    lengths, counts = _lengths(config), _counts(config)
    generator = np.random.RandomState(seed)
    return {theirs: _drawn(lengths[ours], counts[ours], config, generator) for ours, theirs in MODES.items()}


def _drawn(length: int, count: int, config: ForecasterConfig, generator: np.random.RandomState) -> list[int]:
    every = list(range(length // 2))
    if cast("FEDformerConfig", config).mode_select == "random":
        generator.shuffle(every)
    return sorted(every[:count])


def _lengths(config: ForecasterConfig) -> dict[str, int]:
    """Returns our buffer -> for how many steps its modes are drawn."""
    known, decoder = config.lookback, cast("FEDformerConfig", config).decoder_length
    return dict(zip(MODES, (known, decoder, decoder, known), strict=True))


def _counts(config: ForecasterConfig) -> dict[str, int]:
    """Returns our buffer -> how many modes it holds."""
    widths = cast("FEDformerConfig", config).fourier_widths
    counts = widths.encoder.modes, widths.decoder.modes, widths.cross.modes, widths.cross.key_modes
    return dict(zip(MODES, counts, strict=True))


ARGUMENTS = {**ENCODER_DECODER, "moving_avg": "moving_avg", "modes": "modes"}
UNSEEN = tuple(key for key in AUTOFORMER_UNSEEN if key not in {"n_heads", "factor"})

TSLIB = Published(ARGUMENTS, tensors, sizes, UNSEEN, modes=modes, drawn_modes=drawn_modes)

ORIGINAL = Published(
    {**ARGUMENTS, "mode_select": "mode_select"},
    tensors,
    sizes,
    UNSEEN,
    {"position_embedding": False, "complex_tanh": True},
    modes=modes,
    drawn_modes=drawn_modes,
)

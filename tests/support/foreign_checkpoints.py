"""Checkpoints as the training scripts of published implementations save them, with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]

LOOKBACK, HORIZON, CHANNELS = 24, 6, 3


def dlinear(lookback: int = LOOKBACK, horizon: int = HORIZON) -> dict[str, Tensor]:
    """A DLinear of Time-Series-Library."""
    return filled({n: s for part in ("Seasonal", "Trend") for n, s in linear(f"Linear_{part}", horizon, lookback)})


def transformer(
    channels: int = CHANNELS, marks: int = 4, width: int = 8, d_ff: int = 12, outputs: int | None = None
) -> dict[str, Tensor]:
    """A Transformer of Time-Series-Library: two encoder layers and one decoder layer."""
    shapes = dict(embedding("enc_embedding", channels, marks, width))
    shapes |= dict(embedding("dec_embedding", channels, marks, width))
    for number in range(2):
        shapes |= dict(layer(f"encoder.attn_layers.{number}", ("attention",), width, d_ff))
    shapes |= dict(layer("decoder.layers.0", ("self_attention", "cross_attention"), width, d_ff))
    shapes |= dict((*norm("encoder.norm", width), *norm("decoder.norm", width)))
    shapes |= dict(linear("decoder.projection", outputs or channels, width))
    return filled(shapes)


def embedding(name: str, channels: int, marks: int, width: int) -> Shapes:
    yield f"{name}.value_embedding.tokenConv.weight", (width, channels, 3)
    yield f"{name}.temporal_embedding.embed.weight", (width, marks)
    yield f"{name}.position_embedding.pe", (1, 5000, width)


def layer(name: str, attentions: tuple[str, ...], width: int, d_ff: int) -> Shapes:
    for attention in attentions:
        for part in ("query", "key", "value", "out"):
            yield from linear(f"{name}.{attention}.{part}_projection", width, width)
    yield from ((f"{name}.conv1.weight", (d_ff, width, 1)), (f"{name}.conv1.bias", (d_ff,)))
    yield from ((f"{name}.conv2.weight", (width, d_ff, 1)), (f"{name}.conv2.bias", (width,)))
    for number in range(len(attentions) + 1):
        yield from norm(f"{name}.norm{number + 1}", width)


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def saved(content: object, path: Path) -> Path:
    """Writes a file as `torch.save` does, and returns its path."""
    torch.save(content, path)
    return path

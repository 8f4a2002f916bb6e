"""Words for declaring coupled groups: which rows, columns and entries of parameters one unit owns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunecast.models.base import Member


def unit_index(size: int, positions: int = 1) -> Tensor:
    """Returns the index map (size, positions) of units that own consecutive positions."""
    return torch.arange(size * positions).view(size, positions)


def outputs(layer: str, index: Tensor, *, bias: bool = True) -> tuple[Member, ...]:
    """Returns what units own of a layer that writes them: rows of its weight, entries of its bias."""
    weight = Member(f"{layer}.weight", 0, index)
    return (weight, Member(f"{layer}.bias", 0, index)) if bias else (weight,)


def inputs(layer: str, index: Tensor) -> tuple[Member, ...]:
    """Returns what units own of a layer that reads them: columns of its weight."""
    return (Member(f"{layer}.weight", 1, index),)


def norms(*layers: str, size: int) -> tuple[Member, ...]:
    """Returns what the `size` units own of normalisations over them."""
    return tuple(member for layer in layers for member in outputs(layer, unit_index(size)))


def weights_of(model: nn.Module, *kinds: type[nn.Module]) -> tuple[str, ...]:
    """Returns the names of the weights of all modules of some kinds; no bias."""
    return tuple(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds))

"""What a weight, or a unit of coupled weights, is worth. Scores are pure: what matters more scores higher."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunecast.models.base import ForecastModel, Group
from prunecast.prune.methods import Scores, Statistics


def magnitude(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each prunable weight w with abs(w) (Han et al. 2015, "Learning both weights and connections")."""
    return {name: model.get_parameter(name).detach().abs() for name in model.prunable()}


def random(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each prunable weight with a uniform draw, the same for a seed on every device."""
    generator = torch.Generator().manual_seed(statistics.seed)
    weights = {name: model.get_parameter(name) for name in model.prunable()}
    return {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}


def unit_magnitude(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with the L2 norm over all it owns, so scaled that groups compare.

    The norm is taken per weight (root mean square), then divided by the mean of its group: 1 is a unit as
    strong as its neighbours, whatever its kind.
    """
    unused = set(model.unused_parameters())  # what they hold says nothing about a unit
    every = model.named_parameters(remove_duplicate=False)
    weights = {name: weight.detach() for name, weight in every if name not in unused}
    scores = {}
    for group in model.groups():
        squares, counts = _entry_sums(group.stack, group.size, weights) if group.stack else _unit_sums(group, weights)
        strength = torch.where(counts > 0, squares / counts, 1).sqrt()  # units without weights are worth the same
        scores[group.name] = strength / strength.mean().clamp_min(torch.finfo(strength.dtype).tiny)
    return scores


def unit_random(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with a uniform draw."""
    generator = torch.Generator().manual_seed(statistics.seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in model.groups()}


def _unit_sums(group: Group, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the sum of squares of what each unit owns, and of how many weights, in float64.

    Sums over a wide unit lose digits in float32.
    """
    squares, counts = torch.zeros((2, group.size), dtype=torch.double)
    for member in group.members:
        if member.name in weights:  # buffers may be members, but carry no weight
            weight = weights[member.name]
            by_position = weight.movedim(member.dim, 0).reshape(weight.shape[member.dim], -1)
            norms = torch.linalg.vector_norm(by_position, dim=1).double().cpu()
            squares += norms.square()[member.index.cpu()].sum(1)
            counts += by_position.shape[1] * member.index.shape[1]
    return squares, counts


def _entry_sums(stack: str, size: int, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the sum of squares of all weights below each entry of a module list, and how many they are."""
    squares, counts = torch.zeros((2, size), dtype=torch.double)
    for name, weight in weights.items():
        if name.startswith(f"{stack}."):
            entry = int(name.removeprefix(f"{stack}.").partition(".")[0])
            squares[entry] += weight.norm().double().square().cpu()
            counts[entry] += weight.numel()
    return squares, counts

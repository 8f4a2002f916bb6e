"""What a weight, or a unit of coupled weights, is worth. Scores are pure: what matters more scores higher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from prunecast.models.api import Forecaster, Group, Member
from prunecast.prune.api import Scores, Statistics


def magnitude(model: Forecaster, statistics: Statistics) -> Scores:
    """Scores each prunable weight w with abs(w) (Han et al. 2015, "Learning both weights and connections")."""
    return {name: model.get_parameter(name).detach().abs() for name in model.prunable()}


def random(model: Forecaster, statistics: Statistics) -> Scores:
    """Scores each prunable weight with a uniform draw, the same for a seed on every device."""
    generator = torch.Generator().manual_seed(statistics.seed)
    weights = {name: model.get_parameter(name) for name in model.prunable()}
    return {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}


def unit_magnitude(model: Forecaster, statistics: Statistics) -> Scores:
    """Scores each unit with the L2 norm over all it owns, so scaled that groups compare.

    The norm is taken per weight (root mean square), then divided by the mean of its group: 1 is a unit as
    strong as its neighbours, whatever its kind.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters(remove_duplicate=False)}
    return {group.name: _relative_to_mean(_root_mean_square(group, weights)) for group in model.groups()}


def unit_random(model: Forecaster, statistics: Statistics) -> Scores:
    """Scores each unit with a uniform draw."""
    generator = torch.Generator().manual_seed(statistics.seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in model.groups()}


def _relative_to_mean(strength: Tensor) -> Tensor:
    return strength / strength.mean().clamp_min(torch.finfo(strength.dtype).tiny)


def _root_mean_square(group: Group, weights: Mapping[str, Tensor]) -> Tensor:
    """Returns (size of the group,) in float64: sums over a wide unit lose digits in float32."""
    if group.stack is not None:
        parts = (_entry_sums(f"{group.stack}.{unit}.", weights) for unit in range(group.size))
        squares, counts = zip(*parts, strict=True)
        return (torch.stack(squares) / torch.tensor(counts)).sqrt()
    owned = [(member, weights[member.name]) for member in group.members if member.name in weights]
    squares = sum((_unit_sums(member, weight) for member, weight in owned), torch.zeros(group.size, dtype=torch.double))
    count = sum(weight.numel() // weight.shape[member.dim] * member.index.shape[1] for member, weight in owned)
    return (squares / count).sqrt()


def _entry_sums(prefix: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Returns the sum of squares, and how many, of all weights below a module."""
    below = [weight for name, weight in weights.items() if name.startswith(prefix)]
    return _total(weight.norm().double().square().cpu() for weight in below), sum(weight.numel() for weight in below)


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()


def _unit_sums(member: Member, weight: Tensor) -> Tensor:
    """Returns (size of the group,): the sum of squares of what each unit owns of one tensor."""
    by_position = weight.movedim(member.dim, 0).reshape(weight.shape[member.dim], -1)
    norms = torch.linalg.vector_norm(by_position, dim=1).double().cpu()
    return norms.square()[member.index.cpu()].sum(1)

"""Physically smaller models: units that do not stay are cut out of every tensor that they own a part of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from prunecast.models.base import ForecastModel, Group, Keep


def shrink(model: ForecastModel, keep: Keep, groups: Sequence[Group] | None = None) -> ForecastModel:
    """Returns the smaller model in which only `keep` stays; device, type and mode are the given model's.

    Args:
        model: is left as it is.
        keep: group name -> sorted indices of the units that stay; groups that are not named stay whole.
        groups: of the model, for those who have them already.
    """
    small = model.emptied(keep).train(model.training)
    small.load_state_dict(cut(model.state_dict(), model.groups() if groups is None else groups, keep))
    return small


def cut(tensors: Mapping[str, Tensor], groups: Iterable[Group], keep: Keep) -> dict[str, Tensor]:
    """Returns a model's tensors by name (some of them, or masks) without the positions of the units that go."""
    concerned = [group for group in groups if group.name in keep]
    assert keep.keys() == {group.name for group in concerned}, "keep names groups that the model has"
    # (tensor name, dimension) -> which positions stay, all groups together; those that no unit owns always do
    stays: dict[tuple[str, int], Tensor] = {}
    for group in concerned:
        goes = torch.ones(group.size, dtype=torch.bool)
        goes[keep[group.name]] = False
        for member in group.members:
            if member.name in tensors:
                shape = tensors[member.name].shape
                every = torch.ones(shape[member.dim], dtype=torch.bool)
                stays.setdefault((member.name, member.dim % len(shape)), every)[member.index[goes].flatten()] = False
    result = dict(tensors)
    for (name, dim), positions in stays.items():
        result[name] = result[name].index_select(dim, positions.nonzero().squeeze(1).to(result[name].device))
    for group in concerned:
        if group.stack is not None:
            result = dict(_restacked(result, group.stack, keep[group.name].tolist()))
    return result


def _restacked(tensors: Mapping[str, Tensor], stack: str, kept: list[int]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors without the entries of a module list that do not stay, the others counted anew."""
    for name, tensor in tensors.items():
        entry, _, rest = name.removeprefix(f"{stack}.").partition(".")
        if not name.startswith(f"{stack}."):
            yield name, tensor
        elif int(entry) in kept:
            yield f"{stack}.{kept.index(int(entry))}.{rest}", tensor

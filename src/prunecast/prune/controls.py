"""The control that says what remains when nothing learned is left: every weight of the body is zero."""

from __future__ import annotations

import copy

import torch

from prunecast.models.base import ForecastModel
from prunecast.prune.masks import apply_masks
from prunecast.prune.methods import Masks


def zero_body(model: ForecastModel) -> tuple[ForecastModel, Masks]:
    """Returns a copy of the model whose prunable weights are zero, the output layer's excepted, and the masks."""
    spared = model.output_layer()
    names = [name for name in model.prunable() if name not in spared]
    masks = {name: torch.zeros_like(model.get_parameter(name), dtype=torch.bool) for name in names}
    emptied = copy.deepcopy(model)
    apply_masks(emptied, masks)
    return emptied, masks

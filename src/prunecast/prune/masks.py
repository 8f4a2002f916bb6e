"""Masks on a model's weights: applied once, and held through training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunecast.errors import UserError
from prunecast.models.base import TrainingHook
from prunecast.prune.methods import Masks


def check_masks(model: nn.Module, masks: Masks) -> None:
    """Checks that each mask belongs to a parameter and has its shape.

    Raises:
        UserError: naming the first that does not.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise UserError(f"mask {name!r} does not fit the model: it has no such parameter")
        if mask.shape != parameters[name].shape:
            found, expected = tuple(mask.shape), tuple(parameters[name].shape)
            raise UserError(f"mask {name!r} does not fit the model: expected shape {expected}, found {found}")


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Sets the masked weights of a model to zero, in place.

    Raises:
        UserError: when a mask does not fit the model.
    """
    check_masks(model, masks)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        # Filled, not multiplied: a negative weight times zero is -0.0, whose sign bits compress badly.
        weight.masked_fill_(~mask.to(weight.device), 0.0)


class HeldMasks(TrainingHook):
    """A training hook that keeps masked weights, their gradients and their optimiser's moments at zero.

    Attributes:
        masks: what is held now.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = dict(masks)
        self._bound: list[tuple[nn.Parameter, Tensor]] = []
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Zeroes what is masked; the moments too, which a resumed optimiser brings along.

        Raises:
            UserError: when a mask does not fit the model.
        """
        self._model, self._optimizer = model, optimizer
        self.hold(self.masks)

    def hold(self, masks: Masks) -> None:
        """Holds these masks from now on, instead of those before.

        Raises:
            UserError: when a mask does not fit the model.
        """
        assert self._model is not None, "on_start comes first"
        apply_masks(self._model, masks)
        self.masks = dict(masks)
        weights = {name: self._model.get_parameter(name) for name in masks}
        # Cast once: multiplying by a mask of the weight's own type is ten times as fast as by a boolean one.
        self._bound = [(weight, masks[name].to(weight)) for name, weight in weights.items()]
        self._zero()

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Zeroes masked gradients."""
        for weight, mask in self._bound:
            if weight.grad is not None:
                weight.grad.mul_(mask)

    def after_step(self, step: int) -> None:
        """Zeroes masked weights and whatever the optimiser keeps per weight."""
        self._zero()

    @torch.no_grad()
    def _zero(self) -> None:
        assert self._optimizer is not None, "on_start comes first"
        for weight, mask in self._bound:
            weight.mul_(mask)
            for value in self._optimizer.state[weight].values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.mul_(mask)

    def state(self) -> dict[str, Tensor]:
        """Returns the masks."""
        return dict(self.masks)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back the masks of a checkpoint; comes before `on_start`."""
        self.masks = dict(state)

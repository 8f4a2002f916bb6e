"""Foreign checkpoints: the state dict of a published implementation becomes one of ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.api import Forecaster
from prunecast.models.published.api import Published
from prunecast.registry import PUBLISHED


def published(model: str, source: str = "tslib") -> Published:
    """Returns what is known of an implementation: source tslib (Time-Series-Library) or original.

    Raises:
        UserError: when that implementation has no such model, or we do not.
    """
    found: Published = PUBLISHED.load(f"{model}/{source}")
    return found


def published_state(
    model: Forecaster,
    tensors: Mapping[str, Tensor],
    source: str = "tslib",
    buffers: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Returns a whole state dict for `model` from one of a published implementation.

    Args:
        model: whose config fits the tensors.
        tensors: the published state dict.
        source: tslib or original.
        buffers: ours by name, which the published state dict lacks (Fourier modes, sampled indices); those of
            `model` stay otherwise.

    Raises:
        UserError: when a tensor is missing, does not belong to the model, or has another shape.
    """
    given = published(model.config.name, source).tensors(tensors) | dict(buffers or {})
    state, parameters = model.state_dict(), dict(model.named_parameters())
    missing, foreign = sorted(parameters.keys() - given.keys()), sorted(given.keys() - state.keys())
    if missing or foreign:
        raise UserError(f"checkpoint does not fit the model: missing {missing[:3]}, not in the model {foreign[:3]}")
    for name, tensor in given.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"{name}: expected shape {tuple(state[name].shape)} from the config, found {tuple(tensor.shape)}"
            )
    return state | given

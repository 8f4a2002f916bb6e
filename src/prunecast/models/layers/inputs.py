"""What goes into a forecaster: checked against its config, and continued into what a decoder starts from.

B batch, L look-back, H horizon, T = label_len + H, C channels, F calendar features and known covariates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig


def check_inputs(config: ForecasterConfig, x_BLC: Tensor, x_mark_BLF: Tensor | None, y_mark_BTF: Tensor | None) -> None:
    """Checks the inputs of a model that needs marks.

    Raises:
        UserError: when a shape is not the one of the config; marks may be left out only where it has none.
    """
    _check("x", x_BLC, config.lookback, config.channels)
    _check("x_mark", x_mark_BLF, config.lookback, config.marks)
    _check("y_mark", y_mark_BTF, config.label_len + config.horizon, config.marks)


def check_lookback(config: ForecasterConfig, x_BLC: Tensor, x_mark_BLF: Tensor | None) -> None:
    """Checks the inputs of a model that needs the marks of the look-back and none of the horizon.

    Raises:
        UserError: when a shape is not the one of the config; marks may be left out only where it has none.
    """
    _check("x", x_BLC, config.lookback, config.channels)
    _check("x_mark", x_mark_BLF, config.lookback, config.marks)


def check_history(config: ForecasterConfig, x_BLC: Tensor) -> None:
    """Checks the input of a model that uses no marks.

    Raises:
        UserError: when its shape is not the one of the config.
    """
    _check("x", x_BLC, config.lookback, config.channels)


def decoder_input(config: ForecasterConfig, x_BLC: Tensor) -> Tensor:
    """Returns (B, T, C): the last `label_len` steps of the look-back, then zeros."""
    known = x_BLC[:, config.lookback - config.label_len :]
    return torch.cat([known, x_BLC.new_zeros(x_BLC.shape[0], config.horizon, x_BLC.shape[2])], dim=1)


def _check(name: str, tensor: Tensor | None, steps: int, features: int) -> None:
    if tensor is None and features:
        raise UserError(f"{name}: expected calendar features (batch, {steps}, {features}), found none")
    if tensor is not None and tuple(tensor.shape[1:]) != (steps, features):
        raise UserError(f"{name}: expected (batch, {steps}, {features}), found {tuple(tensor.shape)}")

"""What a Fourier mode is worth: how much it adds to what its layer gives.

Modes of a transform are orthogonal: what is lost with one is its own energy, E||W_k x_k||^2, and no other can take its
place. What reads them mixes them again, so that the energy is taken behind that: in FEDformer behind the projection of
the output, which reads channels and steps in another order; in FITS it is that of the forecast itself.

U modes of a group, N windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, Layer
from prunecast.prune.methods import Scores, Statistics


def mode_energy(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each Fourier mode with the mean square of what it adds where its layer's result is read.

    Raises:
        UserError: when units of other kinds may go too: what those add is not what is lost without them.
    """
    if other := [kind for kind in statistics.kinds if kind != "mode"]:
        raise UserError(f"mode-energy: expected prune.kinds [mode], the units that it can tell apart, found {other}")
    return mode_energies(model, statistics.batches)


def mode_energies(model: ForecastModel, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Returns how much each mode adds, group name -> (U,), float64: the mean over windows, summed over layers."""
    energies: dict[str, Tensor] = {}
    windows = 0

    def hear(count: int, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(layer, Layer)
        for name, energy_U in layer.unit_energies(*arguments).items():
            energies[name] = energies.get(name, 0) + count * energy_U.double()

    was_training = model.training
    model.eval()
    for batch in batches:
        count = len(batch.x_BLC)
        windows += count
        _listen(model, partial(hear, count), batch)
    model.train(was_training)
    return {name: energy_U / windows for name, energy_U in energies.items()}


def _listen(model: ForecastModel, hear: Callable[[nn.Module, tuple[Any, ...]], None], batch: Batch) -> None:
    handles = [layer.register_forward_pre_hook(hear) for layer in model.modules() if isinstance(layer, Layer)]
    try:
        with torch.no_grad():
            model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    finally:
        for handle in handles:
            handle.remove()

"""An exported model against eager PyTorch on real windows: does it still say the same?

B batch, H horizon, O targets.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.export.base import Predictor, Runtime, Tolerance, of_any_batch
from prunecast.export.raw import artefact_scaler, offset_of, raw_inputs
from prunecast.models.io import SavedModel
from prunecast.records import Parity
from prunecast.registry import RUNTIMES

EIGHT_BITS = Tolerance(
    1.0, "weights have 7 bits, the inputs of products 8 over their range in training, and beyond it they are cut off"
)
"""For an 8-bit export, whatever the runtime."""

RAW_ROUNDING = Tolerance(
    16 * 2**-24,
    "per unit of largest raw value / standard deviation: raw values are float32 before they are standardised, "
    "and a model may amplify that error",
)

MOST_BY_ROUNDING, MOST_MSE_CHANGE = 0.1, 0.01
"""How far float32 may move a forecast (in training standard deviations) and the error (a share of it) at the most."""

FLOAT64_ROUNDING = 2.0**-29
"""That of float64 numbers, as raw values are before an offset is taken off, as a share of float32's."""

LAST_DIGITS, TRIES = 1e-6, 16
"""How far inputs are moved (in deviations, per unit of largest raw value / standard deviation), and how often."""


def check_parity(
    saved: SavedModel, runtime: str, path: Path, batches: Iterable[Batch], *, int8: bool = False
) -> Parity:
    """Compares an artefact with its model, one thread.

    A model may choose: Informer's attention takes the queries that stand out most. Where two stand out alike but for
    rounding, the last digits choose between two forecasts that differ much, and no runtime need share eager's choice.
    So a window that is off is compared again with what eager makes of inputs that are moved in their last digits, and
    the nearest of those forecasts counts. That of a wrong export is none of them.

    Args:
        saved: the model that was exported.
        runtime: name of the runtime.
        path: the artefact.
        batches: real windows, in standardised units.
        int8: whether it is an 8-bit export.

    Raises:
        RuntimeError: when a forecast is further off than the runtime's tolerance, or is not a number.
        UserError: when an 8-bit one is further off than the tolerance for 8 bits: they do not suit the model; when
            float32 numbers do not suit the data.
    """
    kind: Runtime = RUNTIMES.load(runtime)
    predict = of_any_batch(kind.load(path, 1))
    tolerance = EIGHT_BITS if int8 else kind.tolerance
    compared = [_compared(saved, predict, batch, tolerance.value) for batch in batches]
    assert compared, "no windows to compare on"
    windows, squares, extremes = zip(*compared, strict=True)
    export_error, eager_error = torch.stack(squares).sum(0).tolist()
    deviation, largest = torch.stack(extremes).amax(0).tolist()
    parity = Parity(
        windows=sum(windows),
        max_deviation=deviation,
        mse_change=(export_error - eager_error) / max(eager_error, 1e-12),
        tolerance=tolerance.value + RAW_ROUNDING.value * largest,
    )
    rounded = not int8 and tolerance.value < parity.max_deviation <= parity.tolerance
    if rounded and (parity.max_deviation > MOST_BY_ROUNDING or abs(parity.mse_change) > MOST_MSE_CHANGE):
        raise UserError(
            f"an export for {runtime} takes float32 numbers, too few digits for this data: they move the forecast by "
            f"{parity.max_deviation:.2g} training standard deviations, the MSE by {parity.mse_change:.2%}; forecast "
            "from the model folder, or train on data that stays nearer to the level of its training part"
        )
    off = f"is off by {parity.max_deviation:.3g} training standard deviations, tolerance {parity.tolerance:.3g}"
    if not parity.within and int8:
        raise UserError(f"8 bits are too few for this model on this data: its forecast {off}; export without int8")
    if not parity.within:
        raise RuntimeError(f"the export for {runtime} {off}: it does not forecast what the model does")
    return parity


def mse_change(saved: SavedModel, runtime: str, path: Path, batches: Iterable[Batch]) -> float:
    """Returns by what share of it the MSE of an artefact, one thread, is larger than that of its model in eager."""
    predict = of_any_batch(RUNTIMES.load(runtime).load(path, 1))
    squares = [_compared(saved, predict, batch, float("inf"))[1] for batch in batches]
    export_error, eager_error = torch.stack(squares).sum(0).tolist()
    return float((export_error - eager_error) / max(eager_error, 1e-12))


def _compared(saved: SavedModel, predict: Predictor, batch: Batch, tolerance: float) -> tuple[int, Tensor, Tensor]:
    """Returns of one batch: windows; squared errors of export and eager; largest deviation and largest raw value.

    Both of the last in training standard deviations.
    """
    scaler = artefact_scaler(saved.metadata)
    inputs = raw_inputs(saved.metadata, batch)
    eager_BHO = _eager(saved, batch)
    export_BHO = torch.from_numpy(scaler.select(saved.model.config.targets).transform(predict(inputs)))
    errors = [(forecast - batch.y_BHC).square().sum() for forecast in (export_BHO, eager_BHO)]
    raw = inputs["history"] / scaler.std
    held = (inputs["history"] - offset_of(saved.metadata).history) / scaler.std
    largest = torch.tensor(max(np.abs(held).max(), FLOAT64_ROUNDING * np.abs(raw).max()))
    deviation_B = (export_BHO - eager_BHO).abs().amax((1, 2))
    off = ~(deviation_B <= tolerance + RAW_ROUNDING.value * largest)
    if off.any():
        part = Batch(*(tensor[off] for tensor in batch))
        deviation_B[off] = _nearest(saved, part, export_BHO[off], LAST_DIGITS * max(1.0, largest.item()))
    return len(batch.x_BLC), torch.stack(errors), torch.stack([deviation_B.max(), largest])


def _eager(saved: SavedModel, batch: Batch) -> Tensor:
    with torch.inference_mode():
        forecast: Tensor = saved.model.eval()(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    return forecast.double()


def _nearest(saved: SavedModel, batch: Batch, export_BHO: Tensor, change: float) -> Tensor:
    """Returns how far each window's export is from the nearest of eager's forecasts for inputs moved by `change`."""
    generator = torch.Generator().manual_seed(1)
    deviations = []
    for _ in range(TRIES):
        x, x_mark, y_mark = (
            tensor + change * torch.randn(tensor.shape, generator=generator)
            for tensor in (batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
        )
        moved = _eager(saved, Batch(x, batch.y_BHC, x_mark, y_mark))
        deviations.append((export_BHO - moved).abs().amax((1, 2)))
    return torch.stack(deviations).amin(0)

"""The rows that a forecast starts from: the last window of a history, and the times that follow it.

B batch, L look-back, H horizon, C channels, F calendar features and covariates, T = label_len + H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from prunecast.data.calendar import Times, future_times
from prunecast.data.scaler import Scaler
from prunecast.data.series import History
from prunecast.data.windows import WindowShape, marks_of, to_tensor
from prunecast.errors import UserError


@dataclass(frozen=True, eq=False)
class ForecastRows:
    """One window that ends where the known rows end; its truth is not known.

    Attributes:
        x_BLC: standardised history, B = 1.
        x_mark_BLF: its marks.
        y_mark_BTF: marks of the last known steps and of the forecast.
        times: (H,) of the forecast.
    """

    x_BLC: Tensor
    x_mark_BLF: Tensor
    y_mark_BTF: Tensor
    times: Times


def rows_for_forecast(
    history: History, shape: WindowShape, freq: str, scaler: Scaler, covariate_scaler: Scaler
) -> ForecastRows:
    """Returns the last window of a history, ready for a model.

    Args:
        history: at least L known rows, and H rows of covariates after them where the model has covariates.
        shape: of the model's windows.
        freq: which set of calendar features the marks begin with.
        scaler: of the model's channels.
        covariate_scaler: of the model's covariates.

    Raises:
        UserError: when the history or its covariates are too short.
    """
    series = history.series
    _check_length(history, shape)
    times = future_times(series.times, shape.horizon, series.frequency)
    covariates_SK = np.concatenate([series.covariates_TK[-shape.lookback :], history.future_TK[: shape.horizon]])
    if not series.covariates:
        covariates_SK = np.empty((shape.steps, 0))
    marks_SF = marks_of(np.concatenate([series.times[-shape.lookback :], times]), covariates_SK, freq, covariate_scaler)
    marks_BSF = to_tensor(marks_SF)[None]
    return ForecastRows(
        to_tensor(scaler.transform(series.values_TC[-shape.lookback :]))[None],
        marks_BSF[:, : shape.lookback],
        marks_BSF[:, shape.lookback - shape.label_len :],
        times,
    )


def _check_length(history: History, shape: WindowShape) -> None:
    series = history.series
    rows, ahead = len(series.times), len(history.future_TK)
    if rows < shape.lookback:
        raise UserError(f"{series.name}: expected at least {shape.lookback} rows to forecast from, found {rows}")
    if series.covariates and ahead < shape.horizon:
        raise UserError(
            f"{series.name}: expected {shape.horizon} rows after the last known one in which {series.covariates[0]!r} "
            f"stands and the channels are empty, found {ahead}"
        )

"""Series into windows: gathered by index from one tensor, no work per item and no worker processes.

T rows, B batch, L look-back, H horizon, S = L + H, C channels, F calendar features and covariates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from prunecast.batch import Batch
from prunecast.data.calendar import Times, calendar_features, future_times, wall_times
from prunecast.data.scaler import Array, Scaler
from prunecast.data.series import Series
from prunecast.data.splits import SplitLengths
from prunecast.errors import UserError
from prunecast.recipe import DataConfig
from prunecast.records import DataFacts


@dataclass(frozen=True)
class WindowShape:
    """How long the parts of a window are, in steps."""

    lookback: int
    horizon: int
    label_len: int

    @property
    def steps(self) -> int:
        """Steps of a whole window, L + H."""
        return self.lookback + self.horizon


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of one split. Window i begins at row i of `x_TC`; nothing is copied until a batch is asked for.

    Attributes:
        x_TC: the split's rows (with the L rows before it), standardised, float32.
        marks_TF: calendar features and standardised covariates of the same rows.
        times: of the same rows.
        shape: of a window.
        targets: channels of the truth; None for all.
    """

    x_TC: Tensor
    marks_TF: Tensor
    times: Times
    shape: WindowShape
    targets: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.x_TC) - self.shape.steps + 1

    def batch(self, indices: Tensor) -> Batch:
        """Returns some windows.

        Args:
            indices: (B,) int64, each from 0 to len - 1.
        """
        rows_BS = indices.to(self.x_TC.device)[:, None] + torch.arange(self.shape.steps, device=self.x_TC.device)
        values_BSC, marks_BSF = _gathered(self.x_TC, rows_BS), _gathered(self.marks_TF, rows_BS)
        lookback, known = self.shape.lookback, self.shape.lookback - self.shape.label_len
        y_BHC = values_BSC[:, lookback:]
        return Batch(
            values_BSC[:, :lookback],
            y_BHC if self.targets is None else y_BHC[..., list(self.targets)],
            marks_BSF[:, :lookback],
            marks_BSF[:, known:],
        )

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Gives all windows in batches; the last one may be smaller.

        Args:
            size: of a batch.
            shuffle_seed: for another order, the same on every device; the order of time when absent.
        """
        if shuffle_seed is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(shuffle_seed))
        for start in range(0, len(self), size):
            yield self.batch(order[start : start + size])

    def to(self, device: torch.device) -> Windows:
        """Returns the same windows with their tensors on another device."""
        return replace(self, x_TC=self.x_TC.to(device), marks_TF=self.marks_TF.to(device))

    def times_of(self, index: int) -> Times:
        """Returns the L + H times of a window."""
        return self.times[index : index + self.shape.steps]


def _gathered(rows_TN: Tensor, rows_BS: Tensor) -> Tensor:
    # one flat index_select copies whole rows, three times as fast as indexing a view of overlapping windows
    return rows_TN.index_select(0, rows_BS.reshape(-1)).view(*rows_BS.shape, -1)


@dataclass(frozen=True, eq=False)
class DrawnBatches:
    """Some windows drawn at random, in batches that are made when they are read; the same ones each time.

    Attributes:
        windows: that are drawn from.
        size: of a batch.
        count: of batches; fewer where there are too few windows.
        seed: of the draw.
    """

    windows: Windows
    size: int
    count: int
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.windows.batches(self.size, shuffle_seed=self.seed), self.count)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series made ready for a model.

    Attributes:
        series: where the windows come from.
        train: windows of the training part.
        validation: windows whose truth lies in the validation part.
        test: windows whose truth lies in the test part.
        scaler: of the channels, fitted on the training part.
        covariate_scaler: of the covariates; empty without.
        facts: what a record keeps about the data.
    """

    series: Series
    train: Windows
    validation: Windows
    test: Windows
    scaler: Scaler
    covariate_scaler: Scaler
    facts: DataFacts


def prepare(
    series: Series,
    config: DataConfig,
    *,
    lookback: int,
    horizon: int,
    label_len: int,
    scalers: tuple[Scaler, Scaler] | None = None,
) -> Prepared:
    """Cuts a series into train, validation and test windows as published.

    The windows of validation and test begin L rows before their part, so that every row of it is forecast.

    Args:
        series: whole and in order.
        config: its `freq` says which calendar features there are.
        lookback: L.
        horizon: H.
        label_len: known steps in front of the forecast that the marks of a decoder include, at most L.
        scalers: of channels and covariates, a trained model's own; fitted on the training part when absent.

    Raises:
        UserError: when a part is too short for a single window.
    """
    shape = WindowShape(lookback, horizon, label_len)
    lengths = series.split.lengths(len(series.times), series.frequency)
    borders = _borders(lengths, shape, series)
    scaler, covariate_scaler = scalers or (
        Scaler.fit(series.raw_TC[: lengths.train]),
        Scaler.fit(series.raw_covariates_TK[: lengths.train]),
    )
    x_TC = _to_tensor(scaler.transform(series.raw_TC), series.name)
    zone = series.reading.zone
    marks_TF = _to_tensor(
        _marks(wall_times(series.times, zone), series.raw_covariates_TK, config.freq, covariate_scaler), series.name
    )
    parts = {
        name: Windows(x_TC[rows], marks_TF[rows], series.times[rows], shape, series.targets)
        for name, rows in borders.items()
    }
    facts = DataFacts(
        name=series.name,
        sha256=series.sha256,
        rows=len(series.times),
        channels=series.channels,
        windows={name: len(windows) for name, windows in parts.items()},
    )
    return Prepared(series, parts["train"], parts["validation"], parts["test"], scaler, covariate_scaler, facts)


def window_to_forecast(
    series: Series, shape: WindowShape, freq: str, scaler: Scaler, covariate_scaler: Scaler
) -> Windows:
    """Returns one window that ends H steps after the last known row: its truth is not known, but NaN.

    Args:
        series: at least L known rows, and H further rows of covariates where it has any.
        shape: of the model's windows.
        freq: which set of calendar features the marks begin with.
        scaler: of the model's channels.
        covariate_scaler: of the model's covariates.

    Raises:
        UserError: when the series or its covariates are too short.
    """
    rows = len(series.times)
    ahead = len(series.raw_covariates_TK) - rows
    if rows < shape.lookback:
        raise UserError(f"{series.name}: expected at least {shape.lookback} rows to forecast from, found {rows}")
    if series.covariates and ahead < shape.horizon:
        raise UserError(
            f"{series.name}: expected {shape.horizon} rows after the last known one in which {series.covariates[0]!r} "
            f"stands and the channels are empty, found {ahead}"
        )
    first = rows - shape.lookback
    zone = series.reading.zone
    times = np.concatenate([series.times[first:], future_times(series.times, shape.horizon, series.frequency, zone)])
    covariates_SK = series.raw_covariates_TK[first : rows + shape.horizon]
    if not series.covariates:
        covariates_SK = np.empty((shape.steps, 0))
    x_LC = _to_tensor(scaler.transform(series.raw_TC[first:]), series.name)
    unknown_HC = x_LC.new_full((shape.horizon, x_LC.shape[1]), torch.nan)
    marks_SF = _to_tensor(_marks(wall_times(times, zone), covariates_SK, freq, covariate_scaler), series.name)
    return Windows(torch.cat([x_LC, unknown_HC]), marks_SF, times, shape, series.targets)


def _marks(times: Times, covariates_TK: Array, freq: str, scaler: Scaler) -> Array:
    """Returns the marks (T, F): calendar features, then standardised covariates."""
    return np.concatenate([calendar_features(times, freq), scaler.transform(covariates_TK)], axis=1)


def _to_tensor(values: Array, name: str) -> Tensor:
    with np.errstate(over="ignore"):
        tensor = torch.from_numpy(values.astype(np.float32))
    if not torch.isfinite(tensor).all():
        raise UserError(
            f"{name}: a value is further from the mean of the training part than float32 can say: not finite"
        )
    return tensor


def _borders(lengths: SplitLengths, shape: WindowShape, series: Series) -> dict[str, slice]:
    """Returns the rows of each part, for validation and test with the look-back before it."""
    train_end = lengths.train
    validation_end = train_end + lengths.validation
    test_end = validation_end + lengths.test
    borders = {
        "train": slice(0, train_end),
        "validation": slice(train_end - shape.lookback, validation_end),
        "test": slice(validation_end - shape.lookback, test_end),
    }
    rows = len(series.times)
    for name, part in borders.items():
        found = min(part.stop, rows) - part.start
        if part.start < 0 or found < shape.steps or part.stop > rows:
            raise UserError(
                f"{series.name}: too short for look-back {shape.lookback} and horizon {shape.horizon}: the {name} part "
                f"has {max(found, 0)} rows with its look-back, expected at least {shape.steps} ({rows} rows in all); "
                "set a smaller --lookback or --horizon, or data.split, or give more rows"
            )
    return borders

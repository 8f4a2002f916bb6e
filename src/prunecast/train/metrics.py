"""What a forecast's error is measured in. A new metric is one function here and one line in the registry.

An error takes forecast and truth in standardised units, and what it may need to know of the series:

    error(forecast_BHC, truth_BHC, context) -> errors_BSC

S is H where each step has an error, 1 where the whole horizon has one. The error of a part is their mean over windows,
steps and channels, or the root of it where the metric says so: taken once, at the end, whatever the mean goes over.

T rows of the training part, B windows, H horizon, C scored channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from prunecast.data.windows import Prepared
from prunecast.registry import METRICS
from prunecast.results import ErrorRow

ROUNDING = 1e-6
"""What a series that repeats itself is off by as float32 numbers, in deviations."""


@dataclass(frozen=True, eq=False)
class MetricContext:
    """What a metric may need to know of the scored channels.

    Attributes:
        training_TC: rows of the training part, standardised, float64.
        season: steps after which the series is expected to repeat itself.
        mean_C: of the training part in raw units, float64: raw = standardised * std_C + mean_C.
        std_C: of the training part in raw units, float64.
    """

    training_TC: Tensor
    season: int
    mean_C: Tensor
    std_C: Tensor

    @cached_property
    def naive_mae_C(self) -> Tensor:
        """Mean absolute error of the seasonal naive forecast within the training part, standardised units.

        It is 0 where it is no more than rounding; steps that are not known (NaN) do not count.
        """
        naive_C = (self.training_TC[self.season :] - self.training_TC[: -self.season]).abs().nanmean(0)
        return naive_C.where(naive_C > ROUNDING, 0)


Error = Callable[[Tensor, Tensor, MetricContext], Tensor]
"""(forecast_BHC, truth_BHC, context) -> errors_BSC in float64."""


@dataclass(frozen=True)
class Metric:
    """An entry of `registry.METRICS`; an error alone is one too, without a root and without a unit.

    Attributes:
        error: of steps and channels.
        root: whether the square root is taken, once, of the mean over all that is scored together.
        unit: power of a channel's unit that the error has; 0 where it has none, so that scaling changes nothing.
    """

    error: Error
    root: bool = False
    unit: int = 0

    def on(self, context: MetricContext) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns the error as a function of forecast and truth alone."""
        return lambda forecast_BHC, truth_BHC: self.error(forecast_BHC, truth_BHC, context)


BoundMetrics = Mapping[str, Callable[[Tensor, Tensor], Tensor]]
"""Name of a metric -> (forecast_BHC, truth_BHC) -> errors_BSC without its root, on a series that it knows."""


def squared_error(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext | None = None) -> Tensor:
    """Returns the squared error of each step and channel; its mean is the MSE, the root of that the RMSE."""
    return (forecast_BHC - truth_BHC).double().square()


def absolute_error(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext | None = None) -> Tensor:
    """Returns the absolute error of each step and channel; its mean is the MAE."""
    return (forecast_BHC - truth_BHC).double().abs()


def relative_error(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext) -> Tensor:
    """Returns the absolute error as a share of the raw truth, infinite where that is 0; its mean is the MAPE."""
    raw_BHC = truth_BHC.double() * context.std_C + context.mean_C
    return absolute_error(forecast_BHC, truth_BHC) * context.std_C / raw_BHC.abs()


def scaled_error(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext) -> Tensor:
    """Returns the absolute error in units of the seasonal naive forecast's within the training part.

    Its mean is the MASE (Hyndman and Koehler 2006, eq. 2): below 1 where the forecast is the better of the two.
    """
    return absolute_error(forecast_BHC, truth_BHC) / context.naive_mae_C


MSE = Metric(squared_error, unit=2)
MAE = Metric(absolute_error, unit=1)
RMSE = Metric(squared_error, root=True, unit=1)
MAPE = Metric(relative_error)
MASE = Metric(scaled_error)


def bound_metrics(prepared: Prepared, names: Collection[str]) -> BoundMetrics:
    """Returns registered metrics for the scored channels of a series.

    Raises:
        UserError: on an unknown name.
    """
    if not names:
        return {}
    context = metric_context(prepared)
    return {name: metric(name).on(context) for name in names}


def metric(name: str) -> Metric:
    """Returns a registered metric."""
    found: Metric | Error = METRICS.load(name)
    return found if isinstance(found, Metric) else Metric(found)


def metric_context(prepared: Prepared) -> MetricContext:
    """Returns what metrics may know of the scored channels of a series."""
    targets = slice(None) if prepared.train.targets is None else list(prepared.train.targets)
    return MetricContext(
        training_TC=prepared.train.x_TC[:, targets].double(),
        season=prepared.series.season,
        mean_C=torch.from_numpy(prepared.scaler.mean)[targets],
        std_C=torch.from_numpy(prepared.scaler.std)[targets],
    )


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of steps and channels, gathered over windows.

    Attributes:
        context: what the metrics may know of the channels.
        sums: name of a metric -> (sums_HC, counts_HC) over the windows so far; steps without a truth do not count.
    """

    context: MetricContext
    sums: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def add(self, forecast_BHC: Tensor, truth_BHC: Tensor) -> None:
        """Adds some windows, in standardised units; a truth that is not known is NaN."""
        known_HC = (~truth_BHC.isnan()).sum(0)
        for name in METRICS.names():
            errors_BSC = metric(name).error(forecast_BHC, truth_BHC, self.context)
            sums_SC, counts_HC = self.sums.get(name, (torch.zeros(()), torch.zeros_like(known_HC)))
            self.sums[name] = sums_SC + errors_BSC.where(~truth_BHC.isnan(), 0).sum(0), counts_HC + known_HC

    def channels(self, names: Sequence[str]) -> tuple[ErrorRow, ...]:
        """Returns the errors of each channel over windows and steps, standardised and in the channel's own unit.

        Args:
            names: of the channels.
        """
        units = {name: unit for name in self.sums if (unit := metric(name).unit)}
        errors = {name: self._over(name, 0) for name in self.sums}
        raw = {name: errors[name] * self.context.std_C**unit for name, unit in units.items()}
        return tuple(
            ErrorRow(name=name, errors=_finite(errors, channel), raw=_finite(raw, channel))
            for channel, name in enumerate(names)
        )

    def steps(self) -> tuple[ErrorRow, ...]:
        """Returns the errors of each step over windows and channels, standardised."""
        errors = {name: self._over(name, 1) for name in self.sums}
        horizon = len(next(iter(errors.values())))
        return tuple(ErrorRow(name=step + 1, errors=_finite(errors, step)) for step in range(horizon))

    def _over(self, name: str, dimension: int) -> Tensor:
        sums_HC, counts_HC = self.sums[name]
        means = sums_HC.sum(dimension) / counts_HC.sum(dimension)
        return means.sqrt() if metric(name).root else means


def _finite(errors: Mapping[str, Tensor], position: int) -> dict[str, float | None]:
    found = {name: values[position].item() for name, values in errors.items()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}

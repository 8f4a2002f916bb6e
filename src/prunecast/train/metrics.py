"""What a forecast's error is measured in. A new metric is one function here and one line in the registry.

A metric takes forecast and truth in standardised units, and what it may need to know of the series:

    metric(forecast_BHC, truth_BHC, context) -> errors_BSC

S is H where each step has an error, 1 where the whole horizon has one. The error of a window is their mean over steps
and channels, the error of a part that of its windows: so every metric has the same blocks, and the same interval.

T rows of the training part, B windows, H horizon, C scored channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from prunecast.data.windows import Prepared
from prunecast.registry import METRICS


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
        """Mean absolute error of the seasonal naive forecast within the training part, standardised units."""
        return (self.training_TC[self.season :] - self.training_TC[: -self.season]).abs().mean(0)


Metric = Callable[[Tensor, Tensor, MetricContext], Tensor]
"""(forecast_BHC, truth_BHC, context) -> errors_BSC in float64; an entry of `registry.METRICS`."""

BoundMetrics = Mapping[str, Callable[[Tensor, Tensor], Tensor]]
"""Name of a metric -> (forecast_BHC, truth_BHC) -> errors_BSC, on a series that it knows."""


def squared_error(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext | None = None) -> Tensor:
    """Returns the squared error of each step and channel; its mean is the MSE."""
    return (forecast_BHC - truth_BHC).double().square()


def absolute_error(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext | None = None) -> Tensor:
    """Returns the absolute error of each step and channel; its mean is the MAE."""
    return (forecast_BHC - truth_BHC).double().abs()


def bound_metrics(prepared: Prepared, names: Collection[str]) -> BoundMetrics:
    """Returns registered metrics for the scored channels of a series.

    Raises:
        UserError: on an unknown name.
    """
    if not names:
        return {}
    targets = slice(None) if prepared.train.targets is None else list(prepared.train.targets)
    context = MetricContext(
        training_TC=prepared.train.x_TC[:, targets].double(),
        season=prepared.series.season,
        mean_C=torch.from_numpy(prepared.scaler.mean)[targets],
        std_C=torch.from_numpy(prepared.scaler.std)[targets],
    )
    return {name: partial(METRICS.load(name), context=context) for name in names}

"""Scoring: errors in standardised units, over windows, with the blocks that the bootstrap resamples.

B batch, H horizon, C scored channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.data.windows import Windows
from prunecast.errors import UserError
from prunecast.records import Accuracy, Blocks, Scoring, Split
from prunecast.train.metrics import BoundMetrics, Errors, absolute_error, metric, squared_error

PAPER_BATCH = 32
"""Batch size of the published test loaders, which dropped the last incomplete batch."""

EVALUATION_BATCH = 32
"""Windows per forward pass; it changes no result beyond rounding. Larger ones leave the cache: 1.5 ms for a window of
a small Transformer, 2.1 to 3.1 ms in batches of 128."""

WindowErrors = NDArray[np.float64]
"""One number for each window."""

Predict = Callable[[Batch], Tensor]
"""Batch -> forecast y_BHC in standardised units."""


def scored_windows(total: int, scoring: Scoring) -> int:
    """Returns how many of `total` windows count: all, or whole batches of 32 as in the published tables."""
    return total if scoring == "full" else total // PAPER_BATCH * PAPER_BATCH


def evaluate_model(
    model: nn.Module, windows: Windows, split: Split, scoring: Scoring = "full", further: BoundMetrics | None = None
) -> Accuracy:
    """Scores a forecaster in eval mode over a split's windows; the mode it was in comes back.

    `further` are the metrics besides MSE and MAE, as `metrics.bound_metrics` gives them.
    """
    with in_eval_mode(model) as predict:
        return score(predict, windows, split, scoring, further)


def evaluate_both(
    model: nn.Module, windows: Windows, split: Split, further: BoundMetrics | None = None
) -> tuple[Accuracy, Accuracy | None]:
    """Returns the full scoring and, from the same forecasts, the paper's; none where no batch of 32 is whole."""
    with in_eval_mode(model) as predict:
        errors = window_errors(predict, windows, len(windows), further)
    whole = scored_windows(len(windows), "paper")
    of_whole = {name: values[:whole] for name, values in errors.items()}
    paper = accuracy(of_whole, windows, split, "paper").model_copy(update={"blocks": None}) if whole else None
    return accuracy(errors, windows, split, "full"), paper


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[Predict]:
    """Gives the model's forecast as a function; the mode that it was in comes back."""
    was_training = model.training
    model.eval()
    try:
        yield lambda batch: model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    finally:
        model.train(was_training)


def score(
    predict: Predict,
    windows: Windows,
    split: Split,
    scoring: Scoring = "full",
    further: BoundMetrics | None = None,
    *,
    errors: Errors | None = None,
) -> Accuracy:
    """Scores whatever forecasts, an exported artefact too; `errors` gathers those of each step and channel.

    Raises:
        UserError: when there is no window to score, or an error is not a finite number.
    """
    count = scored_windows(len(windows), scoring)
    if count == 0:
        raise UserError(f"paper scoring needs {PAPER_BATCH} windows, the {split} part has {len(windows)}; use full")
    return accuracy(window_errors(predict, windows, count, further, errors), windows, split, scoring)


def accuracy(errors: Mapping[str, WindowErrors], windows: Windows, split: Split, scoring: Scoring) -> Accuracy:
    """Returns the result in the errors of single windows, by metric, roots not taken yet.

    Sums run in float64, so the order of batches does not show.

    Raises:
        UserError: when an error is not a finite number.
    """
    if not np.isfinite(errors["mse"]).all():
        raise UserError(f"the forecasts of the {split} part are not finite; expected the weights of a sound training")
    for name, values in errors.items():
        if not np.isfinite(values).all():
            raise UserError(f"{name} of the {split} part is not finite: it has no meaning on this data; leave it out")
    count, length = len(errors["mse"]), windows.shape.steps
    edges = np.arange(0, count, length)  # of blocks of windows, which overlap in no value
    sizes = np.diff(np.append(edges, count))
    means, blocks = {}, {}
    for name, values in errors.items():
        mean, of_blocks = float(values.mean()), np.add.reduceat(values, edges) / sizes
        if metric(name).root and mean > 0:
            root = math.sqrt(mean)
            # what each block adds to the root of the mean, to first order: their mean is the root itself
            mean, of_blocks = root, (of_blocks + mean) / (2 * root)
        means[name], blocks[name] = mean, tuple(of_blocks.tolist())
    return Accuracy(
        split=split,
        scoring=scoring,
        windows=count,
        mse=means.pop("mse"),
        mae=means.pop("mae"),
        metrics=means,
        blocks=Blocks(
            length=length,
            windows=tuple(sizes.tolist()),
            mse=blocks.pop("mse"),
            mae=blocks.pop("mae"),
            metrics=blocks,
        ),
    )


@torch.inference_mode()
def window_errors(
    predict: Predict,
    windows: Windows,
    count: int,
    further: BoundMetrics | None = None,
    details: Errors | None = None,
) -> dict[str, WindowErrors]:
    """Returns the mean error of each of the first `count` windows: MSE, MAE and further metrics, by name.

    Roots are taken of the mean over windows only. `details` gathers the errors of each step and channel.
    """
    metrics: BoundMetrics = {"mse": squared_error, "mae": absolute_error} | dict(further or {})
    errors: dict[str, list[WindowErrors]] = {name: [] for name in metrics}
    for start in range(0, count, EVALUATION_BATCH):
        batch = windows.batch(torch.arange(start, min(start + EVALUATION_BATCH, count)))
        forecast_BHC = predict(batch)
        if details is not None:
            details.add(forecast_BHC, batch.y_BHC)
        for name, error in metrics.items():
            errors[name].append(error(forecast_BHC, batch.y_BHC).mean(dim=(1, 2)).cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in errors.items()}

"""Scoring: errors in standardised units, over windows, with the blocks that the bootstrap resamples.

B batch, H horizon, C scored channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.data.windows import Windows
from prunecast.errors import UserError
from prunecast.records import Accuracy, Blocks, Scoring, Split

PAPER_BATCH = 32
"""Batch size of the published test loaders, which dropped the last incomplete batch."""

EVALUATION_BATCH = 32
"""Windows per forward pass; it changes no result beyond rounding. Larger ones leave the cache: 1.5 ms for a window of
a small Transformer, 2.1 to 3.1 ms in batches of 128."""

Errors = NDArray[np.float64]
"""One number for each window."""

Predict = Callable[[Batch], Tensor]
"""Batch -> forecast y_BHC in standardised units."""


def scored_windows(total: int, scoring: Scoring) -> int:
    """Returns how many of `total` windows count: all, or whole batches of 32 as in the published tables."""
    return total if scoring == "full" else total // PAPER_BATCH * PAPER_BATCH


def evaluate(model: nn.Module, windows: Windows, split: Split, scoring: Scoring = "full") -> Accuracy:
    """Scores a forecaster in eval mode over a split's windows; the mode it was in comes back."""
    with in_eval_mode(model) as predict:
        return score(predict, windows, split, scoring)


def evaluate_both(model: nn.Module, windows: Windows, split: Split) -> tuple[Accuracy, Accuracy | None]:
    """Returns the full scoring and, from the same forecasts, the paper's; none where no batch of 32 is whole."""
    with in_eval_mode(model) as predict:
        squared, absolute = window_errors(predict, windows, len(windows))
    whole = scored_windows(len(windows), "paper")
    paper = accuracy(squared[:whole], absolute[:whole], windows, split, "paper") if whole else None
    return accuracy(squared, absolute, windows, split, "full"), paper and paper.model_copy(update={"blocks": None})


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[Predict]:
    """Gives the model's forecast as a function; the mode that it was in comes back."""
    was_training = model.training
    model.eval()
    try:
        yield lambda batch: model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    finally:
        model.train(was_training)


def score(predict: Predict, windows: Windows, split: Split, scoring: Scoring = "full") -> Accuracy:
    """Scores whatever forecasts, an exported artefact too.

    Raises:
        UserError: when there is no window to score, or a forecast is not a finite number.
    """
    count = scored_windows(len(windows), scoring)
    if count == 0:
        raise UserError(f"paper scoring needs {PAPER_BATCH} windows, the {split} part has {len(windows)}; use full")
    return accuracy(*window_errors(predict, windows, count), windows, split, scoring)


def accuracy(squared: Errors, absolute: Errors, windows: Windows, split: Split, scoring: Scoring) -> Accuracy:
    """Returns the result in the errors of single windows.

    Sums run in float64, so the order of batches does not show.

    Raises:
        UserError: when an error is not a finite number.
    """
    if not np.isfinite(squared).all():
        raise UserError(f"the forecasts of the {split} part are not finite; expected the weights of a sound training")
    return Accuracy(
        split=split,
        scoring=scoring,
        windows=len(squared),
        mse=float(squared.mean()),
        mae=float(absolute.mean()),
        blocks=block_means(squared, absolute, windows.shape.steps),
    )


@torch.inference_mode()
def window_errors(predict: Predict, windows: Windows, count: int) -> tuple[Errors, Errors]:
    """Returns mean squared and mean absolute error of each of the first `count` windows."""
    squared, absolute = [], []
    for start in range(0, count, EVALUATION_BATCH):
        batch = windows.batch(torch.arange(start, min(start + EVALUATION_BATCH, count)))
        difference = (predict(batch) - batch.y_BHC).double()
        squared.append(difference.square().mean(dim=(1, 2)).cpu().numpy())
        absolute.append(difference.abs().mean(dim=(1, 2)).cpu().numpy())
    return np.concatenate(squared), np.concatenate(absolute)


def block_means(squared: Errors, absolute: Errors, length: int) -> Blocks:
    """Returns the errors of consecutive blocks of `length` windows, which overlap in no value."""
    edges = np.arange(0, len(squared), length)
    sizes = np.diff(np.append(edges, len(squared)))
    return Blocks(
        length=length,
        windows=tuple(int(size) for size in sizes),
        mse=tuple(float(total / size) for total, size in zip(np.add.reduceat(squared, edges), sizes, strict=True)),
        mae=tuple(float(total / size) for total, size in zip(np.add.reduceat(absolute, edges), sizes, strict=True)),
    )

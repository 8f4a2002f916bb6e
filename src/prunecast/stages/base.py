"""What stages take and give: the inputs of a stage, and its typed result.

A result's fields are the record's, by name; what a model is beside its numbers lies in `saved`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prunecast.data.scaler import Scaler
from prunecast.data.windows import Prepared
from prunecast.inference import metadata_of
from prunecast.measure.operations import count_operations
from prunecast.measure.size import measure_size
from prunecast.models.base import ForecastModel
from prunecast.models.io import SavedModel, load_model
from prunecast.recipe import DataConfig, Recipe
from prunecast.records import Accuracy, Artefact, Example, Fit, Imported, Operations, Pruning, RunRecord, Size, Timing
from prunecast.stages.job import Job
from prunecast.store import read_record
from prunecast.train.evaluate import evaluate_both, evaluate_model
from prunecast.train.metrics import bound_metrics
from prunecast.train.progress import Reporter

EXAMPLES = 3
"""Forecasts kept for drawing, spread evenly over the test part."""


@dataclass(frozen=True)
class Parent:
    """A model that a stage goes on from, and the record of the stage that made it."""

    saved: SavedModel
    record: RunRecord


@dataclass(frozen=True, kw_only=True)
class StageInputs:
    """What a stage gets besides its job; each takes what it needs.

    Attributes:
        prepared: windows of the job's data; None for an import without data.
        directory: an empty folder for the result; None where the result stays in memory.
        found: fingerprint of a finished stage -> its folder; None where there are no folders.
        known: the parent where it is in memory.
        known_unpruned: the model that was pruned where it is in memory, for fine-tuning that looks back to it.
        work: folder for checkpoints; None to keep none.
        reporter: hears of training.
        machine_busy: whether a timing waited in vain to have the machine to itself.
    """

    prepared: Prepared | None
    directory: Path | None = None
    found: Callable[[str], Path] | None = None
    known: Parent | None = None
    known_unpruned: Parent | None = None
    work: Path | None = None
    reporter: Reporter | None = None
    machine_busy: bool = False

    def windows(self) -> Prepared:
        """Returns the windows of the job's data, which every stage but an import has."""
        assert self.prepared is not None, "only an import can do without data"
        return self.prepared

    def folder(self, fingerprint: str | None) -> Path:
        """Returns the folder of a finished stage."""
        assert fingerprint is not None
        assert self.found is not None, "there are no folders here"
        return self.found(fingerprint)

    def parent(self, job: Job) -> Parent:
        """Returns the model that a job goes on from. It is the stage's own: a stage may change it."""
        return self._opened(self.known, job.parent)

    def unpruned(self, job: Job) -> Parent:
        """Returns the model that was pruned, for fine-tuning that looks back to it; it is the stage's own too."""
        return self._opened(self.known_unpruned, job.unpruned)

    def _opened(self, known: Parent | None, fingerprint: str | None) -> Parent:
        if known is not None:
            saved = known.saved
            return replace(known, saved=replace(saved, model=copy.deepcopy(saved.model)))
        folder = self.folder(fingerprint)
        return Parent(load_model(folder), read_record(folder))


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model that a stage made, and what is known about it. Errors are None for an import without data."""

    saved: SavedModel
    validation: Accuracy | None = None
    test: Accuracy | None = None
    test_paper: Accuracy | None = None
    size: Size
    operations: Operations
    examples: tuple[Example, ...] = ()
    fit: Fit | None = None
    pruning: Pruning | None = None
    imported: Imported | None = None


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The artefacts of a model, and for the other runtimes why they cannot run it."""

    artefacts: tuple[Artefact, ...]
    unsupported: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class MeasureResult:
    """The times of a model on every runtime that runs it, and the artefacts that were timed."""

    artefacts: tuple[Artefact, ...]
    timings: tuple[Timing, ...]


StageResult = ModelResult | ExportResult | MeasureResult


def new_model(model: ForecastModel, prepared: Prepared, recipe: Recipe) -> SavedModel:
    """Returns a dense model with its metadata: it is its own dense parent."""
    dense_parameters = sum(parameter.numel() for parameter in model.parameters())
    return SavedModel(model, metadata_of(model.config, prepared, recipe.data, dense_parameters))


def assessed(
    saved: SavedModel,
    prepared: Prepared,
    data: DataConfig,
    *,
    fit: Fit | None = None,
    pruning: Pruning | None = None,
    imported: Imported | None = None,
) -> ModelResult:
    """Returns a model with its validation and test error, size, operations and example forecasts.

    Args:
        saved: the model.
        prepared: its data.
        data: says which windows count, whether those of the test part do, and what errors are given in besides MSE
            and MAE.
        fit: how it was trained. It may hold the full score of the validation part already, in MSE and MAE.
        pruning: how it was pruned.
        imported: where it comes from.
    """
    saved.model.eval()
    validation = None if fit is None else fit.validation
    metrics = bound_metrics(prepared, data.metrics)
    if validation is None or data.scoring != "full" or metrics:
        validation = evaluate_model(saved.model, prepared.validation, "validation", data.scoring, metrics)
    test = test_paper = None
    if not data.score_test:
        pass
    elif data.scoring == "full":
        test, test_paper = evaluate_both(saved.model, prepared.test, "test", metrics)
    else:
        test = evaluate_model(saved.model, prepared.test, "test", data.scoring, metrics)
    return ModelResult(
        saved=saved,
        validation=validation,
        test=test,
        test_paper=test_paper,
        size=measure_size(saved),
        operations=count_operations(saved),
        examples=draw_examples(saved, prepared) if data.score_test else (),
        fit=fit,
        pruning=pruning,
        imported=imported,
    )


def draw_examples(saved: SavedModel, prepared: Prepared) -> tuple[Example, ...]:
    """Returns forecasts of the last target channel for windows spread over the test part, in raw units."""
    windows = prepared.test
    chosen = spread(len(windows), EXAMPLES)
    batch = windows.batch(chosen)
    with torch.inference_mode():
        y_BHC = saved.model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    name = saved.metadata.targets[-1]
    channel = saved.metadata.channels.index(name)
    scaler = Scaler.of(saved.metadata.scaler.mean, saved.metadata.scaler.std).select([channel])

    def raw(values: torch.Tensor) -> tuple[float, ...]:
        return tuple(float(f"{value:.6g}") for value in scaler.inverse(values.numpy()).tolist())

    return tuple(
        Example(
            channel=name,
            window=int(window),
            start=str(windows.times_of(int(window))[windows.shape.lookback]),
            history=raw(batch.x_BLC[row, :, channel]),
            truth=raw(batch.y_BHC[row, :, -1]),
            forecast=raw(y_BHC[row, :, -1]),
        )
        for row, window in enumerate(chosen)
    )


def spread(total: int, count: int) -> torch.Tensor:
    """Returns `count` indices (all when there are fewer) spread evenly over 0 to total - 1, both ends included."""
    return torch.linspace(0, total - 1, min(count, total)).long()

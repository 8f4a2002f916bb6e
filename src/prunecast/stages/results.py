"""What is known about a model once it is there: error, size, operations, examples; its artefacts and their times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunecast.batch import Batch
from prunecast.data.windows import Prepared
from prunecast.export.base import Inputs, Int8Runtime, Runtime
from prunecast.export.parity import check_parity
from prunecast.export.raw import raw_inputs
from prunecast.measure.latency import time_against
from prunecast.measure.operations import count_operations
from prunecast.measure.size import compressed_bytes, measure_size
from prunecast.models.base import ForecastModel
from prunecast.models.io import ModelMetadata, SavedModel, load_metadata
from prunecast.recipe import ExportConfig, MeasureConfig, Recipe
from prunecast.records import Accuracy, Artefact, Example, Scoring, Timing
from prunecast.registry import RUNTIMES
from prunecast.store import read_record
from prunecast.train.evaluate import evaluate, evaluate_both
from prunecast.train.metrics import measured_on

EXAMPLES = 3
"""Forecasts kept for drawing, spread evenly over the test part."""

CALIBRATION_WINDOWS, CALIBRATION_BATCH = 256, 32
"""Training windows that 8 bits are scaled by; with 128, DLinear on ETTh2 was twice as far off, with 512 no closer."""


def facts(
    saved: SavedModel,
    prepared: Prepared,
    scoring: Scoring,
    validation: Accuracy | None = None,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns validation and test error, size, operations and example forecasts, by the record's field names.

    Args:
        saved: the model.
        prepared: its data.
        scoring: which windows count.
        validation: the full score of the validation part, where it is known already, in MSE and MAE.
        metrics: what errors are given in besides these.
    """
    further = measured_on(prepared, metrics)
    if validation is None or scoring != "full" or further:
        validation = evaluate(saved.model, prepared.validation, "validation", scoring, further)
    if scoring == "full":
        test, test_paper = evaluate_both(saved.model, prepared.test, "test", further)
    else:
        test, test_paper = evaluate(saved.model, prepared.test, "test", scoring, further), None
    return {
        "validation": validation,
        "test": test,
        "test_paper": test_paper,
        "size": measure_size(saved),
        "operations": count_operations(saved),
        "examples": draw_examples(saved, prepared),
    }


def draw_examples(saved: SavedModel, prepared: Prepared) -> tuple[Example, ...]:
    """Returns forecasts of the last target channel for windows spread over the test part, in raw units."""
    windows = prepared.test
    chosen = spread(len(windows), EXAMPLES)
    batch = windows.batch(chosen)
    with torch.inference_mode():
        y_BHC = saved.model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    name = saved.metadata.targets[-1]
    channel = saved.metadata.channels.index(name)
    mean, std = saved.metadata.scaler.mean[channel], saved.metadata.scaler.std[channel]

    def raw(values: torch.Tensor) -> tuple[float, ...]:
        return tuple(float(f"{value:.6g}") for value in (values.double() * std + mean).tolist())

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


def export_all(
    saved: SavedModel, prepared: Prepared, recipe: Recipe, directory: Path
) -> tuple[tuple[Artefact, ...], Mapping[str, str]]:
    """Exports for every runtime of the recipe; returns the artefacts and, for the other runtimes, why not."""
    artefacts, unsupported = [], {}
    for name in recipe.measure.runtimes:
        config = recipe.export.model_copy(update={"runtime": name})
        reason = refusal(saved.model, config)
        if reason is None:
            artefacts.append(export_one(saved, prepared, config, directory))
        else:
            unsupported[name] = reason
    return tuple(artefacts), unsupported


def refusal(model: ForecastModel, config: ExportConfig) -> str | None:
    """Returns why a model cannot be exported as asked for, or None when it can."""
    runtime: Runtime = RUNTIMES.load(config.runtime)
    if config.int8 and not isinstance(runtime, Int8Runtime):
        return "8 bits were asked for, and it has no 8-bit export"
    return runtime.unsupported(model)


def export_one(saved: SavedModel, prepared: Prepared, config: ExportConfig, directory: Path) -> Artefact:
    """Exports for one runtime into a folder and holds the artefact against eager on real windows."""
    runtime = RUNTIMES.load(config.runtime)
    if not runtime.suffix:  # it runs the model folder itself
        size = measure_size(saved)
        return Artefact(runtime=config.runtime, name=None, bytes=size.raw_bytes, zip_bytes=size.zip_bytes)
    return export_to(saved, prepared, config, directory / f"model{runtime.suffix}")


def export_to(saved: SavedModel, prepared: Prepared, config: ExportConfig, path: Path) -> Artefact:
    """Exports to a file and holds it against eager on real windows; what is out of tolerance is an error."""
    runtime = RUNTIMES.load(config.runtime)
    if config.int8:
        runtime.export_int8(saved, path, training_inputs(saved.metadata, prepared))
    else:
        runtime.export(saved, path)
    compared = some_batches(prepared, config.parity_windows)
    parity = check_parity(saved, config.runtime, path, compared, int8=config.int8)
    content = path.read_bytes()
    return Artefact(
        runtime=config.runtime, name=path.name, bytes=len(content), zip_bytes=compressed_bytes(content), parity=parity
    )


def some_batches(prepared: Prepared, count: int) -> list[Batch]:
    """Returns `count` windows spread evenly over the test part (all when there are fewer), in one batch."""
    windows = prepared.test
    return [windows.batch(spread(len(windows), count))]


def training_inputs(metadata: ModelMetadata, prepared: Prepared) -> Iterator[Inputs]:
    """Yields windows spread evenly over the training part in batches, in raw units: what 8 bits are scaled by."""
    for chosen in torch.split(spread(len(prepared.train), CALIBRATION_WINDOWS), CALIBRATION_BATCH):
        yield raw_inputs(metadata, prepared.train.batch(chosen))


@dataclass(frozen=True)
class Shipped:
    """A model with its artefacts: the folder of its export stage and that of the model itself."""

    exported: Path
    model: Path

    def artefacts(self) -> tuple[Artefact, ...]:
        """Returns what was exported."""
        return read_record(self.exported).artefacts

    def path(self, runtime: str) -> Path | None:
        """Returns what a runtime loads, or None when it cannot run the model."""
        for artefact in self.artefacts():
            if artefact.runtime == runtime:
                return self.model if artefact.name is None else self.exported / artefact.name
        return None


def time_all(ours: Shipped, reference: Shipped | None, prepared: Prepared, config: MeasureConfig) -> tuple[Timing, ...]:
    """Times a model on every runtime that can run it, in turn with the reference where there is one."""
    inputs = real_inputs(load_metadata(ours.model), prepared, config.batch)
    timings = []
    for name in config.runtimes:
        path = ours.path(name)
        if path is not None:
            timings.append(
                time_against(name, path, None if reference is None else reference.path(name), inputs, config)
            )
    return tuple(timings)


def real_inputs(metadata: ModelMetadata, prepared: Prepared, batch: int) -> Inputs:
    """Returns `batch` real windows of the test part, in raw units."""
    chosen = torch.arange(batch) % len(prepared.test)
    return raw_inputs(metadata, prepared.test.batch(chosen))

"""Timing a model's artefacts, in turn with those of its dense parent."""

from __future__ import annotations

from pathlib import Path

import torch

from prunecast.data.windows import Prepared
from prunecast.export.base import Inputs
from prunecast.export.raw import raw_inputs
from prunecast.measure.latency import time_against
from prunecast.models.io import ModelMetadata, load_metadata
from prunecast.records import Artefact, Operations
from prunecast.stages.base import MeasureResult, StageInputs
from prunecast.stages.job import TimingJob
from prunecast.store import read_record


def measure_stage(job: TimingJob, inputs: StageInputs) -> MeasureResult:
    """Times a model on every runtime that can run it, in turn with the reference where the job names one."""
    config, model, exported = job.recipe.measure, inputs.folder(job.parent), inputs.folder(job.exports[0])
    artefacts = read_record(exported).artefacts
    ours, reference, cut = _loaded_by_runtimes(artefacts, exported, model), {}, None
    if job.reference is not None:
        folder, parent = inputs.folder(job.exports[1]), inputs.folder(job.reference)
        reference = _loaded_by_runtimes(read_record(folder).artefacts, folder, parent)
        cut = operation_cut(read_record(parent).operations, read_record(model).operations)
    windows = real_inputs(load_metadata(model), inputs.windows(), config.batch)
    timings = [
        time_against(name, ours[name], reference.get(name), windows, config) for name in config.runtimes if name in ours
    ]
    return MeasureResult(
        artefacts=artefacts, timings=tuple(timing.model_copy(update={"operation_cut": cut}) for timing in timings)
    )


def operation_cut(reference: Operations | None, ours: Operations | None) -> float | None:
    """Returns the speed-up that operations promise: the reference's over those with a non-zero weight that are left."""
    return reference.dense_macs / ours.effective_macs if reference and ours and ours.effective_macs else None


def _loaded_by_runtimes(artefacts: tuple[Artefact, ...], exported: Path, model: Path) -> dict[str, Path]:
    """Returns what each runtime that can run a model loads: its artefact, or the model's folder."""
    return {found.runtime: model if found.name is None else exported / found.name for found in artefacts}


def real_inputs(metadata: ModelMetadata, prepared: Prepared, batch: int) -> Inputs:
    """Returns `batch` real windows of the test part, in raw units."""
    chosen = torch.arange(batch) % len(prepared.test)
    return raw_inputs(metadata, prepared.test.batch(chosen))

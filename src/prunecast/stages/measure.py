"""Timing a model's artefacts, in turn with those of its dense parent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from prunecast.data.windows import Prepared
from prunecast.export.base import Inputs
from prunecast.export.raw import raw_inputs
from prunecast.measure.latency import time_against
from prunecast.models.io import ModelMetadata, load_metadata
from prunecast.records import Artefact
from prunecast.stages.base import MeasureResult, StageInputs
from prunecast.stages.job import Job
from prunecast.store import read_record


@dataclass(frozen=True)
class _Shipped:
    """A model with its artefacts: the folders of its export stage and of the model itself."""

    exported: Path
    model: Path
    artefacts: tuple[Artefact, ...]

    @classmethod
    def read(cls, exported: Path, model: Path) -> _Shipped:
        return cls(exported, model, read_record(exported).artefacts)

    def path(self, runtime: str) -> Path | None:
        """Returns what a runtime loads, or None when it cannot run the model."""
        for artefact in self.artefacts:
            if artefact.runtime == runtime:
                return self.model if artefact.name is None else self.exported / artefact.name
        return None


def measure_stage(job: Job, inputs: StageInputs) -> MeasureResult:
    """Times a model on every runtime that can run it, in turn with the reference where the job names one."""
    assert job.parent is not None
    ours, reference = _Shipped.read(inputs.found(job.exports[0]), inputs.found(job.parent)), None
    if job.reference is not None:
        reference = _Shipped.read(inputs.found(job.exports[1]), inputs.found(job.reference))
    config = job.recipe.measure
    windows = real_inputs(load_metadata(ours.model), inputs.windows(), config.batch)
    timings = []
    for name in config.runtimes:
        path = ours.path(name)
        if path is not None:
            other = None if reference is None else reference.path(name)
            timings.append(time_against(name, path, other, windows, config))
    return MeasureResult(artefacts=ours.artefacts, timings=tuple(timings))


def real_inputs(metadata: ModelMetadata, prepared: Prepared, batch: int) -> Inputs:
    """Returns `batch` real windows of the test part, in raw units."""
    chosen = torch.arange(batch) % len(prepared.test)
    return raw_inputs(metadata, prepared.test.batch(chosen))

"""The order of the stages, and the one way to run them: for a study, for a single verb, and in memory.

import | train -> prune | zero -> finetune -> export -> measure
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

from prunecast import environment
from prunecast.data.series import Series, load_series
from prunecast.data.windows import Prepared, WindowShape, prepare
from prunecast.errors import UserError
from prunecast.inference import window_shape
from prunecast.measure.machine_lock import beside_others, is_busy
from prunecast.models.base import ForecastModel
from prunecast.models.io import SavedModel, save_model
from prunecast.recipe import RECIPE_FILE, DataConfig, Recipe, write_recipe
from prunecast.records import DataFacts, RunRecord, StageTiming
from prunecast.registry import MODELS
from prunecast.resolve import resolved
from prunecast.stages.base import ExportResult, MeasureResult, ModelResult, StageInputs, StageResult
from prunecast.stages.export import export_stage
from prunecast.stages.import_checkpoint import ImportJob, import_stage
from prunecast.stages.job import Job
from prunecast.stages.measure import measure_stage
from prunecast.stages.prune import prune_stage, zero_stage
from prunecast.stages.train import finetune_stage, train_stage
from prunecast.store import write_record

NO_DATA = DataFacts(name="", sha256="", rows=0, channels=(), windows={})
"""What the record of an import without data says of the data, besides the model's channels."""


def training_job(recipe: Recipe, series: Series) -> Job:
    """Returns the stage that trains the model of a recipe on a series.

    Raises:
        UserError: when the recipe does not fit the series.
    """
    kind: type[ForecastModel] = MODELS.load(str(recipe.model["name"]))
    return Job(
        stage="train",
        role="dense" if kind.trainable else "naive",
        recipe=resolved(recipe, series),
        data_sha256=series.sha256,
        source=recipe.data.name,
        label=f"train {recipe.model['name']}",
    )


def pruning_jobs(recipe: Recipe, prepared: Prepared, parent: str) -> tuple[Job, ...]:
    """Returns the stages that make a pruned model: pruning, then fine-tuning where the recipe has epochs for it.

    Args:
        recipe: with a `prune` section.
        prepared: windows of the data.
        parent: fingerprint of the model that is pruned.
    """
    pruning = Job(
        stage="prune",
        role="pruned",
        recipe=recipe,
        data_sha256=prepared.facts.sha256,
        source=prepared.facts.name,
        parent=parent,
        label="prune",
    )
    if not recipe.finetune.epochs:
        return (pruning,)
    return pruning, replace(pruning, stage="finetune", role="pruned+finetuned", parent=pruning.fingerprint)


@dataclass(frozen=True)
class Finished:
    """A stage that was run: its job, what it made, and the record of it; nothing is on disk yet but artefacts."""

    job: Job | ImportJob
    result: StageResult
    record: RunRecord

    @property
    def model(self) -> ModelResult:
        """What a stage that makes a model has made."""
        assert isinstance(self.result, ModelResult)
        return self.result

    def write(self, directory: Path) -> RunRecord:
        """Fills a folder; see `write`."""
        saved = self.result.saved if isinstance(self.result, ModelResult) else None
        return write(directory, self.job.recipe, self.record, saved)


def write(directory: Path, recipe: Recipe, record: RunRecord, saved: SavedModel | None) -> RunRecord:
    """Fills the folder of a stage: its model if it has one, its recipe, and last the record of all that lies there."""
    if saved is not None:
        save_model(saved, directory)
    write_recipe(recipe, directory / RECIPE_FILE)
    return write_record(record, directory)


def run_stage(job: Job | ImportJob, inputs: StageInputs) -> Finished:
    """Runs one stage; fills the folder of its inputs where they name one.

    Whoever has a timing run keeps the machine to it, see `machine_lock`.
    """
    with nullcontext() if job.stage == "measure" else beside_others():
        torch.set_num_threads(job.recipe.train.threads)  # part of the result: rounding follows the thread count
        started_at, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        result = _result(job, inputs)
        finished = Finished(job, result, _record(job, result, inputs, started_at, clock))
        if inputs.directory is not None:
            finished.write(inputs.directory)
        return finished


def _result(job: Job | ImportJob, inputs: StageInputs) -> StageResult:
    if isinstance(job, ImportJob):
        return import_stage(job, inputs)
    match job.stage:
        case "train":
            return train_stage(job, inputs)
        case "prune":
            return prune_stage(job, inputs)
        case "zero":
            return zero_stage(job, inputs)
        case "finetune":
            return finetune_stage(job, inputs)
        case "export":
            return export_stage(job, inputs)
        case "measure":
            return measure_stage(job, inputs)


def _record(job: Job | ImportJob, result: StageResult, inputs: StageInputs, started_at: str, clock: float) -> RunRecord:
    data = NO_DATA if inputs.prepared is None else inputs.prepared.facts
    if inputs.prepared is None and isinstance(result, ModelResult):
        data = NO_DATA.model_copy(update={"channels": result.saved.metadata.channels})
    record = RunRecord(
        stage=job.stage,
        role=job.role,
        label=job.label,
        fingerprint=job.fingerprint,
        parent=job.parent,
        reference=job.reference,
        compared_with=job.compared_with,
        seed=job.recipe.seed,
        model=str(job.recipe.model["name"]),
        recipe=job.recipe.model_dump(mode="json"),
        data=data,
        timing=StageTiming(
            started_at=started_at,
            elapsed_s=time.perf_counter() - clock,
            machine_busy=job.stage == "measure" and (inputs.machine_busy or is_busy()),
        ),
        environment=environment.describe(),
    )
    match result:
        case MeasureResult(artefacts=artefacts, timings=timings):
            timing = record.timing.model_copy(update={"runtimes": timings})
            return record.model_copy(update={"artefacts": artefacts, "timing": timing})
        case ExportResult(artefacts=artefacts, unsupported=unsupported):
            return record.model_copy(update={"artefacts": artefacts, "unsupported": dict(unsupported)})
        case ModelResult():
            known = {name: value for name, value in vars(result).items() if name != "saved"}
            return record.model_copy(update=known)


def data_section(job: Job) -> DataConfig:
    """Returns the data section of a job, which finds the series."""
    return job.recipe.data.model_copy(update={"name": job.source})


def prepared_for(job: Job, load: Callable[[DataConfig], Series] = load_series) -> Prepared:
    """Returns the windows of a job's data; the last few are kept, for most jobs of a study share them.

    Raises:
        UserError: when the data is not what the job was planned for.
    """
    return _prepared(data_section(job), job.data_sha256, window_shape(job.recipe.model), load)


def prepared_from(series: Series, recipe: Recipe) -> Prepared:
    """Returns the windows that a resolved recipe cuts from a series.

    Raises:
        UserError: when the series is too short for them.
    """
    return _cut(series, recipe.data, window_shape(recipe.model))


def _cut(series: Series, data: DataConfig, shape: WindowShape) -> Prepared:
    return prepare(series, data, lookback=shape.lookback, horizon=shape.horizon, label_len=shape.label_len)


# By content: a file that has changed is read anew, and one that does not fit its plan is not remembered.
@lru_cache(maxsize=4)
def _prepared(data: DataConfig, sha256: str, shape: WindowShape, load: Callable[[DataConfig], Series]) -> Prepared:
    series = load(data)
    if series.sha256 != sha256:
        raise UserError(f"{series.name} is not as it was when the stage was planned; run the study again")
    return _cut(series, data, shape)

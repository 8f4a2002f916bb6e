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
from prunecast.prune.methods import Method
from prunecast.recipe import RECIPE_FILE, DataConfig, Recipe, write_recipe
from prunecast.records import DataFacts, RunRecord, StageTiming
from prunecast.registry import GRANULARITIES, METHODS, MODELS
from prunecast.stages.base import MeasureResult, ModelResult, StageInputs, StageResult
from prunecast.stages.export import export_stage
from prunecast.stages.import_checkpoint import ImportJob, import_stage
from prunecast.stages.job import Job, TimingJob
from prunecast.stages.measure import measure_stage
from prunecast.stages.prune import prune_stage, zero_stage
from prunecast.stages.train import NO_EARLIER, finetune_stage, train_stage
from prunecast.store import write_record

NO_DATA = DataFacts(name="", sha256="", rows=0, channels=(), windows={})
"""What the record of an import without data says of the data, besides the model's channels."""


# What follows what


@dataclass(frozen=True)
class Chain:
    """The stages on one series by one recipe: each is made from those that it rests on.

    Attributes:
        recipe: resolved.
        data_sha256: content of the series.
        source: catalogue name or path of the series.
        about: what all labels begin with.
    """

    recipe: Recipe
    data_sha256: str
    source: str
    about: str = ""

    def train(self, label: str) -> Job:
        """Returns the stage that trains the recipe's model, or only scores it where there is nothing to train."""
        kind: type[ForecastModel] = MODELS.load(str(self.recipe.model["name"]))
        return Job(
            stage="train",
            role="dense" if kind.trainable else "naive",
            recipe=self.recipe,
            data_sha256=self.data_sha256,
            source=self.source,
            label=self.about + label,
        )

    def prune(self, parent: str, label: str) -> tuple[Job, ...]:
        """Returns the pruning of a model, and its fine-tuning where the recipe has epochs for it.

        A method that prunes in training does both in one stage.

        Raises:
            UserError: when such a method has no epochs of fine-tuning, or fine-tuning cannot go back to what it should.
        """
        config, tuning = self.recipe.prune, self.recipe.finetune
        method: Method | None = None if config is None else METHODS.load(config.method)
        if tuning.looks_back and not tuning.epochs:
            raise UserError("finetune.distill and finetune.rewind: expected epochs of fine-tuning, found 0")
        if tuning.rewind and self.recipe.train.keep_step is None:
            raise UserError(NO_EARLIER)
        if tuning.rewind and method is not None and GRANULARITIES.load(method.granularity).shrinks:
            raise UserError(f"finetune.rewind: expected a method that masks weights, found {method.name!r}, which cuts")
        if config is not None and method is not None:
            method.check_recovery(config.recovery)
        first = replace(self.train(label), stage="prune", role="pruned", parent=parent)
        looked_at = parent if tuning.looks_back else None
        tuned = replace(first, stage="finetune", role="pruned+finetuned", unpruned=looked_at)
        if method is not None and method.trains:
            method.check_epochs(tuning.epochs)
            return (tuned,)
        if not tuning.epochs:
            return (first,)
        return first, replace(tuned, label=f"{first.label}, fine-tuned", parent=first.fingerprint)

    def zero(self, dense: Job) -> Job:
        """Returns the control whose body is zeroed."""
        label = f"{self.about}body zeroed"
        return replace(dense, stage="zero", role="zeroed-body", label=label, parent=dense.fingerprint)

    def train_on(self, dense: Job) -> Job:
        """Returns the control that is trained on, plainly, for as long as fine-tuning takes."""
        recipe = dense.recipe.model_copy(update={"finetune": self.recipe.finetune.plain()})
        label = f"{self.about}dense, trained on"
        return replace(
            dense, stage="finetune", role="dense-continued", recipe=recipe, label=label, parent=dense.fingerprint
        )

    def train_small(self, pruned: Job, label: str) -> Job:
        """Returns the control that has a pruned model's size, trained from scratch."""
        return replace(self.train(label), role="small-dense", compared_with=pruned.fingerprint)

    def ship(self, model: Job, label: str, dense: Job | None, machine: str) -> tuple[Job, TimingJob]:
        """Returns a model's export, and its timing on a machine: in turn with the dense one's where that is given."""
        own, *others = [
            replace(made, stage="export", parent=made.fingerprint, compared_with=None, unpruned=None)
            for made in (model, dense)
            if made is not None
        ]
        timing = TimingJob(
            role=model.role,
            recipe=self.recipe,
            data_sha256=self.data_sha256,
            source=self.source,
            label=f"{self.about}timing of {label}",
            parent=model.fingerprint,
            reference=None if dense is None else dense.fingerprint,
            exports=(own.fingerprint, *(export.fingerprint for export in others)),
            machine=machine,
        )
        return replace(own, label=f"{self.about}export of {label}"), timing


# Running one


@dataclass(frozen=True)
class Finished:
    """What a stage made, and the record of it; on disk where its inputs named a folder."""

    result: StageResult
    record: RunRecord


def run_stage(job: Job | ImportJob, inputs: StageInputs, wait_s: float | None = None) -> Finished:
    """Runs one stage; fills the folder of its inputs where they name one.

    Whoever has a timing run keeps the machine to it, see `machine_lock`; other stages wait for one, at most
    `wait_s`.
    """
    with nullcontext() if job.stage == "measure" else beside_others(wait_s):
        torch.set_num_threads(job.recipe.train.threads)  # part of the result: rounding follows the thread count
        started_at, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        result = _result(job, inputs)
        timings = result.timings if isinstance(result, MeasureResult) else ()
        disturbed = any(found.beside is not None and found.beside.busy for found in timings)
        timing = StageTiming(
            started_at=started_at,
            elapsed_s=time.perf_counter() - clock,
            machine_busy=job.stage == "measure" and (disturbed or inputs.machine_busy or is_busy()),
            runtimes=timings,
        )
        record = _record(job, result, inputs, timing)
        if inputs.directory is not None:
            saved = result.saved if isinstance(result, ModelResult) else None
            write(inputs.directory, job.recipe, record, saved)
        return Finished(result, record)


def _result(job: Job | ImportJob, inputs: StageInputs) -> StageResult:
    if isinstance(job, ImportJob):
        return import_stage(job, inputs)
    if isinstance(job, TimingJob):
        return measure_stage(job, inputs)
    stages: dict[str, Callable[[Job, StageInputs], StageResult]] = {
        "train": train_stage,
        "prune": prune_stage,
        "zero": zero_stage,
        "finetune": finetune_stage,
        "export": export_stage,
    }
    return stages[job.stage](job, inputs)


def _record(job: Job | ImportJob, result: StageResult, inputs: StageInputs, timing: StageTiming) -> RunRecord:
    data = NO_DATA if inputs.prepared is None else inputs.prepared.facts
    if inputs.prepared is None and isinstance(result, ModelResult):
        data = NO_DATA.model_copy(update={"channels": result.saved.metadata.channels})
    record = RunRecord(
        stage=job.stage,
        role=job.role,
        label=job.label,
        fingerprint=job.fingerprint,
        parent=job.parent,
        reference=job.reference if isinstance(job, TimingJob) else None,
        compared_with=job.compared_with,
        seed=job.recipe.seed,
        model=str(job.recipe.model["name"]),
        recipe=job.recipe.model_dump(mode="json"),
        data=data,
        timing=timing,
        environment=environment.describe(),
    )
    known = {name: value for name, value in vars(result).items() if name in RunRecord.model_fields}
    return record.model_copy(update=known)


def write(directory: Path, recipe: Recipe, record: RunRecord, saved: SavedModel | None) -> None:
    """Fills the folder of a stage: its model if it has one, its recipe, and last the record of all that lies there."""
    if saved is not None:
        save_model(saved, directory)
    write_recipe(recipe, directory / RECIPE_FILE)
    write_record(record, directory)


# The windows of its data


def data_section(job: Job) -> DataConfig:
    """Returns the data section of a job, which finds the series."""
    return job.recipe.data.model_copy(update={"name": job.source})


def prepared_for(job: Job, load: Callable[[DataConfig], Series] = load_series) -> Prepared:
    """Returns the windows of a job's data; the last few are kept, for most jobs of a study share them.

    Raises:
        UserError: when the data is not what the job was planned for.
    """
    return _prepared(data_section(job), job.data_sha256, window_shape(job.recipe.model), load)


# By content: a file that has changed is read anew, and one that does not fit its plan is not remembered.
@lru_cache(maxsize=4)
def _prepared(data: DataConfig, sha256: str, shape: WindowShape, load: Callable[[DataConfig], Series]) -> Prepared:
    series = load(data)
    if series.sha256 != sha256:
        raise UserError(f"{series.name} is not as it was when the stage was planned; run the study again")
    return cut_windows(series, data, shape)


def cut_windows(series: Series, data: DataConfig, shape: WindowShape) -> Prepared:
    """Returns the windows of a series.

    Raises:
        UserError: when the series is too short for them.
    """
    return prepare(series, data, lookback=shape.lookback, horizon=shape.horizon, label_len=shape.label_len)

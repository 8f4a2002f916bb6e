"""The stages in order, each one function from a job to a folder with its result.

train -> prune | zero -> finetune -> export -> measure
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from prunecast import environment
from prunecast.data.series import Series, load_series
from prunecast.data.windows import DrawnBatches, Prepared, prepare
from prunecast.errors import UserError
from prunecast.measure.machine_lock import beside_others, is_busy
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.io import ModelMetadata, SavedModel, load_metadata, load_model, save_model
from prunecast.prune.apply import prune
from prunecast.prune.controls import zero_body
from prunecast.prune.masks import HeldMasks
from prunecast.recipe import RECIPE_FILE, DataConfig, FitConfig, Recipe, write_recipe
from prunecast.records import Fit, RunRecord, StageTiming
from prunecast.resolve import metadata_of
from prunecast.stages import results as assess
from prunecast.stages.job import Job
from prunecast.store import read_record, write_record
from prunecast.train.fit import fit
from prunecast.train.progress import Reporter

CHECKPOINT_FILE = "checkpoint.safetensors"

CALIBRATION_BATCH = 32
"""Windows in a batch that a pruning method looks at."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stage finds its inputs and puts its result.

    Attributes:
        directory: an empty folder to fill.
        found: fingerprint of a finished stage -> its folder.
        work: folder for checkpoints, or None to keep none.
        reporter: hears of training, or None.
        machine_busy: whether a timing waited in vain to have the machine to itself.
    """

    directory: Path
    found: Callable[[str], Path]
    work: Path | None = None
    reporter: Reporter | None = None
    machine_busy: bool = False


Fields = dict[str, Any]
"""Fields of the record that a stage fills."""


def run(job: Job, prepared: Prepared, place: Place) -> RunRecord:
    """Runs one stage and fills its folder: what it makes, the resolved recipe, and last its record.

    Whoever has a timing run keeps the machine to it, see `machine_lock`.
    """
    with nullcontext() if job.exclusive else beside_others():
        return _run(job, prepared, place)


def _run(job: Job, prepared: Prepared, place: Place) -> RunRecord:
    torch.set_num_threads(job.recipe.train.threads)  # part of the result: rounding follows the thread count
    started_at, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    fields = _STAGES[job.stage](job, prepared, place)
    runtimes = fields.pop("runtimes", ())
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
        data=prepared.facts,
        timing=StageTiming(
            started_at=started_at,
            elapsed_s=time.perf_counter() - clock,
            runtimes=runtimes,
            machine_busy=job.exclusive and (place.machine_busy or is_busy()),
        ),
        environment=environment.describe(),
        **fields,
    )
    write_recipe(job.recipe, place.directory / RECIPE_FILE)
    return write_record(record, place.directory)


def data_of(job: Job) -> DataConfig:
    """Returns the data section of a job, which finds the series."""
    return job.recipe.data.model_copy(update={"name": job.source})


def prepared_for(job: Job, load: Callable[[DataConfig], Series] = load_series) -> Prepared:
    """Returns the windows of a job's data; the last few are kept, for most jobs share them.

    Raises:
        UserError: when the data is not what the job was planned for.
    """
    model = job.recipe.model
    prepared = _prepared(data_of(job), int(model["lookback"]), int(model["horizon"]), int(model["label_len"]), load)
    if prepared.facts.sha256 != job.data_sha256:
        raise UserError(f"{prepared.facts.name} is not as it was when the stage was planned; run the study again")
    return prepared


@lru_cache(maxsize=4)
def _prepared(
    data: DataConfig, lookback: int, horizon: int, label_len: int, load: Callable[[DataConfig], Series]
) -> Prepared:
    return prepare(load(data), data, lookback=lookback, horizon=horizon, label_len=label_len)


def _train(job: Job, prepared: Prepared, place: Place) -> Fields:
    config = config_from(
        job.recipe.model if job.compared_with is None else load_metadata(place.found(job.compared_with)).model
    )
    torch.manual_seed(job.recipe.seed)
    model = build(config)
    saved = SavedModel(model, metadata(model, prepared, job.recipe))
    fitted = _fit(job.recipe.train, job, prepared, place, saved) if model.trainable else None
    return _kept(saved, job, prepared, place, fitted)


def _finetune(job: Job, prepared: Prepared, place: Place) -> Fields:
    saved = load_model(_parent(job, place))
    fitted = _fit(job.recipe.finetune, job, prepared, place, saved)
    pruning = read_record(_parent(job, place)).pruning
    return _kept(saved, job, prepared, place, fitted) | {"pruning": pruning}


def _prune(job: Job, prepared: Prepared, place: Place) -> Fields:
    config, seed = job.recipe.prune, job.recipe.seed
    assert config is not None
    drawn_by = seed if config.calibration_seed is None else config.calibration_seed
    parent = load_model(_parent(job, place))
    pruned = prune(
        parent.model,
        config,
        seed=seed,
        masks=parent.masks,
        batches=DrawnBatches(prepared.train, CALIBRATION_BATCH, config.calibration_batches, drawn_by),
        cost=dense_macs,
        weight_cost=macs_per_weight,
    )
    saved = SavedModel(pruned.model, parent.metadata, pruned.masks)
    return _kept(saved, job, prepared, place) | {"pruning": pruned.outcome}


def _zero(job: Job, prepared: Prepared, place: Place) -> Fields:
    parent = load_model(_parent(job, place))
    model, masks = zero_body(parent.model)
    return _kept(SavedModel(model, parent.metadata, masks), job, prepared, place)


def _export(job: Job, prepared: Prepared, place: Place) -> Fields:
    saved = load_model(_parent(job, place))
    artefacts, unsupported = assess.export_all(saved, prepared, job.recipe, place.directory)
    return {"artefacts": artefacts, "unsupported": unsupported}


def _measure(job: Job, prepared: Prepared, place: Place) -> Fields:
    ours = assess.Shipped(place.found(job.exports[0]), _parent(job, place))
    reference = None
    if job.reference is not None:
        reference = assess.Shipped(place.found(job.exports[1]), place.found(job.reference))
    return {"artefacts": ours.artefacts(), "runtimes": assess.time_all(ours, reference, prepared, job.recipe.measure)}


_STAGES: Mapping[str, Callable[[Job, Prepared, Place], Fields]] = {
    "train": _train,
    "prune": _prune,
    "zero": _zero,
    "finetune": _finetune,
    "export": _export,
    "measure": _measure,
}


def metadata(model: ForecastModel, prepared: Prepared, recipe: Recipe) -> ModelMetadata:
    """Returns the metadata of a model trained on prepared data."""
    dense_parameters = sum(parameter.numel() for parameter in model.parameters())
    return metadata_of(model.config, prepared, recipe.data, dense_parameters)


def _parent(job: Job, place: Place) -> Path:
    assert job.parent is not None
    return place.found(job.parent)


def _fit(config: FitConfig, job: Job, prepared: Prepared, place: Place, saved: SavedModel) -> Fit:
    return fit(
        saved.model,
        prepared.train,
        prepared.validation,
        config,
        seed=job.recipe.seed,
        hooks=[HeldMasks(saved.masks)] if saved.masks else [],
        checkpoint=None if place.work is None else place.work / CHECKPOINT_FILE,
        reporter=place.reporter,
    )


def _kept(saved: SavedModel, job: Job, prepared: Prepared, place: Place, fitted: Fit | None = None) -> Fields:
    """Writes the model into the stage's folder and returns what is known about it."""
    data, known = job.recipe.data, None if fitted is None else fitted.validation
    save_model(saved, place.directory)
    return {"fit": fitted} | assess.facts(saved, prepared, data.scoring, known, data.metrics)

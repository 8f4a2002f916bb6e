"""The stages for one model at a time: what a study runs by the hundred, into a folder of the user's choice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel
from prunecast.models.io import load_metadata
from prunecast.recipe import RECIPE_FILE, Recipe, load_recipe, merged, parse_setting, read_mapping
from prunecast.registry import MODELS
from prunecast.resolve import resolved, with_rate
from prunecast.stages.job import Job
from prunecast.stages.run import Place, prepared_for, run
from prunecast.store import new_directory, read_record
from prunecast.train.progress import Reporter

TRAINING_SECTIONS = frozenset({"seed", "data", "model", "train"})
PRUNING_SECTIONS = frozenset({"seed", "prune", "finetune"})


def train_one(recipe: Recipe, out: Path, reporter: Reporter | None = None) -> None:
    """Trains the model of a recipe into a new folder.

    Raises:
        UserError: when the recipe or its data does not fit, or the folder exists.
    """
    kind = MODELS.load(str(recipe.model["name"]))
    series = load_series(recipe.data)
    job = Job(
        stage="train",
        role="dense" if kind.trainable else "naive",
        recipe=resolved(recipe, series),
        data_sha256=series.sha256,
        source=recipe.data.name,
        label=f"train {recipe.model['name']}",
    )
    prepared = prepared_for(job)
    with new_directory(out) as directory, _checkpoints(out, job) as work:
        run(job, prepared, Place(directory=directory, found=_nowhere, work=work, reporter=reporter))


def prune_one(directory: Path, recipe: Recipe, prepared: Prepared, out: Path, reporter: Reporter | None = None) -> None:
    """Prunes the model in a folder, fine-tunes it when the recipe has epochs for that, into a new folder.

    Raises:
        UserError: when the model or its budget does not fit, or the new folder exists.
    """
    parent = read_record(directory).fingerprint
    pruning = Job(
        stage="prune",
        role="pruned",
        recipe=recipe,
        data_sha256=prepared.facts.sha256,
        source=prepared.facts.name,
        parent=parent,
        label="prune",
    )
    with tempfile.TemporaryDirectory() as between, new_directory(out) as target:
        last = target if recipe.finetune.epochs == 0 else Path(between)
        pruned = run(pruning, prepared, Place(directory=last, found=lambda _: directory))
        if recipe.finetune.epochs:
            tuning = replace(pruning, stage="finetune", role="pruned+finetuned", parent=pruned.fingerprint)
            with _checkpoints(out, tuning) as work:
                run(tuning, prepared, Place(directory=target, found=lambda _: last, work=work, reporter=reporter))


@contextmanager
def _checkpoints(out: Path, job: Job) -> Iterator[Path]:
    """Gives a place beside `out` that outlives an interruption: the same command goes on from it."""
    work = out.parent / f".{out.name}.{job.fingerprint}"
    interrupted = False
    try:
        yield work
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:  # what is done, or cannot end well, is not gone on with
            shutil.rmtree(work, ignore_errors=True)


def recipe_of(directory: Path, section: Mapping[str, Any], settings: Iterable[str]) -> Recipe:
    """Returns the recipe that a model folder keeps, with other sections and settings laid over it.

    Raises:
        UserError: when a setting touches what the trained model has settled, or the folder is damaged.
    """
    check_settings(settings, PRUNING_SECTIONS)
    recipe = load_recipe(base=merged(read_mapping(directory / RECIPE_FILE), section), settings=settings)
    if recipe.prune is None:
        raise UserError("prune: expected its settings, found none")
    metadata = load_metadata(directory)
    kind: type[ForecastModel] = MODELS.load(str(metadata.model["name"]))
    return recipe.model_copy(
        update={
            "model": dict(metadata.model),
            "train": with_rate(recipe.train, kind),
            "finetune": with_rate(recipe.finetune, kind),
        }
    )


def check_settings(settings: Iterable[str], sections: frozenset[str]) -> None:
    """Refuses settings that a verb would not use.

    Raises:
        UserError: naming the section and those that can be set.
    """
    for setting in settings:
        foreign = parse_setting(setting).keys() & Recipe.model_fields.keys() - sections
        if foreign:
            raise UserError(
                f"--set {setting}: {foreign.pop()!r} has no effect here; expected {', '.join(sorted(sections))}"
            )


def _nowhere(fingerprint: str) -> Path:
    raise AssertionError(f"a stage without parents asked for {fingerprint}")

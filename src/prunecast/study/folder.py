"""A study on disk: its recipe, the list of its stages, the store, and the report.

STUDY/recipe.yaml     as resolved
STUDY/stages.json     fingerprint, stage and label of every stage of the plan
STUDY/store/          the records (see `store`)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunecast.errors import UserError
from prunecast.pipeline import RECIPE_FILE
from prunecast.recipe import Recipe
from prunecast.recipe_io import load_recipe, write_recipe
from prunecast.records import Failure, Record, RunRecord
from prunecast.stages import Job
from prunecast.store import Store, new_file, sweep
from prunecast.study.engine import Engine, Monitor, Outcome, run_plan

STAGES_FILE = "stages.json"
STORE_FOLDER = "store"


class PlannedStage(Record):
    """A stage of the plan, as `stages.json` lists it."""

    fingerprint: str
    stage: str
    label: str


_PLAN = TypeAdapter(tuple[PlannedStage, ...])


@dataclass(frozen=True)
class Study:
    """A study's folder, opened for reading.

    Attributes:
        title: of the report.
        stages: of the plan.
        store: where the records are.
    """

    title: str
    stages: Sequence[PlannedStage]
    store: Store

    def results(self) -> tuple[list[RunRecord], list[Failure]]:
        """Returns the records of the plan's finished stages, in its order, and its failures.

        Raises:
            UserError: when a record is damaged.
        """
        names = [stage.fingerprint for stage in self.stages]
        return [self.store.record(name) for name in names if self.store.has(name)], self.failures()

    def failures(self) -> list[Failure]:
        """Returns the failures of the plan's stages."""
        planned = {stage.fingerprint for stage in self.stages}
        return [failure for failure in self.store.failures() if failure.fingerprint in planned]


def open_study(directory: Path) -> Study:
    """Opens a study's folder.

    Raises:
        UserError: when it is not one.
    """
    try:
        stages = _PLAN.validate_json((directory / STAGES_FILE).read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{directory} is not a study's folder: expected a whole {STAGES_FILE} in it") from None
    study = load_recipe(directory / RECIPE_FILE).study
    return Study((study and study.title) or directory.name, stages, Store(directory / STORE_FOLDER))


def run_study(  # noqa: PLR0917
    directory: Path,
    recipe: Recipe,
    jobs: Sequence[Job],
    workers: int | None,
    monitor: Monitor,
    engine: Engine = run_plan,
) -> Outcome:
    """Runs what is not done yet of a plan, in the study's folder.

    Args:
        directory: of the study; made when absent.
        recipe: kept beside the results.
        jobs: the plan.
        workers: processes; as many as the recipe's threads leave room for when None.
        monitor: hears of progress.
        engine: runs the stages.

    Raises:
        UserError: when the folder cannot be written, or another run holds it.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / STORE_FOLDER).is_dir():
        raise UserError(f"{directory} exists and is not a study's folder; give another --out")
    store = Store(directory / STORE_FOLDER)
    with store.writer():
        for name in (RECIPE_FILE, STAGES_FILE):
            sweep(directory / name)
        with new_file(directory / RECIPE_FILE, replace=True) as path:
            write_recipe(recipe, path)
        with new_file(directory / STAGES_FILE, replace=True) as path:
            stages = [PlannedStage(fingerprint=job.fingerprint, stage=job.stage, label=job.label) for job in jobs]
            path.write_bytes(_PLAN.dump_json(tuple(stages), indent=1) + b"\n")
        processes = workers or max(1, (os.cpu_count() or 1) // recipe.train.threads)
        return engine(jobs, store, processes, monitor)


def status(directory: Path) -> dict[str, Any]:
    """Says how far a study is: stages, done, failed with reasons, whether it runs, and the count of each kind.

    Raises:
        UserError: when the folder is not a study's.
    """
    study = open_study(directory)
    planned = Counter(stage.stage for stage in study.stages)
    done = Counter(stage.stage for stage in study.stages if study.store.has(stage.fingerprint))
    return {
        "stages": planned.total(),
        "done": done.total(),
        "running": study.store.is_held(),
        "failed": [f"{failure.label}: {failure.reason}" for failure in study.failures()],
        "by_stage": {kind: f"{done[kind]} of {count}" for kind, count in planned.items()},
    }

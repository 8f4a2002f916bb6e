"""A study on disk: its recipe, the list of its stages, the store, and the report.

STUDY/recipe.yaml     as resolved
STUDY/stages.json     fingerprint, stage and label of every stage of the plan
STUDY/store/          the records (see `store`)

A published study is its recipe and the tables of its records (see `frame`), without a store; what runs later in its
folder, or in a copy of it, lies in a store beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunecast.errors import UserError
from prunecast.measure.machine_lock import WAIT_S
from prunecast.recipe import RECIPE_FILE, Recipe, load_recipe, write_recipe
from prunecast.records import Failure, Record, RunRecord, Stage
from prunecast.stages.job import Job, what_is_timed
from prunecast.store import Damaged, Store, new_file, sweep
from prunecast.study.executor import Assignment, Engine, Monitor, Outcome, drop_files, run_plan
from prunecast.study.frame import RECORDS_FILE, StudyFrame, concat, frame_of, read_frame, read_stages, selected
from prunecast.study.local import ENGINE as LOCAL
from prunecast.study.ready import refuse_what_cannot_end
from prunecast.study.resources import Shares
from prunecast.study.stock import Stock, standing_for, take_stock, to_run

STAGES_FILE = "stages.json"
STORE_FOLDER = "store"


class PlannedStage(Record):
    """A stage of the plan, as `stages.json` lists it."""

    fingerprint: str
    stage: Stage
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

    def names(self) -> dict[str, list[str]]:
        """Returns, by planned stage, the results in the store that stand for it."""
        return standing_for(self.stages, self.store)

    def results(self) -> tuple[list[RunRecord], list[Failure]]:
        """Returns the records of the plan's finished stages, in its order, and its failures.

        A timing that was taken on several machines has several. A damaged record counts as a failure. Published
        stages have no records, see `tables`.
        """
        records, failures = [], self.failures()
        names = self.names()
        for stage in self.stages:
            for name in names[stage.fingerprint]:
                try:
                    records.append(self.store.record(name))
                except Damaged as error:
                    failures.append(_damage(stage, name, error.reason))
                except UserError:  # it is published, or a run has set it aside meanwhile
                    continue
        return records, failures

    def tables(self) -> tuple[StudyFrame, list[Failure]]:
        """Returns the tables of the plan's finished stages, in its order, and its failures; see `results`."""
        records, failures = self.results()
        found = frame_of(records)
        if not self.store.published:
            return found, failures
        found = concat([found, read_frame(self.store.root.parent)])
        names = [name for results in self.names().values() for name in results]
        return selected(found, names), failures

    def failures(self) -> list[Failure]:
        """Returns the failures of the plan's stages, in its order: what failed comes before what rests on it."""
        failed = {failure.fingerprint: failure for failure in self.store.failures()}
        return [failed[stage.fingerprint] for stage in self.stages if stage.fingerprint in failed]


def _damage(stage: PlannedStage, name: str, reason: str) -> Failure:
    why = f"damaged: {reason}; `study run` computes it again"
    return Failure(stage=stage.stage, fingerprint=name, label=stage.label, reason=why)


def open_study(directory: Path) -> Study:
    """Opens a study's folder.

    Raises:
        UserError: when it is not one.
    """
    published = _published(directory)
    try:
        stages = _PLAN.validate_json((directory / STAGES_FILE).read_bytes())
    except (OSError, ValidationError):
        if not published or (directory / STAGES_FILE).exists():
            raise UserError(f"{directory} is not a study's folder: expected a whole {STAGES_FILE} in it") from None
        stages = tuple({what_is_timed(stage.fingerprint): stage for stage in published}.values())
    study = load_recipe(directory / RECIPE_FILE).study
    store = Store(directory / STORE_FOLDER, (stage.fingerprint for stage in published))
    return Study((study and study.title) or directory.name, stages, store)


def _published(directory: Path) -> list[PlannedStage]:
    """Returns the stages whose records lie in a folder's tables; none where there are no tables."""
    if not (directory / RECORDS_FILE).exists():
        return []
    columns = list(PlannedStage.model_fields)
    rows = read_stages(directory / RECORDS_FILE, columns)[columns].to_dict("records")
    return [PlannedStage.model_validate(row) for row in rows]


def run_study(
    directory: Path,
    recipe: Recipe,
    jobs: Sequence[Job],
    workers: int | None,
    monitor: Monitor,
    *,
    engine: Engine = LOCAL,
    own_timings: bool = False,
    wait_s: float = WAIT_S,
) -> Outcome:
    """Runs what is not done yet of a plan, in the study's folder.

    Args:
        directory: of the study; made when absent.
        recipe: kept beside the results.
        jobs: the plan.
        workers: stages at once; as many as there is room for when None.
        monitor: hears of progress.
        engine: runs the stages.
        own_timings: timings are taken on this machine even where another one's are there.
        wait_s: how long at most a timing waits for other stages on this machine.

    Raises:
        UserError: when the folder cannot be written, another run holds it, or a package or device is missing.
    """
    published = _published(directory)
    if not published and directory.exists() and any(directory.iterdir()) and not (directory / STORE_FOLDER).is_dir():
        raise UserError(f"{directory} exists and is not a study's folder; give another --out")
    engine.check()
    store = Store(directory / STORE_FOLDER, (stage.fingerprint for stage in published))
    refuse_what_cannot_end(jobs, store, own_timings=own_timings)
    with store.writer():
        _write_plan(directory, recipe, jobs)
        stock = take_stock(jobs, store, own_timings=own_timings)
        waiting = to_run(jobs, stock)
        outcome = Outcome(present=len(jobs) - len(waiting))
        monitor.start(len(jobs), outcome.present)
        try:
            _put_right(stock, store, jobs, outcome, monitor)
            keep_files = recipe.study is None or recipe.study.keep_files
            if not keep_files:  # what a killed run had no time to drop, or was kept before
                needed = {name for job in waiting for name in job.needs}
                drop_files((job for job in jobs if job.fingerprint not in needed), store)
            assignment = Assignment(waiting, store, Shares.of(recipe.study), workers, monitor, keep_files, wait_s)
            return run_plan(engine, assignment, jobs, outcome)
        finally:
            monitor.stop()


def _write_plan(directory: Path, recipe: Recipe, jobs: Sequence[Job]) -> None:
    for name in (RECIPE_FILE, STAGES_FILE):
        sweep(directory / name)
    with new_file(directory / RECIPE_FILE, replace=True) as path:
        write_recipe(recipe, path)
    with new_file(directory / STAGES_FILE, replace=True) as path:
        stages = [PlannedStage(fingerprint=job.fingerprint, stage=job.stage, label=job.label) for job in jobs]
        path.write_bytes(_PLAN.dump_json(tuple(stages), indent=1) + b"\n")


def _put_right(stock: Stock, store: Store, jobs: Sequence[Job], outcome: Outcome, monitor: Monitor) -> None:
    """Sets aside what is damaged, and takes note that files which are newer than their record are whole."""
    for name in stock.hashed:
        store.trust(name)
    by_name = {what_is_timed(job.fingerprint): job for job in jobs}
    for name, reason in stock.damaged.items():
        store.set_aside(name)
        job = by_name[what_is_timed(name)]
        outcome.damaged[job.label] = reason
        monitor.damaged(job, reason)


def status(directory: Path, *, thorough: bool = False) -> dict[str, Any]:
    """Says how far a study is; reads only, so a running one may be asked.

    Args:
        directory: of the study.
        thorough: hash every file; else sizes have to do for those that are older than their record.

    Returns:
        stages, done, running (whether a run is at work), waiting, failed and damaged with reasons, the labels of the
        stages that run now, the timings of each machine, and the counts of each kind of stage.

    Raises:
        UserError: when the folder is not a study's.
    """
    study = open_study(directory)
    stock = take_stock(study.stages, study.store, thorough=thorough)
    failures = {failure.fingerprint: failure for failure in study.failures()}
    under_way = study.store.under_way()
    places = {stage.fingerprint: _place(stage.fingerprint, stock, under_way, failures.keys()) for stage in study.stages}
    labels = {stage.fingerprint: stage.label for stage in study.stages}
    counts = Counter(places.values())
    return {
        "stages": len(study.stages),
        "done": counts["done"],
        "running": study.store.is_held(),
        "waiting": counts["waiting"],
        "failed": [f"{failure.label}: {failure.reason}" for failure in failures.values()],
        "damaged": [f"{study.store.directory(name)}: {reason}" for name, reason in stock.damaged.items()],
        "now": [labels[name] for name, place in places.items() if place == "running"],
        "timed_on": _machines(stock),
        "by_stage": _by_stage(study.stages, places),
    }


PLACES = ("done", "running", "waiting", "failed", "damaged")


def _place(name: str, stock: Stock, under_way: frozenset[str], failed: Any) -> str:
    if name in stock.done:
        return "done"
    if name in under_way:
        return "running"
    if name in failed:
        return "failed"
    return "damaged" if name in stock.damaged else "waiting"


def _machines(stock: Stock) -> dict[str, int]:
    names = (name for results in stock.done.values() for name in results)
    return dict(Counter(name.partition("-")[2] for name in names if "-" in name))


def _by_stage(stages: Sequence[PlannedStage], places: Mapping[str, str]) -> list[dict[str, Any]]:
    counts = Counter((stage.stage, places[stage.fingerprint]) for stage in stages)
    kinds = Counter(stage.stage for stage in stages)
    return [
        {"stage": kind, "planned": planned} | {place: counts[kind, place] for place in PLACES}
        for kind, planned in kinds.items()
    ]

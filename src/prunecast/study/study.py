"""A study on disk: what of its plan is there, what a run computes, and how it stands.

STUDY/recipe.yaml     as resolved
STUDY/stages.json     fingerprint, stage and label of every stage of the plan
STUDY/store/          the records (see `store`)

A published study is its recipe and the tables of its records (see `frame`), without a store; what runs later in its
folder, or in a copy of it, lies in a store beside them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from prunecast.errors import MissingExtra, UserError
from prunecast.measure.machine_lock import WAIT_S
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import build, config_from
from prunecast.prune.apply import check_budget
from prunecast.recipe import RECIPE_FILE, ExportConfig, Recipe, StudyConfig, load_recipe, write_recipe
from prunecast.records import Failure, Record, RunRecord, Stage
from prunecast.results import StudyStatus
from prunecast.stages.export import refusal
from prunecast.stages.job import Job, what_is_timed
from prunecast.store import RECORD_FILE, Damaged, Store, new_file, sweep
from prunecast.study.executor import Executor, Monitor, Outcome, Workload, drop_files, run_plan
from prunecast.study.frame import (
    ARRAYS_TABLE,
    RECORDS_FILE,
    StudyFrame,
    concat,
    frame_of,
    read_frame,
    read_stages,
    selected,
)
from prunecast.study.local import LocalExecutor

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

    def names(self) -> list[str]:
        """Returns the fingerprints of the results in the store that satisfy a planned stage, in the plan's order."""
        return [name for results in _results_of(self.stages, self.store).values() for name in results]

    def results(self) -> tuple[list[RunRecord], list[Failure]]:
        """Returns the records of the plan's finished stages, in its order, and its failures.

        A timing that was taken on several machines has several. A damaged record counts as a failure. Published
        stages have no records, see `tables`.

        Raises:
            UserError: when a record is of another schema: a report without it would say nothing of that.
        """
        records, failures = [], self.failures()
        planned = {what_is_timed(stage.fingerprint): stage for stage in self.stages}
        for name in self.names():
            try:
                records.append(self.store.record(name))
            except Damaged as error:
                why = f"damaged: {error.reason}; `study run` computes it again"
                stage = planned[what_is_timed(name)]
                failures.append(Failure(stage=stage.stage, fingerprint=name, label=stage.label, reason=why))
            except UserError:
                if self.store.directory(name).exists():  # else published, or a run has set it aside meanwhile
                    raise
        return records, failures

    def tables(self) -> tuple[StudyFrame, list[Failure]]:
        """Returns the tables of the plan's finished stages, in its order, and its failures; see `results`."""
        records, failures = self.results()
        found = frame_of(records)
        if self.store.published:
            found = selected(concat([found, read_frame(self.store.root.parent)]), self.names())
        return found, failures

    def stamps(self) -> list[str]:
        """Returns what changes with title, records and failures, from sizes and times of files: none is read."""
        names = sorted(self.names())
        tables = (self.store.root.parent / name for name in (RECORDS_FILE, ARRAYS_TABLE))
        files = (*(self.store.directory(name) / RECORD_FILE for name in names), *tables)
        stats = [path.stat() for path in files if path.exists()]
        failures = [failure.model_dump_json() for failure in self.failures()]
        return [self.title, *names, *failures, *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)]

    def failures(self) -> list[Failure]:
        """Returns the failures of the plan's stages, in its order: what failed comes before what rests on it."""
        failed = {failure.fingerprint: failure for failure in self.store.failures()}
        return [failed[stage.fingerprint] for stage in self.stages if stage.fingerprint in failed]


def open_study(directory: Path) -> Study:
    """Opens a study's folder; raises a UserError when it is not one."""
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


# What of the plan is there


@dataclass(frozen=True)
class Inventory:
    """What of a plan lies in a store, and whether it is whole.

    Attributes:
        done: a planned stage's fingerprint -> those of the whole results that satisfy it; several for a timing that was
            taken on several machines.
        damaged: fingerprint of a result -> what is wrong with it.
        bare: results whose record is all that there is of them.
        hashed: results whose files are newer than their record, and whole.
    """

    done: Mapping[str, Sequence[str]]
    damaged: Mapping[str, str]
    bare: frozenset[str]
    hashed: frozenset[str]


def _results_of(
    stages: Iterable[Job | PlannedStage], store: Store, *, own_timings: bool = False
) -> dict[str, list[str]]:
    """Maps each planned stage to the results in the store that satisfy it, by names alone; see `take_inventory`."""
    names = store.finished()
    timings: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(name for name in names if what_is_timed(name) != name):
        timings[what_is_timed(name)].append(name)
    found = {}
    for fingerprint in (stage.fingerprint for stage in stages):
        timed = what_is_timed(fingerprint)
        if timed == fingerprint or own_timings:
            found[fingerprint] = [fingerprint] if fingerprint in names else []
        else:
            found[fingerprint] = timings.get(timed, [])
    return found


def take_inventory(
    stages: Iterable[Job | PlannedStage], store: Store, *, own_timings: bool = False, thorough: bool = False
) -> Inventory:
    """Looks at every result that satisfies a planned stage.

    With `own_timings` only timings of the machine that the plan names count. With `thorough` all files are hashed, else
    those that are newer than their record.
    """
    found = _results_of(stages, store, own_timings=own_timings)
    names = dict.fromkeys(name for results in found.values() for name in results)
    conditions = {name: store.condition(name, thorough=thorough) for name in names}
    damaged = {name: condition.damage for name, condition in conditions.items() if condition.damage is not None}
    done = {stage: [name for name in results if name not in damaged] for stage, results in found.items()}
    return Inventory(
        {stage: results for stage, results in done.items() if results},
        damaged,
        frozenset(name for name, condition in conditions.items() if condition.bare),
        frozenset(name for name, condition in conditions.items() if condition.hashed) - damaged.keys(),
    )


def to_run(plan: Sequence[Job], inventory: Inventory) -> list[Job]:
    """Returns the stages that are not done, in the order of the plan.

    A stage is done when its record is there. Where another one is to be run that needs its files, and they are gone,
    it is to be run again.
    """
    wanted = {job.fingerprint for job in plan if job.fingerprint not in inventory.done}
    for job in reversed(plan):  # parents come first in a plan: what is asked of them is known when they are reached
        if job.fingerprint in wanted:
            wanted.update(inventory.bare.intersection(job.needs))
    return [job for job in plan if job.fingerprint in wanted]


# Running


def run_study(
    directory: Path,
    recipe: Recipe,
    jobs: Sequence[Job],
    workers: int | None,
    monitor: Monitor,
    *,
    executor: type[Executor] = LocalExecutor,
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
        executor: runs the stages.
        own_timings: timings are taken on this machine even where another one's are there.
        wait_s: how long at most a timing waits for other stages on this machine.

    Raises:
        UserError: when the folder cannot be written, another run holds it, or a package or device is missing.
    """
    published = _published(directory)
    if not published and directory.exists() and any(directory.iterdir()) and not (directory / STORE_FOLDER).is_dir():
        raise UserError(f"{directory} exists and is not a study's folder; give another --out")
    executor.check()
    store = Store(directory / STORE_FOLDER, (stage.fingerprint for stage in published))
    _preflight(jobs, store, own_timings=own_timings)
    with store.writer():
        _write_plan(directory, recipe, jobs)
        inventory = take_inventory(jobs, store, own_timings=own_timings)
        waiting = to_run(jobs, inventory)
        outcome = Outcome(present=len(jobs) - len(waiting))
        monitor.start(len(jobs), outcome.present)
        try:
            for line in changed_data(jobs, store):
                monitor.note(line)
            _put_right(inventory, store, jobs, outcome, monitor)
            study = recipe.study or StudyConfig()
            if not study.keep_files:  # what a killed run had no time to drop, or was kept before
                needed = {name for job in waiting for name in job.needs}
                drop_files((job for job in jobs if job.fingerprint not in needed), store)
            return run_plan(executor, Workload(jobs, waiting, store, study, workers, monitor, wait_s), outcome)
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


def _put_right(inventory: Inventory, store: Store, jobs: Sequence[Job], outcome: Outcome, monitor: Monitor) -> None:
    """Sets aside what is damaged, and takes note that files which are newer than their record are whole."""
    for name in inventory.hashed:
        store.trust(name)
    by_name = {what_is_timed(job.fingerprint): job for job in jobs}
    for name, reason in inventory.damaged.items():
        store.set_aside(name)
        job = by_name[what_is_timed(name)]
        outcome.damaged[job.label] = reason
        monitor.damaged(job, reason)


def changed_data(jobs: Sequence[Job], store: Store) -> list[str]:
    """Returns a line for each data set of a plan of which a store has results, all of them from another content."""
    finished = store.finished()
    present = {job.data_sha256 for job in jobs if job.fingerprint in finished}
    new = {job.data_sha256: job.recipe.data.name for job in jobs if job.data_sha256 not in present}
    if not new:  # as a rule: no record is read
        return []
    known: defaultdict[str, set[str]] = defaultdict(set)
    for fingerprint in finished:
        with suppress(UserError):  # damaged, published as a row of a table, or of another version
            data = store.record(fingerprint).data
            known[data.name].add(data.sha256)
    return [
        f"{name}: not the file that results in {store.root} were made of; what rests on it is computed anew"
        for sha256, name in new.items()
        if known[name] and sha256 not in known[name]
    ]


def _preflight(jobs: Sequence[Job], store: Store, *, own_timings: bool) -> None:
    """Refuses a plan of which something that is still to be made cannot be: before anything runs, not after hours.

    Either a runtime's package is not installed, or a model cannot lose as many units as is asked for.
    """
    exports = [job for job in jobs if job.stage == "export"]
    if exports:
        model = build(config_from(exports[0].recipe.model))
        try:
            for name in exports[0].recipe.measure.runtimes:
                refusal(model, ExportConfig(runtime=name))
        except MissingExtra:
            left = to_run(jobs, take_inventory(jobs, store, own_timings=own_timings))
            if any(job.stage in ("export", "measure") for job in left):
                raise
    finished = store.finished()
    check_budgets([job for job in jobs if job.fingerprint not in finished])


def check_budgets(jobs: Sequence[Job]) -> None:
    """Raises a UserError when a model cannot lose the most that is asked of it; all seeds have one answer."""
    most: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        if job.prunes and job.recipe.prune is not None:
            way = job.recipe.prune.model_dump(exclude={"sparsity", "step"})
            key = (str(job.recipe.model), str(way))
            other = most.setdefault(key, job).recipe.prune
            if other is not None and other.sparsity < job.recipe.prune.sparsity:
                most[key] = job
    for job in most.values():
        assert job.recipe.prune is not None
        try:
            check_budget(config_from(job.recipe.model), job.recipe.prune, cost=dense_macs, weight_cost=macs_per_weight)
        except UserError as error:
            raise UserError(f"{job.label}: {error}") from None


# How it stands


PLACES = ("done", "running", "waiting", "failed", "damaged")


def status(directory: Path, *, thorough: bool = False) -> StudyStatus:
    """Says how far a study is; reads only, so a running one may be asked. See `open_study`, `take_inventory`."""
    study = open_study(directory)
    inventory = take_inventory(study.stages, study.store, thorough=thorough)
    failures = {failure.fingerprint: failure for failure in study.failures()}
    under_way = study.store.under_way()

    def place_of(name: str) -> str:
        if name in inventory.done:
            return "done"
        if name in under_way:
            return "running"
        if name in failures:
            return "failed"
        return "damaged" if name in inventory.damaged else "waiting"

    places = {stage.fingerprint: place_of(stage.fingerprint) for stage in study.stages}
    kinds = Counter(stage.stage for stage in study.stages)
    counts = Counter((stage.stage, places[stage.fingerprint]) for stage in study.stages)
    results = (name for results in inventory.done.values() for name in results)
    return StudyStatus(
        stages=len(study.stages),
        done=sum(counts[kind, "done"] for kind in kinds),
        running=study.store.is_held(),
        waiting=sum(counts[kind, "waiting"] for kind in kinds),
        failed=[f"{failure.label}: {failure.reason}" for failure in failures.values()],
        damaged=[f"{study.store.directory(name)}: {reason}" for name, reason in inventory.damaged.items()],
        now=[stage.label for stage in study.stages if places[stage.fingerprint] == "running"],
        timed_on=Counter(machine for _, _, machine in (name.partition("-") for name in results) if machine),
        by_stage=[
            {"stage": kind, "planned": planned} | {place: counts[kind, place] for place in PLACES}
            for kind, planned in kinds.items()
        ],
    )

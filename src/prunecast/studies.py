"""A study as verbs: run it, ask how it stands, hand its records on, write its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.inference import Row
from prunecast.measure.machine_lock import seconds
from prunecast.recipe import RECIPE_FILE, load_recipe
from prunecast.registry import EXECUTORS, TRACKERS
from prunecast.report.page import ReportFiles, write_report
from prunecast.shown import remember, remembered, state_of
from prunecast.study.executor import Executor, Monitor, Outcome
from prunecast.study.frame import Tracker
from prunecast.study.plan import decided, plan
from prunecast.study.study import open_study, run_study, status

REPORT_FILE = "report.html"

Timings = Literal["any", "here"]
"""Whose timings count as done: those of any machine, or this machine's alone."""


@dataclass(frozen=True)
class StudyResult:
    """How a study went, and the files of its report."""

    outcome: Outcome
    stages: int
    files: ReportFiles


def study_run(
    recipe: Path,
    *,
    monitor: Monitor,
    out: Path | None = None,
    workers: int | None = None,
    engine: str = "local",
    measure: Timings = "any",
    wait: str = "60s",
    settings: Iterable[str] = (),
) -> StudyResult:
    """Runs a study or goes on with it, and writes its report.

    Args:
        recipe: a YAML file with a study section.
        monitor: hears of progress.
        out: folder of the study; `runs/<name of the recipe>` when absent.
        workers: stages at once; as many as the machine has room for when absent.
        engine: local, or ray: a cluster.
        measure: here: take this machine's timings even where another one's are there.
        wait: how long at most a timing waits for other stages on this machine, as in 60s or 10min.
        settings: "section.key=value" texts.

    Raises:
        UserError: when the recipe does not fit, something that it needs is missing, or another run holds the folder.
    """
    wait_s = seconds(wait)
    executor: type[Executor] = EXECUTORS.load(engine)
    executor.check()
    directory = out or Path("runs") / recipe.stem
    whole = decided(load_recipe(recipe, settings), directory / RECIPE_FILE)
    jobs = plan(whole, load_series, environment.describe().machine)
    outcome = run_study(
        directory, whole, jobs, workers, monitor, executor=executor, own_timings=measure == "here", wait_s=wait_s
    )
    return StudyResult(outcome, len(jobs), report(directory))


def study_status(directory: Path, *, verify: bool = False) -> Row:
    """Says how far a study is and what was found damaged; reads only, so a running one may be asked.

    Args:
        directory: of the study.
        verify: hash every file, not only those that are newer than their record.

    Raises:
        UserError: when the folder is not a study's.
    """
    return status(directory, thorough=verify)


def study_export(directory: Path, tracker: str, target: str) -> Row:
    """Hands a study's records on, one row or run each; those that are there already are left alone.

    Args:
        directory: of the study.
        tracker: parquet, mlflow or wandb.
        target: the file, the tracking URI, or the project.

    Raises:
        UserError: when the folder is not a study's, a package is not installed, or the target does not fit.
    """
    send: Tracker = TRACKERS.load(tracker)
    study = open_study(directory)
    tables, _ = study.tables()
    return {"to": target, "records": len(tables.stages), "written": send(tables, target, study.title)}


def report(directory: Path, *, out: Path | None = None) -> ReportFiles:
    """Writes a study's report from its records; where it lies already and nothing has changed, they are not even read.

    Raises:
        UserError: when the folder is not a study's, or holds no records yet.
    """
    if out is not None and out.exists():
        raise UserError(f"{out} exists; give another --out")
    study, page = open_study(directory), out or directory / REPORT_FILE
    state = state_of(study, page)
    files = None if out is not None else remembered(directory, state)
    if files is None:
        records, failures = study.results()
        files = write_report(records, failures, page, title=study.title, store=study.store)
        if out is None:
            remember(directory, state, files)
    return files

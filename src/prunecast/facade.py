"""The public Python API: the verbs of the command line as functions of the same names and arguments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunecast import assess, environment
from prunecast.data import catalog
from prunecast.data.check import check_file
from prunecast.data.locate import fetch_verified, find
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.measure.latency import time_against
from prunecast.models.disk import load_card, load_model
from prunecast.opened import (
    Row,
    check_same_inputs,
    forecast_table,
    open_source,
    prepared_for_card,
    runtime_of,
    sparsity,
)
from prunecast.recipe import ExportConfig, MeasureConfig
from prunecast.recipe_io import load_recipe
from prunecast.records import Scoring
from prunecast.registry import ENGINES, METHODS, MODELS, RUNTIMES
from prunecast.report.page import ReportFiles, write_report
from prunecast.single import TRAINING_SECTIONS, check_settings, prune_one, recipe_of, train_one
from prunecast.store import RECORD_FILE, new_file, read_record
from prunecast.study.engine import Engine, Monitor, Outcome
from prunecast.study.folder import open_study, run_study, status
from prunecast.study.plan import plan
from prunecast.train.evaluate import score
from prunecast.train.progress import Reporter

__all__ = [
    "Scoring",
    "data_check",
    "data_fetch",
    "data_list",
    "evaluate",
    "export",
    "forecast",
    "measure",
    "prune",
    "report",
    "study_run",
    "study_status",
    "summary",
    "train",
]

REPORT_FILE = "report.html"


def train(
    model: str,
    data: str,
    *,
    out: Path,
    horizon: int | None = None,
    lookback: int | None = None,
    seed: int = 1,
    settings: Iterable[str] = (),
    reporter: Reporter | None = None,
) -> Row:
    """Trains a forecaster, scores it and writes its folder.

    Args:
        model: name of a model.
        data: catalogue name, or a CSV or Parquet file.
        out: folder of the result; must not exist.
        horizon: steps to forecast.
        lookback: steps of history.
        seed: of weights, shuffling and dropout.
        settings: "section.key=value" texts, any key of the recipe.
        reporter: hears of progress.

    Raises:
        UserError: when a name, value or file does not fit; nothing is written then.
    """
    sizes = {"horizon": horizon, "lookback": lookback}
    base = {
        "seed": seed,
        "data": {"name": data},
        "model": {"name": MODELS.check(model)} | {key: value for key, value in sizes.items() if value is not None},
    }
    settings = tuple(settings)
    check_settings(settings, TRAINING_SECTIONS)
    train_one(load_recipe(settings=settings, base=base), out, reporter)
    return summary(out)


def prune(
    directory: Path,
    method: str,
    sparsity: float,
    *,
    out: Path,
    of: str | None = None,
    finetune_epochs: int = 0,
    data: str | None = None,
    settings: Iterable[str] = (),
    reporter: Reporter | None = None,
) -> Row:
    """Prunes a model, fine-tunes it when asked, scores it and writes its folder.

    Args:
        directory: a model folder; it stays as it is.
        method: name of a pruning method.
        sparsity: share to remove, of what `of` says.
        out: folder of the result; must not exist.
        of: prunable, model or operations; the method's own when None.
        finetune_epochs: epochs of training afterwards, with masks held.
        data: where the data is, when the model was trained on a file.
        settings: "section.key=value" texts.
        reporter: hears of progress.

    Raises:
        UserError: when a name, value, file or budget does not fit; nothing is written then.
    """
    section: Row = {"prune": {"method": METHODS.check(method), "sparsity": sparsity, "of": of}}
    if finetune_epochs:
        section["finetune"] = {"epochs": finetune_epochs}
    card = load_card(directory)
    recipe = recipe_of(directory, section, tuple(settings))
    prune_one(directory, recipe, prepared_for_card(card, data), out, reporter)
    return summary(out)


def evaluate(source: Path, *, data: str | None = None, scoring: Scoring = "full") -> Row:
    """Scores a model folder or an exported artefact on the test part.

    Raises:
        UserError: when the source or the data does not fit.
    """
    opened = open_source(source)
    prepared = prepared_for_card(opened.card, data)
    predict = opened.predictor()
    test = score(predict, prepared.test, "test", scoring)
    validation = score(predict, prepared.validation, "validation", scoring)
    return {
        "mse": test.mse,
        "mae": test.mae,
        "val_mse": validation.mse,
        "windows": test.windows,
        "scoring": scoring,
        **opened.sizes(),
    }


def measure(
    sources: Sequence[Path],
    *,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    data: str | None = None,
) -> list[Row]:
    """Measures size, operations, memory and time; later models against the first, in turn.

    Raises:
        UserError: when a source, the runtime or the data does not fit.
    """
    opened = [open_source(source) for source in sources]
    name = runtime or next((item.runtime for item in opened if item.path.is_file()), ExportConfig().runtime)
    RUNTIMES.check(name)
    config = MeasureConfig(threads=threads, batch=batch)
    check_same_inputs(opened)
    inputs = assess.real_inputs(opened[0].card, prepared_for_card(opened[0].card, data), batch)
    with tempfile.TemporaryDirectory() as folder:
        paths = [item.shipped(name, Path(folder) / str(number)) for number, item in enumerate(opened)]
        return [
            item.measured(time_against(name, path, paths[0] if number else None, inputs, config), path)
            for number, (item, path) in enumerate(zip(opened, paths, strict=True))
        ]


def export(directory: Path, runtime: str, *, out: Path, int8: bool = False, data: str | None = None) -> Row:
    """Writes a model for a runtime and holds it against eager PyTorch on real windows.

    Args:
        directory: a model folder.
        runtime: name of the runtime.
        out: the file; its ending tells its runtime when it is opened again.
        int8: store and multiply weights in 8 bits, scaled by windows of the training part.
        data: where the data is, when the model was trained on a file.

    Raises:
        UserError: when the model, the runtime or the data does not fit, or 8 bits are too few; nothing is written then.
    """
    kind = RUNTIMES.load(runtime)
    if not kind.suffix:
        raise UserError(f"runtime {runtime!r} runs the model folder itself: there is nothing to export")
    if runtime_of(out) not in (runtime, None):
        raise UserError(f"{out}: expected a name that ends in {kind.suffix}, found another runtime's {out.suffix}")
    saved, config = load_model(directory), ExportConfig(runtime=runtime, int8=int8)
    reason = assess.refusal(saved.model, config)
    if reason is not None:
        raise UserError(f"runtime {runtime!r} cannot run this model: {reason}")
    prepared = prepared_for_card(saved.card, data)
    with new_file(out) as path:
        artefact = assess.export_to(saved, prepared, config, path)
    assert artefact.parity is not None
    return {
        "path": str(out),
        "bytes": artefact.bytes,
        "max_deviation": artefact.parity.max_deviation,
        "mse_change": artefact.parity.mse_change,
    }


def forecast(source: Path, data: Path, *, out: Path, fill: str = "refuse") -> Row:
    """Forecasts what follows a file's last row, into a CSV file in the file's own units.

    Raises:
        UserError: when the source or the file does not fit; nothing is written then.
    """
    table = forecast_table(open_source(source), data, fill)
    with new_file(out) as path:
        table.rename(columns=inert).to_csv(path, index=False)
    return {"path": str(out), "rows": len(table), "start": str(table.iloc[0, 0]), "end": str(table.iloc[-1, 0])}


def inert(name: str) -> str:
    """Returns a column name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def summary(directory: Path) -> Row:
    """Returns the main numbers of a model folder under the keys that the command line promises."""
    record, card = read_record(directory / RECORD_FILE), load_card(directory)
    assert record.test is not None
    assert record.validation is not None
    assert record.size is not None
    numbers: Row = {
        "path": str(directory),
        "mse": record.test.mse,
        "mae": record.test.mae,
        "val_mse": record.validation.mse,
        "windows": record.test.windows,
        "scoring": record.test.scoring,
        "parameters": record.size.parameters,
        "nonzero": record.size.nonzero,
        "sparsity": sparsity(record.size.nonzero, card.dense_parameters),
    }
    if record.pruning is not None:
        numbers |= record.pruning.model_dump(include={"of", "unit", "total", "requested", "realised"})
    return numbers


def study_run(
    recipe: Path,
    *,
    monitor: Monitor,
    out: Path | None = None,
    workers: int | None = None,
    engine: str = "local",
    settings: Iterable[str] = (),
) -> StudyResult:
    """Runs a study or goes on with it, and writes its report.

    Args:
        recipe: a YAML file with a study section.
        monitor: hears of progress.
        out: folder of the study; `runs/<name of the recipe>` when absent.
        workers: processes; as many as the recipe's threads leave room for when absent.
        engine: how stages are run.
        settings: "section.key=value" texts.

    Raises:
        UserError: when the recipe does not fit, or another run holds the study's folder.
    """
    run_plan: Engine = ENGINES.load(engine)
    whole = load_recipe(recipe, settings)
    directory = out or Path("runs") / recipe.stem
    jobs = plan(whole, load_series, environment.describe().machine)
    outcome = run_study(directory, whole, jobs, workers, monitor, run_plan)
    return StudyResult(outcome, len(jobs), report(directory))


@dataclass(frozen=True)
class StudyResult:
    """How a study went, and the files of its report."""

    outcome: Outcome
    stages: int
    files: ReportFiles


def study_status(directory: Path) -> Row:
    """Says how far a study is; reads only, so a running one may be asked.

    Raises:
        UserError: when the folder is not a study's.
    """
    return status(directory)


def report(directory: Path, *, out: Path | None = None) -> ReportFiles:
    """Writes a study's report from its records.

    Raises:
        UserError: when the folder is not a study's, or holds no records yet.
    """
    if out is not None and out.exists():
        raise UserError(f"{out} exists; give another --out")
    study = open_study(directory)
    records, failures = study.results()
    return write_report(records, failures, out or directory / REPORT_FILE, title=study.title)


def data_list() -> list[Row]:
    """Returns the catalogue: name, what it is, and where it is found on this machine."""
    entries = [catalog.entry(name) for name in catalog.names()]
    return [{"name": entry.name, "about": entry.about, "found": _where(entry)} for entry in entries]


def _where(entry: catalog.Entry) -> str | None:
    if entry.file is None:
        return "generated"
    found = find(entry)
    return None if found is None else str(found)


def data_fetch(names: Sequence[str], *, accept_unverified: bool = False) -> list[Row]:
    """Downloads data sets into the user cache and verifies them; what is there already is only verified.

    Raises:
        UserError: on an unknown name, a failed download or a wrong hash.
    """
    entries = [catalog.entry(name) for name in names]
    return [
        {"name": entry.name, "path": str(fetch_verified(entry, accept_unverified=accept_unverified))}
        for entry in entries
    ]


def data_check(file: Path, *, fill: str = "refuse") -> Row:
    """Says what a file holds and what stands in the way of using it.

    Raises:
        UserError: when the file cannot be read.
    """
    return check_file(file, fill=fill).model_dump(mode="json")

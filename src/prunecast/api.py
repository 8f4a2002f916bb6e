"""The verbs: functions of the same names and arguments as on the command line, each with a typed result.

Each raises `UserError` where a name, a value, a file or data does not fit; one that makes a file or a model folder has
written nothing then. The command line is made from the signatures and docstrings here. What a verb needs is imported
when it is called, so that the command line answers at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunecast import results
from prunecast.errors import UserError, near
from prunecast.registry import DEFAULT_METHOD, EXECUTORS, METHODS, MODELS, PUBLISHED, RUNTIMES, TRACKERS

if TYPE_CHECKING:
    import pandas as pd

    from prunecast.data.check import ChannelCheck, DataCheck
    from prunecast.records import Profile, Scoring
    from prunecast.report.render import ReportFiles
    from prunecast.study.executor import Monitor, Outcome
    from prunecast.train.progress import Reporter

KINDS = ("models", "methods", "runtimes", "datasets")

CHANNELS_SHOWN, PROBLEMS_SHOWN, HINTS_SHOWN = 10, 600, 350
"""What one screen has room for: rows of channels, characters of problems and of hints."""

NAME_SHOWN = 18
"""Characters of a channel's name on that screen."""

TimedWhere = Literal["any", "here"]
"""Whose timings count as done: those of any machine, or this machine's alone."""


@dataclass(frozen=True, kw_only=True)
class FileCheck(results.Result):
    """What a file or a set of the catalogue holds."""

    check: DataCheck

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of the check."""
        return self.check.model_dump(mode="json")

    def shown(self) -> dict[str, Any]:
        """Returns one screen: facts, problems and hints, channels, and windows; the JSON has what is cut."""
        check, parts = self.check, self.check.parts
        places = "; ".join(f"{item.after} to {item.before}" for item in check.breaks)
        naive = [f"{row.forecast}{f' ({row.period} steps)' * (row.period > 1)} {row.mse:.4g}" for row in check.to_beat]
        ahead = [
            f"(standardised test MSE, {row.horizon} step{'s' * (row.horizon > 1)} ahead)" for row in check.to_beat[:1]
        ]
        shown = sorted(check.channels, key=lambda channel: not channel.missing)[:CHANNELS_SHOWN]
        more = f" ({len(shown)} of {len(check.channels)}; --json has all)" if len(shown) < len(check.channels) else ""
        windows: dict[int, dict[str, Any]] = {}
        for count in check.windows:
            row = windows.setdefault(count.lookback, {"look-back": str(count.lookback)})
            row[f"horizon {count.horizon}"] = f"{count.train} + {count.test}" if count.fits else "-"
        some_fit = any(count.fits for count in check.windows)
        return {
            "rows": f"{check.rows:,} (training {parts.train:,}, validation {parts.validation:,}, test {parts.test:,})",
            "span": f"{check.start} to {check.end}" if check.start else None,
            "step": check.frequency,
            "breaks": f"{check.break_count}: {places}" if places else "none",
            "seasons": [
                f"{season.steps} steps (autocorrelation {season.autocorrelation:.2f})" for season in check.seasons
            ],
            "to beat": " ".join([", ".join(naive), *ahead]) or None,
            "problems": _first(check.problems, PROBLEMS_SHOWN),
            "hints": _first(check.hints, HINTS_SHOWN),
            f"channels{more}": [_channel_row(channel) for channel in shown],
        } | ({"windows (training + test)": list(windows.values())} if some_fit else {"windows": "none"})


def _first(lines: Sequence[str], characters: int) -> list[str]:
    """Returns the first lines, of so many characters together, and how many more there are."""
    ends = accumulate(map(len, lines))
    shown = [line for line, end in zip(lines, ends, strict=True) if end <= characters] or [*lines[:1]]
    more = len(lines) - len(shown)
    return [*shown, *([f"and {more} more; --json has all"] if more else [])]


def _channel_row(channel: ChannelCheck) -> dict[str, Any]:
    name, half = channel.name, NAME_SHOWN // 2
    return {  # long names often differ at their ends alone
        "name": name if len(name) <= NAME_SHOWN else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}",
        "min": channel.min,
        "max": channel.max,
        "missing %": float(f"{100 * channel.missing_share:.2g}"),
        "season": channel.season,
        "shift": None if channel.shift is None else round(channel.shift, 2) + 0.0,  # no -0
        "spread": None if channel.spread is None else round(channel.spread, 2),
        "MAE last": channel.last_value_mae,
        "MAE seasonal": channel.seasonal_mae,
    }


@dataclass(frozen=True, kw_only=True)
class StudyRun(results.Result):
    """How a study went, and the files of its report."""

    outcome: Outcome
    stages: int
    files: ReportFiles

    def to_json(self) -> dict[str, Any]:
        """Returns counts of stages, what went wrong, and where the report lies."""
        return {
            "stages": self.stages,
            "done_before": self.outcome.present,
            "ran": self.outcome.ran,
            "failed": list(self.outcome.failed),
            "damaged": list(self.outcome.damaged),
            "report": str(self.files.page),
        }

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns the rows of the report."""
        return {"Results": self.files.rows}

    @property
    def exit_code(self) -> int:
        """1 where a stage failed."""
        return 1 if self.outcome.failed else 0


@dataclass(frozen=True, kw_only=True)
class Report(results.Result):
    """A report's page; its tables and charts lie beside it."""

    files: ReportFiles

    def to_json(self) -> dict[str, Any]:
        """Returns where the page lies."""
        return {"report": str(self.files.page)}


# Names and data


def list_names(kind: str) -> results.Names:
    """Lists what can be named.

    Args:
        kind: models, methods, runtimes or datasets.
    """
    rows: list[dict[str, Any]]
    if kind == "models":
        published = [name.split("/") for name in PUBLISHED.names()]
        rows = [{"name": name, "imports": [whose for of, whose in published if of == name]} for name in MODELS.names()]
    elif kind == "methods":
        return _methods()
    elif kind == "runtimes":
        rows = [_runtime_row(name) for name in RUNTIMES.names()]
    elif kind == "datasets":
        from prunecast.data import catalog

        rows = [{"name": name} for name in catalog.names()]
    else:
        raise UserError(f"unknown kind {kind!r}; {near(kind, KINDS)}")
    return results.Names(kind=kind, rows=tuple(rows))


def _runtime_row(name: str) -> dict[str, Any]:
    from prunecast.export.base import Int8Runtime, Runtime

    runtime: Runtime = RUNTIMES.load(name)
    return {
        "name": name,
        "title": runtime.title,
        "file": runtime.suffix or "the model folder",
        "int8": isinstance(runtime, Int8Runtime),
        "extra": runtime.extra,
    }


def _methods() -> results.Methods:
    from prunecast.prune.methods import FAMILIES, Method

    methods: dict[str, Method] = {name: METHODS.load(name) for name in METHODS.names()}
    rows = [
        {
            "name": name,
            "family": method.family,
            "budget": method.budget,
            "of": method.default_of,
            "blocks": method.blocks,
            "recovery": method.recovery,
            "data": method.needs_data,
            "trains": method.trains,
            "control": method.control,
            "summary": method.summary,
        }
        for name, method in methods.items()
    ]
    return results.Methods(kind="methods", rows=tuple(rows), families=FAMILIES)


def data_list() -> results.Catalog:
    """Lists the data sets of the catalogue and where each is found on this machine."""
    from prunecast.data import catalog
    from prunecast.data.download import find

    datasets = []
    for entry in map(catalog.entry, catalog.names()):
        path = find(entry)
        found = "generated" if entry.file is None else None if path is None else str(path)
        datasets.append(results.DataSet(name=entry.name, about=entry.about, found=found))
    return results.Catalog(datasets=tuple(datasets))


def data_fetch(names: Sequence[str], *, accept_unverified: bool = False) -> results.Downloads:
    """Downloads data sets into the user cache and verifies them; those that are there already are only verified.

    Args:
        names: of the catalogue.
        accept_unverified: download where no hash is known; prints the hash.
    """
    from prunecast.data import catalog
    from prunecast.data.download import fetch_verified

    entries = [catalog.entry(name) for name in names]  # all names are known before the first is downloaded
    paths = [fetch_verified(entry, accept_unverified=accept_unverified) for entry in entries]
    return results.Downloads(
        datasets=tuple(results.Fetched(name=name, path=path) for name, path in zip(names, paths, strict=True))
    )


def data_check(
    data: str | Path | pd.DataFrame, *, fill: str = "refuse", settings: Sequence[str] = (), plot: Path | None = None
) -> FileCheck:
    """Says what data is like and what stands in the way of using it.

    Args:
        data: catalogue name, or a CSV, Parquet or Feather file.
        fill: gaps: refuse, ffill or interpolate:N.
        settings: any key of the recipe's data section.
        plot: file for a picture (PNG).
    """
    from prunecast.data.check import check_data
    from prunecast.recipe import check_settings

    check_settings(settings, frozenset({"data"}))
    return FileCheck(check=check_data(data, fill, settings, plot))


# One model


def train(
    model: str,
    data: str,
    *,
    out: Path,
    horizon: int | None = None,
    lookback: int | None = None,
    seed: int = 1,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> results.ModelSummary:
    """Trains a forecaster, scores it and writes its folder.

    Args:
        model: name of a model; see prunecast list models.
        data: catalogue name, or a CSV or Parquet file.
        out: folder of the result; must not exist.
        horizon: steps to forecast [default: 96].
        lookback: steps of history [default: 96].
        seed: of weights, shuffling and dropout.
        settings: any key of the recipe.
        reporter: hears of progress.
    """
    from prunecast.data.series import load_series
    from prunecast.resolve import training_recipe
    from prunecast.stages.model import TrainedModel
    from prunecast.store import new_directory

    recipe = training_recipe(model, data, horizon=horizon, lookback=lookback, seed=seed, settings=settings)
    with new_directory(out) as folder:
        trained = TrainedModel.trained(recipe, load_series(recipe.data), beside=out, reporter=reporter)
        trained.write(folder)
    return trained.summary(out)


def import_checkpoint(
    checkpoint: Path,
    model: str,
    *,
    source: str,
    out: Path,
    data: str | None = None,
    modes: Path | None = None,
    modes_seed: int | None = None,
    settings: Sequence[str] = (),
) -> results.ModelSummary:
    """Turns a checkpoint of a published implementation into a model folder, and scores it where its data is named.

    It is the verb `import`, which Python keeps for itself, and so `--from`, here `source`. Sizes come from the
    tensors. What no tensor shows comes from `settings`, else from the model's defaults; the answer says which is which.

    Args:
        checkpoint: a state dict that torch.save wrote; other objects in the file are never loaded.
        model: name of our model; see prunecast list models.
        source: whose implementation: tslib (Time-Series-Library), or original (the model's own repository).
        out: folder of the result; must not exist.
        data: catalogue name or file that the model was trained on: names of channels, scaler, scores. Without, the
            folder learns them from what the next verb is told.
        modes: FEDformer: JSON file, name of the published module -> indices of its Fourier modes.
        modes_seed: FEDformer: the seed of NumPy from which the published code drew its modes.
        settings: any key of the sections data, model and seed.
    """
    from prunecast.models.convert.convert import ModeChoice
    from prunecast.stages.import_checkpoint import plan_import
    from prunecast.stages.model import TrainedModel
    from prunecast.store import new_directory

    MODELS.check(model)
    choice = ModeChoice(modes, modes_seed)
    with new_directory(out) as folder:
        job = plan_import(checkpoint, model, source, data=data, modes=choice, settings=settings)
        imported = TrainedModel.imported(job)
        imported.write(folder)
    return imported.summary(out)


def prune(
    directory: Path,
    method: str = DEFAULT_METHOD,
    sparsity: float | None = None,
    *,
    out: Path,
    of: str | None = None,
    recovery: str | None = None,
    finetune_epochs: int = 0,
    data: str | None = None,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> results.ModelSummary:
    """Prunes a model, fine-tunes it when asked, scores it and writes its folder.

    Args:
        directory: a model folder; it stays as it is.
        method: name of a pruning method; see prunecast list methods.
        sparsity: share to remove, between 0 and 1, of what `of` says, counted on the given model: weights that
            its masks hold at zero count as removed, units that were cut out earlier do not count. It has to be given.
        out: folder of the result; must not exist.
        of: prunable, model or operations; the method's own when absent.
        recovery: how what stays makes good what went, without training: ridge or none; the method's own when absent.
        finetune_epochs: epochs of training afterwards, with masks held.
        data: where the data is, when the model was trained on a file or imported without data.
        settings: any key of the sections seed, prune and finetune.
        reporter: hears of progress.
    """
    from prunecast.stages.model import TrainedModel
    from prunecast.store import new_directory

    METHODS.check(method)
    with new_directory(out) as folder:
        pruned = TrainedModel.opened(directory, data).pruned(
            method,
            sparsity,
            of=of,
            recovery=recovery,
            finetune_epochs=finetune_epochs,
            settings=settings,
            beside=out,
            reporter=reporter,
        )
        pruned.write(folder)
    return pruned.summary(out)


def evaluate(source: Path, *, data: str | None = None, scoring: Scoring = "full") -> results.DetailedEvaluation:
    """Scores a model or an exported artefact on the test part, channel by channel and step by step.

    Errors are standardised, those of channels also in the data's own units; MAPE is a share of the truth, MASE the
    error in units of the seasonal naive forecast's on the training part. A metric without meaning on the data (MAPE
    where a truth is 0) is empty.

    Args:
        source: a model folder or an exported file.
        data: catalogue name, or a CSV or Parquet file; what the model was trained on when absent.
        scoring: full: every window; paper: whole batches of 32.
    """
    from prunecast.data.series import load_series
    from prunecast.inference import open_artifact, windows_for
    from prunecast.measure.size import measure_size
    from prunecast.recipe import RECIPE_FILE, load_recipe

    if scoring not in ("full", "paper"):
        raise UserError(f"--scoring: expected full or paper, found {scoring!r}")
    load = cache(load_series)
    opened = open_artifact(source).with_data(data, load)
    recipe = source / RECIPE_FILE  # beside a model that Prunecast trained, pruned or imported
    metrics = load_recipe(recipe).data.metrics if opened.is_folder and recipe.is_file() else ()
    validation, test, errors = opened.scores(windows_for(opened.metadata, data, load), scoring, metrics)
    known = results.Evaluation.of(test, validation, measure_size(opened.saved), opened.metadata.dense_parameters)
    return results.DetailedEvaluation(
        **vars(known),
        channels=errors.channels(opened.metadata.targets),
        steps=errors.steps(),
    )


def measure(
    sources: Sequence[Path],
    *,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    data: str | None = None,
    wait: str = "60s",
    profile: bool = False,
    profile_out: Path | None = None,
) -> results.Measurements:
    """Measures size, operations, memory, time and energy; later models against the first, in turn.

    Args:
        sources: model folders or exported files; the first is the reference.
        runtime: see prunecast list runtimes; that of the first artefact when absent.
        threads: processor threads.
        batch: windows in one call.
        data: catalogue name, or a CSV or Parquet file; what the first model was trained on when absent.
        wait: longest wait for other stages on this machine; the answer says whether it was busy still.
        profile: say the time of each kind of operator too, by the runtime's own clock.
        profile_out: FILE.json for what smaller models of the first one cost here, or a folder for them, for a device.
    """
    from prunecast.compress.cost import write_profile
    from prunecast.data.series import load_series
    from prunecast.export.base import ProfilingRuntime
    from prunecast.inference import check_same_inputs, open_artifact, windows_for
    from prunecast.measure.latency import time_against
    from prunecast.measure.machine_lock import alone, is_busy, seconds
    from prunecast.measure.operations import count_operations
    from prunecast.measure.size import measure_size
    from prunecast.recipe import ExportConfig, MeasureConfig, checked
    from prunecast.stages.measure import operation_cut, real_inputs

    load, wait_s = cache(load_series), seconds(wait)
    opened = [open_artifact(source).with_data(data, load) for source in sources]
    name = runtime or next((item.runtime for item in opened if not item.is_folder), ExportConfig().runtime)
    RUNTIMES.check(name)
    config = checked(MeasureConfig, {"threads": threads, "batch": batch}, "measure")
    check_same_inputs(opened)
    inputs = real_inputs(opened[0].metadata, windows_for(opened[0].metadata, data, load), batch)
    with tempfile.TemporaryDirectory() as folder:
        paths = [item.shipped(name, Path(folder) / str(number)) for number, item in enumerate(opened)]
        with alone(wait_s) as was_busy:
            timings = [
                time_against(name, path, paths[0] if number else None, inputs, config)
                for number, path in enumerate(paths)
            ]
            busy, timed_by = was_busy or is_busy(), RUNTIMES.load(name)
            profiles: list[Profile | str | None] = [None] * len(paths)
            if profile and isinstance(timed_by, ProfilingRuntime):
                profiles = [timed_by.profile(path, threads, inputs, config.min_count) for path in paths]
            elif profile:
                profiles = [f"the runtime {name!r} has no clock for its operators"] * len(paths)
        if profile_out is not None:
            write_profile(opened[0].saved, name, inputs, config, profile_out)
        counted = [count_operations(item.saved) for item in opened]
        models = [
            results.ModelMeasurement(
                path=item.path,
                parameters=size.parameters,
                dead=size.dead,
                nonzero=size.nonzero,
                bytes=path.stat().st_size if path.is_file() else size.raw_bytes,
                operations=operations,
                timing=timing.model_copy(
                    update={"operation_cut": operation_cut(counted[0], operations) if timing.speedup else None}
                ),
                machine_busy=busy or (timing.beside is not None and timing.beside.busy),
                profile=found,
            )
            for item, path, timing, operations, found in zip(opened, paths, timings, counted, profiles, strict=True)
            for size in [measure_size(item.saved)]
        ]
    return results.Measurements(models=tuple(models))


def export(
    directory: Path,
    runtime: str = "onnxruntime",
    *,
    out: Path,
    int8: bool = False,
    quantizer: str | None = None,
    max_mse_increase: float | None = None,
    opset: int | None = None,
    batch: int | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    data: str | None = None,
) -> results.Exported:
    """Writes a model for a runtime and holds it against eager PyTorch on real windows.

    Args:
        directory: a model folder.
        runtime: see prunecast list runtimes.
        out: the file; must not exist.
        int8: store and multiply weights in 8 bits, scaled by windows of the training part.
        quantizer: of 8 bits: static, dynamic (onnxruntime), nncf (openvino), weights (c) [default: static, weights].
        max_mse_increase: share of the validation MSE that 8 bits may cost; weights that cost more stay in float32.
        opset: version of ONNX operators, 18 to 21; the answer says what reads it [default: 20].
        batch: windows in one call, for a graph of fixed shapes that computes none [default: any].
        max_size: the most that the file may take, with c its constants in flash, as in 512KB; more is refused.
        max_memory: the most memory that a forecast may take on a device (c), as in 256KB; more is refused.
        data: where the data is, when the model was trained on a file or imported without data.
    """
    from prunecast.compress.budget import BYTES, amount
    from prunecast.data.series import load_series
    from prunecast.inference import windows_for, with_data
    from prunecast.models.io import load_model
    from prunecast.recipe import ExportConfig, checked
    from prunecast.stages.export import export_alone

    asked = {"int8": int8, "quantizer": quantizer, "max_mse_increase": max_mse_increase, "opset": opset, "batch": batch}
    config = checked(ExportConfig, {"runtime": RUNTIMES.check(runtime), **asked}, "export")
    most = None if max_size is None else amount("--max-size", max_size, BYTES, "512KB")
    most_memory = None if max_memory is None else amount("--max-memory", max_memory, BYTES, "256KB")
    load = cache(load_series)
    saved = with_data(load_model(directory), data, load)
    artefact = export_alone(
        saved,
        lambda: windows_for(saved.metadata, data, load),
        config,
        out,
        max_bytes=most,
        max_memory_bytes=most_memory,
    )
    return results.Exported.of(out, artefact, RUNTIMES.load(runtime).needs(opset))


def forecast(
    source: Path,
    data: str | Path,
    *,
    out: Path,
    fill: str = "refuse",
    origin: str | None = None,
    origins: int | None = None,
    plot: Path | None = None,
) -> results.ForecastFile:
    """Forecasts what follows a file's last row, an earlier one, or many, into a CSV file in the file's own units.

    Times are written as the file itself has them. From earlier rows, the answer says how far off the forecasts are from
    what the file holds, in its own units.

    Args:
        source: a model folder or an exported file.
        data: history, a catalogue name or a file; its last rows are used.
        out: CSV file of the result; must not exist.
        fill: gaps in the look-back: refuse, ffill or interpolate:N.
        origin: the last time that the forecast knows, in the file's form or as 2024-01-31T12:00.
        origins: forecasts to make, one horizon apart, of which the last ends where the file does.
        plot: PNG file of a picture with history and forecast; must not exist.
    """
    from prunecast.data.files import exists
    from prunecast.data.series import table_named
    from prunecast.inference import forecast_table, open_artifact
    from prunecast.report.tables import inert
    from prunecast.store import new_file

    if plot is not None and exists(plot):
        raise UserError(f"{plot} exists; give another --plot")
    opened = open_artifact(source)
    if opened.metadata.data is None:
        raise UserError(
            f"{source} was imported without data, so that its scaler is not known; "
            "import the checkpoint with --data NAME|FILE to forecast"
        )
    table = table_named(str(data), opened.metadata.data, opened.metadata.data.reading)
    found = forecast_table(opened.metadata, opened.predictor(), table, fill=fill, origin=origin, origins=origins)
    written = found.written()
    with new_file(out) as path:
        if plot is not None:
            with new_file(plot) as picture:
                found.draw(picture)
        written.rename(columns=inert).map(inert).to_csv(path, index=False)
    times = written[found.time_name]
    return results.ForecastFile(
        path=out,
        rows=len(written),
        start=str(times.iloc[0]),
        end=str(times.iloc[-1]),
        origins=origins,
        errors=found.errors,
        plot=plot,
    )


def compress(
    directory: Path,
    *,
    max_loss_increase: str,
    out: Path,
    runtime: str = "onnxruntime",
    max_latency: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    threads: int = 1,
    profile: Path | None = None,
    time_limit: str | None = None,
    engine: str = "local",
    data: str | None = None,
    wait: str = "60s",
    settings: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> results.Compressed:
    """Searches for the fastest artefact of a model that keeps within budgets, and goes on with a search that was ended.

    What is within reach is said first; a budget beyond it ends the search at once. The loss is held by the upper end of
    its interval on the validation part; the test part is scored once, at the end.

    Args:
        directory: a model folder; it stays as it is.
        max_loss_increase: the most that the validation error may grow by, as in 1%.
        out: folder of the result; the same command goes on in it.
        runtime: see prunecast list runtimes.
        max_latency: the most that a forecast may take, as in 2ms.
        max_size: the most bytes that the artefact may have, as in 1MB.
        max_memory: the most memory that the process which runs it may hold, as in 64MB.
        threads: processor threads of the runtime.
        profile: JSON file of what models cost on a device, as measure writes it there; that counts, not this machine's.
        time_limit: ends the search with the best so far, as in 40min.
        engine: local, or ray: the cluster that RAY_ADDRESS names.
        data: where the data is, when the model was trained on a file or imported without data.
        wait: longest wait of a timing for other stages on this machine.
        settings: any key of the sections seed, train, finetune, measure and export.
        monitor: hears of progress.
    """
    from prunecast.compress.budget import Budgets
    from prunecast.compress.candidates import question_of
    from prunecast.compress.cost import points_of
    from prunecast.compress.outcome import out_of_reach, outcome
    from prunecast.compress.search import Compression
    from prunecast.measure.device import DeviceProfile
    from prunecast.measure.machine_lock import seconds
    from prunecast.recipe import fingerprint
    from prunecast.stages.model import TrainedModel
    from prunecast.study.executor import ConsoleMonitor
    from prunecast.study.local import InProcess

    budgets = Budgets.parsed(max_loss_increase, max_latency, max_size, max_memory)
    limit_s, wait_s = None if time_limit is None else seconds(time_limit, "--time-limit"), seconds(wait)
    RUNTIMES.check(runtime)
    device = None if profile is None else DeviceProfile.read(profile)
    if device is not None and device.runtime != runtime:
        raise UserError(f"--profile: expected one of the runtime {runtime!r}, found one of {device.runtime!r}")
    executor = EXECUTORS.load(engine)
    executor.check()
    model = TrainedModel.opened(directory, data)
    search = Compression(
        parent=model,
        source=model.recipe.data.name if data is None else data,
        question=question_of(
            model,
            budgets,
            runtime=runtime,
            threads=threads if device is None else device.threads,
            settings=settings,
            device=None if device is None else fingerprint(asdict(device)),
        ),
        out=out,
        executor=executor,
        shipper=InProcess if engine == "local" else None,
        monitor=monitor or ConsoleMonitor(quiet=True),
        time_limit_s=limit_s,
        wait_s=wait_s,
        device=() if device is None else points_of(device),
    )
    return outcome(search) if search.run() else out_of_reach(search)


# Studies


def study_run(
    recipe: Path,
    *,
    monitor: Monitor | None = None,
    out: Path | None = None,
    workers: int | None = None,
    engine: str = "local",
    measure: TimedWhere = "any",
    wait: str = "60s",
    settings: Sequence[str] = (),
) -> StudyRun:
    """Runs a study, or goes on with it, and writes its report.

    Args:
        recipe: a YAML file with a study section.
        monitor: hears of progress.
        out: study folder [default: runs/<recipe's name>].
        workers: stages at once [default: as many as the machine has room for].
        engine: local, or ray: the cluster that RAY_ADDRESS names.
        measure: timings that count as done: any machine's, or those taken here alone.
        wait: longest wait of a timing for other stages on this machine, as in 60s or 10min.
        settings: any key of the recipe.
    """
    from prunecast import environment
    from prunecast.data.series import load_series
    from prunecast.measure.machine_lock import seconds
    from prunecast.recipe import RECIPE_FILE, load_recipe
    from prunecast.study.executor import ConsoleMonitor
    from prunecast.study.plan import decided, located, plan
    from prunecast.study.study import run_study

    if measure not in ("any", "here"):
        raise UserError(f"--measure: expected any or here, found {measure!r}")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: expected at least 1, found {workers}")
    wait_s = seconds(wait)
    executor = EXECUTORS.load(engine)
    executor.check()
    directory = out or Path("runs") / recipe.stem
    whole = decided(located(load_recipe(recipe, settings), recipe.parent), directory / RECIPE_FILE)
    jobs = plan(whole, load_series, environment.describe().machine)
    heard = monitor or ConsoleMonitor(quiet=True)
    outcome = run_study(
        directory, whole, jobs, workers, heard, executor=executor, own_timings=measure == "here", wait_s=wait_s
    )
    return StudyRun(outcome=outcome, stages=len(jobs), files=report(directory).files)


def study_status(directory: Path, *, verify: bool = False) -> results.StudyStatus:
    """Says how far a study is, also while it runs, and what of it is damaged.

    Args:
        directory: of the study.
        verify: hash every file, not only those that are newer than their record.
    """
    from prunecast.study.study import status

    return status(directory, thorough=verify)


def study_export(directory: Path, *, to: tuple[str, str]) -> results.SentRecords:
    """Hands a study's records on, one row or run each: errors, sizes, operations, times.

    Args:
        directory: of the study.
        to: what takes them, and where: parquet and a file, mlflow and its tracking URI, or wandb and a project.
    """
    from prunecast.study.study import open_study

    tracker, target = to
    send = TRACKERS.load(tracker)
    study = open_study(directory)
    tables, _ = study.tables()
    return results.SentRecords(to=target, records=len(tables.stages), written=send(tables, target, study.title))


def report(directory: Path, *, out: Path | None = None) -> Report:
    """Writes a study's report: one HTML page that works offline, with its charts and tables beside it.

    Where it lies already and nothing has changed, no record is read.

    Args:
        directory: of the study.
        out: HTML file [default: DIR/report.html].
    """
    from prunecast.report.render import remember, remembered, write_report
    from prunecast.study.study import open_study

    if out is not None and out.exists():
        raise UserError(f"{out} exists; give another --out")
    study, page = open_study(directory), out or directory / "report.html"
    made_from = study.stamps()
    files = None if out is not None else remembered(page, made_from)
    if files is None:
        tables, failures = study.tables()
        files = write_report(tables, failures, page, title=study.title, store=study.store)
        if out is None:
            remember(files, made_from)
    return Report(files=files)

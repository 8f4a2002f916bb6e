"""The public Python API: the verbs of the command line as functions of the same names and arguments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from prunecast.data.sets import data_check, data_fetch, data_list
from prunecast.errors import UserError
from prunecast.imported import Request, folder_with_data, import_one
from prunecast.inference import (
    Row,
    check_same_inputs,
    forecast_table,
    open_source,
    prepared_for_metadata,
    runtime_of,
    summary,
    with_data,
)
from prunecast.measure.latency import time_against
from prunecast.measure.machine_lock import alone, is_busy, seconds
from prunecast.models.convert.convert import ModeChoice
from prunecast.models.io import load_metadata, load_model
from prunecast.recipe import ExportConfig, MeasureConfig, load_recipe
from prunecast.records import Scoring
from prunecast.registry import METHODS, MODELS, RUNTIMES
from prunecast.single import TRAINING_SECTIONS, check_settings, prune_one, recipe_of, train_one
from prunecast.stages import results as assess
from prunecast.store import new_file, read_record
from prunecast.studies import report, study_export, study_run, study_status
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
    "import_checkpoint",
    "measure",
    "prune",
    "report",
    "study_export",
    "study_run",
    "study_status",
    "summary",
    "train",
]


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


def import_checkpoint(
    checkpoint: Path,
    model: str,
    *,
    source: str,
    out: Path,
    data: str | None = None,
    modes: Path | None = None,
    modes_seed: int | None = None,
    settings: Iterable[str] = (),
) -> Row:
    """Turns a checkpoint of a published implementation into a model folder, and scores it where its data is named.

    It is the verb `import`, which Python keeps for itself, and so `--from`, here `source`. Sizes come from the
    tensors. What no tensor shows comes from `settings`, else from the model's defaults; the answer says which is which.

    Args:
        checkpoint: a `.pth` or `.pt` file with a state dict; objects in it are never loaded.
        model: name of our model.
        source: whose implementation: tslib (Time-Series-Library), or original (the model's own repository).
        out: folder of the result; must not exist.
        data: catalogue name or file that the model was trained on: names of channels, scaler, scores. Without, the
            folder learns them from what the next verb is told.
        modes: FEDformer: JSON file, name of the published module -> indices of its Fourier modes.
        modes_seed: FEDformer: the seed of NumPy from which the published code drew its modes.
        settings: "section.key=value" texts of the sections data, model and seed.

    Raises:
        UserError: when a name, a setting, the file or the data does not fit; nothing is written then.
    """
    choice = ModeChoice(modes, modes_seed)
    request = Request(
        checkpoint=checkpoint,
        model=MODELS.check(model),
        source=source,
        data=data,
        modes=choice,
        settings=tuple(settings),
    )
    import_one(request, out)
    imported = read_record(out).imported
    assert imported is not None
    return summary(out) | imported.model_dump(mode="json", exclude={"sha256"})


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
        data: where the data is, when the model was trained on a file or imported without data.
        settings: "section.key=value" texts.
        reporter: hears of progress.

    Raises:
        UserError: when a name, value, file or budget does not fit; nothing is written then.
    """
    section: Row = {"prune": {"method": METHODS.check(method), "sparsity": sparsity, "of": of}}
    if finetune_epochs:
        section["finetune"] = {"epochs": finetune_epochs}
    with folder_with_data(directory, data) as parent:
        recipe = recipe_of(parent, section, tuple(settings))
        prune_one(parent, recipe, prepared_for_metadata(load_metadata(parent), data), out, reporter)
    return summary(out)


def evaluate(source: Path, *, data: str | None = None, scoring: Scoring = "full") -> Row:
    """Scores a model folder or an exported artefact on the test part.

    Raises:
        UserError: when the source or the data does not fit.
    """
    opened = open_source(source).with_data(data)
    prepared = prepared_for_metadata(opened.metadata, data)
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
    wait: str = "60s",
) -> list[Row]:
    """Measures size, operations, memory and time; later models against the first, in turn.

    Args:
        sources: model folders and artefacts; the first is the reference.
        runtime: that runs them; the one of the first artefact, else the default, when None.
        threads: of the runtime.
        batch: windows in one call.
        data: where the data is, when the models were trained on a file.
        wait: how long at most to wait for other stages on this machine; the answer says whether it was busy still.

    Raises:
        UserError: when a source, the runtime or the data does not fit.
    """
    wait_s = seconds(wait)
    opened = [open_source(source).with_data(data) for source in sources]
    name = runtime or next((item.runtime for item in opened if item.path.is_file()), ExportConfig().runtime)
    RUNTIMES.check(name)
    config = MeasureConfig(threads=threads, batch=batch)
    check_same_inputs(opened)
    inputs = assess.real_inputs(opened[0].metadata, prepared_for_metadata(opened[0].metadata, data), batch)
    with tempfile.TemporaryDirectory() as folder:
        paths = [item.shipped(name, Path(folder) / str(number)) for number, item in enumerate(opened)]
        with alone(wait_s) as was_busy:
            timings = [
                time_against(name, path, paths[0] if number else None, inputs, config)
                for number, path in enumerate(paths)
            ]
            busy = was_busy or is_busy()
        return [
            item.measured(timing, path) | {"machine_busy": busy}
            for item, timing, path in zip(opened, timings, paths, strict=True)
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
    saved, config = with_data(load_model(directory), data), ExportConfig(runtime=runtime, int8=int8)
    reason = assess.refusal(saved.model, config)
    if reason is not None:
        raise UserError(f"runtime {runtime!r} cannot run this model: {reason}")
    prepared = prepared_for_metadata(saved.metadata, data)
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

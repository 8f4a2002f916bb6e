"""A foreign checkpoint becomes a model folder, with or without the data that the model was trained on.

Without data the folder has no scaler and no names of channels: it learns them from what a verb is first told.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunecast import environment
from prunecast.data.calendar import FEATURES
from prunecast.data.series import Series, load_series
from prunecast.data.windows import prepare
from prunecast.errors import UserError
from prunecast.inference import with_data
from prunecast.measure.operations import count_operations
from prunecast.measure.size import measure_size
from prunecast.models.base import ForecasterConfig, ForecastModel, config_from
from prunecast.models.convert.checkpoint import Checkpoint, read_checkpoint
from prunecast.models.convert.convert import (
    Claim,
    ModeChoice,
    Origins,
    agreed,
    drawn_buffers,
    imported_model,
    published,
    shown,
    some,
    unclaimed,
)
from prunecast.models.io import ModelMetadata, SavedModel, ScalerFacts, load_metadata, load_model, save_model
from prunecast.recipe import RECIPE_FILE, Recipe, fingerprint, load_recipe, read_mapping, write_recipe
from prunecast.records import DataFacts, Imported, RunRecord, StageTiming
from prunecast.registry import MODELS
from prunecast.resolve import resolved, with_rate
from prunecast.single import check_settings
from prunecast.stages import results as assess
from prunecast.stages.run import metadata
from prunecast.store import copy_record, new_directory, write_record

SECTIONS = frozenset({"seed", "data", "model", "train"})

CODE_VERSION = 1
"""Part of the fingerprint: raised when an import's numbers change."""

WITHOUT_DATA = frozenset({"freq"})
"""Keys of the data section that mean something before the data is known."""

OF_TRAINING = frozenset({"threads"})
"""Keys of the train section that mean something where nothing is trained: scores are computed on so many threads."""

TRAINING_ONLY = frozenset({"dropout", "head_dropout"})
"""Values that no forecast depends on, only a fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of an import.

    Attributes:
        checkpoint: a file that `torch.save` wrote.
        model: name of our model.
        source: whose implementation: tslib or original.
        data: catalogue name or file that the model was trained on; None when it shall be told later.
        modes: where Fourier modes come from that are not in the checkpoint.
        settings: "section.key=value" texts.
    """

    checkpoint: Path
    model: str
    source: str
    data: str | None = None
    modes: ModeChoice = field(default_factory=ModeChoice)
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """What is known before there is a model.

    Attributes:
        recipe: its model section is whole.
        series: the data; None without.
        origins: where each value of the model section comes from.
        modes: our buffers of Fourier modes.
        config: of the model.
    """

    recipe: Recipe
    series: Series | None
    origins: Origins
    modes: Mapping[str, Tensor]
    config: ForecasterConfig


def import_one(request: Request, out: Path) -> None:
    """Turns a checkpoint into a new model folder, and scores it where its data is known.

    Raises:
        UserError: when a name, a setting, the file or the data does not fit, or the folder exists.
    """
    started_at, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    request.modes.check(published(request.model, request.source), request.model)
    with new_directory(out) as directory:
        checkpoint = read_checkpoint(request.checkpoint)
        found = _found(request, checkpoint)
        torch.set_num_threads(found.recipe.train.threads)  # as in training: rounding follows the thread count
        with _about(request.checkpoint):
            model = imported_model(found.config, checkpoint.tensors, request.source, found.modes, found.recipe.seed)
        fields = _kept(model, found, directory)
        record = RunRecord(
            stage="import",
            role="dense",
            label=f"import {request.model}",
            fingerprint=_fingerprint(request, checkpoint, found),
            seed=found.recipe.seed,
            model=request.model,
            recipe=found.recipe.model_dump(mode="json"),
            imported=_imported(request, checkpoint, found, model),
            timing=StageTiming(started_at=started_at, elapsed_s=time.perf_counter() - clock),
            environment=environment.describe(),
            **fields,
        )
        write_recipe(found.recipe, directory / RECIPE_FILE)
        write_record(record, directory)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _found(request: Request, checkpoint: Checkpoint) -> _Found:
    known = published(request.model, request.source)
    recipe, given = _asked(request)
    with _about(request.checkpoint):
        seen = shown(known, checkpoint.tensors, f"{request.source} {request.model}")
    claims = [Claim("tensors", "the tensors show", seen), Claim("source", f"{request.source} means", known.constants)]
    recipe, series, of_data = _with_data(recipe, seen.get("marks"))
    origins = agreed([*claims, *of_data, Claim("user", "--set says", given)])
    recipe = _whole(recipe, {"name": request.model} | origins.together(), series)
    config = config_from(recipe.model)
    return _Found(recipe, series, origins, request.modes.buffers(known, config), config)


def _asked(request: Request) -> tuple[Recipe, Mapping[str, Any]]:
    """Returns the recipe of a request, and what it says of the model besides its name."""
    check_settings(request.settings, SECTIONS)
    base: dict[str, Any] = {"model": {"name": request.model}}
    if request.data is not None:
        base["data"] = {"name": request.data}
    recipe = load_recipe(settings=request.settings, base=base)
    if recipe.model.get("name") != request.model:
        raise UserError(f"--set model.name: expected {request.model!r}, as --model; leave it out")
    _check_effects(recipe)
    if _has_data(recipe) and "targets" in recipe.model:
        raise UserError("--set model.targets counts channels whose names the data has; name them with data.targets")
    return recipe, {key: value for key, value in recipe.model.items() if key != "name"}


def _check_effects(recipe: Recipe) -> None:
    trained = sorted(recipe.train.model_fields_set - OF_TRAINING)
    if trained:
        raise UserError(f"--set train.{trained[0]} has no effect here: nothing is trained")
    needless = sorted(recipe.data.model_fields_set - WITHOUT_DATA)
    if not _has_data(recipe) and needless:
        raise UserError(f"--set data.{needless[0]} has no effect without data; give --data NAME|FILE too")


def _has_data(recipe: Recipe) -> bool:
    return "name" in recipe.data.model_fields_set


def _with_data(recipe: Recipe, marks: int | None) -> tuple[Recipe, Series | None, tuple[Claim, ...]]:
    """Returns the recipe with its set of calendar features, the data, and what both say of the model.

    Args:
        recipe: as asked for.
        marks: how many features the tensors show; they choose the set where the recipe does not.
    """
    data, told = recipe.data, "freq" in recipe.data.model_fields_set
    if marks is not None and not told:
        features = marks - len(data.covariates)
        freq = next((freq for freq, names in FEATURES.items() if len(names) == features), data.freq)
        data = data.model_copy(update={"freq": freq})
    marked = {"marks": len(FEATURES[data.freq]) + len(data.covariates)}
    recipe, words = recipe.model_copy(update={"data": data}), f"data.freq {data.freq!r} and the covariates make"
    of_marks = Claim("user" if told or data.covariates else "defaults", words, marked)
    if not _has_data(recipe):
        return recipe, None, (of_marks,)
    series = load_series(data)
    targets = {} if series.targets is None else {"targets": series.targets}
    of_data = Claim("data", f"{series.name} has", {"channels": len(series.channels)} | targets)
    return recipe, series, (of_marks, of_data)


def _whole(recipe: Recipe, values: dict[str, Any], series: Series | None) -> Recipe:
    """Returns the recipe with every key of its model section set, as training does it."""
    if "channels" not in values:
        raise UserError("no tensor shows how many channels there are; give --data NAME|FILE or --set model.channels=N")
    if series is not None:
        return resolved(recipe.model_copy(update={"model": values}), series)
    kind = MODELS.load(str(values["name"]))
    lookback = values.get("lookback", kind.Config.model_fields["lookback"].default)
    half = {"label_len": lookback // 2} if isinstance(lookback, int) else {}
    return recipe.model_copy(
        update={
            "model": config_from(half | values).model_dump(mode="json"),
            "data": recipe.data.model_copy(update={"name": ""}),
            "train": with_rate(recipe.train, kind),
            "finetune": with_rate(recipe.finetune, kind),
        }
    )


def _kept(model: ForecastModel, found: _Found, directory: Path) -> dict[str, Any]:
    """Writes the model into the folder and returns what is known about it, by the record's field names."""
    if found.series is None:
        saved = SavedModel(model, _unbound_metadata(model, found.recipe))
        save_model(saved, directory)
        nothing = DataFacts(name="", sha256="", rows=0, channels=saved.metadata.channels, windows={})
        return {"data": nothing, "size": measure_size(saved), "operations": count_operations(saved)}
    config = found.config
    prepared = prepare(
        found.series,
        found.recipe.data,
        lookback=config.lookback,
        horizon=config.horizon,
        label_len=config.label_len,
    )
    saved = SavedModel(model, metadata(model, prepared, found.recipe))
    save_model(saved, directory)
    return {"data": prepared.facts} | assess.facts(saved, prepared, found.recipe.data.scoring)


def _unbound_metadata(model: ForecastModel, recipe: Recipe) -> ModelMetadata:
    """Returns the metadata of a model whose data is not known: channels by number, values as they are."""
    config = model.config
    channels = tuple(f"channel_{number + 1}" for number in range(config.channels))
    return ModelMetadata(
        model=config.model_dump(mode="json"),
        channels=channels,
        targets=channels if config.targets is None else tuple(channels[target] for target in config.targets),
        freq=recipe.data.freq,
        scaler=ScalerFacts(mean=(0.0,) * config.channels, std=(1.0,) * config.channels),
        dense_parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=None,
    )


def _fingerprint(request: Request, checkpoint: Checkpoint, found: _Found) -> str:
    recipe = found.recipe.model_dump(mode="json", include={"seed", "data", "model"})
    del recipe["data"]["name"]  # data counts by content
    return fingerprint(
        {
            "stage": "import",
            "version": CODE_VERSION,
            "checkpoint": checkpoint.sha256,
            "source": request.source,
            "modes": {name: modes.tolist() for name, modes in found.modes.items()},
            "data": None if found.series is None else found.series.sha256,
            "recipe": recipe,
        }
    )


def _imported(request: Request, checkpoint: Checkpoint, found: _Found, model: ForecastModel) -> Imported:
    origins = found.origins
    return Imported(
        source=request.source,
        checkpoint=checkpoint.path.name,
        sha256=checkpoint.sha256,
        modes=request.modes.words(),
        from_tensors=origins.of("tensors"),
        from_source=origins.of("source"),
        from_data=origins.of("data"),
        from_user=origins.of("user"),
        defaults=_assumed(found),
        notes=(*checkpoint.notes, *_notes(request, checkpoint, found, model)),
    )


def _assumed(found: _Found) -> dict[str, Any]:
    return found.origins.of("defaults") | unclaimed(found.config, found.origins)


def _notes(request: Request, checkpoint: Checkpoint, found: _Found, model: ForecastModel) -> Iterator[str]:
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.tensors.values()}
    for kind in sorted(kinds & {"float64", "float16", "bfloat16", "complex128"}):
        yield f"numbers stored as {kind} became float32"
    given = published(model.config.name, request.source).tensors(checkpoint.tensors).keys()
    drawn = drawn_buffers(model) - found.modes.keys() - given
    if drawn:
        yield f"drawn with seed {found.recipe.seed}, as published code draws them in every forecast: {some(drawn)}"
    assumed = _assumed(found)
    unseen = [key for key in published(request.model, request.source).unseen if key in assumed]
    wrong = [f"{key} {assumed[key]}" for key in unseen if key not in TRAINING_ONLY]
    if wrong:
        yield (
            f"no tensor shows {', '.join(wrong)}: these are defaults, and if the training had others the forecast is "
            "wrong without a sign (--set model.KEY=VALUE)"
        )
    if found.series is None:
        yield (
            "without data: standardised values go in and come out, until a verb is told the data with --data and takes "
            "names and scaler from it"
        )


@contextmanager
def folder_with_data(directory: Path, data: str | None) -> Iterator[Path]:
    """Gives a model folder that knows its data: itself, or for the block one beside it where it was imported without.

    Args:
        directory: a model folder.
        data: catalogue name or file.

    Raises:
        UserError: when the data is needed and does not fit, or the folder is damaged.
    """
    if load_metadata(directory).data is not None:
        yield directory
        return
    saved = with_data(load_model(directory), data)
    assert saved.metadata.data is not None
    recipe = load_recipe(base=read_mapping(directory / RECIPE_FILE), settings=[f"data.name={saved.metadata.data.name}"])
    with tempfile.TemporaryDirectory() as folder:
        save_model(saved, Path(folder))
        write_recipe(recipe, Path(folder) / RECIPE_FILE)
        copy_record(directory, Path(folder))
        yield Path(folder)

"""Turning a checkpoint of a published implementation into a model, with or without the data that it was trained on.

Without data the model has no scaler and no names of channels: it learns them from the data that a verb is first told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from prunecast.data.calendar import FEATURES
from prunecast.data.series import Series, load_series
from prunecast.errors import UserError
from prunecast.measure.operations import count_operations
from prunecast.measure.size import measure_size
from prunecast.models.base import ForecastModel, config_from
from prunecast.models.convert.checkpoint import Checkpoint, read_checkpoint, unwrapped
from prunecast.models.convert.convert import (
    Claim,
    ModeChoice,
    Origins,
    agreed,
    drawn_buffers,
    held_masks,
    imported_model,
    is_known,
    published,
    shown_values,
    some,
    unclaimed,
)
from prunecast.models.io import ModelMetadata, SavedModel, ScalerFacts
from prunecast.recipe import Recipe, check_settings, fingerprint, load_recipe
from prunecast.records import Imported, Role
from prunecast.resolve import TRAINING_SECTIONS, resolved, with_model
from prunecast.stages.base import ModelResult, StageInputs, assessed, new_model

CODE_VERSION = 1
"""Part of the fingerprint: raised when an import's numbers change."""

WITHOUT_DATA = frozenset({"freq"})
"""Keys of the data section that mean something before the data is known."""

OF_TRAINING = frozenset({"threads"})
"""Keys of the train section that mean something where nothing is trained: scores are computed on so many threads."""

TRAINING_ONLY = frozenset({"dropout", "head_dropout"})
"""Values that no forecast depends on, only a fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class ImportJob:
    """One import, with all that is known about the model before it is made.

    Attributes:
        recipe: resolved; its `model` section is whole.
        checkpoint: the file's tensors.
        implementation: whose it is: tslib or original.
        origins: where each value of the model section comes from.
        modes: our buffers of Fourier modes, by name.
        modes_words: where those come from, for people.
        series: its data; None without.
    """

    stage: ClassVar[Literal["import"]] = "import"
    role: ClassVar[Role] = "dense"
    parent: ClassVar[None] = None
    compared_with: ClassVar[None] = None

    recipe: Recipe
    checkpoint: Checkpoint
    implementation: str
    origins: Origins
    modes: Mapping[str, Tensor]
    modes_words: str | None
    series: Series | None

    @property
    def name(self) -> str:
        """Name of our model."""
        return str(self.recipe.model["name"])

    @property
    def label(self) -> str:
        """The stage in a few words, for people."""
        return f"import {self.name}"

    @cached_property
    def fingerprint(self) -> str:
        """Names the stage's result."""
        recipe = self.recipe.model_dump(mode="json", include={"seed", "data", "model"})
        del recipe["data"]["name"]  # data counts by content
        return fingerprint(
            {
                "stage": self.stage,
                "version": CODE_VERSION,
                "checkpoint": self.checkpoint.sha256,
                "source": self.implementation,
                "modes": {name: modes.tolist() for name, modes in self.modes.items()},
                "data": None if self.series is None else self.series.sha256,
                "recipe": recipe,
            }
        )


def plan_import(
    checkpoint: Path,
    model: str,
    implementation: str,
    *,
    data: str | None,
    modes: ModeChoice,
    settings: Iterable[str],
) -> ImportJob:
    """Returns an import with a whole recipe.

    Args:
        checkpoint: a file that `torch.save` wrote.
        model: name of our model.
        implementation: tslib or original.
        data: catalogue name or file that the model was trained on; None when it shall be told later.
        modes: where Fourier modes come from that are not in the checkpoint.
        settings: "section.key=value" texts.

    Raises:
        UserError: when a name, a setting, the file or the data does not fit.
    """
    known = published(model, implementation)
    modes.check(known, model)
    read = unwrapped(read_checkpoint(checkpoint), partial(is_known, known))
    recipe, given = _asked(model, data, tuple(settings))
    with _about(checkpoint):
        seen = shown_values(known, read.tensors, f"{implementation} {model}")
    recipe, series, of_data = _with_data(recipe, seen.get("marks"))
    origins = agreed(
        [
            Claim("tensors", "the tensors show", seen),
            Claim("source", f"{implementation} means", known.constants),
            *of_data,
            Claim("user", "--set says", given),
        ]
    )
    recipe = _whole(recipe, {"name": model} | origins.together(), series)
    return ImportJob(
        recipe=recipe,
        checkpoint=read,
        implementation=implementation,
        origins=origins,
        modes=modes.buffers(known, config_from(recipe.model)),
        modes_words=modes.words(),
        series=series,
    )


def import_stage(job: ImportJob, inputs: StageInputs) -> ModelResult:
    """Makes the model of a checkpoint, which has to fit, and scores it where its data is known."""
    with _about(job.checkpoint.path):
        config = config_from(job.recipe.model)
        model = imported_model(config, job.checkpoint.tensors, job.implementation, job.modes, job.recipe.seed)
    imported = _imported(job, model)
    masks = held_masks(model, job.checkpoint.tensors, job.checkpoint.masks, job.implementation)
    if inputs.prepared is None:
        saved = SavedModel(model.eval(), _unbound_metadata(model, job.recipe), masks)
        return ModelResult(saved=saved, size=measure_size(saved), operations=count_operations(saved), imported=imported)
    saved = replace(new_model(model, inputs.prepared, job.recipe), masks=masks)
    return assessed(saved, inputs.prepared, job.recipe.data, imported=imported)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _asked(model: str, data: str | None, settings: tuple[str, ...]) -> tuple[Recipe, Mapping[str, Any]]:
    """Returns the recipe as asked for, and what it says of the model besides its name; refuses what has no effect."""
    check_settings(settings, TRAINING_SECTIONS)
    base = {"model": {"name": model}} | ({} if data is None else {"data": {"name": data}})
    recipe = load_recipe(settings=settings, base=base)
    if recipe.model.get("name") != model:
        raise UserError(f"--set model.name: expected {model!r}, as --model; leave it out")
    trained = sorted(recipe.train.model_fields_set - OF_TRAINING)
    if trained:
        raise UserError(f"--set train.{trained[0]} has no effect here: nothing is trained")
    needless = sorted(recipe.data.model_fields_set - WITHOUT_DATA)
    if not _has_data(recipe) and needless:
        raise UserError(f"--set data.{needless[0]} has no effect without data; give --data NAME|FILE too")
    if _has_data(recipe) and "targets" in recipe.model:
        raise UserError("--set model.targets counts channels whose names the data has; name them with data.targets")
    return recipe, {key: value for key, value in recipe.model.items() if key != "name"}


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
    return with_model(recipe, values, data="")


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


def _imported(job: ImportJob, model: ForecastModel) -> Imported:
    origins, checkpoint = job.origins, job.checkpoint
    assumed = origins.of("defaults") | unclaimed(config_from(job.recipe.model), origins)
    return Imported(
        source=job.implementation,
        checkpoint=checkpoint.path.name,
        sha256=checkpoint.sha256,
        modes=job.modes_words,
        from_tensors=origins.of("tensors"),
        from_source=origins.of("source"),
        from_data=origins.of("data"),
        from_user=origins.of("user"),
        defaults=assumed,
        notes=(*checkpoint.notes, *_notes(job, model, assumed)),
    )


def _notes(job: ImportJob, model: ForecastModel, assumed: Mapping[str, Any]) -> Iterator[str]:
    """Yields what whoever goes on with the model should know."""
    tensors, known = job.checkpoint.tensors, published(job.name, job.implementation)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    for kind in sorted(kinds & {"float64", "float16", "bfloat16", "complex128"}):
        yield f"numbers stored as {kind} became float32"
    drawn = drawn_buffers(model) - job.modes.keys() - known.tensors(tensors).keys()
    if drawn:
        yield f"drawn with seed {job.recipe.seed}, as published code draws them in every forecast: {some(drawn)}"
    wrong = [f"{key} {assumed[key]}" for key in known.unseen if key in assumed and key not in TRAINING_ONLY]
    if wrong:
        yield (
            f"no tensor shows {', '.join(wrong)}: these are defaults, and if the training had others the forecast is "
            "wrong without a sign (--set model.KEY=VALUE)"
        )
    if job.series is None:
        yield (
            "without data: standardised values go in and come out, until a verb is told the data with --data and takes "
            "names and scaler from it"
        )

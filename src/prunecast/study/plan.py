"""A grid recipe becomes stages: each dense model is trained once and shared by all its pruned variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prunecast.data.series import Series
from prunecast.errors import UserError, near
from prunecast.models.base import ForecasterConfig, ForecastModel
from prunecast.prune.methods import Granularity, Method
from prunecast.recipe import (
    DataConfig,
    DatasetEntry,
    FitConfig,
    ModelEntry,
    PruneConfig,
    PruneGrid,
    Recipe,
    StudyConfig,
    checked,
    load_recipe,
    merged,
)
from prunecast.records import Role
from prunecast.registry import GRANULARITIES, METHODS, MODELS, RUNTIMES
from prunecast.resolve import resolved
from prunecast.stages.job import Job
from prunecast.train.fit import choose_device

Describe = Callable[[DataConfig], Series]

AUTO = "auto"
FIT_SECTIONS: tuple[Literal["train", "finetune"], ...] = ("train", "finetune")


def plan(recipe: Recipe, describe: Describe, machine: str) -> list[Job]:
    """Returns the stages of a study, parents first, each once.

    Args:
        recipe: with a `study` section.
        describe: tells a series' content hash and columns.
        machine: hash of the machine that timings are taken on.

    Raises:
        UserError: when a part of the grid does not fit (an unknown model, method, key or value).
    """
    recipe = decided(recipe)
    study = recipe.study or StudyConfig()
    for name in recipe.measure.runtimes:
        RUNTIMES.check(name)
    cells = list(_cells(recipe, study, describe, machine))
    _check_lines(study, {cell.name for cell in cells})
    jobs: dict[str, Job] = {}
    for cell in cells:
        for job in cell.jobs():
            jobs.setdefault(job.fingerprint, job)
    return list(jobs.values())


def decided(recipe: Recipe, earlier: Path | None = None) -> Recipe:
    """Returns the recipe with a device for every `auto` in it, which is decided when a study first runs.

    Numbers from a processor and from a GPU differ, so the device is part of what names a result: a store that two
    machines share must not hold one for the other.

    Args:
        recipe: of a study.
        earlier: the recipe that the study ran by before, if it did: its device is kept.
    """
    values = recipe.model_dump()
    asked = [values, *_entries_of(values, "models"), *_entries_of(values, "datasets")]
    open_sections = [
        (name, entry[name]) for entry in asked for name in FIT_SECTIONS if entry[name].get("device") == AUTO
    ]
    if not open_sections:
        return recipe
    kept = _earlier(earlier)
    for name, section in open_sections:
        section["device"] = kept.get(name) or choose_device(FitConfig()).type
    return checked(Recipe, values, "recipe")


def _entries_of(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    study = values["study"] or {}
    return list(study.get(key, ()))


def _earlier(path: Path | None) -> dict[str, str]:
    """Returns the device of each section, as it was decided before."""
    if path is None or not path.is_file():
        return {}
    recipe = load_recipe(path)
    devices = {"train": recipe.train.device, "finetune": recipe.finetune.device}
    return {name: device for name, device in devices.items() if device != AUTO}


def _cells(recipe: Recipe, study: StudyConfig, describe: Describe, machine: str) -> Iterator[_Cell]:
    for dataset in study.datasets or (DatasetEntry(data={}),):
        data = checked(DataConfig, merged(recipe.data.model_dump(), dataset.data), "study.datasets")
        series = describe(data)
        for horizon in dataset.horizons or study.horizons or (None,):
            for entry in _entries(recipe, study, dataset, series):
                for seed in study.seeds:
                    single = resolved(_single(recipe, data, dataset, entry, horizon=horizon, seed=seed), series)
                    yield _Cell(study, single, series.sha256, data.name, machine)


def _entries(recipe: Recipe, study: StudyConfig, dataset: DatasetEntry, series: Series) -> list[ModelEntry]:
    entries = list(study.models) or [ModelEntry(model=recipe.model)]
    names = {entry.model.get("name") for entry in entries}
    if "dlinear" in study.controls and "dlinear" not in names:
        entries.append(ModelEntry(model={"name": "dlinear"}))
    if "naive" in study.controls:
        default = recipe.model.get("lookback", ForecasterConfig.model_fields["lookback"].default)
        lookback = dataset.model.get("lookback", default)
        # where no window holds a season there is none to repeat; what is no number is named when the model is checked
        seasonless = isinstance(lookback, int) and lookback < series.season
        naive = ["repeat"] if seasonless else ["repeat", "seasonal_naive"]
        entries += [ModelEntry(model={"name": name}) for name in naive if name not in names]
    return entries


def _check_lines(study: StudyConfig, models: set[str]) -> None:
    """Refuses a line of the grid for a model that the study does not have: it would prune nothing."""
    for name in {name for line in study.prune for name in line.models} - models:
        raise UserError(f"study.prune: the study has no model {name!r}; {near(name, models)}")


def _single(
    recipe: Recipe, data: DataConfig, dataset: DatasetEntry, entry: ModelEntry, *, horizon: int | None, seed: int
) -> Recipe:
    values = recipe.model_dump(exclude={"study", "prune"})
    shared: dict[str, Any] = {
        key: recipe.model[key] for key in ("lookback", "horizon", "label_len") if key in recipe.model
    }
    model: dict[str, Any] = merged(merged(shared, dataset.model), entry.model)
    values |= {
        "data": data.model_dump(),
        "seed": seed,
        "model": model | ({} if horizon is None else {"horizon": horizon}),
    }
    for section in FIT_SECTIONS:
        values[section] = merged(merged(values[section], getattr(dataset, section)), getattr(entry, section))
    return checked(Recipe, values, "recipe")


def _method(name: str) -> Method:
    method: Method = METHODS.load(name)
    return method


@dataclass(frozen=True)
class _Cell:
    """One data set, horizon, model and seed: a dense model and all that is made from it."""

    study: StudyConfig
    recipe: Recipe
    sha256: str
    source: str
    machine: str

    def jobs(self) -> Iterator[Job]:
        kind: type[ForecastModel] = MODELS.load(self.name)
        dense = self.job("train", "dense" if kind.trainable else "naive", "dense")
        yield dense
        if kind.trainable:
            yield from self.shipped(dense, "dense", None)
            yield from self.controls(dense)
            for grid in self.study.prune:
                if not grid.models or self.name in grid.models:
                    yield from self.grid(dense, grid)

    def controls(self, dense: Job) -> Iterator[Job]:
        if "zeroed-body" in self.study.controls:
            yield self.job("zero", "zeroed-body", "body zeroed", parent=dense.fingerprint)
        if "dense-continued" in self.study.controls and self.tunes:
            yield self.job("finetune", "dense-continued", "dense, trained on", parent=dense.fingerprint)

    def grid(self, dense: Job, grid: PruneGrid) -> Iterator[Job]:
        methods = dict.fromkeys(grid.methods)
        if "random" in self.study.controls:
            twins = [_method(name).control for name in grid.methods]
            methods |= {twin: None for twin in twins if twin is not None}
        for method in methods:
            settings = grid.settings
            if _method(method).is_control:  # it looks at no data, and may share a line with a method that does
                settings = {key: value for key, value in settings.items() if not key.startswith("calibration_")}
            for sparsity in grid.sparsities:
                yield from self.variant(dense, method, sparsity, settings)

    def variant(self, dense: Job, method: str, sparsity: float, settings: dict[str, Any]) -> Iterator[Job]:
        values = settings | {"method": method, "sparsity": sparsity}
        cell = replace(
            self, recipe=self.recipe.model_copy(update={"prune": checked(PruneConfig, values, "study.prune")})
        )
        name = f"{method} {sparsity:g}"
        pruned = cell.job("prune", "pruned", name, parent=dense.fingerprint)
        tuned = cell.job("finetune", "pruned+finetuned", f"{name}, fine-tuned", parent=pruned.fingerprint)
        is_control = _method(method).is_control
        yield pruned  # fine-tuning rests on it, wanted by itself or not
        if not is_control and False in self.study.finetune:
            yield from cell.shipped(pruned, name, dense)
        if self.tunes:
            yield tuned
            if not is_control:
                yield from cell.shipped(tuned, f"{name}, fine-tuned", dense)
        granularity: Granularity = GRANULARITIES.load(_method(method).granularity)
        if granularity.shrinks and not is_control and "small-dense" in self.study.controls:
            what = f"dense of the size of {name}"
            small = cell.job("train", "small-dense", what, compared_with=pruned.fingerprint)
            yield small
            yield from cell.shipped(small, what, dense)

    def shipped(self, job: Job, what: str, dense: Job | None) -> Iterator[Job]:
        """Yields the export of a model and its timing, in turn with the dense one's."""
        if not self.recipe.measure.runtimes or (self.study.timed and self.recipe.seed not in self.study.timed):
            return
        export = self.job("export", job.role, f"export of {what}", parent=job.fingerprint)
        exports = [export.fingerprint]
        if dense is not None:
            exports.append(self.job("export", dense.role, "", parent=dense.fingerprint).fingerprint)
        yield export
        yield self.job(
            "measure",
            job.role,
            f"timing of {what}",
            parent=job.fingerprint,
            reference=None if dense is None else dense.fingerprint,
            exports=tuple(exports),
            machine=self.machine,
        )

    def job(self, stage: Any, role: Role, label: str, **links: Any) -> Job:
        label = f"{self.recipe.data.name} {self.recipe.model['horizon']} {self.name} seed {self.recipe.seed}: {label}"
        return Job(
            stage=stage,
            role=role,
            recipe=self.recipe,
            data_sha256=self.sha256,
            source=self.source,
            label=label,
            **links,
        )

    @property
    def name(self) -> str:
        return str(self.recipe.model["name"])

    @property
    def tunes(self) -> bool:
        return True in self.study.finetune and self.recipe.finetune.epochs > 0

"""A grid recipe becomes stages: each dense model is trained once and shared by all its pruned variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prunecast.data.series import Series, find_beside
from prunecast.errors import UserError, near
from prunecast.models.base import ForecasterConfig
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
    read_by_control,
    with_recovery,
)
from prunecast.registry import GRANULARITIES, METHODS, RUNTIMES
from prunecast.resolve import resolved
from prunecast.stages.job import Job
from prunecast.stages.run import Chain
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
    models = {str(cell.chain.recipe.model["name"]) for cell in cells}
    for name in {name for line in study.prune for name in line.models} - models:  # such a line would prune nothing
        raise UserError(f"study.prune: the study has no model {name!r}; {near(name, models)}")
    jobs: dict[str, Job] = {}
    for cell in cells:
        for job in cell.jobs():
            jobs.setdefault(job.fingerprint, job)
    return list(jobs.values())


def located(recipe: Recipe, folder: Path) -> Recipe:
    """Returns a study's recipe, which lies in `folder`, with its files by the paths where they are; see `find_beside`.

    A path finds a file and names nothing: results go by the file's name and content.
    """
    values = recipe.model_dump()
    study = values["study"] or {"datasets": ()}
    for section in (values["data"], *(entry["data"] for entry in study["datasets"])):
        if isinstance(section.get("name"), str):  # what is no text is named when the data is read
            section["name"] = find_beside(section["name"], folder)
    return checked(Recipe, values, "recipe")


def decided(recipe: Recipe, earlier: Path | None = None) -> Recipe:
    """Returns the recipe with a device for every `auto` in it, which is decided when a study first runs.

    Numbers from a processor and from a GPU differ, so the device is part of what names a result: a store that two
    machines share must not hold one for the other.

    Args:
        recipe: of a study.
        earlier: the recipe that the study ran by before, if it did: its device is kept.
    """
    values = recipe.model_dump()
    study = values["study"] or {"models": (), "datasets": ()}
    sections = [(name, part[name]) for part in (values, *study["models"], *study["datasets"]) for name in FIT_SECTIONS]
    undecided = [(name, section) for name, section in sections if section.get("device") == AUTO]
    if not undecided:
        return recipe
    before = load_recipe(earlier) if earlier is not None and earlier.is_file() else None
    for name, section in undecided:
        kept = AUTO if before is None else getattr(before, name).device
        section["device"] = choose_device(FitConfig()).type if kept == AUTO else kept
    return checked(Recipe, values, "recipe")


def _cells(recipe: Recipe, study: StudyConfig, describe: Describe, machine: str) -> Iterator[_Cell]:
    for dataset in study.datasets or (DatasetEntry(data={}),):
        data = checked(DataConfig, merged(recipe.data.model_dump(), dataset.data), "study.datasets")
        series = describe(data)
        for horizon in dataset.horizons or study.horizons or (None,):
            for entry in _entries(recipe, study, dataset, series):
                for seed in study.seeds:
                    single = resolved(_single(recipe, data, dataset, entry, horizon=horizon, seed=seed), series)
                    model = single.model
                    about = f"{single.data.name} {model['horizon']} {model['name']} seed {seed}: "
                    yield _Cell(study, Chain(single, series.sha256, data.name, about), machine)


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


@dataclass(frozen=True)
class _Cell:
    """One data set, horizon, model and seed: a dense model and all that is made from it."""

    study: StudyConfig
    chain: Chain
    machine: str

    def jobs(self) -> Iterator[Job]:
        dense, controls = self.chain.train("dense"), self.study.controls
        yield dense
        if dense.role == "naive":
            return
        yield from self.shipped(dense, "dense", None)
        if "zeroed-body" in controls:
            yield self.chain.zero(dense)
        if "dense-continued" in controls and self.tunes:
            yield self.chain.train_on(dense)
        for grid in self.study.prune:
            if not grid.models or dense.recipe.model["name"] in grid.models:
                for method, settings in self.methods(grid):
                    for sparsity in grid.sparsities:
                        values = settings | {"method": method, "sparsity": sparsity}
                        yield from self.variant(dense, checked(PruneConfig, values, "study.prune"))

    def methods(self, grid: PruneGrid) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the methods of a line of the grid with their settings, and the random control of each.

        A control stands beside its method with the same recovery, so one line may have it twice, with and without.
        """
        methods: dict[str, Method] = {name: METHODS.load(name) for name in grid.methods}
        for name, method in methods.items():
            yield name, _without_own(method, grid.settings)
        if "random" not in self.study.controls:
            return
        for name, method in methods.items():
            if method.control is not None:
                recovery = grid.settings.get("recovery") or method.recovery
                settings = read_by_control(name, grid.settings, recovery) | {"recovery": recovery}
                yield method.control, _without_own(METHODS.load(method.control), settings)

    def variant(self, dense: Job, config: PruneConfig) -> Iterator[Job]:
        chain = replace(self.chain, recipe=self.chain.recipe.model_copy(update={"prune": config}))
        method: Method = METHODS.load(config.method)
        cell, name = replace(self, chain=chain), f"{with_recovery(config.method, config.recovery)} {config.sparsity:g}"
        method.check_epochs(chain.recipe.finetune.epochs if True in self.study.finetune else 0)
        *bare, last = chain.prune(dense.fingerprint, name)
        pruned, tuned = (bare[0], last) if bare else (last, None)
        yield pruned  # fine-tuning rests on it, wanted by itself or not
        if not method.is_control and (False in self.study.finetune or method.trains):
            yield from cell.shipped(pruned, name, dense)
        if tuned is not None and self.tunes:
            yield tuned
            if not method.is_control:
                yield from cell.shipped(tuned, f"{name}, fine-tuned", dense)
        granularity: Granularity = GRANULARITIES.load(method.granularity)
        if granularity.shrinks and not method.is_control and "small-dense" in self.study.controls:
            what = f"dense of the size of {name}"
            small = chain.train_small(pruned, what)
            yield small
            yield from cell.shipped(small, what, dense)

    def shipped(self, model: Job, what: str, dense: Job | None) -> tuple[Job, ...]:
        """Returns the export of a model and its timing, in turn with the dense one's."""
        recipe = model.recipe
        if not recipe.measure.runtimes or (self.study.timed and recipe.seed not in self.study.timed):
            return ()
        return self.chain.ship(model, what, dense, self.machine)

    @property
    def tunes(self) -> bool:
        return True in self.study.finetune and self.chain.recipe.finetune.epochs > 0


def _without_own(method: Method, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of a method without a recovery that is its own anyway: what is one thing has one name."""
    return {key: value for key, value in settings.items() if key != "recovery" or value not in (None, method.recovery)}

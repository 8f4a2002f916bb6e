"""A verb's arguments become a recipe, and a recipe meets its data: its model section becomes whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunecast.data.calendar import FEATURES
from prunecast.data.series import Series
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, config_from
from prunecast.recipe import LOOKS_BACK, FinetuneConfig, FitConfig, Recipe, check_settings, load_recipe, merged
from prunecast.registry import METHODS, MODELS

TRAINING_SECTIONS = frozenset({"seed", "data", "model", "train"})
PRUNING_SECTIONS = frozenset({"seed", "prune", "finetune"})


def training_recipe(
    model: str, data: str, *, horizon: int | None, lookback: int | None, seed: int, settings: Sequence[str]
) -> Recipe:
    """Returns the recipe that trains a model; its model section holds only what was given. Arguments as of `train`.

    Raises:
        UserError: on an unknown name or a setting that does not fit.
    """
    sizes = {"horizon": horizon, "lookback": lookback}
    base = {
        "seed": seed,
        "data": {"name": data},
        "model": {"name": MODELS.check(model)} | {key: value for key, value in sizes.items() if value is not None},
    }
    check_settings(settings, TRAINING_SECTIONS)
    return load_recipe(settings=settings, base=base)


def pruning_recipe(
    trained: Mapping[str, Any],
    model: dict[str, Any],
    *,
    method: str,
    sparsity: float | None,
    of: str | None,
    recovery: str | None,
    finetune_epochs: int,
    settings: Sequence[str],
) -> Recipe:
    """Returns the recipe that prunes a model of config `model` that the recipe `trained` made. Others as of `prune`.

    Raises:
        UserError: on an unknown method, no sparsity, or a setting that touches what the trained model has settled.
    """
    if sparsity is None:
        raise UserError("prune: expected the share to remove, between 0 and 1, found none; give --sparsity")
    # of an earlier pruning only what may go stays as it was: the masks that it left are of that
    kept = {key: value for key, value in (trained.get("prune") or {}).items() if key == "candidates"}
    pruning = {**kept, "method": METHODS.check(method), "sparsity": sparsity, "of": of, "recovery": recovery}
    tuning = {"epochs": finetune_epochs} | {key: FinetuneConfig.model_fields[key].default for key in LOOKS_BACK}
    check_settings(settings, PRUNING_SECTIONS)
    base = merged({**trained, "prune": None}, {"prune": pruning, "finetune": tuning})
    recipe = load_recipe(base=base, settings=settings)
    if recipe.prune is None:
        raise UserError("prune: expected its settings, found none")
    return with_model(recipe, model, recipe.data.name)


def resolved(recipe: Recipe, series: Series) -> Recipe:
    """Returns the recipe with every key of the model section set.

    Channels, targets, season and the width of the marks come from the series; the data's name loses its path.

    Raises:
        UserError: when the model cannot use the known covariates that the data section names.
    """
    values = {"name": "transformer"} | recipe.model
    kind: type[ForecastModel] = MODELS.load(str(values["name"]))
    if recipe.data.covariates and not kind.uses_marks:
        raise UserError(f"model {values['name']!r} cannot use data.covariates; leave them out or take another model")
    if "period" in kind.Config.model_fields:
        values.setdefault("period", series.season)
    values |= {
        "channels": len(series.channels),
        "targets": series.targets,
        "marks": len(FEATURES[recipe.data.freq]) + len(recipe.data.covariates),
    }
    return with_model(recipe, values, Path(recipe.data.name).name)


def with_model(recipe: Recipe, values: dict[str, Any], data: str) -> Recipe:
    """Returns the recipe with a model section that is whole, and with the model's own learning rates where it has none.

    The decoder's known part is half the look-back when it is not given, as published.

    Args:
        recipe: whatever its model section holds.
        values: of the model's config.
        data: name of the data.
    """
    kind: type[ForecastModel] = MODELS.load(str(values["name"]))
    lookback = values.get("lookback", kind.Config.model_fields["lookback"].default)
    half = {"label_len": lookback // 2} if isinstance(lookback, int) else {}

    def with_rate(config: FitConfig) -> FitConfig:
        return config.model_copy(update={"learning_rate": config.learning_rate or kind.learning_rate})

    return recipe.model_copy(
        update={
            "model": config_from(half | values).model_dump(mode="json"),
            "data": recipe.data.model_copy(update={"name": data}),
            "train": with_rate(recipe.train),
            "finetune": with_rate(recipe.finetune),
        }
    )

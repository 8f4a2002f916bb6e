"""A recipe meets its data: the model section becomes whole, with what only the series can tell."""

from __future__ import annotations

from pathlib import Path

from prunecast.data.calendar import FEATURES
from prunecast.data.series import Series
from prunecast.errors import UserError
from prunecast.models.api import ForecasterConfig, config_from
from prunecast.recipe import Recipe
from prunecast.registry import MODELS


def resolved(recipe: Recipe, series: Series) -> Recipe:
    """Returns the recipe with every key of the model section set.

    Channels, targets, season and the width of the marks come from the series; the decoder's known part is half the
    look-back when it is not given, as published; the data's name loses its path.

    Raises:
        UserError: when the model cannot use the known covariates that the data section names.
    """
    values = dict(recipe.model)
    kind = MODELS.load(str(values.setdefault("name", "transformer")))
    if recipe.data.covariates and not kind.uses_marks:
        raise UserError(f"model {values['name']!r} cannot use data.covariates; leave them out or take another model")
    lookback = values.setdefault("lookback", ForecasterConfig.model_fields["lookback"].default)
    if "label_len" not in values and isinstance(lookback, int):
        values["label_len"] = lookback // 2
    if "period" in kind.Config.model_fields:
        values.setdefault("period", series.season)
    values |= {
        "channels": len(series.channels),
        "targets": series.targets,
        "marks": len(FEATURES[recipe.data.freq]) + len(recipe.data.covariates),
    }
    config = config_from(values)
    data = recipe.data.model_copy(update={"name": Path(recipe.data.name).name})
    return recipe.model_copy(update={"model": config.model_dump(mode="json"), "data": data})

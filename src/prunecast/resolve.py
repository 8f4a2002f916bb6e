"""A recipe meets its data: the model section becomes whole, and a model's metadata says what the data is."""

from __future__ import annotations

from pathlib import Path

from prunecast.data.calendar import FEATURES
from prunecast.data.series import Series
from prunecast.data.windows import Prepared
from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig, ForecastModel, config_from
from prunecast.models.io import DataSource, ModelMetadata, ScalerFacts
from prunecast.recipe import DataConfig, FitConfig, Recipe
from prunecast.registry import MODELS


def resolved(recipe: Recipe, series: Series) -> Recipe:
    """Returns the recipe with every key of the model section set.

    Channels, targets, season and the width of the marks come from the series; the decoder's known part is half the
    look-back when it is not given, as published; learning rates are the model's own when they are not given; the
    data's name loses its path.

    Raises:
        UserError: when the model cannot use the known covariates that the data section names.
    """
    values = dict(recipe.model)
    kind: type[ForecastModel] = MODELS.load(str(values.setdefault("name", "transformer")))
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
    return recipe.model_copy(
        update={
            "model": config_from(values).model_dump(mode="json"),
            "data": recipe.data.model_copy(update={"name": Path(recipe.data.name).name}),
            "train": with_rate(recipe.train, kind),
            "finetune": with_rate(recipe.finetune, kind),
        }
    )


def with_rate(config: FitConfig, kind: type[ForecastModel]) -> FitConfig:
    """Returns the training section with the model's own learning rate where it has none."""
    return config.model_copy(update={"learning_rate": config.learning_rate or kind.learning_rate})


def metadata_of(config: ForecasterConfig, prepared: Prepared, data: DataConfig, dense_parameters: int) -> ModelMetadata:
    """Returns the metadata of a model of a config on prepared data.

    Args:
        config: of the model.
        prepared: its data; the scaler is what a forecast goes through.
        data: the data section that it was prepared by.
        dense_parameters: how many the dense parent has.
    """
    channels = prepared.facts.channels
    targets = range(len(channels)) if config.targets is None else config.targets
    scaler, covariate_scaler = prepared.scaler, prepared.covariate_scaler
    return ModelMetadata(
        model=config.model_dump(mode="json"),
        channels=channels,
        targets=tuple(channels[target] for target in targets),
        covariates=data.covariates,
        freq=data.freq,
        dense_parameters=dense_parameters,
        scaler=ScalerFacts(mean=tuple(scaler.mean), std=tuple(scaler.std)),
        covariate_scaler=ScalerFacts(mean=tuple(covariate_scaler.mean), std=tuple(covariate_scaler.std)),
        frequency=prepared.series.frequency,
        data=DataSource(
            name=prepared.facts.name,
            sha256=prepared.facts.sha256,
            time_column=data.time_column,
            fill=data.fill,
            split=data.split,
        ),
    )

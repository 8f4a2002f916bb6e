"""Published dense errors beside ours: only what was forecast, and scored, alike."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np

from prunecast.records import Scoring
from prunecast.report.compare import StudyRuns, Variant, scorings
from prunecast.study.frame import StageRow

TOLERANCE, UNSTABLE_TOLERANCE = 0.05, 0.25
"""A deviation of MSE within it is called one of training runs; some models' runs differ much on some data sets."""

MEAN_TOLERANCE = 0.03
"""Likewise, of the mean over all published horizons, for models whose runs agree."""

_STEADY = {"autoformer", "fedformer", "patchtst", "itransformer", "dlinear"}
_UNSTABLE = {(model, data) for model in ("informer", "transformer") for data in ("ETTh2", "ETTm2", "Exchange")}

PUBLISHED_CHANNELS: Mapping[str, int] = {
    "ETTh1": 7,
    "ETTh2": 7,
    "ETTm1": 7,
    "ETTm2": 7,
    "Weather": 21,
    "Exchange": 8,
    "ECL": 321,
    "Traffic": 862,
    "ILI": 7,
}
"""Published errors are means over all channels of the published files."""


class Place(NamedTuple):
    """What a published error is of: data set, horizon, registered model name, look-back."""

    dataset: str
    horizon: int
    model: str
    lookback: int


@dataclass(frozen=True)
class PublishedError:
    """A dense test error from the literature.

    Attributes:
        scoring: which windows its authors' loader scored: all, or whole batches of 32; unknown where it was not seen.
        mse: in standardised units.
        mae: in standardised units.
        source: whose table.
        confidence: whether that table was seen, a copy of it was, or it is recalled.
    """

    scoring: Literal["full", "paper", "unknown"]
    mse: float
    mae: float
    source: str
    confidence: str

    @property
    def compared_in(self) -> Scoring:
        """The scoring of ours that is held against it."""
        return "paper" if self.scoring == "paper" else "full"


@cache
def published_errors() -> Mapping[Place, PublishedError]:
    """Returns the published errors that we know, from `published.csv` beside this module."""
    text = resources.files("prunecast.report").joinpath("published.csv").read_text(encoding="utf-8")
    return {
        Place(row["dataset"], int(row["horizon"]), row["model"], int(row["lookback"])): PublishedError(
            row["scoring"],  # type: ignore[arg-type]
            float(row["mse"]),
            float(row["mae"]),
            row["source"],
            row["confidence"],
        )
        for row in csv.DictReader(text.splitlines())
    }


@dataclass(frozen=True)
class Deviation:
    """A dense variant of ours beside a published error.

    Attributes:
        variant: ours.
        place: the published cell.
        published: theirs.
        mse: our mean over seeds, in the scoring of theirs.
        mse_sd: standard deviation over seeds, where there are several.
        mae: our mean over seeds.
        parameters: of our model; a smaller one is not expected to agree.
        steps: our model was trained for.
        tolerance: of the relative deviation of MSE.
    """

    variant: Variant
    place: Place
    published: PublishedError
    mse: float
    mse_sd: float | None
    mae: float
    parameters: int | None
    steps: int | None
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the deviation of MSE is inside the tolerance, rounding of the published value included."""
        return _within(self.mse, self.published.mse, self.tolerance)


def deviations(study: StudyRuns) -> list[Deviation]:
    """Returns what the literature has of a study's dense variants, in their order."""
    found = []
    for variant, runs in study.runs.items():
        rows = list(runs.values())
        place = _place(rows[0])
        known = None if variant.role != "dense" or place is None else published_errors().get(place)
        if known is None or place is None:
            continue
        prefixes = [scorings(row).get(known.compared_in) for row in rows]
        ours = [(row[f"{at}_mse"], row[f"{at}_mae"]) for row, at in zip(rows, prefixes, strict=True) if at is not None]
        if ours:
            mse, mae = np.transpose(ours)
            deviation = Deviation(
                variant,
                place,
                known,
                mse=float(mse.mean()),
                mse_sd=float(mse.std(ddof=1)) if len(ours) > 1 else None,
                mae=float(mae.mean()),
                parameters=rows[0].get("parameters"),
                steps=rows[0].get("steps"),
                tolerance=UNSTABLE_TOLERANCE if (place.model, place.dataset) in _UNSTABLE else TOLERANCE,
            )
            found.append(deviation)
    return found


def _place(row: StageRow) -> Place | None:
    """Returns which published cell a run repeats; None where it forecasts or learns from anything else."""
    data, model = row["recipe"]["data"], row["recipe"]["model"]
    same_data = PUBLISHED_CHANNELS.get(row["dataset"]) == len(json.loads(row["channels"]))
    if not same_data or data.get("targets") or data.get("split") or "lookback" not in model:
        return None
    return Place(row["dataset"], int(model["horizon"]), row["model"], int(model["lookback"]))


def mean_within(horizons: Sequence[Deviation]) -> bool | None:
    """Returns whether the mean MSE over several horizons of one model and data set is inside its tolerance.

    Single runs go up and down, their mean does so less. None for a model whose runs do not agree, or where a published
    horizon is missing.
    """
    place = horizons[0].place
    published = {other.horizon for other in published_errors() if other._replace(horizon=place.horizon) == place}
    if place.model not in _STEADY or {one.place.horizon for one in horizons} != published:
        return None
    ours, theirs = np.mean([(one.mse, one.published.mse) for one in horizons], axis=0)
    return _within(float(ours), float(theirs), MEAN_TOLERANCE)


def _within(ours: float, theirs: float, tolerance: float) -> bool:
    """Whether ours deviates by no more than that share of theirs, rounding of the published value included."""
    return abs(ours - theirs) <= tolerance * theirs + 0.0005

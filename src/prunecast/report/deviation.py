"""The table of our dense errors beside published ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prunecast.report.format import count, percent, signed_percent
from prunecast.report.published_errors import MEAN_TOLERANCE, TOLERANCE, UNSTABLE_TOLERANCE, Deviation, MeanDeviation
from prunecast.report.sheet import Cell, Head, Mark, Sheet, SheetRow
from prunecast.report.traces import RECORDS, several

_SCORINGS: Mapping[str, str] = {
    "paper": "paper, as theirs",
    "full": "full, as theirs",
    "unknown": "full; theirs not known",
}

_HEADS = (
    Head("", "data set", numeric=False),
    Head("", "horizon"),
    Head("", "model", numeric=False),
    Head("MSE", "ours"),
    Head("MSE", "published"),
    Head("MSE", "deviation"),
    Head("MAE", "ours", paper=False),
    Head("MAE", "published", paper=False),
    Head("MAE", "deviation", paper=False),
    Head("", "scoring", numeric=False),
    Head("ours", "parameters", paper=False),
    Head("ours", "steps", paper=False),
    Head("", "source", numeric=False, paper=False),
    RECORDS,
)


def deviation_sheet(name: str, found: Sequence[Deviation]) -> Sheet:
    """Returns one row for each cell, and the mean over horizons of each model and data set that has several."""
    rows = [row for group in _groups(found) for row in _group_rows(group)]
    note = (
        f"Deviation: ours over theirs, less 1. Grey: within {percent(TOLERANCE)} of the published MSE "
        f"({percent(UNSTABLE_TOLERANCE)} for Informer and Transformer on ETTh2, ETTm2 and Exchange, whose runs differ "
        f"much; {percent(MEAN_TOLERANCE)} for a mean over all published horizons, where runs agree). Scoring: paper "
        "drops the last incomplete batch of 32, as the authors' loaders did; where theirs was not seen ours is full. A "
        "model smaller than the published one, or trained for fewer steps, is not expected to agree."
    )
    return Sheet(name, "Dense errors, ours and published", _HEADS, tuple(rows), note, sortable=True)


def _groups(found: Sequence[Deviation]) -> Iterator[list[Deviation]]:
    groups: dict[tuple[str, str], list[Deviation]] = {}
    for deviation in found:
        groups.setdefault((deviation.variant.model, deviation.variant.case.dataset), []).append(deviation)
    yield from groups.values()


def _group_rows(group: Sequence[Deviation]) -> Iterator[SheetRow]:
    for deviation in group:
        yield _row(deviation)
    if len(group) > 1:
        yield _mean_row(MeanDeviation.of(group))


def _row(deviation: Deviation) -> SheetRow:
    case, published = deviation.variant.case, deviation.published
    spread = "" if deviation.mse_sd is None else f"± {deviation.mse_sd:.3f}"
    return SheetRow(
        (
            Cell(case.dataset, order=case.dataset),
            Cell(str(case.horizon), order=case.horizon),
            Cell(deviation.variant.model, order=deviation.variant.model),
            Cell(f"{deviation.mse:.3f}", spread, deviation.mse),
            Cell(f"{published.mse:.3f}", order=published.mse),
            _change(deviation.of_mse, deviation.within),
            Cell(f"{deviation.mae:.3f}", "", deviation.mae),
            Cell(f"{published.mae:.3f}", order=published.mae),
            Cell(signed_percent(deviation.of_mae), "", deviation.of_mae),
            Cell(_SCORINGS[published.scoring]),
            Cell() if deviation.parameters is None else Cell(count(deviation.parameters), order=deviation.parameters),
            Cell() if deviation.steps is None else Cell(str(deviation.steps), order=deviation.steps),
            Cell(published.source, published.confidence),
            Cell(records=deviation.records),
        )
    )


def _change(change: float, within: bool | None) -> Cell:
    """Returns a deviation; marked where it is judged and beyond its tolerance."""
    mark: Mark = "" if within is None else "faint" if within else "worse" if change > 0 else "better"
    return Cell(signed_percent(change), "", change, mark)


def _mean_row(mean: MeanDeviation) -> SheetRow:
    variant = mean.horizons[0].variant
    cells = [
        Cell(variant.case.dataset, order=variant.case.dataset),
        Cell("mean", f"of {len(mean.horizons)}"),
        Cell(variant.model, order=variant.model),
        *_means(mean.mse, mean.published_mse, mean.within),
        *_means(mean.mae, mean.published_mae, None),
    ]
    traces = several((str(one.place.horizon), one.records) for one in mean.horizons)
    return SheetRow((*cells, *[Cell()] * (len(_HEADS) - len(cells) - 1), traces), kind="mean")


def _means(ours: float, theirs: float, within: bool | None) -> list[Cell]:
    cells = [Cell(f"{value:.3f}", order=value) for value in (ours, theirs)]
    return [*cells, _change(ours / theirs - 1, within)]

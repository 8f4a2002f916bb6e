"""The table of our dense errors beside published ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from prunecast.report.format import count, percent, signed_percent
from prunecast.report.published import TOLERANCE, UNSTABLE_TOLERANCE, Deviation
from prunecast.report.sheet import Cell, Head, Mark, Sheet, SheetRow

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
)


def deviation_sheet(name: str, found: Sequence[Deviation]) -> Sheet:
    """Returns one row for each cell, and the mean over horizons of each model and data set that has several."""
    rows = [row for group in _groups(found) for row in _group_rows(group)]
    note = (
        f"Deviation: ours over theirs, less 1. Grey: within {percent(TOLERANCE)} of the published MSE "
        f"({percent(UNSTABLE_TOLERANCE)} for Informer and Transformer on ETTh2, ETTm2 and Exchange, whose runs differ "
        "much). Scoring: paper drops the last incomplete batch of 32, as the authors' loaders did; where theirs was "
        "not seen ours is full. A model smaller than the published one, or trained for fewer steps, is not expected "
        "to agree."
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
        yield _mean_row(group)


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
            Cell(signed_percent(deviation.of_mse), "", deviation.of_mse, _mark(deviation)),
            Cell(f"{deviation.mae:.3f}", "", deviation.mae),
            Cell(f"{published.mae:.3f}", order=published.mae),
            Cell(signed_percent(deviation.of_mae), "", deviation.of_mae),
            Cell(_SCORINGS[published.scoring]),
            Cell() if deviation.parameters is None else Cell(count(deviation.parameters), order=deviation.parameters),
            Cell() if deviation.steps is None else Cell(str(deviation.steps), order=deviation.steps),
            Cell(published.source, published.confidence),
        )
    )


def _mark(deviation: Deviation) -> Mark:
    if deviation.within:
        return "faint"
    return "worse" if deviation.of_mse > 0 else "better"


def _mean_row(group: Sequence[Deviation]) -> SheetRow:
    """Returns the mean over horizons: single runs go up and down, their mean does so less."""
    ours, theirs, our_mae, their_mae = np.mean(
        [(one.mse, one.published.mse, one.mae, one.published.mae) for one in group], axis=0
    )
    case, model = group[0].variant.case, group[0].variant.model
    cells = [
        Cell(case.dataset, order=case.dataset),
        Cell("mean", f"of {len(group)}"),
        Cell(model, order=model),
        *_means(float(ours), float(theirs)),
        *_means(float(our_mae), float(their_mae)),
    ]
    return SheetRow((*cells, Cell(), Cell(), Cell(), Cell()), kind="mean")


def _means(ours: float, theirs: float) -> list[Cell]:
    change = ours / theirs - 1
    return [
        Cell(f"{ours:.3f}", order=ours),
        Cell(f"{theirs:.3f}", order=theirs),
        Cell(signed_percent(change), order=change),
    ]

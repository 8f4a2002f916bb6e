"""The first page: the study's answer in words, one table and a few pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunecast.report import findings
from prunecast.report.answer import Answer, answers
from prunecast.report.curves import error_by_sparsity, ratio_curves
from prunecast.report.figure import Figure, beside
from prunecast.report.headline import headline_sheet, is_control
from prunecast.report.material import Material, file_stem
from prunecast.report.rankings import (
    Ranked,
    forecaster_ranking,
    method_ranking,
    method_title,
    rank_figure,
    rank_sheet,
    sparsities,
)
from prunecast.report.reachplot import reach_figure, time_figure
from prunecast.report.sheet import Sheet
from prunecast.report.speeds import speed_figure, speed_sheet
from prunecast.report.views import View, model_lines

FEWEST_RANKED = 3
"""Two treatments need no diagram."""

MOST_DIAGRAMS = 6
"""Of rankings; those of the other sparsities are tables."""


@dataclass(frozen=True)
class Overview:
    """What the first page shows.

    Attributes:
        answers: the study's, a paragraph for each method.
        tiles: of a study of one data set and horizon.
        pictures: how far, and what time is saved: the picture of the study.
        headline: the table.
        curves: error ratios of each model, and speed-ups.
        ranks: critical-difference diagrams.
        rankings: the same as tables, and those that have no diagram.
        sheets: tables that lie beside the page, those of the pictures too.
    """

    answers: Sequence[Answer]
    tiles: Sequence[findings.Tile]
    pictures: Sequence[Figure]
    headline: Sheet | None
    curves: Sequence[Figure]
    speed: Figure | None
    ranks: Sequence[Figure]
    rankings: Sequence[Sheet]
    sheets: Sequence[Sheet]

    @property
    def figures(self) -> list[Figure]:
        """The charts that lie beside the page as files."""
        together = [beside("overview", self.pictures)] if len(self.pictures) > 1 else []
        speed = [self.speed] if self.speed is not None else []
        return [*together, *self.pictures, *self.curves, *speed, *self.ranks]


def overview(material: Material, views: Sequence[View]) -> Overview:
    """Returns the first page of a study, whose models have the other pages."""
    ladders, main = material.ladders, material.clocks.main
    pages = {view.title: view.name for view in views if view.kind == "model"}
    headline = headline_sheet("headline", ladders, material.budgets, pages) if ladders.lines else None
    timed = [speed for speed in material.speeds if not is_control(speed.method)]
    speed = speed_figure("speed", "Promised and measured speed-up", timed, main or "", looks=material.looks)
    ranked = list(_rankings(material))
    pictures = (
        reach_figure("reach", ladders, material.looks),
        time_figure("time", ladders, material.rows, main, material.looks),
    )
    sheets = [headline] if headline is not None else []
    sheets += (
        [speed_sheet("speeds", material.study, material.speeds, material.clocks.runtimes)] if material.speeds else []
    )
    rankings = [rank_sheet(name, title, material.study, found) for name, title, found in ranked]
    sheets += rankings
    return Overview(
        answers=answers(ladders, material.rows, main, material.budgets),
        tiles=_tiles(material),
        pictures=[figure for figure in pictures if figure is not None],
        headline=headline,
        curves=list(_curves(material)),
        speed=speed,
        ranks=[_diagram(*ranked[index]) for index in _spread(len(ranked), MOST_DIAGRAMS)],
        rankings=rankings,
        sheets=sheets,
    )


def _tiles(material: Material) -> list[findings.Tile]:
    if len(material.study.cases) != 1:
        return []
    case = material.study.cases[0]
    return findings.tiles(material.rows_of(case), material.compared, material.ladders, case, material.clocks.main)


def _curves(material: Material) -> Iterator[Figure]:
    """Yields a chart for each model: errors beside the controls on a single data set and horizon, else error ratios."""
    for number, model in enumerate(material.models, start=1):
        figure = (
            error_by_sparsity(file_stem("curve", number, model), material.rows, model, material.looks)
            if len(material.study.cases) == 1
            else ratio_curves(file_stem("ratio", number, model), model, model_lines(material, model))
        )
        if figure is not None:
            yield figure


def _diagram(name: str, title: str, found: Ranked) -> Figure:
    return rank_figure(name, title, found.ranking)


def _rankings(material: Material) -> Iterator[tuple[str, str, Ranked]]:
    """Yields the ranking of forecasters, and of ways to prune at each sparsity that several ways share."""
    found = forecaster_ranking(material.rows)
    if found is not None and len(found.ranking.names) >= FEWEST_RANKED:
        yield "ranks-dense", "Dense forecasters, by rank", found
    for sparsity in sparsities(material.rows):
        ways = method_ranking(material.rows, material.compared, sparsity)
        if ways is not None and len(ways.ranking.names) >= FEWEST_RANKED:
            yield file_stem("ranks", f"{sparsity:.3f}"), method_title(sparsity), ways


def _spread(count: int, most: int) -> list[int]:
    """Returns up to `most` places among `count`, the first and the last among them, evenly apart."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]

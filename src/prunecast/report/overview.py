"""The first page: the study's answer in words, one table and a few pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from prunecast.records import Environment, Failure, Parity, RunRecord, Stage
from prunecast.report import findings
from prunecast.report.answer import Answer, answers
from prunecast.report.curves import error_by_sparsity, ratio_curves
from prunecast.report.figure import Figure, beside
from prunecast.report.headline import headline_sheet, is_control
from prunecast.report.material import Material, file_stem
from prunecast.report.rankings import (
    forecaster_ranking,
    method_ranking,
    method_title,
    rank_figure,
    rank_sheet,
    sparsities,
)
from prunecast.report.ranks import Ranking
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
    sheets += [speed_sheet("speeds", material.speeds, material.clocks.runtimes)] if material.speeds else []
    sheets += [rank_sheet(*one) for one in ranked]
    return Overview(
        answers=answers(ladders, material.rows, main, material.budgets),
        tiles=_tiles(material),
        pictures=[figure for figure in pictures if figure is not None],
        headline=headline,
        curves=list(_curves(material)),
        speed=speed,
        ranks=[rank_figure(*ranked[index]) for index in _spread(len(ranked), MOST_DIAGRAMS)],
        rankings=[rank_sheet(*one) for one in ranked],
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


def _rankings(material: Material) -> Iterator[tuple[str, str, Ranking]]:
    """Yields the ranking of forecasters, and of ways to prune at each sparsity that several ways share."""
    found = forecaster_ranking(material.rows)
    if found is not None and len(found.names) >= FEWEST_RANKED:
        yield "ranks-dense", "Dense forecasters, by rank", found
    for sparsity in sparsities(material.rows):
        ways = method_ranking(material.rows, material.compared, sparsity)
        if ways is not None and len(ways.names) >= FEWEST_RANKED:
            yield file_stem("ranks", f"{sparsity:.3f}"), method_title(sparsity), ways


def _spread(count: int, most: int) -> list[int]:
    """Returns up to `most` places among `count`, the first and the last among them, evenly apart."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def what_was_run(material: Material, failures: Sequence[Failure]) -> Mapping[str, Any]:
    """Returns data, stages, machines and runtimes, and what did not finish."""
    records = list(material.study.by_fingerprint.values())
    stages = Counter(record.stage for record in records)
    return {
        "records": len(records),
        "failures": list(failures),
        "stages": [(stage, stages[stage]) for stage in get_args(Stage) if stages[stage]],
        "seeds": sorted({record.seed for record in records}),
        "hours": sum(record.timing.elapsed_s for record in records) / 3600,
        "data": sorted({r.data.sha256: r.data for r in records}.values(), key=lambda data: data.name),
        "scorings": sorted({f"{row['scoring']}, {row['windows']} windows" for row in material.rows.values()}),
        "environments": _environments(records),
        "unsupported": sorted({reason for record in records for reason in record.unsupported.items()}),
        "parity": _worst_parity(records),
    }


def _environments(records: Sequence[RunRecord]) -> list[tuple[Environment, int]]:
    """Returns the different machines and versions, the most used first, and how many stages ran on each."""
    found = {_told_apart(record.environment): record.environment for record in records}
    counts = Counter(_told_apart(record.environment) for record in records)
    return [(found[key], number) for key, number in counts.most_common()]


def _told_apart(environment: Environment) -> tuple[Any, ...]:
    values = environment.model_dump()
    return tuple(sorted((key, repr(value)) for key, value in values.items()))


def _worst_parity(records: Sequence[RunRecord]) -> list[tuple[str, int, Parity]]:
    """Returns each runtime, how many models it was given, and the parity of the one that deviates most."""
    found: dict[str, dict[str | None, Parity]] = {}
    for record in records:
        for artefact in record.artefacts:
            if artefact.parity is not None:
                found.setdefault(artefact.runtime, {})[record.parent] = artefact.parity
    return [
        (runtime, len(models), max(models.values(), key=lambda parity: parity.max_deviation))
        for runtime, models in sorted(found.items())
    ]

"""Critical-difference diagrams: forecasters, and ways to prune them, by their mean rank over data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from prunecast.report import svg
from prunecast.report.compare import Compared
from prunecast.report.figure import WIDTH, Figure
from prunecast.report.format import percent
from prunecast.report.ranks import Ranking, ranking
from prunecast.report.scales import Scale
from prunecast.report.sheet import Cell, Head, Sheet, SheetRow
from prunecast.report.tables import Rows
from prunecast.report.theme import GRID, INK, MUTED, PALE
from prunecast.report.traces import RECORDS, scored, several
from prunecast.report.variants import Case, Study, Variant

MOST_RANKED = 12
"""Of more treatments than that a critical difference says nothing on a handful of data sets."""


@dataclass(frozen=True)
class Ranked:
    """A ranking, and what each treatment's errors come from."""

    ranking: Ranking
    variants: Mapping[str, tuple[Variant, ...]]


def forecaster_ranking(rows: Rows) -> Ranked | None:
    """Returns the dense forecasters and naive forecasts by test MSE; an error is the geometric mean over horizons.

    A naive forecast that is not to be had everywhere (a season may be longer than the look-back) is left out: the
    forecasters would otherwise not be compared where it is missing.
    """
    found: dict[str, dict[Variant, float]] = {}
    for key, row in rows.items():
        if key.role in ("dense", "naive"):
            found.setdefault(key.model, {})[key] = float(np.log(row["mse"]))
    cases = {key.case for of in found.values() for key in of if key.role == "dense"}
    return _complete({name: of for name, of in found.items() if not _lacks(of, cases)})


def _lacks(of: Mapping[Variant, float], cases: Set[Case]) -> bool:
    """Whether these are naive forecasts, and not of all cases."""
    return all(key.role == "naive" for key in of) and not cases <= {key.case for key in of}


def method_ranking(rows: Rows, compared: Compared, requested: float) -> Ranked | None:
    """Returns ways to prune at one sparsity by what they do to the error, beside doing nothing and training on.

    A treatment's error on a data set is the geometric mean of its ratio to the dense model's, over the models and
    horizons that all treatments have there.
    """
    found: dict[str, dict[Variant, float]] = {"dense": {}, "dense, trained on": {}}
    for key in rows:
        comparison = compared.of(key, "dense")
        if key.role == "dense":
            found["dense"][key] = 0.0
        elif comparison is not None and key.role == "dense-continued":
            found["dense, trained on"][key] = comparison.log_ratio.value
        elif comparison is not None and key.pruned and round(key.requested or 0, 6) == requested:
            found.setdefault(_treatment(key), {})[key] = comparison.log_ratio.value
    return _complete({name: of for name, of in found.items() if of})


def sparsities(rows: Rows) -> list[float]:
    """Returns the sparsities at which there is more than one way to prune."""
    ways: dict[float, set[str]] = {}
    for key in rows:
        if key.pruned and key.requested is not None:
            ways.setdefault(round(key.requested, 6), set()).add(_treatment(key))
    return sorted(sparsity for sparsity, found in ways.items() if len(found) > 1)


def _treatment(key: Variant) -> str:
    return f"{key.method}{', fine-tuned' if key.finetuned else ''}"


def _complete(found: Mapping[str, Mapping[Variant, float]]) -> Ranked | None:
    """Returns the ranking of logarithms of errors, on the data sets where every treatment has the same cells."""
    cells = {name: {_cell(name, key): value for key, value in of.items()} for name, of in found.items()}
    shared = set.intersection(*(set(of) for of in cells.values())) if cells else set()
    datasets = sorted({cell[0] for cell in shared})
    errors = {
        name: {data: float(np.mean([of[cell] for cell in sorted(shared) if cell[0] == data])) for data in datasets}
        for name, of in cells.items()
    }
    ranks = ranking(errors) if len(errors) <= MOST_RANKED else None
    variants = {name: tuple(key for key in of if _cell(name, key) in shared) for name, of in found.items()}
    return None if ranks is None else Ranked(ranks, variants)


def _cell(name: str, key: Variant) -> tuple[str, int, str]:
    """Returns data set, horizon and, where the treatment is not the model itself, the model."""
    return key.case.dataset, key.case.horizon, "" if name == key.model else key.model


def method_title(requested: float) -> str:
    """Returns what a ranking of methods is about."""
    return f"Ways to remove {percent(requested)}, by rank"


def rank_figure(name: str, title: str, found: Ranking) -> Figure:
    """Returns a critical-difference diagram: a row for each treatment, the best on top, bars join what is alike."""
    right = WIDTH - 14.0 - _BAR * len(found.groups)
    left = min(WIDTH / 2, max(140.0, 24 + max(svg.width_of(treatment, _TYPE) for treatment in found.names)))
    axis = Scale(1, len(found.names), left + 10, right - 10)
    bottom = _TOP + _ROW * len(found.names)
    parts = [_distance(found, axis), _axis(axis, len(found.names), bottom)]
    for place, (treatment, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        y = _TOP + _ROW * (place + 0.5)
        parts.append(svg.text((12, y + 4), treatment, _TYPE))
        parts.append(svg.line((left, y), (axis(rank), y), PALE, 1))
        mark = svg.marker("circle", (axis(rank), y), INK, radius=4)
        parts.append(svg.tipped(mark, f"{treatment}: mean rank {rank:.2f}"))
    for number, (first, last) in enumerate(found.groups):
        x = right + 8 + _BAR * number
        ends = (x, _TOP + _ROW * (first + 0.25)), (x, _TOP + _ROW * (last + 0.75))
        parts.append(svg.line(*ends, INK, 4))
    label = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(found.names, found.ranks, strict=True))
    return Figure(
        name, title, rank_caption(found), f"{title}. Mean ranks: {label}.", "".join(parts), WIDTH, bottom + 12
    )


_TYPE = 10.5
_TOP, _ROW, _BAR = 46.0, 20.0, 9.0


def _axis(axis: Scale, count: int, bottom: float) -> str:
    parts = [svg.line((axis.start, _TOP - 2), (axis.stop, _TOP - 2), INK, 1.2)]
    for rank in range(1, count + 1):
        parts.append(svg.line((axis(rank), _TOP - 2), (axis(rank), bottom), GRID))
        parts.append(svg.line((axis(rank), _TOP - 7), (axis(rank), _TOP - 2), INK, 1.2))
        parts.append(svg.text((axis(rank), _TOP - 11), str(rank), _TYPE, "middle", MUTED))
    return "".join(parts)


def _distance(found: Ranking, axis: Scale) -> str:
    """Returns the critical difference as a length, where it is shorter than the axis."""
    words = f"critical difference {found.critical_difference:.2f}"
    if found.critical_difference > axis.high - axis.low:
        return svg.text((12, 16), f"{words}: wider than all ranks", _TYPE, colour=MUTED)
    end = axis(1 + found.critical_difference)
    ends = "".join(svg.line((x, 8), (x, 16), INK, 1.2) for x in (axis.start, end))
    return ends + svg.line((axis.start, 12), (end, 12), INK, 1.2) + svg.text((12, 16), words, _TYPE, colour=MUTED)


def rank_caption(found: Ranking) -> str:
    """Returns what the diagram says and how far it can be trusted."""
    verdict = "differences are shown" if found.told_apart else "no difference is shown"
    return (
        f"Mean rank over {len(found.datasets)} data sets ({', '.join(found.datasets)}); 1 is best. Friedman: "
        f"chi square {found.statistic:.2f}, p {_chance(found.p)}: {verdict}. "
        "A bar joins what is not told apart (Nemenyi, 5 %)."
    )


def _chance(p: float) -> str:
    """Returns a share of shuffled rankings; fewer than one in ten thousand are not counted."""
    return f"= {p:.2g}" if p > 1e-4 else "< 0.0001"


def rank_sheet(name: str, title: str, study: Study, ranked: Ranked) -> Sheet:
    """Returns mean ranks as a table, with the records of each treatment."""
    found = ranked.ranking
    heads = (
        Head("", "treatment", numeric=False),
        Head("", "mean rank"),
        Head("", "not told apart from", numeric=False),
        RECORDS,
    )
    rows = []
    for place, (treatment, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        kin = _kin(found.names, found.groups, place)
        of = ranked.variants[treatment]
        traces = several((f"{variant.case.title} {variant.model}", scored(study, variant)) for variant in of)
        rows.append(SheetRow((Cell(treatment), Cell(f"{rank:.2f}", order=rank), Cell(", ".join(kin)), traces)))
    return Sheet(name, title, heads, tuple(rows), rank_caption(found))


def _kin(names: Sequence[str], groups: Sequence[tuple[int, int]], place: int) -> list[str]:
    near = {other for first, last in groups if first <= place <= last for other in range(first, last + 1)}
    return [names[other] for other in sorted(near - {place})]

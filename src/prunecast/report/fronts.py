"""Error against what a forecast costs: time, bytes, operations, with the front of what nothing else beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prunecast.report import svg
from prunecast.report.clocks import Clocks
from prunecast.report.figure import WIDTH, Figure, Key, Panel, legend
from prunecast.report.format import missing, runtime_name
from prunecast.report.scales import Scale, error_scale, padded_log, tick_text
from prunecast.report.statistics import pareto_front
from prunecast.report.tables import Row, Rows
from prunecast.report.theme import INK, MUTED, Look
from prunecast.report.variants import Variant

FAR = 1.6
"""A cost chart ends at this many times the best error of the worst model; its caption says how many lie above."""

_PLOT = 230
_TYPE = 9.5


@dataclass(frozen=True)
class Cost:
    """What an error may be held against.

    Attributes:
        name: short, for files.
        column: of the summary.
        title: of the chart.
        axis: title of the cost's axis, with its unit.
    """

    name: str
    column: str
    title: str
    axis: str


def costs(clocks: Clocks) -> list[Cost]:
    """Returns the costs that a study may have measured, of its main runtime."""
    counted = [
        Cost("zip", "zip_bytes", "Error against bytes, zipped", "bytes of the weights, zip-compressed"),
        Cost("macs", "effective_macs", "Error against operations", "multiply-adds with a non-zero weight"),
    ]
    if clocks.main is None:
        return counted
    time, *others = _costs_of(clocks.main, "time", "file", "")
    return [time, *counted, *others]


def other_costs(clocks: Clocks) -> list[Cost]:
    """Returns those of the other runtimes."""
    return [
        cost
        for number, label in enumerate(other for other in clocks.runtimes if other != clocks.main)
        for cost in _costs_of(label, f"time-{number}", f"file-{number}", f", {runtime_name(label)}")
    ]


def _costs_of(label: str, time: str, file: str, suffix: str) -> tuple[Cost, Cost]:
    name = runtime_name(label)
    return (
        Cost(time, f"{label}_ms", f"Error against measured time{suffix}", f"{name}: median ms per forecast"),
        Cost(file, f"{label}_bytes", f"Error against bytes, as deployed{suffix}", f"{name}: bytes of the file"),
    )


class Spot(NamedTuple):
    """A variant in a plot of error against cost."""

    key: Variant
    row: Row
    cost: float
    error: float
    front: bool


def error_by_cost(name: str, rows: Rows, cost: Cost, looks: Mapping[str, Look]) -> Figure | None:
    """Returns the error of all variants against a cost, on a logarithmic axis, with the Pareto front.

    Args:
        name: file stem.
        rows: the summary of one data set and horizon.
        cost: what to hold it against; rows without it are left out; one alone makes no chart.
        looks: of the methods.
    """
    spots = _spots(rows, cost.column)
    if len(spots) < 2:
        return None
    series = list(dict.fromkeys(spot.key.series for spot in spots))
    head, top = legend([_key(one, looks[one], number) for number, one in enumerate(series)], WIDTH)
    learned = [spot for spot in spots if spot.key.role != "naive"] or spots
    best: dict[str, float] = {}
    for spot in learned:
        best[spot.key.model] = min(spot.error, best.get(spot.key.model, np.inf))
    ends = padded_log(min(spot.cost for spot in spots), max(spot.cost for spot in spots))
    errors = error_scale([s.error for s in spots], top + 8 + _PLOT, top + 8, FAR * max(best.values()))
    panel = Panel(Scale(*ends, 52, WIDTH - 14, logarithmic=True), errors)
    drawn = "".join(
        svg.series("".join(_mark(panel, s, looks[one], cost) for s in spots if s.key.series == one), number)
        for number, one in enumerate(series)
    )
    content = head + panel.axes(cost.axis, "test MSE") + panel.clipped(_front(panel, spots) + drawn)
    content += _names(panel, spots)
    above = sum(spot.error > panel.y.high for spot in spots)
    return Figure(name, cost.title, _caption(above), _label(cost, spots), content, WIDTH, top + 58 + _PLOT)


def _spots(rows: Rows, column: str) -> list[Spot]:
    dear = [(key, row) for key, row in rows.items() if not missing(row.get(column)) and row[column] > 0]
    if not dear:
        return []
    cost_N = np.array([row[column] for _, row in dear], dtype=float)
    error_N = np.array([row["mse"] for _, row in dear], dtype=float)
    front_N = pareto_front(cost_N, error_N)
    return [
        Spot(key, row, float(cost), float(error), bool(front))
        for (key, row), cost, error, front in zip(dear, cost_N, error_N, front_N, strict=True)
    ]


def _key(name: str, look: Look, number: int) -> Key:
    return Key(name, svg.marker(look.shape, (16, 0), look.colour), number)


def _mark(panel: Panel, spot: Spot, look: Look, cost: Cost) -> str:
    lines = [spot.key.full_name, f"test MSE {spot.error:.4f}", f"{cost.axis}: {tick_text(float(f'{spot.cost:.3g}'))}"]
    if spot.front:
        lines.append("on the front")
    mark = svg.marker(look.shape, panel.place(spot.cost, spot.error), look.colour, filled=spot.key.role != "pruned")
    return svg.tipped(mark, "\n".join(lines))


def _front(panel: Panel, spots: Sequence[Spot]) -> str:
    """Returns the front as a staircase: a cost buys the error of the best that costs no more."""
    front = sorted((spot for spot in spots if spot.front), key=lambda spot: spot.cost)
    steps: list[svg.Point] = []
    for spot in front:
        if steps:
            steps.append((panel.x(spot.cost), steps[-1][1]))
        steps.append(panel.place(spot.cost, spot.error))
    if steps:
        steps.append((panel.x.stop, steps[-1][1]))
    return svg.path(steps, INK, 1)


def _caption(above: int) -> str:
    caption = (
        "Lower left is better; the line is the front of what no other variant beats in both. Open: not fine-tuned."
    )
    return f"{caption} {above} with far larger errors lie above the plot." if above else caption


def _label(cost: Cost, spots: Sequence[Spot]) -> str:
    front = sorted((spot for spot in spots if spot.front), key=lambda spot: spot.cost)
    said = ", ".join(f"{s.key.full_name} (MSE {s.error:.3g} at {tick_text(float(f'{s.cost:.3g}'))})" for s in front)
    return f"Test MSE against {cost.axis}. On the front: {said}."


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)


def _names(panel: Panel, spots: Sequence[Spot]) -> str:
    """Returns the names of the front's marks, the most accurate first, as far as there is room below them."""
    seen = [spot for spot in spots if panel.y.holds(spot.error)]
    taken = [_around(*panel.place(spot.cost, spot.error)) for spot in seen]
    parts = []
    for spot in sorted((spot for spot in seen if spot.front), key=lambda spot: spot.error):
        x, y = panel.place(spot.cost, spot.error)
        words = spot.key.model if spot.key.role == "naive" else spot.key.full_name.removesuffix(", fine-tuned")
        width = svg.width_of(words, _TYPE)
        left = x - 6 - width if x - 6 - width >= panel.x.start else x + 6
        box = _Box(left, y + 5, left + width, y + 5 + _TYPE + 2)
        fits = box.right <= panel.x.stop + 10 and box.bottom <= panel.y.start
        if fits and not any(box.meets(other) for other in taken):
            taken.append(box)
            parts.append(svg.text((left, y + 5 + _TYPE), words, _TYPE, colour=MUTED))
    return "".join(parts)


def _around(x: float, y: float) -> _Box:
    return _Box(x - 4, y - 4, x + 4, y + 4)

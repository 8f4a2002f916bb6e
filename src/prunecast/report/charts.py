"""The charts of a report: what each is made of, and the Altair template that draws every chart of its kind.

A template is built once for each set of series; a chart is its template with data and a few numbers (`Chart.spec`). The
first page's charts are drawn by vl-convert; the others are drawn by the browser when their page is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from math import isnan, nan
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from prunecast.report.compare import Case, Compared, Variant
from prunecast.report.ranks import Ranked
from prunecast.report.sheets import change, rank_caption
from prunecast.report.statistics import Interval, pareto_front
from prunecast.report.style import (
    GRID,
    HEIGHT,
    INK,
    MUTED,
    PALE,
    PICK,
    SATURATED,
    WIDTH,
    Axis,
    Chart,
    Legend,
    Look,
    Points,
    Spec,
    axis_of,
    colour_of,
    error_axis,
    log_axis,
    marks_of,
    missing,
    percent,
    picked,
    rule_of,
    runtime_name,
    scale_of,
    share_axis,
    short_axis,
    signed_percent,
    spread_out,
    template_of,
    three_digits,
    times,
)
from prunecast.report.summary import EVERYWHERE, PLAIN, TUNED, Rows, Speed, Timings, front_points, mean_speedup
from prunecast.report.thresholds import Level, Line, Sweep, Sweeps, pooled
from prunecast.study.frame import Forecast, StageRow

CLOSE = 1.15
"""A close-up ends at this many times the smallest error."""

HIGHEST_RATIO = 2.5
"""Charts of error ratios end there, so that what matters is seen."""

FAR = 1.6
"""A cost chart ends at this many times the best error of the worst model; its caption says how many lie above."""

# Error against sparsity.


@lru_cache
def _curves_template(series: Legend, titles: tuple[str, str], suffix: str, *, logarithmic: bool) -> Spec:
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, 1]), axis=share_axis(titles[0]))
    scale = scale_of("y", logarithmic=logarithmic)
    axis = axis_of("y", titles[1], logarithmic=logarithmic, suffix=suffix)
    y = alt.Y("y:Q", scale=scale, axis=axis)
    dashes = alt.StrokeDash(
        "tuning:N",
        scale=alt.Scale(domain=[PLAIN, TUNED], range=[[5, 4], [1, 0]]),
        legend=alt.Legend(symbolType="stroke"),
    )
    colour = colour_of(series)
    lines = rule_of("lines", colour, 1.8).encode(x=x, y=y, x2="x2:Q", y2="y2:Q", strokeDash=dashes, opacity=picked())
    controls = alt.Chart(alt.NamedData("controls"))
    shade = alt.Color("colour:N", scale=None)
    names = controls.mark_text(align="left", dx=6).encode(
        x=alt.value(WIDTH), y=alt.Y("label_y:Q", scale=scale), text="name:N", color=shade
    )
    bars = rule_of("bars", colour).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", opacity=picked())
    marks = marks_of("points", series).encode(x=x, y=y)
    return template_of(rule_of("controls", shade, 0.9).encode(y=y), names, bars, lines, marks, names=["y"])


class _Point(NamedTuple):
    """A point of a curve: where it lies, the ends of its bar, and what is said there; none of it at a line's start."""

    x: float
    y: float
    low: float = nan
    high: float = nan
    words: str = ""


_Lines = Mapping[tuple[str, str], Sequence[_Point]]
"""Series, and with or without fine-tuning -> the points of its line."""


def _curves_data(lines: _Lines, single: Sequence[tuple[str, _Point]], axis: Axis) -> dict[str, Points]:
    """Returns marks, bars and lines, cut off where the axis ends; `single` are marks that stand on no line."""
    segments: Points = []
    marked: list[tuple[dict[str, Any], _Point]] = []
    for (series, tuning), line in lines.items():
        look = {"series": series, "tuning": tuning}
        marked += [(look, point) for point in line if point.words]
        for start, end in pairwise(line):
            if min(start.y, end.y) <= axis.high:
                (x, y), (x2, y2) = _cut(start, end, axis), _cut(end, start, axis)
                segments.append(look | {"x": x, "y": y, "x2": x2, "y2": y2})
    marked += [({"series": series, "tuning": TUNED}, point) for series, point in single]
    points = [
        look | {"x": point.x, "y": point.y, "words": point.words, "filled": look["tuning"] == TUNED}
        for look, point in marked
        if point.y <= axis.high
    ]
    bars = [
        look | {"x": point.x, "low": point.low, "high": min(point.high, axis.high)}
        for look, point in marked
        if point.low < min(point.high, axis.high)
    ]
    return {"points": points, "bars": bars, "lines": segments}


def _cut(point: _Point, other: _Point, axis: Axis) -> tuple[float, float]:
    """Returns a point, or where the line from it to another one comes below the axis's high end."""
    if point.y <= axis.high:
        return point.x, point.y
    place, below = axis.place(point.y), axis.place(other.y)
    return other.x + (point.x - other.x) * (1 - below) / (place - below), axis.high


def error_by_sparsity(
    name: str, rows: Rows, model: str, looks: Mapping[str, Look], *, close: bool = False
) -> Chart | None:
    """Returns how the error of one model grows with sparsity, its controls as lines; None without pruned variants.

    Args:
        name: file stem.
        rows: the summary of one data set and horizon.
        model: the model's name there.
        looks: of the methods.
        close: show the errors near the dense model's only; None when that would show nothing new.
    """
    curves = _curves(rows, model)
    if not curves:
        return None
    small = [(key, row) for key, row in rows.items() if (key.model, key.role) == (model, "small-dense")]
    controls = _controls(rows, model)
    errors = [
        end for _, row in (*(point for curve in curves.values() for point in curve), *small) for end in _ends(row)
    ]
    least = min(float(row["test_mse"]) for curve in curves.values() for _, row in curve)
    ceiling = CLOSE * least if close else float("inf")
    if close and max([*errors, *(error for _, error, _ in controls)]) <= ceiling:
        return None
    axis = error_axis(errors if close else [*errors, *(error for _, error, _ in controls)], ceiling)
    lines = {
        (method, TUNED if tuned else PLAIN): [_curve_point(key, row, marked=key.pruned) for key, row in curve]
        for (method, tuned), curve in curves.items()
    }
    single = [("small dense", _curve_point(key, row, marked=True)) for key, row in small]
    series = tuple((one, looks[one]) for one in dict.fromkeys(name for name, _ in (*lines, *single)))
    titles = ("sparsity: parameters that are gone", "test MSE")
    said = [
        f"{method}{', fine-tuned' if tuned else ''}: {three_digits(curve[0][1]['test_mse'])} rising to "
        f"{three_digits(curve[-1][1]['test_mse'])}"
        for (method, tuned), curve in curves.items()
    ]
    caption = (
        "The same, close up: lines that leave at the top lose more than a tenth."
        if close
        else "Dashed with open marks: pruned only. Solid with filled marks: fine-tuned afterwards; such a line starts "
        "at the dense model trained on for as long, and what stays level with it was free. Level lines are controls; "
        "bars are one standard deviation over seeds."
        + (" Triangles: dense models of the pruned size, trained from scratch." if small else "")
    )
    return Chart(
        name,
        f"{model}: near the dense model" if close else f"{model}: error against sparsity",
        caption,
        f"Test MSE of {model} as sparsity grows. {'; '.join(said)}.",
        _curves_template(series, titles, "", logarithmic=axis.logarithmic),
        _curves_data(lines, single, axis) | {"controls": _control_lines(controls, axis)},
        axis.params("y"),
    )


Curve = list[tuple[Variant, StageRow]]


def _curves(rows: Rows, model: str) -> dict[tuple[str, bool], Curve]:
    """Returns the points of each method with and without fine-tuning; a line starts at the model it came from."""
    origins = {key.role: (key, row) for key, row in rows.items() if key.model == model}
    found: dict[tuple[str, bool], Curve] = {}
    for key, row in rows.items():
        if key.model == model and key.pruned and not missing(row.get("sparsity_realised")):
            start = origins.get("dense-continued" if key.finetuned else "dense")
            found.setdefault((key.series, key.finetuned), [start] if start else []).append((key, row))
    return {line: sorted(curve, key=lambda point: _sparsity(point[1])) for line, curve in found.items()}


def _sparsity(row: StageRow) -> float:
    return 0.0 if missing(row.get("sparsity_realised")) else float(row["sparsity_realised"])


def _ends(row: StageRow) -> tuple[float, float]:
    """Returns the error less and plus its spread over seeds."""
    error = float(row["test_mse"])
    spread = 0.0 if missing(row.get("test_mse_sd")) else float(row["test_mse_sd"])
    return max(error - spread, error / 10), error + spread


def _curve_point(key: Variant, row: StageRow, *, marked: bool) -> _Point:
    words = [key.full_name, f"test MSE {row['test_mse']:.4f}", f"sparsity {percent(round(_sparsity(row), 3))}"]
    if not missing(row.get("vs_dense")):
        words.append(f"against dense {row['vs_dense']:+.4f}: {row['vs_dense_verdict']}")
    if isinstance(row.get("saturated"), str) and row["saturated"]:
        words.append(f"saturated: not better than {row['saturated']}")
    place = (round(_sparsity(row), 5), float(row["test_mse"]))
    return _Point(*place, *_ends(row), "\n".join(words)) if marked else _Point(*place)


def _controls(rows: Rows, model: str) -> list[tuple[str, float, str]]:
    """Returns what a pruned model must beat, or must not lose: name, error and colour of each."""
    found = []
    for key, row in rows.items():
        own = key.model == model
        if own and key.role in ("dense", "dense-continued"):
            found.append((key.name, float(row["test_mse"]), INK))
        elif (own and key.role == "zeroed-body") or key.role == "naive":
            found.append((key.model if key.role == "naive" else key.name, float(row["test_mse"]), MUTED))
        elif not own and key.role == "dense" and key.model == "DLinear":
            found.append((key.model, float(row["test_mse"]), MUTED))
    return found


def _control_lines(controls: Sequence[tuple[str, float, str]], axis: Axis) -> Points:
    """Returns the level lines that the axis holds, with names far enough apart to be read."""
    seen = [control for control in controls if axis.low <= control[1] <= axis.high]
    places = spread_out([axis.place(error) for _, error, _ in seen], 12.5 / HEIGHT)
    return [
        {"y": error, "label_y": axis.at(place), "name": f"{name} {error:.3g}", "colour": colour}
        for (name, error, colour), place in zip(seen, places, strict=True)
    ]


def ratio_curves(
    name: str, title: str, lines: Iterable[tuple[str, Sweep, float]], looks: Mapping[str, Look]
) -> Chart | None:
    """Returns error ratios against sparsity with their intervals; None without any line.

    Args:
        name: file stem.
        title: of the chart.
        lines: series, sweep, and the ratio at which its line starts.
        looks: of the series.
    """
    drawn: dict[tuple[str, str], list[_Point]] = {}
    said = []
    for series, sweep, origin in lines:
        tuned = sweep.line.finetuned
        line = drawn[series, TUNED if tuned else PLAIN] = [_Point(0, origin)]
        for level in sweep.levels:
            ratio, words = level.ratio, f"{series} {percent(level.sparsity)}{', fine-tuned' if tuned else ''}"
            line.append(_Point(level.sparsity, ratio.value, ratio.low, ratio.high, f"{words}\nMSE {change(ratio)}"))
        said.append(f"{words}: MSE {signed_percent(sweep.levels[-1].ratio.value - 1)}")
    if not drawn:
        return None
    ends = [end for line in drawn.values() for point in line for end in (point.y, point.low, point.high)]
    axis = error_axis([1.0, *(end for end in ends if not isnan(end))], HIGHEST_RATIO)
    caption = (
        "Test MSE over the dense model's, the geometric mean over data sets and horizons, with its 95 % interval. "
        "Dashed: pruned only. Solid: fine-tuned; such a line starts at the dense model trained on for as long."
    )
    titles = ("removed, of the method's own budget", "error, dense = 1")
    shown = tuple((one, looks[one]) for one in dict.fromkeys(series for series, _ in drawn))
    template = _curves_template(shown, titles, " ×", logarithmic=axis.logarithmic)
    data = _curves_data(drawn, [], axis) | {"controls": [{"y": 1, "label_y": 1, "name": "dense", "colour": INK}]}
    return Chart(name, title, caption, f"{title}. {'; '.join(said)}.", template, data, axis.params("y"))


def ratio_lines(sweeps: Sweeps, compared: Compared, model: str, method: str) -> list[tuple[Sweep, float]]:
    """Returns a method's sweeps against the dense model, each with the ratio that it starts at."""
    found = (sweeps.pooled(Line(model, method, tuned, "dense")) for tuned in (False, True))
    return [
        (sweep, _continued_ratio(compared, sweep) if sweep.line.finetuned else 1.0)
        for sweep in found
        if sweep is not None
    ]


def _continued_ratio(compared: Compared, sweep: Sweep) -> float:
    """Returns the error of the dense models trained on, over the dense ones', in the cases of a sweep."""
    of_model = (c for c in compared.every if (c.variant.role, c.variant.model) == ("dense-continued", sweep.line.model))
    own = {comparison.variant.case: comparison for comparison in of_model if comparison.against == "dense"}
    found = [own[case] for case in sweep.cases if case in own]
    return pooled(found).value if len(found) == len(sweep.cases) else 1.0


# Error against cost.


class Cost(NamedTuple):
    """What an error may be held against: a short name for files, a column of the summary, and titles."""

    name: str
    column: str
    title: str
    axis: str


def costs(timings: Timings) -> list[Cost]:
    """Returns the costs that a study may have measured, of its main runtime."""
    counted = [
        Cost("zip", "zip_bytes", "Error against bytes, zipped", "bytes of the weights, zip-compressed"),
        Cost("macs", "effective_macs", "Error against operations", "multiply-adds with a non-zero weight"),
    ]
    if timings.main is None:
        return counted
    time, file = _costs_of(timings.main, "time", "file", "")
    return [time, *counted, file]


def other_costs(timings: Timings) -> Iterator[Cost]:
    """Yields those of the other runtimes."""
    for number, label in enumerate(other for other in timings.labels if other != timings.main):
        yield from _costs_of(label, f"time-{number}", f"file-{number}", f", {runtime_name(label)}")


def _costs_of(label: str, time: str, file: str, suffix: str) -> tuple[Cost, Cost]:
    name = runtime_name(label)
    return (
        Cost(time, f"{label}_latency_ms", f"Error against measured time{suffix}", f"{name}: median ms per forecast"),
        Cost(file, f"{label}_bytes", f"Error against bytes, as deployed{suffix}", f"{name}: bytes of the file"),
    )


@lru_cache
def _cost_template(series: Legend, title: str, *, logarithmic: bool) -> Spec:
    x = alt.X("x:Q", scale=scale_of("x", logarithmic=True), axis=axis_of("x", title, logarithmic=True, grid=False))
    y_axis = axis_of("y", "test MSE", logarithmic=logarithmic)
    y = alt.Y("y:Q", scale=scale_of("y", logarithmic=logarithmic), axis=y_axis)
    front = alt.Chart(alt.NamedData("front"))
    steps = front.mark_line(interpolate="step-after", color=INK, strokeWidth=1).encode(x=x, y=y)
    named = alt.Chart(alt.NamedData("points")).transform_filter("datum.name != ''")
    right = named.transform_filter("datum.right").mark_text(align="left", dx=6, dy=11, fontSize=9.5)
    left = named.transform_filter("!datum.right").mark_text(align="right", dx=-4, dy=11, fontSize=9.5)
    words = [text.encode(x=x, y=y, text="name:N") for text in (left, right)]
    return template_of(steps, marks_of("points", series).encode(x=x, y=y), *words, names=["x", "y"])


def error_by_cost(name: str, rows: Rows, cost: Cost, looks: Mapping[str, Look]) -> Chart | None:
    """Returns the error of all variants against a cost, on a logarithmic axis, with the Pareto front.

    Args:
        name: file stem.
        rows: the summary of one data set and horizon.
        cost: what to hold it against; rows without it are left out; one alone makes no chart.
        looks: of the methods.
    """
    spots = [(key, row) for key, row in rows.items() if not missing(row.get(cost.column)) and row[cost.column] > 0]
    if len(spots) < 2:
        return None
    cost_N = np.array([row[cost.column] for _, row in spots], dtype=float)
    error_N = np.array([row["test_mse"] for _, row in spots], dtype=float)
    front_N = pareto_front(cost_N, error_N)
    best: dict[str, float] = {}
    all_naive = all(key.role == "naive" for key, _ in spots)
    for (key, _), error in zip(spots, error_N, strict=True):
        if key.role != "naive" or all_naive:
            best[key.model] = min(error, best.get(key.model, np.inf))
    x, y = log_axis(cost_N), error_axis(error_N, FAR * max(best.values()))
    points: Points = []
    for (key, _), at, error, front in zip(spots, cost_N, error_N, front_N, strict=True):
        words = [key.full_name, f"test MSE {error:.4f}", f"{cost.axis}: {_short(at)}"]
        points.append(
            {
                **{"x": float(at), "y": float(error), "series": key.series, "filled": key.role != "pruned"},
                **{"front": bool(front), "right": x.place(at) < 0.5, "name": ""},
                "words": "\n".join([*words, *(["on the front"] if front else [])]),
            }
        )
    _name_front(points, [key for key, _ in spots], x, y)
    above = int((error_N > y.high).sum())
    caption = "Lower left is better; the line is the front of what no other beats in both. Open: not fine-tuned."
    if above:
        caption += f" {above} of {len(spots)} variants lie above the chart."
    on_front = sorted((p for p in points if p["front"]), key=lambda point: point["x"])
    front = [{"x": p["x"], "y": p["y"]} for p in on_front if p["y"] <= y.high]
    if front and len(front) < len(on_front):  # it comes down from above the chart
        front.insert(0, front[0] | {"y": y.high})
    said = ", ".join(f"{p['words'].splitlines()[0]} (MSE {p['y']:.3g} at {_short(p['x'])})" for p in on_front)
    series = tuple((one, looks[one]) for one in dict.fromkeys(point["series"] for point in points))
    template = _cost_template(series, cost.axis, logarithmic=y.logarithmic)
    label = f"Test MSE against {cost.axis}. On the front: {said}."
    data = {"points": [point for point in points if point["y"] <= y.high], "front": front}
    return Chart(name, cost.title, caption, label, template, data, x.params("x") | y.params("y"))


def _name_front(points: Points, keys: Sequence[Variant], x: Axis, y: Axis) -> None:
    """Names the marks of the front, the most accurate first, as far as their names have room below them."""
    taken: list[tuple[float, float, float]] = []
    for point, key in sorted(zip(points, keys, strict=True), key=lambda pair: float(pair[0]["y"])):
        if point["front"] and point["y"] <= y.high:
            words = key.model if key.role == "naive" else key.full_name.removesuffix(", fine-tuned")
            width, across, up = 5.2 * len(words), x.place(point["x"]) * WIDTH, y.place(point["y"]) * HEIGHT
            left = across if point["right"] else across - width
            if up > 18 and not any(left < r and left + width > l and abs(up - at) < 13 for l, r, at in taken):
                taken.append((left, left + width, up))
                point["name"] = words


def _short(value: float) -> str:
    for step, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= step:
            return f"{value / (1e3 if letter == ' k' else step):.3g}{letter}"
    return f"{value:.3g}"


# How far each model can be pruned, and what time that saves.


@lru_cache
def _thresholds_template(series: Legend) -> Spec:
    x_axis = share_axis("no loss is shown up to")
    x_axis.grid = True
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, 1]), axis=x_axis)
    y = alt.Y("row:N", sort=None, axis=_row_axis())
    across = rule_of("rows", PALE, 5).encode(x=alt.X("from:Q"), x2="to:Q", y=y)
    most = alt.Chart(alt.NamedData("rows")).mark_tick(color=PALE, thickness=1.5, size=12).encode(x="most:Q", y=y)
    colour = colour_of(series)
    bought = rule_of("rows", colour, 1.6).encode(x=alt.X("plain:Q"), x2="tuned:Q", y=y)
    flags = alt.Chart(alt.NamedData("points")).mark_text(dx=9, dy=-5, fontSize=9)
    return template_of(
        across, most, bought, marks_of("points", series).encode(x=x, y=y), flags.encode(x=x, y=y, text="flag:N"),
        height=alt.Step(19), width=WIDTH - 70,
    )  # fmt: skip


def _row_axis() -> alt.Axis:
    return alt.Axis(
        title=None, ticks=False, domain=False, grid=False, labelColor=INK, labelFontSize=10.5, labelPadding=9
    )


def _layout(sweeps: Sweeps) -> dict[tuple[str, str], str]:
    """Returns the rows of the pictures: each model and method but controls, with its name."""
    pairs = [pair for pair in sweeps.methods if not sweeps.is_control(pair[1])]
    models = list(dict.fromkeys(model for model, _ in pairs))
    return {pair: f"{pair[0]}, {pair[1]}" for pair in sorted(pairs, key=lambda pair: models.index(pair[0]))}


def thresholds_chart(name: str, sweeps: Sweeps, looks: Mapping[str, Look]) -> Chart | None:
    """Returns up to which sparsity no loss is shown, without and with fine-tuning; None where nothing was pruned."""
    rows: Points = []
    points: Points = []
    said = []
    for (model, method), row in _layout(sweeps).items():
        plain, tuned = (sweeps.fair(model, method, finetuned) for finetuned in (False, True))
        found = [sweep for sweep in (plain, tuned) if sweep is not None]
        main = found[-1]
        reached = [_reached(one.no_loss) for one in sweeps.each(main)]
        shares = [_reached(sweep.no_loss) for sweep in found]
        rows.append(
            {
                **{"row": row, "series": method, "most": main.levels[-1].sparsity},
                **{"from": min(reached), "to": max(reached), "plain": shares[0], "tuned": shares[-1]},
            }
        )
        for sweep, share in zip(found, shares, strict=True):
            flag = SATURATED if sweep.no_loss is not None and sweep.no_loss.saturated else ""
            place = {"row": row, "x": share, "series": method, "filled": sweep.line.finetuned, "flag": flag}
            points.append(place | {"words": _threshold_words(sweep)})
        said.append(f"{model} by {method}: {', fine-tuned '.join(map(percent, shares))}")
    if not rows:
        return None
    title = "How far each model can be pruned"
    caption = (
        "Largest share removed, of each method's own budget, at which and below which no loss of accuracy is shown: "
        "means over data sets and horizons. Open: not fine-tuned, against dense. Filled: fine-tuned, against "
        "dense-continued; the line between them is what fine-tuning buys. Grey bar: range over data sets. Grey tick: "
        f"the most that was tried. {SATURATED}: on some data set no better than a forecast that learned nothing."
    )
    series = tuple((one, looks[one]) for one in dict.fromkeys(row["series"] for row in rows))
    data = {"rows": rows, "points": points}
    label, key = f"{title}. {'; '.join(said)}.", "open: not fine-tuned; filled: fine-tuned; grey: range over data sets"
    return Chart(name, title, caption, label, _thresholds_template(series), data, key=key)


def _reached(level: Level | None) -> float:
    return 0.0 if level is None else level.sparsity


def _threshold_words(sweep: Sweep) -> str:
    line = sweep.line
    tuned = "fine-tuned" if line.finetuned else "not fine-tuned"
    level = sweep.no_loss or sweep.levels[0]
    said = "no loss shown up to" if sweep.no_loss else "a loss is shown, or not ruled out, at"
    head = f"{line.model}, {line.method}, {tuned}\nagainst {line.against}"
    return f"{head}\n{said} {percent(level.sparsity)}: MSE {change(level.ratio)}"


@lru_cache
def _time_template(series: Legend, title: str) -> Spec:
    x = alt.X("x:Q", scale=scale_of("x", logarithmic=True), axis=axis_of("x", title, logarithmic=True, suffix=" ×"))
    y = alt.Y("row:N", sort=None, axis=_row_axis())
    one = alt.Chart(alt.NamedData("one")).mark_rule(color=INK).encode(x=x)
    bars = rule_of("points", colour_of(series), 1.6).encode(x=alt.X("low:Q"), x2="high:Q", y=y, opacity=picked())
    marks = marks_of("points", series).encode(x=x, y=y)
    return template_of(one, bars, marks, names=["x"], height=alt.Step(19), width=WIDTH - 70)


def reached_speedup(sweeps: Sweeps, rows: Rows, model: str, method: str, label: str) -> Interval | None:
    """Returns the speed-up at the sparsity up to which no loss is shown, where one is reached and was timed."""
    sweep = sweeps.best(model, method)
    if sweep is None or sweep.no_loss is None:
        return None
    return mean_speedup([rows[comparison.variant] for comparison in sweep.no_loss.comparisons], label)


def time_chart(name: str, sweeps: Sweeps, rows: Rows, label: str | None, looks: Mapping[str, Look]) -> Chart | None:
    """Returns the speed-up at the sparsity up to which no loss is shown; None where nothing was timed there."""
    points: Points = []
    for (model, method), row in _layout(sweeps).items() if label is not None else ():
        ratio = reached_speedup(sweeps, rows, model, method, label or "")
        if ratio is not None:
            words = f"{model} by {method}: {times(ratio.value)} ({ratio.low:.2f} … {ratio.high:.2f})"
            place = {"row": row, "series": method, "filled": ratio.low > 1 or ratio.high < 1, "words": words}
            points.append(place | {"x": ratio.value, "low": ratio.low, "high": ratio.high})
    if not points or label is None:
        return None
    ends = [point[end] for point in points for end in ("low", "high")]
    axis = log_axis([min(0.9, *ends), max(2.0, *ends)])
    series = tuple((one, looks[one]) for one in dict.fromkeys(point["series"] for point in points))
    title = "What time that saves"
    caption = (
        "Measured against the dense model, timed in turn with it, at the sparsity up to which no loss is shown "
        "(fine-tuned where that was run), with the 95 % interval. Open: the interval includes 1, no speed-up is shown."
    )
    said = f"{title}. {'; '.join(point['words'] for point in points)}."
    template = _time_template(series, f"{runtime_name(label)}: speed-up there")
    data, key = {"points": points, "one": [{"x": 1}]}, "at that sparsity, with the 95 % interval; open: none that shows"
    return Chart(name, title, caption, said, template, data, axis.params("x"), key)


@lru_cache
def _speed_template(series: Legend) -> Spec:
    titles = ("promised by the multiply-adds that are left", "measured")
    x = alt.X(
        "x:Q",
        scale=scale_of("x", logarithmic=True),
        axis=axis_of("x", titles[0], logarithmic=True, suffix=" ×", grid=False),
    )
    y = alt.Y("y:Q", scale=scale_of("y", logarithmic=True), axis=axis_of("y", titles[1], logarithmic=True, suffix=" ×"))
    kept = alt.Chart(alt.NamedData("kept")).mark_line(strokeDash=[2, 3], strokeWidth=1, color=MUTED)
    none = alt.Chart(alt.NamedData("none")).mark_rule(color=INK).encode(y=y)
    bars = rule_of("points", colour_of(series)).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", opacity=picked())
    return template_of(kept.encode(x=x, y=y), none, bars, marks_of("points", series).encode(x=x, y=y), names=["x", "y"])


def speed_chart(
    name: str, title: str, found: Sequence[Speed], label: str, *, looks: Mapping[str, Look], by_model: bool = False
) -> Chart | None:
    """Returns measured speed-ups against promised ones, both logarithmic; None where nothing was timed.

    Args:
        name: file stem.
        title: of the chart.
        found: what was timed.
        label: of the runtime.
        looks: of the methods, or of the models where `by_model`.
        by_model: give each model its mark instead of each method.
    """
    points: Points = []
    for speed in found:
        if label in speed.measured:
            ratio = speed.measured[label]
            measured = f"measured {times(ratio.value)} ({ratio.low:.2f} … {ratio.high:.2f})"
            words = f"{speed.model} {speed.method} {percent(speed.sparsity_requested)}: {measured}"
            words += f", promised {times(speed.promised)}"
            place = {"x": speed.promised, "y": ratio.value, "low": ratio.low, "high": ratio.high, "words": words}
            series_name = speed.model if by_model else speed.method
            points.append(place | {"series": series_name, "filled": ratio.low > 1 or ratio.high < 1})
    if not points:
        return None
    highest = max(2.0, *(point[end] for point in points for end in ("x", "high")))
    x, y = log_axis([1.0, highest]), log_axis([min(1.0, *(point["low"] for point in points)), highest])
    series = tuple((one, looks[one]) for one in dict.fromkeys(point["series"] for point in points))
    caption = (
        f"{runtime_name(label)}, against the dense model timed in turn; geometric means over data sets and horizons. "
        "On the slanted line a runtime keeps the promise; on the level one nothing is saved. "
        "Open: the interval includes 1."
    )
    ends = (max(x.low, y.low), min(x.high, y.high))
    data = {"points": points, "none": [{"y": 1}], "kept": [{"x": end, "y": end} for end in ends]}
    said = f"{title}. {'; '.join(point['words'] for point in points)}."
    return Chart(name, title, caption, said, _speed_template(series), data, x.params("x") | y.params("y"))


# Ranks.


@lru_cache
def _rank_template(count: int) -> Spec:
    axis = alt.Axis(title=None, orient="top", values=list(range(1, count + 1)), format="d", gridColor=GRID)
    x = alt.X("x:Q", scale=alt.Scale(domainMin=1, domainMax=alt.ExprRef("x_high"), nice=False), axis=axis)
    y = alt.Y("row:N", sort=None, axis=_row_axis())
    ranks = alt.Chart(alt.NamedData("ranks"))
    stems = ranks.mark_rule(color=PALE).encode(x="best:Q", x2="x:Q", y=y)
    spots = ranks.mark_point(filled=True, color=INK, size=60).encode(x=x, y=y, tooltip="words:N")
    bars = alt.Chart(alt.NamedData("groups")).mark_rule(color=INK, strokeWidth=4).encode(x=x, y="first:N", y2="last:N")
    return template_of(stems, spots, bars, names=["x"], height=alt.Step(20), width=WIDTH - 70)


def rank_chart(name: str, title: str, ranked: Ranked) -> Chart:
    """Returns a critical-difference diagram: a row for each treatment, the best on top, bars join what is alike."""
    found = ranked.ranking
    places = list(zip(found.names, found.ranks, strict=True))
    ranks = [{"row": one, "x": rank, "best": 1, "words": f"{one}: mean rank {rank:.2f}"} for one, rank in places]
    step = 0.05 * (len(found.names) - 1)
    groups = [
        {"x": len(found.names) + step * (number + 1), "first": found.names[first], "last": found.names[last]}
        for number, (first, last) in enumerate(found.groups)
    ]
    caption = f"{rank_caption(ranked)} Critical difference: {found.critical_difference:.2f}."
    label = f"{title}. Mean ranks: {', '.join(f'{one} {rank:.2f}' for one, rank in places)}."
    data = {"ranks": ranks, "groups": groups}
    high = {"x_high": len(found.names) + step * (len(groups) + 0.5)}
    return Chart(name, title, caption, label, _rank_template(len(found.names)), data, high)


# Forecasts beside the truth.

_ROLE_LINES: Mapping[str, tuple[str, list[int]]] = {
    "dense": (INK, [1, 0]),
    "pruned+finetuned": ("#0072b2", [1, 0]),
    "pruned": ("#d55e00", [4, 3]),
    "naive": ("#00805e", [1, 3]),
}


@lru_cache
def _forecast_template(names: tuple[str, ...], roles: tuple[str, ...], titles: tuple[str, str]) -> Spec:
    x = alt.X("x:Q", axis=alt.Axis(title=titles[0], grid=False, tickCount=6), scale=alt.Scale(nice=False))
    y = alt.Y("y:Q", axis=alt.Axis(title=titles[1], tickCount=5), scale=alt.Scale(zero=False))
    looks = [("#cbd2d9", [1, 0]), *(_ROLE_LINES[role] for role in roles)]
    colour = alt.Scale(domain=list(names), range=[look for look, _ in looks])
    dash = alt.Scale(domain=list(names), range=[dashes for _, dashes in looks])
    lines = alt.Chart(alt.NamedData("lines")).mark_line()
    drawn = lines.encode(
        x=x,
        y=y,
        color=alt.Color("series:N", scale=colour, legend=alt.Legend(columns=2, labelLimit=200)),
        strokeDash=alt.StrokeDash("series:N", scale=dash),
        strokeWidth=alt.when("datum.series == 'truth'").then(alt.value(4.5)).otherwise(alt.value(1.6)),
        tooltip="series:N",
        opacity=picked(),
    ).add_params(PICK)
    now = alt.Chart(alt.NamedData("now")).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x="x:Q")
    return template_of(now, drawn, height=150)


def forecast_chart(name: str, model: str, said: Sequence[tuple[str, str, Forecast]]) -> Chart:
    """Returns one test window: what was known, what came, and what the models said.

    Args:
        name: file stem.
        model: whose forecasts these are, for the title.
        said: label, role and forecast of each, all of one channel and window.
    """
    first = said[0][2]
    steps = min(len(first.history), len(first.truth))
    truth = [*first.history[-steps:], *first.truth]
    lines = [{"x": step - steps, "y": float(f"{y:.6g}"), "series": "truth"} for step, y in enumerate(truth)]
    for label, _, one in said:
        lines += [{"x": step, "y": float(f"{y:.6g}"), "series": label} for step, y in enumerate(one.forecast)]
    start = str(pd.Timestamp(first.start)).removesuffix(":00")
    titles = (f"steps from {start}, the start of the forecast", f"{first.channel} (raw units)")
    title = f"{model} on {first.channel}, test window {first.window}"
    names = tuple(label for label, _, _ in said)
    template = _forecast_template(("truth", *names), tuple(role for _, role, _ in said), titles)
    caption = "Left of the dotted line is what the models saw. Dashed: pruned and not fine-tuned."
    label = f"{title}: the truth and the forecasts of {', '.join(names)}."
    return Chart(name, title, caption, label, template, {"lines": lines, "now": [{"x": 0}]})


# Fronts: the one chart in which a reader picks what it shows.


def fronts_chart(
    rows: Rows, offered: Sequence[Cost], looks: Mapping[str, Look], pages: Mapping[Case | str, str]
) -> Chart:
    """Returns the chart of error against any cost, on one data set or over all, with the front of what is picked.

    Args:
        rows: the summary.
        offered: costs; those that no variant has are left out.
        looks: of the series.
        pages: where a case, and a model, is shown.
    """
    known = [cost for cost in offered if any(not missing(row.get(cost.column)) for row in rows.values())]
    points = front_points(rows, [cost.column for cost in known], pages)
    cases = list(dict.fromkeys(point["where"] for point in points))
    titles = [cost.title.removeprefix("Error against ") for cost in known]
    series = tuple((one, looks[one]) for one in dict.fromkeys(point["series"] for point in points))
    models = [{"model": model} for model in dict.fromkeys(point["model"] for point in points)]
    template = _fronts_template(series, tuple(cases), tuple(titles), len(models))
    caption = (
        "Lower left is better; the line is the front of what no other shown variant beats in both. Open: not "
        "fine-tuned. Triangles at the upper edge: further up. A click picks a model, or a series in the legend; shift "
        "adds another."
    )
    label = f"Error against cost: {', '.join(titles)}; the table below has what is on the front."
    data = {"points": points, "models": models}
    chosen = cases[0] if len(cases) == 2 else EVERYWHERE
    return Chart("front", "Error against cost", caption, label, template, data, {"place": chosen})


def _fronts_template(series: Legend, cases: tuple[str, ...], titles: tuple[str, ...], models: int) -> Spec:
    """Returns the live chart: two menus and a filter, a legend and a list of models to pick from, and the front."""
    menus = [
        alt.param("place", value=cases[-1], bind=alt.binding_select(options=list(cases), name="Data set ")),
        alt.param("cost", value=titles[0], bind=alt.binding_select(options=list(titles), name="Cost ")),
        alt.param("tuning", value="both", bind=alt.binding_select(options=["both", PLAIN, TUNED], name="Fine-tuning ")),
        alt.param("titles", value=list(titles)),
    ]
    picked_models = alt.selection_point(name="models", fields=["model"])
    x = alt.X("cost:Q", scale=alt.Scale(type="log", nice=False, padding=12), axis=short_axis("cost"))
    y = alt.Y("shown:Q", scale=alt.Scale(type="log", nice=False, padding=12), axis=short_axis("test MSE"))
    base = (
        alt.Chart(alt.NamedData("points"))
        .transform_filter("datum.where == place")
        .transform_filter("tuning == 'both' || datum.tuning == 'neither' || datum.tuning == tuning")
        .transform_filter(picked_models)
        .transform_filter(PICK)
        .transform_calculate(cost="datum['c' + indexof(titles, cost)]")
        .transform_filter("isValid(datum.cost) && isValid(datum.error)")
        .transform_joinaggregate(most="max(cases)", best="min(error)")
        .transform_calculate(
            shown="min(datum.error, 4 * datum.best)",
            above="datum.error > 4 * datum.best",
            words="datum.label + '\\nerror ' + format(datum.error, '.4~g') + '\\ncost ' + format(datum.cost, '.3~s')",
        )
    )
    front = (
        base.transform_filter("datum.cases == datum.most")  # the others were not tried everywhere
        .transform_window(
            least="min(error)",
            frame=[None, 0],
            sort=[alt.SortField("cost"), alt.SortField("error")],
        )
        .transform_window(before="lag(least)", sort=[alt.SortField("cost"), alt.SortField("error")])
        .transform_filter("!isValid(datum.before) || datum.error < datum.before")
    )
    steps = (
        front.mark_line(interpolate="step-after", color=INK, strokeWidth=1).encode(x=x, y=y).properties(name="front")
    )
    every = _front_marks(base, series, x, y)
    arrows = base.transform_filter("datum.above").mark_point(shape="triangle-up", size=40, filled=True)
    further = arrows.encode(x=x, y=alt.value(0), color=colour_of(series), tooltip="words:N")
    plot = alt.layer(steps, every, further).properties(width=WIDTH + 40, height=320)
    names = (
        alt.Chart(alt.NamedData("models"))
        .mark_text(align="left", fontSize=11, cursor="pointer")
        .encode(
            y=alt.Y("model:N", sort=None, axis=None),
            x=alt.value(0),
            text="model:N",
            color=alt.value(INK),
            opacity=alt.when(picked_models).then(alt.value(1)).otherwise(alt.value(0.35)),
        )
        .properties(width=140, height=15 * models, title=alt.Title("Models", fontSize=11, fontWeight="normal"))
        .add_params(picked_models)
    )
    spec: Spec = alt.vconcat(plot, names).add_params(*menus).to_dict(validate=False)
    marks = spec["vconcat"][0]["layer"][1]["name"]
    spec["params"] = [one | {"views": [marks]} if one["name"] == PICK.name else one for one in spec["params"]]
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def _front_marks(base: alt.Chart, series: Legend, x: alt.X, y: alt.Y) -> alt.Chart:
    """Returns the marks of the fronts; the legend's selection lies here, and filters all layers."""
    drawn = marks_of("points", series).encode(x=x, y=y)
    drawn.transform = [*base.transform, *drawn.transform]
    return drawn.transform_filter("!datum.above")

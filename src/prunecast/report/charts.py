"""The charts of a report: what each is made of, and the Altair template that draws every chart of its kind.

A template is built once for each set of series; a chart is its template with data and a few numbers (`Chart.spec`). The
first page's charts are drawn by vl-convert; the others are drawn by the browser when their page is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from prunecast.recipe import NO_RECOVERY
from prunecast.report.compare import Case, Compared, Variant
from prunecast.report.context import Context
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
    SHORT_NUMBER,
    WIDTH,
    Axis,
    Chart,
    Legend,
    Look,
    Points,
    Spec,
    colour_of,
    error_axis,
    legend_of,
    log_axis,
    marks_of,
    missing,
    numbers,
    percent,
    picked,
    row_y,
    rows_of,
    rules_of,
    runtime_name,
    share_x,
    signed_percent,
    spec_of,
    spread_out,
    template_of,
    three_digits,
    times,
)
from prunecast.report.summary import EVERYWHERE, PLAIN, TUNED, Rows, Speed, Timings, front_points
from prunecast.report.thresholds import Line, Sweep, pooled
from prunecast.study.frame import Forecast, StageRow

CLOSE = 1.15
"""A close-up ends at this many times the smallest error."""

HIGHEST_RATIO = 2.5
"""Charts of error ratios end there, so that what matters is seen."""

FAR = 1.6
"""A cost chart ends at this many times the best error of the worst model; its caption says how many lie above."""

# Curves: error against sparsity.


@lru_cache
def _curves_template(series: Legend, titles: tuple[str, str], suffix: str, *, logarithmic: bool) -> Spec:
    x, y = share_x(titles[0]), numbers("y", titles[1], logarithmic=logarithmic, suffix=suffix)
    tuning = alt.Scale(domain=[PLAIN, TUNED], range=[[5, 4], [1, 0]])
    dashes = alt.StrokeDash("tuning:N", scale=tuning, legend=alt.Legend(symbolType="stroke"))
    lines = rules_of("lines", series, 1.8).encode(x=x, y=y, x2="x2:Q", y2="y2:Q", strokeDash=dashes)
    bars = rules_of("bars", series).encode(x=x, y="low:Q", y2="high:Q")
    marks = marks_of("points", series).encode(x=x, y=y)
    controls = rows_of("controls").encode(color=alt.Color("colour:N", scale=None))
    levels = controls.mark_rule(strokeWidth=0.9).encode(y=y)
    names = controls.mark_text(align="left", dx=6).encode(x=alt.value(WIDTH), y="label_y:Q", text="name:N")
    return template_of(levels, names, bars, lines, marks)


class _Point(NamedTuple):
    """A point of a curve with the ends of its bar, and what is said at its mark; nothing where a line only starts."""

    x: float
    y: float
    low: float
    high: float
    words: str = ""


class _Curve(NamedTuple):
    """A line of a series, with or without fine-tuning; a single mark is a line of one point."""

    series: str
    tuning: str
    points: Sequence[_Point]


def _curves_data(curves: Iterable[_Curve], axis: Axis) -> dict[str, Points]:
    """Returns marks, bars and lines, cut off where the axis ends."""
    data: dict[str, Points] = {"points": [], "bars": [], "lines": []}
    for curve in curves:
        look = {"series": curve.series, "tuning": curve.tuning}
        for start, end in pairwise(curve.points):
            if min(start.y, end.y) <= axis.high:
                (x, y), (x2, y2) = _cut(start, end, axis), _cut(end, start, axis)
                data["lines"].append(look | {"x": x, "y": y, "x2": x2, "y2": y2})
        for point in curve.points:
            high = min(point.high, axis.high)
            if point.words and point.y <= axis.high:
                place = {"x": point.x, "y": point.y, "words": point.words}
                data["points"].append(look | place | {"filled": curve.tuning == TUNED})
            if point.words and point.low < high:
                data["bars"].append(look | {"x": point.x, "low": point.low, "high": high})
    return data


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

    `rows` are of one data set and horizon. A close-up (`close`) has the errors near the dense model's alone; None where
    that would show nothing new.
    """
    own = {key: row for key, row in rows.items() if key.model == model}
    curves = _curves(own)
    if not curves:
        return None
    small = [_curve_point(key, row) for key, row in own.items() if key.role == "small-dense"]
    every = [*curves, *(_Curve("small dense", TUNED, [point]) for point in small)]
    controls = _controls(rows, model)
    ends = [end for curve in every for point in curve.points for end in (point.low, point.high)]
    levels = [control["y"] for control in controls]
    ceiling = CLOSE * min(point.y for curve in curves for point in curve.points) if close else inf
    if close and max(ends + levels) <= ceiling:
        return None
    axis = error_axis(ends if close else ends + levels, ceiling)
    series = legend_of((curve.series for curve in every), looks)
    template = _curves_template(
        series, ("sparsity: parameters that are gone", "test MSE"), "", logarithmic=axis.logarithmic
    )
    said = [
        f"{curve.series}{', fine-tuned' if curve.tuning == TUNED else ''}: {three_digits(curve.points[0].y)} "
        f"rising to {three_digits(curve.points[-1].y)}"
        for curve in curves
    ]
    caption = (
        "The same, close up: lines that leave at the top lose more than a tenth."
        if close
        else "Dashed with open marks: pruned only. Solid with filled marks: fine-tuned afterwards; such a line starts "
        "at the dense model trained on for as long, and what stays level with it was free. Level lines are controls; "
        "bars are one standard deviation over seeds."
        + (" Triangles: dense models of the pruned size, trained from scratch." if small else "")
    )
    title = f"{model}: near the dense model" if close else f"{model}: error against sparsity"
    label = f"Test MSE of {model} as sparsity grows. {'; '.join(said)}."
    data = _curves_data(every, axis) | {"controls": _named_apart(controls, axis)}
    return Chart(name, title, caption, label, template, data, axis.params("y"))


def _curves(own: Rows) -> list[_Curve]:
    """Returns a model's line for each method with and without fine-tuning; it starts at the model it came from."""
    origins = {key.role: _curve_point(key, row) for key, row in own.items()}
    found: dict[tuple[str, str], list[_Point]] = {}
    for key, row in own.items():
        if key.pruned and not missing(row.get("sparsity_realised")):
            start = origins.get("dense-continued" if key.finetuned else "dense")
            line = found.setdefault((key.series, TUNED if key.finetuned else PLAIN), [start] if start else [])
            line.append(_curve_point(key, row))
    return [_Curve(*name, sorted(line, key=lambda point: point.x)) for name, line in found.items()]


def _curve_point(key: Variant, row: StageRow) -> _Point:
    """Returns where a variant lies; the dense models, at which lines start, have their names beside the chart."""
    error = float(row["test_mse"])
    sparsity, spread = (0.0 if missing(row.get(of)) else float(row[of]) for of in ("sparsity_realised", "test_mse_sd"))
    words = [key.full_name, f"test MSE {error:.4f}", f"sparsity {percent(round(sparsity, 3))}"]
    if not missing(row.get("vs_dense")):
        words.append(f"against dense {row['vs_dense']:+.4f}: {row['vs_dense_verdict']}")
    if isinstance(row.get("saturated"), str) and row["saturated"]:
        words.append(f"saturated: not better than {row['saturated']}")
    said = "" if key.role in ("dense", "dense-continued") else "\n".join(words)
    return _Point(round(sparsity, 5), error, max(error - spread, error / 10), error + spread, said)


def _controls(rows: Rows, model: str) -> Points:
    """Returns what a pruned model must beat, or must not lose, as level lines."""
    found: Points = []
    for key, row in rows.items():
        own, error = key.model == model, float(row["test_mse"])
        if own and key.role in ("dense", "dense-continued", "zeroed-body"):
            shade = MUTED if key.role == "zeroed-body" else INK
            found.append({"y": error, "name": f"{key.name} {error:.3g}", "colour": shade})
        elif key.role == "naive" or (not own and key.role == "dense" and key.model == "DLinear"):
            found.append({"y": error, "name": f"{key.model} {error:.3g}", "colour": MUTED})
    return found


def _named_apart(controls: Points, axis: Axis) -> Points:
    """Returns the level lines that the axis holds, with names far enough apart to be read."""
    seen = [control for control in controls if axis.low <= control["y"] <= axis.high]
    places = spread_out([axis.place(control["y"]) for control in seen], 12.5 / HEIGHT)
    return [control | {"label_y": axis.at(place)} for control, place in zip(seen, places, strict=True)]


def ratio_curves(
    context: Context, name: str, title: str, pairs: Iterable[tuple[str, str]], *, by_model: bool = False
) -> Chart | None:
    """Returns error ratios over all data sets against sparsity, with their intervals; None without any line.

    Each pair of a model and a method has a line with and one without fine-tuning. Each method has its own mark, or each
    model (`by_model`).
    """
    curves, said = [], []
    for model, method in pairs:
        for tuned in (False, True):
            sweep = context.sweeps.pooled(Line(model, method, tuned, "dense"))
            if sweep is not None:
                series, how = model if by_model else method, ", fine-tuned" if tuned else ""
                origin = _continued_ratio(context.mse, sweep) if tuned else 1.0
                line = [_Point(0, origin, origin, origin)]
                for level in sweep.levels:
                    ratio, words = level.ratio, f"{series} {percent(level.sparsity)}{how}"
                    place = (level.sparsity, ratio.value, ratio.low, ratio.high)
                    line.append(_Point(*place, f"{words}\nMSE {change(ratio)}"))
                curves.append(_Curve(series, TUNED if tuned else PLAIN, line))
                said.append(f"{words}: MSE {signed_percent(ratio.value - 1)}")
    if not curves:
        return None
    ends = [end for curve in curves for point in curve.points for end in (point.y, point.low, point.high)]
    axis = error_axis([1.0, *ends], HIGHEST_RATIO)
    caption = (
        "Test MSE over the dense model's, the geometric mean over data sets and horizons, with its 95 % interval. "
        "Dashed: pruned only. Solid: fine-tuned; such a line starts at the dense model trained on for as long."
    )
    titles = ("removed, of the method's own budget", "error, dense = 1")
    looks = context.model_looks if by_model else context.looks
    series_looks = legend_of((curve.series for curve in curves), looks)
    template = _curves_template(series_looks, titles, " ×", logarithmic=axis.logarithmic)
    data = _curves_data(curves, axis) | {"controls": [{"y": 1, "label_y": 1, "name": "dense", "colour": INK}]}
    return Chart(name, title, caption, f"{title}. {'; '.join(said)}.", template, data, axis.params("y"))


def _continued_ratio(compared: Compared, sweep: Sweep) -> float:
    """Returns the error of the dense models trained on, over the dense ones', in the cases of a sweep."""
    of_model = (c for c in compared.every if (c.variant.role, c.variant.model) == ("dense-continued", sweep.line.model))
    own = {comparison.variant.case: comparison for comparison in of_model if comparison.against == "dense"}
    found = [own[case] for case in sweep.cases if case in own]
    return pooled(found).value if len(found) == len(sweep.cases) else 1.0


# Ways to prune beside each other, over all models.

_BEST, _BEST_COLOUR = ("structured", "unstructured"), "#00805e"
"""Methods that are named for being the best of their kind, and what they are drawn in."""

_BUDGETS: Mapping[str, tuple[str, str]] = {
    "multiply-adds": ("operations", "Units cut out, no training afterwards"),
    "weights": ("weights", "Single weights removed, no training afterwards"),
}
"""What a share is of -> how it is called in the chart, and the chart's title."""


@lru_cache
def _ways_template(of: str) -> Spec:
    colour = alt.Color("colour:N", scale=None)
    x, y = share_x(f"{of} removed"), numbers(f"y_{of}", "test MSE against dense", logarithmic=False, suffix=" %")
    zero = rows_of(f"dense_{of}").mark_rule(color=INK, strokeWidth=0.9).encode(x=x, x2="end:Q", y=y)
    single = rows_of(f"single_{of}").mark_circle(size=15, opacity=0.4).encode(x=x, y=y, color=colour, tooltip="words:N")
    lines = rows_of(f"mean_{of}").encode(x=x, y=y, color=colour, detail="series:N")
    bare = lines.transform_filter("datum.look == 'bare'").mark_line(strokeWidth=1.6, strokeDash=[5, 4])
    repaired = lines.transform_filter("datum.look == 'repaired'").mark_line(strokeWidth=1.6)
    best = lines.transform_filter("datum.look == 'best'").mark_line(strokeWidth=4)
    names = rows_of(f"end_{of}").encode(x=x, y=y, color=colour, text="name:N")
    light = names.transform_filter("datum.look != 'best'").mark_text(align="left", dx=9)
    heavy = names.transform_filter("datum.look == 'best'").mark_text(align="left", dx=9, fontSize=12, fontWeight="bold")
    return template_of(zero, single, bare, repaired, best, light, heavy)


def ways_charts(context: Context) -> list[Chart]:
    """Returns how errors grow with what is removed, by each way to prune without training; a chart for each budget.

    A way is a method with its recovery. A budget that fewer than three ways share has no chart, nor has a single model.
    """
    found: dict[str, dict[str, dict[float, dict[str, float]]]] = {}
    for line in context.sweeps.lines:
        sweep = context.sweeps.pooled(line)
        if sweep is not None and not line.finetuned and line.against == "dense":
            own = found.setdefault(context.budgets.get(line.method, ""), {}).setdefault(line.method, {})
            for level in sweep.levels:
                own.setdefault(level.sparsity, {})[line.model] = level.ratio.value
    models = {model for ways in found.values() for way in ways.values() for of in way.values() for model in of}
    charted = [budget for budget in _BUDGETS if len(found.get(budget, {})) > 2 and len(models) > 1]
    return [_ways_chart(context, budget, found[budget]) for budget in charted]


def _ways_chart(context: Context, budget: str, ways: Mapping[str, Mapping[float, Mapping[str, float]]]) -> Chart:
    """Returns the chart of one budget: ratios of errors by way, share and model."""
    of, title = _BUDGETS[budget]
    recoveries = {
        variant.method: next(iter(runs.values())).get("recovery") for variant, runs in context.study.runs.items()
    }
    means = {
        way: {share: float(np.exp(np.mean(np.log([*own.values()])))) - 1 for share, own in sorted(levels.items())}
        for way, levels in ways.items()
    }
    every = [100 * mean for own in means.values() for mean in own.values()]
    axis = Axis(min(0.0, *every) - 4, 1.12 * max(1.0, *every), logarithmic=False)
    places = spread_out([axis.place(100 * own[max(own)]) for own in means.values()], 13.5 / HEIGHT)
    most = max(share for levels in ways.values() for share in levels)
    data: dict[str, Points] = {"dense": [{"x": 0.0, "end": most, "y": 0.0}], "single": [], "mean": [], "end": []}
    beyond = 0
    for (way, levels), place in zip(ways.items(), places, strict=True):
        repaired = recoveries[way] not in (None, NO_RECOVERY)
        look = context.looks.get(way.split(" + ")[0], context.looks[way])  # repair changes the line, not the colour
        series = {"series": way, "look": "best" if way in _BEST else "repaired" if repaired else "bare"}
        series["colour"] = _BEST_COLOUR if way in _BEST else look.colour
        data["mean"] += [series | {"x": x, "y": 100 * mean} for x, mean in {0.0: 0.0, **means[way]}.items()]
        last = max(levels)
        at = "" if last == most else f" at {percent(last)}"
        name = f"{way} {signed_percent(means[way][last])}{at}"
        # all names stand at the right edge: beside the end of a shorter line they would lie on the longer ones
        data["end"].append(series | {"x": most, "y": axis.at(place), "name": name})
        for share, model, ratio in ((share, *one) for share, own in levels.items() for one in own.items()):
            words = f"{model}, {way} {percent(share)}\nMSE {signed_percent(ratio - 1)}"
            if axis.low <= 100 * (ratio - 1) <= axis.high:
                data["single"].append(series | {"x": share, "y": 100 * (ratio - 1), "words": words})
            else:
                beyond += 1
    outside = f" ({beyond} lie outside)" if beyond else ""
    caption = (
        f"Test MSE against the dense model's. Lines: geometric mean over {len(context.models)} models; dots: single "
        f"models{outside}. Dashed: left as it is; solid: repaired, without training."
    )
    own = {
        f"{kind}_{of}": [{f"y_{of}" if key == "y" else key: value for key, value in row.items()} for row in rows]
        for kind, rows in data.items()
    }
    label = f"{title}. {'; '.join(row['name'] for row in data['end'])}."
    key = "lines: mean over models; dots: single models; dashed: left as it is; solid: repaired"
    return Chart(f"ways-{of}", title, caption, label, _ways_template(of), own, axis.params(f"y_{of}"), key=key)


# Error against cost.


class CostAxis(NamedTuple):
    """What an error may be held against: a short name for files, a column of the summary, and titles."""

    name: str
    column: str
    title: str
    axis: str


def costs(timings: Timings) -> list[CostAxis]:
    """Returns the costs that a study may have measured, of its main runtime."""
    counted = [
        CostAxis("zip", "zip_bytes", "Error against bytes, zipped", "bytes of the weights, zip-compressed"),
        CostAxis("macs", "effective_macs", "Error against operations", "multiply-adds with a non-zero weight"),
    ]
    if timings.main is None:
        return counted
    time, file = _costs_of(timings.main)
    return [time, *counted, file]


def _costs_of(label: str, number: str = "", of: str = "") -> tuple[CostAxis, CostAxis]:
    time, file = f"{runtime_name(label)}: median ms per forecast", f"{runtime_name(label)}: bytes of the file"
    return (
        CostAxis(f"time{number}", f"{label}_latency_ms", f"Error against measured time{of}", time),
        CostAxis(f"file{number}", f"{label}_bytes", f"Error against bytes, as deployed{of}", file),
    )


@lru_cache
def _cost_template(series: Legend, title: str, *, logarithmic: bool) -> Spec:
    x = numbers("x", title, logarithmic=True, grid=False)
    y = numbers("y", "test MSE", logarithmic=logarithmic)
    steps = rows_of("front").mark_line(interpolate="step-after", color=INK, strokeWidth=1).encode(x=x, y=y)
    named = rows_of("points").transform_filter("datum.name != ''").encode(x=x, y=y, text="name:N")
    right = named.transform_filter("datum.right").mark_text(align="left", dx=6, dy=11, fontSize=9.5)
    left = named.transform_filter("!datum.right").mark_text(align="right", dx=-4, dy=11, fontSize=9.5)
    return template_of(steps, marks_of("points", series).encode(x=x, y=y), left, right)


def error_by_cost(name: str, rows: Rows, cost: CostAxis, looks: Mapping[str, Look]) -> Chart | None:
    """Returns the error of the variants of one data set and horizon against a cost, with the Pareto front.

    Variants whose cost is not known are left out; one alone makes no chart.
    """
    spots = {key: row for key, row in rows.items() if not missing(row.get(cost.column)) and row[cost.column] > 0}
    if len(spots) < 2:
        return None
    cost_N, error_N = (np.array([row[of] for row in spots.values()], dtype=float) for of in (cost.column, "test_mse"))
    by_model: dict[str, list[float]] = {}
    for key in [key for key in spots if key.role != "naive"] or spots:
        by_model.setdefault(key.model, []).append(float(spots[key]["test_mse"]))
    x, y = log_axis(cost_N), error_axis(error_N, FAR * max(map(min, by_model.values())))
    points: Points = []
    for key, at, error, front in zip(spots, cost_N, error_N, pareto_front(cost_N, error_N), strict=True):
        words = [key.full_name, f"test MSE {error:.4f}", f"{cost.axis}: {_short(at)}"]
        words += ["on the front"] if front else []
        place = {"x": float(at), "y": float(error), "right": x.place(at) < 0.5, "front": bool(front), "name": ""}
        points.append(place | {"series": key.series, "filled": key.role != "pruned", "words": "\n".join(words)})
    _name_front(points, list(spots), x, y)
    above = int((error_N > y.high).sum())
    caption = "Lower left is better; the line is the front of what no other beats in both. Open: not fine-tuned."
    if above:
        caption += f" {above} of {len(spots)} variants lie above the chart."
    on_front = sorted((p for p in points if p["front"]), key=lambda point: point["x"])
    line = [{"x": p["x"], "y": p["y"]} for p in on_front if p["y"] <= y.high]
    if line and len(line) < len(on_front):  # it comes down from above the chart
        line.insert(0, line[0] | {"y": y.high})
    said = ", ".join(f"{p['words'].splitlines()[0]} (MSE {p['y']:.3g} at {_short(p['x'])})" for p in on_front)
    label = f"Test MSE against {cost.axis}. On the front: {said}."
    template = _cost_template(legend_of((one["series"] for one in points), looks), cost.axis, logarithmic=y.logarithmic)
    data = {"points": [point for point in points if point["y"] <= y.high], "front": line}
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
    for step, unit, letter in ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= step:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


# How far each model can be pruned, and what time that saves.


@lru_cache
def _thresholds_template(series: Legend) -> Spec:
    x, y = share_x("no loss is shown up to", grid=True), row_y()
    rows = rows_of("rows").encode(y=y)
    across = rows.mark_rule(color=PALE, strokeWidth=5).encode(x="from:Q", x2="to:Q")
    most = rows.mark_tick(color=PALE, thickness=1.5, size=12).encode(x="most:Q")
    bought = rows.mark_rule(strokeWidth=1.6).encode(x="plain:Q", x2="tuned:Q", color=colour_of(series))
    flags = rows_of("points").mark_text(dx=9, dy=-5, fontSize=9).encode(x=x, y=y, text="flag:N")
    marks = marks_of("points", series).encode(x=x, y=y)
    return template_of(across, most, bought, marks, flags, height=alt.Step(19), width=WIDTH - 70)


def _pictured(context: Context) -> list[tuple[str, str]]:
    """Returns the rows of the pictures: each model and method but controls, the methods of a model together."""
    pairs = [pair for pair in context.sweeps.methods if not context.sweeps.is_control(pair[1])]
    models = list(dict.fromkeys(model for model, _ in pairs))
    return sorted(pairs, key=lambda pair: models.index(pair[0]))


def thresholds_chart(context: Context, name: str) -> Chart | None:
    """Returns up to which sparsity no loss is shown, without and with fine-tuning; None where nothing was pruned."""
    data: dict[str, Points] = {"rows": [], "points": []}
    said = []
    for model, method in _pictured(context):
        row = {"row": f"{model}, {method}", "series": method}
        found = [sweep for tuned in (False, True) if (sweep := context.sweeps.fair(model, method, tuned)) is not None]
        shares = [_reached(sweep) for sweep in found]
        single = [_reached(one) for one in context.sweeps.each(found[-1])]
        ends = {"from": min(single), "to": max(single), "most": found[-1].levels[-1].sparsity}
        data["rows"].append(row | ends | {"plain": shares[0], "tuned": shares[-1]})
        for sweep, share in zip(found, shares, strict=True):
            tuned, level = sweep.line.finetuned, sweep.no_loss or sweep.levels[0]
            flag = SATURATED if sweep.no_loss and sweep.no_loss.saturated else ""
            said_of = "no loss shown up to" if sweep.no_loss else "a loss is shown, or not ruled out, at"
            words = f"{model}, {method}, {'fine-tuned' if tuned else 'not fine-tuned'}\nagainst {sweep.line.against}\n"
            words += f"{said_of} {percent(level.sparsity)}: MSE {change(level.ratio)}"
            data["points"].append(row | {"x": share, "filled": tuned, "flag": flag, "words": words})
        said.append(f"{model} by {method}: {', fine-tuned '.join(map(percent, shares))}")
    if not said:
        return None
    title = "How far each model can be pruned"
    caption = (
        "Largest share removed, of each method's own budget, at which and below which no loss of accuracy is shown: "
        "means over data sets and horizons. Open: not fine-tuned, against dense. Filled: fine-tuned, against "
        "dense-continued; the line between them is what fine-tuning buys. Grey bar: range over data sets. Grey tick: "
        f"the most that was tried. {SATURATED}: on some data set no better than a forecast that learned nothing."
    )
    template = _thresholds_template(legend_of((one["series"] for one in data["rows"]), context.looks))
    label, key = f"{title}. {'; '.join(said)}.", "open: not fine-tuned; filled: fine-tuned; grey: range over data sets"
    return Chart(name, title, caption, label, template, data, key=key)


def _reached(sweep: Sweep) -> float:
    return 0.0 if sweep.no_loss is None else sweep.no_loss.sparsity


@lru_cache
def _time_template(series: Legend, title: str) -> Spec:
    x, y = numbers("x", title, logarithmic=True, suffix=" ×"), row_y()
    one = rows_of("one").mark_rule(color=INK).encode(x=x)
    bars = rules_of("ratios", series, 1.6).encode(x="low:Q", x2="high:Q", y=y)
    marks = marks_of("ratios", series).encode(x=x, y=y)
    return template_of(one, bars, marks, height=alt.Step(19), width=WIDTH - 70)


def time_chart(context: Context, name: str) -> Chart | None:
    """Returns the speed-up at the sparsity up to which no loss is shown; None where nothing was timed there."""
    points: Points = []
    for model, method in _pictured(context):
        ratio = context.reached_speedup(model, method)
        if ratio is not None:
            words = f"{model} by {method}: {_with_ends(ratio)}"
            place = {"row": f"{model}, {method}", "x": ratio.value, "series": method, "words": words}
            points.append(place | _bar(ratio))
    if not points:
        return None
    ends = [point[end] for point in points for end in ("low", "high")]
    axis = log_axis([min(0.9, *ends), max(2.0, *ends)])
    title = "What time that saves"
    caption = (
        "Measured against the dense model, timed in turn with it, at the sparsity up to which no loss is shown "
        "(fine-tuned where that was run), with the 95 % interval. Open: the interval includes 1, no speed-up is shown."
    )
    label = f"{title}. {'; '.join(point['words'] for point in points)}."
    runtime = runtime_name(context.timings.main or "")
    template = _time_template(legend_of((one["series"] for one in points), context.looks), f"{runtime}: speed-up there")
    data, key = {"ratios": points, "one": [{"x": 1}]}, "at that sparsity, with the 95 % interval; open: none that shows"
    return Chart(name, title, caption, label, template, data, axis.params("x"), key)


def _with_ends(ratio: Interval) -> str:
    return f"{times(ratio.value)} ({ratio.low:.2f} … {ratio.high:.2f})"


def _bar(ratio: Interval) -> dict[str, Any]:
    """Returns the bar of a ratio of times; its mark is open where the interval includes 1."""
    return {"low": ratio.low, "high": ratio.high, "filled": ratio.low > 1 or ratio.high < 1}


@lru_cache
def _speed_template(series: Legend) -> Spec:
    x = numbers("x", "promised by the multiply-adds that are left", logarithmic=True, suffix=" ×", grid=False)
    y = numbers("y", "measured", logarithmic=True, suffix=" ×")
    kept = rows_of("kept").mark_line(strokeDash=[2, 3], strokeWidth=1, color=MUTED).encode(x=x, y=y)
    none = rows_of("none").mark_rule(color=INK).encode(y=y)
    bars = rules_of("points", series).encode(x=x, y="low:Q", y2="high:Q")
    return template_of(kept, none, bars, marks_of("points", series).encode(x=x, y=y))


def speed_chart(
    context: Context, name: str, title: str, found: Sequence[Speed], *, by_model: bool = False
) -> Chart | None:
    """Returns the main runtime's speed-ups against promised ones, both logarithmic; None where nothing was timed.

    Each method has its own mark, or each model (`by_model`).
    """
    points: Points = []
    label = context.timings.main or ""
    for speed in found:
        if label in speed.measured:
            ratio = speed.measured[label]
            words = f"{speed.model} {speed.method} {percent(speed.sparsity_requested)}: "
            words += f"measured {_with_ends(ratio)}, promised {times(speed.promised)}"
            place = {"x": speed.promised, "y": ratio.value, "words": words}
            points.append(place | _bar(ratio) | {"series": speed.model if by_model else speed.method})
    if not points:
        return None
    highest = max(2.0, *(point[end] for point in points for end in ("x", "high")))
    x, y = log_axis([1.0, highest]), log_axis([min(1.0, *(point["low"] for point in points)), highest])
    caption = (
        f"{runtime_name(label)}, against the dense model timed in turn; geometric means over data sets and horizons. "
        "On the slanted line a runtime keeps the promise; on the level one nothing is saved. "
        "Open: the interval includes 1."
    )
    ends = (max(x.low, y.low), min(x.high, y.high))
    data = {"points": points, "none": [{"y": 1}], "kept": [{"x": end, "y": end} for end in ends]}
    template = _speed_template(
        legend_of((one["series"] for one in points), context.model_looks if by_model else context.looks)
    )
    said = f"{title}. {'; '.join(point['words'] for point in points)}."
    return Chart(name, title, caption, said, template, data, x.params("x") | y.params("y"))


# Ranks.


@lru_cache
def _rank_template(count: int) -> Spec:
    axis = alt.Axis(title=None, orient="top", values=list(range(1, count + 1)), format="d", gridColor=GRID)
    x = alt.X("x:Q", scale=alt.Scale(domainMin=1, domainMax=alt.ExprRef("x_high"), nice=False), axis=axis)
    ranks = rows_of("ranks").encode(y=row_y())
    stems = ranks.mark_rule(color=PALE).encode(x="best:Q", x2="x:Q")
    spots = ranks.mark_point(filled=True, color=INK, size=60).encode(x=x, tooltip="words:N")
    bars = rows_of("groups").mark_rule(color=INK, strokeWidth=4).encode(x=x, y="first:N", y2="last:N")
    return template_of(stems, spots, bars, height=alt.Step(20), width=WIDTH - 70)


def rank_chart(name: str, title: str, ranked: Ranked) -> Chart:
    """Returns a critical-difference diagram: a row for each treatment, the best on top, bars join what is alike."""
    found = ranked.ranking
    places = list(zip(found.names, found.ranks, strict=True))
    ranks = [{"row": one, "x": rank, "best": 1, "words": f"{one}: mean rank {rank:.2f}"} for one, rank in places]
    step = 0.05 * (len(places) - 1)
    groups = [
        {"x": len(places) + step * number, "first": found.names[first], "last": found.names[last]}
        for number, (first, last) in enumerate(found.groups, start=1)
    ]
    caption = f"{rank_caption(ranked)} Critical difference: {found.critical_difference:.2f}."
    label = f"{title}. Mean ranks: {', '.join(f'{one} {rank:.2f}' for one, rank in places)}."
    high = {"x_high": len(places) + step * (len(groups) + 0.5)}
    return Chart(name, title, caption, label, _rank_template(len(places)), {"ranks": ranks, "groups": groups}, high)


# Forecasts beside the truth.

_ROLE_LINES: Mapping[str, tuple[str, list[int]]] = {
    "truth": ("#cbd2d9", [1, 0]),
    "dense": (INK, [1, 0]),
    "pruned+finetuned": ("#0072b2", [1, 0]),
    "pruned": ("#d55e00", [4, 3]),
    "naive": ("#00805e", [1, 3]),
}
"""Colour and dashes of each line."""


@lru_cache
def _forecast_template(names: tuple[str, ...], roles: tuple[str, ...], titles: tuple[str, str]) -> Spec:
    colours, dashes = zip(*(_ROLE_LINES[role] for role in roles), strict=True)
    legend = alt.Legend(columns=2, labelLimit=200)
    lines = rows_of("lines").mark_line().add_params(PICK)
    lines = lines.encode(
        x=alt.X("x:Q", axis=alt.Axis(title=titles[0], grid=False, tickCount=6), scale=alt.Scale(nice=False)),
        y=alt.Y("y:Q", axis=alt.Axis(title=titles[1], tickCount=5), scale=alt.Scale(zero=False)),
        color=alt.Color("series:N", scale=alt.Scale(domain=list(names), range=list(colours)), legend=legend),
        strokeDash=alt.StrokeDash("series:N", scale=alt.Scale(domain=list(names), range=list(dashes))),
        strokeWidth=alt.when("datum.series == 'truth'").then(alt.value(4.5)).otherwise(alt.value(1.6)),
        tooltip="series:N",
        opacity=picked(),
    )
    now = rows_of("now").mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x="x:Q")
    return template_of(now, lines, height=150)


def forecast_chart(name: str, model: str, said: Sequence[tuple[str, str, Forecast]]) -> Chart:
    """Returns one test window: what was known, what came, and what was said: label, role and forecast of each."""
    first = said[0][2]
    steps = min(len(first.history), len(first.truth))
    drawn = [("truth", -steps, [*first.history[-steps:], *first.truth])]
    drawn += [(label, 0, list(one.forecast)) for label, _, one in said]
    lines = [
        {"x": step, "y": float(f"{y:.6g}"), "series": label}
        for label, start, values in drawn
        for step, y in enumerate(values, start=start)
    ]
    start = str(pd.Timestamp(first.start)).removesuffix(":00")
    titles = (f"steps from {start}, the start of the forecast", f"{first.channel} (raw units)")
    title = f"{model} on {first.channel}, test window {first.window}"
    names = tuple(label for label, _, _ in drawn)
    template = _forecast_template(names, ("truth", *(role for _, role, _ in said)), titles)
    caption = "Left of the dotted line is what the models saw. Dashed: pruned and not fine-tuned."
    label = f"{title}: the truth and the forecasts of {', '.join(names[1:])}."
    return Chart(name, title, caption, label, template, {"lines": lines, "now": [{"x": 0}]})


# Fronts: the one chart in which a reader picks what it shows.


def fronts_chart(context: Context, pages: Mapping[Case | str, str]) -> Chart:
    """Returns the chart of error against any cost, on one data set or over all, with the front of what is picked.

    Its points lead to the pages of their cases and models (`pages`).
    """
    timings, offered = context.timings, costs(context.timings)
    for number, label in enumerate(label for label in timings.labels if label != timings.main):
        offered += _costs_of(label, f"-{number}", f", {runtime_name(label)}")
    rows = context.rows.values()
    known = [cost for cost in offered if any(not missing(row.get(cost.column)) for row in rows)]
    points = front_points(context.rows, [cost.column for cost in known], pages)
    models = list(dict.fromkeys(point["model"] for point in points))
    cases = list(dict.fromkeys(point["where"] for point in points))
    titles = {cost.title.removeprefix("Error against "): cost.axis for cost in known}
    caption = (
        "Lower left is better; the line is the front of what no other shown variant beats in both. Open: not "
        "fine-tuned. Triangles at the upper edge: further up. A click in a legend picks a series or a model; shift "
        "adds another."
    )
    label = f"Error against cost: {', '.join(titles)}; the table below has what is on the front."
    template = _fronts_template(legend_of((one["series"] for one in points), context.looks), cases, titles, models)
    return Chart("front", "Error against cost", caption, label, template, {"points": points})


def _fronts_template(series: Legend, cases: list[str], costs_: Mapping[str, str], models: list[str]) -> Spec:
    """Returns the live chart, as wide as its page: three menus, legends of series and models to pick from, the front.

    `costs_`: the costs in the menu, each with the title of its axis on a single data set.
    """
    shown, titles = cases[0] if len(cases) == 2 else EVERYWHERE, list(costs_)
    everywhere = f"place == {json.dumps(EVERYWHERE)}"
    relative = "relative to the dense model (×)"
    menus = [
        alt.param("place", value=shown, bind=alt.binding_select(options=cases, name="Data set ")),
        alt.param("cost", value=titles[0], bind=alt.binding_select(options=titles, name="Cost ")),
        alt.param("tuning", value="both", bind=alt.binding_select(options=["both", PLAIN, TUNED], name="Fine-tuning ")),
        alt.param("titles", value=titles),
        alt.param("units", value=list(costs_.values())),
        alt.param("cost_title", expr=f"{everywhere} ? cost + ', {relative}' : units[indexof(titles, cost)]"),
        alt.param("error_title", expr=f"'test MSE' + ({everywhere} ? ', {relative}' : '')"),
    ]
    picked_models = alt.selection_point(name="models", fields=["model"], bind="legend")
    x, y = _front_axis("x", "cost"), _front_axis("y", "shown")
    base = (
        rows_of("points")
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
            words="datum.label + '\\n' + error_title + ' ' + format(datum.error, '.4~g')"
            " + '\\n' + cost_title + ' ' + format(datum.cost, '.3~s')",
        )
    )
    order = [alt.SortField("cost"), alt.SortField("error")]
    front = (
        base.transform_filter("datum.cases == datum.most")  # the others were not tried everywhere
        .transform_window(least="min(error)", frame=[None, 0], sort=order)
        .transform_window(before="lag(least)", sort=order)
        .transform_filter("!isValid(datum.before) || datum.error < datum.before")
    )
    steps = front.mark_line(interpolate="step-after", color=INK, strokeWidth=1).encode(x=x, y=y)
    # The legends' selections lie in this layer and filter all of them.
    marks = marks_of("points", series).encode(x=x, y=y, strokeWidth=_named_models(models)).add_params(picked_models)
    marks.transform = [*base.transform, *marks.transform]
    arrows = base.transform_filter("datum.above").mark_point(shape="triangle-up", size=40, filled=True)
    further = arrows.encode(x=x, y=alt.value(0), color=colour_of(series), tooltip="words:N")
    layers = (steps.properties(name="front"), marks.transform_filter("!datum.above"), further)
    spec = spec_of(alt.layer(*layers).properties(width="container", height=380).add_params(*menus))
    views = [spec["layer"][1]["name"]]
    picks = (PICK.name, picked_models.name)
    spec["params"] = [one | {"views": views} if one["name"] in picks else one for one in spec["params"]]
    columns = {"columns": {"expr": "max(2, floor(width / 125))"}, "layout": {"top": {"direction": "vertical"}}}
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}, "config": {"legend": columns}}


def _front_axis(name: str, column: str) -> alt.X | alt.Y:
    """Returns a logarithmic axis whose title says what is shown now, and in which unit."""
    axis = alt.Axis(labelExpr=SHORT_NUMBER, tickCount=6, labelOverlap="greedy", labelSeparation=8)
    axis["title"] = {"expr": "cost_title" if name == "x" else "error_title"}  # Altair's check knows constants alone
    scale = alt.Scale(type="log", nice=False, padding=12)
    return (alt.X if name == "x" else alt.Y)(f"{column}:Q", scale=scale, axis=axis)


def _named_models(models: list[str]) -> alt.StrokeWidth:
    """Returns a channel that draws all models alike: what it adds is the legend of their names to pick from."""
    scale = alt.Scale(domain=models, range=[1.6] * len(models))
    look = {"titleFontSize": 11, "titleFontWeight": "normal", "titleColor": MUTED}
    legend = alt.Legend(title="Models", symbolType="stroke", symbolStrokeColor=PALE, **look)
    return alt.StrokeWidth("model:O", scale=scale, legend=legend)

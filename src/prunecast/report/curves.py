"""Error against sparsity: of one model on one data set and horizon, and as ratios over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from prunecast.report import svg
from prunecast.report.compare import Compared
from prunecast.report.figure import (
    DASHED,
    WIDTH,
    Figure,
    Key,
    Panel,
    legend,
    series_key,
    tuning_keys,
)
from prunecast.report.format import missing, percent, signed_percent
from prunecast.report.scales import Scale, error_scale, kept_within, spread_out, tick_text
from prunecast.report.tables import Row, Rows
from prunecast.report.theme import INK, MUTED, Look
from prunecast.report.thresholds import Ladder, Ladders, Line, pooled
from prunecast.report.variants import Variant

CLOSE = 1.15
"""A close-up ends at this many times the smallest error."""

HIGHEST_RATIO = 2.5
"""Charts of error ratios end there, so that what matters is seen."""

_PLOT = 210
_NAMES = 118
_GAP = 12.5


def error_by_sparsity(
    name: str, rows: Rows, model: str, looks: Mapping[str, Look], *, close: bool = False
) -> Figure | None:
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
    points = [point for curve in curves.values() for point in curve]
    small = [(key, row) for key, row in rows.items() if (key.model, key.role) == (model, "small-dense")]
    controls = _controls(rows, model)
    least = min(float(row["mse"]) for _, row in points)
    ceiling = CLOSE * least if close else float("inf")
    errors = [end for _, row in (*points, *small) for end in _ends(row)]
    if close and max([*errors, *(error for _, error, _ in controls)]) <= ceiling:
        return None
    shown = errors if close else [*errors, *(error for _, error, _ in controls)]
    keys = _keys(curves, looks)
    keys += (
        [Key("small dense", svg.marker(looks["small dense"].shape, (11, 0), looks["small dense"].colour))]
        if small
        else []
    )
    head, top = legend(keys, WIDTH)
    panel = Panel(Scale(0, 1, 52, WIDTH - _NAMES), error_scale(shown, top + 8 + _PLOT, top + 8, ceiling))
    axes = panel.axes("sparsity: parameters that are gone", "test MSE", percent, x_ticks=[0, 0.25, 0.5, 0.75, 1])
    numbers = {method: number for number, method in enumerate(dict.fromkeys(method for method, _ in curves))}
    drawn = "".join(_curve(panel, curve, looks[method], numbers[method]) for (method, _), curve in curves.items())
    drawn += "".join(_spot(panel, key, row, looks["small dense"]) for key, row in small)
    content = head + axes + _rules(panel, controls) + panel.clipped(drawn)
    title = f"{model}: near the dense model" if close else f"{model}: error against sparsity"
    return Figure(name, title, _caption(bool(small), close), _label(model, curves), content, WIDTH, top + 58 + _PLOT)


Curve = list[tuple[Variant, Row]]


def _curves(rows: Rows, model: str) -> dict[tuple[str, bool], Curve]:
    """Returns the points of each method with and without fine-tuning; a line starts at the model it came from."""
    origins = {key.role: (key, row) for key, row in rows.items() if key.model == model}
    found: dict[tuple[str, bool], Curve] = {}
    for key, row in rows.items():
        if key.model == model and key.pruned and not missing(row.get("sparsity")):
            start = origins.get("dense-continued" if key.finetuned else "dense")
            curve = found.setdefault((key.series, key.finetuned), [start] if start else [])
            curve.append((key, row))
    return {line: sorted(curve, key=lambda point: _sparsity(point[1])) for line, curve in found.items()}


def _sparsity(row: Row) -> float:
    return 0.0 if missing(row.get("sparsity")) else float(row["sparsity"])


def _ends(row: Row) -> tuple[float, float]:
    """Returns the error less and plus its spread over seeds."""
    spread = 0.0 if missing(row.get("mse_sd")) else float(row["mse_sd"])
    return max(row["mse"] - spread, row["mse"] / 10), row["mse"] + spread


def _controls(rows: Rows, model: str) -> list[tuple[str, float, str]]:
    """Returns what a pruned model must beat, or must not lose: name, error and colour of each."""
    found = []
    for key, row in rows.items():
        own = key.model == model
        if own and key.role in ("dense", "dense-continued"):
            found.append((key.name, float(row["mse"]), INK))
        elif (own and key.role == "zeroed-body") or key.role == "naive":
            found.append((key.model if key.role == "naive" else key.name, float(row["mse"]), MUTED))
        elif not own and key.role == "dense" and key.model == "DLinear":
            found.append((key.model, float(row["mse"]), MUTED))
    return [(f"{text} {error:.3g}", error, colour) for text, error, colour in found]


def _rules(panel: Panel, controls: Sequence[tuple[str, float, str]]) -> str:
    seen = [control for control in controls if panel.y.holds(control[1])]
    places = kept_within(list(spread_out([panel.y(error) for _, error, _ in seen], _GAP)), panel.y.stop, panel.y.start)
    ends = ((panel.place(panel.x.low, error), panel.place(panel.x.high, error), c) for _, error, c in seen)
    return "".join(svg.line(*end, 0.9) for end in ends) + panel.names(seen, places)


def _curve(panel: Panel, curve: Curve, look: Look, number: int) -> str:
    tuned = curve[-1][0].finetuned
    places = [panel.place(_sparsity(row), row["mse"]) for _, row in curve]
    bars = "".join(_bar(panel, row, look.colour) for key, row in curve if key.pruned)
    spots = "".join(_spot(panel, key, row, look, filled=tuned) for key, row in curve if key.pruned)
    return svg.series(bars + svg.path(places, look.colour, 1.8, None if tuned else DASHED) + spots, number)


def _bar(panel: Panel, row: Row, colour: str) -> str:
    if missing(row.get("mse_sd")):
        return ""
    low, high = (panel.place(_sparsity(row), end) for end in _ends(row))
    return svg.line(low, high, colour, 1.2)


def _spot(panel: Panel, key: Variant, row: Row, look: Look, *, filled: bool = True) -> str:
    lines = [key.full_name, f"test MSE {row['mse']:.4f}", f"sparsity {percent(round(_sparsity(row), 3))}"]
    if not missing(row.get("vs_dense")):
        lines.append(f"against dense {row['vs_dense']:+.4f}: {row['vs_dense_verdict']}")
    if row.get("saturated"):
        lines.append(f"saturated: not better than {row['saturated']}")
    mark = svg.marker(look.shape, panel.place(_sparsity(row), row["mse"]), look.colour, filled=filled)
    return svg.tipped(mark, "\n".join(lines))


def _keys(curves: Mapping[tuple[str, bool], Curve], looks: Mapping[str, Look]) -> list[Key]:
    methods = dict.fromkeys(method for method, _ in curves)
    return [*(series_key(name, looks[name], number) for number, name in enumerate(methods)), *tuning_keys()]


def _caption(small: bool, close: bool) -> str:
    if close:
        return "The same, close up: lines that leave at the top lose more than a tenth."
    triangles = " Triangles: dense models of the pruned size, trained from scratch." if small else ""
    return (
        "Dashed with open marks: pruned only. Solid with filled marks: fine-tuned afterwards; such a line starts at "
        "the dense model trained on for as long, and what stays level with it was free. Level lines are controls; "
        f"bars are one standard deviation over seeds.{triangles}"
    )


def _label(model: str, curves: Mapping[tuple[str, bool], Curve]) -> str:
    said = [
        f"{method}{', fine-tuned' if tuned else ''}: {curve[0][1]['mse']:.3g} rising to {curve[-1][1]['mse']:.3g}"
        for (method, tuned), curve in curves.items()
    ]
    return f"Test MSE of {model} as sparsity grows. {'; '.join(said)}."


@dataclass(frozen=True)
class RatioLine:
    """A line of a chart of ratios: its name and look, its ladder, and the ratio that it starts at."""

    name: str
    look: Look
    ladder: Ladder
    origin: float


def ratio_lines(
    ladders: Ladders, compared: Compared, model: str, method: str, *, name: str, look: Look
) -> list[RatioLine]:
    """Returns the error over the dense model's, without fine-tuning and with it, over all cases of a method."""
    found = []
    for tuned in (False, True):
        ladder = ladders.pooled(Line(model, method, tuned, "dense"))
        if ladder is not None:
            found.append(RatioLine(name, look, ladder, trained_on_ratio(compared, ladder) if tuned else 1.0))
    return found


def trained_on_ratio(compared: Compared, ladder: Ladder) -> float:
    """Returns the error of the dense models trained on, over the dense ones', in the cases of a ladder."""
    model = ladder.line.model
    trained_on = (c for c in compared.every if c.variant.role == "dense-continued" and c.variant.model == model)
    own = {comparison.variant.case: comparison for comparison in trained_on if comparison.against == "dense"}
    found = [own[case] for case in ladder.cases if case in own]
    return pooled(found).value if len(found) == len(ladder.cases) else 1.0


def ratio_curves(name: str, title: str, lines: Sequence[RatioLine]) -> Figure | None:
    """Returns error ratios against sparsity with their intervals; None without any line."""
    if not lines:
        return None
    names = list(dict.fromkeys(line.name for line in lines))
    looks = {line.name: line.look for line in lines}
    head, top = legend([*(series_key(n, looks[n], i) for i, n in enumerate(names)), *tuning_keys()], WIDTH)
    ends = [1.0, *(line.origin for line in lines)]
    ends += [e for line in lines for r in line.ladder.rungs for e in (r.ratio.value, r.ratio.low, r.ratio.high)]
    scale = error_scale([end for end in ends if not isnan(end)], top + 8 + _PLOT, top + 8, HIGHEST_RATIO)
    panel = Panel(Scale(0, 1, 52, WIDTH - 16), scale)
    axes = panel.axes(
        "removed, of the method's own budget",
        "error, dense = 1",
        percent,
        lambda value: f"{tick_text(value)} ×",
        x_ticks=[0, 0.25, 0.5, 0.75, 1],
    )
    level = svg.line(panel.place(0, 1), panel.place(1, 1), INK, 1.1)
    drawn = "".join(_ratio_line(panel, line, names.index(line.name)) for line in lines)
    caption = (
        "Test MSE over the dense model's, the geometric mean over data sets and horizons, with its 95 % interval. "
        "Dashed: pruned only. Solid: fine-tuned; such a line starts at the dense model trained on for as long."
    )
    said = "; ".join(_said(line) for line in lines)
    content = head + axes + panel.clipped(level + drawn)
    return Figure(name, title, caption, f"{title}. {said}.", content, WIDTH, top + 58 + _PLOT)


def _ratio_line(panel: Panel, line: RatioLine, number: int) -> str:
    tuned, colour = line.ladder.line.finetuned, line.look.colour
    rungs = line.ladder.rungs
    points = [(0.0, line.origin), *((rung.sparsity, rung.ratio.value) for rung in rungs)]
    parts = [svg.path([panel.place(*point) for point in points], colour, 1.8, None if tuned else DASHED)]
    for rung in rungs:
        place = panel.place(rung.sparsity, rung.ratio.value)
        tip = f"{line.name} {percent(rung.sparsity)}{', fine-tuned' if tuned else ''}\nMSE {_change(rung.ratio.value)}"
        if rung.known:
            low, high = (panel.place(rung.sparsity, end) for end in (rung.ratio.low, rung.ratio.high))
            parts.append(svg.line(low, high, colour, 1.2))
            tip += f" ({_change(rung.ratio.low)} … {_change(rung.ratio.high)})"
        parts.append(svg.tipped(svg.marker(line.look.shape, place, colour, filled=tuned), tip))
    return svg.series("".join(parts), number)


def _change(ratio: float) -> str:
    return signed_percent(ratio - 1)


def _said(line: RatioLine) -> str:
    last = line.ladder.rungs[-1]
    tuned = ", fine-tuned" if line.ladder.line.finetuned else ""
    return f"{line.name}{tuned}: MSE {_change(last.ratio.value)} at {percent(last.sparsity)}"

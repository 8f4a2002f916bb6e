"""Charts of a case: error against sparsity, against time and against bytes, and forecasts beside the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from prunecast.records import Example
from prunecast.report import theme
from prunecast.report.marks import (
    HEIGHT,
    WITH,
    WITHOUT,
    Plane,
    control_lines,
    faded,
    layered,
    padded_log,
    points,
)
from prunecast.report.statistics import pareto_front
from prunecast.report.tables import Frame, by_variant

CLOSE = 1.15
"""A close-up ends at this many times the smallest error."""

FAR = 1.6
"""A cost chart ends at this many times the best error of the worst model; its caption says how many lie above."""

_NARROW = 340
_LETTER = 5.5
"""Width of a plot and of a letter, in pixels, by which names of points are kept apart."""

_CLOSE_CAPTION = (
    "The same, close up: lines that leave at the top lose more than a tenth. Bars: one standard deviation over seeds."
)


@dataclass(frozen=True)
class Figure:
    """A chart and its words. `name` is made by us and safe as a file's."""

    name: str
    title: str
    caption: str
    chart: alt.LayerChart
    height: int = HEIGHT

    def page_spec(self) -> dict[str, Any]:
        """Returns the Vega-Lite spec that fills its place in the page, which has the title."""
        return self._spec("container") | {"autosize": {"type": "fit-x", "contains": "padding"}}

    def file_spec(self, width: int = 560) -> dict[str, Any]:
        """Returns the Vega-Lite spec of the chart as a file, its title included."""
        return self._spec(width) | {"title": self.title, "padding": 16}

    def _spec(self, width: int | str) -> dict[str, Any]:
        return self._drawn | {"width": width, "height": self.height, "config": theme.config()}

    @cached_property
    def _drawn(self) -> dict[str, Any]:
        """The chart as Vega-Lite; its parts were checked when they were made, and the compiler checks the whole."""
        return self.chart.to_dict(validate=False)


def error_by_sparsity(name: str, case: Frame, model: str, *, close: bool = False) -> Figure | None:
    """Returns how the error of one model grows with sparsity, its controls as lines; None without pruned variants.

    Args:
        name: file stem.
        case: the summary rows of one data set and horizon, each with its `colour`.
        model: the model's name there.
        close: show the errors near the dense model's only; None when that would show nothing new.
    """
    own = case[case["model"] == model]
    pruned = _with_origins(own)
    if pruned.empty:
        return None
    small = points(own[own["role"] == "small-dense"])
    rules = _controls(case, model)
    shown = pd.concat([pruned, small])
    ceiling = CLOSE * float(pruned["mse"].min()) if close else float("inf")
    if close and max(shown["high"].max(), rules["mse"].max()) <= ceiling:
        return None
    x = alt.X("sparsity:Q", title="sparsity: share of the dense model's parameters that are gone")
    x = x.axis(format="~%", grid=False, tickCount=6).scale(domain=[0, 1], nice=False)
    plane = Plane.over(x, shown, () if close else rules["mse"], ceiling)
    layers = [*plane.rules(rules), *plane.spreads(shown), plane.lines(pruned), *plane.dots(pruned)]
    layers += plane.dots(small, "diamond", 110)
    title = f"{model}: near the dense model" if close else f"{model}: error against sparsity"
    caption = _CLOSE_CAPTION if close else _sparsity_caption(model, small)
    return Figure(name, title, caption, layered(layers))


def _with_origins(own: Frame) -> Frame:
    """Returns the pruned rows; each line starts at sparsity 0 from the dense model, or from that one trained on."""
    pruned = points(own[own["role"].isin(["pruned", "pruned+finetuned"]) & own["sparsity"].notna()])
    origins = []
    for role, tuning in (("dense", WITHOUT), ("trained-on", WITH)):
        origin = points(own[own["role"] == role])
        for series in pruned.loc[pruned["tuning"] == tuning, "series"].unique():
            colour = pruned.loc[pruned["series"] == series, "colour"].iloc[0]
            origins.append(origin.assign(series=series, colour=colour, tuning=tuning))
    return pd.concat([*origins, pruned], ignore_index=True) if len(pruned) else pruned


def _controls(case: Frame, model: str) -> Frame:
    """Returns what a pruned model must beat, or must not lose, as horizontal lines."""
    errors = {key: float(row["mse"]) for key, row in by_variant(case).items()}
    own = [key for key in errors if key.model == model]
    named = [(key.name, errors[key], theme.INK) for key in own if key.role in ("dense", "trained-on")]
    named += [(key.name, errors[key], theme.MUTED) for key in own if key.role == "zeroed-body"]
    others = [key for key in errors if key.role == "naive" or (key.role == "dense" and key.model != model)]
    shown = [key for key in others if key.role == "naive" or key.model.startswith("DLinear")]
    return control_lines([*named, *((key.model, errors[key], theme.MUTED) for key in shown)])


def _sparsity_caption(model: str, small: Frame) -> str:
    diamonds = " Diamonds: dense models of the pruned size, trained from scratch." if len(small) else ""
    return (
        f"Test error of {model} as weights are removed. Dashed with open points: pruned only. Solid with filled "
        "points: fine-tuned afterwards; such a line starts at the dense model trained on for as long, and what stays "
        f"level with it was free. Grey lines are controls.{diamonds}"
    )


@dataclass(frozen=True)
class Cost:
    """What an error may be held against.

    Attributes:
        name: short, for files.
        column: of the summary.
        title: of the chart.
        axis: title of the cost's axis, with its unit.
        form: number format of that axis (d3).
    """

    name: str
    column: str
    title: str
    axis: str
    form: str


def error_by_cost(name: str, case: Frame, cost: Cost) -> Figure | None:
    """Returns the error of all variants against a cost, on a logarithmic axis, with the Pareto front.

    Args:
        name: file stem.
        case: the summary rows of one data set and horizon, each with its `colour`.
        cost: what to hold it against; rows without it are left out; one alone makes no chart.
    """
    column = cost.column
    dear = case[case[column] > 0] if column in case else case.iloc[:0]
    if len(dear) < 2:
        return None
    every = points(dear).assign(cost=dear[column].to_numpy(float))
    rows = every.assign(front=pareto_front(every["cost"].to_numpy(float), every["mse"].to_numpy(float)))
    learned = rows[rows["series"] != "naive"]
    ceiling = FAR * float((learned if len(learned) else rows).groupby("model")["mse"].min().max())
    x = alt.X("cost:Q", title=cost.axis).axis(format=cost.form, grid=False, tickCount=5, labelOverlap=True)
    x = x.scale(type="log", domain=list(padded_log(rows["cost"].min(), rows["cost"].max())), nice=False)
    plane = Plane.over(x, rows, ceiling=ceiling)
    front = rows[rows["front"]].sort_values("cost")
    line = alt.Chart(front).mark_line(
        interpolate="step-after", color=theme.INK, strokeWidth=1.2, opacity=0.5, clip=True
    )
    shape = alt.Shape("model:N", title=None, sort=None)
    shape = shape.legend(orient="top", columns=4, symbolFillColor=theme.MUTED, symbolStrokeColor=theme.MUTED)
    layers = [line.encode(plane.x, plane.y()), *plane.spreads(rows), *plane.dots(rows, shape, 70)]
    layers += plane.names(_named(rows, plane))
    caption = _cost_caption(int((rows["mse"] > plane.domain[1]).sum()))
    return Figure(name, cost.title, caption, layered(layers))


def _cost_caption(left_out: int) -> str:
    caption = (
        "Lower left is better; the line is the front of what no other variant beats in both. Open: not fine-tuned."
    )
    return f"{caption} {left_out} with far larger errors lie above the plot." if left_out else caption


def _named(rows: Frame, plane: Plane) -> Frame:
    """Returns the front's points that have room for a name, the most accurate first; places are of a narrow plot."""
    reach = np.log(rows["cost"].max() / rows["cost"].min()) or 1.0
    across = (_NARROW * np.log(rows["cost"] / rows["cost"].min()) / reach).to_numpy(float)
    down = plane.pixels(rows["mse"])
    names = rows["variant"].str.removesuffix(", fine-tuned").where(rows["role"] != "naive", rows["model"])
    rows = rows.assign(name=names, leftmost=across < _LETTER * names.str.len())
    taken = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in zip(across, down, strict=True)]
    kept: list[int] = []
    on_front = [i for i, front in enumerate(rows["front"]) if front and down[i] >= 0]
    for i in sorted(on_front, key=lambda i: -float(down[i])):
        width = _LETTER * len(names.iloc[i])
        left = across[i] + 6 if rows["leftmost"].iloc[i] else across[i] - 6 - width
        box = Box(left, down[i] + 5, left + width, down[i] + 16)
        if not any(box.meets(other) for other in taken):
            taken.append(box)
            kept.append(i)
    return rows.iloc[kept]


class Box(NamedTuple):
    """A rectangle in pixels, from the top left."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)


def forecast(name: str, model: str, examples: Sequence[tuple[str, str, Example]]) -> Figure:
    """Returns one test window: what was known, what came, and what the models said.

    Args:
        name: file stem.
        model: whose forecasts these are, for the title.
        examples: (label, colour, example) of each model, all of one channel and window.
    """
    first = examples[0][2]
    steps = min(len(first.history), len(first.truth))
    ahead = range(len(first.truth))
    truth = _series("truth", range(-steps, len(first.truth)), [*first.history[-steps:], *first.truth])
    said = pd.concat([_series(label, ahead, example.forecast) for label, _, example in examples])
    colours = {"truth": theme.PALE} | {label: colour for label, colour, _ in examples}
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    encoding = (
        alt.X("step:Q", title=f"steps from {pd.Timestamp(first.start)}, the start of the forecast")
        .axis(grid=False)
        .scale(nice=False),
        alt.Y("value:Q", title=f"{first.channel} (raw units)").scale(zero=False),
        alt.Color("series:N", title=None, scale=scale).legend(orient="top", columns=2, symbolType="stroke"),
    )
    fade = faded()
    tips = ["series:N", "step:Q", alt.Tooltip("value:Q", format=".4~g")]
    past = alt.Chart(truth).mark_line(strokeWidth=4.5).encode(*encoding, opacity=fade, tooltip=tips)
    ahead_lines = alt.Chart(said).mark_line(strokeWidth=1.5).encode(*encoding, opacity=fade, tooltip=tips)
    start = alt.Chart(pd.DataFrame({"step": [0]})).mark_rule(color=theme.MUTED, strokeDash=[2, 3]).encode(x="step:Q")
    chart = layered([past, start, ahead_lines])
    caption = "Left of the dotted line is what the models saw."
    return Figure(name, f"{model} on {first.channel}, test window {first.window}", caption, chart, height=240)


def _series(label: str, steps: Iterable[int], values: Sequence[float]) -> Frame:
    return pd.DataFrame({"series": label, "step": list(steps), "value": list(values)})

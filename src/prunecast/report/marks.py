"""What charts of errors are put together from: points with spread, lines, and named horizontal rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from prunecast.report import theme
from prunecast.report.tables import Frame

HEIGHT = 320
"""Of every plot, in pixels."""

WITHOUT, WITH, OTHER = "without fine-tuning", "fine-tuned", "control"

_LOG_FROM = 2.5
_LABEL_GAP = 14
_KEPT = ("model", "variant", "role", "seeds", "colour", "mse", "mse_sd", "mae", "sparsity", "requested", "vs_dense")
"""Summary columns that marks and tooltips use; the others would only swell the page."""

_TIPS: Mapping[str, tuple[str, str]] = {
    "mse": ("test MSE", ".4f"),
    "mse_sd": ("± over seeds", ".4f"),
    "mae": ("test MAE", ".4f"),
    "sparsity": ("sparsity", ".1%"),
    "requested": ("removed of its budget", ".1%"),
    "vs_dense": ("MSE against dense", "+.4f"),
    "cost": ("cost", ".3~s"),
}


def points(rows: Frame) -> Frame:
    """Returns summary rows with what marks need: series, label, tuning, and the ends of the spread over seeds."""
    spread = rows["mse_sd"].fillna(0.0)
    kept = [column for column in _KEPT if column in rows]
    return (
        rows[kept]
        .assign(
            series=[key.series for key in rows.index],
            label=[key.full_name for key in rows.index],
            tuning=[{"pruned": WITHOUT, "pruned+finetuned": WITH}.get(key.role, OTHER) for key in rows.index],
            low=(rows["mse"] - spread).clip(lower=rows["mse"] / 10),
            high=rows["mse"] + spread,
        )
        .reset_index(drop=True)
    )


@dataclass(frozen=True)
class Plane:
    """The axes and colours that the layers of one chart share.

    Attributes:
        x: the horizontal encoding.
        domain: ends of the error axis.
        logarithmic: whether the error axis is.
        colours: series -> colour.
    """

    x: alt.X
    domain: tuple[float, float]
    logarithmic: bool
    colours: Mapping[str, str]

    @classmethod
    def over(cls, x: alt.X, rows: Frame, others: Any = (), ceiling: float = np.inf) -> Plane:
        """Returns the plane that holds these rows; its error axis is logarithmic where they lie far apart.

        Args:
            x: the horizontal encoding.
            rows: points with the ends of their spread, their series and its colour.
            others: further errors that must be seen, an array of them.
            ceiling: errors above it may leave the plot.
        """
        every = np.concatenate([rows["low"], rows["high"], np.asarray(others, dtype=float)])
        low, high = float(every.min()), min(float(every.max()), ceiling)
        logarithmic = high > _LOG_FROM * low
        margin = 0.07 * (high - low) or 0.05 * high
        domain = padded_log(low, high) if logarithmic else (low - margin, high + margin)
        return cls(x, domain, logarithmic, dict(zip(rows["series"], rows["colour"], strict=True)))

    def y(self, column: str = "mse") -> alt.Y:
        """The vertical encoding."""
        scale = alt.Scale(type="log" if self.logarithmic else "linear", domain=list(self.domain), nice=False)
        axis = alt.Axis(format=".3~g", tickCount=6, labelOverlap=True)
        return alt.Y(f"{column}:Q", title="test MSE (standardised units)", scale=scale, axis=axis)

    def colour(self) -> alt.Color:
        """The colour encoding, with the legend that all layers share."""
        scale = alt.Scale(domain=list(self.colours), range=list(self.colours.values()))
        return alt.Color("series:N", title=None, scale=scale).legend(
            orient="top", columns=3, symbolType="circle", symbolStrokeWidth=0
        )

    def spreads(self, rows: Frame) -> list[alt.Chart]:
        """Returns vertical bars of one standard deviation over seeds, where there are several."""
        several = rows[rows["seeds"] > 1]
        if several.empty:
            return []
        bars = alt.Chart(several).mark_rule(strokeWidth=1.5, clip=True)
        return [bars.encode(self.x, self.y("low"), alt.Y2("high:Q"), self.colour(), opacity=faded())]

    def lines(self, rows: Frame) -> alt.Chart:
        """Returns one line per series, dashed without fine-tuning."""
        dash = alt.StrokeDash("tuning:N", title=None, scale=alt.Scale(domain=[WITHOUT, WITH], range=[[5, 4], [1, 0]]))
        dash = dash.legend(orient="top", symbolType="stroke", symbolSize=220)
        lines: alt.Chart = alt.Chart(rows).mark_line(strokeWidth=2, clip=True)
        return lines.encode(self.x, self.y(), self.colour(), dash, opacity=faded())

    def dots(self, rows: Frame, shape: alt.Shape | str = "circle", area: int = 60) -> list[alt.Chart]:
        """Returns points with tooltips, open without fine-tuning; the legend takes its looks from the first ones."""
        layers = []
        for part, filled in ((rows[rows["tuning"] != WITHOUT], True), (rows[rows["tuning"] == WITHOUT], False)):
            if part.empty:
                continue
            fill = alt.Undefined if filled else theme.PAPER
            kind = shape if isinstance(shape, alt.Shape) else alt.ShapeValue(shape)
            dots = alt.Chart(part).mark_point(filled=filled, fill=fill, strokeWidth=1.8, size=area, clip=True)
            layers.append(dots.encode(self.x, self.y(), self.colour(), kind, opacity=faded(), tooltip=_tooltip(part)))
        return layers

    def rules(self, named: Frame) -> list[alt.Chart]:
        """Returns horizontal lines with their names in the right margin, moved apart where they would collide."""
        seen = named[(named["mse"] >= self.domain[0]) & (named["mse"] <= self.domain[1])]
        if seen.empty:
            return []
        placed = alt.Chart(seen.assign(place=spread_out(self.pixels(seen["mse"]), _LABEL_GAP)))
        colour = alt.Color("colour:N", scale=None)
        rule = placed.mark_rule(strokeWidth=1).encode(
            self.y(), colour, tooltip=[alt.Tooltip("text:N", title="control")]
        )
        text = placed.mark_text(align="left", dx=8, baseline="middle")
        place = alt.Y("place:Q", scale=None, axis=None)
        return [rule, text.encode(place, colour, alt.Text("text:N"), x=alt.value("width"))]

    def names(self, rows: Frame) -> list[alt.Chart]:
        """Returns the names of points, below left of them: left of and below a Pareto front there is nothing else."""
        layers = []
        for leftmost, part in rows.groupby("leftmost"):
            align: Literal["left", "right"] = "left" if leftmost else "right"
            text = alt.Chart(part).mark_text(align=align, baseline="top", dx=6 if leftmost else -6, dy=5, fontSize=10)
            layers.append(text.encode(self.x, self.y(), alt.Text("name:N")))
        return layers

    def pixels(self, errors: Any) -> Any:
        """Returns the vertical places of errors in a plot of `HEIGHT`, from the top."""
        values, ends = np.asarray(errors, dtype=float), np.asarray(self.domain)
        if self.logarithmic:
            values, ends = np.log(values), np.log(ends)
        return HEIGHT * (ends[1] - values) / (ends[1] - ends[0])


def padded_log(low: float, high: float) -> tuple[float, float]:
    """Returns the ends of a logarithmic axis that holds these values with a margin."""
    margin = (high / low) ** 0.06 if high > low else 1.5
    return low / margin, high * margin


def spread_out(places: Any, gap: float) -> Any:
    """Returns the places moved as little as needed, in order, so that neighbours are `gap` apart."""
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=float)[order]
    for _ in range(200):
        overlap = gap - np.diff(moved)
        if (overlap <= 1e-6).all():
            break
        push = np.clip(overlap, 0, None) / 2
        moved[:-1] -= push
        moved[1:] += push
    back = np.empty_like(moved)
    back[order] = moved
    return back


def layered(layers: Sequence[alt.Chart]) -> alt.LayerChart:
    """Returns the layers as one chart; a click on its legend picks a series and fades the others."""
    chart = alt.layer(*layers).add_params(alt.selection_point(fields=["series"], bind="legend", name="picked"))
    assert isinstance(chart, alt.LayerChart), "layers of single charts make a layered chart"
    return chart


def faded() -> Any:
    """Returns the opacity of a mark: full while nothing or its own series is picked."""
    return alt.condition(
        "!length(data('picked_store')) || vlSelectionTest('picked_store', datum)", alt.value(1), alt.value(0.15)
    )


def _tooltip(rows: Frame) -> list[alt.Tooltip]:
    tips = [alt.Tooltip("label:N", title="variant")]
    for column, (title, form) in _TIPS.items():
        if column in rows and rows[column].notna().any():
            tips.append(alt.Tooltip(f"{column}:Q", title=title, format=form))
    return tips


def control_lines(named: Sequence[tuple[str, float, str]]) -> Frame:
    """Returns the frame that `Plane.rules` draws, of (name, error, colour)."""
    rows = [{"text": f"{name} {error:.3g}", "mse": error, "colour": colour} for name, error, colour in named]
    return pd.DataFrame(rows, columns=["text", "mse", "colour"])

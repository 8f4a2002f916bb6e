"""The house style: how numbers are written, what things are called, and how charts look."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import altair as alt
import numpy as np
from scipy import optimize

from prunecast.registry import RUNTIMES

# Numbers: three digits, units, true minus signs.

_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def missing(value: Any) -> bool:
    """Whether a number is absent from a table: None or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def three_digits(value: float) -> str:
    """Returns the value with three significant digits and no exponent: 0.0123, 1.23, 123, 1230."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # 0.9996 has its three digits before the point moves
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}"


def count(value: float) -> str:
    """Returns a number of things: 843 k, 61.4 M."""
    return _scaled(value).rstrip()


def size(value: float) -> str:
    """Returns bytes in decimal units: 3.14 MB."""
    return f"{_scaled(value)}B"


def _scaled(value: float) -> str:
    for step, letter in _STEPS:
        if abs(value) >= 0.9995 * step:
            return f"{three_digits(value / step)} {letter}"
    return f"{value:.0f} "


def percent(share: float) -> str:
    """Returns a share in per cent, three digits: 90 %, 97.5 %."""
    return f"{100 * share:.3g} %"


def signed(value: float, decimals: int = 4) -> str:
    """Returns a difference with its sign, the minus sign being one."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def signed_percent(share: float) -> str:
    """Returns a relative difference: +1.2 %."""
    return f"{signed(100 * share, 1)} %"


def times(ratio: float) -> str:
    """Returns a ratio: 2.31 ×."""
    return f"{ratio:.2f} ×"


def between(low: float, high: float) -> str:
    """Returns an interval of relative differences: −0.3 … +2.6 %."""
    return f"{signed_percent(low)[:-2]} … {signed_percent(high)}"


def plural(number: int, thing: str) -> str:
    """Returns "1 seed" or "3 seeds"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def file_stem(*parts: object) -> str:
    """Returns a file name of small letters, digits and dashes: names from data are remade, not taken."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(str(part) for part in parts).lower()).strip("-")[:80].strip("-")


# Names: what is registered has another name for people.

MODEL_NAMES: Mapping[str, str] = {
    "transformer": "Transformer",
    "informer": "Informer",
    "autoformer": "Autoformer",
    "fedformer": "FEDformer",
    "crossformer": "Crossformer",
    "patchtst": "PatchTST",
    "itransformer": "iTransformer",
    "dlinear": "DLinear",
    "fits": "FITS",
    "sparsetsf": "SparseTSF",
    "lstm": "LSTM",
    "repeat": "last value",
    "seasonal_naive": "seasonal naive",
}
"""Registered name -> the name that people know; others are shown as they are."""

BUDGET_NAMES: Mapping[str, str] = {"prunable": "weights", "model": "parameters", "operations": "multiply-adds"}
"""What a share is a share of, by the name of the budget."""

SATURATED = "◇"
"""Stands behind the error of a variant that is not shown to be better than a forecast that learned nothing."""


def runtime_name(label: str) -> str:
    """Returns a runtime's label with the name that people know; of one that is not registered any more, its own."""
    name, bracket, setting = label.partition(" (")
    title = RUNTIMES.load(name).title if name in RUNTIMES.entries else name
    return f"{title}{bracket}{setting}"


def metric_name(metric: str) -> str:
    """Returns what a column of a metric is headed."""
    return metric.upper()


# Looks: the same colour and shape in every chart and table.

INK, MUTED, GRID, PALE, PAPER = "#1f2933", "#616e7c", "#e9ecf0", "#cbd2d9", "#ffffff"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


class Look(NamedTuple):
    """How a series is drawn; the shape tells it apart where colours are not seen."""

    colour: str
    shape: str


LOOKS: Mapping[str, Look] = {
    "magnitude": Look("#0072b2", "circle"),
    "magnitude-layer": Look("#56b4e9", "pentagon"),
    "random": Look("#b07d00", "cross"),
    "structured-magnitude": Look("#d55e00", "square"),
    "structured-random": Look("#c05a95", "triangle-down"),
    "dense": Look(INK, "diamond"),
    "dense-continued": Look(MUTED, "bar"),
    "small dense": Look("#00805e", "triangle-up"),
    "zeroed body": Look("#7b8794", "saltire"),
    "naive": Look("#7b8794", "star"),
}
"""After Okabe and Ito's palette, which the colour-blind can tell apart; light ones darkened to be seen on paper."""

MODEL_LOOKS: Mapping[str, Look] = {
    "Transformer": Look("#0072b2", "circle"),
    "Informer": Look("#d55e00", "square"),
    "Autoformer": Look("#00805e", "triangle-up"),
    "FEDformer": Look("#c05a95", "diamond"),
    "Crossformer": Look("#b07d00", "triangle-down"),
    "PatchTST": Look("#7b5ea7", "pentagon"),
    "iTransformer": Look("#2f8f94", "cross"),
    "DLinear": Look(INK, "star"),
}

SHAPES: Mapping[str, str] = {
    "bar": "M-1.2-.45H1.2V.45H-1.2Z",
    "pentagon": "M0-1 .95-.31.59.81-.59.81-.95-.31Z",
    "hourglass": "M-.8-.95H.8L-.8.95H.8Z",
    "saltire": "M.45-.95.95-.45.5 0 .95.45.45.95 0 .5-.45.95-.95.45-.5 0-.95-.45-.45-.95 0-.5Z",
    "star": "M0-1.15.29-.4 1.09-.36.47.15.67.93 0 .49-.67.93-.47.15-1.09-.36-.29-.4Z",
}
"""Marks that Vega does not know by name, as SVG paths."""

_PLAIN: Mapping[str, str] = {
    "circle": "M-.8 0A.8.8 0 1 0 .8 0 .8.8 0 1 0-.8 0Z",
    "square": "M-.75-.75H.75V.75H-.75Z",
    "diamond": "M0-1.1 1.1 0 0 1.1-1.1 0Z",
    "triangle-up": "M0-1 1 .75H-1Z",
    "triangle-down": "M0 1 1-.75H-1Z",
    "cross": "M-.35-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
}
"""Those that it knows, for the marks in tables."""

_SPARE_COLOURS = ("#7b5ea7", "#8c6d1f", "#2f8f94", "#b3446c", "#5b8c2a", "#4c6ef5")
_SPARE_SHAPES = (
    *("hourglass", "saltire", "bar", "star", "pentagon", "diamond"),
    *("triangle-up", "cross", "triangle-down", "square", "circle"),
)


def looks(names: Iterable[str], known: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """Returns a look for each name; that of a known one never changes, others get theirs in alphabetical order."""
    every = list(dict.fromkeys(names))
    spare = (
        Look(_SPARE_COLOURS[i % len(_SPARE_COLOURS)], _SPARE_SHAPES[i % len(_SPARE_SHAPES)]) for i in range(len(every))
    )
    chosen = {name: known[name] if name in known else next(spare) for name in sorted(every)}
    return {name: chosen[name] for name in every}


def mark_svg(look: Look, is_open: bool) -> str:
    """Returns the mark of a series as markup, for tables."""
    path, fill = SHAPES.get(look.shape) or _PLAIN[look.shape], PAPER if is_open else look.colour
    return f'<path d="{path}" transform="scale(5)" fill="{fill}" stroke="{look.colour}" stroke-width=".3"/>'


# Charts: what every one of them is put together from.

Spec = dict[str, Any]
Points = list[dict[str, Any]]

WIDTH, HEIGHT = 330, 210
"""Of a plot in pixels: a phone shows a chart as it is, a screen two or three of them side by side."""

_LOG_TICKS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
"""What of a decade gets a tick, from few to many."""

CONFIG: Spec = {
    "background": "#fff",
    "font": FONT,
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": MUTED, "titleColor": INK, "titleFontWeight": "normal", "labelFontSize": 11},
        **{"titleFontSize": 11, "gridColor": GRID, "domainColor": PALE, "tickColor": PALE, "labelLimit": 170},
    },
    "legend": {
        **{"orient": "top", "title": None, "labelColor": INK, "labelFontSize": 11, "columns": 3, "labelLimit": 150},
        **{"symbolFillColor": "transparent", "symbolStrokeWidth": 1.8, "symbolSize": 70, "offset": 8},
    },
    "title": {
        **{"anchor": "start", "color": INK, "fontSize": 13, "limit": 420, "offset": 8},
        **{"subtitleColor": MUTED, "subtitleFontSize": 10.5, "subtitlePadding": 4},
    },
    "point": {"size": 52, "strokeWidth": 1.6, "opacity": 1},
    "text": {"color": MUTED, "fontSize": 10.5},
    "aria": False,
}
"""The look of all charts."""


@dataclass(frozen=True)
class Chart:
    """A chart and its words. `name` is made by us and safe as a file's.

    Attributes:
        name: of its files.
        title: above it.
        caption: below it: how to read it.
        label: what is seen, in a sentence, for those who cannot see it.
        template: the Vega-Lite chart without its data.
        data: name -> rows.
        params: name -> what differs between charts of one template: ends of axes, say.
        key: what its marks mean, in a line below the title where the chart stands alone.
    """

    name: str
    title: str
    caption: str
    label: str
    template: Spec
    data: Mapping[str, Points]
    params: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def heading(self) -> Spec:
        """The title inside the chart."""
        return {"text": self.title, "subtitle": self.key} if self.key else {"text": self.title}

    @property
    def spec(self) -> Spec:
        """The whole Vega-Lite chart, as it stands alone."""
        values = [{"name": name, "value": value} for name, value in self.params.items()]
        params = [*values, *self.template.get("params", ())]
        return self.template | {"params": params, "datasets": dict(self.data), "title": self.heading}


def beside(charts: Sequence[Chart]) -> Spec:
    """Returns charts, no two of whose data and numbers share a name, side by side as one picture under their titles."""
    parts = [chart.spec for chart in charts]
    datasets = {name: rows for part in parts for name, rows in part.pop("datasets").items()}
    params: dict[str, Spec] = {}
    for param in (param for part in parts for param in part.pop("params")):
        views = [*params.get(param["name"], {}).get("views", ()), *param.get("views", ())]
        params[param["name"]] = param | ({"views": views} if views else {})  # one selection picks in all charts
    return {"hconcat": parts, "datasets": datasets, "spacing": 40, "params": list(params.values())}


# Axes.


class Axis(NamedTuple):
    """An axis of errors, costs or ratios."""

    low: float
    high: float
    logarithmic: bool

    def place(self, value: float) -> float:
        """Returns where a number lies, 0 at the low end and 1 at the high one."""
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def at(self, place: float) -> float:
        """Returns the number that lies at a place."""
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)

    def params(self, name: str) -> dict[str, Any]:
        """Returns the numbers that a template needs: the axis's ends and, where logarithmic, its ticks."""
        ends: dict[str, Any] = {f"{name}_low": self.low, f"{name}_high": self.high}
        return ends | ({f"{name}_ticks": _log_ticks(self.low, self.high)} if self.logarithmic else {})


def _log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for parts in _LOG_TICKS:
        found = [float(f"{part * 10.0**decade:.12g}") for decade in decades for part in parts]
        inside = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(best) >= 2 and len(inside) > most:
            break
        best = inside
    return best[:: math.ceil(len(best) / most)] if len(best) >= 2 else [low, high]


def log_axis(values: Iterable[float]) -> Axis:
    """Returns a logarithmic axis that holds these numbers with a margin."""
    every = list(values)
    low, high = min(every), max(every)
    margin = (high / low) ** 0.06 if high > low else 1.5
    return Axis(low / margin, high * margin, True)


def error_axis(errors: Iterable[float], ceiling: float = math.inf) -> Axis:
    """Returns an axis that holds errors up to a ceiling, logarithmic where they lie far apart."""
    every = [error for error in errors if error > 0]
    low, high = min(every), min(max(every), ceiling)
    if high > 2.5 * low:
        return log_axis((low, high))
    margin = 0.07 * (high - low) if high - low > 1e-9 * high else 0.05 * high  # equal but for rounding
    return Axis(low - margin, high + margin, False)


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Returns places on an axis moved as little as needed, in order, so that neighbours are `gap` apart."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = steps + optimize.isotonic_regression(np.asarray(places, dtype=float)[order] - steps).x
    moved -= max(0.0, moved.max(initial=0.0) - 1) or min(0.0, moved.min(initial=0.0))
    return [float(place) for place in moved[np.argsort(order)]]


SHORT_NUMBER = "(datum.value >= 1e4 ? format(datum.value, '.3~s') : format(datum.value, '.4~g'))"
"""How Vega writes the number of a tick."""


def numbers(name: str, title: str, *, logarithmic: bool, suffix: str = "", grid: bool = True) -> alt.X | alt.Y:
    """Returns x or y of numbers, written short with a unit; the ends of their axis come with the data (`Axis.params`).

    A linear axis need not reach down to 0. `grid`: whether the ticks have lines.
    """
    ends = {"domainMin": alt.ExprRef(f"{name}_low"), "domainMax": alt.ExprRef(f"{name}_high")}
    scale = alt.Scale(nice=False, **({"type": "log"} if logarithmic else {"type": "linear", "zero": False}), **ends)
    ticks = {"values": alt.ExprRef(f"{name}_ticks")} if logarithmic else {"tickCount": 5}
    axis = alt.Axis(title=title, labelExpr=f"{SHORT_NUMBER} + '{suffix}'", grid=grid, **ticks)
    return (alt.X if name == "x" else alt.Y)(f"{name}:Q", scale=scale, axis=axis)


def share_x(title: str, *, grid: bool = False) -> alt.X:
    """Returns the x of a share, from 0 to 100 %."""
    written = "format(100 * datum.value, '.3~g') + ' %'"
    axis = alt.Axis(title=title, values=[0, 0.25, 0.5, 0.75, 1], labelExpr=written, grid=grid)
    return alt.X("x:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)


def row_y() -> alt.Y:
    """Returns the y of named rows, in the order of the data."""
    look = {"labelColor": INK, "labelFontSize": 10.5, "labelPadding": 9, "labelLimit": 260}
    return alt.Y("row:N", sort=None, axis=alt.Axis(title=None, ticks=False, domain=False, grid=False, **look))


# Marks, and the series that they belong to.

Legend = tuple[tuple[str, Look], ...]
"""Names of series and their looks, in the order of a legend."""

PICK = alt.selection_point(name="pick", fields=["series"], bind="legend")


def legend_of(series: Iterable[str], known: Mapping[str, Look]) -> Legend:
    """Returns each of these series once, with its look."""
    return tuple((name, known[name]) for name in dict.fromkeys(series))


SHORT_NAME = 24
"""Characters of a series' name of which three have room beside each other in a legend."""


def colour_of(series: Legend) -> alt.Color:
    """Returns the colours of series, with their legend."""
    scale = alt.Scale(domain=[name for name, _ in series], range=[look.colour for _, look in series])
    long = max((len(name) for name, _ in series), default=0) > SHORT_NAME
    return alt.Color("series:N", scale=scale, legend=alt.Legend(columns=2, labelLimit=240) if long else alt.Undefined)


def picked() -> Any:
    """Returns what fades a mark when another series is picked."""
    return alt.when(PICK).then(alt.value(1)).otherwise(alt.value(0.12))


def rows_of(data: str) -> alt.Chart:
    """Returns a layer without marks yet, of data that come by name (`Chart.data`)."""
    return alt.Chart(alt.NamedData(data))


def rules_of(data: str, series: Legend, width: float = 1.2) -> alt.Chart:
    """Returns straight lines in the colour of their series."""
    return rows_of(data).mark_rule(strokeWidth=width).encode(color=colour_of(series), opacity=picked())


def marks_of(data: str, series: Legend) -> alt.Chart:
    """Returns points, filled where `filled` says so, each with its words; a click in the legend picks a series."""
    colours = json.dumps({name: look.colour for name, look in series})
    names, shapes = zip(*((name, SHAPES.get(look.shape, look.shape)) for name, look in series), strict=True)
    return (
        rows_of(data)
        .transform_calculate(fill=f"datum.filled ? ({colours})[datum.series] : '{PAPER}'")
        .mark_point()
        .encode(
            color=colour_of(series),
            shape=alt.Shape("series:N", scale=alt.Scale(domain=list(names), range=list(shapes))),
            fill=alt.Fill("fill:N", scale=None),
            tooltip="words:N",
            opacity=picked(),
        )
        .add_params(PICK)
    )


def template_of(*layers: alt.Chart, height: Any = HEIGHT, width: int = WIDTH) -> Spec:
    """Returns layers as one chart without its data."""
    return spec_of(alt.layer(*layers).resolve_scale(shape="shared").properties(width=width, height=height))


def spec_of(whole: alt.TopLevelMixin) -> Spec:
    """Returns a chart as Vega-Lite; version and look are the same for all and come once (`CONFIG`)."""
    spec: Spec = whole.to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}

"""The house look of charts: one colour per method, the same in every chart and in the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

INK = "#1f2933"
MUTED = "#616e7c"
GRID = "#eef0f3"
PALE = "#cbd2d9"
PAPER = "#ffffff"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"

COLOURS: Mapping[str, str] = {
    "magnitude": "#0072b2",
    "magnitude-layer": "#56b4e9",
    "random": "#e69f00",
    "structured-magnitude": "#d55e00",
    "structured-random": "#cc79a7",
    "dense": INK,
    "trained on": MUTED,
    "small dense": "#009e73",
    "zeroed body": "#9aa5b1",
    "naive": "#9aa5b1",
}
"""After Okabe and Ito's palette, which the colour-blind can tell apart; controls are greys and one green."""

SPARE_COLOURS = ("#7b5ea7", "#8c6d1f", "#2f9fa3", "#b3446c", "#5b8c2a", "#4c6ef5")
"""For methods that have no colour of their own yet, in the order of their names."""


def colours(series: Iterable[str]) -> dict[str, str]:
    """Returns a colour for each series; those of a known name never change."""
    names = list(dict.fromkeys(series))
    spare = iter(SPARE_COLOURS * len(names))
    chosen = {name: COLOURS[name] if name in COLOURS else next(spare) for name in sorted(names)}
    return {name: chosen[name] for name in names}


def config() -> dict[str, Any]:
    """Returns the Vega-Lite config of all charts."""
    text = {"labelFont": FONT, "titleFont": FONT, "labelColor": MUTED, "titleColor": INK}
    axis = text | {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": 500, "titlePadding": 8}
    lines = {"domainColor": PALE, "tickColor": PALE, "gridColor": GRID, "tickSize": 4}
    legend = text | {"labelColor": INK, "labelFontSize": 11, "labelLimit": 260, "symbolSize": 70}
    stacked = {"layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 4}}, "columnPadding": 14}
    return {
        "background": PAPER,
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis | lines,
        "legend": legend | stacked,
        "title": {"font": FONT, "color": INK, "fontSize": 14, "fontWeight": 600, "anchor": "start", "offset": 12},
        "text": {"font": FONT, "fontSize": 11, "color": MUTED},
    }

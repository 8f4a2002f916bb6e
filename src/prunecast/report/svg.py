"""Scalable pictures as text: elements with escaped content, marks that differ in shape as well as in colour.

Coordinates are pixels from the top left; a picture stands alone and needs no style sheet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from prunecast.report.theme import FONT, INK, PAPER

LETTER = 0.54
"""Mean width of a letter, as a share of the size of the type."""

Point = tuple[float, float]
Attributes = Mapping[str, str | float | None]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
"""What XML cannot hold at all."""

SHAPES: Mapping[str, Sequence[Point]] = {
    "circle": (),
    "square": ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle": ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
    "wedge": ((0, 1.2), (1.15, -0.85), (-1.15, -0.85)),
    "pentagon": ((0, -1.15), (1.1, -0.35), (0.68, 0.95), (-0.68, 0.95), (-1.1, -0.35)),
    "hourglass": ((-0.95, -1.1), (0.95, -1.1), (-0.95, 1.1), (0.95, 1.1)),
    "bar": ((-1.3, -0.5), (1.3, -0.5), (1.3, 0.5), (-1.3, 0.5)),
    "cross": (
        (-0.4, -1.15), (0.4, -1.15), (0.4, -0.4), (1.15, -0.4), (1.15, 0.4), (0.4, 0.4),
        (0.4, 1.15), (-0.4, 1.15), (-0.4, 0.4), (-1.15, 0.4), (-1.15, -0.4), (-0.4, -0.4),
    ),
    "saltire": (
        (0.53, -1.1), (1.1, -0.53), (0.57, 0), (1.1, 0.53), (0.53, 1.1), (0, 0.57),
        (-0.53, 1.1), (-1.1, 0.53), (-0.57, 0), (-1.1, -0.53), (-0.53, -1.1), (0, -0.57),
    ),
    "star": (
        (0, -1.35), (0.34, -0.47), (1.28, -0.42), (0.55, 0.18), (0.79, 1.09),
        (0, 0.58), (-0.79, 1.09), (-0.55, 0.18), (-1.28, -0.42), (-0.34, -0.47),
    ),
}  # fmt: skip
"""Corners of each mark in units of its radius; a circle has none."""


def element(name: str, attributes: Attributes, content: str = "") -> str:
    """Returns an element; attributes are escaped and left out where None, the content is markup already."""
    written = "".join(f" {key}={quoteattr(_value(value))}" for key, value in attributes.items() if value is not None)
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def _value(value: str | float | None) -> str:
    return _CONTROL.sub("", value) if isinstance(value, str) else number(value or 0.0)


def number(value: float) -> str:
    """Returns a coordinate with one decimal at most."""
    short = f"{value:.1f}".removesuffix(".0")
    return "0" if short == "-0" else short


def line(start: Point, end: Point, colour: str, width: float = 1, dash: str | None = None) -> str:
    """Returns a straight line."""
    ends: Attributes = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    return element("line", {**ends, "stroke": colour, "stroke-width": width, "stroke-dasharray": dash})


def path(points: Sequence[Point], colour: str, width: float = 2, dash: str | None = None) -> str:
    """Returns a line through points."""
    if len(points) < 2:
        return ""
    look: Attributes = {"stroke": colour, "stroke-width": width, "stroke-dasharray": dash, "stroke-linejoin": "round"}
    return element("path", {"d": "M" + _through(points), "fill": "none", **look})


def area(points: Sequence[Point], colour: str, opacity: float) -> str:
    """Returns a filled surface with these corners."""
    look: Attributes = {"fill": colour, "fill-opacity": f"{opacity:g}", "stroke": "none"}
    return element("path", {"d": f"M{_through(points)}Z", **look})


def _through(points: Sequence[Point]) -> str:
    return "L".join(f"{number(x)} {number(y)}" for x, y in points)


def rectangle(corner: Point, size: Point, fill: str, stroke: str | None = None) -> str:
    """Returns a rectangle from its upper left corner."""
    place: Attributes = {"x": corner[0], "y": corner[1], "width": size[0], "height": size[1]}
    return element("rect", {**place, "fill": fill, "stroke": stroke})


def text(  # noqa: PLR0917
    place: Point, content: str, size: float = 11, anchor: str = "start", colour: str = INK, weight: int = 400
) -> str:
    """Returns a line of text, its foot at `place`."""
    look: Attributes = {"font-size": size, "fill": colour, "text-anchor": None if anchor == "start" else anchor}
    bold = None if weight == 400 else str(weight)
    return element("text", {"x": place[0], "y": place[1], **look, "font-weight": bold}, escaped(content))


def upright(place: Point, content: str, size: float = 11, colour: str = INK) -> str:
    """Returns a line of text that reads upwards, its middle at `place`."""
    turn = f"rotate(-90 {number(place[0])} {number(place[1])})"
    look: Attributes = {"font-size": size, "fill": colour, "text-anchor": "middle", "transform": turn}
    return element("text", {"x": place[0], "y": place[1], **look}, escaped(content))


def escaped(content: str) -> str:
    """Returns text as markup."""
    return escape(_CONTROL.sub("", content))


def marker(shape: str, place: Point, colour: str, *, filled: bool = True, radius: float = 4) -> str:
    """Returns a mark; an open one is filled with the paper's colour."""
    look: Attributes = {"fill": colour if filled else PAPER, "stroke": colour, "stroke-width": 1.6}
    if not SHAPES[shape]:
        return element("circle", {"cx": place[0], "cy": place[1], "r": radius, **look})
    corners = [(place[0] + radius * x, place[1] + radius * y) for x, y in SHAPES[shape]]
    return element("path", {"d": f"M{_through(corners)}Z", **look})


def tipped(content: str, tip: str) -> str:
    """Returns marks with the words that appear when they are pointed at."""
    return element("g", {"class": "tip"}, element("title", {}, escaped(tip)) + content)


def series(content: str, key: int) -> str:
    """Returns marks that fade when another series is picked in the legend."""
    return element("g", {"class": "series", "data-series": str(key)}, content) if content else ""


def width_of(content: str, size: float = 11) -> float:
    """Returns about how wide a line of text is."""
    return LETTER * size * len(content)


def picture(content: str, width: float, height: float, label: str) -> str:
    """Returns the content as a picture that fills the width it is given; `label` says what is seen."""
    frame: Attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {number(width)} {number(height)}",
        "width": width,
        "height": height,
        "role": "img",
        "aria-label": label,
        "font-family": FONT,
    }
    return element("svg", frame, content)

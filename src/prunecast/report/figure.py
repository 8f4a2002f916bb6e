"""What charts are put together from: a panel with axes, a legend, and a frame with a title for files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunecast.report import svg
from prunecast.report.scales import Scale, tick_text
from prunecast.report.theme import GRID, INK, MUTED, PALE, PAPER, Look

WIDTH = 420
"""Of a chart in pixels: a phone shows it as it is, a screen two or three of them side by side."""

TITLE_HEIGHT = 30

WITHOUT, WITH = "without fine-tuning", "fine-tuned"
DASHED = "5 4"


@dataclass(frozen=True)
class Figure:
    """A chart and its words. `name` is made by us and safe as a file's.

    Attributes:
        name: of its files.
        title: above it; none where its parts have their own.
        caption: below it: how to read it.
        label: what is seen, in a sentence, for those who cannot see it.
        content: markup, without its frame.
        width: in pixels.
        height: in pixels.
    """

    name: str
    title: str
    caption: str
    label: str
    content: str
    width: float
    height: float

    @property
    def inline(self) -> str:
        """The picture for the page, which has the title."""
        return svg.picture(self.content, self.width, self.height, self.label)

    @property
    def file(self) -> str:
        """The picture as a file, its title included, on paper."""
        top = TITLE_HEIGHT if self.title else 6.0
        head = svg.text((14, 24), self.title, 14, weight=600) if self.title else ""
        moved = svg.element("g", {"transform": f"translate(0 {svg.number(top)})"}, self.content)
        paper = svg.rectangle((0, 0), (self.width, self.height + top), PAPER)
        return svg.picture(paper + head + moved, self.width, self.height + top, self.label)


def beside(name: str, figures: Sequence[Figure]) -> Figure:
    """Returns charts side by side as one, each under its own title."""
    parts, left = [], 0.0
    for figure in figures:
        head = svg.text((14, 20), figure.title, 12.5, weight=600)
        body = svg.element("g", {"transform": "translate(0 28)"}, figure.content)
        parts.append(svg.element("g", {"transform": f"translate({svg.number(left)} 0)"}, head + body))
        left += figure.width
    height = 28 + max(figure.height for figure in figures)
    caption = " ".join(figure.caption for figure in figures)
    return Figure(name, "", caption, " ".join(f.label for f in figures), "".join(parts), left, height)


@dataclass(frozen=True)
class Panel:
    """A plot with its axes; what is drawn in it asks `x` and `y` for places."""

    x: Scale
    y: Scale

    def axes(
        self,
        x_title: str,
        y_title: str,
        x_text: Callable[[float], str] = tick_text,
        y_text: Callable[[float], str] = tick_text,
        *,
        x_ticks: Sequence[float] | None = None,
    ) -> str:
        """Returns grid lines, ticks and titles."""
        left, right, bottom, top = self.x.start, self.x.stop, self.y.start, self.y.stop
        parts = []
        for value in self.y.ticks(6):
            parts.append(svg.line((left, self.y(value)), (right, self.y(value)), GRID))
            parts.append(svg.text((left - 6, self.y(value) + 4), y_text(value), anchor="end", colour=MUTED))
        for value in self.x.ticks(5) if x_ticks is None else x_ticks:
            parts.append(svg.line((self.x(value), bottom), (self.x(value), bottom + 4), PALE))
            parts.append(svg.text((self.x(value), bottom + 16), x_text(value), anchor="middle", colour=MUTED))
        parts.append(svg.line((left, bottom), (right, bottom), PALE))
        parts.append(svg.text(((left + right) / 2, bottom + 34), x_title, anchor="middle"))
        parts.append(svg.upright((13, (top + bottom) / 2), y_title))
        return "".join(parts)

    def place(self, x: float, y: float) -> svg.Point:
        """Returns the place of a point in pixels."""
        return self.x(x), self.y(y)

    def clipped(self, content: str, margin: float = 6) -> str:
        """Returns marks of which only those inside the plot are seen."""
        left, top = self.x.start - margin, self.y.stop - margin
        width, height = self.x.stop - self.x.start + 2 * margin, self.y.start - self.y.stop + 2 * margin
        box = " ".join(svg.number(value) for value in (left, top, width, height))
        return svg.element("svg", {"x": left, "y": top, "width": width, "height": height, "viewBox": box}, content)

    def names(self, named: Sequence[tuple[str, float, str]], places: Sequence[float]) -> str:
        """Returns names right of the plot, at places that keep them apart, each in its colour."""
        texts = (
            svg.text((self.x.stop + 6, place + 4), text, 10.5, colour=colour)
            for (text, _, colour), place in zip(named, places, strict=True)
        )
        return "".join(texts)


@dataclass(frozen=True)
class Key:
    """An entry of a legend: its name, and the marks that stand for it; `series` is what a click on it picks."""

    name: str
    sample: str
    series: int | None = None


def series_key(name: str, look: Look, number: int, *, line: bool = True) -> Key:
    """Returns the legend's entry of a series: its mark on a piece of its line."""
    stroke = svg.line((0, 0), (22, 0), look.colour, 2) if line else ""
    return Key(name, stroke + svg.marker(look.shape, (11, 0), look.colour), number)


def tuning_keys() -> list[Key]:
    """Returns the entries that tell lines with fine-tuning from those without."""
    grey = "#52606d"
    return [
        Key(WITHOUT, svg.line((0, 0), (22, 0), grey, 2, DASHED) + svg.marker("circle", (11, 0), grey, filled=False)),
        Key(WITH, svg.line((0, 0), (22, 0), grey, 2) + svg.marker("circle", (11, 0), grey)),
    ]


def legend(keys: Sequence[Key], width: float, left: float = 14) -> tuple[str, float]:
    """Returns a legend that fills lines from the left, and its height."""
    parts = []
    x, y = left, 14.0
    for key in keys:
        needed = 28 + svg.width_of(key.name) + 16
        if x > left and x + needed > width + 8:
            x, y = left, y + 18
        sample = svg.element("g", {"transform": f"translate({svg.number(x)} {svg.number(y - 4)})"}, key.sample)
        words = svg.text((x + 28, y), key.name, colour=INK)
        picked = None if key.series is None else str(key.series)
        parts.append(svg.element("g", {"class": "key" if picked else None, "data-series": picked}, sample + words))
        x += needed
    return "".join(parts), (y + 10 if keys else 0.0)

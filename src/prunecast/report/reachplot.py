"""The picture of the headline: how far each model can be pruned, what fine-tuning buys, what time is saved there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prunecast.report import svg
from prunecast.report.answer import reached_speedup
from prunecast.report.columns import SATURATED
from prunecast.report.figure import WIDTH, Figure, Key, legend
from prunecast.report.format import percent, runtime_name
from prunecast.report.headline import change, is_control
from prunecast.report.scales import Scale, padded_log, tick_text
from prunecast.report.statistics import Interval
from prunecast.report.tables import Rows
from prunecast.report.theme import GRID, INK, MUTED, PALE, Look
from prunecast.report.thresholds import Ladder, Ladders, Rung

_LABELS = 152
_TOP = 62.0
_ROW, _GAP = 19, 20


@dataclass(frozen=True)
class _Line:
    """One row of the picture."""

    model: str
    method: str
    y: float
    look: Look


@dataclass(frozen=True)
class _Layout:
    """Where the rows stand: models one below the other, each with its methods."""

    lines: tuple[_Line, ...]
    heads: tuple[tuple[str, float], ...]
    bottom: float

    def labels(self) -> str:
        """Returns the names left of the rows."""
        names = [svg.text((10, y), model, 11.5, weight=600) for model, y in self.heads]
        names += [svg.text((20, line.y + 4), line.method, 10.5, colour=MUTED) for line in self.lines]
        return "".join(names)


def _layout(ladders: Ladders, looks: Mapping[str, Look], top: float) -> _Layout:
    methods: dict[str, list[str]] = {}
    for model, method in ladders.methods:
        if not is_control(method):
            methods.setdefault(model, []).append(method)
    lines, heads, y = [], [], top
    for model, found in methods.items():
        y += _GAP
        heads.append((model, y - 2))
        for method in found:
            lines.append(_Line(model, method, y + _ROW / 2 + 2, looks[method]))
            y += _ROW
    return _Layout(tuple(lines), tuple(heads), y + 6)


def reach_figure(name: str, ladders: Ladders, looks: Mapping[str, Look]) -> Figure | None:
    """Returns up to which sparsity no loss is shown, without and with fine-tuning; None where nothing was pruned."""
    grey = "#52606d"
    keys = [
        Key("not fine-tuned, against dense", svg.marker("circle", (11, 0), grey, filled=False)),
        Key("fine-tuned, against dense trained on", svg.marker("circle", (11, 0), grey)),
        Key("range over data sets", svg.line((0, 0), (22, 0), PALE, 5)),
        Key("most that was tried", svg.line((11, -6), (11, 6), PALE, 1.5)),
    ]
    head, _ = legend(keys, WIDTH, 10)
    layout = _layout(ladders, looks, _TOP)
    if not layout.lines:
        return None
    x = Scale(0, 1, _LABELS, WIDTH - 22)
    parts = [head, _ticks(x, [0, 0.25, 0.5, 0.75, 1], layout, percent, "no loss is shown up to")]
    parts += [layout.labels(), *(_reach_row(ladders, line, x) for line in layout.lines)]
    said = "; ".join(_said(ladders, line) for line in layout.lines)
    caption = (
        "Largest share removed, of each method's own budget, at which and below which no loss of accuracy is shown: "
        "means over data sets and horizons. The line between open and filled is what fine-tuning buys. "
        f"{SATURATED}: on some data set no better than a forecast that learned nothing."
    )
    title = "How far each model can be pruned"
    return Figure(name, title, caption, f"{title}. {said}.", "".join(parts), WIDTH, layout.bottom + 44)


def _ticks(x: Scale, values: Sequence[float], layout: _Layout, write: Callable[[float], str], title: str) -> str:
    parts = []
    for value in values:
        parts.append(svg.line((x(value), _TOP + 4), (x(value), layout.bottom), GRID))
        parts.append(svg.text((x(value), layout.bottom + 15), write(value), 10.5, "middle", MUTED))
    parts.append(svg.text(((x.start + x.stop) / 2, layout.bottom + 33), title, anchor="middle"))
    return "".join(parts)


def _reach_row(ladders: Ladders, line: _Line, x: Scale) -> str:
    tuned, plain = (ladders.fair(line.model, line.method, finetuned) for finetuned in (True, False))
    parts = []
    main = tuned or plain
    if main is not None:
        parts.append(_across_cases(ladders, main, line, x))
        most = x(main.rungs[-1].sparsity)
        parts.append(svg.line((most, line.y - 6), (most, line.y + 6), PALE, 1.5))
    if tuned is not None and plain is not None:
        ends = (x(_sparsity(plain.no_loss)), line.y), (x(_sparsity(tuned.no_loss)), line.y)
        parts.append(svg.line(*ends, line.look.colour, 1.6))
    for ladder in (plain, tuned):
        if ladder is not None:
            parts.append(_reached(ladder, line, x))
    return "".join(parts)


def _across_cases(ladders: Ladders, ladder: Ladder, line: _Line, x: Scale) -> str:
    reached = [x(_sparsity(one.no_loss)) for one in ladders.each(ladder)]
    return svg.line((min(reached), line.y), (max(reached), line.y), PALE, 5) if len(reached) > 1 else ""


def _reached(ladder: Ladder, line: _Line, x: Scale) -> str:
    place = (x(_sparsity(ladder.no_loss)), line.y)
    mark = svg.marker(line.look.shape, place, line.look.colour, filled=ladder.line.finetuned, radius=4.5)
    flag = ""
    if ladder.no_loss is not None and ladder.no_loss.saturated:
        flag = svg.text((place[0] + 7, place[1] - 3), SATURATED, 9, colour=MUTED)
    return svg.tipped(mark + flag, _tip(ladder))


def _tip(ladder: Ladder) -> str:
    line = ladder.line
    opponent = "dense trained on" if line.against == "dense-continued" else "dense"
    tuned = "fine-tuned" if line.finetuned else "not fine-tuned"
    rung = ladder.no_loss or ladder.rungs[0]
    said = "no loss shown up to" if ladder.no_loss else "a loss is shown, or not ruled out, at"
    head = f"{line.model}, {line.method}, {tuned}\nagainst {opponent}"
    return f"{head}\n{said} {percent(rung.sparsity)}: MSE {change(rung.ratio)}"


def _sparsity(rung: Rung | None) -> float:
    return 0.0 if rung is None else rung.sparsity


def _said(ladders: Ladders, line: _Line) -> str:
    found = [ladders.fair(line.model, line.method, tuned) for tuned in (False, True)]
    texts = [percent(_sparsity(ladder.no_loss)) for ladder in found if ladder is not None]
    return f"{line.model} by {line.method}: {', fine-tuned '.join(texts)}"


def time_figure(
    name: str, ladders: Ladders, rows: Rows, runtime: str | None, looks: Mapping[str, Look]
) -> Figure | None:
    """Returns the speed-up at the sparsity up to which no loss is shown; None where nothing was timed there."""
    if runtime is None:
        return None
    layout = _layout(ladders, looks, _TOP)
    found = {line: reached_speedup(ladders, rows, line.model, line.method, runtime) for line in layout.lines}
    ends = [end for ratio in found.values() if ratio is not None for end in (ratio.low, ratio.high)]
    if not ends:
        return None
    x = Scale(*padded_log(min(0.9, *ends), max(2.0, *ends)), _LABELS, WIDTH - 22, logarithmic=True)
    title = f"{runtime_name(runtime)}: speed-up there"
    ticks = _ticks(x, x.ticks(5), layout, lambda value: f"{tick_text(value)} ×", title)
    one = svg.line((x(1), _TOP + 4), (x(1), layout.bottom), INK, 1)
    parts = [_time_row(line, ratio, x) for line, ratio in found.items() if ratio is not None]
    said = "; ".join(_timed(line, ratio) for line, ratio in found.items() if ratio is not None)
    caption = (
        "Measured against the dense model, timed in turn with it, at the sparsity up to which no loss is shown "
        "(fine-tuned where that was run). Open: the interval includes 1, no speed-up is shown."
    )
    keys = [
        Key(
            "speed-up with its 95 % interval",
            svg.line((0, 0), (22, 0), "#52606d", 1.6) + svg.marker("circle", (11, 0), "#52606d"),
        ),
        Key("no speed-up shown", svg.marker("circle", (11, 0), "#52606d", filled=False)),
    ]
    content = legend(keys, WIDTH, 10)[0] + ticks + one + layout.labels() + "".join(parts)
    title = "What time that saves"
    return Figure(name, title, caption, f"{title}. {said}.", content, WIDTH, layout.bottom + 44)


def _time_row(line: _Line, ratio: Interval, x: Scale) -> str:
    bar = svg.line((x(ratio.low), line.y), (x(ratio.high), line.y), line.look.colour, 1.6)
    shown = ratio.low > 1 or ratio.high < 1
    mark = svg.marker(line.look.shape, (x(ratio.value), line.y), line.look.colour, filled=shown, radius=4.5)
    return svg.tipped(bar + mark, _timed(line, ratio))


def _timed(line: _Line, ratio: Interval) -> str:
    return f"{line.model} by {line.method}: {ratio.value:.2f} × ({ratio.low:.2f} … {ratio.high:.2f})"

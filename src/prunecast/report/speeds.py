"""What time pruning saves: measured speed-ups beside those that the operations promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunecast.report import svg
from prunecast.report.columns import speedup_cell
from prunecast.report.figure import WIDTH, Figure, Key, Panel, legend
from prunecast.report.format import missing, percent, runtime_name
from prunecast.report.scales import Scale, padded_log, tick_text
from prunecast.report.sheet import Cell, Head, Sheet, SheetRow
from prunecast.report.statistics import Interval, geometric_mean
from prunecast.report.tables import Row, Rows
from prunecast.report.theme import INK, MUTED, Look
from prunecast.report.traces import RECORDS, several, timed
from prunecast.report.variants import Study, Variant

_PLOT = 230


@dataclass(frozen=True)
class Speed:
    """A method at one sparsity of one model, over the data sets and horizons where it was timed.

    Attributes:
        model: its name.
        method: of pruning.
        requested: share that was to be removed.
        promised: the dense model's multiply-adds over those with a non-zero weight, a geometric mean.
        measured: label of a runtime -> speed-up against the dense model.
        variants: what was timed, on each data set and horizon, fine-tuned or not.
    """

    model: str
    method: str
    requested: float
    promised: float
    measured: Mapping[str, Interval]
    variants: tuple[Variant, ...]

    @property
    def cases(self) -> int:
        """How many data sets and horizons were timed."""
        return len({variant.case for variant in self.variants})


def speeds(rows: Rows, runtimes: Sequence[str]) -> list[Speed]:
    """Returns the speed-ups of all pruned variants that were timed, fine-tuned or not: that changes no time."""
    groups: dict[tuple[str, str, float], list[tuple[Variant, Row]]] = {}
    for key, row in rows.items():
        if key.pruned and key.requested is not None and not missing(row.get("promised_speedup")):
            groups.setdefault((key.model, key.method or "", round(key.requested, 6)), []).append((key, row))
    found = (_speed(*key, members, runtimes) for key, members in groups.items())
    return [speed for speed in found if speed.measured]


def _speed(
    model: str, method: str, requested: float, members: Sequence[tuple[Variant, Row]], runtimes: Sequence[str]
) -> Speed:
    clocked = [(key, row) for key, row in members if any(speedup(row, runtime) for runtime in runtimes)]
    measured = {runtime: mean_speedup([row for _, row in clocked], runtime) for runtime in runtimes}
    promises = [row["promised_speedup"] for _, row in clocked or members]
    return Speed(
        model,
        method,
        requested,
        promised=geometric_mean([Interval(promise, promise, promise) for promise in promises]).value,
        measured={runtime: ratio for runtime, ratio in measured.items() if ratio is not None},
        variants=tuple(key for key, _ in clocked),
    )


def speedup(row: Row, runtime: str) -> Interval | None:
    """Returns a variant's speed-up in a runtime, where it was timed in turn with its dense parent."""
    values = [row.get(f"{runtime}_speedup{end}") for end in ("", "_low", "_high")]
    return None if any(missing(value) for value in values) else Interval(*(float(value or 0) for value in values))


def mean_speedup(rows: Iterable[Row], runtime: str) -> Interval | None:
    """Returns the geometric mean of the speed-ups that were measured, with its interval."""
    found = [ratio for row in rows if (ratio := speedup(row, runtime)) is not None]
    return geometric_mean(found) if found else None


def speed_figure(
    name: str, title: str, found: Sequence[Speed], runtime: str, *, looks: Mapping[str, Look], by_model: bool = False
) -> Figure | None:
    """Returns measured speed-ups against promised ones, both logarithmic; None where nothing was timed.

    Args:
        name: file stem.
        title: of the chart.
        found: what was timed.
        runtime: its label.
        looks: of the methods, or of the models where `by_model`.
        by_model: give each model its mark instead of each method.
    """
    clocked = [speed for speed in found if runtime in speed.measured]
    if not clocked:
        return None
    series = list(dict.fromkeys(_series(speed, by_model) for speed in clocked))
    head, top = legend([_key(one, looks[one], number) for number, one in enumerate(series)], WIDTH)
    highest = max(max(speed.promised, speed.measured[runtime].high) for speed in clocked)
    lowest = min(1.0, *(speed.measured[runtime].low for speed in clocked))
    low, high = padded_log(lowest, max(highest, 2.0))
    across = Scale(*padded_log(1.0, max(highest, 2.0)), 52, WIDTH - 14, logarithmic=True)
    panel = Panel(across, Scale(low, high, top + 8 + _PLOT, top + 8, logarithmic=True))
    axes = panel.axes("promised by the multiply-adds that are left", "measured", _times, _times)
    drawn = _as_promised(panel) + "".join(
        svg.series(
            "".join(_spot(panel, s, runtime, looks[one]) for s in clocked if _series(s, by_model) == one), number
        )
        for number, one in enumerate(series)
    )
    caption = (
        f"{runtime_name(runtime)}, against the dense model timed in turn; geometric means over data sets and horizons. "
        "On the slanted line a runtime keeps the promise; on the level one nothing is saved. "
        "Open: the interval includes 1."
    )
    label = f"{title}. {'; '.join(_said(speed, runtime) for speed in clocked)}."
    return Figure(name, title, caption, label, head + axes + panel.clipped(drawn), WIDTH, top + 58 + _PLOT)


def _series(speed: Speed, by_model: bool) -> str:
    return speed.model if by_model else speed.method


def _key(name: str, look: Look, number: int) -> Key:
    return Key(name, svg.marker(look.shape, (16, 0), look.colour), number)


def _times(value: float) -> str:
    return f"{tick_text(value)} ×"


def _as_promised(panel: Panel) -> str:
    end = min(panel.x.high, panel.y.high)
    start = max(panel.x.low, panel.y.low)
    slanted = svg.line(panel.place(start, start), panel.place(end, end), MUTED, 1, "2 3")
    return slanted + svg.line(panel.place(panel.x.low, 1), panel.place(panel.x.high, 1), INK, 1)


def _spot(panel: Panel, speed: Speed, runtime: str, look: Look) -> str:
    ratio = speed.measured[runtime]
    bar = svg.line(panel.place(speed.promised, ratio.low), panel.place(speed.promised, ratio.high), look.colour, 1.2)
    shown = ratio.low > 1 or ratio.high < 1
    mark = svg.marker(look.shape, panel.place(speed.promised, ratio.value), look.colour, filled=shown)
    return svg.tipped(bar + mark, _said(speed, runtime))


def _said(speed: Speed, runtime: str) -> str:
    ratio = speed.measured[runtime]
    interval = f"{ratio.value:.2f} × ({ratio.low:.2f} … {ratio.high:.2f})"
    return (
        f"{speed.model} {speed.method} {percent(speed.requested)}: measured {interval}, promised {speed.promised:.2f} ×"
    )


def speed_sheet(name: str, study: Study, found: Sequence[Speed], runtimes: Sequence[str]) -> Sheet:
    """Returns the table of speed-ups: promised, and measured in each runtime, with the records of the timings."""
    heads = [
        Head("", "model", numeric=False),
        Head("", "method", numeric=False),
        Head("", "removed"),
        Head("", "cases"),
    ]
    heads.append(Head("speed-up", "promised"))
    heads += [*(Head("speed-up", runtime_name(runtime)) for runtime in runtimes), RECORDS]
    rows = []
    by_model = len({speed.method for speed in found}) == 1
    for speed in found:
        ratios = (speed.measured.get(runtime) for runtime in runtimes)
        cells = [Cell(speed.model, order=speed.model), Cell(speed.method, order=speed.method)]
        cells += [Cell(percent(speed.requested), order=speed.requested), Cell(str(speed.cases), order=speed.cases)]
        cells.append(Cell(f"{speed.promised:.2f} ×", order=speed.promised))
        cells += [Cell() if ratio is None else speedup_cell(ratio.value, ratio.low, ratio.high) for ratio in ratios]
        cells.append(several((_traced_name(speed, variant), timed(study, variant)) for variant in speed.variants))
        rows.append(SheetRow(tuple(cells), series=_series(speed, by_model)))
    note = (
        "Geometric means over data sets, horizons and seeds; the interval's ends are the means of theirs. Promised: "
        "the dense model's multiply-adds over those with a non-zero weight."
    )
    return Sheet(name, "Promised and measured speed-up", tuple(heads), tuple(rows), note, sortable=True)


def _traced_name(speed: Speed, variant: Variant) -> str:
    tuned = "fine-tuned" if variant.finetuned else "not fine-tuned"
    return f"{variant.case.title}, {tuned}" if speed.cases > 1 else tuned

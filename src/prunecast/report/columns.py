"""The table of all variants: which columns, how each number is written, and what it may be called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prunecast.report.compare import Verdict
from prunecast.report.format import count, missing, percent, runtime_name, signed, size, three_digits
from prunecast.report.sheet import Cell, Head, Mark, Sheet, SheetRow, one_line, star
from prunecast.report.tables import Row, Rows
from prunecast.report.traces import RECORDS, records_cell
from prunecast.report.variants import Study

NO_SPEEDUP = "none shown"
SATURATED = "◇"
"""Stands behind the error of a variant that is not shown to be better than a forecast that learned nothing."""


@dataclass(frozen=True)
class Column:
    """One column under a group of columns; `cell` writes it for a row of the summary."""

    head: Head
    cell: Callable[[Row], Cell]


def columns(rows: Rows, runtimes: Sequence[str], main: str | None) -> tuple[Column, ...]:
    """Returns the columns that have something to show: everything of the `main` runtime, the times of the others."""
    offered = [Column(Head("", "variant", numeric=False), _name)]
    if len({row["seeds"] for row in rows.values()}) > 1:  # a stage failed: say where seeds are lacking
        offered.append(Column(Head("", "seeds", paper=False), _seeds))
    offered += [*_ERRORS, *_COSTS]
    if main is not None:
        offered += _main_runtime(main)
    offered += [_other_runtime(runtime) for runtime in runtimes if runtime != main]
    return tuple(column for column in offered if any(column.cell(row).text for row in rows.values()))


def variants_sheet(name: str, study: Study, rows: Rows, runtimes: Sequence[str], main: str | None) -> Sheet:
    """Returns the table of a case's variants, each row with the records that it comes from."""
    shown = columns(rows, runtimes, main)
    heads = (*(column.head for column in shown), RECORDS)
    lines = tuple(
        SheetRow(
            (*(column.cell(row) for column in shown), records_cell(study, key)),
            series=key.series,
            kind=key.role,
            open=key.role == "pruned",
        )
        for key, row in rows.items()
    )
    return Sheet(name, "All variants", heads, lines, sortable=True)


def _name(row: Row) -> Cell:
    text, note = (row["model"], row["variant"]) if row["role"] == "naive" else (row["variant"], row["model"])
    return Cell(text, note, f"{row['model']} {row['variant']}")


def _seeds(row: Row) -> Cell:
    return Cell(f"{row['seeds']:.0f}", order=row["seeds"])


def _main_runtime(runtime: str) -> list[Column]:
    name = runtime_name(runtime)
    return [
        Column(Head(name, "time"), lambda row: _time(row, runtime)),
        Column(Head(name, "speed-up"), lambda row: _speedup(row, runtime)),
        Column(Head(name, "file, RAM", paper=False), lambda row: _footprint(row, runtime)),
    ]


def _other_runtime(runtime: str) -> Column:
    return Column(Head(runtime_name(runtime), "time, speed-up", paper=False), lambda row: _both(row, runtime))


def _time(row: Row, runtime: str) -> Cell:
    return _plain(row.get(f"{runtime}_ms"), lambda ms: f"{three_digits(ms)} ms")


def _both(row: Row, runtime: str) -> Cell:
    time, speedup = _time(row, runtime), _speedup(row, runtime)
    note = f"{speedup.text} ({speedup.note})" if speedup.text else ""
    return Cell(time.text, note, time.order)


def _footprint(row: Row, runtime: str) -> Cell:
    """Bytes of the file, and the most memory that loading and running it took."""
    file, memory = (_plain(row.get(f"{runtime}_{key}"), size) for key in ("bytes", "memory_bytes"))
    return Cell(file.text, f"RAM {memory.text}" if memory.text else "", file.order)


def _macs(row: Row) -> Cell:
    dense, effective = (_plain(row.get(f"{key}_macs"), count) for key in ("dense", "effective"))
    return Cell(dense.text, f"{effective.text} non-zero" if effective.text != dense.text else "", dense.order)


def _plain(value: float | None, write: Callable[[float], str]) -> Cell:
    return Cell() if value is None or missing(value) else Cell(write(value), order=value)


def _share(row: Row, column: str, gone: str) -> Cell:
    cell = _plain(row.get(column), count)
    share = row.get(gone)
    note = "" if share is None or missing(share) or share <= 0 else f"sparsity {percent(round(share, 3))}"
    return Cell(cell.text, note, cell.order)


def _spread(row: Row, column: str) -> Cell:
    spread = row.get(f"{column}_sd")
    note = "" if missing(spread) else f"± {spread:.4f}"
    return Cell(f"{row[column]:.4f}", note, row[column])


def _mse(row: Row) -> Cell:
    cell, floors = _spread(row, "mse"), row.get("saturated")
    flag = (
        (SATURATED, f"saturated: not shown to be better than {floors}") if isinstance(floors, str) and floors else None
    )
    return Cell(cell.text, cell.note, cell.order, flag=flag)


def _difference(row: Row, column: str) -> Cell:
    value = row.get(column)
    if value is None or missing(value):
        return Cell()
    verdict: Verdict = row[f"{column}_verdict"]
    if verdict == "no interval":
        return Cell(signed(value), "no interval", value, "faint")
    return Cell(
        signed(value), f"{signed(row[f'{column}_low'])} … {signed(row[f'{column}_high'])}", value, mark(verdict)
    )


def mark(verdict: Verdict) -> Mark:
    """Returns how a verdict looks."""
    return verdict if verdict in ("better", "worse") else "faint"


def _speedup(row: Row, runtime: str) -> Cell:
    ratio = row.get(f"{runtime}_speedup")
    if ratio is None or missing(ratio):
        return Cell()
    return speedup_cell(ratio, row[f"{runtime}_speedup_low"], row[f"{runtime}_speedup_high"])


def speedup_cell(ratio: float, low: float, high: float) -> Cell:
    """Returns a ratio of times: a speed-up only when its interval leaves out 1; one below 1 is called slower."""
    note = f"{low:.2f} … {high:.2f}"
    if low > 1:
        return Cell(f"{ratio:.2f} ×", note, ratio, "better")
    if high < 1:
        return Cell(f"slower, {ratio:.2f} ×", note, ratio, "worse")
    return Cell(NO_SPEEDUP, note, ratio, "faint")


_CHANGE = "change of MSE against"
_ERRORS = (
    Column(Head("test error", "MSE"), _mse),
    Column(Head("test error", "MAE", paper=False), lambda row: _spread(row, "mae")),
    Column(Head(_CHANGE, "dense"), lambda row: _difference(row, "vs_dense")),
    Column(Head(_CHANGE, "dense, trained on"), lambda row: _difference(row, "vs_trained_on")),
    Column(Head(_CHANGE, "small dense", paper=False), lambda row: _difference(row, "vs_small_dense")),
)
_COSTS = (
    Column(Head("size", "non-zero"), lambda row: _share(row, "nonzero", "sparsity")),
    Column(Head("size", "zip", paper=False), lambda row: _plain(row.get("zip_bytes"), size)),
    Column(Head("size", "multiply-adds"), _macs),
)


def to_texts(rows: Rows, main: str | None) -> list[dict[str, Any]]:
    """Returns the table for a terminal: of the intervals only that of the speed-up, else a star where 0 is outside."""
    shown = (column for column in columns(rows, (), main) if column.head.paper)
    _, *numbers = (column for column in shown if column.head.header not in _TOO_MUCH_IN_A_TERMINAL)
    several_cases = len({key.case for key in rows}) > 1
    return [
        ({"case": key.case.title} if several_cases else {})
        | {"model": row["model"], "variant": row["variant"]}
        | {_short(column.head): _shown(column.head, column.cell(row)) for column in numbers}
        for key, row in rows.items()
    ]


_TOO_MUCH_IN_A_TERMINAL = ("multiply-adds",)


def _shown(head: Head, cell: Cell) -> str:
    flag = cell.flag[0] if cell.flag else ""
    return one_line(cell) if head.header == "speed-up" else f"{cell.text}{star(cell)}{flag}"


def _short(head: Head) -> str:
    return f"vs {head.header.removeprefix('dense, ')}" if head.group == _CHANGE else head.header

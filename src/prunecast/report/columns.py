"""The table that people read: which columns, how each number is written, and what it may be called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prunecast.report.format import count, missing, percent, runtime_name, signed, size, three_digits
from prunecast.report.tables import Frame, Row, Rows

NO_SPEEDUP = "none shown"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller second line, what it sorts by, and how it is marked."""

    text: str = ""
    note: str = ""
    order: float | str | None = None
    mark: Literal["", "better", "worse", "faint"] = ""


@dataclass(frozen=True)
class Column:
    """One column under a group of columns; `cell` writes it for a row of the summary."""

    group: str
    header: str
    cell: Callable[[Row], Cell]
    numeric: bool = True

    @property
    def title(self) -> str:
        """The heading with its group's, for tables of one heading line."""
        return f"{self.group}: {self.header}" if self.group else self.header


def columns(rows: Rows, runtimes: Sequence[str], main: str | None) -> tuple[Column, ...]:
    """Returns the columns that have something to show: everything of the `main` runtime, the times of the others."""
    offered = [Column("", "variant", _name, numeric=False)]
    if len({row["seeds"] for row in rows.values()}) > 1:  # a stage failed: say where seeds are lacking
        offered.append(Column("", "seeds", lambda row: Cell(f"{row['seeds']:.0f}", order=row["seeds"])))
    offered += [*_ERRORS, *_COSTS]
    if main is not None:
        offered += _main_runtime(main)
    offered += [_other_runtime(runtime) for runtime in runtimes if runtime != main]
    return tuple(column for column in offered if any(column.cell(row).text for row in rows.values()))


def _name(row: Row) -> Cell:
    text, note = (row["model"], row["variant"]) if row["role"] == "naive" else (row["variant"], row["model"])
    return Cell(text, note, f"{row['model']} {row['variant']}")


def _main_runtime(runtime: str) -> list[Column]:
    name = runtime_name(runtime)
    return [
        Column(name, "time", lambda row: _time(row, runtime)),
        Column(name, "speed-up", lambda row: _speedup(row, runtime)),
        Column(name, "file, RAM", lambda row: _footprint(row, runtime)),
    ]


def _other_runtime(runtime: str) -> Column:
    return Column(runtime_name(runtime), "time, speed-up", lambda row: _time_and_speedup(row, runtime))


def _time(row: Row, runtime: str) -> Cell:
    return _plain(row.get(f"{runtime}_ms"), lambda ms: f"{three_digits(ms)} ms")


def _time_and_speedup(row: Row, runtime: str) -> Cell:
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


def _difference(row: Row, column: str) -> Cell:
    value = row.get(column)
    if value is None or missing(value):
        return Cell()
    verdict = row[f"{column}_verdict"]
    if verdict == "no interval":
        return Cell(signed(value), "no interval", value, "faint")
    mark: Literal["better", "worse", "faint"] = verdict if verdict in ("better", "worse") else "faint"
    return Cell(signed(value), f"{signed(row[f'{column}_low'])} … {signed(row[f'{column}_high'])}", value, mark)


def _speedup(row: Row, runtime: str) -> Cell:
    """A ratio is a speed-up only when its interval leaves out 1; one below 1 is called slower."""
    ratio = row.get(f"{runtime}_speedup")
    if ratio is None or missing(ratio):
        return Cell()
    low, high = row[f"{runtime}_speedup_low"], row[f"{runtime}_speedup_high"]
    note = f"{low:.2f} … {high:.2f}"
    if low > 1:
        return Cell(f"{ratio:.2f} ×", note, ratio, "better")
    if high < 1:
        return Cell(f"slower, {ratio:.2f} ×", note, ratio, "worse")
    return Cell(NO_SPEEDUP, note, ratio, "faint")


_CHANGE = "change of MSE against"
_ERRORS = (
    Column("test error", "MSE", lambda row: _spread(row, "mse")),
    Column("test error", "MAE", lambda row: _spread(row, "mae")),
    Column(_CHANGE, "dense", lambda row: _difference(row, "vs_dense")),
    Column(_CHANGE, "dense, trained on", lambda row: _difference(row, "vs_trained_on")),
    Column(_CHANGE, "small dense", lambda row: _difference(row, "vs_small_dense")),
)
_COSTS = (
    Column("size", "non-zero", lambda row: _share(row, "nonzero", "sparsity")),
    Column("size", "zip", lambda row: _plain(row.get("zip_bytes"), size)),
    Column("size", "multiply-adds", _macs),
)


def to_latex(rows: Rows, main: str | None) -> str:
    """Returns the table as a LaTeX tabular (package booktabs), every text escaped; a star marks a difference shown."""
    shown = _narrow(rows, main)
    cells = [[_one_line(column.cell(row)) for column in shown] for row in rows.values()]
    table = Frame(cells, columns=[column.title for column in shown])
    layout = "".join("r" if column.numeric else "l" for column in shown)
    return table.to_latex(index=False, escape=True, column_format=layout).translate(_LATEX_SIGNS)


def to_texts(rows: Rows, main: str | None) -> list[dict[str, Any]]:
    """Returns the table for a terminal: of the intervals only that of the speed-up, else a star where 0 is outside."""
    _, *numbers = (column for column in _narrow(rows, main) if column.header not in _TOO_MUCH_IN_A_TERMINAL)
    several_cases = len({key.case for key in rows}) > 1
    return [
        ({"case": key.case.title} if several_cases else {})
        | {"model": row["model"], "variant": row["variant"]}
        | {_short(column): _shown(column, column.cell(row)) for column in numbers}
        for key, row in rows.items()
    ]


def _shown(column: Column, cell: Cell) -> str:
    return _one_line(cell) if column.header == "speed-up" else f"{cell.text}{_star(cell)}"


def _short(column: Column) -> str:
    return f"vs {column.header.removeprefix('dense, ')}" if column.group == _CHANGE else column.header


def _narrow(rows: Rows, main: str | None) -> list[Column]:
    return [column for column in columns(rows, (), main) if column.header not in _TOO_MUCH_ON_PAPER]


_TOO_MUCH_ON_PAPER = ("seeds", "MAE", "small dense", "zip", "file, RAM")
_TOO_MUCH_IN_A_TERMINAL = ("multiply-adds",)
_LATEX_SIGNS = str.maketrans({"−": "$-$", "±": "$\\pm$", "×": "$\\times$", "…": "\\dots{}"})
"""Signs that we write ourselves and plain LaTeX does not know."""


def _one_line(cell: Cell) -> str:
    note = f" ({cell.note})" if cell.note else ""
    return f"{cell.text}{_star(cell)}{note}"


def _star(cell: Cell) -> str:
    return "*" if cell.mark in ("better", "worse") else ""

"""The table that people read: which columns, how each number is written, and what it may be called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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


def columns(rows: Rows, runtimes: Sequence[str], main: str | None) -> tuple[Column, ...]:
    """Returns the columns that have something to show; file and memory only of the `main` runtime."""
    offered = [*_names(rows.values()), *_ERRORS, *_COSTS]
    for runtime in runtimes:
        offered += _times(runtime) + (_footprint(runtime) if runtime == main else [])
    return tuple(column for column in offered if any(column.cell(row).text for row in rows.values()))


def _names(rows: Iterable[Row]) -> list[Column]:
    names = [
        Column("", "model", lambda row: Cell(row["model"], order=row["model"]), numeric=False),
        Column("", "variant", lambda row: Cell(row["variant"], order=row["variant"]), numeric=False),
    ]
    if len({row["seeds"] for row in rows}) > 1:  # a stage failed: say where seeds are lacking
        names.append(Column("", "seeds", lambda row: Cell(f"{row['seeds']:.0f}", order=row["seeds"])))
    return names


_ERRORS = (
    Column("test error", "MSE", lambda row: _spread(row, "mse")),
    Column("test error", "MAE", lambda row: _spread(row, "mae")),
    Column("change of MSE against", "dense", lambda row: _difference(row, "vs_dense")),
    Column("change of MSE against", "dense, trained on", lambda row: _difference(row, "vs_trained_on")),
    Column("change of MSE against", "small dense", lambda row: _difference(row, "vs_small_dense")),
)
_COSTS = (
    Column("size", "non-zero", lambda row: _share(row, "nonzero", "sparsity")),
    Column("size", "zip", lambda row: _plain(row.get("zip_bytes"), size)),
    Column("multiply-adds", "all", lambda row: _plain(row.get("dense_macs"), count)),
    Column("multiply-adds", "non-zero", lambda row: _plain(row.get("effective_macs"), count)),
)


def _times(runtime: str) -> list[Column]:
    name = runtime_name(runtime)
    return [
        Column(name, "time", lambda row: _plain(row.get(f"{runtime}_ms"), lambda ms: f"{three_digits(ms)} ms")),
        Column(name, "speed-up", lambda row: _speedup(row, runtime)),
    ]


def _footprint(runtime: str) -> list[Column]:
    name = runtime_name(runtime)
    return [
        Column(name, "file", lambda row: _plain(row.get(f"{runtime}_bytes"), size)),
        Column(name, "peak memory", lambda row: _plain(row.get(f"{runtime}_peak_bytes"), size)),
    ]


def _plain(value: float | None, write: Callable[[float], str]) -> Cell:
    return Cell() if value is None or missing(value) else Cell(write(value), order=value)


def _share(row: Row, column: str, gone: str) -> Cell:
    cell = _plain(row.get(column), count)
    share = row.get(gone)
    note = "" if share is None or missing(share) else f"sparsity {percent(round(share, 3))}"
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


def to_latex(rows: Rows, main: str | None) -> str:
    """Returns the table as a LaTeX tabular (package booktabs), every text escaped; a star marks a difference shown."""
    offered = columns(rows, [] if main is None else [main], None)
    shown = [column for column in offered if column.header not in _TOO_MUCH_ON_PAPER]
    heads = [f"{column.group}: {column.header}" if column.group else column.header for column in shown]
    cells = [[_one_line(column.cell(row)) for column in shown] for row in rows.values()]
    table = Frame(cells, columns=heads)
    layout = "".join("r" if column.numeric else "l" for column in shown)
    return table.to_latex(index=False, escape=True, column_format=layout).translate(_LATEX_SIGNS)


_TOO_MUCH_ON_PAPER = ("seeds", "MAE", "small dense", "zip", "all")
_LATEX_SIGNS = str.maketrans({"−": "$-$", "±": "$\\pm$", "×": "$\\times$", "…": "\\dots{}"})
"""Signs that we write ourselves and plain LaTeX does not know."""


def _one_line(cell: Cell) -> str:
    star = "*" if cell.mark in ("better", "worse") else ""
    note = f" ({cell.note})" if cell.note else ""
    return f"{cell.text}{star}{note}"

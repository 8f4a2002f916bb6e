"""A table as people see it, and as CSV and LaTeX: cells with a number, its interval below it, and a mark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import pandas as pd

Mark = Literal["", "better", "worse", "faint"]

Link = tuple[str, str]
"""The text of a link, and the fingerprint of the record that it leads to."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the number, or a word.
        note: a smaller second line: its interval, say.
        order: what it sorts by; in CSV files a number stands in full.
        mark: better or worse where an interval says so.
        flag: a sign behind the text, with what it means.
        more: a third line.
        records: fingerprints that the cell leads to, each with the text of its link.
        page: the page and place in it that the cell leads to.
    """

    text: str = ""
    note: str = ""
    order: float | str | None = None
    mark: Mark = ""
    flag: tuple[str, str] | None = None
    more: str = ""
    records: tuple[Link, ...] = ()
    page: str = ""

    @property
    def shown(self) -> str:
        """The text with its signs: a star where the cell is better or worse by its interval, and its flag."""
        star = "*" if self.mark in ("better", "worse") else ""
        return f"{self.text}{star}{self.flag[0] if self.flag else ''}"

    @property
    def one_line(self) -> str:
        """The text with its signs, and its note in brackets."""
        return f"{self.shown} ({self.note})" if self.note else self.shown


@dataclass(frozen=True)
class Head:
    """The head of a column, under a group of columns.

    Attributes:
        group: what it shares with its neighbours.
        header: its own.
        numeric: whether its cells are numbers.
        paper: whether a printed table has room for it.
        name: whether it says what the row is of.
    """

    group: str
    header: str
    numeric: bool = True
    paper: bool = True
    name: bool = False

    @property
    def title(self) -> str:
        """The heading with its group's, for tables of one heading line."""
        return f"{self.group}: {self.header}" if self.group else self.header


RECORDS = Head("", "records", numeric=False, paper=False)
"""The last column of a table whose numbers come from several records."""


@dataclass(frozen=True)
class TableRow:
    """A row: its cells by column, the series that its mark is drawn as, and what it is, for its look."""

    cells: Mapping[Head, Cell]
    series: str = ""
    kind: str = ""
    open: bool = False

    @property
    def values(self) -> tuple[Cell, ...]:
        """The cells alone."""
        return tuple(self.cells.values())


@dataclass(frozen=True)
class ReportTable:
    """A table, whose rows all have the same columns. `name` is made by us and safe as a file's."""

    name: str
    title: str
    rows: Sequence[TableRow]
    note: str = ""
    sortable: bool = False

    @property
    def heads(self) -> tuple[Head, ...]:
        """The columns."""
        return tuple(self.rows[0].cells) if self.rows else ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The upper line of the head: each group of columns and how many it spans; nothing where none has a name."""
        found = [(group, len(list(members))) for group, members in groupby(self.heads, key=lambda head: head.group)]
        return found if any(group for group, _ in found) else []

    @property
    def narrowed(self) -> ReportTable:
        """The table for a page that says already what is the same in all its rows; one name at least stays."""
        names = [head for head in self.heads if head.name]
        varied = [head for head in names if len({row.cells[head].text for row in self.rows}) > 1] or names[-1:]
        return self.of_columns([head for head in self.heads if not head.name or head in varied])

    def without_empty(self) -> ReportTable:
        """Returns the table without the columns that have nothing to show."""
        cells = {head: [row.cells[head] for row in self.rows] for head in self.heads}
        return self.of_columns(
            [head for head, found in cells.items() if any(cell.text or cell.records for cell in found)]
        )

    def of_columns(self, heads: Sequence[Head]) -> ReportTable:
        """Returns the table with these columns alone."""
        rows = [replace(row, cells={head: row.cells[head] for head in heads}) for row in self.rows]
        return replace(self, rows=rows)

    def files(self) -> dict[str, str]:
        """Returns file name -> text of the table as CSV and as LaTeX."""
        return {f"{self.name}.csv": to_csv(self), f"{self.name}.tex": to_latex(self)}


def name_head(header: str) -> Head:
    """Returns the head of a column that says what the row is of."""
    return Head("", header, numeric=False, name=True)


def linked(found: Iterable[tuple[str, Iterable[Link]]]) -> Cell:
    """Returns links to the records of several things; the first of each bears the name of the thing, if it has one."""
    return Cell(
        records=tuple(
            (f"{name}: {text}" if name and not number else text, fingerprint)
            for name, links in found
            for number, (text, fingerprint) in enumerate(links)
        )
    )


def inert(value: Any) -> Any:
    """Returns a text that no spreadsheet takes for a formula; other values as they are."""
    if not isinstance(value, str):
        return value
    line = _CONTROL.sub(" ", value)  # a lone carriage return would start a new row
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def frame_to_csv(table: pd.DataFrame) -> str:
    """Returns a data frame as CSV; text that a spreadsheet would take for a formula gets a leading apostrophe."""
    safe = table.convert_dtypes()
    for column in safe.select_dtypes(["string", "object"]):
        safe[column] = safe[column].map(inert, na_action="ignore")
    return safe.rename(columns=inert).to_csv(index=False, lineterminator="\n")


def to_csv(table: ReportTable) -> str:
    """Returns the table as CSV: numbers in full, the second lines in columns of their own, records by fingerprint."""
    columns: dict[str, list[Any]] = {}
    for head in table.heads:
        cells = [row.cells[head] for row in table.rows]
        columns[inert(head.title)] = [_csv_value(cell) for cell in cells]
        notes = [inert(_csv_note(cell)) for cell in cells]
        if any(notes):
            columns[inert(f"{head.title}, note")] = notes
    return pd.DataFrame(columns, dtype=object).to_csv(index=False, lineterminator="\n")


def _csv_value(cell: Cell) -> Any:
    if isinstance(cell.order, int | float):
        return cell.order
    return " ".join(fingerprint for _, fingerprint in cell.records) if cell.records else inert(cell.text)


def _csv_note(cell: Cell) -> str:
    """Returns what a cell says beside its number: its lines below, and what its signs mean."""
    most = "at least" if cell.text.startswith("≥") else ""
    verdict = cell.mark if cell.mark in ("better", "worse") else ""
    return " ".join(part for part in (most, verdict, cell.note, cell.more, cell.flag[1] if cell.flag else "") if part)


def to_latex(table: ReportTable) -> str:
    """Returns the table as a LaTeX tabular (package booktabs), every text escaped; a star marks a difference shown."""
    printed = table.of_columns([head for head in table.heads if head.paper])
    lines = []
    if printed.groups:
        spans, rules, first = [], [], 1
        for group, span in printed.groups:
            spans.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(group)}}}")
            if group:
                rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
            first += span
        lines += [" & ".join(spans) + r" \\", "".join(rules)]
    texts = [[head.header for head in printed.heads], *([cell.one_line for cell in row.values] for row in printed.rows)]
    heading, *body = (" & ".join(map(escape_latex, line)) + r" \\" for line in texts)
    layout = "".join("r" if head.numeric else "l" for head in printed.heads)
    whole = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", *lines, heading, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*whole, r"\end{tabular}", ""])


def escape_latex(text: str) -> str:
    """Returns text that LaTeX sets as it stands, whatever a file called its columns."""
    return _CONTROL.sub(" ", " ".join(text.split())).translate(_LATEX)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",  # after the end of a row either would be taken for an argument
        "*": "{*}",
        "−": "$-$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "…": r"\dots{}",
        "◇": r"$\diamond$",
        "≥": r"$\geq$",
        "\u00a0": "~",
    }
)
"""Signs that mean something to LaTeX, and those of ours that plain LaTeX does not know."""

"""How the command line speaks: tables for people, or one JSON object on stdout; progress goes to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from prunecast.results import Result
    from prunecast.study.executor import ConsoleMonitor
    from prunecast.train.progress import Reporter

Row = Mapping[str, Any]

PLAIN_WIDTH = 140
"""Columns of a table in a file or a pipe, unless COLUMNS says how wide the screen is."""


@dataclass(frozen=True)
class Output:
    """Where results go, and whether progress is shown."""

    as_json: bool = False
    quiet: bool = False

    def result(self, result: Result) -> None:
        """Shows what a verb gave back: name and value; lists of rows come as tables below."""
        if self.as_json:
            print(json.dumps(result.to_json(), allow_nan=False))
            return
        facts = result.shown()
        ready = result.tables()
        for title, rows in ready.items():
            self._table(title, rows)
        facts = {name: value for name, value in facts.items() if name not in ready}
        tables = {
            name: rows
            for name, rows in facts.items()
            if isinstance(rows, list) and rows and isinstance(rows[0], Mapping)
        }
        plain = Table(show_header=False, box=None)
        plain.add_column(no_wrap=True)
        for name in (name for name in facts if name not in tables):
            plain.add_row(Text(name), _cell(facts[name]))
        if plain.row_count:
            _console().print(plain)
        for name, rows in tables.items():
            self._table(name, rows)

    def _table(self, title: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        table = Table(
            title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
        )
        for column in rows[0]:
            numbers = all(isinstance(row[column], int | float | None) for row in rows)
            table.add_column(Text(column), justify="right" if numbers else "left")
        for row in rows:
            table.add_row(*(Text(_plain(value)) for value in row.values()))
        _console().print(table)

    def training(self, title: str) -> Reporter:
        """Returns what shows the progress of training."""
        from prunecast.train.progress import ConsoleReporter, Reporter

        return Reporter() if self.quiet else ConsoleReporter(title)

    def monitor(self) -> ConsoleMonitor:
        """Returns what shows the progress of a study."""
        from prunecast.study.executor import ConsoleMonitor

        return ConsoleMonitor(quiet=self.quiet)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal or os.environ.get("COLUMNS") else Console(width=PLAIN_WIDTH)


def _cell(value: Any) -> Text | Table:
    """Returns a value for people; several texts stand one below the other."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(item, str) for item in value):
        return Text(_plain(value))
    lines = Table.grid(padding=(0, 1))
    for item in value:
        lines.add_row("-", Text(item))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e10 else f"{value:,.4g}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_plain(item) for item in value) or "none"
    return str(value)

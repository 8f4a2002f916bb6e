"""Whether a study's report is still that of its records, told without reading them: by sizes and times of files.

A finished study of ten thousand cells is gone on with in seconds; to load its records alone takes as long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prunecast import report
from prunecast.report.page import ReportFiles
from prunecast.store import RECORD_FILE, new_file
from prunecast.study.study import Study

SHOWN_FILE = "report.json"


class _Shown(BaseModel):
    """A report as it was written: what it was made from, its files, and its rows for a terminal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    page: str
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    stamps: str
    rows: tuple[dict[str, Any], ...]


def state_of(study: Study, page: Path) -> str:
    """Returns a hash that changes with whatever the report depends on: records, failures, title, code and place."""
    names = sorted(name for found in study.names().values() for name in found)
    failures = [failure.model_dump_json() for failure in study.failures()]
    parts = [study.title, str(page.absolute()), names, failures]
    records = _stamps(study.store.directory(name) / RECORD_FILE for name in names)
    code = sorted(path for path in Path(report.__path__[0]).rglob("*") if path.suffix != ".pyc" and path.is_file())
    return _digest([*parts, records, _stamps(code)])


def remembered(directory: Path, state: str) -> ReportFiles | None:
    """Returns the report of a state, where it was written before and its files are as they were then."""
    try:
        shown = _Shown.model_validate_json((directory / SHOWN_FILE).read_bytes())
        tables, figures = (tuple(directory / name for name in names) for names in (shown.tables, shown.figures))
        files = ReportFiles(directory / shown.page, tables, figures, shown.rows)
        same = shown.state == state and shown.stamps == _stamps_of(files)
    except (OSError, ValidationError):
        return None
    return files if same else None


def remember(directory: Path, state: str, files: ReportFiles) -> None:
    """Takes note of the report that was written of a state."""
    tables, figures = (
        tuple(str(path.relative_to(directory)) for path in paths) for paths in (files.tables, files.figures)
    )
    shown = _Shown(
        state=state,
        page=files.page.name,
        tables=tables,
        figures=figures,
        stamps=_stamps_of(files),
        rows=files.rows,
    )
    with new_file(directory / SHOWN_FILE, replace=True) as path:
        path.write_text(shown.model_dump_json(indent=1) + "\n")


def _stamps_of(files: ReportFiles) -> str:
    return _digest(_stamps((files.page, *files.tables, *files.figures)))


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    found = ((path, path.stat()) for path in paths)
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

"""The report: one HTML file that works offline, and a folder beside it with tables and charts as files.

The first page stands in the file as it is. The others lie in it compressed and are unpacked by the browser when they
are opened, so that a study of ten thousand records opens as fast as one of ten.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from prunecast.errors import UserError
from prunecast.records import Failure, RunRecord
from prunecast.report import svg
from prunecast.report.columns import to_texts
from prunecast.report.figure import Figure
from prunecast.report.format import runtime_name, size
from prunecast.report.manifest import FILE as MANIFEST_FILE
from prunecast.report.manifest import Manifest, digest, inputs_digest, read_manifest
from prunecast.report.material import Links, Material
from prunecast.report.overview import Overview, overview
from prunecast.report.run import failure_sheet, run_sheet, what_was_run
from prunecast.report.sheet import Sheet, one_line
from prunecast.report.tables import tables
from prunecast.report.theme import Look
from prunecast.report.views import View, all_views
from prunecast.store import Store, new_file

PNG_SCALE = 2
MOST_ROWS = 80
"""More variants than that are no table for a terminal; it gets the headline instead."""

_MENU = {"data": "Data sets", "model": "Models", "method": "Methods", "fronts": "Fronts", "published": "Published"}


@dataclass(frozen=True)
class ReportFiles:
    """What was written: the page, the tables (CSV and LaTeX), the charts (SVG and PNG); `rows` are for a terminal."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    rows: tuple[dict[str, Any], ...] = ()


def write_report(
    records: Sequence[RunRecord],
    failures: Sequence[Failure],
    out: Path,
    *,
    title: str,
    store: Store | None = None,
) -> ReportFiles:
    """Writes the report of a study to `out`, and its tables and charts into the folder `<stem>_files` beside it.

    The same records give the same files, byte for byte; where they lie already, nothing is drawn again.

    Args:
        records: of all finished stages of one study, in any order.
        failures: of the stages that did not finish.
        out: the HTML file; replaced where it exists.
        title: of the page.
        store: where the records lie, so that each number can lead to its own.

    Raises:
        UserError: when no record has a test error, when numbers of one case were scored differently, or when a
            file cannot be written.
    """
    if not any(record.test is not None for record in records):
        raise UserError(f"expected records of at least one scored model, found none; {_why_none(failures)}")
    material = Material.of(records)
    links = Links(store, out)
    folder = out.with_name(f"{out.stem}_files")
    inputs = inputs_digest(records, failures, f"{title}\n{links.record('')}")
    views = all_views(material)
    first = overview(material, views)
    rows = _terminal_rows(material, first)
    present = read_manifest(folder)
    if present is not None and present.inputs == inputs and present.holds(out, folder):
        return _files(out, folder, present, rows)
    run = what_was_run(material, failures)
    about = [run_sheet(run), *([failure_sheet(failures)] if failures else [])]
    data_files = tables(material.runs, material.summary, material.compared)
    texts = dict(data_files) | _sheet_files(
        [*first.sheets, *about, *(sheet for view in views for sheet in view.sheets)]
    )
    written = [_write(folder / name, text).name for name, text in texts.items()]
    drawn = [path.name for figure in first.figures for path in _draw(folder, figure)]
    page = _Renderer(material, links, folder.name).page(
        title, first, views, run, data_files=list(data_files), figure_files=drawn
    )
    _write(out, page)
    manifest = Manifest(inputs=inputs, page=digest(page.encode()), tables=tuple(written), figures=tuple(drawn))
    if present is not None:
        manifest.sweep(present, folder)
    _write(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1) + "\n")
    return _files(out, folder, manifest, rows)


def _files(page: Path, folder: Path, manifest: Manifest, rows: tuple[dict[str, Any], ...]) -> ReportFiles:
    found, drawn = ([folder / name for name in names] for names in (manifest.tables, manifest.figures))
    return ReportFiles(page, tuple(found), tuple(drawn), rows)


def _why_none(failures: Sequence[Failure]) -> str:
    if not failures:
        return "run the study first"
    return f"{len(failures)} stages failed, the first ({failures[0].label}): {failures[0].reason}"


def _terminal_rows(material: Material, first: Overview) -> tuple[dict[str, Any], ...]:
    if len(material.rows) <= MOST_ROWS or first.headline is None:
        return tuple(to_texts(material.rows, material.clocks.main))
    heads = [head.title for head in first.headline.heads]
    return tuple(dict(zip(heads, map(one_line, row.cells), strict=True)) for row in first.headline.rows)


def _sheet_files(sheets: Sequence[Sheet]) -> dict[str, str]:
    return {name: text for sheet in sheets for name, text in sheet.files().items()}


class _Renderer:
    """Sets pages with the templates in `assets/`; every text is escaped there."""

    def __init__(self, material: Material, links: Links, folder: str) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("prunecast.report", "assets"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_unbroken,
        )
        self._environment.filters |= {
            "size": size,
            "runtime_name": runtime_name,
            "record": links.record,
            "mark": _mark,
        }
        self._material = material
        self._shared: dict[str, Any] = {"folder": folder, "looks": {**material.model_looks, **material.looks}}

    def page(
        self,
        title: str,
        first: Overview,
        views: Sequence[View],
        run: Mapping[str, Any],
        **files: Sequence[str],
    ) -> str:
        menu = [(_MENU[kind], list(found)) for kind, found in groupby(views, key=lambda view: view.kind)]
        context = {
            "title": title,
            "overview": first,
            "run": run,
            "failures": failure_sheet(run["failures"]),
            "menu": menu,
            "views": views,
            "packed": {view.name: _packed(self._view(view)) for view in views},
            "datasets": len(self._material.datasets),
            "models": len(self._material.models),
        }
        return self._render("page.html.j2", context | files)

    def _view(self, view: View) -> str:
        return self._render("fronts.html.j2" if view.kind == "fronts" else "view.html.j2", {"view": view})

    def _render(self, template: str, context: Mapping[str, Any]) -> str:
        return self._environment.get_template(template).render({**self._shared, **context})


def _packed(page: str) -> str:
    return base64.b64encode(gzip.compress(page.encode(), 9, mtime=0)).decode()


def _mark(look: Look, is_open: bool) -> str:
    return svg.marker(look.shape, (0, 0), look.colour, filled=not is_open, radius=4.6)


def _unbroken(value: Any) -> Any:
    """Keeps a number and its sign on one line; what is marked safe (pictures) stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return value.replace(" %", "\u00a0%").replace(" ×", "\u00a0×")
    return value


def _draw(folder: Path, figure: Figure) -> tuple[Path, Path]:
    vector = _write(folder / f"{figure.name}.svg", figure.file)
    with new_file(folder / f"{figure.name}.png", replace=True) as path:
        path.write_bytes(vl_convert.svg_to_png(figure.file, scale=PNG_SCALE))
    return vector, folder / f"{figure.name}.png"


def _write(target: Path, text: str) -> Path:
    with new_file(target, replace=True) as path:
        path.write_text(text, encoding="utf-8", newline="\n")
    return target

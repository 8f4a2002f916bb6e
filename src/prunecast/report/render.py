"""The report: one HTML file that works offline, and a folder beside it with tables and charts as files.

The first page stands in the file as it is, its charts as pictures. The others lie in it compressed, with Vega to draw
their charts, and are unpacked by the browser when they are opened, so that a study of ten thousand records opens as
fast as one of ten.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import vl_convert
from pydantic import TypeAdapter, ValidationError

from prunecast.errors import UserError
from prunecast.records import Failure
from prunecast.report.context import Context
from prunecast.report.pages import Overview, Page, Run, all_pages, overview, what_was_run
from prunecast.report.sheets import failure_table, to_texts
from prunecast.report.style import CONFIG, Chart, Look, Spec, beside, mark_svg, runtime_name, size
from prunecast.report.summary import EVERYWHERE, comparison_table
from prunecast.report.tables import frame_to_csv
from prunecast.store import RECORD_FILE, Store, new_file
from prunecast.study.frame import StudyFrame

PNG_SCALE = 2
MOST_ROWS = 80
"""More variants than that are no table for a terminal; it gets the headline instead."""

_MENU = {"data": "Data sets", "model": "Models", "method": "Methods", "fronts": "Fronts", "published": "Published"}
_OURS = frozenset({".csv", ".tex", ".svg", ".png"})


@dataclass(frozen=True)
class ReportFiles:
    """What was written: the page, the tables (CSV and LaTeX), the charts (SVG and PNG); `rows` are for a terminal."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    rows: tuple[dict[str, Any], ...] = ()

    def stamp(self, made_from: Iterable[str]) -> str:
        """Returns a hash that changes with what the report was made from, with our code, and with any of the files."""
        code = (path for path in Path(__file__).parent.rglob("*") if path.suffix != ".pyc" and path.is_file())
        files = [(path, path.stat()) for path in (*sorted(code), self.page, *self.tables, *self.figures)]
        seen = [(str(path.absolute()), stat.st_size, stat.st_mtime_ns) for path, stat in files]
        return hashlib.sha256(json.dumps([list(made_from), seen]).encode()).hexdigest()


_WRITTEN = TypeAdapter(tuple[str, ReportFiles])


def remember(files: ReportFiles, made_from: Iterable[str]) -> None:
    """Takes note, in a file beside the page, of a report that was written."""
    with new_file(files.page.with_suffix(".json"), replace=True) as path:
        path.write_bytes(_WRITTEN.dump_json((files.stamp(made_from), files), indent=1) + b"\n")


def remembered(page: Path, made_from: Iterable[str]) -> ReportFiles | None:
    """Returns the report at a place if it was made from the same and nothing of it has changed since.

    A finished study of ten thousand cells is gone on with in seconds; writing its report takes longer.
    """
    try:
        stamp, files = _WRITTEN.validate_json(page.with_suffix(".json").read_bytes())
        return files if files.page == page and stamp == files.stamp(made_from) else None
    except (OSError, ValidationError):
        return None


def write_report(
    frame: StudyFrame, failures: Sequence[Failure], out: Path, *, title: str, store: Store | None = None
) -> ReportFiles:
    """Writes the report of a study to `out`, and its tables and charts into the folder `<stem>_files` beside it.

    The same records give the same files, byte for byte. The folder is the report's own: tables and charts in it that
    this report does not have are removed.

    Args:
        frame: all finished stages of one study, in any order.
        failures: of the stages that did not finish.
        out: the HTML file; replaced where it exists.
        title: of the page.
        store: where records lie, so that each number can lead to its own; what has no file there is held in the page.

    Raises:
        UserError: when no stage has a test error, when numbers of one case were scored differently, or when a
            file cannot be written.
    """
    if "test_mse" not in frame.stages or frame.stages["test_mse"].isna().all():
        raise UserError(f"expected records of at least one scored model, found none; {_why_none(failures)}")
    context = Context(frame)
    pages = all_pages(context)
    first = overview(context, pages)
    run = what_was_run(context, failures)
    folder = out.with_name(f"{out.stem}_files")
    texts = {
        "summary.csv": frame_to_csv(context.summary),
        "runs.csv": frame_to_csv(context.runs),
        "comparisons.csv": frame_to_csv(comparison_table(context.compared.values())),
    }
    data_files = list(texts)
    for table in (*first.tables, *run.tables, *(table for page in pages for table in page.tables)):
        texts |= table.files()
    tables = [_write(folder / name, text) for name, text in texts.items()]
    pictures = {chart.name: vl_convert.vegalite_to_svg(chart.spec(title=True), config=CONFIG) for chart in first.charts}
    together = (
        {"overview": vl_convert.vegalite_to_svg(beside(first.pictures), config=CONFIG)}
        if len(first.pictures) > 1
        else {}
    )
    figures = [path for name, svg in (together | pictures).items() for path in _draw(folder, name, svg)]
    links = _Links(frame, store, out)
    renderer = _Renderer(context, links, folder.name, pictures)
    files = {"data_files": data_files, "chart_files": [path.name for path in figures]}
    _write(out, renderer.page(title, (first, *pages), run, files))
    for path in {*folder.iterdir()} - {*tables, *figures}:
        if path.suffix in _OURS and path.is_file():
            path.unlink()
    return ReportFiles(out, tuple(tables), tuple(figures), _terminal_rows(context, first))


def _why_none(failures: Sequence[Failure]) -> str:
    if not failures:
        return "run the study first"
    return f"{len(failures)} stages failed, the first ({failures[0].label}): {failures[0].reason}"


def _terminal_rows(context: Context, first: Overview) -> tuple[dict[str, Any], ...]:
    if len(context.rows) <= MOST_ROWS or not first.headline.rows:
        return tuple(to_texts(context.rows, context.timings.main))
    return tuple({head.title: cell.one_line for head, cell in row.cells.items()} for row in first.headline.rows)


class _Links:
    """Where the records lie, seen from the page: beside it as files, or inside it."""

    def __init__(self, frame: StudyFrame, store: Store | None, page: Path) -> None:
        names = frame.stages["fingerprint"]
        self._files = {}
        if store is not None:
            found = {name: store.directory(name) / RECORD_FILE for name in names}
            self._files = {name: path for name, path in found.items() if path.is_file()}
        self._page = page
        self.held = frame.stages[~names.isin(list(self._files))].sort_values("fingerprint")

    def record(self, fingerprint: str) -> str:
        """Returns the address of a record, relative to the page."""
        if fingerprint not in self._files:
            return f"#record:{fingerprint}"
        return quote(Path(os.path.relpath(self._files[fingerprint], self._page.parent)).as_posix())


class _Renderer:
    """Sets pages with the templates in `assets/`; every text is escaped there, also inside scripts."""

    def __init__(self, context: Context, links: _Links, folder: str, pictures: Mapping[str, str]) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("prunecast.report", "assets"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_unbroken,
        )
        self._environment.filters |= {"size": size, "runtime_name": runtime_name, "record": links.record, "mark": _mark}
        self._environment.globals |= {"folder": folder, "looks": {**context.model_looks, **context.looks}}
        self._environment.globals |= {"pictures": pictures, "specs": self._specs, "everywhere": EVERYWHERE}
        self._context, self._links = context, links
        self._templates: dict[int, tuple[int, Spec]] = {}

    def page(
        self, title: str, pages: tuple[Overview, *tuple[Page, ...]], run: Run, files: Mapping[str, Sequence[str]]
    ) -> str:
        first, *others = pages
        packed = {page.name: _packed(self._render("view.html.j2", page=page)) for page in others}
        self._specs(first)  # the templates of all charts must be known before they are packed
        templates = {"config": CONFIG, "templates": [template for _, template in self._templates.values()]}
        held = {"vega": vega_script(), "templates": _packed(json.dumps(templates, sort_keys=True))}
        return self._render(
            "page.html.j2",
            title=title,
            overview=first,
            run=run,
            failures=failure_table(run.failures),
            menu=[(_MENU[kind], list(found)) for kind, found in groupby(others, key=lambda page: page.kind)],
            pages=others,
            packed=packed,
            held=held | {"records": _packed(_records(self._links))},
            datasets=len(self._context.datasets),
            models=len(self._context.models),
            **files,
        )

    def _specs(self, page: Page | Overview) -> dict[str, Spec]:
        """Returns the charts of a page as data for their templates."""
        return {chart.name: self._spec(chart) for chart in page.charts}

    def _spec(self, chart: Chart) -> Spec:
        number, _ = self._templates.setdefault(id(chart.template), (len(self._templates), chart.template))
        return {"template": number, "title": chart.heading, "data": chart.data, "params": chart.params}

    def _render(self, template: str, **content: Any) -> str:
        return self._environment.get_template(template).render(content)


def _records(links: _Links) -> str:
    """Returns the records that have no file, by column, as JSON."""
    columns = links.held.astype(object).where(links.held.notna(), None)
    return json.dumps({str(name): columns[name].tolist() for name in columns}, default=str)


@cache
def vega_script() -> str:
    """Returns Vega, Vega-Lite and their embedding as one script, packed; it runs under a policy without eval."""
    return _packed(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _packed(page: str) -> str:
    return base64.b64encode(gzip.compress(page.encode(), 6, mtime=0)).decode()


def _mark(look: Look, is_open: bool) -> str:
    return mark_svg(look, filled=not is_open)


def _unbroken(value: Any) -> Any:
    """Keeps a number and its sign on one line; what is marked safe (pictures) stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return value.replace(" %", "\u00a0%").replace(" ×", "\u00a0×")
    return value


def _draw(folder: Path, name: str, svg: str) -> tuple[Path, Path]:
    vector = _write(folder / f"{name}.svg", svg)
    with new_file(folder / f"{name}.png", replace=True) as path:
        path.write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))
    return vector, folder / f"{name}.png"


def _write(target: Path, text: str) -> Path:
    with new_file(target, replace=True) as path:
        path.write_text(text, encoding="utf-8", newline="\n")
    return target

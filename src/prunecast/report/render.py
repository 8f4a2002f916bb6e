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
from prunecast.report.style import CONFIG, Spec, beside, mark_svg, plural, runtime_name, size
from prunecast.report.summary import EVERYWHERE, comparison_table
from prunecast.report.tables import frame_to_csv
from prunecast.store import RECORD_FILE, Store, write_files
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
    note = _WRITTEN.dump_json((files.stamp(made_from), files), indent=1)
    write_files({files.page.with_suffix(".json"): note + b"\n"})


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
        why = "run the study first"
        if failures:
            why = f"{len(failures)} stages failed, the first ({failures[0].label}): {failures[0].reason}"
        raise UserError(f"expected records of at least one scored model, found none; {why}")
    context = Context(frame)
    pages = all_pages(context)
    first, run = overview(context), what_was_run(context, failures)
    folder = out.with_name(f"{out.stem}_files")
    data = {
        "summary": context.summary,
        "runs": context.runs,
        "comparisons": comparison_table(context.compared.values()),
    }
    texts = {f"{name}.csv": frame_to_csv(found) for name, found in data.items()}
    data_files = list(texts)
    for table in (*first.tables, *run.tables, *(table for page in pages for table in page.tables)):
        texts |= table.files()
    tables = {folder / name: text.encode() for name, text in texts.items()}
    specs = {"overview": beside(first.pictures)} if len(first.pictures) > 1 else {}
    specs |= {chart.name: chart.spec for chart in first.charts}
    specs |= {"ways": beside(first.ways)} if len(first.ways) > 1 else {}
    pictures = {name: vl_convert.vegalite_to_svg(spec, config=CONFIG) for name, spec in specs.items()}
    figures = {}
    for name, svg in pictures.items():
        figures[folder / f"{name}.svg"] = svg.encode()
        figures[folder / f"{name}.png"] = vl_convert.svg_to_png(svg, scale=PNG_SCALE)
    files = {"data_files": data_files, "chart_files": [path.name for path in figures]}
    html = _html(context, first, pages, out=out, store=store, pictures=pictures, run=run, title=title, files=files)
    write_files({**tables, **figures, out: html.encode()})
    for path in {*folder.iterdir()} - {*tables, *figures}:
        if path.suffix in _OURS and path.is_file():
            path.unlink()
    return ReportFiles(out, tuple(tables), tuple(figures), _terminal_rows(context, first))


def _terminal_rows(context: Context, first: Overview) -> tuple[dict[str, Any], ...]:
    if len(context.rows) <= MOST_ROWS or not first.headline.rows:
        return tuple(to_texts(context))
    return tuple({head.title: cell.one_line for head, cell in row.cells.items()} for row in first.headline.rows)


def _html(
    context: Context,
    first: Overview,
    pages: Sequence[Page],
    *,
    out: Path,
    store: Store | None,
    pictures: Mapping[str, str],
    run: Run,
    title: str,
    files: Mapping[str, Sequence[str]],
) -> str:
    """Returns the page, set with the templates in `assets/`; every text is escaped there, also inside scripts."""
    stages = context.study.frame.stages
    paths = {name: store.directory(name) / RECORD_FILE for name in stages["fingerprint"]} if store is not None else {}
    stored = {name: path for name, path in paths.items() if path.is_file()}
    templates: dict[int, tuple[int, Spec]] = {}

    def record(fingerprint: str) -> str:
        """Returns where a record lies, seen from the page: beside it as a file, or inside it."""
        if fingerprint not in stored:
            return f"#record:{fingerprint}"
        return quote(Path(os.path.relpath(stored[fingerprint], out.parent)).as_posix())

    def specs(page: Page | Overview) -> dict[str, Spec]:
        """Returns the charts of a page as data for their templates."""
        found = {}
        for chart in page.charts:
            number, _ = templates.setdefault(id(chart.template), (len(templates), chart.template))
            found[chart.name] = {"template": number, "title": chart.heading, "data": chart.data, "params": chart.params}
        return found

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunecast.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    environment.filters |= {"size": size, "plural": plural, "runtime_name": runtime_name}
    environment.filters |= {"record": record, "mark": mark_svg}
    environment.globals |= {"folder": out.with_name(f"{out.stem}_files").name, "pictures": pictures, "specs": specs}
    environment.globals |= {"looks": {**context.model_looks, **context.looks}, "everywhere": EVERYWHERE}
    view = environment.get_template("view.html.j2")
    packed = {page.name: _packed(view.render(page=page)) for page in pages}
    specs(first)  # the templates of all charts must be known before they are packed
    drawing = {"config": CONFIG, "templates": [template for _, template in templates.values()]}
    held = stages[~stages["fingerprint"].isin(list(stored))].sort_values("fingerprint")
    columns = held.astype(object).where(held.notna(), None).to_dict("list")
    return environment.get_template("page.html.j2").render(
        title=title,
        overview=first,
        run=run,
        failures=failure_table(run.failures),
        menu=[(_MENU[kind], list(found)) for kind, found in groupby(pages, key=lambda page: page.kind)],
        pages=pages,
        packed=packed,
        held={
            "vega": vega_script(),
            "templates": _packed(json.dumps(drawing, sort_keys=True)),
            "records": _packed(json.dumps(columns, default=str)),
        },
        datasets=len(context.datasets),
        models=len(context.models),
        **files,
    )


@cache
def vega_script() -> str:
    """Returns Vega, Vega-Lite and their embedding as one script, packed; it runs under a policy without eval."""
    return _packed(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _unbroken(value: Any) -> Any:
    """Keeps a number and its sign on one line; what is marked safe (pictures) stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return value.replace(" %", "\u00a0%").replace(" ×", "\u00a0×")
    return value

"""The report: one HTML file that works offline, and a folder beside it with the charts and tables as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import jinja2
import vl_convert

from prunecast.errors import UserError
from prunecast.records import Environment, Failure, Parity, RunRecord, Stage
from prunecast.report import findings, theme
from prunecast.report.columns import Cell, Column, columns, to_latex, to_texts
from prunecast.report.compare import Comparison, comparisons
from prunecast.report.figures import Figure
from prunecast.report.format import runtime_name, size
from prunecast.report.gallery import cost_figures, file_stem, forecast_figures, sparsity_figures
from prunecast.report.manifest import FILE as MANIFEST_FILE
from prunecast.report.manifest import Manifest, digest, inputs_digest, read_manifest
from prunecast.report.tables import Clocks, Frame, by_variant, runs_table, summary_table, tables
from prunecast.report.variants import Case, Study, Variant, collect
from prunecast.store import new_file

VEGA_LITE = "6.4"
PNG_SCALE = 2


@dataclass(frozen=True)
class ReportFiles:
    """What was written: the page, the tables (CSV and LaTeX), the charts (SVG and PNG); `rows` are for a terminal."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    rows: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row of the page's table: its variant, the colour of its mark, and its cells."""

    variant: Variant
    colour: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class CaseView:
    """What the page shows of one data set and horizon."""

    case: Case
    stem: str
    tiles: Sequence[findings.Tile]
    reaches: Sequence[findings.Reach]
    sentences: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    curves: Sequence[Figure]
    costs: Sequence[Figure]
    forecasts: Sequence[Figure]
    latex: str

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The upper header of the table: each group of columns and how many it spans."""
        return [(group, len(list(members))) for group, members in groupby(self.columns, key=lambda c: c.group)]

    @property
    def figures(self) -> list[Figure]:
        """All charts of the case."""
        return [*self.curves, *self.costs, *self.forecasts]


def write_report(records: Sequence[RunRecord], failures: Sequence[Failure], out: Path, *, title: str) -> ReportFiles:
    """Writes the report of a study to `out`, and its charts and tables into the folder `<stem>_files` beside it.

    The same records give the same files, byte for byte; where they lie already, nothing is drawn again.

    Args:
        records: of all finished stages of one study, in any order.
        failures: of the stages that did not finish.
        out: the HTML file; replaced where it exists.
        title: of the page.

    Raises:
        UserError: when no record has a test error, when numbers of one case were scored differently, or when a
            file cannot be written.
    """
    study = collect(records)
    if not study.runs:
        raise UserError(f"expected records of at least one scored model, found none; {_why_none(failures)}")
    compared = comparisons(study)
    clocks = Clocks(study)
    runs = runs_table(study, clocks)
    summary = summary_table(runs, compared)
    rows = tuple(to_texts(by_variant(summary), clocks.main))
    folder = out.with_name(f"{out.stem}_files")
    inputs = inputs_digest(records, failures, title)
    present = read_manifest(folder)
    if present is not None and present.inputs == inputs and present.holds(out, folder):
        return _files(out, folder, present, rows)
    views = _case_views(study, summary, compared, clocks)
    texts = dict(tables(runs, summary, compared)) | {f"{view.stem}.tex": view.latex for view in views}
    written = [_write(folder / name, text).name for name, text in texts.items()]
    drawn = [path.name for view in views for figure in view.figures for path in _draw(folder, figure)]
    context = _context(study, failures, clocks) | {"title": title}
    page = _render(context | {"cases": views, "folder": folder.name, "tables": list(texts)})
    _write(out, page)
    manifest = Manifest(inputs=inputs, page=digest(page.encode()), tables=tuple(written), figures=tuple(drawn))
    _write(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1) + "\n")
    return _files(out, folder, manifest, rows)


def _files(page: Path, folder: Path, manifest: Manifest, rows: tuple[dict[str, Any], ...]) -> ReportFiles:
    found, drawn = ([folder / name for name in names] for names in (manifest.tables, manifest.figures))
    return ReportFiles(page, tuple(found), tuple(drawn), rows)


def _case_views(study: Study, summary: Frame, compared: Sequence[Comparison], clocks: Clocks) -> list[CaseView]:
    colours = theme.colours(variant.series for variant in study.runs)
    painted = summary.assign(colour=[colours[key.series] for key in summary.index])
    return [
        _case_view(number, study, case, summary=painted, compared=compared, clocks=clocks)
        for number, case in enumerate(study.cases, start=1)
    ]


def _why_none(failures: Sequence[Failure]) -> str:
    if not failures:
        return "run the study first"
    return f"{len(failures)} stages failed, the first ({failures[0].label}): {failures[0].reason}"


def _case_view(
    number: int, study: Study, case: Case, *, summary: Frame, compared: Sequence[Comparison], clocks: Clocks
) -> CaseView:
    variants = study.of(case)
    frame = summary.loc[list(variants)]
    rows = by_variant(frame)
    own = [comparison for comparison in compared if comparison.variant.case == case]
    stem = file_stem(number, case.dataset, case.horizon)
    shown = columns(rows, clocks.runtimes, clocks.main)
    return CaseView(
        case=case,
        stem=stem,
        tiles=findings.tiles(rows, own, clocks.main),
        reaches=findings.reaches(own),
        sentences=findings.sentences(own),
        columns=shown,
        rows=[TableRow(key, row["colour"], tuple(column.cell(row) for column in shown)) for key, row in rows.items()],
        curves=sparsity_figures(stem, frame),
        costs=cost_figures(stem, frame, clocks),
        forecasts=forecast_figures(stem, study, case, rows, own),
        latex=to_latex(rows, clocks.main),
    )


def _context(study: Study, failures: Sequence[Failure], clocks: Clocks) -> dict[str, Any]:
    """Returns what was run, on what, for the head of the page."""
    records = list(study.by_fingerprint.values())
    stages = Counter(record.stage for record in records)
    return {
        "records": len(records),
        "failures": sorted(failures, key=lambda failure: (failure.stage, failure.label, failure.fingerprint)),
        "stages": [(stage, stages[stage]) for stage in get_args(Stage) if stages[stage]],
        "seeds": sorted({record.seed for record in records}),
        "hours": sum(record.timing.elapsed_s for record in records) / 3600,
        "data": sorted({r.data.sha256: r.data for r in records}.values(), key=lambda data: data.name),
        "environments": _environments(records),
        "timed_elsewhere": clocks.left_out,
        "unsupported": sorted({reason for record in records for reason in record.unsupported.items()}),
        "parity": _worst_parity(records),
    }


def _environments(records: Sequence[RunRecord]) -> list[tuple[Environment, int]]:
    """Returns the different machines and versions, the most used first, and how many stages ran on each."""
    found = {record.environment.model_dump_json(): record.environment for record in records}
    counts = Counter(record.environment.model_dump_json() for record in records)
    return [(found[key], number) for key, number in counts.most_common()]


def _worst_parity(records: Sequence[RunRecord]) -> list[tuple[str, int, Parity]]:
    """Returns each runtime, how many models it was given, and the parity of the one that deviates most."""
    found: dict[str, dict[str | None, Parity]] = {}
    for record in records:
        for artefact in record.artefacts:
            if artefact.parity is not None:
                found.setdefault(artefact.runtime, {})[record.parent] = artefact.parity
    return [
        (runtime, len(models), max(models.values(), key=lambda parity: parity.max_deviation))
        for runtime, models in sorted(found.items())
    ]


def _render(context: dict[str, Any]) -> str:
    loader = jinja2.PackageLoader("prunecast.report", "assets")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    environment.filters |= {"size": size, "runtime_name": runtime_name}
    return environment.get_template("page.html.j2").render(context | {"vega": _vega_bundle()})


def _unbroken(value: Any) -> Any:
    """Keeps a number and its sign on one line; what is marked safe (scripts) stays as it is."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return value.replace(" %", "\u00a0%").replace(" ×", "\u00a0×")
    return value


@cache
def _vega_bundle() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed as one script."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    assert "</script" not in bundle.lower(), "the bundle would end its script block"
    return bundle


def _draw(folder: Path, figure: Figure) -> tuple[Path, Path]:
    svg = vl_convert.vegalite_to_svg(figure.file_spec(), vl_version=VEGA_LITE)
    vector = _write(folder / f"{figure.name}.svg", svg)
    with new_file(folder / f"{figure.name}.png", replace=True) as path:
        path.write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))
    return vector, folder / f"{figure.name}.png"


def _write(target: Path, text: str) -> Path:
    with new_file(target, replace=True) as path:
        path.write_text(text, encoding="utf-8", newline="\n")
    return target

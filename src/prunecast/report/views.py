"""The pages of a report: one for each data set, model and method, each with its charts and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from prunecast.report import findings
from prunecast.report.columns import variants_sheet
from prunecast.report.controls import controls_sheet
from prunecast.report.curves import RatioLine, error_by_sparsity, ratio_curves, ratio_lines
from prunecast.report.deviation import deviation_sheet
from prunecast.report.explorer import explorer_data
from prunecast.report.figure import Figure
from prunecast.report.forecasts import forecasts
from prunecast.report.fronts import costs, error_by_cost
from prunecast.report.headline import case_sheet, ladder_sheet
from prunecast.report.material import Material, file_stem
from prunecast.report.sheet import Sheet
from prunecast.report.speeds import speed_figure, speed_sheet
from prunecast.report.variants import Case

Kind = Literal["data", "model", "method", "fronts", "published"]

FORECASTS_OF_A_CASE, FORECASTS_OF_A_MODEL = 3, 1


@dataclass(frozen=True)
class Block:
    """A part of a page under its own heading."""

    title: str
    figures: Sequence[Figure] = ()
    sheets: Sequence[Sheet] = ()

    @property
    def filled(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.figures or self.sheets)


@dataclass(frozen=True)
class Section:
    """A part of a page that links can lead to: a horizon, say. `tiles` are its findings in large letters."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    tiles: Sequence[findings.Tile] = ()


@dataclass(frozen=True)
class View:
    """A page. `name` is made by us and safe in an address."""

    name: str
    kind: Kind
    title: str
    sections: Sequence[Section]
    intro: str = ""
    data: object = None

    @property
    def sheets(self) -> Iterator[Sheet]:
        """All tables of the page."""
        return (sheet for section in self.sections for block in section.blocks for sheet in block.sheets)


def _kept(*blocks: Block) -> list[Block]:
    return [block for block in blocks if block.filled]


def _some(*figures: Figure | None) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def dataset_views(material: Material) -> Iterator[View]:
    """Yields a page for each data set, its horizons one below the other."""
    for number, (dataset, cases) in enumerate(material.datasets.items(), start=1):
        name = file_stem("data", number, dataset)
        sections = [case_section(material, f"{name}-{case.horizon}", case) for case in cases]
        yield View(name, "data", dataset, sections)


def case_section(material: Material, stem: str, case: Case) -> Section:
    """Returns what is shown of one data set and horizon."""
    rows, clocks, ladders = material.rows_of(case), material.clocks, material.ladders
    pairs = dict.fromkeys((key.model, key.method or "") for key in rows if key.pruned)
    models = dict.fromkeys(key.model for key in rows if key.role != "naive")
    title = f"How far each method goes, {case.title}"
    reach = case_sheet(f"{stem}-reach", title, ladders, pairs, [case]) if pairs else None
    curves = [
        error_by_sparsity(file_stem(stem, model, number), rows, model, material.looks, close=close)
        for number, model in enumerate(models)
        for close in (False, True)
    ]
    fronts = [error_by_cost(file_stem(stem, cost.name), rows, cost, material.looks) for cost in costs(clocks)]
    subject = findings.subject(rows)
    said = (
        []
        if subject is None
        else forecasts(
            f"{stem}-forecast", material.study, case, subject, rows=rows, ladders=ladders, most=FORECASTS_OF_A_CASE
        )
    )
    controls = controls_sheet(f"{stem}-controls", material.study, material.compared, material.study.of(case))
    table = variants_sheet(f"{stem}-variants", material.study, rows, clocks.runtimes, clocks.main)
    return Section(
        stem,
        f"Horizon {case.horizon}",
        _kept(
            Block("How much can go before a loss shows", sheets=[reach] if reach else []),
            Block("What the controls say", sheets=[controls] if any(head.numeric for head in controls.heads) else []),
            Block("Error against sparsity", figures=_some(*curves)),
            Block("Error against cost", figures=_some(*fronts)),
            Block("All variants", sheets=[table]),
            Block("Forecasts beside the truth", figures=said),
        ),
        findings.tiles(rows, material.compared, ladders, case, clocks.main),
    )


def model_views(material: Material) -> Iterator[View]:
    """Yields a page for each model, over all data sets."""
    for number, model in enumerate(material.models, start=1):
        name = file_stem("model", number, model)
        yield View(name, "model", model, [Section(f"{name}-all", "", list(_model_blocks(material, name, model)))])


def model_lines(material: Material, model: str) -> list[RatioLine]:
    """Returns the error ratios of a model over all data sets, a line for each method with and without fine-tuning."""
    return [
        line
        for method, models in material.methods.items()
        if model in models
        for line in ratio_lines(
            material.ladders, material.compared, model, method, name=method, look=material.looks[method]
        )
    ]


def _model_blocks(material: Material, name: str, model: str) -> Iterator[Block]:
    ladders, clocks, looks = material.ladders, material.clocks, material.looks
    methods = [method for method, models in material.methods.items() if model in models]
    lines = [line for line in ladders.lines if line.model == model]
    ratio = ratio_curves(f"{name}-ratio", f"{model}: error over the dense model's", model_lines(material, model))
    timed = [speed for speed in material.speeds if speed.model == model]
    speed = speed_figure(f"{name}-speed", f"{model}: promised and measured", timed, clocks.main or "", looks=looks)
    cases = [case for case in material.study.cases if any(key.case == case for key in material.models[model])]
    reach = case_sheet(
        f"{name}-reach", "How far it goes on each data set", ladders, [(model, m) for m in methods], cases
    )
    own = [deviation for deviation in material.deviations if deviation.variant.model == model]
    blocks = [
        Block("Over all data sets", figures=_some(ratio, speed)),
        Block("How far it can be pruned", sheets=[reach] if methods else []),
        Block(
            "What the headline is read off",
            sheets=[ladder_sheet(f"{name}-ladders", "Every sparsity, over all data sets", ladders, lines)]
            if lines
            else [],
        ),
        Block("Time", sheets=[speed_sheet(f"{name}-speeds", material.study, timed, clocks.runtimes)] if timed else []),
        Block("Beside published errors", sheets=[deviation_sheet(f"{name}-published", own)] if own else []),
        Block("On each data set", figures=_some(*(_curve(material, name, model, case) for case in cases))),
        Block(
            "Forecasts before and after pruning",
            figures=[f for case in cases for f in _forecast(material, name, model, case)],
        ),
    ]
    yield from _kept(*blocks)


def _curve(material: Material, name: str, model: str, case: Case) -> Figure | None:
    stem = file_stem(name, case.dataset, case.horizon)
    figure = error_by_sparsity(stem, material.rows_of(case), model, material.looks)
    return None if figure is None else _titled(figure, case.title)


def _forecast(material: Material, name: str, model: str, case: Case) -> list[Figure]:
    stem, rows = file_stem(name, case.dataset, case.horizon, "forecast"), material.rows_of(case)
    found = forecasts(stem, material.study, case, model, rows=rows, ladders=material.ladders, most=FORECASTS_OF_A_MODEL)
    return [_titled(figure, f"{case.title}: {figure.title.partition(' on ')[2]}") for figure in found]


def _titled(figure: Figure, title: str) -> Figure:
    return Figure(figure.name, title, figure.caption, figure.label, figure.content, figure.width, figure.height)


def method_views(material: Material) -> Iterator[View]:
    """Yields a page for each method, over all models and data sets."""
    for number, (method, models) in enumerate(material.methods.items(), start=1):
        name = file_stem("method", number, method)
        blocks = list(_method_blocks(material, name, method, models))
        of = material.budgets.get(method)
        intro = f"Removes a share of the {of}." if of else ""
        yield View(name, "method", method, [Section(f"{name}-all", "", blocks)], intro)


def _method_blocks(material: Material, name: str, method: str, models: Sequence[str]) -> Iterator[Block]:
    ladders, looks = material.ladders, material.model_looks
    ratio = ratio_curves(
        f"{name}-ratio",
        f"{method}: error over the dense model's",
        [
            line
            for model in models
            for line in ratio_lines(ladders, material.compared, model, method, name=model, look=looks[model])
        ],
    )
    timed = [speed for speed in material.speeds if speed.method == method]
    title = f"{method}: promised and measured"
    speed = speed_figure(f"{name}-speed", title, timed, material.clocks.main or "", looks=looks, by_model=True)
    cases = material.study.cases
    reach = case_sheet(f"{name}-reach", "How far it goes", ladders, [(model, method) for model in models], cases)
    lines = [line for line in ladders.lines if line.method == method]
    blocks = [
        Block("Over all data sets", figures=_some(ratio, speed)),
        Block("How far it goes on each model and data set", sheets=[reach]),
        Block(
            "Every sparsity, over all data sets",
            sheets=[ladder_sheet(f"{name}-ladders", "Every sparsity", ladders, lines)],
        ),
        Block(
            "Time",
            sheets=[speed_sheet(f"{name}-speeds", material.study, timed, material.clocks.runtimes)] if timed else [],
        ),
    ]
    yield from _kept(*blocks)


def published_view(material: Material) -> View | None:
    """Returns the page of our dense errors beside published ones; None where there is nothing to compare."""
    if not material.deviations:
        return None
    sheet = deviation_sheet("published", material.deviations)
    section = Section("published-all", "", [Block("Dense errors, ours and published", sheets=[sheet])])
    return View("published", "published", "Published errors", [section])


def fronts_view(material: Material, views: Sequence[View]) -> View:
    """Returns the page where a reader picks what to hold against what; its rows lead to the other pages."""
    of_data = [(view, section) for view in views if view.kind == "data" for section in view.sections]
    cases = [case for cases in material.datasets.values() for case in cases]
    pages = {case: f"{view.name}:{section.anchor}" for case, (view, section) in zip(cases, of_data, strict=True)}
    models = {view.title: view.name for view in views if view.kind == "model"}
    return View("fronts", "fronts", "Fronts", [], data=explorer_data(material, pages, models))


def all_views(material: Material) -> list[View]:
    """Returns all pages but the first, in the order of the menu."""
    own = [*dataset_views(material), *model_views(material), *method_views(material)]
    own.append(fronts_view(material, own))
    published = published_view(material)
    return own if published is None else [*own, published]

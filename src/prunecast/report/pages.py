"""The pages of a report: an overview, and a page for each data set, model and method, with its charts and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from prunecast.records import Failure, Stage
from prunecast.report.charts import (
    Cost,
    costs,
    error_by_cost,
    error_by_sparsity,
    forecast_chart,
    fronts_chart,
    other_costs,
    rank_chart,
    ratio_curves,
    ratio_lines,
    speed_chart,
    thresholds_chart,
    time_chart,
)
from prunecast.report.compare import Case, Compared, StudyRuns, Variant, comparisons
from prunecast.report.published_errors import Deviation, deviations
from prunecast.report.ranks import Ranked, forecaster_ranking, method_ranking, sparsities
from prunecast.report.sheets import (
    controls_table,
    data_of,
    deviation_table,
    failure_table,
    headline_table,
    rank_table,
    run_table,
    speed_table,
    sweep_table,
    thresholds_table,
    variants_table,
)
from prunecast.report.style import (
    BUDGET_NAMES,
    LOOKS,
    MODEL_LOOKS,
    Chart,
    Look,
    file_stem,
    looks,
    percent,
    runtime_name,
)
from prunecast.report.summary import Rows, Speed, Timings, by_variant, runs_table, speeds, summary_table
from prunecast.report.tables import ReportTable
from prunecast.report.text import Tile, answer_table, sentences, subject, tiles
from prunecast.report.thresholds import Sweeps
from prunecast.study.frame import StageRow, StudyFrame, runtimes

Kind = Literal["data", "model", "method", "fronts", "published"]

FORECASTS_OF_A_CASE, FORECASTS_OF_A_MODEL = 3, 1

FEWEST_RANKED = 3
"""Two treatments need no diagram."""

MOST_DIAGRAMS = 6
"""Of rankings; those of the other sparsities are tables."""


class Context:
    """All that the pages are made of, found once.

    Attributes:
        study: the runs and how they hang together.
        compared: its comparisons, by metric; MSE is always there.
        sweeps: how far methods go.
        timings: what was timed.
        runs: a row a run.
        summary: a row a variant.
        rows: the summary by variant.
    """

    def __init__(self, frame: StudyFrame) -> None:
        self.study = StudyRuns.of(frame)
        metrics = [metric for metric in frame.metrics() if metric != "mae"]
        self.compared: Mapping[str, Compared] = {metric: comparisons(self.study, metric) for metric in metrics}
        self.mse = self.compared["mse"]
        self.sweeps = Sweeps(self.mse)
        self.timings = Timings(self.study)
        self.runs = runs_table(self.study, self.timings)
        self.summary = summary_table(self.runs, self.compared)
        self.rows: Rows = by_variant(self.summary)

    def rows_of(self, case: Case) -> Rows:
        """Returns the summary of one data set and horizon."""
        return {variant: self.rows[variant] for variant in self.study.of_case(case)}

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each method and control is drawn."""
        return looks((variant.series for variant in self.study.runs), LOOKS)

    @cached_property
    def model_looks(self) -> Mapping[str, Look]:
        """How each model is drawn where models are compared."""
        return looks((variant.model for variant in self.study.runs), MODEL_LOOKS)

    @cached_property
    def datasets(self) -> Mapping[str, Sequence[Case]]:
        """The data sets and their horizons."""
        found: dict[str, list[Case]] = {}
        for case in self.study.cases:
            found.setdefault(case.dataset, []).append(case)
        return found

    @cached_property
    def models(self) -> Mapping[str, Sequence[Variant]]:
        """The trained models, those that were pruned first, each with its variants."""
        found: dict[str, list[Variant]] = {}
        for variant in self.study.runs:
            if variant.role != "naive":
                found.setdefault(variant.model, []).append(variant)
        order = sorted(found, key=lambda model: not any(variant.pruned for variant in found[model]))
        return {model: found[model] for model in order}

    @cached_property
    def methods(self) -> Mapping[str, Sequence[str]]:
        """The methods of pruning, each with the models that it was tried on."""
        found: dict[str, list[str]] = {}
        for model, method in self.sweeps.methods:
            found.setdefault(method, []).append(model)
        return found

    @cached_property
    def budgets(self) -> Mapping[str, str]:
        """Of what each method removes its share."""
        found: dict[str, str] = {}
        for variant, runs in self.study.runs.items():
            of = next(iter(runs.values())).get("budget_of")
            if variant.pruned and variant.method is not None and of is not None:
                found.setdefault(variant.method, BUDGET_NAMES[of])
        return found

    @cached_property
    def speeds(self) -> Sequence[Speed]:
        """What was timed."""
        return speeds(self.rows, self.timings.labels)

    @cached_property
    def deviations(self) -> Sequence[Deviation]:
        """Our dense errors beside published ones."""
        return deviations(self.study)


@dataclass(frozen=True)
class Block:
    """A part of a page under its own heading."""

    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[ReportTable] = ()


@dataclass(frozen=True)
class Part:
    """A part of a page that links can lead to: a horizon, say. `tiles` are its findings in large letters."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    tiles: Sequence[Tile] = ()


@dataclass(frozen=True)
class Page:
    """A page. `name` is made by us and safe in an address."""

    name: str
    kind: Kind
    title: str
    sections: Sequence[Part]
    intro: str = ""

    @property
    def tables(self) -> Iterator[ReportTable]:
        """All tables of the page."""
        return (table for section in self.sections for block in section.blocks for table in block.tables)


def _block(
    title: str, *, charts: Sequence[Chart | None] = (), tables: Sequence[ReportTable | None] = ()
) -> list[Block]:
    """Returns a block of what there is to show, or nothing."""
    drawn, shown = [one for one in charts if one is not None], [one for one in tables if one is not None]
    return [Block(title, drawn, shown)] if drawn or shown else []


def dataset_pages(context: Context) -> Iterator[Page]:
    """Yields a page for each data set, its horizons one below the other."""
    for number, (dataset, cases) in enumerate(context.datasets.items(), start=1):
        name = file_stem("data", number, dataset)
        sections = [case_section(context, f"{name}-{case.horizon}", case) for case in cases]
        yield Page(name, "data", dataset, sections)


def case_section(context: Context, stem: str, case: Case) -> Part:
    """Returns what is shown of one data set and horizon."""
    rows, study, sweeps, timings = context.rows_of(case), context.study, context.sweeps, context.timings
    pairs = dict.fromkeys((key.model, key.method or "") for key in rows if key.pruned)
    title = f"How far each method goes, {case.title}"
    thresholds = thresholds_table(f"{stem}-thresholds", title, sweeps, pairs, [case]) if pairs else None
    curves = [
        error_by_sparsity(
            file_stem(stem, model, number, "near" if close else ""), rows, model, context.looks, close=close
        )
        for number, model in enumerate(dict.fromkeys(key.model for key in rows if key.role != "naive"))
        for close in (False, True)
    ]
    fronts = [error_by_cost(file_stem(stem, cost.name), rows, cost, context.looks) for cost in costs(timings)]
    controls = controls_table(f"{stem}-controls", study, context.mse, study.of_case(case))
    table = variants_table(f"{stem}-variants", study, rows, timings.labels, timings.main)
    model = subject(rows)
    drawn = (
        []
        if model is None
        else forecast_charts(f"{stem}-forecast", study, case, model, rows=rows, sweeps=sweeps, most=FORECASTS_OF_A_CASE)
    )
    blocks = [
        *_block("How much can go before a loss shows", tables=[thresholds]),
        *_block("What the controls say", tables=[controls] if any(head.numeric for head in controls.heads) else []),
        *_block("Error against sparsity", charts=curves),
        *_block("Error against cost", charts=fronts),
        *_block("All variants", tables=[table]),
        *_block("Forecasts beside the truth", charts=drawn),
    ]
    return Part(stem, f"Horizon {case.horizon}", blocks, tiles(rows, context.mse, sweeps, case, timings.main))


def forecast_charts(
    name: str, study: StudyRuns, case: Case, model: str, *, rows: Rows, sweeps: Sweeps, most: int
) -> list[Chart]:
    """Returns test windows with what the dense model, the pruned ones and a naive forecast said of them.

    Args:
        name: file stem.
        study: whose stages hold the forecasts.
        case: data set and horizon.
        model: the model's name there.
        rows: the summary of the case.
        sweeps: tell how far the model can be pruned.
        most: windows to draw.
    """
    drawn = []
    for variant in _forecasters(study, case, model, rows, sweeps):
        row = next(iter(study.runs[variant].values()))
        found = {(one.channel, one.window): one for one in study.frame.forecasts(row["fingerprint"])}
        if found:
            drawn.append((variant.model if variant.role == "naive" else variant.name, variant.role, found))
    places = list(drawn[0][2])[:most] if drawn else []
    return [
        forecast_chart(
            f"{name}-{number}", model, [(said, role, found[place]) for said, role, found in drawn if place in found]
        )
        for number, place in enumerate(places, start=1)
    ]


def _forecasters(study: StudyRuns, case: Case, model: str, rows: Rows, sweeps: Sweeps) -> list[Variant]:
    """Returns whose forecasts are drawn: dense, pruned as far as nothing is lost, before fine-tuning too, naive."""
    own = [variant for variant in study.of_case(case) if variant.model == model]
    tuned = [variant for variant in own if variant.role == "pruned+finetuned" and not variant.is_control]
    plain = [variant for variant in own if variant.role == "pruned"]
    reached: list[Variant] = []
    for method in dict.fromkeys(variant.method for variant in tuned):
        sweep = sweeps.fair(model, method or "", True, case)
        if sweep is not None and sweep.no_loss is not None:
            reached += [comparison.variant for comparison in sweep.no_loss.comparisons]
    pruned = sorted(tuned or plain, key=lambda variant: variant.sparsity_requested or 0.0)[:1]
    if reached:
        best = max(reached, key=lambda variant: variant.sparsity_requested or 0.0)
        same = (best.method, best.sparsity_requested)
        pruned = [*(variant for variant in plain if (variant.method, variant.sparsity_requested) == same), best]
    naive = [variant for variant in study.of_case(case) if variant.role == "naive"]
    hardest = min(naive, key=lambda variant: float(rows[variant]["test_mse"]), default=None)
    dense = [variant for variant in own if variant.role == "dense"]
    return [*dense, *pruned, *([hardest] if hardest else [])]


def model_pages(context: Context) -> Iterator[Page]:
    """Yields a page for each model, over all data sets."""
    for number, model in enumerate(context.models, start=1):
        name = file_stem("model", number, model)
        yield Page(name, "model", model, [Part(f"{name}-all", "", list(_model_blocks(context, name, model)))])


def model_ratios(context: Context, name: str, model: str, title: str) -> Chart | None:
    """Returns the error ratios of a model over all data sets, a line for each method with and without fine-tuning."""
    lines = (
        (method, sweep, origin)
        for method, models in context.methods.items()
        if model in models
        for sweep, origin in ratio_lines(context.sweeps, context.mse, model, method)
    )
    return ratio_curves(name, title, lines, context.looks)


def _model_blocks(context: Context, name: str, model: str) -> Iterator[Block]:
    study, sweeps, timings = context.study, context.sweeps, context.timings
    methods = [method for method, models in context.methods.items() if model in models]
    lines = [line for line in sweeps.lines if line.model == model]
    timed = [speed for speed in context.speeds if speed.model == model]
    cases = [case for case in study.cases if any(key.case == case for key in context.models[model])]
    own = [deviation for deviation in context.deviations if deviation.variant.model == model]
    ratios = model_ratios(context, f"{name}-ratio", model, f"{model}: error over the dense model's")
    title = f"{model}: promised and measured"
    speed = speed_chart(f"{name}-speed", title, timed, timings.main or "", looks=context.looks)
    yield from _block("Over all data sets", charts=[ratios, speed])
    if methods:
        pairs = [(model, method) for method in methods]
        reached = thresholds_table(f"{name}-thresholds", "How far it goes on each data set", sweeps, pairs, cases)
        yield from _block("How far it can be pruned", tables=[reached])
    if lines:
        every = sweep_table(f"{name}-sweeps", "Every sparsity, over all data sets", sweeps, lines)
        yield from _block("What the headline is read off", tables=[every])
    if timed:
        yield from _block("Time", tables=[speed_table(f"{name}-speeds", study, timed, timings.labels)])
    if own:
        yield from _block("Beside published errors", tables=[deviation_table(f"{name}-published", study, own)])
    curves, drawn = [], []
    for case in cases:
        stem, rows = file_stem(name, case.dataset, case.horizon), context.rows_of(case)
        curve = error_by_sparsity(stem, rows, model, context.looks)
        curves += [replace(curve, title=case.title)] if curve is not None else []
        found = forecast_charts(
            file_stem(stem, "forecast"), study, case, model, rows=rows, sweeps=sweeps, most=FORECASTS_OF_A_MODEL
        )
        drawn += [replace(chart, title=f"{case.title}: {chart.title.partition(' on ')[2]}") for chart in found]
    yield from _block("On each data set", charts=curves)
    yield from _block("Forecasts before and after pruning", charts=drawn)


def method_pages(context: Context) -> Iterator[Page]:
    """Yields a page for each method, over all models and data sets."""
    for number, (method, models) in enumerate(context.methods.items(), start=1):
        name = file_stem("method", number, method)
        of = context.budgets.get(method)
        intro = f"Removes a share of the {of}." if of else ""
        blocks = list(_method_blocks(context, name, method, models))
        yield Page(name, "method", method, [Part(f"{name}-all", "", blocks)], intro)


def _method_blocks(context: Context, name: str, method: str, models: Sequence[str]) -> Iterator[Block]:
    study, sweeps, timings, look = context.study, context.sweeps, context.timings, context.model_looks
    ratios = (
        (model, sweep, origin) for model in models for sweep, origin in ratio_lines(sweeps, context.mse, model, method)
    )
    timed = [speed for speed in context.speeds if speed.method == method]
    title = f"{method}: promised and measured"
    speed = speed_chart(f"{name}-speed", title, timed, timings.main or "", looks=look, by_model=True)
    over_all = ratio_curves(f"{name}-ratio", f"{method}: error over the dense model's", ratios, look)
    yield from _block("Over all data sets", charts=[over_all, speed])
    pairs = [(model, method) for model in models]
    reached = thresholds_table(f"{name}-thresholds", "How far it goes", sweeps, pairs, study.cases)
    yield from _block("How far it goes on each model and data set", tables=[reached])
    lines = [line for line in sweeps.lines if line.method == method]
    every = sweep_table(f"{name}-sweeps", "Every sparsity", sweeps, lines)
    yield from _block("Every sparsity, over all data sets", tables=[every])
    if timed:
        yield from _block("Time", tables=[speed_table(f"{name}-speeds", study, timed, timings.labels)])


def fronts_page(context: Context, pages: Sequence[Page]) -> Page:
    """Returns the page where a reader picks what to hold against what; its rows lead to the other pages."""
    of_data = [(page, section) for page in pages if page.kind == "data" for section in page.sections]
    cases = [case for found in context.datasets.values() for case in found]
    places: dict[Case | str, str] = {
        case: f"{page.name}:{section.anchor}" for case, (page, section) in zip(cases, of_data, strict=True)
    }
    places |= {page.title: page.name for page in pages if page.kind == "model"}
    offered: list[Cost] = [*costs(context.timings), *other_costs(context.timings)]
    chart = fronts_chart(context.rows, offered, context.looks, places)
    section = Part("fronts-all", "", [Block("Any error against any cost", [chart])])
    return Page("fronts", "fronts", "Fronts", [section])


def all_pages(context: Context) -> list[Page]:
    """Returns all pages but the first, in the order of the menu."""
    own = [*dataset_pages(context), *model_pages(context), *method_pages(context)]
    own.append(fronts_page(context, own))
    if context.deviations:
        table = deviation_table("published", context.study, context.deviations)
        section = Part("published-all", "", _block("Dense errors, ours and published", tables=[table]))
        own.append(Page("published", "published", "Published errors", [section]))
    return own


@dataclass(frozen=True)
class Overview:
    """What the first page shows.

    Attributes:
        sentences: the study's answer.
        answer: the same as a short table.
        tiles: of a study of one data set and horizon.
        pictures: how far, and what time is saved: the picture of the study.
        headline: the table.
        curves: error ratios of each model.
        speed: promised and measured speed-ups.
        ranks: critical-difference diagrams.
        rankings: the same as tables, and those that have no diagram.
        speed_table: promised and measured speed-ups of all variants.
    """

    sentences: Sequence[str]
    answer: ReportTable | None
    tiles: Sequence[Tile]
    pictures: Sequence[Chart]
    headline: ReportTable | None
    curves: Sequence[Chart]
    speed: Chart | None
    ranks: Sequence[Chart]
    rankings: Sequence[ReportTable]
    speed_table: ReportTable | None

    @property
    def charts(self) -> list[Chart]:
        """The charts that lie beside the page as files."""
        return [*self.pictures, *self.curves, *([self.speed] if self.speed else []), *self.ranks]

    @property
    def tables(self) -> list[ReportTable]:
        """The tables that lie beside the page as files."""
        return [*(one for one in (self.answer, self.headline, self.speed_table) if one is not None), *self.rankings]


def overview(context: Context, pages: Sequence[Page]) -> Overview:
    """Returns the first page of a study, whose models have the other pages."""
    sweeps, rows, main, study = context.sweeps, context.rows, context.timings.main, context.study
    model_names = {page.title: page.name for page in pages if page.kind == "model"}
    timed = [speed for speed in context.speeds if not speed.is_control]
    ranked = list(_rankings(context))
    single = study.cases[0] if len(study.cases) == 1 else None
    pruned = any(not sweeps.is_control(method) for _, method in sweeps.methods)
    pictures = (
        thresholds_chart("thresholds", sweeps, context.looks),
        time_chart("time", sweeps, rows, main, context.looks),
    )
    curves = (
        error_by_sparsity(file_stem("curve", number, model), rows, model, context.looks)
        if single is not None
        else model_ratios(context, file_stem("ratio", number, model), model, model)
        for number, model in enumerate(context.models, start=1)
    )
    return Overview(
        sentences=sentences(sweeps, rows, main, context.budgets),
        answer=answer_table("answer", sweeps, rows, main, context.budgets) if pruned else None,
        tiles=[] if single is None else tiles(context.rows_of(single), context.mse, sweeps, single, main),
        pictures=[chart for chart in pictures if chart is not None],
        headline=headline_table("headline", sweeps, context.budgets, model_names) if sweeps.lines else None,
        curves=[chart for chart in curves if chart is not None],
        speed=speed_chart("speed", "Promised and measured speed-up", timed, main or "", looks=context.looks),
        ranks=[rank_chart(*ranked[index]) for index in _spread(len(ranked), MOST_DIAGRAMS)],
        rankings=[rank_table(name, title, study, found) for name, title, found in ranked],
        speed_table=speed_table("speeds", study, context.speeds, context.timings.labels) if context.speeds else None,
    )


def _rankings(context: Context) -> Iterator[tuple[str, str, Ranked]]:
    """Yields the ranking of forecasters, and of ways to prune at each sparsity that several ways share."""
    found = forecaster_ranking(context.rows)
    if found is not None and len(found.ranking.names) >= FEWEST_RANKED:
        yield "ranks-dense", "Dense forecasters, by rank", found
    for sparsity in sparsities(context.rows):
        ways = method_ranking(context.rows, context.mse, sparsity)
        if ways is not None and len(ways.ranking.names) >= FEWEST_RANKED:
            yield file_stem("ranks", f"{sparsity:.3f}"), f"Ways to remove {percent(sparsity)}, by rank", ways


def _spread(count: int, most: int) -> list[int]:
    """Returns up to `most` places among `count`, the first and the last among them, evenly apart."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


# What was run, on which data and machines, and what did not finish.

_MACHINE = (
    *("machine", "processor", "machine_cores", "machine_memory_bytes", "accelerator", "system", "python"),
    *("commit", "dirty", "versions"),
)
"""What tells environments apart."""


@dataclass(frozen=True)
class Run:
    """What was run.

    Attributes:
        records: how many stages are done.
        failures: stages that did not finish.
        stages: kinds of stages and how many of each.
        seeds: in order.
        hours: of all stages.
        data: see `sheets.data_of`.
        scorings: of the errors of each case.
        environments: machines and versions, the most used first, and how many stages ran on each.
        unsupported: runtime -> why it cannot run some model.
        parity: runtime, models that it was given, and the row of the one that deviates most.
        busy: timings that were taken beside other work.
    """

    records: int
    failures: Sequence[Failure]
    stages: Sequence[tuple[str, int]]
    seeds: Sequence[int]
    hours: float
    data: Sequence[Mapping[str, Any]]
    scorings: Sequence[str]
    environments: Sequence[tuple[StageRow, int]]
    unsupported: Sequence[tuple[str, str]]
    parity: Sequence[tuple[str, int, Mapping[str, float]]]
    busy: int

    @property
    def tables(self) -> list[ReportTable]:
        """What was run and what was not, as tables."""
        return [run_table(self._facts()), *([failure_table(self.failures)] if self.failures else [])]

    def _facts(self) -> Iterator[tuple[str, str, object]]:
        for data in self.data:
            windows = ", ".join(f"{split} {number}" for split, number in data["windows"].items())
            facts = {"rows": data["rows"], "channels": data["channels"], "windows": windows, "SHA-256": data["sha256"]}
            yield from ((f"data {data['name']}", what, value) for what, value in facts.items())
        yield from (("stages", stage, number) for stage, number in self.stages)
        yield "stages", "seeds", ", ".join(map(str, self.seeds))
        yield "stages", "hours", f"{self.hours:.2f}"
        if self.busy:
            yield "stages", "timed beside other work", self.busy
        yield from (("scoring", "of all errors", scoring) for scoring in self.scorings)
        for name, models, worst in self.parity:
            what = f"largest deviation from PyTorch, {models} models, {worst['parity_windows']:.0f} windows"
            said = f"{worst['deviation']:.1e} of a channel's standard deviation, tolerance {worst['tolerance']:.0e}"
            yield runtime_name(name), what, said
        yield from ((runtime_name(name), "cannot run some models", reason) for name, reason in self.unsupported)
        for number, (environment, stages) in enumerate(self.environments, start=1):
            own = {name.removeprefix("machine_"): value for name, value in environment.items() if name != "versions"}
            facts = {"stages": stages, **own, **environment["versions"]}
            yield from ((f"environment {number}", what, value) for what, value in facts.items())


def what_was_run(context: Context, failures: Sequence[Failure]) -> Run:
    """Returns data, stages, machines and runtimes, and what did not finish."""
    rows = list(context.study.frame.rows.values())
    stages = Counter(row["stage"] for row in rows)
    data = {row["data_sha256"]: data_of(row) for row in rows}
    machines = Counter(json.dumps([(name, row[name]) for name in _MACHINE if name in row]) for row in rows)
    unsupported = {reason for row in rows for reason in json.loads(row.get("unsupported", "{}")).items()}
    scorings = {f"{k.case.title}: {r['scoring']}, {r['test_windows']:.0f} windows" for k, r in context.rows.items()}
    environments = []
    for text, number in machines.most_common():
        environment = dict(json.loads(text))
        environments.append((environment | {"versions": json.loads(environment["versions"])}, number))
    return Run(
        records=len(rows),
        failures=failures,
        stages=[(stage, stages[stage]) for stage in get_args(Stage) if stages[stage]],
        seeds=sorted({row["seed"] for row in rows}),
        hours=sum(row["elapsed_s"] for row in rows) / 3600,
        data=sorted(data.values(), key=lambda one: str(one["name"])),
        scorings=sorted(scorings),
        environments=environments,
        unsupported=sorted(unsupported),
        parity=_worst_parity(rows),
        busy=context.timings.busy,
    )


def _worst_parity(rows: Sequence[StageRow]) -> list[tuple[str, int, Mapping[str, float]]]:
    found: dict[str, dict[str | None, dict[str, float]]] = {}
    for row in rows:
        for name in runtimes(row, "deviation"):
            own = {column: row[f"{name}_{column}"] for column in ("deviation", "tolerance", "parity_windows")}
            found.setdefault(name, {})[row.get("parent")] = own
    return [
        (name, len(models), max(models.values(), key=lambda parity: parity["deviation"]))
        for name, models in sorted(found.items())
    ]

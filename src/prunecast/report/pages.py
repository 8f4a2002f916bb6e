"""The pages of a report: an overview, and a page for each data set, model and method, with its charts and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from prunecast.records import Failure, Stage
from prunecast.report.charts import (
    costs,
    error_by_cost,
    error_by_sparsity,
    forecast_chart,
    fronts_chart,
    rank_chart,
    ratio_curves,
    speed_chart,
    thresholds_chart,
    time_chart,
    ways_charts,
)
from prunecast.report.compare import Case, Variant
from prunecast.report.context import Context
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
from prunecast.report.style import Chart, file_stem, percent, runtime_name
from prunecast.report.tables import ReportTable
from prunecast.report.text import Tile, answer_table, sentences, subject, tiles
from prunecast.study.frame import StageRow, runtimes

Kind = Literal["data", "model", "method", "fronts", "published"]

FORECASTS_OF_A_CASE, FORECASTS_OF_A_MODEL = 3, 1

FEWEST_RANKED = 3
"""Two treatments need no diagram."""

MOST_DIAGRAMS = 6
"""Of rankings, evenly apart; those of the other sparsities are tables."""


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
    def charts(self) -> list[Chart]:
        """All charts of the page."""
        return [chart for section in self.sections for block in section.blocks for chart in block.charts]

    @property
    def tables(self) -> list[ReportTable]:
        """All tables of the page."""
        return [table for section in self.sections for block in section.blocks for table in block.tables]


_Shown = Sequence[Chart | ReportTable | None]


def _blocks(found: Mapping[str, _Shown]) -> list[Block]:
    """Returns, under their headings, the charts there are and the tables that have rows."""
    blocks = []
    for title, shown in found.items():
        charts = [one for one in shown if isinstance(one, Chart)]
        tables = [one for one in shown if isinstance(one, ReportTable) and one.rows]
        blocks += [Block(title, charts, tables)] if charts or tables else []
    return blocks


def _case_part(context: Context, stem: str, case: Case) -> Part:
    """Returns what is shown of one data set and horizon."""
    rows, timings, looks = context.rows_of(case), context.timings, context.looks
    pairs = dict.fromkeys((key.model, key.method or "") for key in rows if key.pruned)
    title = f"How far each method goes, {case.title}"
    controls = controls_table(context, f"{stem}-controls", case)
    models = dict.fromkeys(key.model for key in rows if key.role != "naive")
    curves = [
        error_by_sparsity(file_stem(stem, model, number, "near" if close else ""), rows, model, looks, close=close)
        for number, model in enumerate(models)
        for close in (False, True)
    ]
    blocks: dict[str, _Shown] = {
        "How much can go before a loss shows": [
            thresholds_table(f"{stem}-thresholds", title, context.sweeps, pairs, [case])
        ],
        "What the controls say": [controls] if any(head.numeric for head in controls.heads) else [],
        "Error against sparsity": curves,
        "Error against cost": [error_by_cost(file_stem(stem, cost.name), rows, cost, looks) for cost in costs(timings)],
        "All variants": [variants_table(context, f"{stem}-variants", case)],
        "Forecasts beside the truth": forecast_charts(
            context, f"{stem}-forecast", case, subject(rows), most=FORECASTS_OF_A_CASE
        ),
    }
    return Part(stem, f"Horizon {case.horizon}", _blocks(blocks), tiles(context, case))


def forecast_charts(context: Context, name: str, case: Case, model: str | None, *, most: int) -> list[Chart]:
    """Returns at most `most` test windows, with what a dense model, the same pruned, and a naive forecast said."""
    drawn = []
    for variant in _forecasters(context, case, model) if model is not None else ():
        row = next(iter(context.study.runs[variant].values()))
        found = {(one.channel, one.window): one for one in context.study.frame.forecasts(row["fingerprint"])}
        if found:
            drawn.append((variant.model if variant.role == "naive" else variant.name, variant.role, found))
    places = list(drawn[0][2])[:most] if drawn else []
    return [
        forecast_chart(
            f"{name}-{number}",
            model or "",
            [(said, role, found[place]) for said, role, found in drawn if place in found],
        )
        for number, place in enumerate(places, start=1)
    ]


def _forecasters(context: Context, case: Case, model: str) -> list[Variant]:
    """Returns whose forecasts are drawn: dense, pruned as far as nothing is lost, before fine-tuning too, naive."""
    of_case = context.study.of_case(case)
    own = [variant for variant in of_case if variant.model == model]
    tuned = [variant for variant in own if variant.role == "pruned+finetuned" and not variant.is_control]
    plain = [variant for variant in own if variant.role == "pruned"]
    reached = [variant for one in context.harmless(case, model) if (variant := one.variant) in tuned]
    pruned = sorted(tuned or plain, key=lambda variant: variant.sparsity_requested or 0.0)[:1]
    if reached:
        best = max(reached, key=lambda variant: variant.sparsity_requested or 0.0)
        same = (best.method, best.sparsity_requested)
        pruned = [*(variant for variant in plain if (variant.method, variant.sparsity_requested) == same), best]
    dense = [variant for variant in own if variant.role == "dense"]
    naive = [variant for variant in of_case if variant.role == "naive"]
    hardest = sorted(naive, key=lambda variant: float(context.rows[variant]["test_mse"]))[:1]
    return [*dense, *pruned, *hardest]


def _of_model(context: Context, name: str, model: str) -> dict[str, _Shown]:
    study, sweeps = context.study, context.sweeps
    pairs = context.pairs_of(model)
    lines = [line for line in sweeps.lines if line.model == model]
    timed = [speed for speed in context.speeds if speed.model == model]
    cases = [case for case in study.cases if any(key.case == case for key in context.models[model])]
    published = [deviation for deviation in context.deviations if deviation.variant.model == model]
    curves, forecasts = [], []
    for case in cases:
        stem = file_stem(name, case.dataset, case.horizon)
        curve = error_by_sparsity(stem, context.rows_of(case), model, context.looks)
        curves += [replace(curve, title=case.title)] if curve is not None else []
        found = forecast_charts(context, file_stem(stem, "forecast"), case, model, most=FORECASTS_OF_A_MODEL)
        forecasts += [replace(chart, title=f"{case.title}: {chart.title.partition(' on ')[2]}") for chart in found]
    return {
        "Over all data sets": [
            ratio_curves(context, f"{name}-ratio", f"{model}: error over the dense model's", pairs),
            speed_chart(context, f"{name}-speed", f"{model}: promised and measured", timed),
        ],
        "How far it can be pruned": [
            thresholds_table(f"{name}-thresholds", "How far it goes on each data set", sweeps, pairs, cases)
        ],
        "What the headline is read off": [
            sweep_table(f"{name}-sweeps", "Every sparsity, over all data sets", sweeps, lines)
        ],
        "Time": [speed_table(context, f"{name}-speeds", timed)],
        "Beside published errors": [deviation_table(f"{name}-published", study, published)],
        "On each data set": curves,
        "Forecasts before and after pruning": forecasts,
    }


def _of_method(context: Context, name: str, method: str) -> dict[str, _Shown]:
    sweeps, pairs = context.sweeps, [(model, method) for model in context.methods[method]]
    lines = [line for line in sweeps.lines if line.method == method]
    timed = [speed for speed in context.speeds if speed.method == method]
    title = f"{method}: error over the dense model's"
    return {
        "Over all data sets": [
            ratio_curves(context, f"{name}-ratio", title, pairs, by_model=True),
            speed_chart(context, f"{name}-speed", f"{method}: promised and measured", timed, by_model=True),
        ],
        "How far it goes on each model and data set": [
            thresholds_table(f"{name}-thresholds", "How far it goes", sweeps, pairs, context.study.cases)
        ],
        "Every sparsity, over all data sets": [sweep_table(f"{name}-sweeps", "Every sparsity", sweeps, lines)],
        "Time": [speed_table(context, f"{name}-speeds", timed)],
    }


def all_pages(context: Context) -> list[Page]:
    """Returns all pages but the first, in the order of the menu."""
    pages: list[Page] = []
    places: dict[Case | str, str] = {}
    for number, (dataset, cases) in enumerate(context.datasets.items(), start=1):
        name = file_stem("data", number, dataset)
        parts = [_case_part(context, f"{name}-{case.horizon}", case) for case in cases]
        places |= {case: f"{name}:{part.anchor}" for case, part in zip(cases, parts, strict=True)}
        pages.append(Page(name, "data", dataset, parts))
    for model, name in context.model_pages.items():
        places[model] = name
        pages.append(_page(name, "model", model, _of_model(context, name, model)))
    for number, method in enumerate(context.methods, start=1):
        name, of = file_stem("method", number, method), context.budgets.get(method)
        intro = f"Removes a share of the {of}." if of else ""
        pages.append(_page(name, "method", method, _of_method(context, name, method), intro))
    fronts = {"Any error against any cost": [fronts_chart(context, places)]}
    pages.append(_page("fronts", "fronts", "Fronts", fronts))
    if context.deviations:
        table = deviation_table("published", context.study, context.deviations)
        pages.append(_page("published", "published", "Published errors", {"Dense errors, ours and published": [table]}))
    return pages


def _page(name: str, kind: Kind, title: str, found: Mapping[str, _Shown], intro: str = "") -> Page:
    """Returns a page of a single part."""
    return Page(name, kind, title, [Part(f"{name}-all", "", _blocks(found))], intro)


@dataclass(frozen=True)
class Overview:
    """What the first page shows; a table without rows has nothing to say.

    Attributes:
        sentences: the study's answer.
        answer: the same as a short table.
        tiles: of a study of one data set and horizon.
        pictures: how far, and what time is saved: the picture of the study.
        headline: the table.
        ways: all ways to prune without training beside each other: how they compare in one picture.
        curves: error ratios of each model.
        speed: promised and measured speed-ups, one chart or none.
        ranks: critical-difference diagrams.
        rankings: the same as tables, and those that have no diagram.
        speed_table: promised and measured speed-ups of all variants.
    """

    sentences: Sequence[str]
    answer: ReportTable
    tiles: Sequence[Tile]
    pictures: Sequence[Chart]
    headline: ReportTable
    ways: Sequence[Chart]
    curves: Sequence[Chart]
    speed: Sequence[Chart]
    ranks: Sequence[Chart]
    rankings: Sequence[ReportTable]
    speed_table: ReportTable

    @property
    def charts(self) -> list[Chart]:
        """The charts that lie beside the page as files."""
        return [*self.pictures, *self.ways, *self.curves, *self.speed, *self.ranks]

    @property
    def tables(self) -> list[ReportTable]:
        """The tables that lie beside the page as files."""
        return [table for table in (self.answer, self.headline, self.speed_table, *self.rankings) if table.rows]


def overview(context: Context) -> Overview:
    """Returns the first page of a study."""
    study, sweeps, rows = context.study, context.sweeps, context.rows
    single = study.cases[0] if len(study.cases) == 1 else None
    timed = [speed for speed in context.speeds if not speed.is_control]
    ranked = list(_rankings(context))
    pictured = np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_DIAGRAMS)).round().astype(int)
    curves = (
        error_by_sparsity(file_stem("curve", number, model), rows, model, context.looks)
        if single is not None
        else ratio_curves(context, file_stem("ratio", number, model), model, context.pairs_of(model))
        for number, model in enumerate(context.models, start=1)
    )
    return Overview(
        sentences=sentences(context),
        answer=answer_table(context, "answer"),
        tiles=[] if single is None else tiles(context, single),
        pictures=_drawn(thresholds_chart(context, "thresholds"), time_chart(context, "time")),
        headline=headline_table("headline", sweeps, context.budgets, context.model_pages),
        ways=ways_charts(context),
        curves=_drawn(*curves),
        speed=_drawn(speed_chart(context, "speed", "Promised and measured speed-up", timed)),
        ranks=[rank_chart(*ranked[place]) for place in pictured],
        rankings=[rank_table(name, title, study, found) for name, title, found in ranked],
        speed_table=speed_table(context, "speeds", context.speeds),
    )


def _drawn(*charts: Chart | None) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _rankings(context: Context) -> Iterator[tuple[str, str, Ranked]]:
    """Yields the ranking of forecasters, and of ways to prune at each sparsity that several ways share."""
    found = forecaster_ranking(context.rows)
    if found is not None and len(found.ranking.names) >= FEWEST_RANKED:
        yield "ranks-dense", "Dense forecasters, by rank", found
    for sparsity in sparsities(context.rows):
        ways = method_ranking(context.rows, context.mse, sparsity)
        if ways is not None and len(ways.ranking.names) >= FEWEST_RANKED:
            yield file_stem("ranks", f"{sparsity:.3f}"), f"Ways to remove {percent(sparsity)}, by rank", ways


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

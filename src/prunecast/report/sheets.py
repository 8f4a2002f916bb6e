"""The tables of a report: variants, thresholds, controls, speed-ups, ranks, published errors, and what was run.

Each function takes the stem of its table's files as `name`, and what was run as `study`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np

from prunecast.records import Failure
from prunecast.report.compare import Against, Case, Comparison, StudyRuns, Variant
from prunecast.report.context import Context
from prunecast.report.published_errors import (
    MEAN_TOLERANCE,
    TOLERANCE,
    UNSTABLE_TOLERANCE,
    Deviation,
    mean_within,
)
from prunecast.report.ranks import Ranked, not_told_apart
from prunecast.report.statistics import Interval
from prunecast.report.style import (
    SATURATED,
    between,
    count,
    metric_name,
    missing,
    percent,
    runtime_name,
    signed,
    signed_percent,
    size,
    three_digits,
    times,
)
from prunecast.report.summary import Rows, Speed, speedup_in
from prunecast.report.tables import RECORDS, Cell, Head, Link, Mark, ReportTable, TableRow, linked, name_head
from prunecast.report.thresholds import MARGIN, Level, Line, Sweep, Sweeps
from prunecast.study.frame import StageRow

Cells = dict[Head, Cell]

COLUMNS: tuple[tuple[str, bool, Against], ...] = (
    ("without fine-tuning, against dense", False, "dense"),
    ("fine-tuned, against dense", True, "dense"),
    ("fine-tuned, against dense-continued", True, "dense-continued"),
)
"""What tables of thresholds have of each model and method: heading, fine-tuned or not, and the opponent."""

# Links to records.


def scored(study: StudyRuns, variant: Variant) -> Iterator[Link]:
    """Yields the records that hold a variant's errors, by seed."""
    return ((str(seed), row["fingerprint"]) for seed, row in study.runs[variant].items())


def timed(study: StudyRuns, variant: Variant) -> Iterator[Link]:
    """Yields the records that hold a variant's timings, by seed."""
    for seed, row in study.runs[variant].items():
        for taken in study.taken.get(row["fingerprint"], ()):
            if any(name.endswith("_latency_ms") for name in taken):
                yield str(seed), taken["fingerprint"]


# All variants of a case.


def variants_table(context: Context, name: str, case: Case) -> ReportTable:
    """Returns the variants of a case, each with the records that it comes from.

    Everything of the main runtime is shown, of the others that were timed the times and speed-ups.
    """
    study, lines = context.study, []
    for key, cells in _variants(context.rows_of(case), context.timings.labels, context.timings.main):
        records = (*scored(study, key), *((f"t{seed}", fingerprint) for seed, fingerprint in timed(study, key)))
        whole = cells | {RECORDS: Cell(records=records)}
        lines.append(TableRow(whole, series=key.series, kind=key.role, open=key.role == "pruned"))
    return ReportTable(name, "All variants", lines, sortable=True).without_empty()


def _variants(rows: Rows, labels: Sequence[str], main: str | None) -> Iterator[tuple[Variant, Cells]]:
    """Yields the cells of each variant; columns that none of them has are there, and empty."""
    lacking = len({row["seeds"] for row in rows.values()}) > 1  # a stage failed: say where seeds are missing
    for key, row in rows.items():
        text, note = (row["model"], row["variant"]) if row["role"] == "naive" else (row["variant"], row["model"])
        cells = {Head("", "variant", numeric=False): Cell(text, note, f"{row['model']} {row['variant']}")}
        if lacking:
            cells[Head("", "seeds", paper=False)] = _number(row["seeds"], lambda seeds: f"{seeds:.0f}")
        metrics = {column.removeprefix("test_").removesuffix("_sd") for column in row if column.startswith("test_")}
        for metric in sorted(metrics - {"windows"}, key=lambda name: (name != "mse", name != "mae", name)):
            cells |= _errors(row, metric)
        gone = row.get("sparsity_realised")
        sparsity = "" if gone is None or missing(gone) or gone <= 0 else f"sparsity {percent(round(gone, 3))}"
        dense, effective = (_number(row.get(f"{kind}_macs"), count) for kind in ("dense", "effective"))
        skipped = "" if effective.text == dense.text else f"{effective.text} non-zero"
        cells |= {
            Head("size", "non-zero"): _number(row.get("nonzero"), count, sparsity),
            Head("size", "zip", paper=False): _number(row.get("zip_bytes"), size),
            Head("size", "multiply-adds"): replace(dense, note=skipped),
        }
        if main is not None:
            file, memory = (_number(row.get(f"{main}_{kind}"), size) for kind in ("bytes", "model_memory_bytes"))
            cells |= {
                Head(runtime_name(main), "time"): _time(row, main),
                Head(runtime_name(main), "speed-up"): speedup_cell(speedup_in(row, main)),
                Head(runtime_name(main), "file, RAM", paper=False): replace(
                    file, note=f"RAM {memory.text}" if memory.text else ""
                ),
                Head(runtime_name(main), "cold start", paper=False): _milliseconds(row, f"{main}_cold_start_ms"),
                Head(runtime_name(main), "energy", paper=False): _number(
                    row.get(f"{main}_energy_mj"), lambda mj: f"{three_digits(mj)} mJ"
                ),
            }
        for label in labels:
            if label != main:
                ratio = speedup_cell(speedup_in(row, label))
                faster = f"{ratio.text} ({ratio.note})" if ratio.text else ""
                cells[Head(runtime_name(label), "time, speed-up", paper=False)] = replace(
                    _time(row, label), note=faster
                )
        yield key, cells


def _number(value: float | None, write: Callable[[float], str], note: str = "") -> Cell:
    return Cell() if value is None or missing(value) else Cell(write(value), note, value)


def _time(row: StageRow, label: str) -> Cell:
    return _milliseconds(row, f"{label}_latency_ms")


def _milliseconds(row: StageRow, column: str) -> Cell:
    return _number(row.get(column), lambda ms: f"{three_digits(ms)} ms")


def _errors(row: StageRow, metric: str) -> Cells:
    """Returns the cells of one metric: the error, and its change against each opponent."""
    name, prefix, main = metric_name(metric), "" if metric == "mse" else f"{metric}_", metric == "mse"
    spread, floors = row.get(f"test_{metric}_sd"), row.get(f"{prefix}saturated")
    error = _number(row.get(f"test_{metric}"), lambda value: f"{value:.4f}")
    if error.text:
        flag = (SATURATED, f"saturated: not shown to be better than {floors}")
        saturated = isinstance(floors, str) and floors != ""
        error = replace(error, note="" if missing(spread) else f"± {spread:.4f}", flag=flag if saturated else None)
    cells = {Head("test error", name, paper=main): error}
    for against, paper in (("dense", main), ("dense-continued", main), ("small-dense", False), ("random", False)):
        column = f"{prefix}vs_{against.replace('-', '_')}"
        change = _number(row.get(column), signed)
        if change.text:
            interval = Interval(row[column], row[f"{column}_low"], row[f"{column}_high"])
            known = row[f"{column}_verdict"] != "no interval"
            note = f"{signed(interval.low)} … {signed(interval.high)}" if known else "no interval"
            change = replace(change, note=note, mark=_mark(row[f"{column}_verdict"]))
        cells[Head(f"change of {name} against", against.replace("small-dense", "small dense"), paper=paper)] = change
    return cells


def _mark(verdict: str) -> Mark:
    return "better" if verdict == "better" else "worse" if verdict == "worse" else "faint"


def speedup_cell(ratio: Interval | None) -> Cell:
    """Returns a ratio of times: a speed-up only when its interval leaves out 1; one below 1 is called slower."""
    if ratio is None:
        return Cell()
    note = f"{ratio.low:.2f} … {ratio.high:.2f}"
    if ratio.low > 1:
        return Cell(times(ratio.value), note, ratio.value, "better")
    if ratio.high < 1:
        return Cell(f"slower, {times(ratio.value)}", note, ratio.value, "worse")
    return Cell("none shown", note, ratio.value, "faint")


def to_texts(context: Context) -> list[dict[str, Any]]:
    """Returns all variants for a terminal: a star where an interval leaves out 0, and the speed-up's interval."""
    lines = [TableRow(cells) for _, cells in _variants(context.rows, (), context.timings.main)]
    texts = []
    for (key, row), line in zip(context.rows.items(), ReportTable("", "", lines).without_empty().rows, strict=True):
        text = {"case": key.case.title} if len(context.study.cases) > 1 else {}
        text |= {"model": row["model"], "variant": row["variant"]}
        for head, cell in line.cells.items():
            if head.paper and head.header not in ("variant", "multiply-adds"):
                short = f"vs {head.header}" if head.group.startswith("change of") else head.header
                text[short] = cell.one_line if head.header == "speed-up" else cell.shown
        texts.append(text)
    return texts


# How far methods go: thresholds.


def headline_table(name: str, sweeps: Sweeps, budgets: Mapping[str, str], pages: Mapping[str, str]) -> ReportTable:
    """Returns the thresholds over all data sets and horizons, methods first and their random controls after them.

    `budgets` says of what each method removes its share, `pages` where each model has its page.
    """
    rows = []
    for model, method in sorted(sweeps.methods, key=lambda pair: sweeps.is_control(pair[1])):
        of = budgets.get(method, "")
        cells = {
            name_head("model"): Cell(model, order=model, page=pages.get(model, "")),
            name_head("method"): Cell(method, f"of {of}" if of else "", method),
        }
        found = {group: sweeps.pooled(Line(model, method, tuned, against)) for group, tuned, against in COLUMNS}
        for group, sweep in found.items():
            cells[Head(group, "no loss up to")] = _no_loss(sweeps, sweep)
            cells[Head(group, f"loss under {percent(MARGIN)} up to")] = _small_loss(sweeps, sweep)
        cells[RECORDS] = _read_off(found.values())
        rows.append(TableRow(cells, series=method, kind="control" if sweeps.is_control(method) else ""))
    note = (
        "Share removed, of the method's own budget. No loss: up to that sparsity, no interval of the error ratio lies "
        f"above 1, and no ratio reaches {1 + MARGIN:g}. Loss under {percent(MARGIN)}: up to that sparsity, every "
        f"interval ends below {1 + MARGIN:g}. Ratios are geometric means over data sets and horizons, with 95 % "
        "intervals; the second line is the change of MSE there, the last line the range over single data sets and "
        f"horizons. {SATURATED}: there, on some of them, the model is not shown to be better than a forecast that "
        "learned nothing, so it had little to lose."
    )
    return ReportTable(name, "How far each model can be pruned", rows, note)


def _no_loss(sweeps: Sweeps, sweep: Sweep | None) -> Cell:
    """Returns up to which sparsity no loss is shown; where there is none, the error at the lowest level."""
    if sweep is None:
        return Cell()
    if not sweep.levels[0].known:
        return Cell("not known", "no interval", mark="faint")
    more = _range([one.no_loss for one in sweeps.each(sweep)])
    if sweep.no_loss is not None:
        return _threshold(sweep, sweep.no_loss, more)
    lowest = sweep.levels[0]
    note = f"at {percent(lowest.sparsity)}: {change(lowest.ratio)}"
    return Cell("none", note, 0.0, "worse" if lowest.loses else "faint", more=more)


def _small_loss(sweeps: Sweeps, sweep: Sweep | None) -> Cell:
    if sweep is None or not sweep.levels[0].known:
        return Cell()
    if sweep.small_loss is None:
        return Cell("not shown", order=0.0, mark="faint")
    more = _range([one.small_loss for one in sweeps.each(sweep)])
    return replace(_threshold(sweep, sweep.small_loss, more), note="")


def _threshold(sweep: Sweep, level: Level, more: str) -> Cell:
    flag = (SATURATED, f"saturated in {level.saturated} of {len(sweep.cases)} cases") if level.saturated else None
    most = "≥ " if level is sweep.levels[-1] else ""
    return Cell(f"{most}{percent(level.sparsity)}", change(level.ratio), level.sparsity, flag=flag, more=more)


def change(ratio: Interval) -> str:
    """Returns a ratio of errors as a change: "+1.2 % (−0.3 … +2.6)"."""
    if isnan(ratio.low):
        return f"{signed_percent(ratio.value - 1)}, no interval"
    return f"{signed_percent(ratio.value - 1)} ({between(ratio.low - 1, ratio.high - 1)[:-2]})"


def _range(reached: Sequence[Level | None]) -> str:
    """Returns the lowest and the highest threshold of several cases; nothing for one."""
    if len(reached) < 2:
        return ""
    shares = [0.0 if level is None else level.sparsity for level in reached]
    low, high = percent(min(shares)), percent(max(shares))
    return f"{len(shares)} cases: {low if low == high else f'{low[:-2]} … {high}'}"


def _read_off(sweeps: Iterable[Sweep | None]) -> Cell:
    """Returns the records of the pruned models that a row is read off, and of what they are held against."""
    levels = [sweep.no_loss or sweep.levels[0] for sweep in sweeps if sweep is not None]
    found = dict.fromkeys(
        name for level in levels for one in level.comparisons for pair in one.fingerprints for name in pair
    )
    return Cell(records=tuple((str(number), name) for number, name in enumerate(found, start=1)))


def thresholds_table(
    name: str, title: str, sweeps: Sweeps, pairs: Iterable[tuple[str, str]], cases: Sequence[Case]
) -> ReportTable:
    """Returns how far methods go: a row for each pair of model and method, on each single data set and horizon."""
    wanted = list(pairs)
    by_model = len({method for _, method in wanted}) == 1
    rows = []
    for model, method in wanted:
        for case in cases:
            found = {
                group: sweeps.pooled(Line(model, method, tuned, against), case) for group, tuned, against in COLUMNS
            }
            if any(found.values()):
                cells = {
                    name_head("model"): Cell(model, order=model),
                    name_head("method"): Cell(method, order=method),
                    name_head("data set"): Cell(case.dataset, order=case.dataset),
                    Head("", "horizon", name=True): Cell(str(case.horizon), order=case.horizon),
                }
                cells |= {Head("no loss shown up to", group): _no_loss(sweeps, found[group]) for group in found}
                rows.append(TableRow(cells | {RECORDS: _read_off(found.values())}, model if by_model else method))
    return ReportTable(name, title, rows, sortable=True).without_empty()


def sweep_table(name: str, title: str, sweeps: Sweeps, lines: Iterable[Line]) -> ReportTable:
    """Returns the levels of sweeps over all cases: what the headline is read off, with the records below it."""
    found = [sweep for line in lines if (sweep := sweeps.pooled(line)) is not None]
    by_model = len({sweep.line.method for sweep in found}) == 1
    rows = []
    for sweep in found:
        line = sweep.line
        for level in sweep.levels:
            ratio = level.ratio
            interval = f"{ratio.low:.3f} … {ratio.high:.3f}" if level.known else "no interval"
            mark: Mark = "worse" if level.loses else "better" if level.known and ratio.high < 1 else "faint"
            loss = "yes" if level.loses else "no" if level.holds else "unclear" if level.known else "not known"
            records = (
                (
                    "" if len(sweep.cases) == 1 else f"{one.variant.case.dataset} {one.variant.case.horizon}",
                    [(str(number), own) for number, (own, _) in enumerate(one.fingerprints, start=1)],
                )
                for one in level.comparisons
            )
            cells = {
                name_head("model"): Cell(line.model, order=line.model),
                name_head("method"): Cell(line.method, order=line.method),
                Head("", "fine-tuned", numeric=False): Cell("yes" if line.finetuned else "no"),
                Head("", "against", numeric=False): Cell(line.against),
                Head("", "removed"): Cell(percent(level.sparsity), order=level.sparsity),
                Head("", "error ratio"): Cell(f"{ratio.value:.3f}", interval, ratio.value, mark),
                Head("", "loss shown", numeric=False): Cell(loss),
                Head("", "saturated"): Cell(f"{level.saturated} of {len(sweep.cases)}", order=level.saturated),
                RECORDS: linked(records),
            }
            rows.append(TableRow(cells, series=line.model if by_model else line.method, open=not line.finetuned))
    return ReportTable(name, title, rows, sortable=True)


# What the controls say.


def controls_table(context: Context, name: str, case: Case) -> ReportTable:
    """Returns one row for each trained model of a case: was anything learned, was pruning needed?"""
    compared, variants = context.mse, context.study.of_case(case)
    naive = [variant for variant in variants if variant.role == "naive"]
    rows = []
    for model in dict.fromkeys(variant.model for variant in variants if variant.role != "naive"):
        own = [variant for variant in variants if variant.model == model]
        pruned = [variant for variant in own if variant.pruned]
        held = {c.other: c for v in own if v.role == "dense" for c in compared.all_of(v, "naive")}
        zeroed = next((c for v in own if v.role == "zeroed-body" and (c := compared.of(v, "dense"))), None)
        floors = [variant for variant in pruned if compared.saturated(variant)]
        floor_names = dict.fromkeys(name for variant in floors for name in compared.floor_names(variant))
        tuned = [variant for variant in pruned if variant.finetuned]
        controls = [*naive, *(variant for variant in own if not variant.pruned)]
        cells = {name_head("model"): Cell(model, order=model)}
        cells |= {Head("dense, against", other.model): _relative(held.get(other)) for other in naive}
        cells |= {
            Head("", "body zeroed, against dense"): _relative(zeroed),
            Head("", f"saturated {SATURATED}"): Cell(
                f"{len(floors)} of {len(pruned)}" if pruned else "",
                ", ".join(floor_names),
                len(floors) if pruned else None,
            ),
            Head("", "against small dense"): _tally(compared.of(variant, "small-dense") for variant in tuned),
            Head("", "against random"): _tally(compared.of(variant, "random") for variant in pruned),
            RECORDS: linked((v.model if v.role == "naive" else v.name, scored(context.study, v)) for v in controls),
        }
        rows.append(TableRow(cells))
    note = (
        "Changes of MSE with 95 % intervals. Saturated: pruned variants that are not shown to be better than a naive "
        "forecast or than the dense model with its body zeroed. Small dense: pruned and fine-tuned variants against "
        "dense models of their size, trained from scratch. Random: pruned variants against as much removed at random "
        "from the same model, by the same recovery and fine-tuning."
    )
    return ReportTable(name, "What the controls say", rows, note).without_empty()


def _tally(found: Iterable[Comparison | None]) -> Cell:
    """Returns how many comparisons came out better, worse, or neither."""
    verdicts = Counter(comparison.verdict for comparison in found if comparison is not None)
    said = [f"{verdicts[kind]} {kind}" for kind in ("better", "not told apart", "worse") if verdicts[kind]]
    return Cell(", ".join(said), order=float(verdicts["better"] - verdicts["worse"]) if verdicts else None)


def _relative(comparison: Comparison | None) -> Cell:
    """Returns a change relative to the reference, with its interval."""
    if comparison is None:
        return Cell()
    value, relative = comparison.difference / comparison.reference, comparison.relative
    note = "no interval" if relative is None else between(relative.low, relative.high)
    return Cell(signed_percent(value), note, value, _mark(comparison.verdict))


# Speed-ups and ranks.


def speed_table(context: Context, name: str, found: Sequence[Speed]) -> ReportTable:
    """Returns the table of speed-ups: promised, and measured in each runtime, with the records of the timings."""
    study, labels = context.study, context.timings.labels
    by_model = len({speed.method for speed in found}) == 1
    rows = []
    for speed in found:
        tuned = {variant: "fine-tuned" if variant.finetuned else "not fine-tuned" for variant in speed.variants}
        several = speed.cases > 1
        cells = {
            Head("", "model", numeric=False): Cell(speed.model, order=speed.model),
            Head("", "method", numeric=False): Cell(speed.method, order=speed.method),
            Head("", "removed"): Cell(percent(speed.sparsity_requested), order=speed.sparsity_requested),
            Head("", "cases"): Cell(str(speed.cases), order=speed.cases),
            Head("speed-up", "promised"): Cell(times(speed.promised), order=speed.promised),
        }
        cells |= {Head("speed-up", runtime_name(label)): speedup_cell(speed.measured.get(label)) for label in labels}
        cells |= {Head("realised", runtime_name(label)): _realised(speed, label) for label in labels}
        cells[RECORDS] = linked(
            (f"{variant.case.title}, {how}" if several else how, timed(study, variant))
            for variant, how in tuned.items()
        )
        rows.append(TableRow(cells, series=speed.model if by_model else speed.method))
    note = (
        "Geometric means over data sets, horizons and seeds; the interval's ends are the means of theirs. Promised: "
        "the dense model's multiply-adds over those with a non-zero weight. Realised: the measured speed-up over it."
    )
    return ReportTable(name, "Promised and measured speed-up", rows, note, sortable=True)


def _realised(speed: Speed, label: str) -> Cell:
    """Returns the share of the promised speed-up that was measured, with its interval."""
    ratio = speed.measured.get(label)
    if ratio is None:
        return Cell()
    share, low, high = (value / speed.promised for value in (ratio.value, ratio.low, ratio.high))
    return Cell(percent(share), f"{percent(low)} to {percent(high)}", share)


def rank_table(name: str, title: str, study: StudyRuns, ranked: Ranked) -> ReportTable:
    """Returns mean ranks as a table, with the records of each treatment."""
    found = ranked.ranking
    rows = []
    for place, (treatment, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        of = ranked.variants[treatment]
        cells = {
            Head("", "treatment", numeric=False): Cell(treatment),
            Head("", "mean rank"): Cell(f"{rank:.2f}", order=rank),
            Head("", "not told apart from", numeric=False): Cell(", ".join(not_told_apart(found, place))),
            RECORDS: linked((f"{variant.case.title} {variant.model}", scored(study, variant)) for variant in of),
        }
        rows.append(TableRow(cells))
    return ReportTable(name, title, rows, rank_caption(ranked))


def rank_caption(ranked: Ranked) -> str:
    """Returns what a ranking says and how far it can be trusted; a share of one in ten thousand is not counted."""
    found = ranked.ranking
    verdict = "differences are shown" if found.told_apart else "no difference is shown"
    chance = f"= {found.p:.2g}" if found.p > 1e-4 else "< 0.0001"
    return (
        f"Mean rank over {len(found.datasets)} data sets ({', '.join(found.datasets)}); 1 is best. Friedman: "
        f"chi square {found.statistic:.2f}, p {chance}: {verdict}. "
        "A bar joins what is not told apart (Nemenyi, 5 %)."
    )


# Beside published errors.

_SCORINGS: Mapping[str, str] = {
    "paper": "paper, as theirs",
    "full": "full, as theirs",
    "unknown": "full; theirs not known",
}


def deviation_table(name: str, study: StudyRuns, found: Sequence[Deviation]) -> ReportTable:
    """Returns one row for each cell, and the mean over horizons of each model and data set that has several."""
    groups: dict[tuple[str, str], list[Deviation]] = {}
    for one in found:
        groups.setdefault((one.variant.model, one.variant.case.dataset), []).append(one)
    rows = []
    for (model, dataset), group in groups.items():
        for one in group:
            published, horizon = one.published, one.variant.case.horizon
            spread = "" if one.mse_sd is None else f"± {one.mse_sd:.3f}"
            cells = _beside(dataset, Cell(str(horizon), order=horizon), model)
            cells |= _errors_beside("MSE", one.mse, published.mse, within=one.within, spread=spread)
            cells |= _errors_beside("MAE", one.mae, published.mae)
            cells |= {
                Head("", "scoring", numeric=False): Cell(_SCORINGS[published.scoring]),
                Head("ours", "parameters", paper=False): _number(one.parameters, count),
                Head("ours", "steps", paper=False): _number(one.steps, str),
                Head("", "source", numeric=False, paper=False): Cell(published.source, published.confidence),
                RECORDS: Cell(records=tuple(scored(study, one.variant))),
            }
            rows.append(TableRow(cells))
        if len(group) > 1:
            errors = [(one.mse, one.published.mse, one.mae, one.published.mae) for one in group]
            mse, published_mse, mae, published_mae = map(float, np.mean(errors, axis=0))
            own = _beside(dataset, Cell("mean", f"of {len(group)}"), model)
            own |= _errors_beside("MSE", mse, published_mse, within=mean_within(group))
            own |= _errors_beside("MAE", mae, published_mae)
            own[RECORDS] = linked((str(one.place.horizon), scored(study, one.variant)) for one in group)
            rows.append(TableRow({head: own.get(head, Cell()) for head in cells}, kind="mean"))
    note = (
        f"Deviation: ours over theirs, less 1. Grey: within {percent(TOLERANCE)} of the published MSE "
        f"({percent(UNSTABLE_TOLERANCE)} for Informer and Transformer on ETTh2, ETTm2 and Exchange, whose runs differ "
        f"much; {percent(MEAN_TOLERANCE)} for a mean over all published horizons, where runs agree). Scoring: paper "
        "drops the last incomplete batch of 32, as the authors' loaders did; where theirs was not seen ours is full. A "
        "model smaller than the published one, or trained for fewer steps, is not expected to agree."
    )
    return ReportTable(name, "Dense errors, ours and published", rows, note, sortable=True)


def _beside(dataset: str, horizon: Cell, model: str) -> Cells:
    return {
        Head("", "data set", numeric=False): Cell(dataset, order=dataset),
        Head("", "horizon"): horizon,
        Head("", "model", numeric=False): Cell(model, order=model),
    }


def _errors_beside(metric: str, ours: float, theirs: float, *, within: bool | None = None, spread: str = "") -> Cells:
    """Returns our error, theirs, and the deviation; marked where it is judged and beyond its tolerance."""
    value, paper = ours / theirs - 1, metric == "MSE"
    mark: Mark = "" if within is None else "faint" if within else "worse" if value > 0 else "better"
    return {
        Head(metric, "ours", paper=paper): Cell(f"{ours:.3f}", spread, ours),
        Head(metric, "published", paper=paper): Cell(f"{theirs:.3f}", order=theirs),
        Head(metric, "deviation", paper=paper): Cell(signed_percent(value), "", value, mark),
    }


# What was run.


def run_table(facts: Iterable[tuple[str, str, object]]) -> ReportTable:
    """Returns what was run as a table: of what, which property, its value."""
    return _texts_table("run", "What was run", ("of", "what", "value"), facts)


def failure_table(failures: Sequence[Failure]) -> ReportTable:
    """Returns what did not finish, and why."""
    title = f"{len(failures)} stage{'' if len(failures) == 1 else 's'} did not finish"
    lines = ((one.label, one.stage, one.reason, one.fingerprint) for one in failures)
    return _texts_table("failures", title, ("what", "stage", "reason", "fingerprint"), lines)


def _texts_table(name: str, title: str, headers: Sequence[str], lines: Iterable[Sequence[object]]) -> ReportTable:
    heads = [Head("", header, numeric=False) for header in headers]
    rows = [TableRow({head: Cell(str(text)) for head, text in zip(heads, line, strict=True)}) for line in lines]
    return ReportTable(name, title, rows)


def data_of(row: StageRow) -> dict[str, Any]:
    """Returns which data a stage saw: name, rows, channels and windows."""
    names, windows = json.loads(row["channels"]), json.loads(row["data_windows"])
    return {"name": row["dataset"], "rows": row.get("data_rows"), "channels": len(names), "windows": windows} | {
        "sha256": row["data_sha256"]
    }

"""The tables of a report: variants, thresholds, controls, speed-ups, ranks, published errors, and what was run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from prunecast.records import Failure
from prunecast.report.compare import Against, Case, Compared, Comparison, StudyRuns, Variant, Verdict
from prunecast.report.published_errors import (
    MEAN_TOLERANCE,
    TOLERANCE,
    UNSTABLE_TOLERANCE,
    Deviation,
    MeanDeviation,
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
from prunecast.report.summary import Rows, Speed
from prunecast.report.tables import (
    RECORDS,
    Cell,
    Head,
    Link,
    Mark,
    ReportTable,
    TableRow,
    linked,
    name_head,
    one_line,
    star,
)
from prunecast.report.thresholds import MARGIN, Level, Line, Sweep, Sweeps
from prunecast.study.frame import StageRow

NO_SPEEDUP = "none shown"

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

Write = Callable[[StageRow], Cell]


def variants_table(name: str, study: StudyRuns, rows: Rows, labels: Sequence[str], main: str | None) -> ReportTable:
    """Returns the table of a case's variants, each row with the records that it comes from.

    Args:
        name: file stem.
        study: what was run.
        rows: the summary of the case.
        labels: what was timed; everything of the main runtime is shown, of the others the times.
        main: the main runtime.
    """
    shown = columns(rows, labels, main)
    heads = (*(head for head, _ in shown), RECORDS)
    lines = []
    for key, row in rows.items():
        records = (*scored(study, key), *((f"t{seed}", fingerprint) for seed, fingerprint in timed(study, key)))
        cells = (*(write(row) for _, write in shown), Cell(records=records))
        lines.append(TableRow(cells, series=key.series, kind=key.role, open=key.role == "pruned"))
    return ReportTable(name, "All variants", heads, tuple(lines), sortable=True)


def columns(rows: Rows, labels: Sequence[str], main: str | None) -> list[tuple[Head, Write]]:
    """Returns the columns that have something to show, each with what writes a row's cell."""
    offered: list[tuple[Head, Write]] = [(Head("", "variant", numeric=False), _variant)]
    if len({row["seeds"] for row in rows.values()}) > 1:  # a stage failed: say where seeds are lacking
        offered.append((Head("", "seeds", paper=False), lambda row: Cell(f"{row['seeds']:.0f}", order=row["seeds"])))
    known = {name for row in rows.values() for name in row}
    metrics = [name.removeprefix("test_").removesuffix("_sd") for name in known if name.startswith("test_")]
    for metric in sorted({*metrics} - {"windows"}, key=lambda name: (name != "mse", name != "mae", name)):
        offered += _errors(metric)
    offered += [
        (Head("size", "non-zero"), _nonzero),
        (Head("size", "zip", paper=False), lambda row: _plain(row.get("zip_bytes"), size)),
        (Head("size", "multiply-adds"), _macs),
    ]
    if main is not None:
        offered += _main_runtime(main)
    offered += [_other_runtime(label) for label in labels if label != main]
    return [(head, write) for head, write in offered if any(write(row).text for row in rows.values())]


def _variant(row: StageRow) -> Cell:
    text, note = (row["model"], row["variant"]) if row["role"] == "naive" else (row["variant"], row["model"])
    return Cell(text, note, f"{row['model']} {row['variant']}")


def _errors(metric: str) -> Iterator[tuple[Head, Write]]:
    """Yields the columns of one metric: the error, and its change against each opponent, as far as it was compared."""
    name, prefix = metric_name(metric), "" if metric == "mse" else f"{metric}_"
    yield Head("test error", name, paper=metric == "mse"), lambda row: _error(row, metric, f"{prefix}saturated")
    group = f"change of {name} against"
    for against, paper in (("dense", True), ("dense-continued", True), ("small-dense", False)):
        column = f"{prefix}vs_{against.replace('-', '_')}"
        head = Head(group, against.replace("small-dense", "small dense"), paper=paper and metric == "mse")
        yield head, lambda row, column=column: _difference(row, column)  # type: ignore[misc]


def _error(row: StageRow, metric: str, saturated: str) -> Cell:
    value, spread, floors = row.get(f"test_{metric}"), row.get(f"test_{metric}_sd"), row.get(saturated)
    if value is None or missing(value):
        return Cell()
    flag = (SATURATED, f"saturated: not shown to be better than {floors}")
    note = "" if missing(spread) else f"± {spread:.4f}"
    return Cell(f"{value:.4f}", note, value, flag=flag if isinstance(floors, str) and floors else None)


def _difference(row: StageRow, column: str) -> Cell:
    value = row.get(column)
    if value is None or missing(value):
        return Cell()
    verdict: Verdict = row[f"{column}_verdict"]
    if verdict == "no interval":
        return Cell(signed(value), "no interval", value, "faint")
    ends = f"{signed(row[f'{column}_low'])} … {signed(row[f'{column}_high'])}"
    return Cell(signed(value), ends, value, verdict_mark(verdict))


def verdict_mark(verdict: Verdict) -> Mark:
    """Returns how a verdict looks."""
    return verdict if verdict in ("better", "worse") else "faint"


def _plain(value: float | None, write: Callable[[float], str]) -> Cell:
    return Cell() if value is None or missing(value) else Cell(write(value), order=value)


def _nonzero(row: StageRow) -> Cell:
    cell, share = _plain(row.get("nonzero"), count), row.get("sparsity_realised")
    note = "" if share is None or missing(share) or share <= 0 else f"sparsity {percent(round(share, 3))}"
    return Cell(cell.text, note, cell.order)


def _macs(row: StageRow) -> Cell:
    dense, effective = (_plain(row.get(f"{key}_macs"), count) for key in ("dense", "effective"))
    return Cell(dense.text, f"{effective.text} non-zero" if effective.text != dense.text else "", dense.order)


def _main_runtime(label: str) -> list[tuple[Head, Write]]:
    name = runtime_name(label)
    return [
        (Head(name, "time"), lambda row: _time(row, label)),
        (Head(name, "speed-up"), lambda row: _speedup(row, label)),
        (Head(name, "file, RAM", paper=False), lambda row: _footprint(row, label)),
    ]


def _other_runtime(label: str) -> tuple[Head, Write]:
    def both(row: StageRow) -> Cell:
        time, speedup = _time(row, label), _speedup(row, label)
        return Cell(time.text, f"{speedup.text} ({speedup.note})" if speedup.text else "", time.order)

    return Head(runtime_name(label), "time, speed-up", paper=False), both


def _time(row: StageRow, label: str) -> Cell:
    return _plain(row.get(f"{label}_latency_ms"), lambda ms: f"{three_digits(ms)} ms")


def _speedup(row: StageRow, label: str) -> Cell:
    ratio = row.get(f"{label}_speedup")
    if ratio is None or missing(ratio):
        return Cell()
    return speedup_cell(Interval(ratio, row[f"{label}_speedup_low"], row[f"{label}_speedup_high"]))


def speedup_cell(ratio: Interval) -> Cell:
    """Returns a ratio of times: a speed-up only when its interval leaves out 1; one below 1 is called slower."""
    note = f"{ratio.low:.2f} … {ratio.high:.2f}"
    if ratio.low > 1:
        return Cell(times(ratio.value), note, ratio.value, "better")
    if ratio.high < 1:
        return Cell(f"slower, {times(ratio.value)}", note, ratio.value, "worse")
    return Cell(NO_SPEEDUP, note, ratio.value, "faint")


def _footprint(row: StageRow, label: str) -> Cell:
    """Bytes of the file, and the most memory that loading and running it took."""
    file, memory = (_plain(row.get(f"{label}_{key}"), size) for key in ("bytes", "model_memory_bytes"))
    return Cell(file.text, f"RAM {memory.text}" if memory.text else "", file.order)


def to_texts(rows: Rows, main: str | None) -> list[dict[str, Any]]:
    """Returns the table for a terminal: of the intervals only that of the speed-up, else a star where 0 is outside."""
    shown = [(head, write) for head, write in columns(rows, (), main)[1:] if head.paper]
    several_cases = len({key.case for key in rows}) > 1
    return [
        ({"case": key.case.title} if several_cases else {})
        | {"model": row["model"], "variant": row["variant"]}
        | {_short(head): _shown(head, write(row)) for head, write in shown if head.header != "multiply-adds"}
        for key, row in rows.items()
    ]


def _shown(head: Head, cell: Cell) -> str:
    flag = cell.flag[0] if cell.flag else ""
    return one_line(cell) if head.header == "speed-up" else f"{cell.text}{star(cell)}{flag}"


def _short(head: Head) -> str:
    return f"vs {head.header}" if head.group.startswith("change of") else head.header


# How far methods go: thresholds.


def headline_table(name: str, sweeps: Sweeps, budgets: Mapping[str, str], pages: Mapping[str, str]) -> ReportTable:
    """Returns the thresholds over all data sets and horizons, methods first and their random controls after them.

    Args:
        name: file stem.
        sweeps: of the study.
        budgets: what each method removes its share of.
        pages: model -> page that its cells lead to.
    """
    small = f"loss under {percent(MARGIN)} up to"
    heads = [name_head("model"), name_head("method")]
    heads += [head for group, _, _ in COLUMNS for head in (Head(group, "no loss up to"), Head(group, small))]
    rows = []
    for model, method in sorted(sweeps.methods, key=lambda pair: sweeps.is_control(pair[1])):
        of = budgets.get(method, "")
        cells = [Cell(model, order=model, page=pages.get(model, "")), Cell(method, f"of {of}" if of else "", method)]
        pooled = [sweeps.pooled(Line(model, method, tuned, against)) for _, tuned, against in COLUMNS]
        for sweep in pooled:
            cells += [Cell(), Cell()] if sweep is None else [_no_loss(sweeps, sweep), _small_loss(sweeps, sweep)]
        kind = "control" if sweeps.is_control(method) else ""
        rows.append(TableRow((*cells, Cell(records=_read_off(pooled))), series=method, kind=kind))
    note = (
        "Share removed, of the method's own budget. No loss: up to that sparsity, no interval of the error ratio lies "
        f"above 1, and no ratio reaches {1 + MARGIN:g}. Loss under {percent(MARGIN)}: up to that sparsity, every "
        f"interval ends below {1 + MARGIN:g}. Ratios are geometric means over data sets and horizons, with 95 % "
        "intervals; the second line is the change of MSE there, the last line the range over single data sets and "
        f"horizons. {SATURATED}: there, on some of them, the model is not shown to be better than a forecast that "
        "learned nothing, so it had little to lose."
    )
    return ReportTable(name, "How far each model can be pruned", (*heads, RECORDS), tuple(rows), note)


def _no_loss(sweeps: Sweeps, sweep: Sweep) -> Cell:
    if not sweep.levels[0].known:
        return Cell("not known", "no interval", mark="faint")
    return threshold_cell(sweep, sweep.no_loss, _range(sweep, [of.no_loss for of in sweeps.each(sweep)]))


def _small_loss(sweeps: Sweeps, sweep: Sweep) -> Cell:
    if not sweep.levels[0].known:
        return Cell()
    if sweep.small_loss is None:
        return Cell("not shown", order=0.0, mark="faint")
    whole = threshold_cell(sweep, sweep.small_loss, _range(sweep, [of.small_loss for of in sweeps.each(sweep)]))
    return Cell(whole.text, order=whole.order, flag=whole.flag, more=whole.more)


def threshold_cell(sweep: Sweep, level: Level | None, more: str = "") -> Cell:
    """Returns a threshold: its sparsity, and the error there; where there is none, the error at the lowest level."""
    if level is None:
        lowest = sweep.levels[0]
        mark: Mark = "worse" if lowest.loses else "faint"
        return Cell("none", f"at {percent(lowest.sparsity)}: {change(lowest.ratio)}", 0.0, mark, more=more)
    flag = (SATURATED, f"saturated in {level.saturated} of {len(sweep.cases)} cases") if level.saturated else None
    most = "≥ " if level is sweep.levels[-1] else ""
    return Cell(f"{most}{percent(level.sparsity)}", change(level.ratio), level.sparsity, flag=flag, more=more)


def change(ratio: Interval) -> str:
    """Returns a ratio of errors as a change: "+1.2 % (−0.3 … +2.6)"."""
    if isnan(ratio.low):
        return f"{signed_percent(ratio.value - 1)}, no interval"
    return f"{signed_percent(ratio.value - 1)} ({between(ratio.low - 1, ratio.high - 1)[:-2]})"


def _range(sweep: Sweep, reached: Sequence[Level | None]) -> str:
    if len(sweep.cases) < 2:
        return ""
    shares = [0.0 if level is None else level.sparsity for level in reached]
    low, high = percent(min(shares)), percent(max(shares))
    return f"{len(shares)} cases: {low if low == high else f'{low[:-2]} … {high}'}"


def thresholds_table(
    name: str, title: str, sweeps: Sweeps, pairs: Iterable[tuple[str, str]], cases: Sequence[Case]
) -> ReportTable:
    """Returns how far methods go on single data sets and horizons: a row for each model, method and case.

    Args:
        name: file stem.
        title: of the table.
        sweeps: of the study.
        pairs: models and methods.
        cases: the data sets and horizons.
    """
    heads = [name_head("model"), name_head("method"), name_head("data set"), Head("", "horizon", name=True)]
    heads += [*(Head("no loss shown up to", group) for group, _, _ in COLUMNS), RECORDS]
    wanted = list(pairs)
    by_model = len({method for _, method in wanted}) == 1
    rows = []
    for model, method in wanted:
        for case in cases:
            found = [sweeps.of(Line(model, method, tuned, against), case) for _, tuned, against in COLUMNS]
            if any(found):
                names = [Cell(model, order=model), Cell(method, order=method), Cell(case.dataset, order=case.dataset)]
                names.append(Cell(str(case.horizon), order=case.horizon))
                cells = (*names, *(_case_cell(sweep) for sweep in found), Cell(records=_read_off(found)))
                rows.append(TableRow(cells, model if by_model else method))
    return ReportTable(name, title, tuple(heads), tuple(rows), sortable=True).without_empty()


def _case_cell(sweep: Sweep | None) -> Cell:
    if sweep is None:
        return Cell()
    known = sweep.levels[0].known
    return threshold_cell(sweep, sweep.no_loss) if known else Cell("not known", "no interval", mark="faint")


def _read_off(sweeps: Iterable[Sweep | None]) -> tuple[Link, ...]:
    """Returns the records of the pruned models that a row is read off, and of what they are held against."""
    levels = [sweep.no_loss or sweep.levels[0] for sweep in sweeps if sweep is not None]
    found = dict.fromkeys(
        name for level in levels for one in level.comparisons for pair in one.fingerprints for name in pair
    )
    return tuple((str(number), name) for number, name in enumerate(found, start=1))


def sweep_table(name: str, title: str, sweeps: Sweeps, lines: Iterable[Line]) -> ReportTable:
    """Returns the levels of sweeps over all cases: what the headline is read off, with the records below it."""
    heads = [name_head("model"), name_head("method")]
    heads += [Head("", "fine-tuned", numeric=False), Head("", "against", numeric=False), Head("", "removed")]
    heads += [Head("", "error ratio"), Head("", "loss shown", numeric=False), Head("", "saturated"), RECORDS]
    found = [sweep for line in lines if (sweep := sweeps.pooled(line)) is not None]
    by_model = len({sweep.line.method for sweep in found}) == 1
    rows = [_level_row(sweep, level, by_model=by_model) for sweep in found for level in sweep.levels]
    return ReportTable(name, title, tuple(heads), tuple(rows), sortable=True)


def _level_row(sweep: Sweep, level: Level, *, by_model: bool) -> TableRow:
    line, ratio = sweep.line, level.ratio
    interval = f"{ratio.low:.3f} … {ratio.high:.3f}" if level.known else "no interval"
    mark: Mark = "worse" if level.loses else "better" if level.known and ratio.high < 1 else "faint"
    own = (
        (
            "" if len(sweep.cases) == 1 else f"{one.variant.case.dataset} {one.variant.case.horizon}",
            [(str(number), name) for number, (name, _) in enumerate(one.fingerprints, start=1)],
        )
        for one in level.comparisons
    )
    cells = (
        Cell(line.model, order=line.model),
        Cell(line.method, order=line.method),
        Cell("yes" if line.finetuned else "no"),
        Cell(line.against),
        Cell(percent(level.sparsity), order=level.sparsity),
        Cell(f"{ratio.value:.3f}", interval, ratio.value, mark),
        Cell("yes" if level.loses else "no" if level.holds else "unclear" if level.known else "not known"),
        Cell(f"{level.saturated} of {len(sweep.cases)}", order=level.saturated),
        linked(own),
    )
    return TableRow(cells, series=line.model if by_model else line.method, open=not line.finetuned)


# What the controls say.


def controls_table(name: str, study: StudyRuns, compared: Compared, variants: Sequence[Variant]) -> ReportTable:
    """Returns one row for each trained model of a case: was anything learned, and was pruning needed?

    Args:
        name: file stem.
        study: what was run.
        compared: its comparisons.
        variants: of one data set and horizon.
    """
    naive = [variant for variant in variants if variant.role == "naive"]
    heads = [name_head("model"), *(Head("dense, against", other.model) for other in naive)]
    heads += [Head("", "body zeroed, against dense"), Head("", f"saturated {SATURATED}")]
    heads += [Head("", "against small dense"), RECORDS]
    rows = []
    for model in dict.fromkeys(variant.model for variant in variants if variant.role != "naive"):
        own = [variant for variant in variants if variant.model == model]
        held = {c.other: c for v in own if v.role == "dense" for c in compared.all_of(v, "naive")}
        zeroed = [c for v in own if v.role == "zeroed-body" and (c := compared.of(v, "dense")) is not None]
        controls = [*naive, *(variant for variant in own if not variant.pruned)]
        links = linked((v.model if v.role == "naive" else v.name, scored(study, v)) for v in controls)
        cells = [Cell(model, order=model), *(_relative(held.get(other)) for other in naive)]
        cells += [_relative(zeroed[0] if zeroed else None), _saturated(compared, own), _small_dense(compared, own)]
        rows.append(TableRow((*cells, links)))
    note = (
        "Changes of MSE with 95 % intervals. Saturated: pruned variants that are not shown to be better than a naive "
        "forecast or than the dense model with its body zeroed. Small dense: pruned and fine-tuned variants against "
        "dense models of their size, trained from scratch."
    )
    return ReportTable(name, "What the controls say", tuple(heads), tuple(rows), note).without_empty()


def _relative(comparison: Comparison | None) -> Cell:
    """Returns a change relative to the reference, with its interval."""
    if comparison is None:
        return Cell()
    value, relative = comparison.difference / comparison.reference, comparison.relative
    if relative is None:
        return Cell(signed_percent(value), "no interval", value, "faint")
    return Cell(signed_percent(value), between(relative.low, relative.high), value, verdict_mark(comparison.verdict))


def _saturated(compared: Compared, own: Sequence[Variant]) -> Cell:
    pruned = [variant for variant in own if variant.pruned]
    if not pruned:
        return Cell()
    floors = [variant for variant in pruned if compared.saturated(variant)]
    names = dict.fromkeys(name for variant in floors for name in compared.floor_names(variant))
    return Cell(f"{len(floors)} of {len(pruned)}", ", ".join(names), len(floors))


def _small_dense(compared: Compared, own: Sequence[Variant]) -> Cell:
    """Counts how pruning fares against training a small model in the first place."""
    tuned = [variant for variant in own if variant.role == "pruned+finetuned"]
    found = [c for variant in tuned if (c := compared.of(variant, "small-dense")) is not None]
    verdicts = Counter(comparison.verdict for comparison in found)
    said = [f"{verdicts[verdict]} {verdict}" for verdict in ("better", "not told apart", "worse") if verdicts[verdict]]
    return Cell(", ".join(said), order=float(verdicts["better"] - verdicts["worse"]) if found else None)


# Speed-ups and ranks.


def speed_table(name: str, study: StudyRuns, found: Sequence[Speed], labels: Sequence[str]) -> ReportTable:
    """Returns the table of speed-ups: promised, and measured in each runtime, with the records of the timings."""
    heads = [Head("", "model", numeric=False), Head("", "method", numeric=False), Head("", "removed")]
    heads += [Head("", "cases"), Head("speed-up", "promised")]
    heads += [*(Head("speed-up", runtime_name(label)) for label in labels), RECORDS]
    by_model = len({speed.method for speed in found}) == 1
    rows = []
    for speed in found:
        removed = speed.sparsity_requested
        cells = [Cell(speed.model, order=speed.model), Cell(speed.method, order=speed.method)]
        cells += [Cell(percent(removed), order=removed), Cell(str(speed.cases), order=speed.cases)]
        cells.append(Cell(times(speed.promised), order=speed.promised))
        cells += [speedup_cell(speed.measured[label]) if label in speed.measured else Cell() for label in labels]
        cells.append(linked((_timed_name(speed, variant), timed(study, variant)) for variant in speed.variants))
        rows.append(TableRow(tuple(cells), series=speed.model if by_model else speed.method))
    note = (
        "Geometric means over data sets, horizons and seeds; the interval's ends are the means of theirs. Promised: "
        "the dense model's multiply-adds over those with a non-zero weight."
    )
    return ReportTable(name, "Promised and measured speed-up", tuple(heads), tuple(rows), note, sortable=True)


def _timed_name(speed: Speed, variant: Variant) -> str:
    tuned = "fine-tuned" if variant.finetuned else "not fine-tuned"
    return f"{variant.case.title}, {tuned}" if speed.cases > 1 else tuned


def rank_table(name: str, title: str, study: StudyRuns, ranked: Ranked) -> ReportTable:
    """Returns mean ranks as a table, with the records of each treatment."""
    found = ranked.ranking
    rows = []
    for place, (treatment, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        kin, of = ", ".join(not_told_apart(found, place)), ranked.variants[treatment]
        links = linked((f"{variant.case.title} {variant.model}", scored(study, variant)) for variant in of)
        rows.append(TableRow((Cell(treatment), Cell(f"{rank:.2f}", order=rank), Cell(kin), links)))
    heads = (Head("", "treatment", numeric=False), Head("", "mean rank"))
    kin_head = Head("", "not told apart from", numeric=False)
    return ReportTable(name, title, (*heads, kin_head, RECORDS), tuple(rows), rank_caption(ranked))


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
    heads = [Head("", "data set", numeric=False), Head("", "horizon"), Head("", "model", numeric=False)]
    heads += [Head("MSE", header) for header in ("ours", "published", "deviation")]
    heads += [Head("MAE", header, paper=False) for header in ("ours", "published", "deviation")]
    heads += [Head("", "scoring", numeric=False), Head("ours", "parameters", paper=False)]
    heads += [Head("ours", "steps", paper=False), Head("", "source", numeric=False, paper=False), RECORDS]
    groups: dict[tuple[str, str], list[Deviation]] = {}
    for deviation in found:
        groups.setdefault((deviation.variant.model, deviation.variant.case.dataset), []).append(deviation)
    rows = []
    for group in groups.values():
        rows += [_deviation_row(study, deviation) for deviation in group]
        if len(group) > 1:
            rows.append(_mean_row(study, MeanDeviation.of(group), len(heads)))
    note = (
        f"Deviation: ours over theirs, less 1. Grey: within {percent(TOLERANCE)} of the published MSE "
        f"({percent(UNSTABLE_TOLERANCE)} for Informer and Transformer on ETTh2, ETTm2 and Exchange, whose runs differ "
        f"much; {percent(MEAN_TOLERANCE)} for a mean over all published horizons, where runs agree). Scoring: paper "
        "drops the last incomplete batch of 32, as the authors' loaders did; where theirs was not seen ours is full. A "
        "model smaller than the published one, or trained for fewer steps, is not expected to agree."
    )
    return ReportTable(name, "Dense errors, ours and published", tuple(heads), tuple(rows), note, sortable=True)


def _deviation_row(study: StudyRuns, deviation: Deviation) -> TableRow:
    case, published = deviation.variant.case, deviation.published
    spread = "" if deviation.mse_sd is None else f"± {deviation.mse_sd:.3f}"
    return TableRow(
        (
            Cell(case.dataset, order=case.dataset),
            Cell(str(case.horizon), order=case.horizon),
            Cell(deviation.variant.model, order=deviation.variant.model),
            Cell(f"{deviation.mse:.3f}", spread, deviation.mse),
            Cell(f"{published.mse:.3f}", order=published.mse),
            _judged(deviation.of_mse, deviation.within),
            Cell(f"{deviation.mae:.3f}", "", deviation.mae),
            Cell(f"{published.mae:.3f}", order=published.mae),
            Cell(signed_percent(deviation.of_mae), "", deviation.of_mae),
            Cell(_SCORINGS[published.scoring]),
            _plain(deviation.parameters, count),
            _plain(deviation.steps, str),
            Cell(published.source, published.confidence),
            Cell(records=tuple(scored(study, deviation.variant))),
        )
    )


def _judged(value: float, within: bool | None) -> Cell:
    """Returns a deviation; marked where it is judged and beyond its tolerance."""
    mark: Mark = "" if within is None else "faint" if within else "worse" if value > 0 else "better"
    return Cell(signed_percent(value), "", value, mark)


def _mean_row(study: StudyRuns, mean: MeanDeviation, width: int) -> TableRow:
    variant = mean.horizons[0].variant
    cells = [Cell(variant.case.dataset, order=variant.case.dataset), Cell("mean", f"of {len(mean.horizons)}")]
    cells.append(Cell(variant.model, order=variant.model))
    for ours, theirs, within in (
        (mean.mse, mean.published_mse, mean.within),
        (mean.mae, mean.published_mae, None),
    ):
        cells += [Cell(f"{value:.3f}", order=value) for value in (ours, theirs)]
        cells.append(_judged(ours / theirs - 1, within))
    links = linked((str(one.place.horizon), scored(study, one.variant)) for one in mean.horizons)
    return TableRow((*cells, *[Cell()] * (width - len(cells) - 1), links), kind="mean")


# What was run.


def run_table(facts: Iterable[tuple[str, str, object]]) -> ReportTable:
    """Returns what was run as a table: of what, which property, its value."""
    heads = tuple(Head("", header, numeric=False) for header in ("of", "what", "value"))
    rows = tuple(TableRow((Cell(of), Cell(what), Cell(str(value)))) for of, what, value in facts)
    return ReportTable("run", "What was run", heads, rows)


def failure_table(failures: Sequence[Failure]) -> ReportTable:
    """Returns what did not finish, and why."""
    heads = tuple(Head("", header, numeric=False) for header in ("what", "stage", "reason", "fingerprint"))
    rows = tuple(TableRow(tuple(map(Cell, (one.label, one.stage, one.reason, one.fingerprint)))) for one in failures)
    return ReportTable("failures", f"{len(rows)} stage{'' if len(rows) == 1 else 's'} did not finish", heads, rows)


def data_of(row: StageRow) -> dict[str, Any]:
    """Returns which data a stage saw: name, rows, channels and windows."""
    names, windows = json.loads(row["channels"]), json.loads(row["data_windows"])
    return {"name": row["dataset"], "rows": row.get("data_rows"), "channels": len(names), "windows": windows} | {
        "sha256": row["data_sha256"]
    }

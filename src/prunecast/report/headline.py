"""The headline table: how far each method can prune each model before a loss shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from prunecast.report.columns import SATURATED
from prunecast.report.compare import Against, Comparison
from prunecast.report.format import percent, signed_percent
from prunecast.report.sheet import Cell, Head, Mark, Sheet, SheetRow
from prunecast.report.statistics import Interval
from prunecast.report.thresholds import MARGIN, Ladder, Ladders, Line, Rung
from prunecast.report.traces import RECORDS, Trace, several
from prunecast.report.variants import Case, Study

CONTROLS = "random"
"""Methods of that name are controls: what a method must beat."""

COLUMNS: tuple[tuple[str, bool, Against], ...] = (
    ("without fine-tuning, against dense", False, "dense"),
    ("fine-tuned, against dense", True, "dense"),
    ("fine-tuned, against dense trained on", True, "dense-continued"),
)
"""What the table has of each model and method: heading, fine-tuned or not, and what it is held against."""

_BUDGETS = {"prunable": "weights", "model": "parameters", "operations": "multiply-adds"}


def is_control(method: str) -> bool:
    """Whether a method is there to be beaten."""
    return method.startswith(CONTROLS) or f"-{CONTROLS}" in method


def budgets(study: Study) -> Mapping[str, str]:
    """Returns of what each method removes its share."""
    found: dict[str, str] = {}
    for variant, runs in study.runs.items():
        pruning = next(iter(runs.values())).pruning
        if variant.pruned and pruning is not None and variant.method is not None:
            found.setdefault(variant.method, _BUDGETS[pruning.of])
    return found


def headline_sheet(name: str, ladders: Ladders, of: Mapping[str, str], pages: Mapping[str, str]) -> Sheet:
    """Returns the table over all data sets and horizons, methods first and their random controls after them.

    Args:
        name: file stem.
        ladders: of the study.
        of: what each method removes its share of.
        pages: model -> page that its cells lead to.
    """
    order = sorted(ladders.methods, key=lambda pair: is_control(pair[1]))
    rows = [_row(ladders, model, method, of.get(method, ""), pages.get(model, "")) for model, method in order]
    return Sheet(name, "How far each model can be pruned", _heads(), tuple(rows), _note())


def _name_head(header: str) -> Head:
    return Head("", header, numeric=False, name=True)


def _heads() -> tuple[Head, ...]:
    names = (_name_head("model"), _name_head("method"))
    small = f"loss under {percent(MARGIN)} up to"
    pairs = ((Head(group, "no loss up to"), Head(group, small)) for group, _, _ in COLUMNS)
    return (*names, *(head for pair in pairs for head in pair), RECORDS)


def _note() -> str:
    return (
        "Share removed, of the method's own budget. No loss: up to that sparsity, no interval of the error ratio lies "
        f"above 1, and no ratio reaches {1 + MARGIN:g}. Loss under {percent(MARGIN)}: up to that sparsity, every "
        f"interval ends below {1 + MARGIN:g}. Ratios are geometric means over data sets and horizons, with 95 % "
        "intervals; the second line is the change of MSE there, the last line the range over single data sets and "
        f"horizons. {SATURATED}: there, on some of them, the model is not shown to be better than a forecast that "
        "learned nothing, so it had little to lose."
    )


def _row(ladders: Ladders, model: str, method: str, of: str, page: str) -> SheetRow:
    cells = [Cell(model, order=model, page=page), Cell(method, f"of {of}" if of else "", method)]
    pooled: list[Ladder | None] = []
    for _, finetuned, against in COLUMNS:
        line = Line(model, method, finetuned, against)
        ladder = ladders.pooled(line)
        cells += [Cell(), Cell()] if ladder is None else [_no_loss(ladders, ladder), _small_loss(ladders, ladder)]
        pooled.append(ladder)
    cells.append(Cell(records=_read_off(pooled)))
    return SheetRow(tuple(cells), series=method, kind="control" if is_control(method) else "")


def _no_loss(ladders: Ladders, ladder: Ladder) -> Cell:
    if not ladder.rungs[0].known:
        return Cell("not known", "no interval", mark="faint")
    return reach_cell(ladder, ladder.no_loss, _range(ladder, [of.no_loss for of in ladders.each(ladder)]))


def _small_loss(ladders: Ladders, ladder: Ladder) -> Cell:
    if not ladder.rungs[0].known:
        return Cell()
    if ladder.small_loss is None:
        return Cell("not shown", order=0.0, mark="faint")
    whole = reach_cell(ladder, ladder.small_loss, _range(ladder, [of.small_loss for of in ladders.each(ladder)]))
    return Cell(whole.text, order=whole.order, flag=whole.flag, more=whole.more)


def reach_cell(ladder: Ladder, rung: Rung | None, more: str = "") -> Cell:
    """Returns how far a ladder was climbed: its sparsity, and the error there; where not at all, that of its lowest."""
    if rung is None:
        lowest = ladder.rungs[0]
        verdict: Mark = "worse" if lowest.loses else "faint"
        return Cell("none", f"at {percent(lowest.sparsity)}: {change(lowest.ratio)}", 0.0, verdict, more=more)
    flag = None
    if rung.saturated:
        flag = (SATURATED, f"saturated in {rung.saturated} of {len(ladder.cases)} cases")
    most = "≥ " if rung is ladder.rungs[-1] else ""
    return Cell(f"{most}{percent(rung.sparsity)}", change(rung.ratio), rung.sparsity, flag=flag, more=more)


def change(ratio: Interval) -> str:
    """Returns a ratio of errors as a change: "+1.2 % (−0.3 … +2.6)"."""
    value = signed_percent(ratio.value - 1)
    if isnan(ratio.low):
        return f"{value}, no interval"
    return f"{value} ({signed_percent(ratio.low - 1)[:-2]} … {signed_percent(ratio.high - 1)[:-2]})"


def _range(ladder: Ladder, reached: Sequence[Rung | None]) -> str:
    if len(ladder.cases) < 2:
        return ""
    shares = [0.0 if rung is None else rung.sparsity for rung in reached]
    low, high = percent(min(shares)), percent(max(shares))
    return f"{len(shares)} cases: {low if low == high else f'{low[:-2]} … {high}'}"


def case_sheet(
    name: str, title: str, ladders: Ladders, pairs: Iterable[tuple[str, str]], cases: Sequence[Case]
) -> Sheet:
    """Returns how far methods go on single data sets and horizons: a row for each model, method and case.

    Args:
        name: file stem.
        title: of the table.
        ladders: of the study.
        pairs: models and methods.
        cases: the data sets and horizons.
    """
    heads = [_name_head("model"), _name_head("method"), _name_head("data set"), Head("", "horizon", name=True)]
    heads += [*(Head("no loss shown up to", group, paper=True) for group, _, _ in COLUMNS), RECORDS]
    rows = []
    wanted = list(pairs)
    by_model = len({method for _, method in wanted}) == 1
    for model, method in wanted:
        for case in cases:
            found = [ladders.of(Line(model, method, tuned, against), case) for _, tuned, against in COLUMNS]
            if any(found):
                names = [Cell(model, order=model), Cell(method, order=method), Cell(case.dataset, order=case.dataset)]
                names.append(Cell(str(case.horizon), order=case.horizon))
                cells = (*names, *(_case_cell(ladder) for ladder in found), Cell(records=_read_off(found)))
                rows.append(SheetRow(cells, model if by_model else method))
    return Sheet(name, title, tuple(heads), tuple(rows), sortable=True).without_empty()


def _read_off(ladders: Iterable[Ladder | None]) -> tuple[Trace, ...]:
    """Returns the records of the pruned models that a row is read off, and of what they are held against."""
    found: dict[str, None] = {}
    for ladder in ladders:
        if ladder is not None:
            rung = ladder.no_loss or ladder.rungs[0]
            found |= dict.fromkeys(name for one in rung.comparisons for pair in one.fingerprints for name in pair)
    return tuple((str(number), name) for number, name in enumerate(found, start=1))


def _case_cell(ladder: Ladder | None) -> Cell:
    if ladder is None:
        return Cell()
    if not ladder.rungs[0].known:
        return Cell("not known", "no interval", mark="faint")
    return reach_cell(ladder, ladder.no_loss)


def ladder_sheet(name: str, title: str, ladders: Ladders, lines: Iterable[Line]) -> Sheet:
    """Returns the rungs of ladders over all cases: what the headline is read off, with the records below it."""
    heads = (
        _name_head("model"),
        _name_head("method"),
        Head("", "fine-tuned", numeric=False),
        Head("", "against", numeric=False),
        Head("", "removed"),
        Head("", "error ratio"),
        Head("", "loss shown", numeric=False),
        Head("", "saturated"),
        RECORDS,
    )
    found = [ladder for line in lines if (ladder := ladders.pooled(line)) is not None]
    by_model = len({ladder.line.method for ladder in found}) == 1
    rows = [_rung_row(ladder, rung, by_model=by_model) for ladder in found for rung in ladder.rungs]
    return Sheet(name, title, heads, tuple(rows), sortable=True)


def _rung_row(ladder: Ladder, rung: Rung, *, by_model: bool) -> SheetRow:
    line, ratio = ladder.line, rung.ratio
    interval = f"{ratio.low:.3f} … {ratio.high:.3f}" if rung.known else "no interval"
    verdict: Mark = "worse" if rung.loses else "better" if rung.known and ratio.high < 1 else "faint"
    traces = several((_case_name(ladder, comparison.variant.case), _own(comparison)) for comparison in rung.comparisons)
    return SheetRow(
        (
            Cell(line.model, order=line.model),
            Cell(line.method, order=line.method),
            Cell("yes" if line.finetuned else "no"),
            Cell("dense, trained on" if line.against == "dense-continued" else "dense"),
            Cell(percent(rung.sparsity), order=rung.sparsity),
            Cell(f"{ratio.value:.3f}", interval, ratio.value, verdict),
            Cell("yes" if rung.loses else "no" if rung.holds else "unclear" if rung.known else "not known"),
            Cell(f"{rung.saturated} of {len(ladder.cases)}", order=rung.saturated),
            traces,
        ),
        series=line.model if by_model else line.method,
        open=not line.finetuned,
    )


def _case_name(ladder: Ladder, case: Case) -> str:
    return "" if len(ladder.cases) == 1 else f"{case.dataset} {case.horizon}"


def _own(comparison: Comparison) -> list[Trace]:
    return [(str(number), own) for number, (own, _) in enumerate(comparison.fingerprints, start=1)]

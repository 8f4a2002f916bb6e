"""Which charts a case gets, and which windows are drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from prunecast.records import Example, RunRecord
from prunecast.report.compare import Comparison
from prunecast.report.figures import Cost, Figure, error_by_cost, error_by_sparsity, forecast
from prunecast.report.findings import subject, without_loss
from prunecast.report.format import runtime_name
from prunecast.report.tables import Clocks, Frame, Rows
from prunecast.report.variants import Case, Study, Variant

MOST_FORECASTS = 4


def file_stem(*parts: object) -> str:
    """Returns a file name of small letters, digits and dashes: names from data are remade, not taken."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(str(part) for part in parts).lower()).strip("-")


def sparsity_figures(stem: str, case: Frame) -> list[Figure]:
    """Returns error against sparsity for every pruned model, whole and near the dense model."""
    found = []
    for number, model in enumerate(dict.fromkeys(case["model"]), start=1):
        for close, ending in ((False, "sparsity"), (True, "sparsity-close")):
            found.append(error_by_sparsity(file_stem(stem, number, model, ending), case, model, close=close))
    return [figure for figure in found if figure is not None]


def cost_figures(stem: str, case: Frame, clocks: Clocks) -> list[Figure]:
    """Returns error against time and against bytes, as far as they were measured."""
    costs = [Cost("zip", "zip_bytes", "Error against bytes, zipped", "bytes of the weights, zip-compressed", "~s")]
    if clocks.main is not None:
        name = runtime_name(clocks.main)
        time = f"{name}: median time of one forecast, ms"
        costs.insert(0, Cost("time", f"{clocks.main}_ms", "Error against measured time", time, ".3~g"))
        deployed = "Error against bytes, as deployed"
        costs.append(Cost("file", f"{clocks.main}_bytes", deployed, f"{name}: bytes of the file", "~s"))
    found = [error_by_cost(file_stem(stem, cost.name), case, cost) for cost in costs]
    return [figure for figure in found if figure is not None]


def forecast_figures(stem: str, study: Study, case: Case, rows: Rows, compared: Sequence[Comparison]) -> list[Figure]:
    """Returns a few test windows with the forecasts of the dense model, a pruned one and a naive one."""
    shown = [(variant, _first(study, variant)) for variant in _chosen(study, case, rows, compared)]
    drawn = [(variant, record) for variant, record in shown if record.examples]
    if not drawn:
        return []
    figures = []
    for number, example in enumerate(drawn[0][1].examples[:MOST_FORECASTS], start=1):
        same = [(_said_by(v), rows[v]["colour"], _same(record, example)) for v, record in drawn]
        lines = [(label, colour, found) for label, colour, found in same if found is not None]
        figures.append(forecast(file_stem(stem, "forecast", number), drawn[0][0].model, lines))
    return figures


def _chosen(study: Study, case: Case, rows: Rows, compared: Sequence[Comparison]) -> Iterator[Variant]:
    model = subject(rows)
    own = [variant for variant in study.of(case) if variant.model == model]
    yield from (variant for variant in own if variant.role == "dense")
    pruned = [variant for variant in own if variant.role == "pruned+finetuned"]
    if pruned:
        kept = [without_loss(compared, variant.model, variant.method or "", True) for variant in pruned]
        best = [comparison.variant for comparison in kept if comparison is not None]
        yield max(best, key=lambda v: v.requested or 0.0) if best else min(pruned, key=lambda v: v.requested or 0.0)
    naive = [variant for variant in study.of(case) if variant.role == "naive"]
    if naive:
        yield min(naive, key=lambda variant: float(rows[variant]["mse"]))


def _said_by(variant: Variant) -> str:
    return variant.model if variant.role == "naive" else variant.name


def _first(study: Study, variant: Variant) -> RunRecord:
    return next(iter(study.runs[variant].values()))


def _same(record: RunRecord, example: Example) -> Example | None:
    """Returns the record's forecast of the same window and channel."""
    at = (example.channel, example.window)
    return next((other for other in record.examples if (other.channel, other.window) == at), None)

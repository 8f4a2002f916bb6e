"""Forecasts beside the truth: one test window, before and after pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from prunecast.records import Example, RunRecord
from prunecast.report import svg
from prunecast.report.figure import WIDTH, Figure, Key, Panel, legend
from prunecast.report.scales import Scale, padded
from prunecast.report.tables import Rows
from prunecast.report.theme import INK, MUTED, PALE
from prunecast.report.thresholds import Ladders
from prunecast.report.variants import Case, Study, Variant

_PLOT = 150


@dataclass(frozen=True)
class Said:
    """One model's forecast of a window, and how its line looks."""

    label: str
    colour: str
    dash: str | None
    example: Example


def forecast_figure(name: str, model: str, said: Sequence[Said]) -> Figure:
    """Returns one test window: what was known, what came, and what the models said.

    Args:
        name: file stem.
        model: whose forecasts these are, for the title.
        said: the forecasts, all of one channel and window.
    """
    first = said[0].example
    steps = min(len(first.history), len(first.truth))
    truth = [*first.history[-steps:], *first.truth]
    keys = [Key("truth", svg.line((0, 0), (22, 0), PALE, 4.5))]
    keys += [Key(one.label, svg.line((0, 0), (22, 0), one.colour, 1.8, one.dash), n) for n, one in enumerate(said)]
    head, top = legend(keys, WIDTH)
    every = [*truth, *(value for one in said for value in one.example.forecast)]
    scale = Scale(*padded(min(every), max(every)), top + 8 + _PLOT, top + 8)
    panel = Panel(Scale(-steps, len(first.truth) - 1, 52, WIDTH - 14), scale)
    start = str(pd.Timestamp(first.start)).removesuffix(":00")
    axes = panel.axes(f"steps from {start}, the start of the forecast", f"{first.channel} (raw units)")
    known = svg.path([panel.place(step - steps, value) for step, value in enumerate(truth)], PALE, 4.5)
    now = svg.line(panel.place(0, scale.low), panel.place(0, scale.high), MUTED, 1, "2 3")
    lines = "".join(svg.series(_line(panel, one), number) for number, one in enumerate(said))
    title = f"{model} on {first.channel}, test window {first.window}"
    caption = "Left of the dotted line is what the models saw. Dashed: pruned and not fine-tuned."
    label = f"{title}: the truth and the forecasts of {', '.join(one.label for one in said)}."
    return Figure(name, title, caption, label, head + axes + known + now + lines, WIDTH, top + 58 + _PLOT)


def _line(panel: Panel, one: Said) -> str:
    places = [panel.place(step, value) for step, value in enumerate(one.example.forecast)]
    return svg.tipped(svg.path(places, one.colour, 1.6, one.dash), one.label)


def forecasts(
    name: str, study: Study, case: Case, model: str, *, rows: Rows, ladders: Ladders, most: int
) -> list[Figure]:
    """Returns test windows with what the dense model, the pruned ones and a naive forecast said of them.

    Args:
        name: file stem.
        study: whose records hold the forecasts.
        case: data set and horizon.
        model: the model's name there.
        rows: the summary of the case.
        ladders: tell how far the model can be pruned.
        most: windows to draw.
    """
    drawn = list(_drawn(study, case, model, rows, ladders))
    if not drawn or not drawn[0][1].examples:
        return []
    figures = []
    for number, example in enumerate(drawn[0][1].examples[:most], start=1):
        same = [(said, _same(record, example)) for said, record in drawn]
        found = [Said(said.label, said.colour, said.dash, own) for said, own in same if own is not None]
        figures.append(forecast_figure(f"{name}-{number}", model, found))
    return figures


def _drawn(study: Study, case: Case, model: str, rows: Rows, ladders: Ladders) -> Iterator[tuple[Said, RunRecord]]:
    """Yields whose forecasts are drawn: dense, pruned as far as nothing is lost, the same before fine-tuning, naive."""
    own = [variant for variant in study.of(case) if variant.model == model]
    looks = {
        "dense": (INK, None),
        "pruned+finetuned": ("#0072b2", None),
        "pruned": ("#d55e00", "4 3"),
        "naive": ("#00805e", "1 3"),
    }
    dense = [variant for variant in own if variant.role == "dense"]
    naive = [variant for variant in study.of(case) if variant.role == "naive"]
    best = min(naive, key=lambda variant: float(rows[variant]["mse"]), default=None)
    for variant in (*dense, *_pruned(own, ladders, case), *([best] if best else [])):
        record = next(iter(study.runs[variant].values()))
        if record.examples:
            colour, dash = looks[variant.role]
            label = variant.model if variant.role == "naive" else variant.name
            yield Said(label, colour, dash, record.examples[0]), record


def _pruned(own: Sequence[Variant], ladders: Ladders, case: Case) -> list[Variant]:
    """Returns the fine-tuned variant that reaches furthest without a loss, and the same one before fine-tuning."""
    tuned = [
        variant for variant in own if variant.role == "pruned+finetuned" and "random" not in (variant.method or "")
    ]
    reached: list[Variant] = []
    for method in dict.fromkeys(variant.method for variant in tuned):
        ladder = ladders.fair(own[0].model, method or "", True, case)
        if ladder is not None and ladder.no_loss is not None:
            reached += [comparison.variant for comparison in ladder.no_loss.comparisons]
    plain = [variant for variant in own if variant.role == "pruned"]
    if not reached:
        return sorted(tuned or plain, key=lambda variant: variant.requested or 0.0)[:1]
    best = max(reached, key=lambda variant: variant.requested or 0.0)
    before = [v for v in plain if (v.method, v.requested) == (best.method, best.requested)]
    return [*before, best]


def _same(record: RunRecord, example: Example) -> Example | None:
    """Returns the record's forecast of the same window and channel."""
    at = (example.channel, example.window)
    return next((other for other in record.examples if (other.channel, other.window) == at), None)

"""What the controls of one data set and horizon say: was anything learned, and was pruning needed?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prunecast.report.columns import SATURATED, mark
from prunecast.report.compare import Compared, Comparison
from prunecast.report.format import signed_percent
from prunecast.report.sheet import Cell, Head, Sheet, SheetRow
from prunecast.report.traces import RECORDS, scored, several
from prunecast.report.variants import Study, Variant

_NOTE = (
    "Changes of MSE with 95 % intervals. Saturated: pruned variants that are not shown to be better than a naive "
    "forecast or than the dense model with its body zeroed. Small dense: pruned and fine-tuned variants against dense "
    "models of their size, trained from scratch."
)


def controls_sheet(name: str, study: Study, compared: Compared, variants: Sequence[Variant]) -> Sheet:
    """Returns one row for each trained model.

    Args:
        name: file stem.
        study: what was run.
        compared: its comparisons.
        variants: of one data set and horizon.
    """
    naive = [variant for variant in variants if variant.role == "naive"]
    models = dict.fromkeys(variant.model for variant in variants if variant.role != "naive")
    heads = [Head("", "model", numeric=False, name=True)]
    heads += [Head("dense, against", other.model) for other in naive]
    heads += [
        Head("", "body zeroed, against dense"),
        Head("", f"saturated {SATURATED}"),
        Head("", "against small dense"),
    ]
    heads.append(RECORDS)
    rows = []
    for model in models:
        own = [variant for variant in variants if variant.model == model]
        controls = [*naive, *(variant for variant in own if not variant.pruned)]
        traces = several((_control_name(variant), scored(study, variant)) for variant in controls)
        rows.append(SheetRow((*_cells(compared, model, own, naive), traces)))
    return Sheet(name, "What the controls say", tuple(heads), tuple(rows), _NOTE).without_empty()


def _control_name(variant: Variant) -> str:
    return variant.model if variant.role == "naive" else variant.name


def _cells(compared: Compared, model: str, own: Sequence[Variant], naive: Sequence[Variant]) -> list[Cell]:
    dense = [variant for variant in own if variant.role == "dense"]
    held = {c.other: c for variant in dense for c in compared.all_of(variant, "naive")}
    zeroed = [c for v in own if v.role == "zeroed-body" and (c := compared.of(v, "dense")) is not None]
    cells = [Cell(model, order=model), *(_change(held.get(other)) for other in naive)]
    cells.append(_change(zeroed[0] if zeroed else None))
    return [*cells, _saturated(compared, own), _small_dense(compared, own)]


def _change(comparison: Comparison | None) -> Cell:
    """Returns a change relative to the reference, with its interval."""
    if comparison is None:
        return Cell()
    value = comparison.difference / comparison.reference_mse
    relative = comparison.relative
    if relative is None:
        return Cell(signed_percent(value), "no interval", value, "faint")
    note = f"{signed_percent(relative.low)[:-2]} … {signed_percent(relative.high)}"
    return Cell(signed_percent(value), note, value, mark(comparison.verdict))


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

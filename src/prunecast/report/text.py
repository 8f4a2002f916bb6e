"""What a study shows, in words: said only as far as the intervals carry it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from prunecast.report.compare import Case, Comparison
from prunecast.report.context import Context
from prunecast.report.statistics import Interval
from prunecast.report.style import (
    SATURATED,
    between,
    missing,
    percent,
    plural,
    runtime_name,
    signed_percent,
    three_digits,
    times,
)
from prunecast.report.summary import Rows
from prunecast.report.tables import Cell, Head, ReportTable, TableRow
from prunecast.report.thresholds import MARGIN, Level, Sweep

# The answer of a whole study: a short table, and a few sentences.


def answer_table(context: Context, name: str) -> ReportTable:
    """Returns a row for each method that is no control: how far it goes, what fine-tuning buys, what time is saved."""
    label = context.timings.main
    small = Head("", f"loss of {percent(MARGIN)} ruled out up to")
    faster = Head("", f"speed-up there{'' if label is None else f', {runtime_name(label)}'}")
    rows = []
    for method, models in context.judged_methods().items():
        of = context.budgets.get(method, "")
        cells = {Head("", "method", numeric=False): Cell(method, f"of {of}" if of else "")}
        cells[Head("", "models")] = Cell(str(len(models)), order=len(models))
        for tuned in (False, True):
            head = Head("no loss shown up to", "fine-tuned" if tuned else "not fine-tuned")
            cells[head] = _typical(_no_loss(context, method, tuned))
        best = {model: sweep for model in models if (sweep := context.sweeps.best(model, method)) is not None}
        cells[small] = _typical({model: _share(sweep, sweep.small_loss) for model, sweep in best.items()})
        cells[faster] = _typical_speed(_speedups(context, method))
        rows.append(TableRow(cells, series=method))
    note = (
        "The middle one of the models, and the range over them; each is a mean over data sets and horizons. What was "
        "fine-tuned is held against the dense model trained on for as long, where the study has it. No loss: no "
        f"interval of the error ratio lies above 1, and the ratio stays under {1 + MARGIN:g}. Ruled out: the whole "
        f"interval ends under {1 + MARGIN:g}; fine-tuned where that was run."
    )
    return ReportTable(name, "The answer in short", rows, note).without_empty()


def _no_loss(context: Context, method: str, finetuned: bool) -> dict[str, float | None]:
    """Returns up to where each model that was pruned so shows no loss."""
    found = ((model, context.sweeps.fair(model, method, finetuned)) for model in context.methods[method])
    return {model: _share(sweep, sweep.no_loss) for model, sweep in found if sweep is not None}


def _share(sweep: Sweep, reached: Level | None) -> float | None:
    """Returns the sparsity that a sweep reaches; None where there is no interval to judge by."""
    if not sweep.levels[0].known:
        return None
    return 0.0 if reached is None else reached.sparsity


def _middle(found: Mapping[str, float | None]) -> float | None:
    known = [share for share in found.values() if share is not None]
    return median_low(known) if known else None


def _typical(found: Mapping[str, float | None]) -> Cell:
    """Returns the middle one of the models' sparsities, with the lowest and the highest."""
    middle = _middle(found)
    if middle is None:
        return Cell("not known", "no interval", mark="faint") if found else Cell()
    ends = {model: (share, percent(share)) for model, share in found.items() if share is not None}
    return Cell(percent(middle), _ends(ends), middle)


def _typical_speed(found: Mapping[str, Interval]) -> Cell:
    if not found:
        return Cell()
    faster = [model for model, ratio in found.items() if ratio.low > 1]
    if 2 * len(faster) <= len(found):
        return Cell("none that shows", f"faster: {', '.join(faster)}" if faster else "", 1.0, "faint")
    middle = median_low(ratio.value for ratio in found.values())
    return Cell(times(middle), _ends({m: (r.value, times(r.value)) for m, r in found.items()}), middle)


def _ends(found: Mapping[str, tuple[float, str]]) -> str:
    """Returns the lowest and the highest with their models, where they differ."""
    low, high = (pick(found, key=lambda model: found[model][0]) for pick in (min, max))
    if found[low][1] == found[high][1]:
        return "all models" if len(found) > 1 else ""
    return f"{found[low][1]} {low} … {found[high][1]} {high}"


def _speedups(context: Context, method: str) -> dict[str, Interval]:
    found = {model: context.reached_speedup(model, method) for model in context.methods[method]}
    return {model: ratio for model, ratio in found.items() if ratio is not None}


def sentences(context: Context) -> list[str]:
    """Returns the study's answer in a few plain sentences."""
    said = [*_threshold_sentences(context), *_time_sentences(context)]
    return [*said, *_control_sentences(context), *_floor_sentences(context.rows)]


def _reach(context: Context, method: str, finetuned: bool) -> Sweep | None:
    """Returns the sweep of the middle one of the models, by how far it goes; None where no interval judges."""
    found = (context.sweeps.fair(model, method, finetuned) for model in context.methods[method])
    known = [sweep for sweep in found if sweep is not None and sweep.levels[0].known]
    known.sort(key=lambda sweep: (_share(sweep, sweep.no_loss) or 0.0, not sweep.levels[0].loses))
    return known[(len(known) - 1) // 2] if known else None


def reach_text(sweep: Sweep, of: str = "") -> str:
    """Returns "shows no loss with up to 90 % of its weights removed", or what shows at the smallest amount tried."""
    if sweep.no_loss is not None:
        return f"shows no loss with up to {percent(sweep.no_loss.sparsity)}{of} removed"
    first = sweep.levels[0]
    loss = "a loss" if first.loses else f"an error that is {percent(MARGIN)} higher or more"
    return f"shows {loss} with {percent(first.sparsity)}{of} removed, the smallest amount tried"


def _threshold_sentences(context: Context) -> Iterator[str]:
    for method, models in context.judged_methods().items():
        plain, tuned = (_reach(context, method, finetuned) for finetuned in (False, True))
        reached = plain if tuned is None else tuned
        if reached is None:
            continue
        whom = models[0] if len(models) == 1 else f"the middle one of {len(models)} models"
        how = " and fine-tuned" if tuned is not None else ""
        of = f" of its {context.budgets.get(method, 'budget')}"
        text = f"Pruned by {method}{how}, {whom} {reach_text(reached, of)}"
        if tuned is not None and plain is not None:
            same = reach_text(plain) == reach_text(tuned)
            text += ", with or without fine-tuning" if same else f"; not fine-tuned, it {reach_text(plain)}"
        yield f"{text}."


def _control_sentences(context: Context) -> Iterator[str]:
    """Yields how far the controls get, which remove at random: what a method has to beat."""
    reached = []
    for method in context.judged_methods(controls=True):
        found = _reach(context, method, True) or _reach(context, method, False)
        of = f" of the {context.budgets.get(method, 'budget')}"
        reached += [] if found is None else [f"{method} {reach_text(found, of)}"]
    if reached:
        yield f"Removing at random instead, fine-tuned where that was run: {'; '.join(reached)}."


def _time_sentences(context: Context) -> Iterator[str]:
    label = context.timings.main
    none, where = [], "" if label is None else f" in {runtime_name(label)}"
    for method in context.judged_methods():
        found = _speedups(context, method)
        faster = [ratio.value for ratio in found.values() if ratio.low > 1]
        if found and 2 * len(faster) <= len(found):
            none.append(method)
        elif found:
            whom = f"{next(iter(found))} is" if len(found) == 1 else f"{len(faster)} of {len(found)} models are"
            typical = "" if len(faster) == 1 else "the middle one of them "
            yield f"Pruned that far by {method}, {whom} faster{where}: {typical}{times(median_low(faster))}."
    if none:
        yield f"Pruned that far by {' or by '.join(none)}, most models show no speed-up{where}."


def _floor_sentences(rows: Rows) -> Iterator[str]:
    """Yields which dense models had little to lose, where there are such."""
    dense = [key for key in rows if key.role == "dense"]
    floors = [key for key in dense if isinstance(rows[key].get("saturated"), str) and rows[key]["saturated"]]
    if floors:
        models = list(dict.fromkeys(key.model for key in floors))
        named = " and ".join(models) if len(models) < 3 else plural(len(models), "model")
        yield (
            f"{SATURATED} {plural(len(floors), 'dense model')} of {len(dense)} had little to lose ({named}): it is not "
            "shown there that anything was learned that beats a naive forecast, or the same model with its body zeroed."
        )


# The findings of one data set and horizon, in large letters.


@dataclass(frozen=True)
class Tile:
    """One finding in large letters: a number, what it is, and where it comes from."""

    value: str
    what: str
    detail: str
    good: bool = True


def subject(rows: Rows) -> str | None:
    """Returns the model that a case is mostly about: the largest one pruned, else the largest dense one."""
    for roles in (("pruned", "pruned+finetuned"), ("dense",)):
        found = [(row.get("parameters") or 0, key.model) for key, row in rows.items() if key.role in roles]
        if found:
            return max(found, key=lambda entry: entry[0])[1]
    return None


def relative_text(comparison: Comparison) -> str:
    """Returns "MSE +1.2 % (−0.3 … +2.6)"."""
    relative, metric = comparison.relative, comparison.metric.upper()
    if relative is None:
        return f"{metric} {signed_percent(comparison.difference / comparison.reference)}, no interval"
    return f"{metric} {signed_percent(relative.value)} ({between(relative.low, relative.high)[:-2]})"


def tiles(context: Context, case: Case) -> list[Tile]:
    """Returns a case's main findings about its subject, those that can be said."""
    rows = context.rows_of(case)
    model = subject(rows)
    own = [c for c in context.mse.every if c.variant.case == case and c.variant.model == model]
    harmless = context.harmless(case, model or "")
    speed = _speed_tile(rows, own, context.timings.main)
    found = [_sparsity_tile(harmless), speed, _bytes_tile(rows, harmless), _naive_tile(own)]
    return [tile for tile in found if tile is not None]


def _sparsity_tile(harmless: Sequence[Comparison]) -> Tile | None:
    if not harmless:
        return None
    best = max(harmless, key=lambda c: (c.variant.sparsity_requested or 0.0, -c.difference))
    tuned = "fine-tuned" if best.variant.finetuned else "not fine-tuned"
    detail = f"{best.variant.model}, {tuned}; {relative_text(best)} against {best.against}"
    share = percent(best.variant.sparsity_requested or 0.0)
    return Tile(share, f"removed by {best.variant.method}, no loss shown", detail)


def _speed_tile(rows: Rows, own: Sequence[Comparison], label: str | None) -> Tile | None:
    """The fastest variant that loses nothing; when all fast ones lose, the fastest with what it loses."""
    fair = {c.variant: c for c in own if c.against == "dense" and c.variant.pruned}
    fair |= {c.variant: c for c in own if c.against == "dense-continued"}
    timed = [c for c in fair.values() if not missing(rows[c.variant].get(f"{label}_speedup"))]
    if label is None or not timed:
        return None
    faster = [c for c in timed if rows[c.variant][f"{label}_speedup_low"] > 1]
    if not faster:
        what = f"no speed-up shown in {runtime_name(label)}"
        return Tile("none", what, "every interval reaches down to 1", good=False)
    equal = [c for c in faster if c.verdict in ("better", "not told apart")]
    harmless = [c for c in equal if c.difference < MARGIN * c.reference]
    best = max(harmless or faster, key=lambda c: float(rows[c.variant][f"{label}_speedup"]))
    ratio, low, high = (rows[best.variant][f"{label}_speedup{end}"] for end in ("", "_low", "_high"))
    what = f"faster in {runtime_name(label)} ({low:.2f} … {high:.2f})" + (", no loss shown" if harmless else "")
    return Tile(times(ratio), what, f"{best.variant.full_name}; {relative_text(best)}", good=bool(harmless))


def _bytes_tile(rows: Rows, harmless: Sequence[Comparison]) -> Tile | None:
    """The smallest variant that loses nothing."""
    kept = [(c, rows[c.variant].get("zip_bytes"), rows[c.variant].get("dense_zip_bytes")) for c in harmless]
    sized = [(dense / own, c) for c, own, dense in kept if own and dense and not missing(own) and not missing(dense)]
    if not sized:
        return None
    ratio, best = max(sized, key=lambda entry: entry[0])
    return Tile(f"{three_digits(ratio)} ×", "smaller as a zip, no loss shown", best.variant.full_name)


def _naive_tile(own: Sequence[Comparison]) -> Tile | None:
    """Against the better of the naive forecasts: beating the worse one is no merit."""
    naive = [c for c in own if c.against == "naive" and c.variant.role == "dense"]
    if not naive:
        return None
    hardest = min(naive, key=lambda c: c.reference)
    value = signed_percent(hardest.difference / hardest.reference)
    verdict = {"better": "better than", "worse": "worse than"}.get(hardest.verdict, "not told apart from")
    detail = f"{hardest.variant.model} dense; {relative_text(hardest)}"
    what = f"MSE of the dense model: {verdict} {hardest.other.model}"
    return Tile(value, what, detail, good=hardest.verdict == "better")

"""The answer of a whole study in a few sentences: how far, what fine-tuning buys, what time is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunecast.report.columns import SATURATED
from prunecast.report.format import percent, runtime_name
from prunecast.report.headline import is_control
from prunecast.report.speeds import mean_speedup
from prunecast.report.statistics import Interval
from prunecast.report.tables import Rows
from prunecast.report.thresholds import MARGIN, Ladder, Ladders, Rung
from prunecast.report.variants import Case

MOST_NAMED = 10
"""More models than that are not named one by one in a sentence."""


@dataclass(frozen=True)
class Answer:
    """A paragraph of the study's answer, and what it is about."""

    head: str
    text: str


def answers(ladders: Ladders, rows: Rows, runtime: str | None, budgets: Mapping[str, str]) -> list[Answer]:
    """Returns a paragraph for each method, and one for the dense models that had little to lose."""
    found: dict[str, list[str]] = {}
    for model, method in ladders.methods:
        if not is_control(method):
            found.setdefault(method, []).append(model)
    return [*(_method_answer(ladders, rows, runtime, budgets, pair) for pair in found.items()), *_floor_answer(rows)]


def _method_answer(
    ladders: Ladders, rows: Rows, runtime: str | None, budgets: Mapping[str, str], pair: tuple[str, Sequence[str]]
) -> Answer:
    method, models = pair
    head = f"{method}, share of {budgets[method]}" if method in budgets else method
    return Answer(head, _reach_text(ladders, method, models) + _time_text(ladders, rows, method, models, runtime))


def _reach_text(ladders: Ladders, method: str, models: Sequence[str]) -> str:
    """Returns how far a method goes without fine-tuning, and how far with it."""
    climbed = {model: _climbed(ladders, model, method) for model in models}
    tuned = {ladder.line.finetuned for found in climbed.values() for ladder in found}
    ways = " (without → with fine-tuning)" if len(tuned) == 2 else " with fine-tuning" if True in tuned else ""
    no_loss = {model: _span([_share(one, one.no_loss) for one in found]) for model, found in climbed.items()}
    small = {model: _span([_share(one, one.small_loss) for one in found]) for model, found in climbed.items()}
    ruled_out = f"A loss of {percent(MARGIN)} is ruled out up to: {_listed(small)}."
    return f"No loss shows up to{ways}: {_listed(no_loss)}. {ruled_out}"


def _climbed(ladders: Ladders, model: str, method: str) -> list[Ladder]:
    """Returns the ladders without and with fine-tuning, those that were run."""
    found = (ladders.fair(model, method, tuned) for tuned in (False, True))
    return [ladder for ladder in found if ladder is not None]


def _share(ladder: Ladder, rung: Rung | None) -> str:
    if not ladder.rungs[0].known:
        return "unknown"
    return percent(0.0 if rung is None else rung.sparsity)


def _span(shares: Sequence[str]) -> str:
    """Returns "50 → 90 %", or the only share there is."""
    return " → ".join([*(share.removesuffix(" %") for share in shares[:-1]), *shares[-1:]])


def _listed(said: Mapping[str, str]) -> str:
    """Returns "80 % for all 3 models", or each value with its models."""
    models: dict[str, list[str]] = {}
    for model, value in said.items():
        models.setdefault(value, []).append(model)
    if len(models) == 1 and len(said) > 1:
        return f"{next(iter(models))} for {'both' if len(said) == 2 else f'all {len(said)}'} models"
    if len(said) > MOST_NAMED:
        return f"not the same for all {len(said)} models, see the table"
    return "; ".join(f"{', '.join(found)} {value}" for value, found in models.items())


def _time_text(ladders: Ladders, rows: Rows, method: str, models: Sequence[str], runtime: str | None) -> str:
    if runtime is None:
        return ""
    timed = {model: ratio for model in models if (ratio := reached_speedup(ladders, rows, model, method, runtime))}
    faster = {model: f"{ratio.value:.2f} ×" for model, ratio in timed.items() if ratio.low > 1}
    if not timed:
        return ""
    others = {model: "" for model in timed if model not in faster}
    parts = [_listed(faster)] if faster else []
    parts += [f"none that shows for {_named(others)}"] if others else []
    return f" Speed-up there in {runtime_name(runtime)}: {'; '.join(parts)}."


def _named(models: Mapping[str, str]) -> str:
    return ", ".join(models) if len(models) <= MOST_NAMED else f"{len(models)} models"


def _floor_answer(rows: Rows) -> Iterator[Answer]:
    """Yields which dense models had little to lose, where there are such."""
    floors: dict[str, set[Case]] = {}
    cases: dict[str, set[Case]] = {}
    for key, row in rows.items():
        if key.role == "dense":
            cases.setdefault(key.model, set()).add(key.case)
            if row.get("saturated"):
                floors.setdefault(key.model, set()).add(key.case)
    if floors:
        said = {model: f"{len(found)} of {len(cases[model])}" for model, found in floors.items()}
        text = (
            "Dense models that are not shown to be better than a naive forecast, or than themselves with the body "
            f"zeroed, on how many data sets and horizons: {_listed(said)}. There is little to lose there."
        )
        yield Answer(f"{SATURATED} little to lose", text)


def reached_speedup(ladders: Ladders, rows: Rows, model: str, method: str, runtime: str) -> Interval | None:
    """Returns the speed-up at the sparsity up to which no loss is shown, where one is reached and was timed."""
    ladder = ladders.best(model, method)
    if ladder is None or ladder.no_loss is None:
        return None
    return mean_speedup([rows[comparison.variant] for comparison in ladder.no_loss.comparisons], runtime)

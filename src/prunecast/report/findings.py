"""What a study shows, in words: said only as far as the intervals carry it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunecast.report.compare import Comparison
from prunecast.report.format import missing, percent, runtime_name, signed_percent, three_digits
from prunecast.report.tables import Rows


@dataclass(frozen=True)
class Tile:
    """One finding in large letters: a number, what it is, and where it comes from."""

    value: str
    what: str
    detail: str
    good: bool = True


@dataclass(frozen=True)
class Reach:
    """How far one method can prune one model before a loss shows, without and with fine-tuning."""

    model: str
    method: str
    without: str
    finetuned: str


def subject(rows: Rows) -> str | None:
    """Returns the model that a case is mostly about: the largest one pruned, else the largest dense one."""
    for roles in (("pruned", "pruned+finetuned"), ("dense",)):
        found = [(row.get("parameters") or 0, key.model) for key, row in rows.items() if key.role in roles]
        if found:
            return max(found, key=lambda entry: entry[0])[1]
    return None


def without_loss(compared: Sequence[Comparison], model: str, method: str, finetuned: bool) -> Comparison | None:
    """Returns the highest sparsity of a method up to which no loss is shown, or None where the lowest shows one.

    Fine-tuned variants are held against the dense model trained on, where the study has it.
    """
    best = None
    for comparison in _ladder(compared, model, method, finetuned):
        if comparison.verdict in ("worse", "no interval"):
            break
        best = comparison
    return best


def _ladder(compared: Sequence[Comparison], model: str, method: str, finetuned: bool) -> list[Comparison]:
    role = "pruned+finetuned" if finetuned else "pruned"
    own = [c for c in compared if (c.variant.model, c.variant.method, c.variant.role) == (model, method, role)]
    fair = [c for c in own if c.against == "trained-on"] or [c for c in own if c.against == "dense"]
    return sorted(fair, key=lambda comparison: comparison.variant.requested or 0.0)


def reaches(compared: Sequence[Comparison]) -> list[Reach]:
    """Returns a case's methods and how far each one goes."""
    pairs = dict.fromkeys(
        (c.variant.model, c.variant.method) for c in compared if c.variant.method and c.variant.role != "small-dense"
    )
    return [
        Reach(model, method, _reach(compared, model, method, False), _reach(compared, model, method, True))
        for model, method in pairs
        if method is not None
    ]


def _reach(compared: Sequence[Comparison], model: str, method: str, finetuned: bool) -> str:
    ladder = _ladder(compared, model, method, finetuned)
    if not ladder:
        return "not run"
    if ladder[0].verdict == "no interval":
        return "cannot be said: no interval"
    best = without_loss(compared, model, method, finetuned)
    if best is None:
        return f"loses at {percent(ladder[0].variant.requested or 0)} already: {relative_text(ladder[0])}"
    return f"up to {percent(best.variant.requested or 0)}: {relative_text(best)}"


def relative_text(comparison: Comparison) -> str:
    """Returns "MSE +1.2 % (−0.3 … +2.6)"."""
    relative = comparison.relative
    if relative is None:
        return f"MSE {signed_percent(comparison.difference / comparison.reference_mse)}, no interval"
    ends = f"{signed_percent(relative.low)[:-2]} … {signed_percent(relative.high)[:-2]}"
    return f"MSE {signed_percent(relative.value)} ({ends})"


def tiles(rows: Rows, compared: Sequence[Comparison], runtime: str | None) -> list[Tile]:
    """Returns a case's main findings about its subject, those that can be said."""
    model = subject(rows)
    own = [c for c in compared if c.variant.model == model]
    good = [reach for reach in _all_reaches(own) if reach is not None]
    found = [_sparsity_tile(good), _speed_tile(rows, own, runtime), _bytes_tile(rows, good), _naive_tile(own)]
    return [tile for tile in found if tile is not None]


def _all_reaches(own: Sequence[Comparison]) -> Iterator[Comparison | None]:
    for model, method in dict.fromkeys((c.variant.model, c.variant.method) for c in own if c.variant.method):
        for finetuned in (False, True):
            yield without_loss(own, model, method or "", finetuned)


def _sparsity_tile(good: Sequence[Comparison]) -> Tile | None:
    if not good:
        return None
    best = max(good, key=lambda c: (c.variant.requested or 0.0, -c.difference))
    what = f"removed by {best.variant.method}, no loss shown"
    against = "dense, trained on" if best.against == "trained-on" else "dense"
    tuned = "fine-tuned" if best.variant.finetuned else "not fine-tuned"
    detail = f"{best.variant.model}, {tuned}; {relative_text(best)} against {against}"
    return Tile(percent(best.variant.requested or 0.0), what, detail)


def _speed_tile(rows: Rows, own: Sequence[Comparison], runtime: str | None) -> Tile | None:
    """The fastest variant that loses nothing; when all fast ones lose, the fastest with what it loses."""
    fair = {c.variant: c for c in own if c.against == "dense" and c.variant.role in ("pruned", "pruned+finetuned")}
    fair |= {c.variant: c for c in own if c.against == "trained-on"}
    timed = [c for c in fair.values() if not missing(rows[c.variant].get(f"{runtime}_speedup"))]
    if runtime is None or not timed:
        return None
    faster = [c for c in timed if rows[c.variant][f"{runtime}_speedup_low"] > 1]
    if not faster:
        return Tile(
            "none", f"no speed-up shown in {runtime_name(runtime)}", "every interval reaches down to 1", good=False
        )
    harmless = [c for c in faster if c.verdict in ("better", "not told apart")]
    best = max(harmless or faster, key=lambda c: float(rows[c.variant][f"{runtime}_speedup"]))
    ratio, low, high = (rows[best.variant][f"{runtime}_speedup{end}"] for end in ("", "_low", "_high"))
    what = f"faster in {runtime_name(runtime)} ({low:.2f} … {high:.2f})" + (", no loss shown" if harmless else "")
    return Tile(f"{ratio:.2f} ×", what, f"{best.variant.full_name}; {relative_text(best)}", good=bool(harmless))


def _bytes_tile(rows: Rows, good: Sequence[Comparison]) -> Tile | None:
    """The smallest variant that loses nothing."""
    kept = [(c, rows[c.variant].get("zip_bytes"), rows[c.variant].get("dense_zip_bytes")) for c in good]
    sized = [(dense / own, c) for c, own, dense in kept if own and dense and not missing(own) and not missing(dense)]
    if not sized:
        return None
    ratio, best = max(sized, key=lambda entry: entry[0])
    return Tile(f"{three_digits(ratio)} ×", "smaller as a zip, no loss shown", best.variant.full_name)


def _naive_tile(own: Sequence[Comparison]) -> Tile | None:
    """Against the better of the naive forecasts: beating the worse one is no merit."""
    naive = [c for c in own if c.against == "naive"]
    if not naive:
        return None
    hardest = min(naive, key=lambda c: c.reference_mse)
    value = signed_percent(hardest.difference / hardest.reference_mse)
    verdict = {"better": "better than", "worse": "worse than"}.get(hardest.verdict, "not told apart from")
    detail = f"{hardest.variant.model} dense; {relative_text(hardest)}"
    what = f"MSE of the dense model: {verdict} {hardest.other.model}"
    return Tile(value, what, detail, good=hardest.verdict == "better")


def sentences(compared: Sequence[Comparison]) -> list[str]:
    """Returns what the controls say of a case."""
    return [*_naive_sentences(compared), *_zeroed_sentences(compared), *_small_sentences(compared)]


def _naive_sentences(compared: Sequence[Comparison]) -> Iterator[str]:
    for c in compared:
        if c.against == "naive":
            verb = {"better": "beats", "worse": "loses to"}.get(c.verdict, "is not told apart from")
            yield f"{c.variant.model}, dense, {verb} {c.other.model}: {relative_text(c)}."


def _zeroed_sentences(compared: Sequence[Comparison]) -> Iterator[str]:
    for c in compared:
        if c.variant.role == "zeroed-body" and c.against == "dense":
            earned = "that much the body earns" if c.verdict == "worse" else "the body earns nothing that shows"
            yield f"{c.variant.model} with its body zeroed: {relative_text(c)} against dense; {earned}."


def _small_sentences(compared: Sequence[Comparison]) -> Iterator[str]:
    """Counts how pruning fares against training a small model in the first place."""
    found = [c for c in compared if c.against == "small-dense" and c.variant.role == "pruned+finetuned"]
    for model in dict.fromkeys(c.variant.model for c in found):
        verdicts = Counter(c.verdict for c in found if c.variant.model == model)
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        yield f"{model}, pruned and fine-tuned, against dense models of the same size trained from scratch: {said}."

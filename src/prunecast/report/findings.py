"""What one data set and horizon shows, in words: said only as far as the intervals carry it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunecast.report.compare import Compared, Comparison
from prunecast.report.format import missing, percent, runtime_name, signed_percent, three_digits
from prunecast.report.tables import Rows
from prunecast.report.thresholds import MARGIN, Ladders
from prunecast.report.variants import Case


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
    relative = comparison.relative
    if relative is None:
        return f"MSE {signed_percent(comparison.difference / comparison.reference_mse)}, no interval"
    ends = f"{signed_percent(relative.low)[:-2]} … {signed_percent(relative.high)[:-2]}"
    return f"MSE {signed_percent(relative.value)} ({ends})"


def tiles(rows: Rows, compared: Compared, ladders: Ladders, case: Case, runtime: str | None) -> list[Tile]:
    """Returns a case's main findings about its subject, those that can be said."""
    model = subject(rows)
    own = [c for c in compared.every if c.variant.case == case and c.variant.model == model]
    good = list(_harmless(ladders, own, case))
    found = [_sparsity_tile(good), _speed_tile(rows, own, runtime), _bytes_tile(rows, good), _naive_tile(own)]
    return [tile for tile in found if tile is not None]


def _harmless(ladders: Ladders, own: Sequence[Comparison], case: Case) -> Iterator[Comparison]:
    """Yields, of each method with and without fine-tuning, the variant that goes furthest without a loss."""
    for model, method in dict.fromkeys((c.variant.model, c.variant.method) for c in own if c.variant.pruned):
        for finetuned in (False, True):
            ladder = ladders.fair(model, method or "", finetuned, case)
            if ladder is not None and ladder.no_loss is not None:
                yield from ladder.no_loss.comparisons


def _sparsity_tile(good: Sequence[Comparison]) -> Tile | None:
    if not good:
        return None
    best = max(good, key=lambda c: (c.variant.requested or 0.0, -c.difference))
    what = f"removed by {best.variant.method}, no loss shown"
    against = "dense, trained on" if best.against == "dense-continued" else "dense"
    tuned = "fine-tuned" if best.variant.finetuned else "not fine-tuned"
    detail = f"{best.variant.model}, {tuned}; {relative_text(best)} against {against}"
    return Tile(percent(best.variant.requested or 0.0), what, detail)


def _speed_tile(rows: Rows, own: Sequence[Comparison], runtime: str | None) -> Tile | None:
    """The fastest variant that loses nothing; when all fast ones lose, the fastest with what it loses."""
    fair = {c.variant: c for c in own if c.against == "dense" and c.variant.pruned}
    fair |= {c.variant: c for c in own if c.against == "dense-continued"}
    timed = [c for c in fair.values() if not missing(rows[c.variant].get(f"{runtime}_speedup"))]
    if runtime is None or not timed:
        return None
    faster = [c for c in timed if rows[c.variant][f"{runtime}_speedup_low"] > 1]
    if not faster:
        return Tile(
            "none", f"no speed-up shown in {runtime_name(runtime)}", "every interval reaches down to 1", good=False
        )
    harmless = [
        c for c in faster if c.verdict in ("better", "not told apart") and c.difference < MARGIN * c.reference_mse
    ]
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
    naive = [c for c in own if c.against == "naive" and c.variant.role == "dense"]
    if not naive:
        return None
    hardest = min(naive, key=lambda c: c.reference_mse)
    value = signed_percent(hardest.difference / hardest.reference_mse)
    verdict = {"better": "better than", "worse": "worse than"}.get(hardest.verdict, "not told apart from")
    detail = f"{hardest.variant.model} dense; {relative_text(hardest)}"
    what = f"MSE of the dense model: {verdict} {hardest.other.model}"
    return Tile(value, what, detail, good=hardest.verdict == "better")

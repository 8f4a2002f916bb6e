from __future__ import annotations

import subprocess
import sys

import pytest
from tests.unit.report_records import study

from prunecast.report import findings
from prunecast.report.compare import Comparison, comparisons
from prunecast.report.format import count, percent, signed, size, three_digits
from prunecast.report.statistics import Interval
from prunecast.report.tables import Clocks, Rows, by_variant, runs_table, summary_table
from prunecast.report.variants import Case, Variant, collect

CASE = Case("ETTh1", 96)
DENSE = Variant(CASE, "Transformer", "dense", None, None, "d")


def rung(sparsity: float, low: float, high: float, *, against: str = "trained-on") -> Comparison:
    variant = Variant(CASE, "Transformer", "pruned+finetuned", "magnitude", sparsity, str(sparsity))
    middle = (low + high) / 2
    return Comparison(variant, DENSE, against, 3, 0.4, middle, Interval(middle, low, high))  # type: ignore[arg-type]


def facts(**arguments: object) -> tuple[Rows, tuple[Comparison, ...], str | None]:
    found = collect(study(**arguments))  # type: ignore[arg-type]
    compared, clocks = comparisons(found), Clocks(found)
    return by_variant(summary_table(runs_table(found, clocks), compared)), compared, clocks.main


def test_the_reach_ends_before_the_first_loss() -> None:
    ladder = [rung(0.9, -0.01, 0.02), rung(0.5, -0.02, 0.01), rung(0.8, 0.001, 0.02), rung(0.7, -0.01, 0.01)]
    best = findings.without_loss(ladder, "Transformer", "magnitude", True)
    assert best is not None
    assert best.variant.requested == 0.7
    assert findings.without_loss([rung(0.5, 0.01, 0.02)], "Transformer", "magnitude", True) is None


def test_a_fine_tuned_model_is_judged_by_the_dense_one_trained_on() -> None:
    ladder = [rung(0.5, -0.03, -0.01, against="dense"), rung(0.5, 0.01, 0.02)]
    assert findings.without_loss(ladder, "Transformer", "magnitude", True) is None
    assert findings.without_loss(ladder[:1], "Transformer", "magnitude", True) is not None


def test_relative_differences_are_of_the_reference() -> None:
    assert findings.relative_text(rung(0.5, -0.004, 0.012)) == "MSE +1.0 % (−1.0 … +3.0)"


def test_the_subject_is_the_largest_pruned_model() -> None:
    rows, _, _ = facts(seeds=(1,), unstructured=(0.5,), structured=(), measured=False)
    assert findings.subject(rows) == "Transformer"
    only_linear = {key: row for key, row in rows.items() if key.role != "pruned" or key.model == "DLinear"}
    only_linear = {key: row for key, row in only_linear.items() if key.role != "pruned+finetuned"}
    assert findings.subject(only_linear) == "DLinear"
    assert findings.subject({key: row for key, row in rows.items() if key.role == "naive"}) is None


def test_tiles_say_size_speed_and_the_harder_naive_forecast() -> None:
    rows, compared, main = facts()
    sparsity, speed, size_tile, naive = findings.tiles(rows, compared, main)
    assert sparsity.value == "95 %"
    assert speed.value.endswith("×")
    assert "no loss shown" in speed.what
    assert "smaller as a zip" in size_tile.what
    assert naive.value.startswith("−")
    assert naive.what.endswith("better than seasonal naive")


def test_without_a_speed_up_none_is_claimed() -> None:
    rows, compared, main = facts(seeds=(1,), structured=())
    tile = next(tile for tile in findings.tiles(rows, compared, main) if "speed-up" in tile.what)
    assert (tile.value, tile.good) == ("none", False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (three_digits(0.01234), "0.0123"),
        (three_digits(1234.5), "1234"),
        (count(842_631), "843 k"),
        (count(931), "931"),
        (count(999_600), "1.00 M"),
        (size(3_136_087), "3.14 MB"),
        (percent(0.975), "97.5 %"),
        (signed(-0.01234), "−0.0123"),
    ],
)
def test_numbers_are_written_with_three_digits_and_units(text: str, expected: str) -> None:
    assert text == expected


def test_the_report_needs_no_torch() -> None:
    code = "import prunecast.report.page, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

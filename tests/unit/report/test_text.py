from __future__ import annotations

import subprocess
import sys

import pytest
from tests.support.study_records import study

from prunecast.report import text
from prunecast.report.compare import Case, Comparison, Variant
from prunecast.report.context import Context
from prunecast.report.sheets import controls_table
from prunecast.report.statistics import Interval
from prunecast.report.style import count, percent, signed, size, three_digits
from prunecast.report.tables import Cell
from prunecast.study.frame import frame_of


def context(**arguments: object) -> Context:
    return Context(frame_of(study(**arguments)))  # type: ignore[arg-type]


def tiles(found: Context) -> list[text.Tile]:
    (case,) = found.study.cases
    return text.tiles(found, case)


def test_relative_differences_are_of_the_reference() -> None:
    dense = Variant(Case("ETTh1", 96), "Transformer", "dense", None, None, "d")
    found = Comparison(dense, dense, "dense-continued", 3, 0.4, 0.004, Interval(0.004, -0.004, 0.012))
    assert text.relative_text(found) == "MSE +1.0 % (−1.0 … +3.0)"


def test_the_subject_is_the_largest_pruned_model() -> None:
    rows = context(seeds=(1,), unstructured=(0.5,), structured=(), measured=False).rows
    assert text.subject(rows) == "Transformer"
    only_linear = {key: row for key, row in rows.items() if not key.pruned or key.model == "DLinear"}
    assert text.subject(only_linear) == "DLinear"
    assert text.subject({key: row for key, row in rows.items() if key.role == "naive"}) is None


def test_tiles_say_size_speed_and_the_harder_naive_forecast() -> None:
    sparsity, speed, size_tile, naive = tiles(context())
    assert sparsity.value == "95 %"
    assert speed.value.endswith("×")
    assert "no loss shown" in speed.what
    assert "smaller as a zip" in size_tile.what
    assert naive.value.startswith("−")
    assert naive.what.endswith("better than seasonal naive")


def test_without_a_speed_up_none_is_claimed() -> None:
    found = tiles(context(seeds=(1,), structured=()))
    tile = next(tile for tile in found if "speed-up" in tile.what)
    assert (tile.value, tile.good) == ("none", False)


def controls(found: Context) -> dict[str, dict[str, Cell]]:
    """The table of controls: model -> heading -> cell."""
    (case,) = found.study.cases
    table = controls_table(found, "c", case)
    return {
        row.values[0].text: dict(zip((h.header for h in table.heads), row.values, strict=True)) for row in table.rows
    }


def test_the_controls_say_whether_anything_was_learned_and_whether_pruning_was_needed() -> None:
    found = controls(context(unstructured=(0.5, 0.95), structured=(0.75,), measured=False))
    assert list(found) == ["Transformer", "DLinear"]
    transformer, linear = found.values()
    assert transformer["last value"].mark == transformer["seasonal naive"].mark == "better"
    assert transformer["last value"].order == pytest.approx(0.402 / 1.12 - 1, abs=0.02)
    assert transformer["body zeroed, against dense"].text.startswith("+")
    assert transformer["saturated ◇"].text == "2 of 10"
    assert "seasonal naive" in transformer["saturated ◇"].note
    assert transformer["against small dense"].text.startswith("1 ")
    assert not linear["against small dense"].text
    assert not linear["body zeroed, against dense"].text
    texts = [text for text, _ in transformer["records"].records]
    assert "dense: 1" in texts
    assert any("zeroed" in text for text in texts)
    assert any(text.startswith("last value: ") for text in texts)


def test_controls_that_were_not_run_have_no_column() -> None:
    every = study(seeds=(1,), unstructured=(0.5,), structured=(), measured=False)
    some = [record for record in every if record.role not in ("naive", "zeroed-body")]
    (heads,) = {tuple(row) for row in controls(Context(frame_of(some))).values()}
    assert heads == ("model", "saturated ◇", "against random", "records")
    chosen = [record for record in some if (record.recipe["prune"] or {}).get("method") != "random"]
    (heads,) = {tuple(row) for row in controls(Context(frame_of(chosen))).values()}
    assert heads == ("model", "saturated ◇", "records")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (three_digits(0.01234), "0.0123"),
        (three_digits(1234.5), "1234"),
        (count(842_631), "843 k"),
        (count(931), "931"),
        (count(999_600), "1.00 M"),
        (size(3_136_087), "3.14 MB"),
        (percent(0.975), "97.5 %"),
        (percent(0.67232), "67.2 %"),
        (signed(-0.01234), "−0.0123"),
    ],
)
def test_numbers_are_written_with_three_digits_and_units(written: str, expected: str) -> None:
    assert written == expected


def test_the_report_needs_no_torch() -> None:
    code = "import prunecast.report.render, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

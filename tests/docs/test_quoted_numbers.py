"""Numbers in README, docs and published studies are those of the records: `make results` changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tools import quoted_numbers as quoted


def test_the_texts_have_the_numbers_of_the_records() -> None:
    stale = [str(path.relative_to(quoted.ROOT)) for path in quoted.renew(check=True)]
    assert stale == [], "run `make results`"


def test_a_wrong_number_is_put_right_and_what_stands_around_it_stays() -> None:
    marker = '<!-- numbers: paper-small value test_mse Transformer "magnitude 79 %, fine-tuned" ILI 24 -->'
    text = f"The error is {marker}0.1<!-- /numbers -->, *no less*.\n"
    assert quoted.renewed(text) == f"The error is {marker}4.477<!-- /numbers -->, *no less*.\n"
    table = quoted.renewed("<!-- numbers: paper-small errors ETTh1 96 -->\nold\n<!-- /numbers -->\n")
    assert "| Transformer | 0.909 | 0.883 |" in table
    assert quoted.renewed(table) == table
    phrase = quoted.renewed("<!-- numbers: paper-small no_loss structured-magnitude bare -->x<!-- /numbers -->")
    assert ">0 % (Crossformer, " in phrase, "where the lowest amount already loses, none is named"


def test_what_is_said_of_studies_has_no_error_or_time_that_was_typed_in() -> None:
    """Amounts and settings, which a recipe sets, may be; so may what is not in `results/`, in the last two chapters."""
    results = (quoted.ROOT / "docs" / "results.md").read_text(encoding="utf-8").split("## Published errors reached")[0]
    found = (quoted.ROOT / "README.md").read_text(encoding="utf-8").split("## What we find")[1].split("\n## ")[0]
    for text in (results, found):
        typed = quoted.MARKER.sub("", text).replace("arXiv 2412.12883", "")
        assert re.findall(r"\d+\.\d+", typed) == [], "expected a marker of tools/quoted_numbers.py around it"


def test_phrases_say_which_way_a_number_points_and_whether_that_is_shown() -> None:
    pruned = "Transformer", "magnitude 79 %, fine-tuned", "ILI", "24"
    row = quoted.row_of("paper-small", "test_mse", *pruned)
    dense = quoted.row_of("paper-small", "test_mse", "Transformer", "dense-continued", "ILI", "24")
    change = row["test_mse"] / dense["test_mse"] - 1
    assert change < 0
    assert quoted.against("paper-small", "dense_continued", *pruned).startswith(f"{-100 * change:.0f} % lower (-")
    assert quoted.small_dense("paper-small", "structured-magnitude", "75").startswith("13 of 15 pairs (shown: 4;")
    assert quoted.rise("paper-small", "structured-magnitude", "25", "finetuned") == "-1.5 to +3.6 %, shown for none"
    assert quoted.times("paper-small", "structured-magnitude", "50").endswith("for FEDformer, Transformer, Autoformer")
    assert quoted.single_times("paper-small", "structured-magnitude", "25").endswith("FEDformer 0.92 on ILI")
    assert quoted.published("literature", "dlinear", "ETTh1", "96") == "0.386 / 0.400"


def test_two_ways_to_prune_are_held_against_each_other_as_the_report_does() -> None:
    study, case = "pruning-etth1", ("ETTh1", "96")
    known = quoted.variants_of(study, *case)
    own = known["Crossformer", "magnitude", 0.8]
    row = quoted.row_of(study, "vs_dense", "Crossformer", own.name, *case)
    reference = row["test_mse"] - row["vs_dense"]
    found = quoted.gap(study, own, known["Crossformer", "dense", None], "test")
    for end, column in ((found.value, "vs_dense"), (found.low, "vs_dense_low"), (found.high, "vs_dense_high")):
        assert end == pytest.approx(100 * row[column] / reference)
    assert quoted.pays_one(study, "Crossformer", "magnitude against dense", "80", "test").endswith("shown)")
    assert quoted.pays(study, "magnitude against random", "80").count("\n| ") == 1 + len(
        quoted.models(quoted.rows(study, *case))
    )
    cells = sum(map(len, quoted.repaired(study).values()))
    assert f" of {cells} cells" in quoted.repair_harms(study)


def test_what_is_left_is_counted_of_what_reaches_the_forecast() -> None:
    lines = [line.split(" | ") for line in quoted.remaining("pruning-etth1", "FEDformer").splitlines()[2:]]
    left = {(name.removeprefix("| "), share) for name, share, *_ in lines}
    assert ("magnitude", "20.8 %") in left, "biases, norms and the output layers stay; unused weights do not count"
    assert [share for name, share in sorted(left) if name == "magnitude"] == ["10.9 %", "20.8 %"]


def test_a_peer_stands_beside_ours_and_where_ours_is_not_below_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(seed: int, ours: float) -> dict[str, object]:
        errors = {("onnxsim", "magnitude"): 2.4, ("onnxsim", "wanda"): 2.2, ("prunecast", "unstructured"): ours}
        rows = [
            {"share": 0.5, "tool": tool, "method": method, "version": "1", "zeros": 0.5, "validation_mse": error}
            for (tool, method), error in errors.items()
        ]
        about = {"model": "patchtst", "seed": seed, "validation_mse": 2.0, "layers": ["a"], "weights": 3, "prunable": 4}
        return about | {"rows": rows}

    refused = {"model": "fedformer", "seed": 1, "validation_mse": 1.0, "layers": [], "rows": [], "refused": "no layer"}
    (tmp_path / "made-up").mkdir()
    (tmp_path / "made-up" / "peer.json").write_text(json.dumps([refused, part(1, 2.0), part(2, 2.6)]))
    monkeypatch.setattr(quoted, "RESULTS", tmp_path)
    table = quoted.peer("made-up").splitlines()
    assert table[2] == "| PatchTST | 50 % | +20.0 | +10.0 | +15.0 | 1 of 2 | 50.0 ... 50.0 / 50.0 % |"
    assert table[3].endswith("| refused: no layer |  |")
    assert quoted.peer_not_below("made-up") == "PatchTST at 50 % (+15.0 against +10.0 %)"
    assert quoted.peer_layers("made-up") == "PatchTST 75 %"
    assert quoted.peer_extent("made-up") == "onnxsim 1, 1 models, seeds 1, 2"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("etth1-small nothing", "expected a block of"),
        ("etth1-small errors ETTh2 96", "no ETTh2 at 96"),
        ("etth1-small value test_mse Transformer typo", "no test_mse of Transformer, typo"),
    ],
)
def test_a_marker_that_asks_for_nothing_is_an_error(asked: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        quoted.renewed(f"<!-- numbers: {asked} --><!-- /numbers -->")

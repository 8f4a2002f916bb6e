from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.support.study_records import study

from prunecast.report.answer import answers
from prunecast.report.compare import Compared, Comparison, comparisons
from prunecast.report.headline import case_sheet, headline_sheet, is_control, ladder_sheet
from prunecast.report.material import Material
from prunecast.report.statistics import difference
from prunecast.report.thresholds import MARGIN, Ladder, Ladders, Line
from prunecast.report.variants import Case, Variant, collect

CASE = Case("ETTh1", 96)
REFERENCE = 0.4
WINDOWS = np.array([190.0] * 8)


def comparison(
    case: Case, sparsity: float, loss: float, doubt: float, *, against: str = "dense-continued"
) -> Comparison:
    """A rung that loses a share of the reference's error, give or take about the doubt."""
    variant = Variant(case, "Transformer", "pruned+finetuned", "magnitude", sparsity, str(sparsity))
    dense = Variant(case, "Transformer", "dense", None, None, "d")
    draws = np.random.default_rng(int(1000 * sparsity)).normal(0, 1, (1, 8))
    spread_SB = REFERENCE * (doubt * (draws - draws.mean()) / draws.std() + loss)
    evidence = difference(spread_SB + REFERENCE, np.full((1, 8), REFERENCE), WINDOWS)
    return Comparison(
        variant,
        dense,
        against,  # type: ignore[arg-type]
        seeds=1,
        reference_mse=REFERENCE,
        difference=evidence.value,
        interval=evidence.interval(),
        evidence=evidence,
    )


def ladder(*found: Comparison, finetuned: bool = True) -> Ladder:
    best = Ladders(Compared(found)).fair("Transformer", "magnitude", finetuned)
    assert best is not None
    return best


def test_the_reach_ends_before_the_first_loss() -> None:
    rungs = [(0.9, 0.0, 0.02), (0.5, -0.01, 0.02), (0.8, 0.04, 0.01), (0.7, 0.005, 0.02)]
    found = ladder(*(comparison(CASE, *rung) for rung in rungs))
    assert [rung.sparsity for rung in found.rungs] == [0.5, 0.7, 0.8, 0.9]
    assert [rung.loses for rung in found.rungs] == [False, False, True, False]
    assert found.no_loss is not None
    assert found.no_loss.sparsity == 0.7
    assert ladder(comparison(CASE, 0.5, 0.04, 0.01)).no_loss is None


def test_a_large_estimated_loss_is_not_called_none_because_nothing_is_known() -> None:
    found = ladder(comparison(CASE, 0.5, 0.01, 0.5), comparison(CASE, 0.8, 1.5 * MARGIN, 0.5))
    assert not found.rungs[1].loses
    assert found.no_loss is found.rungs[0]


def test_a_small_loss_is_shown_only_when_the_whole_interval_is_small() -> None:
    found = ladder(comparison(CASE, 0.5, 0.02, 0.01), comparison(CASE, 0.8, 0.0, 0.2))
    assert found.rungs[0].loses
    assert found.small_loss is found.rungs[0]
    assert found.no_loss is None
    wide = ladder(comparison(CASE, 0.8, 0.0, 0.2))
    assert wide.no_loss is not None
    assert wide.small_loss is None


def test_a_fine_tuned_model_is_judged_by_the_dense_one_trained_on() -> None:
    against_dense = comparison(CASE, 0.5, -0.05, 0.01, against="dense")
    both = ladder(against_dense, comparison(CASE, 0.5, 0.05, 0.01))
    assert both.line.against == "dense-continued"
    assert both.no_loss is None
    assert ladder(against_dense).no_loss is not None


def test_over_data_sets_only_shared_sparsities_count_and_evidence_adds_up() -> None:
    other = Case("ETTh2", 96)
    found = [comparison(CASE, 0.5, 0.02, 0.04), comparison(CASE, 0.8, 0.02, 0.04), comparison(other, 0.5, 0.02, 0.04)]
    ladders = Ladders(Compared(tuple(found)))
    line = Line("Transformer", "magnitude", True, "dense-continued")
    pooled, alone = ladders.pooled(line), ladders.of(line, CASE)
    assert pooled is not None
    assert alone is not None
    assert [rung.sparsity for rung in pooled.rungs] == [0.5]
    assert pooled.rungs[0].ratio.value == pytest.approx(1.02)
    assert pooled.rungs[0].ratio.high < alone.rungs[0].ratio.high
    assert ladders.cases(line) == (CASE, other)
    assert ladders.pooled(Line("Transformer", "random", True, "dense")) is None


def test_without_intervals_nothing_is_said() -> None:
    bare = replace(comparison(CASE, 0.5, 0.0, 0.1), evidence=None, interval=None)
    found = ladder(bare)
    assert not found.rungs[0].known
    assert found.no_loss is None
    sheet = headline_sheet("h", Ladders(Compared((bare,))), {}, {})
    assert "not known" in [cell.text for cell in sheet.rows[0].cells]


@pytest.fixture(scope="module")
def material() -> Material:
    small = {"unstructured": (0.5, 0.9), "structured": (0.75,)}
    return Material.of(study("ETTh1", **small) + study("ETTh2", **small))


def test_the_headline_has_a_row_for_each_model_and_method_controls_last(material: Material) -> None:
    sheet = headline_sheet("h", material.ladders, material.budgets, {"Transformer": "model-1"})
    names = [(row.cells[0].text, row.cells[1].text) for row in sheet.rows]
    assert set(names) == {(model, method) for model, method in material.ladders.methods}
    controls = [is_control(method) for _, method in names]
    assert controls == sorted(controls)
    first = sheet.rows[0].cells
    assert (first[0].text, first[0].page, first[1].note) == ("Transformer", "model-1", "of weights")
    assert len(sheet.heads) == len(first) == 9
    held = {fingerprint for _, fingerprint in first[8].records}
    assert {material.study.by_fingerprint[name].role for name in held} >= {"dense", "pruned", "pruned+finetuned"}
    tuned = first[6]
    assert tuned.text == "≥ 90 %"
    assert tuned.more == "2 cases: 90 %"


def test_the_rungs_lead_to_their_records(material: Material) -> None:
    line = Line("Transformer", "magnitude", True, "dense")
    sheet = ladder_sheet("l", "t", material.ladders, [line])
    own = {record.fingerprint for runs in material.study.runs.values() for record in runs.values()}
    assert len(sheet.rows) == 2
    for row in sheet.rows:
        found = [fingerprint for _, fingerprint in row.cells[-1].records]
        assert len(found) == 6
        assert set(found) <= own


def test_single_data_sets_have_their_own_reach(material: Material) -> None:
    cases = material.study.cases
    sheet = case_sheet("c", "t", material.ladders, material.ladders.methods, cases)
    assert len(sheet.rows) == len(material.ladders.methods) * 2
    assert {row.cells[2].text for row in sheet.rows} == {"ETTh1", "ETTh2"}


def test_the_answer_says_how_far_what_tuning_buys_and_what_time_is_saved(material: Material) -> None:
    found = answers(material.ladders, material.rows, material.clocks.main, material.budgets)
    by_head = {answer.head: answer.text for answer in found}
    assert list(by_head) == ["magnitude, share of weights", "structured-magnitude, share of multiply-adds"]
    weights, units = by_head.values()
    assert "(without → with fine-tuning): 0 → 90 % for both models" in weights
    assert "none that shows for Transformer, DLinear" in weights
    assert "Speed-up there in ONNX Runtime: Transformer 2." in units


def test_dense_models_that_learned_nothing_are_named() -> None:
    records = study(seeds=(1, 2, 3), unstructured=(0.5,), structured=(), measured=False)
    naive = {r.seed: r.test for r in records if r.model == "seasonal_naive"}
    bad = [r.model_copy(update={"test": naive[r.seed]}) if r.model == "dlinear" else r for r in records]
    found = collect(bad)
    compared = comparisons(found)
    dense = next(v for v in found.runs if (v.model, v.role) == ("DLinear", "dense"))
    assert compared.saturated(dense)
    assert compared.floor_names(dense) == ("seasonal naive",)
    material = Material.of(bad)
    last = answers(material.ladders, material.rows, None, {})[-1]
    assert last.head.endswith("little to lose")
    assert "DLinear 1 of 1" in last.text
    assert all(compared.saturated(variant) for variant in found.runs if variant.pruned and variant.model == "DLinear")


def test_a_zeroed_body_as_good_as_the_model_saturates_it_too() -> None:
    records = study(seeds=(1, 2, 3), unstructured=(0.5,), structured=(), measured=False)
    dense = {r.seed: r.test for r in records if (r.model, r.role) == ("transformer", "dense")}
    same = [r.model_copy(update={"test": dense[r.seed]}) if r.role == "zeroed-body" else r for r in records]
    found = comparisons(collect(same))
    variants = {c.variant for c in found.every if (c.variant.model, c.variant.role) == ("Transformer", "dense")}
    assert [found.floor_names(variant) for variant in variants] == [("its zeroed body",)]

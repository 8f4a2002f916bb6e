from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.support.study_records import study

from prunecast.report.compare import Case, Compared, Comparison, Variant
from prunecast.report.context import Context
from prunecast.report.sheets import headline_table, sweep_table, thresholds_table
from prunecast.report.statistics import Interval, difference
from prunecast.report.text import answer_table, reach_text, sentences
from prunecast.report.thresholds import MARGIN, Level, Line, Sweep, Sweeps
from prunecast.study.frame import frame_of

CASE = Case("ETTh1", 96)
REFERENCE = 0.4
WINDOWS = np.array([190.0] * 8)


def comparison(
    case: Case, sparsity: float, loss: float, doubt: float, *, against: str = "dense-continued"
) -> Comparison:
    """A level that loses a share of the reference's error, give or take about the doubt."""
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
        reference=REFERENCE,
        difference=evidence.value,
        interval=evidence.interval(),
        evidence=evidence,
    )


def sweep(*found: Comparison, finetuned: bool = True) -> Sweep:
    best = Sweeps(Compared(found)).fair("Transformer", "magnitude", finetuned)
    assert best is not None
    return best


def test_the_reach_ends_before_the_first_loss() -> None:
    levels = [(0.9, 0.0, 0.02), (0.5, -0.01, 0.02), (0.8, 0.04, 0.01), (0.7, 0.005, 0.02)]
    found = sweep(*(comparison(CASE, *level) for level in levels))
    assert [level.sparsity for level in found.levels] == [0.5, 0.7, 0.8, 0.9]
    assert [level.loses for level in found.levels] == [False, False, True, False]
    assert found.no_loss is not None
    assert found.no_loss.sparsity == 0.7
    assert sweep(comparison(CASE, 0.5, 0.04, 0.01)).no_loss is None


def test_a_large_estimated_loss_is_not_called_none_because_nothing_is_known() -> None:
    found = sweep(comparison(CASE, 0.5, 0.01, 0.5), comparison(CASE, 0.8, 1.5 * MARGIN, 0.5))
    assert not found.levels[1].loses
    assert found.no_loss is found.levels[0]


def test_a_small_loss_is_shown_only_when_the_whole_interval_is_small() -> None:
    found = sweep(comparison(CASE, 0.5, 0.02, 0.01), comparison(CASE, 0.8, 0.0, 0.2))
    assert found.levels[0].loses
    assert found.small_loss is found.levels[0]
    assert found.no_loss is None
    wide = sweep(comparison(CASE, 0.8, 0.0, 0.2))
    assert wide.no_loss is not None
    assert wide.small_loss is None


def test_a_fine_tuned_model_is_judged_by_the_dense_one_trained_on() -> None:
    against_dense = comparison(CASE, 0.5, -0.05, 0.01, against="dense")
    both = sweep(against_dense, comparison(CASE, 0.5, 0.05, 0.01))
    assert both.line.against == "dense-continued"
    assert both.no_loss is None
    assert sweep(against_dense).no_loss is not None


def test_over_data_sets_only_shared_sparsities_count_and_evidence_adds_up() -> None:
    other = Case("ETTh2", 96)
    found = [comparison(CASE, 0.5, 0.02, 0.04), comparison(CASE, 0.8, 0.02, 0.04), comparison(other, 0.5, 0.02, 0.04)]
    sweeps = Sweeps(Compared(tuple(found)))
    line = Line("Transformer", "magnitude", True, "dense-continued")
    pooled, alone = sweeps.pooled(line), sweeps.pooled(line, CASE)
    assert pooled is not None
    assert alone is not None
    assert [level.sparsity for level in pooled.levels] == [0.5]
    assert pooled.levels[0].ratio.value == pytest.approx(1.02)
    assert pooled.levels[0].ratio.high < alone.levels[0].ratio.high
    assert pooled.cases == (CASE, other)
    assert sweeps.pooled(Line("Transformer", "random", True, "dense")) is None


def test_without_intervals_nothing_is_said() -> None:
    bare = replace(comparison(CASE, 0.5, 0.0, 0.1), evidence=None, interval=None)
    found = sweep(bare)
    assert not found.levels[0].known
    assert found.no_loss is None
    sheet = headline_table("h", Sweeps(Compared((bare,))), {}, {})
    assert "not known" in [cell.text for cell in sheet.rows[0].values]


@pytest.fixture(scope="module")
def context() -> Context:
    small = {"unstructured": (0.5, 0.9), "structured": (0.75,)}
    return Context(frame_of(study("ETTh1", **small) + study("ETTh2", **small)))


def test_the_headline_has_a_row_for_each_model_and_method_controls_last(context: Context) -> None:
    sheet = headline_table("h", context.sweeps, context.budgets, {"Transformer": "model-1"})
    names = [(row.values[0].text, row.values[1].text) for row in sheet.rows]
    assert set(names) == {(model, method) for model, method in context.sweeps.methods}
    controls = [context.sweeps.is_control(method) for _, method in names]
    assert controls == sorted(controls)
    first = sheet.rows[0].values
    assert (first[0].text, first[0].page, first[1].note) == ("Transformer", "model-1", "of weights")
    assert len(sheet.heads) == len(first) == 9
    held = {fingerprint for _, fingerprint in first[8].records}
    assert {context.study.frame.rows[name]["role"] for name in held} >= {"dense", "pruned", "pruned+finetuned"}
    tuned = first[6]
    assert tuned.text == "≥ 90 %"
    assert tuned.more == "2 cases: 90 %"


def test_the_levels_lead_to_their_records(context: Context) -> None:
    line = Line("Transformer", "magnitude", True, "dense")
    sheet = sweep_table("l", "t", context.sweeps, [line])
    own = {record["fingerprint"] for runs in context.study.runs.values() for record in runs.values()}
    assert len(sheet.rows) == 2
    for row in sheet.rows:
        found = [fingerprint for _, fingerprint in row.values[-1].records]
        assert len(found) == 6
        assert set(found) <= own


def test_single_data_sets_have_their_own_reach(context: Context) -> None:
    cases = context.study.cases
    sheet = thresholds_table("c", "t", context.sweeps, context.sweeps.methods, cases)
    assert len(sheet.rows) == len(context.sweeps.methods) * 2
    assert {row.values[2].text for row in sheet.rows} == {"ETTh1", "ETTh2"}


def test_the_answer_says_how_far_what_tuning_buys_and_what_time_is_saved(context: Context) -> None:
    table = answer_table(context, "answer")
    found = {
        row.values[0].text: dict(zip((h.header for h in table.heads), row.values, strict=True)) for row in table.rows
    }
    assert list(found) == ["magnitude", "structured-magnitude"]
    weights, units = found.values()
    assert (weights["method"].note, units["method"].note) == ("of weights", "of multiply-adds")
    assert [weights[head].text for head in ("models", "not fine-tuned", "fine-tuned")] == ["2", "0 %", "90 %"]
    assert weights["fine-tuned"].note == "all models"
    assert weights["speed-up there, ONNX Runtime"].text == "none that shows"
    assert units["speed-up there, ONNX Runtime"].text.startswith("2.")
    said = sentences(context)
    assert said[0] == (
        "Pruned by magnitude and fine-tuned, the middle one of 2 models shows no loss with up to 90 % of its weights "
        "removed; not fine-tuned, it shows a loss with 50 % removed, the smallest amount tried."
    )
    assert any("by structured-magnitude, Transformer is faster in ONNX Runtime: 2." in one for one in said)
    assert "Pruned that far by magnitude, most models show no speed-up in ONNX Runtime." in said
    (controls,) = (one for one in said if one.startswith("Removing at random instead, fine-tuned where that was run: "))
    assert controls.split(": ")[1].startswith("random shows a loss with 50 % of the weights removed, ")
    assert not any(" 0 %" in one for one in said)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Interval(1.0, 0.9, 1.1), "shows no loss with up to 25 % of its weights removed"),
        (Interval(1.1, 1.05, 1.2), "shows a loss with 25 % of its weights removed, the smallest amount tried"),
        (
            Interval(1.1, 0.8, 1.4),
            "shows an error that is 5 % higher or more with 25 % of its weights removed, the smallest amount tried",
        ),
    ],
)
def test_where_the_smallest_amount_is_too_much_the_words_name_it(ratio: Interval, said: str) -> None:
    sweep = Sweep(Line("m", "magnitude", False, "dense"), (), (Level(0.25, ratio, (), 0),))
    assert reach_text(sweep, " of its weights") == said


def test_dense_models_that_learned_nothing_are_named() -> None:
    records = study(seeds=(1, 2, 3), unstructured=(0.5,), structured=(), measured=False)
    naive = {r.seed: r.test for r in records if r.model == "seasonal_naive"}
    bad = [r.model_copy(update={"test": naive[r.seed]}) if r.model == "dlinear" else r for r in records]
    context = Context(frame_of(bad))
    found, compared = context.study, context.mse
    dense = next(v for v in found.runs if (v.model, v.role) == ("DLinear", "dense"))
    assert compared.saturated(dense)
    assert compared.floor_names(dense) == ("seasonal naive",)
    last = sentences(context)[-1]
    assert "1 dense model of 2 had little to lose (DLinear)" in last
    assert all(compared.saturated(variant) for variant in found.runs if variant.pruned and variant.model == "DLinear")


def test_a_zeroed_body_as_good_as_the_model_saturates_it_too() -> None:
    records = study(seeds=(1, 2, 3), unstructured=(0.5,), structured=(), measured=False)
    dense = {r.seed: r.test for r in records if (r.model, r.role) == ("transformer", "dense")}
    same = [r.model_copy(update={"test": dense[r.seed]}) if r.role == "zeroed-body" else r for r in records]
    found = Context(frame_of(same)).mse
    variants = {c.variant for c in found.every if (c.variant.model, c.variant.role) == ("Transformer", "dense")}
    assert [found.floor_names(variant) for variant in variants] == [("its zeroed body",)]

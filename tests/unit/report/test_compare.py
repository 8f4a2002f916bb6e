from __future__ import annotations

import pytest
from tests.support.study_records import Maker, study

from prunecast.errors import UserError
from prunecast.records import RunRecord
from prunecast.report.compare import StudyRuns, comparisons, scorings
from prunecast.study.frame import StageRow, frame_of

SMALL = {"unstructured": (0.5,), "structured": (0.75,), "measured": False}


def collect(records: list[RunRecord]) -> StudyRuns:
    return StudyRuns.of(frame_of(records))


def rows_of(found: StudyRuns) -> list[StageRow]:
    return [row for runs in found.runs.values() for row in runs.values()]


def changed(record: RunRecord, **fields: object) -> RunRecord:
    return record.model_copy(update=fields)


def test_seeds_of_one_thing_are_one_variant() -> None:
    found = collect(study(**SMALL))
    names = [variant.full_name for variant in found.runs]
    assert len(names) == len(set(names))
    assert all(list(runs) == [1, 2, 3] for runs in found.runs.values())
    assert names[:4] == [
        "Transformer dense",
        "Transformer dense-continued",
        "Transformer magnitude 50 %",
        "Transformer magnitude 50 %, fine-tuned",
    ]
    assert names[-2:] == ["last value", "seasonal naive"]


def test_the_order_of_records_does_not_matter() -> None:
    records = study(**SMALL)
    assert list(collect(records).runs) == list(collect(records[::-1]).runs)


def test_partners_come_from_the_graph() -> None:
    found = collect(study(**SMALL))
    rows = rows_of(found)
    tuned = next(r for r in rows if r["role"] == "pruned+finetuned" and r["sparsity_requested"] == 0.75)
    partners = dict(found.partners(tuned))
    dense, continued, small = (partners[against] for against in ("dense", "dense-continued", "small-dense"))
    assert (dense["role"], dense["model"], dense["seed"]) == ("dense", tuned["model"], tuned["seed"])
    assert (continued["role"], continued["parent"]) == ("dense-continued", dense["fingerprint"])
    assert (small["role"], small["compared_with"]) == ("small-dense", tuned["parent"])
    assert found.dense(small) == dense
    naive = next(r for r in rows if r["role"] == "naive")
    assert found.dense(naive) is None


def test_a_control_trained_on_for_other_steps_is_no_fair_opponent() -> None:
    records = study(seeds=(1,), **SMALL)
    longer = [
        changed(r, recipe=r.recipe | {"finetune": {"epochs": 9}}) if r.role == "dense-continued" else r for r in records
    ]
    found = collect(longer)
    assert not any("dense-continued" in dict(found.partners(row)) for row in rows_of(found))


def test_records_from_before_there_was_a_choice_of_dropout_go_with_those_that_say_own() -> None:
    records = study(**SMALL)

    def tuned(record: RunRecord) -> RunRecord:
        section = {key: value for key, value in record.recipe["finetune"].items() if key != "dropout"}
        section |= {} if record.seed == 1 else {"dropout": "own"}
        return changed(record, recipe=record.recipe | {"finetune": section})

    found = collect([tuned(record) for record in records])
    assert list(map(str, found.runs)) == list(map(str, collect(records).runs))
    assert all(list(runs) == [1, 2, 3] for runs in found.runs.values())


def test_the_plain_control_stands_beside_fine_tuning_that_looks_back() -> None:
    records = study(seeds=(1,), **SMALL)
    taught = [
        changed(r, recipe=r.recipe | {"finetune": r.recipe["finetune"] | {"distill": 0.5, "rewind": True}})
        if r.role == "pruned+finetuned"
        else r
        for r in records
    ]
    found = collect(taught)
    tuned = [row for row in rows_of(found) if row["role"] == "pruned+finetuned" and row["model"] == "transformer"]
    assert tuned
    assert all("dense-continued" in dict(found.partners(row)) for row in tuned)


def test_each_variant_is_held_against_its_own_references() -> None:
    found = {(c.variant.full_name, c.against): c for c in comparisons(collect(study(**SMALL))).every}
    assert found["Transformer structured-magnitude 75 %, fine-tuned", "dense-continued"].other.full_name == (
        "Transformer dense-continued"
    )
    assert found["DLinear magnitude 50 %", "dense"].other.full_name == "DLinear dense"
    assert found["Transformer dense", "naive"].seeds == 3
    assert found["Transformer magnitude 50 %", "naive"].seeds == 3
    assert found["Transformer magnitude 50 %", "zeroed-body"].other.full_name == "Transformer zeroed body"
    assert ("Transformer dense", "dense") not in found
    assert ("last value", "naive") not in found
    assert ("DLinear magnitude 50 %", "dense-continued") not in found


def test_only_an_interval_that_leaves_out_zero_is_a_verdict() -> None:
    for comparison in comparisons(collect(study(**SMALL))).every:
        assert comparison.interval is not None
        expected = (
            "worse" if comparison.interval.low > 0 else "better" if comparison.interval.high < 0 else "not told apart"
        )
        assert comparison.verdict == expected
        assert comparison.difference == pytest.approx(comparison.interval.value)


def test_without_blocks_there_is_a_difference_but_no_verdict() -> None:
    records = study(seeds=(1,), **SMALL)
    plain = [r if r.test is None else changed(r, test=r.test.model_copy(update={"blocks": None})) for r in records]
    found = comparisons(collect(plain))
    assert {comparison.verdict for comparison in found.every} == {"no interval"}
    assert not any(found.saturated(comparison.variant) for comparison in found.every)


def test_configurations_of_one_name_are_told_apart() -> None:
    maker = Maker()
    for width in (64, 128):
        recipe = maker.recipe("transformer", 1)
        recipe["model"]["d_model"] = width
        dense = maker.dense("transformer", 1, recipe=recipe)
        for kinds in (["head"], ["ffn"]):
            pruned = maker.pruned(dense, "magnitude", 0.5, finetuned=False)
            prune = pruned.recipe["prune"] | {"kinds": kinds}
            maker.records[-1] = changed(pruned, recipe=recipe | {"prune": prune})
    names = [variant.full_name for variant in collect(maker.records).runs]
    assert "Transformer (d_model=64) dense" in names
    assert "Transformer (d_model=128) magnitude (kinds=['ffn']) 50 %" in names
    assert len(set(names)) == 6


def test_two_records_of_one_seed_are_refused() -> None:
    maker = Maker()
    for _ in range(2):
        maker.dense("dlinear", 1)
    with pytest.raises(UserError, match="one record of 'dense' at seed 1"):
        collect(maker.records)


@pytest.mark.parametrize(
    "fault",
    [
        lambda r: changed(r, test=r.test.model_copy(update={"scoring": "paper"})),
        lambda r: changed(r, test=r.test.model_copy(update={"windows": r.test.windows - 1})),
        lambda r: changed(r, data=r.data.model_copy(update={"sha256": "0" * 64})),
    ],
)
def test_numbers_scored_differently_are_not_ranked(fault) -> None:
    records = study(seeds=(1,), **SMALL)
    index = next(i for i, r in enumerate(records) if r.role == "dense-continued")
    records[index] = fault(records[index])
    with pytest.raises(UserError, match=r"scored on the same test windows, found .* dense-continued, seed 1"):
        comparisons(collect(records))


def in_both_scorings(record: RunRecord) -> RunRecord:
    if record.test is None:
        return record
    worse = record.test.model_copy(
        update={"scoring": "paper", "mse": 2 * record.test.mse, "windows": 3000, "blocks": None}
    )
    return changed(record, test_paper=worse)


def test_of_two_scorings_the_full_one_is_ranked() -> None:
    records = [in_both_scorings(record) for record in study(seeds=(1,), **SMALL)]
    found = collect(records)
    comparisons(found)
    model = next(row for row in rows_of(found) if row["role"] == "dense")
    assert scorings(model) == {"full": "test", "paper": "paper"}
    assert found.error(model) == model["test_mse"]


def test_the_scoring_that_all_have_is_ranked() -> None:
    both = [in_both_scorings(record) for record in study(seeds=(1,), **SMALL)]
    paper_only = [changed(r, test=r.test_paper, test_paper=None) if r.role == "naive" else r for r in both]
    found = collect(paper_only)
    assert {found.scoring(row) for row in rows_of(found)} == {"paper"}
    assert {c.verdict for c in comparisons(found).every} == {"no interval"}

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.support.study_records import study

from prunecast.report.charts import rank_chart
from prunecast.report.context import Context
from prunecast.report.ranks import (
    critical_difference,
    forecaster_ranking,
    friedman,
    method_ranking,
    ranking,
    sparsities,
    studentised_range,
)
from prunecast.report.sheets import rank_table
from prunecast.study.frame import frame_of

DEMSAR = np.array(
    [
        [4, 3, 2, 1],
        [1, 2, 3, 4],
        [4, 1, 2, 3],
        [4, 1, 3, 2],
        [4, 2, 3, 1],
        [1, 2.5, 4, 2.5],
        [3, 2, 4, 1],
        [2.5, 2.5, 4, 1],
        [4, 3, 2, 1],
        [2.5, 2.5, 2.5, 2.5],
        [4, 2.5, 1, 2.5],
        [3, 2, 4, 1],
        [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)
"""Demsar 2006, table 6: ranks of four learners on fourteen data sets."""

BASES = np.array(
    [
        [5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40], [5.90, 5.85, 5.70],
        [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35], [5.25, 5.15, 5.00], [5.85, 5.80, 5.70],
        [5.25, 5.20, 5.10], [5.65, 5.55, 5.45], [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40],
        [5.45, 5.55, 5.50], [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40],
        [5.70, 5.65, 5.55], [6.30, 6.30, 6.25],
    ]
)  # fmt: skip
"""Hollander and Wolfe 1973, table 7.1: seconds of three ways to round first base; the classic example of the test."""


def test_the_statistic_is_that_of_the_published_example() -> None:
    statistic, p = friedman(DEMSAR)
    assert DEMSAR.mean(axis=0) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.0005)
    assert statistic == pytest.approx(9.28, abs=0.005)
    assert p == pytest.approx(0.0115, abs=0.002)  # by Iman and Davenport's F, the statistic corrected for ties


def test_the_share_of_shuffled_rankings_is_the_published_p() -> None:
    _, p = friedman(stats.rankdata(BASES, axis=1))
    assert p == pytest.approx(0.0038, abs=0.0015)


def test_critical_values_are_those_of_the_published_table() -> None:
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]  # Demsar 2006, table 5 a
    assert [studentised_range(count) for count in range(2, 11)] == pytest.approx(table, abs=0.0015)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_equal_errors_share_their_rank() -> None:
    found = ranking(
        pd.DataFrame({"a": {"d1": 0.3, "d2": 0.3}, "b": {"d1": 0.1, "d2": 0.1}, "c": {"d1": 0.3, "d2": 0.3}})
    )
    assert found is not None
    assert found.ranks == (1.0, 2.5, 2.5)


def test_pairs_are_told_apart_only_beyond_the_critical_difference() -> None:
    datasets = [f"d{number}" for number in range(12)]
    errors = {
        name: {data: place + 0.01 * number for number, data in enumerate(datasets)} for place, name in enumerate("abcd")
    }
    found = ranking(pd.DataFrame(errors))
    assert found is not None
    assert found.told_apart
    assert found.names == ("a", "b", "c", "d")
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(20 / 72), abs=0.002)
    assert found.groups == ((0, 1), (1, 2), (2, 3))


def test_where_chance_would_do_nothing_is_told_apart() -> None:
    errors = {"a": {"d1": 1.0, "d2": 2.0}, "b": {"d1": 2.0, "d2": 1.0}, "c": {"d1": 3.0, "d2": 0.5}}
    found = ranking(pd.DataFrame(errors))
    assert found is not None
    assert not found.told_apart
    assert found.groups == ((0, 2),)


def test_a_ranking_needs_two_treatments_on_two_shared_data_sets() -> None:
    assert ranking(pd.DataFrame({"a": {"d1": 1.0, "d2": 2.0}})) is None
    assert ranking(pd.DataFrame({"a": {"d1": 1.0, "d2": 2.0}, "b": {"d1": 1.0}})) is None
    assert ranking(pd.DataFrame()) is None


@pytest.fixture(scope="module")
def context() -> Context:
    small = {"models": ("transformer", "informer", "fedformer"), "unstructured": (0.5, 0.9), "structured": ()}
    names = ("ETTh1", "ETTh2", "ETTm1")
    return Context(frame_of(record for name in names for record in study(name, measured=False, **small)))


def test_forecasters_and_methods_are_ranked_over_data_sets(context: Context) -> None:
    found = forecaster_ranking(context.rows)
    assert found is not None
    assert found.ranking.datasets == ("ETTh1", "ETTh2", "ETTm1")
    assert set(found.ranking.names) >= {"Transformer", "FEDformer", "last value", "seasonal naive"}
    assert found.ranking.names[-1] == "last value"
    ways = method_ranking(context.rows, context.mse, 0.9)
    assert ways is not None
    assert ways.ranking.names[-1] == "random"
    assert set(ways.ranking.names) >= {"dense", "dense-continued", "magnitude", "magnitude, fine-tuned"}
    assert 0.9 in sparsities(context.rows)


def test_a_naive_forecast_that_one_data_set_lacks_takes_no_data_set_away(context: Context) -> None:
    lacking = {
        key: row
        for key, row in context.rows.items()
        if (key.role, key.model, key.case.dataset) != ("naive", "seasonal naive", "ETTm1")
    }
    assert len(lacking) < len(context.rows)
    found = forecaster_ranking(lacking)
    assert found is not None
    assert found.ranking.datasets == ("ETTh1", "ETTh2", "ETTm1")
    assert "seasonal naive" not in found.ranking.names
    assert "last value" in found.ranking.names


def test_a_treatment_is_compared_on_the_cells_that_all_have(context: Context) -> None:
    lacking = {key: row for key, row in context.rows.items() if (key.role, key.case.dataset) != ("pruned", "ETTm1")}
    ways = method_ranking(lacking, context.mse, 0.9)
    assert ways is not None
    assert ways.ranking.datasets == ("ETTh1", "ETTh2")
    assert {variant.case.dataset for of in ways.variants.values() for variant in of} == {"ETTh1", "ETTh2"}


def test_the_diagram_shows_each_treatment_its_rank_and_the_groups(context: Context) -> None:
    ranked = forecaster_ranking(context.rows)
    assert ranked is not None
    found = ranked.ranking
    chart = rank_chart("name", "title", ranked)
    words = [row["words"] for row in chart.data["ranks"]]
    assert words == [f"{name}: mean rank {rank:.2f}" for name, rank in zip(found.names, found.ranks, strict=True)]
    joined = [(bar["first"], bar["last"]) for bar in chart.data["groups"]]
    assert joined == [(found.names[first], found.names[last]) for first, last in found.groups]
    assert "Nemenyi" in chart.caption
    sheet = rank_table("name", "title", context.study, ranked)
    assert [row.values[0].text for row in sheet.rows] == list(found.names)


def test_each_rank_leads_to_the_records_below_it(context: Context) -> None:
    ways = method_ranking(context.rows, context.mse, 0.9)
    assert ways is not None
    sheet = rank_table("name", "title", context.study, ways)
    records = {row.values[0].text: row.values[-1].records for row in sheet.rows}
    of_study = context.study.frame.rows
    for treatment, found in records.items():
        assert len(found) == 3 * 3 * 3, treatment  # data sets, models, seeds
        roles = {of_study[fingerprint]["role"] for _, fingerprint in found}
        assert len(roles) == 1, treatment
    assert {of_study[fingerprint]["role"] for _, fingerprint in records["magnitude, fine-tuned"]} == {
        "pruned+finetuned"
    }
    assert records["dense"][0][0] == "ETTh1, horizon 96 FEDformer: 1"

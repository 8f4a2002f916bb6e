from __future__ import annotations

import pytest
from tests.support.study_records import Maker

from prunecast.records import DataFacts, RunRecord
from prunecast.report.compare import StudyRuns
from prunecast.report.published_errors import (
    PUBLISHED_CHANNELS,
    UNSTABLE_TOLERANCE,
    Deviation,
    deviations,
    published_errors,
)
from prunecast.report.sheets import deviation_table
from prunecast.report.tables import ReportTable
from prunecast.study.frame import frame_of


def facts(name: str, channels: int = 7) -> DataFacts:
    names = tuple(f"c{number}" for number in range(channels))
    return DataFacts(name=name, sha256="9f" * 32, rows=100, channels=names, windows={})


def dense(
    model: str,
    dataset: str = "ETTh1",
    horizon: int = 96,
    *,
    mse: float = 0.4,
    paper: float | None = None,
    seed: int = 1,
) -> RunRecord:
    """A dense record with these test errors, and in paper scoring too where given."""
    maker = Maker(dataset, horizon)
    record = maker.dense("dlinear" if model == "dlinear" else "transformer", seed)
    assert record.test is not None
    test = record.test.model_copy(update={"mse": mse, "mae": 0.4})
    in_paper = None if paper is None else test.model_copy(update={"scoring": "paper", "mse": paper, "blocks": None})
    recipe = record.recipe | {"model": record.recipe["model"] | {"name": model}}
    return record.model_copy(
        update={
            "model": model,
            "recipe": recipe,
            "data": facts(dataset, PUBLISHED_CHANNELS[dataset]),
            "test": test,
            "test_paper": in_paper,
            "fingerprint": f"{model}{dataset}{horizon}{seed}",
        }
    )


def found(*records: RunRecord) -> list[Deviation]:
    return deviations(StudyRuns.of(frame_of(records)))


def table(*records: RunRecord) -> ReportTable:
    study = StudyRuns.of(frame_of(records))
    return deviation_table("s", study, deviations(study))


def test_every_published_error_is_well_formed() -> None:
    known = published_errors()
    assert len(known) == 264
    assert {place.dataset for place in known} == set(PUBLISHED_CHANNELS)
    assert {error.scoring for error in known.values()} == {"paper", "full", "unknown"}
    assert all(0 < error.mse < 10 and 0 < error.mae < 3 for error in known.values())
    some = {(p.dataset, p.horizon, p.model): (e.mse, e.mae, e.scoring) for p, e in known.items() if p.lookback == 96}
    assert some["ETTh1", 96, "informer"] == (0.865, 0.713, "paper")
    assert some["Exchange", 96, "itransformer"] == (0.086, 0.206, "full")
    assert some["ETTm2", 720, "autoformer"] == (0.433, 0.432, "paper")


def test_ours_is_taken_in_the_scoring_of_theirs() -> None:
    (paper,) = found(dense("autoformer", mse=0.5, paper=0.449))
    assert (paper.mse, paper.published.compared_in) == (0.449, "paper")
    assert paper.mse == paper.published.mse
    (full,) = found(dense("itransformer", mse=0.386, paper=0.5))
    assert (full.mse, full.published.compared_in) == (0.386, "full")


def test_an_error_scored_otherwise_is_not_held_against_it() -> None:
    assert found(dense("autoformer", mse=0.449)) == []


def test_only_the_same_forecast_is_compared() -> None:
    record = dense("itransformer")
    assert len(found(record)) == 1
    for update in (
        {"data": facts("ETTh1", 3)},
        {"data": facts("mine")},
        {"role": "small-dense"},
        {"recipe": record.recipe | {"data": record.recipe["data"] | {"targets": ["OT"]}}},
        {"recipe": record.recipe | {"data": record.recipe["data"] | {"split": [0.6, 0.2, 0.2]}}},
        {"recipe": record.recipe | {"model": record.recipe["model"] | {"lookback": 336}}},
        {"recipe": record.recipe | {"model": record.recipe["model"] | {"horizon": 100}}},
    ):
        assert found(record.model_copy(update=update)) == [], update


def test_seeds_are_averaged_and_a_deviation_is_marked_beyond_its_tolerance() -> None:
    two = [dense("itransformer", mse=mse, seed=seed) for seed, mse in enumerate((0.38, 0.40), start=1)]
    (near,) = found(*two)
    assert near.mse == pytest.approx(0.39)
    assert near.mse_sd == pytest.approx(0.01 * 2**0.5)
    assert near.within
    (far,) = found(dense("itransformer", mse=0.45))
    assert not far.within
    (unstable,) = found(dense("informer", "ETTh2", paper=4.5))
    assert unstable.tolerance == UNSTABLE_TOLERANCE
    assert unstable.within
    rows = [row for one in (table(*two), table(dense("itransformer", mse=0.45))) for row in one.rows]
    assert [row.values[5].mark for row in rows] == ["faint", "worse"]
    assert rows[0].values[-1].records == (("1", "itransformerETTh1961"), ("2", "itransformerETTh1962"))


def test_several_horizons_have_their_mean() -> None:
    sheet = table(dense("itransformer", mse=0.386), dense("itransformer", horizon=192, mse=0.5))
    kinds = [row.kind for row in sheet.rows]
    assert kinds == ["", "", "mean"]
    mean = sheet.rows[-1].values
    assert mean[1].note == "of 2"
    assert mean[5].order == pytest.approx(0.886 / 0.827 - 1)
    assert not mean[5].mark
    assert [text for text, _ in mean[-1].records] == ["96: 1", "192: 1"]
    assert {len(row.cells) for row in sheet.rows} == {len(sheet.heads)}


@pytest.mark.parametrize(
    ("model", "factor", "mark"),
    [
        ("itransformer", 1.02, "faint"),
        ("itransformer", 1.04, "worse"),
        ("itransformer", 0.95, "better"),
        ("informer", 1.5, ""),
    ],
)
def test_a_mean_over_all_published_horizons_is_judged_where_runs_agree(model: str, factor: float, mark: str) -> None:
    known = {place.horizon: error for place, error in published_errors().items() if place[:3:2] == ("ETTh1", model)}
    records = []
    for horizon in (96, 192, 336, 720):
        mse = known[horizon].mse * factor
        records.append(dense(model, horizon=horizon, mse=mse, paper=mse))
    mean = table(*records).rows[-1]
    assert mean.kind == "mean"
    assert mean.values[5].mark == mark
    assert not table(*records[:3]).rows[-1].values[5].mark

"""Published test errors, through the front door: train and evaluate as a user would."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prunecast import api as facade

LAST_VALUE_CELLS = [
    (name, horizon)
    for name in ("ETTh1", "ETTh2", "Exchange", "Weather")
    for horizon in (96, 192, 336, 720)
] + [("ILI", horizon) for horizon in (24, 36, 48, 60)]  # fmt: skip

ONE_THREAD = ("train.threads=1",)


def rows(reference_dir: Path, file: str) -> list[dict[str, str]]:
    with (reference_dir.parent / "targets" / file).open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(("name", "horizon"), LAST_VALUE_CELLS)
def test_the_last_value_forecast_to_four_decimals(name: str, horizon: int, reference_dir: Path, tmp_path: Path) -> None:
    published = [
        row
        for row in rows(reference_dir, "repeat_baseline.csv")
        if (row["dataset"], row["horizon"]) == (name, str(horizon))
    ]
    assert {row["scoring"] for row in published} == {"full", "paper"}
    lookback = int(published[0]["lookback"])
    facade.train("repeat", name, horizon=horizon, lookback=lookback, settings=ONE_THREAD, out=tmp_path / "model")
    for row in published:
        found = facade.evaluate(tmp_path / "model", scoring="paper" if row["scoring"] == "paper" else "full")
        assert (found.windows, f"{found.mse:.4f}", f"{found.mae:.4f}") == (
            int(row["windows"]),
            row["mse"],
            row["mae"],
        )


@pytest.mark.usefixtures("data_dir")
def test_every_row_of_the_last_value_table_is_tried(reference_dir: Path) -> None:
    found = {(row["dataset"], int(row["horizon"])) for row in rows(reference_dir, "repeat_baseline.csv")}
    assert found == set(LAST_VALUE_CELLS)


@pytest.mark.usefixtures("data_dir")
def test_dlinear_reaches_its_published_error(reference_dir: Path, tmp_path: Path) -> None:
    (published,) = (
        row
        for row in rows(reference_dir, "ltsf_targets.csv")
        if (row["dataset"], row["horizon"], row["model"], row["lookback"]) == ("ETTh1", "96", "DLinear", "96")
    )
    found = facade.train("dlinear", "ETTh1", settings=ONE_THREAD, out=tmp_path / "model")
    assert found.mse == pytest.approx(float(published["mse"]), rel=0.03)
    assert found.mae == pytest.approx(float(published["mae"]), rel=0.03)


ITRANSFORMER = ("model.d_model=128", "model.d_ff=128")
"""The authors' sizes for ETTh2 and Exchange."""


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("model", "name", "settings"),
    [
        pytest.param("itransformer", "Exchange", ITRANSFORMER, marks=pytest.mark.slow),
        ("dlinear", "ETTh2", ()),
        ("dlinear", "Exchange", ()),
    ],
    ids=["itransformer Exchange", "dlinear ETTh2", "dlinear Exchange"],
)
def test_a_model_does_no_worse_than_published(
    model: str, name: str, settings: tuple[str, ...], reference_dir: Path, tmp_path: Path
) -> None:
    """Two of the six cells of recipes/published/ltsf-96.yaml take longer and are left to it."""
    (published,) = (
        row
        for row in rows(reference_dir, "ltsf_targets.csv")
        if (row["dataset"], row["horizon"], row["model"].lower(), row["lookback"]) == (name, "96", model, "96")
    )
    found = facade.train(model, name, settings=(*ONE_THREAD, *settings), out=tmp_path / "model")
    assert found.mse <= 1.05 * float(published["mse"])
    assert found.mae <= 1.05 * float(published["mae"])

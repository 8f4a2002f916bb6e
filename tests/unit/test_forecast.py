"""Forecasts in a file's own words: its units, its name and form of the times; from its end and from earlier origins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast import api
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.results import ForecastFile

SMALL = ("train.max_steps=2", "train.threads=1")
LOOKBACK, HORIZON = 24, 6
ROWS = 200
TIMES = pd.date_range("2024-01-01", periods=ROWS, freq="h")
WAVE = 50 + 10 * np.sin(np.arange(ROWS) * 2 * np.pi / 24) + np.arange(ROWS) % 7


def own(path: Path, cells: object = TIMES, name: str = "date", **columns: object) -> Path:
    pd.DataFrame({name: cells, "a": WAVE, **columns}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    data = str(own(folder / "own.csv"))
    api.train("dlinear", data, horizon=HORIZON, lookback=LOOKBACK, settings=SMALL, out=folder / "m")
    api.export(folder / "m", out=folder / "m.onnx", data=data)
    return folder / "m"


def forecast(source: Path, data: Path, **options: object) -> tuple[ForecastFile, pd.DataFrame]:
    out = data.with_name("forecast.csv")
    out.unlink(missing_ok=True)
    result = api.forecast(source, data, out=out, **options)  # type: ignore[arg-type]
    return result, pd.read_csv(out, dtype={0: str, 1: str} if "origins" in options else {0: str})


@pytest.mark.parametrize(
    ("cells", "settings", "expected"),
    [
        (TIMES.strftime("%d/%m/%Y %H:%M"), (), "09/01/2024 08:00"),
        (TIMES.strftime("%m/%d/%Y %I:%M %p"), (), "01/09/2024 08:00 AM"),
        (TIMES.strftime("%Y-%m-%dT%H:%M:%SZ"), (), "2024-01-09T08:00:00Z"),
        (TIMES.strftime("%Y-%m-%d %H:%M"), (), "2024-01-09 08:00"),
        (TIMES.strftime("%Y-%m-%d %H:%M:%S+01:00"), (), "2024-01-09 08:00:00+01:00"),
        (TIMES.strftime("%Y-%m-%d %H:%M"), ("data.timezone=Europe/Berlin",), "2024-01-09 08:00"),
        (TIMES.strftime("%Y%m%d%H%M"), (), "202401090800"),
        (TIMES.astype("datetime64[s]").astype(np.int64), (), "1704787200"),
        ([f"{time:%Y-%m-%d}" for time in pd.date_range("2024-01-01", periods=ROWS, freq="B")], (), "2024-10-07"),
        ([f"{time.year}Q{time.quarter}" for time in pd.date_range("1950", periods=ROWS, freq="QS")], (), "2000Q1"),
        (np.arange(1800, 1800 + ROWS), (), "2000"),
    ],
)  # fmt: skip
def test_times_are_written_as_the_file_has_them(
    cells: object, settings: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    data = own(tmp_path / "own.csv", cells, "When")
    settings = (*SMALL, "data.time_column=When", *settings)
    api.train("dlinear", str(data), horizon=HORIZON, lookback=LOOKBACK, settings=settings, out=tmp_path / "m")
    result, table = forecast(tmp_path / "m", data)
    assert list(table.columns) == ["When", "a"]
    assert (table["When"].iloc[0], result.start, len(table)) == (expected, expected, HORIZON)
    together = pd.concat([pd.read_csv(data, dtype={"When": str}), table])
    together.to_csv(tmp_path / "longer.csv", index=False)
    assert len(forecast(tmp_path / "m", tmp_path / "longer.csv")[1]) == HORIZON, "what is written goes on as a file"


def test_times_of_several_columns_are_written_as_one(tmp_path: Path) -> None:
    frame = pd.DataFrame({"year": TIMES.year, "month": TIMES.month, "day": TIMES.day, "hour": TIMES.hour, "a": WAVE})
    frame.to_csv(data := tmp_path / "own.csv", index=False)
    settings = (*SMALL, "data.time_column=[year, month, day, hour]")
    api.train("dlinear", str(data), horizon=HORIZON, lookback=LOOKBACK, settings=settings, out=tmp_path / "m")
    _, table = forecast(tmp_path / "m", data)
    assert table["year month day hour"].tolist()[:2] == ["2024-01-09 08:00", "2024-01-09 09:00"]


def test_an_earlier_origin_knows_nothing_later(model: Path, tmp_path: Path) -> None:
    data = own(tmp_path / "own.csv")
    cut = tmp_path / "cut.csv"
    pd.read_csv(data).iloc[:150].to_csv(cut, index=False)
    _, expected = forecast(model, cut)
    for source in (model, model.with_name("m.onnx")):
        result, found = forecast(source, data, origin=str(TIMES[149]))
        assert found["date"].tolist() == expected["date"].tolist()
        assert found["a"].to_numpy() == pytest.approx(expected["a"].to_numpy(), rel=1e-5)
        [row] = result.to_json()["errors"]
        off = np.abs(found["a"].to_numpy() - WAVE[150:156])
        assert row["mae"] == pytest.approx(off.mean())
        assert row["rmse"] == pytest.approx(np.sqrt((off**2).mean()))
        assert row["mape"] == pytest.approx((off / WAVE[150:156]).mean())
        assert row["mase"] == pytest.approx(off.mean() / np.abs(WAVE[24:150] - WAVE[:126]).mean())
    with pytest.raises(UserError, match="to 2024-01-09T07:00:00, found '2025'"):
        forecast(model, data, origin="2025")
    with pytest.raises(UserError, match="expected at least 24 rows to forecast from, found 3"):
        forecast(model, data, origin="2024-01-01 02:00")
    assert "errors" not in forecast(model, data)[0].to_json()


def test_many_origins_are_a_backtest(model: Path, tmp_path: Path) -> None:
    data = own(tmp_path / "own.csv", TIMES.strftime("%d.%m.%Y %H:%M"))
    result, found = forecast(model, data, origins=3)
    assert list(found.columns) == ["origin", "date", "a"]
    assert found["origin"].unique().tolist() == ["08.01.2024 13:00", "08.01.2024 19:00", "09.01.2024 01:00"]
    assert found["date"].iloc[-1] == "09.01.2024 07:00"
    single = [forecast(model, data, origin=origin)[1]["a"] for origin in found["origin"].unique()]
    assert found["a"].to_numpy() == pytest.approx(np.concatenate(single))
    [row] = result.to_json()["errors"]
    assert row["mae"] == pytest.approx(np.abs(found["a"].to_numpy() - WAVE[-18:]).mean())
    with pytest.raises(UserError, match=r"expected 204 rows for 30 origins .* found 200"):
        forecast(model, data, origins=30)
    with pytest.raises(UserError, match="found both"):
        forecast(model, data, origins=3, origin="2024-01-08")
    with pytest.raises(UserError, match="origins: expected at least 1, found 0"):
        forecast(model, data, origins=0)


def test_a_gap_before_the_lookback_changes_nothing(model: Path, tmp_path: Path) -> None:
    _, expected = forecast(model, own(tmp_path / "own.csv"))
    rows = pd.read_csv(tmp_path / "own.csv")
    rows.loc[5, "a"] = np.nan
    rows.drop(index=[20, 21, ROWS - LOOKBACK - 1]).to_csv(tmp_path / "gaps.csv", index=False)
    for fill in ("refuse", "ffill"):
        pd.testing.assert_frame_equal(forecast(model, tmp_path / "gaps.csv", fill=fill)[1], expected)
    rows.drop(index=[ROWS - 5]).to_csv(tmp_path / "gap.csv", index=False)
    with pytest.raises(UserError, match=r"missing time steps in the look-back: 1, the first at 2024-01-09T03:00:00"):
        forecast(model, tmp_path / "gap.csv")
    assert forecast(model, tmp_path / "gap.csv", fill="interpolate:1")[1]["date"].tolist() == expected["date"].tolist()
    rows.loc[ROWS - 5, "a"] = np.nan
    rows.to_csv(tmp_path / "value.csv", index=False)
    with pytest.raises(UserError, match=r"column 'a': missing values \(NaN\): 1, the first in row 196"):
        forecast(model, tmp_path / "value.csv")


def test_the_truth_may_have_gaps(model: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(own(tmp_path / "own.csv"))
    rows.drop(index=[ROWS - 3]).to_csv(tmp_path / "gap.csv", index=False)
    result, found = forecast(model, tmp_path / "gap.csv", origins=1)
    known = np.arange(HORIZON) != HORIZON - 3
    off = np.abs(found["a"].to_numpy() - WAVE[-HORIZON:])[known]
    assert result.to_json()["errors"][0]["mae"] == pytest.approx(off.mean())


def test_a_picture_is_drawn_on_request(model: Path, tmp_path: Path) -> None:
    data = own(tmp_path / "own.csv")
    for options in ({}, {"origins": 2}):
        plot = tmp_path / f"{len(options)}.png"
        result, _ = forecast(model, data, plot=plot, **options)
        assert result.to_json()["plot"] == str(plot)
        assert plot.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="exists"):
        forecast(model, data, plot=tmp_path / "0.png")
    assert not (tmp_path / "forecast.csv").exists()


def test_covariates_of_the_future_come_from_the_file_itself(tmp_path: Path) -> None:
    """An earlier origin takes them from the rows after it, whose channels it does not know."""
    data = own(tmp_path / "own.csv", sun=np.arange(ROWS) % 24)
    settings = (*SMALL, "data.covariates=[sun]", "model.d_model=16", "model.d_ff=32", "model.n_heads=2")
    api.train("transformer", str(data), horizon=HORIZON, lookback=LOOKBACK, settings=settings, out=tmp_path / "m")
    result, found = forecast(tmp_path / "m", data, origins=2)
    assert [row["name"] for row in result.to_json()["errors"]] == ["a"]
    single = [forecast(tmp_path / "m", data, origin=origin)[1]["a"] for origin in found["origin"].unique()]
    assert found["a"].to_numpy() == pytest.approx(np.concatenate(single))
    with pytest.raises(UserError, match="expected 6 rows after the last known one in which 'sun' stands"):
        forecast(tmp_path / "m", data)
    rows = pd.read_csv(data)
    rows.loc[ROWS - HORIZON :, "a"] = np.nan
    rows.to_csv(tmp_path / "future.csv", index=False)
    _, last = forecast(tmp_path / "m", tmp_path / "future.csv")
    assert last["a"].to_numpy() == pytest.approx(found["a"].iloc[-HORIZON:].to_numpy())


def test_history_is_found_by_a_name_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, _ = forecast(model, own(tmp_path / "own.csv"))
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    assert api.forecast(model, "own.csv", out=tmp_path / "bare.csv").start == named.start
    api.train("repeat", "synthetic-load", lookback=24, horizon=6, settings=("train.threads=1",), out=tmp_path / "m")
    found = api.forecast(tmp_path / "m", "synthetic-load", out=tmp_path / "next.csv")
    last = load_series("synthetic-load").times[-1]
    assert pd.Timestamp(found.start) == last + pd.Timedelta("1h")
    with pytest.raises(UserError, match="unknown data set 'synthetic-laod' and no such file"):
        api.forecast(model, "synthetic-laod", out=tmp_path / "x.csv")


def test_rows_of_a_coarser_step_are_told_from_gaps(model: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(own(tmp_path / "own.csv"))
    rows.iloc[::2].to_csv(tmp_path / "coarse.csv", index=False)
    with pytest.raises(UserError, match=r"coarse.csv: expected the model's step 'h', found '2h'"):
        forecast(model, tmp_path / "coarse.csv")
    rows.drop(index=[ROWS - 3, ROWS - 6]).to_csv(tmp_path / "gaps.csv", index=False)
    with pytest.raises(UserError, match=r"missing time steps in the look-back: 2"):
        forecast(model, tmp_path / "gaps.csv")


def test_a_picture_that_is_there_stays(model: Path, tmp_path: Path) -> None:
    data, picture = own(tmp_path / "own.csv"), tmp_path / "own.png"
    picture.write_text("mine")
    with pytest.raises(UserError, match=r"own\.png exists; give another --plot"):
        forecast(model, data, plot=picture)
    assert picture.read_text() == "mine"
    assert not (tmp_path / "forecast.csv").exists()


def test_pruning_by_what_is_gone_already_is_refused(model: Path, tmp_path: Path) -> None:
    data = str(own(tmp_path / "own.csv"))
    api.prune(model, "magnitude", 0.5, data=data, out=tmp_path / "half")
    with pytest.raises(UserError, match=r"removes nothing: the model is pruned by as much already \(\d+ of its"):
        api.prune(tmp_path / "half", "magnitude", 0.5, data=data, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert api.prune(tmp_path / "half", "magnitude", 0.75, data=data, out=tmp_path / "more").sparsity > 0.7

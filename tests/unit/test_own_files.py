"""From training on a file to a forecast from another: what was found out about the first is used on the second."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from prunecast import api
from prunecast.errors import UserError


def written(
    path: Path, times: pd.DatetimeIndex, form: str, *, name: str = "Date", marks: tuple[str, str] = (".", ",")
) -> Path:
    cells = [
        f"{1000 + 10 * (time.hour + time.day_of_week):,}.5".translate(str.maketrans(",.", marks[1] + marks[0]))
        for time in times
    ]
    rows = (f"{time};{cell}\n" for time, cell in zip(times.strftime(form), cells, strict=True))
    path.write_text(f"{name};y\n{''.join(rows)}")
    return path


def forecast(folder: Path, train: Path, new: Path, *settings: str, lookback: int = 5) -> list[list[str]]:
    model = folder / "model"
    api.train("repeat", str(train), lookback=lookback, horizon=2, settings=settings, out=model)
    api.forecast(model, new, out=folder / "forecast.csv")
    return [line.split(",") for line in (folder / "forecast.csv").read_text().splitlines()]


def test_day_before_month_and_marks_are_those_of_training(tmp_path: Path) -> None:
    train = written(
        tmp_path / "a.csv", pd.date_range("2024-04-05", periods=900, freq="h"), "%d/%m/%Y %H:%M", marks=(",", ".")
    )
    new = written(
        tmp_path / "b.csv", pd.date_range("2024-06-05", periods=24, freq="h"), "%d/%m/%Y %H:%M", marks=(",", ".")
    )
    header, *rows = forecast(tmp_path, train, new)
    assert header == ["Date", "y"]
    assert [(time, round(float(value), 3)) for time, value in rows] == [
        ("06/06/2024 00:00", 1250.5),
        ("06/06/2024 01:00", 1250.5),
    ]
    source = json.loads((tmp_path / "model" / "config.json").read_text())["data"]
    assert source["reading"] == {"form": "%d/%m/%Y %H:%M", "zone": None, "decimal": ",", "thousands": "."}
    assert "/" not in source["name"]
    api.evaluate(tmp_path / "model", data=str(train))


def test_a_forecast_from_friday_is_for_monday(tmp_path: Path) -> None:
    train = written(tmp_path / "a.csv", pd.date_range("2023-01-02", periods=120, freq="B"), "%Y-%m-%d")
    new = written(tmp_path / "b.csv", pd.date_range("2023-06-12", periods=5, freq="D"), "%Y-%m-%d")
    assert [row[0] for row in forecast(tmp_path, train, new)] == ["Date", "2023-06-19", "2023-06-20"]


@pytest.mark.parametrize(
    ("step", "start", "end", "expected"),
    [
        ("D", "2024-02-01", "2024-03-30", ["2024-03-31T00:00:00+0100", "2024-04-01T00:00:00+0200"]),
        ("h", "2024-03-20", "2024-03-31 01:00", ["2024-03-31T03:00:00+0200", "2024-03-31T04:00:00+0200"]),
        ("h", "2024-10-20", "2024-10-27 02:00", ["2024-10-27T02:00:00+0100", "2024-10-27T03:00:00+0100"]),
    ],
)
def test_forecasts_have_the_offset_of_their_own_time(
    tmp_path: Path, step: str, start: str, end: str, expected: list[str]
) -> None:
    """Clocks change within the horizon: only a zone says when, an offset alone would not."""
    both = pd.date_range("2023-09-01", "2024-01-31", freq=step, tz="Europe/Berlin")
    new = pd.date_range(start, periods=len(pd.date_range(start, end, freq=step)), freq=step, tz="Europe/Berlin")
    train, rows = (written(tmp_path / f"{len(times)}.csv", times, "%Y-%m-%dT%H:%M:%S%z") for times in (both, new))
    assert [row[0] for row in forecast(tmp_path, train, rows)][1:] == expected
    with pytest.raises(UserError, match=r"times have no offset from UTC, and those .* \(Europe/Berlin\)"):
        api.forecast(
            tmp_path / "model", written(tmp_path / "c.csv", new.tz_localize(None), "%Y-%m-%d %H:%M"), out=tmp_path / "x"
        )


def test_a_zone_that_was_named_is_the_new_rows_too(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=200, freq="D")
    train = written(tmp_path / "a.csv", times, "%Y-%m-%d")
    found = forecast(tmp_path, train, train, "data.timezone=America/New_York")
    assert [row[0] for row in found[1:]] == ["2024-07-19", "2024-07-20"]


def test_a_gap_that_the_look_back_does_not_touch_is_no_error(tmp_path: Path) -> None:
    times = pd.date_range("2023-01-02", periods=120, freq="B")
    train = written(tmp_path / "a.csv", times, "%Y-%m-%d")
    early = written(tmp_path / "b.csv", times.delete([20, 21, 114]), "%Y-%m-%d")
    assert forecast(tmp_path, train, early)[1][0] == "2023-06-19"
    late = written(tmp_path / "c.csv", times.delete([20, 115]), "%Y-%m-%d")
    with pytest.raises(
        UserError,
        match=r"missing time steps in the look-back: 1, the first at 2023-06-12.* at the step B; set fill \(--fill\)",
    ):
        api.forecast(tmp_path / "model", late, out=tmp_path / "x")
    lines = early.read_text().splitlines()
    early.write_text("\n".join([lines[0], lines[1].partition(";")[0] + ";", *lines[2:]]))
    api.forecast(tmp_path / "model", early, out=tmp_path / "y.csv")


def test_new_rows_of_another_offset_are_told_by_the_models_clocks_or_refused(tmp_path: Path) -> None:
    both = pd.date_range("2023-09-01", "2024-01-31", freq="h", tz="Europe/Berlin")
    train = written(tmp_path / "a.csv", both, "%Y-%m-%dT%H:%M:%S%z")
    new = written(tmp_path / "b.csv", both[-100:].tz_convert("UTC"), "%Y-%m-%dT%H:%M:%SZ")
    assert [row[0] for row in forecast(tmp_path, train, new)][1] == "2024-01-31T01:00:00+01:00"
    api.evaluate(tmp_path / "model", data=str(train))
    other = tmp_path / "other"
    other.mkdir()
    winter = written(tmp_path / "c.csv", both[-1000:], "%Y-%m-%dT%H:%M:%S%z")
    with pytest.raises(
        UserError, match=r"expected times at \+01:00, as in training, found UTC; train with data.timezone"
    ):
        forecast(other, winter, new)

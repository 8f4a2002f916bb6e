"""A catalogue set that is cut out of a wide file: which columns, and how their gaps are closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

ROWS = 400
LOAD = "_load_actual_entsoe_transparency"


def write_wide_file(folder: Path, countries: dict[str, np.ndarray]) -> None:
    times = pd.date_range("2014-12-31T23:00:00Z", periods=ROWS, freq="h")
    frame = pd.DataFrame(
        {
            "utc_timestamp": times.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "cet_cest_timestamp": times.tz_convert("Europe/Berlin").strftime("%Y-%m-%dT%H:%M:%S%z"),
            "DE_50hertz" + LOAD: 1.0,
            "DE_load_forecast_entsoe_transparency": 2.0,
            **{country + LOAD: values for country, values in countries.items()},
        }
    )
    frame.to_csv(folder / "time_series_60min_singleindex.csv", index=False)


def with_gaps(*rows: int) -> np.ndarray:
    values = np.arange(ROWS, dtype=float)
    values[list(rows)] = np.nan
    return values


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    return tmp_path


def test_countries_with_few_gaps_are_taken_and_bridged(folder: Path) -> None:
    write_wide_file(
        folder, {"AT": with_gaps(0, 10, 11), "FR": with_gaps(ROWS - 1), "CY": with_gaps(*range(5)), "SE": with_gaps()}
    )
    series = load_series(DataConfig(name="ENTSO-E"))
    assert series.channels == ("AT" + LOAD, "FR" + LOAD, "SE" + LOAD)
    whole = with_gaps()
    np.testing.assert_array_equal(series.values_TC[:, 2], whole)
    np.testing.assert_array_equal(series.values_TC[1:, 0], whole[1:])
    assert (series.values_TC[0, 0], series.values_TC[-1, 1]) == (1, ROWS - 2)
    assert series.times[0] == np.datetime64("2014-12-31T23:00")


def test_file_without_a_usable_country_is_refused(folder: Path) -> None:
    write_wide_file(folder, {"CY": with_gaps(*range(300))})
    with pytest.raises(UserError, match="not ENTSO-E as published"):
        load_series(DataConfig(name="ENTSO-E"))

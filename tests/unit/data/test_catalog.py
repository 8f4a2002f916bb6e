"""The catalogue: complete, checked, and true to the files where they are there."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.data import catalog
from prunecast.data.download import git_blob_id
from prunecast.data.series import load_series
from prunecast.data.splits import SplitRule
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

NAMES = [
    "ETTh1",
    "ETTh2",
    "ETTm1",
    "ETTm2",
    "Weather",
    "Exchange",
    "ECL",
    "Traffic",
    "ILI",
    "ENTSO-E",
    "PJM",
    "synthetic-load",
]
HERE = ["ETTh1", "ETTh2", "Weather", "Exchange", "ILI", "PJM"]


def test_names_are_those_of_the_plan() -> None:
    assert list(catalog.names()) == NAMES


def test_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'Wether' .*did you mean 'Weather'\?"):
        catalog.entry("Wether")


def test_only_https_addresses_are_taken() -> None:
    with pytest.raises(ValueError, match="https://"):
        catalog.Entry(name="x", about="x", frequency="h", season=24, url="http://example.org/x.csv")


def test_sets_without_a_known_hash() -> None:
    entries = [catalog.entry(name) for name in NAMES]
    assert [entry.name for entry in entries if entry.file and not entry.verifiable] == ["ECL", "Traffic", "ENTSO-E"]


def test_catalogue_is_read_without_torch_and_pandas() -> None:
    code = (
        "import sys; from prunecast.data import catalog; catalog.names(); print({'torch', 'pandas'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("ETTh1", (8640, 2880, 2880)),
        ("ETTm1", (34560, 11520, 11520)),
        ("Weather", (36887, 5270, 10539)),
        ("Exchange", (5311, 760, 1517)),
        ("ECL", (18412, 2632, 5260)),
        ("Traffic", (12280, 1756, 3508)),
        ("ILI", (676, 97, 193)),
        ("PJM", (40420, 5775, 11548)),
    ],
)
def test_splits_are_the_published_ones(name: str, lengths: tuple[int, int, int]) -> None:
    entry = catalog.entry(name)
    assert entry.rows is not None
    assert tuple(entry.split.lengths(entry.rows, entry.frequency)) == lengths


def test_shares_leave_no_row_over() -> None:
    for rows in range(10, 200):
        assert sum(SplitRule(shares=(0.6, 0.2, 0.2)).lengths(rows, "h")) == rows


@pytest.mark.parametrize("name", HERE)
def test_hashes_are_those_of_the_files(name: str, data_dir: Path) -> None:
    entry = catalog.entry(name)
    content = (data_dir / str(entry.file)).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry.sha256[0]
    assert entry.git_blob in (None, git_blob_id(content))
    other_line_ends = content.replace(b"\n", b"\r\n")
    assert len(entry.sha256) == 1 or hashlib.sha256(other_line_ends).hexdigest() == entry.sha256[1]


@pytest.mark.parametrize("name", HERE)
def test_declared_irregularities_are_all_there_are(name: str, data_dir: Path) -> None:
    series, entry = load_series(DataConfig(name=name)), catalog.entry(name)
    declared = [item for item in entry.irregularities if item.kind == "break"]
    assert [(item.after.isoformat(), item.before.isoformat()) for item in declared if item.after and item.before] == [
        (found.after, found.before) for found in series.breaks
    ]
    sentinels = {item.columns[0]: item.count for item in entry.irregularities if item.kind == "sentinel"}
    counts = (series.raw_TC == -9999).sum(axis=0)
    assert {channel: count for channel, count in zip(series.channels, counts, strict=True) if count} == sentinels
    repeated = (np.diff(series.raw_TC, axis=0) == 0).all(axis=1).sum()
    assert [item.count for item in entry.irregularities if item.kind == "repeated"] == (
        [repeated] if repeated > 1 else []
    )
    assert series.frequency == entry.frequency


# A set that is cut out of a wide file

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
    np.testing.assert_array_equal(series.raw_TC[:, 2], whole)
    np.testing.assert_array_equal(series.raw_TC[1:, 0], whole[1:])
    assert (series.raw_TC[0, 0], series.raw_TC[-1, 1]) == (1, ROWS - 2)
    assert series.times[0] == np.datetime64("2014-12-31T23:00")


def test_file_without_a_usable_country_is_refused(folder: Path) -> None:
    write_wide_file(folder, {"CY": with_gaps(*range(300))})
    with pytest.raises(UserError, match="not ENTSO-E as published"):
        load_series(DataConfig(name="ENTSO-E"))

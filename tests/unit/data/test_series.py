"""Own files: what is read, and the one clear line for what is not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunecast.data.series import Series, find_beside, load_series
from prunecast.data.windows import prepare
from prunecast.errors import UserError
from prunecast.recipe import DataConfig, Recipe, load_recipe, write_recipe
from prunecast.resolve import resolved

GOOD = "date,a,b\n2020-01-01,1,4\n2020-01-02,2,5\n2020-01-03,3,6\n"


def load(folder: Path, content: str | bytes, **config: object) -> Series:
    path = folder / "own.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_series(DataConfig.model_validate({"name": str(path), **config}))


def hourly(rows: int, *, zone: str = "") -> str:
    times = pd.date_range("2020-01-01", periods=rows, freq="h").strftime("%Y-%m-%dT%H:%M:%S")
    return "time,x\n" + "".join(f"{time}{zone},{row}\n" for row, time in enumerate(times))


def test_a_written_recipe_finds_its_file_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps no folder: the file is looked for in the current one, then in PRUNECAST_DATA."""
    data, here = tmp_path / "data", tmp_path / "here"
    for folder in (data, here):
        folder.mkdir()
    (data / "own.csv").write_text(GOOD)
    recipe = Recipe(data=DataConfig(name=str(data / "own.csv")), model={"name": "dlinear", "lookback": 8})
    written = resolved(recipe, load_series(recipe.data))
    write_recipe(written, here / "recipe.yaml")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PRUNECAST_DATA", str(data))
    again = load_recipe(here / "recipe.yaml")
    series = load_series(again.data)
    assert (series.sha256, resolved(again, series)) == (load_series(recipe.data).sha256, written)
    (here / "own.csv").write_text(GOOD.replace("6", "7"))
    assert load_series(again.data).sha256 != series.sha256, "the current folder comes first"
    monkeypatch.delenv("PRUNECAST_DATA")
    (here / "own.csv").unlink()
    with pytest.raises(UserError, match=r"own\.csv"):
        load_series(again.data)


def test_plain_file(tmp_path: Path) -> None:
    series = load(tmp_path, GOOD)
    assert (series.name, series.channels, series.targets, series.frequency) == ("own.csv", ("a", "b"), None, "D")
    np.testing.assert_array_equal(series.raw_TC, [[1, 4], [2, 5], [3, 6]])
    assert series.times[0] == np.datetime64("2020-01-01")
    assert series.season == 7
    assert len(series.sha256) == 64


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace(",", ";").encode(),
        GOOD.replace(",", "\t").encode(),
        b'"date","a","b"\n"2020-01-01","1","4"\n"2020-01-02","2","5"\n"2020-01-03","3","6"\n',
        b"date; a; b\n2020-01-01;1,0;4\n2020-01-02;2,0;5\n2020-01-03;3,0;6\n",
        b"Timestamp,a,b\n1577836800,1,4\n1577923200,2,5\n1578009600,3,6\n",
        b"timestamp,a,b\n1577836800000,1,4\n1577923200000,2,5\n1578009600000,3,6\n",
        b"date,a,b\n2020-01-01T01:00:00+01:00,1,4\n2020-01-02T00:00:00Z,2,5\n2020-01-03T02:00:00+02:00,3,6\n",
        b"a,when,b\n1,2020-01-01,4\n2,2020-01-02,5\n3,2020-01-03,6\n",
    ],
    ids=[
        "byte order mark", "windows line ends", "semicolons", "tabs", "quotes", "decimal commas",
        "seconds", "milliseconds", "zones", "time in the middle",
    ],
)  # fmt: skip
def test_common_forms_of_csv_are_read_alike(tmp_path: Path, content: bytes) -> None:
    series, plain = load(tmp_path, content), load(tmp_path, GOOD)
    assert series.channels == plain.channels
    np.testing.assert_array_equal(series.raw_TC, plain.raw_TC)
    np.testing.assert_array_equal(series.times, plain.times)


def test_order_of_day_and_month_is_the_one_that_gives_regular_times(tmp_path: Path) -> None:
    times = pd.date_range("2020-02-01 20:00", periods=12, freq="h")
    for order in ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"):
        series = load(tmp_path, "date,a\n" + "".join(f"{time},1\n" for time in times.strftime(order)))
        np.testing.assert_array_equal(series.times, times.to_numpy())


def test_a_real_file_is_read_as_it_stands(hourly_csv: Path) -> None:
    series = load_series(DataConfig(name=str(hourly_csv)))
    assert (series.channels[0], series.channels[-1], series.frequency, series.season) == ("HUFL", "OT", "h", 24)
    plain = [line.split(",") for line in hourly_csv.read_text().splitlines()[1:]]
    np.testing.assert_array_equal(series.raw_TC, [[float(cell) for cell in cells[1:]] for cells in plain])
    np.testing.assert_array_equal(series.times, np.array([cells[0] for cells in plain], dtype="datetime64[ns]"))


def test_time_in_a_zone_becomes_utc(tmp_path: Path) -> None:
    assert load(tmp_path, hourly(5, zone="+02:00")).times[0] == np.datetime64("2019-12-31T22:00")


def test_parquet_is_read_by_content(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"ds": pd.date_range("2020-01-01", periods=4, freq="15min"), "x": [1.0, 2, 3, 4], "on": [True] * 4}
    )
    path = tmp_path / "own.anything"
    pq.write_table(pa.Table.from_pandas(frame), path)
    series = load_series(DataConfig(name=str(path)))
    assert (series.channels, series.frequency) == (("x", "on"), "15min")
    np.testing.assert_array_equal(series.raw_TC[:, 1], 1)


def test_targets_and_covariates(tmp_path: Path) -> None:
    content = "date,a,sun,b\n2020-01-01,1,7,4\n2020-01-02,2,8,5\n2020-01-03,3,9,6\n"
    series = load(tmp_path, content, targets=("b",), covariates=("sun",))
    assert (series.channels, series.targets, series.covariates) == (("a", "b"), (1,), ("sun",))
    np.testing.assert_array_equal(series.raw_covariates_TK, [[7], [8], [9]])
    assert series.select(("b",), ("b",)).raw_TC.tolist() == [[4], [5], [6]]


def test_time_column_can_be_named(tmp_path: Path) -> None:
    content = GOOD.replace("date,a", "made,date")
    assert load(tmp_path, content, time_column="made").channels == ("date", "b")


def test_constant_channel_is_allowed(tmp_path: Path) -> None:
    assert load(tmp_path, "date,a\n2020-01-01,1\n2020-01-02,1\n2020-01-03,1\n").channels == ("a",)


def rows(*values: str) -> str:
    return "date,a,b\n" + "".join(f"2020-01-{day:02},{value}\n" for day, value in enumerate(values, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a,b\n1,2\n3,4\n",
            "has no time column: expected one called 'date' or 'time', or one of dates; found 'a', 'b'",
        ),
        ("plain prose\nwithout a single number\n", "has no time column: expected one called 'date' or 'time'"),
        (rows("1,2", "x1,3", "2,2"), "column 'a', row 2: expected a number, found 'x1'"),
        (
            rows("1,2", ",3", "2,2", "NaN,1"),
            "column 'a': missing values (NaN): 2, the first in row 2; set data.fill to ffill",
        ),
        (rows("1,2", "1,3", "2,-inf"), "column 'b', row 3: expected a finite number, found inf"),
        ("date,a,a\n2020-01-01,1,2\n", "column 'a' stands twice"),
        (
            "date,,a\n2020-01-01,1,2\n2020-01-02,1,2\n",
            "a column has no name; name it, or leave it out with data.drop=['']",
        ),
        ("date\n2020-01-01\n2020-01-02\n2020-01-03\n", "has no column of numbers beside the times"),
        ("date,a\n2020-01-01,1\nsoon,2\n", "column 'date', row 2: expected a date or time, found 'soon'"),
        ("date,a\n2020-01-01,1\n,2\n", "column 'date', row 2: expected a date or time, found nothing"),
        ("time,a\n10:00,1\n11:00,2\n", "column 'time', row 1: expected a date or time, found"),
        ("date,a\n5,1\n6,2\n", "column 'date', row 1: expected a date or time, found '5'"),
        ("date,a\n2020-01-01,1\n2020-01-01,2\n2020-01-02,3\n", "row 2 (2020-01-01T00:00:00) repeats row 1"),
        ("date,a\n2020-01-02,1\n2020-01-01,2\n2020-01-03,3\n", "row 2 (2020-01-01T00:00:00) goes back behind row 1"),
        ("date,a\n2020-01-01,1\n2020-01-02,2\n", "expected at least 3 rows, found 2"),
        (
            "date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03,2\n2020-01-05,3\n",
            "missing time steps: 1, the first after row 3",
        ),
        (
            "date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03,2\n2029-01-05,3\n",
            "that is more than there are: resample the file",
        ),
        (
            "time,a\n2020-01-01 00:00,1\n2020-01-01 01:00,2\n2020-01-01 02:00,3\n2020-01-01 02:20,4\n",
            "times are irregular: row 4 (2020-01-01T02:20:00) is no whole number of steps",
        ),
        ("", "is empty, expected a CSV, Parquet or Feather file"),
        (" \n\n", "is empty, expected a CSV, Parquet or Feather file"),
        ("date,a\n", "has no rows"),
        ("date,a\n2020-01-01,1\n2020-01-02\n", "row 2 has 1 cells, expected 2 as in the header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither CSV nor Parquet: it holds binary data"),
        ("date,\xb5\n2020-01-01,1\n".encode("latin-1"), "found byte 0xb5 at position 5; save it as UTF-8"),
        (b"PAR1 and no more", "not a whole Parquet file"),
    ],
)
def test_bad_content_is_one_clear_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        load(tmp_path, content)
    assert "own.csv" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": ("c",)}, "data.targets: no column 'c'; known: a, b"),
        ({"targets": ()}, "data.targets: expected at least one channel"),
        ({"targets": ("a", "a")}, "data.targets: expected each column once, found a, a"),
        ({"covariates": ("bb",)}, "data.covariates: no column 'bb'; did you mean 'b'?"),
        ({"covariates": ("a", "b")}, "data.covariates: expected to leave at least one channel"),
        ({"covariates": ("a",), "targets": ("a",)}, "data.targets: no column 'a'"),
        ({"time_column": "dat"}, "time column 'dat' is missing; did you mean 'date'?"),
    ],
)
def test_bad_names_are_one_clear_line(tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(tmp_path, GOOD, **config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ETTh3", "unknown data set 'ETTh3' and no such file; did you mean"),
        ("absent.csv", "absent.csv: no such file"),
        ("folder/absent", "folder/absent: no such file"),
        (".", ".: is a directory, expected a CSV, Parquet or Feather file"),
    ],
)
def test_nothing_there_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_series(DataConfig(name=name))


def test_a_file_that_is_nowhere_names_the_places_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    with pytest.raises(UserError) as refused:
        load_series(DataConfig(name="absent.csv"))
    assert str(refused.value) == f"absent.csv: no such file in the current folder or {tmp_path}"
    with pytest.raises(UserError) as refused:
        find_beside("a/absent.csv", Path("recipes"))
    assert str(refused.value) == (
        f"a/absent.csv: no such file in a, recipes/a, recipes, the current folder or {tmp_path}"
    )
    (tmp_path / "absent.csv").write_text(GOOD)
    assert find_beside("a/absent.csv", Path("recipes")) == "absent.csv", "no folder of this machine"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fill": "ffill"}, "data.fill: synthetic-load is used as published"),
        ({"time_column": "hour"}, "data.time_column: expected 'date' for synthetic-load, found 'hour'"),
    ],
)
def test_catalogue_sets_are_used_as_published(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_series(DataConfig.model_validate({"name": "synthetic-load", **config}))


def test_unfolding_of_a_parquet_file_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecast.data.files.MAX_CELLS", 100)
    pq.write_table(pa.table({"date": [0] * 60, "x": [1.0] * 60}), tmp_path / "bomb.parquet")
    with pytest.raises(UserError, match=r"bomb\.parquet: has more than 100 values"):
        load_series(DataConfig(name=str(tmp_path / "bomb.parquet")))


def test_own_split_overrides_the_published_one() -> None:
    series = load_series(DataConfig(name="synthetic-load", split=(0.5, 0.25, 0.25)))
    assert tuple(series.split.lengths(1000, "h")) == (500, 250, 250)


@pytest.mark.parametrize(
    "last",
    [
        pa.array([1, 2, 2**63 + 10**9], pa.uint64()),
        pa.array([1, 2, 9 * 10**10], pa.int64()),
        pa.array(["2200-01-01", "2200-01-02", "2300-01-03"]),
    ],
    ids=["nanoseconds", "seconds", "text"],
)
def test_time_past_the_last_there_is_is_one_clear_line(tmp_path: Path, last: pa.Array) -> None:
    pq.write_table(pa.table({"time": last, "x": [1.0, 2.0, 3.0]}), tmp_path / "own.parquet")
    with pytest.raises(UserError, match="column 'time', row 3: expected a date or time, found") as raised:
        load_series(DataConfig(name=str(tmp_path / "own.parquet")))
    assert "\n" not in str(raised.value)


def test_times_of_late_years_are_read_from_text(tmp_path: Path) -> None:
    times = pd.date_range("2200-01-31", "2261-12-31", freq="ME", unit="s").strftime("%Y-%m-%d").tolist()
    late = "".join(f"{time},{row}\n" for row, time in enumerate(times))
    series = load(tmp_path, "date,x\n" + late)
    assert (series.frequency, series.times[-1]) == ("ME", np.datetime64("2261-12-31"))


def test_parts_may_begin_on_dates(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-01", periods=400, freq="h")
    for zone, train in (("", 240), ("+02:00", 240)):
        path = tmp_path / "own.csv"
        pd.DataFrame({"date": times.strftime(f"%Y-%m-%d %H:%M:%S{zone}"), "v": range(400)}).to_csv(path, index=False)
        data = load_recipe(settings=[f"data.name={path}", "data.split=[2024-01-11, 2024-01-14T12:00]"]).data
        assert data.split == ("2024-01-11T00:00:00", "2024-01-14T12:00:00")
        series = load_series(data)
        assert tuple(series.split.lengths(400, "h")) == (train, 84, 76)
        prepared = prepare(series, data, lookback=24, horizon=6, label_len=12)
        assert len(prepared.test) == 76 - 6 + 1
        assert prepared.scaler.mean[0] == pytest.approx(np.arange(train).mean())
    late = data.model_copy(update={"split": ("2024-01-11", "2025-01-01")})
    with pytest.raises(UserError, match=r"data\.split: expected rows before, between and after 2024-01-11 and 2025"):
        load_series(late)


@pytest.mark.parametrize(
    "split",
    ["[2024-01-11, 2024-01-01]", "[2024-01-11]", "[0.5, 0.4]", "x", "[.nan, .1, .2]", "[0.5, 0.3, 0.3]", "[a,b]"],
)
def test_other_splits_are_one_clear_line(split: str) -> None:
    with pytest.raises(UserError, match=r"data\.split: expected three positive shares that add up to 1, or the two"):
        load_recipe(settings=[f"data.split={split}"])

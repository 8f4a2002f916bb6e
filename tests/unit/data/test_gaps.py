"""Missing times and values: refused, carried on or bridged, and what `data check` says of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.histories import history_of

from prunecast.data.check import check_data
from prunecast.data.files import read_table
from prunecast.data.gaps import longest_run
from prunecast.data.series import Series, load_series
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

GAPPY = """time,a,b
2020-01-01 00:00,1,10
2020-01-01 01:00,,20
2020-01-01 02:00,3,30
2020-01-01 04:00,5,60
2020-01-01 05:00,6,
"""


@pytest.fixture
def gappy(tmp_path: Path) -> Path:
    path = tmp_path / "gappy.csv"
    path.write_text(GAPPY)
    return path


def test_ffill_carries_the_last_value_on_and_puts_missing_steps_in(gappy: Path) -> None:
    series = load_series(DataConfig(name=str(gappy), fill="ffill"))
    assert series.raw_TC.tolist() == [[1, 10], [1, 20], [3, 30], [3, 30], [5, 60], [6, 60]]
    np.testing.assert_array_equal(series.times, pd.date_range("2020-01-01", periods=6, freq="h").to_numpy())
    assert (series.frequency, series.breaks) == ("h", ())


def test_interpolate_draws_a_straight_line(gappy: Path) -> None:
    gappy.write_text(GAPPY.replace("6,\n", "6,70\n"))
    series = load_series(DataConfig(name=str(gappy), fill="interpolate:1"))
    assert series.raw_TC.tolist() == [[1, 10], [2, 20], [3, 30], [4, 45], [5, 60], [6, 70]]


@pytest.mark.parametrize(
    ("content", "fill", "message"),
    [
        (GAPPY, "refuse", "missing time steps: 1, the first after row 3 (2020-01-01T02:00:00)"),
        (
            GAPPY,
            "interpolate:1",
            "column 'b': missing values (NaN): 1, the first in row 6 which interpolate:1 cannot fill",
        ),
        (GAPPY.replace("3,30", ",30"), "interpolate:2", "column 'a': 3 values in a row are missing from row 2"),
        (
            GAPPY.replace("1,10", ",10"),
            "ffill",
            "column 'a': missing values (NaN): 2, the first in row 1 which ffill",
        ),
    ],
)
def test_what_cannot_be_filled_is_one_clear_line(gappy: Path, content: str, fill: str, message: str) -> None:
    gappy.write_text(content)
    with pytest.raises(UserError, match=re.escape(f"gappy.csv: {message}")):
        load_series(DataConfig(name=str(gappy), fill=fill))


@settings(deadline=None)  # a busy machine is not a wrong result
@given(st.lists(st.booleans(), max_size=40))
def test_longest_run_is_the_longest(flags: list[bool]) -> None:
    text = "".join("x" if flag else "." for flag in flags)
    length, start = longest_run(np.array(flags, dtype=bool))
    assert length == max(map(len, text.split(".")))
    assert text[start : start + length] == "x" * length


def test_check_lists_what_is_there_and_what_is_wrong(gappy: Path) -> None:
    check = check_data(gappy)
    assert (check.rows, check.start, check.end, check.frequency) == (
        5,
        "2020-01-01T00:00:00",
        "2020-01-01T05:00:00",
        "h",
    )
    assert [(channel.name, channel.min, channel.max, channel.missing) for channel in check.channels] == [
        ("a", 1, 6, 1),
        ("b", 10, 60, 1),
    ]
    assert [(item.after, item.before) for item in check.breaks] == [("2020-01-01T02:00:00", "2020-01-01T04:00:00")]
    assert [problem.split(", ")[0] for problem in check.problems] == [
        "missing time steps: 1",
        "column 'a': missing values (NaN): 1",
        "column 'b': missing values (NaN): 1",
    ]
    assert check_data(gappy, fill="ffill").problems == ()


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ("a,b\n1,2\n", ["has no time column"]),
        (
            "date,a,b\n2020-01-01,x,inf\n2020-01-01,2,3\n",
            ["'a', row 1", "'b', row 1", "repeats row 1", "at least 3 rows"],
        ),
        ("date,a,a\n2020-01-01,1,2\n", ["stands twice"]),
        ("date,a\nx,1\ny,2\n", ["'date', row 1"]),
        ("date,a\n2020-01-03,1\n2020-01-02,\n2020-01-01,2\n", ["goes back behind", "column 'a': missing values"]),
    ],
)
def test_check_never_refuses_a_file_that_can_be_read(tmp_path: Path, content: str, problems: list[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    check = check_data(path)
    assert len(check.problems) == len(problems)
    assert all(expected in found for expected, found in zip(problems, check.problems, strict=True))
    json.dumps(check.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("fill", ["mean", "interpolate", "interpolate:0", "ffill "])
def test_unknown_fill_is_refused(gappy: Path, fill: str) -> None:
    with pytest.raises(UserError, match="fill: expected refuse, ffill or interpolate:N, found"):
        check_data(gappy, fill=fill)
    with pytest.raises(UserError, match="fill: expected refuse, ffill or interpolate:N, found"):
        history_of(read_table(gappy), ("a",), fill=fill)


def test_check_refuses_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\0\1\2")
    with pytest.raises(UserError, match="binary"):
        check_data(tmp_path / "x.csv")


def history(path: Path, channels: tuple[str, ...], covariates: tuple[str, ...] = ()) -> Series:
    return history_of(read_table(path), channels, covariates)


def test_history_takes_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("site,b,date,a\nnorth,1,2020-01-01,4\nnorth,2,2020-01-02,5\nnorth,3,2020-01-03,6\n")
    series = history(path, ("a", "b"))
    assert series.raw_TC.tolist() == [[4, 1], [5, 2], [6, 3]]
    assert series.raw_covariates_TK.shape == (3, 0)
    with pytest.raises(UserError, match=r"new\.csv: column 'c' is missing"):
        history(path, ("a", "c"))


def test_history_goes_on_into_the_future_of_its_covariates(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("date,a,sun\n2020-01-01,1,7\n2020-01-02,2,8\n2020-01-03,3,9\n2020-01-04,,5\n2020-01-05,,6\n")
    series = history(path, ("a",), ("sun",))
    assert series.raw_TC.tolist() == [[1], [2], [3]]
    assert (len(series.times), series.raw_covariates_TK.tolist()) == (3, [[7], [8], [9], [5], [6]])
    assert len(history(path, ("a",)).times) == 3, "rows in which nothing is known that the model takes are no history"


@pytest.mark.parametrize("fill", ["refuse", "ffill"])
def test_a_file_without_any_value_is_one_clear_line(tmp_path: Path, fill: str) -> None:
    (tmp_path / "empty.csv").write_text("date,a\n" + "".join(f"2020-01-0{day},\n" for day in range(1, 7)))
    with pytest.raises(UserError, match=r"column 'a': missing values \(NaN\): 6"):
        load_series(DataConfig(name=str(tmp_path / "empty.csv"), fill=fill))
    with pytest.raises(UserError, match=r"column 'a': missing values \(NaN\): 6"):
        history(tmp_path / "empty.csv", ("a",))

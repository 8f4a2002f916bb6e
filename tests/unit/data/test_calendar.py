"""Calendar features against values worked out by hand, and the step of a series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from prunecast.data.calendar import FEATURES, calendar_features, frequency_of, future_times, season_of

# Wednesday 30 December 2020, 13:45:30: day 365 of 366, ISO week 53
MOMENT = np.array(["2020-12-30T13:45:30"], dtype="datetime64[ns]")
BY_HAND = {
    "second": 30 / 59 - 0.5,
    "minute": 45 / 59 - 0.5,
    "hour": 13 / 23 - 0.5,
    "weekday": 2 / 6 - 0.5,
    "day": 29 / 30 - 0.5,
    "yearday": 364 / 365 - 0.5,
    "week": 52 / 52 - 0.5,
    "month": 11 / 11 - 0.5,
}


@pytest.mark.parametrize(
    ("freq", "names"),
    [
        ("s", "second minute hour weekday day yearday"),
        ("t", "minute hour weekday day yearday"),
        ("h", "hour weekday day yearday"),
        ("d", "weekday day yearday"),
        ("w", "day week"),
        ("m", "month"),
    ],
)
def test_each_set_has_the_published_features_in_order(freq: str, names: str) -> None:
    assert FEATURES[freq] == tuple(names.split())
    features = calendar_features(MOMENT, freq)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[0], [BY_HAND[name] for name in names.split()], atol=1e-7)


def test_features_stay_within_half_of_zero() -> None:
    times = pd.date_range("2016-01-01", "2020-12-31 23:00", freq="7h").to_numpy()
    for freq in FEATURES:
        features = calendar_features(times, freq)
        assert features.min() >= -0.5
        assert features.max() <= 0.5


@pytest.mark.parametrize(
    ("frequency", "start"),
    [
        ("h", "2020-02-28 22:00"),
        ("15min", "2020-01-01"),
        ("D", "2020-02-27"),
        ("7D", "2020-01-01"),
        ("MS", "2020-01-01"),
    ],
)
def test_future_times_continue_the_step(frequency: str, start: str) -> None:
    times = pd.date_range(start, periods=30, freq=frequency).to_numpy()
    assert frequency_of(times[:20]) == frequency
    np.testing.assert_array_equal(future_times(times[:20], 10), times[20:])


def test_irregular_times_have_no_frequency_but_continue_their_usual_step() -> None:
    times = pd.to_datetime(["2020-01-01 00:00", "2020-01-01 00:10", "2020-01-01 00:40", "2020-01-01 00:50"]).to_numpy()
    assert frequency_of(times) is None
    assert future_times(times, 1)[0] == np.datetime64("2020-01-01T01:00")


def test_one_time_has_no_frequency() -> None:
    assert frequency_of(MOMENT) is None


@pytest.mark.parametrize(
    ("frequency", "season"),
    [("h", 24), ("15min", 96), ("10min", 144), ("D", 7), ("B", 5), ("7D", 52), ("MS", 12), ("QS", 4), ("3D", 1)],
)
def test_season_follows_from_the_step(frequency: str, season: int) -> None:
    assert season_of(frequency) == season


@pytest.mark.parametrize("frequency", ["D", "7D", "MS", "ME"])
def test_one_gap_in_many_times_leaves_no_frequency(frequency: str) -> None:
    times = pd.date_range("2016-01-31", periods=401, freq=frequency).to_numpy().astype("datetime64[ns]")
    assert frequency_of(times) == frequency
    assert frequency_of(np.delete(times, 200)) is None


@pytest.mark.parametrize(("frequency", "last"), [("B", "2262-04-10"), ("MS", "2262-04-01"), ("YE", "2261-12-31")])
def test_frequency_is_found_up_to_the_last_time_there_is(frequency: str, last: str) -> None:
    times = pd.date_range("2200-01-01", last, freq=frequency, unit="us").to_numpy().astype("datetime64[ns]")
    assert times[-1] == np.datetime64(last)
    assert frequency_of(times) == frequency
    assert frequency_of(np.delete(times, 20)) is None

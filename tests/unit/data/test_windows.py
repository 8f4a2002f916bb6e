"""Windows against a loop that anyone can read, borders against the published ones, and the scaler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecast.data.calendar import calendar_features, future_times
from prunecast.data.scaler import Scaler
from prunecast.data.series import Series, load_series
from prunecast.data.splits import SplitRule
from prunecast.data.windows import DrawnBatches, Prepared, Windows, WindowShape, prepare, window_to_forecast
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

LOOKBACK, HORIZON, LABEL = 12, 5, 4
ROWS = 200


def small_series(rows: int = ROWS, channels: int = 3) -> Series:
    random = np.random.default_rng(0)
    values = random.normal(5, 3, (rows, channels + 1)).cumsum(axis=0)
    return Series(
        name="small",
        times=np.datetime64("2020-02-27", "ns") + np.arange(rows) * np.timedelta64(1, "h"),
        raw_TC=values[:, :channels],
        channels=tuple("abcdefgh"[:channels]),
        raw_covariates_TK=values[:, channels:],
        covariates=("sun",),
        targets=None,
        frequency="h",
        season=24,
        split=SplitRule(),
        breaks=(),
        sha256="0" * 64,
    )


def prepared(series: Series, **changes: int) -> Prepared:
    shape = {"lookback": LOOKBACK, "horizon": HORIZON, "label_len": LABEL} | changes
    return prepare(series, DataConfig(covariates=("sun",)), **shape)


PREPARED = prepared(small_series())


def test_windows_are_those_of_a_plain_loop() -> None:
    series = small_series()
    train, validation = 140, 20
    mean, std = series.raw_TC[:train].mean(axis=0), series.raw_TC[:train].std(axis=0)
    values = (series.raw_TC - mean) / std
    covariates = (series.raw_covariates_TK - series.raw_covariates_TK[:train].mean()) / series.raw_covariates_TK[
        :train
    ].std()
    marks = np.hstack([calendar_features(series.times, "h"), covariates])
    starts = {
        "train": range(train - LOOKBACK - HORIZON + 1),
        "validation": range(train - LOOKBACK, train + validation - LOOKBACK - HORIZON + 1),
        "test": range(train + validation - LOOKBACK, ROWS - LOOKBACK - HORIZON + 1),
    }
    for name, firsts in starts.items():
        windows = getattr(PREPARED, name)
        assert len(windows) == len(firsts) == PREPARED.facts.windows[name]
        whole = windows.batch(torch.arange(len(windows)))
        for index, first in enumerate(firsts):
            now = first + LOOKBACK
            np.testing.assert_allclose(whole.x_BLC[index], values[first:now], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(whole.y_BHC[index], values[now : now + HORIZON], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(whole.x_mark_BLF[index], marks[first:now], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(
                whole.y_mark_BTF[index], marks[now - LABEL : now + HORIZON], rtol=1e-6, atol=1e-6
            )
            np.testing.assert_array_equal(windows.times_of(index), series.times[first : now + HORIZON])


@settings(deadline=None)  # a busy machine is not a wrong result
@given(st.lists(st.integers(0, len(PREPARED.train) - 1), min_size=1, max_size=8))
def test_a_batch_is_its_windows_one_by_one(indices: list[int]) -> None:
    batch = PREPARED.train.batch(torch.tensor(indices))
    for row, index in enumerate(indices):
        for together, alone in zip(batch, PREPARED.train.batch(torch.tensor([index])), strict=True):
            torch.testing.assert_close(together[row], alone[0], rtol=0, atol=0)


@settings(deadline=None)  # a busy machine is not a wrong result
@given(size=st.integers(1, 50), seed=st.none() | st.integers(0, 9))
def test_batches_give_every_window_once(size: int, seed: int | None) -> None:
    windows = PREPARED.test
    batches = list(windows.batches(size, shuffle_seed=seed))
    lengths = [len(batch.x_BLC) for batch in batches]
    assert sum(lengths) == len(windows)
    assert all(length == size for length in lengths[:-1])
    seen = torch.cat([batch.x_BLC[:, 0, 0] for batch in batches])
    whole = windows.x_TC[: len(windows), 0]
    torch.testing.assert_close(seen.sort().values, whole.sort().values)
    if seed is None:
        torch.testing.assert_close(seen, whole)


def test_order_depends_on_the_seed_alone() -> None:
    first, again, other = (next(PREPARED.train.batches(16, shuffle_seed=seed)).x_BLC for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_targets_select_the_truth_only() -> None:
    batch = prepared(replace(small_series(), targets=(2, 0))).test.batch(torch.arange(3))
    whole = PREPARED.test.batch(torch.arange(3))
    torch.testing.assert_close(batch.y_BHC, whole.y_BHC[..., [2, 0]])
    torch.testing.assert_close(batch.x_BLC, whole.x_BLC)


@pytest.mark.parametrize(
    ("name", "lookback", "horizon", "windows"),
    [
        ("ETTh1", 96, 96, (8449, 2785, 2785)),
        ("ETTh1", 96, 720, (7825, 2161, 2161)),
        ("Weather", 96, 96, (36696, 5175, 10444)),
        ("Exchange", 96, 720, (4496, 41, 798)),
        ("ILI", 36, 24, (617, 74, 170)),
    ],
)
@pytest.mark.usefixtures("data_dir")
def test_counts_are_the_published_ones(name: str, lookback: int, horizon: int, windows: tuple[int, ...]) -> None:
    config = DataConfig(name=name)
    facts = prepare(load_series(config), config, lookback=lookback, horizon=horizon, label_len=lookback // 2).facts
    assert tuple(facts.windows.values()) == windows
    assert facts.name == name


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (20, {}, "the train part has 14 rows with its look-back, expected at least 17 (20 rows in all)"),
        (40, {}, "the validation part has 16 rows with its look-back, expected at least 17 (40 rows in all)"),
        (ROWS, {"lookback": 150}, "look-back 150 and horizon 5: the train part has 140 rows"),
        (ROWS, {"horizon": 21}, "the validation part has 32 rows with its look-back, expected at least 33"),
    ],
)
def test_too_short_is_one_clear_line(rows: int, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match="small: too short for look-back") as raised:
        prepared(small_series(rows), **changes)
    assert message in str(raised.value)
    assert "set a smaller --lookback or --horizon" in str(raised.value)


def test_months_need_enough_rows() -> None:
    with pytest.raises(UserError, match="too short"):
        prepared(replace(small_series(9000), split=SplitRule(months=(12, 4, 4))))


def test_scaler_is_undone_by_its_inverse() -> None:
    values = small_series().raw_TC
    scaler = Scaler.fit(values)
    standardised = scaler.transform(values)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(standardised.std(axis=0), 1)
    np.testing.assert_allclose(scaler.inverse(standardised), values)


def test_scaler_of_an_artefact_has_float32_numbers_of_the_chosen_channels() -> None:
    scaler = Scaler.of((0.1, 2.0, 1e9 + 1), (0.3, 1.0, 7.0))
    rounded = scaler.select((2, 0)).rounded()
    assert rounded.mean.tolist() == [1e9, float(np.float32(0.1))]
    assert rounded.std.tolist() == [7.0, float(np.float32(0.3))]
    assert rounded.mean.dtype == np.float64
    assert scaler.select(None) is scaler


def test_constant_channel_becomes_zero_and_comes_back() -> None:
    values = np.full((7, 1), 0.1)
    scaler = Scaler.fit(values)
    assert scaler.std[0] == 1
    assert (scaler.transform(values) == 0).all()
    assert (scaler.inverse(np.zeros((2, 1))) == 0.1).all()


def test_scaler_of_a_model_replaces_the_fitted_one() -> None:
    mine = Scaler.of((1.0, 2.0, 3.0), (2.0, 2.0, 2.0)), Scaler.of((0.0,), (1.0,))
    series = small_series()
    windows = prepare(series, DataConfig(), lookback=12, horizon=5, label_len=4, scalers=mine).train
    np.testing.assert_allclose(windows.x_TC[0], (series.raw_TC[0] - [1, 2, 3]) / 2, rtol=1e-6)


def to_forecast(series: Series, known: int) -> Windows:
    """The window after the first rows of a series, whose covariates stand in all of it."""
    past = replace(series, times=series.times[:known], raw_TC=series.raw_TC[:known])
    shape = WindowShape(LOOKBACK, HORIZON, LABEL)
    return window_to_forecast(past, shape, "h", PREPARED.scaler, PREPARED.covariate_scaler)


def test_forecast_continues_where_the_windows_end() -> None:
    series = small_series()
    last = PREPARED.test.batch(torch.tensor([len(PREPARED.test) - 1]))
    window = to_forecast(series, ROWS - HORIZON)
    assert len(window) == 1
    batch = window.batch(torch.tensor([0]))
    torch.testing.assert_close(batch.x_BLC, last.x_BLC)
    torch.testing.assert_close(batch.x_mark_BLF, last.x_mark_BLF)
    torch.testing.assert_close(batch.y_mark_BTF, last.y_mark_BTF)
    assert batch.y_BHC.shape == last.y_BHC.shape
    assert batch.y_BHC.isnan().all(), "the truth is not known"
    np.testing.assert_array_equal(window.times, series.times[-LOOKBACK - HORIZON :])
    np.testing.assert_array_equal(window.times[LOOKBACK:], future_times(series.times[:-HORIZON], HORIZON))


@pytest.mark.parametrize(
    ("known", "ahead", "message"),
    [
        (LOOKBACK - 1, HORIZON, "expected at least 12 rows to forecast from, found 11"),
        (LOOKBACK, HORIZON - 1, "expected 5 rows after the last known one in which 'sun' stands .* found 4"),
    ],
)
def test_too_little_to_forecast_from_is_one_clear_line(known: int, ahead: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_forecast(small_series(known + ahead), known)


def test_drawn_batches_are_the_same_each_time_they_are_read() -> None:
    drawn = DrawnBatches(PREPARED.train, size=8, count=3, seed=5)
    first, again = ([batch.x_BLC for batch in drawn] for _ in range(2))
    assert [len(x_BLC) for x_BLC in first] == [8, 8, 8]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(next(iter(DrawnBatches(PREPARED.train, 8, 3, seed=6))).x_BLC, first[0])

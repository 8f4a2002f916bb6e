"""`synthetic-load`: the same everywhere, and worth forecasting."""

from __future__ import annotations

import numpy as np

from prunecast.data import catalog
from prunecast.data.calendar import calendar_features
from prunecast.data.synthetic import CHANNELS, generate, sha256_of

LOOKBACK, HORIZON = 96, 24


def test_content_never_changes() -> None:
    assert sha256_of(generate()) == "b8b0d5134b771d906d8dd9a9da779a49c35597683b4623d3c4c128c1304d1790"
    assert sha256_of(generate(2)) != sha256_of(generate())


def test_shape_is_that_of_the_catalogue() -> None:
    generated, entry = generate(), catalog.entry("synthetic-load")
    assert generated.shape == (entry.rows, entry.channels) == (13152, len(CHANNELS))
    assert generated.columns.tolist() == list(CHANNELS)
    assert (np.diff(generated.index) == np.timedelta64(1, "h")).all()
    assert generated.index[0].day_name() == "Monday"


def test_values_are_plausible() -> None:
    loads, temperature, solar = np.split(generate().to_numpy(), [4, 5], axis=1)
    assert loads.min() > 0
    assert -25 < temperature.min() < 0 < 25 < temperature.max() < 45
    assert solar.min() == 0
    night = generate().to_numpy().reshape(-1, 24, 6)[:, [0, 1, 2, 23], 5]
    assert (night == 0).all()


def test_workdays_and_sundays_differ() -> None:
    by_day = generate().to_numpy()[: 24 * 7 * 50].reshape(50, 7, 24, 6).mean(axis=(0, 2))
    office, plant = by_day[:, 0], by_day[:, 3]
    assert office[:5].min() > 1.3 * office[5:].max()
    assert plant[:5].min() > 1.5 * plant[6]


def test_a_linear_model_beats_both_naive_forecasts_clearly() -> None:
    generated = generate()
    values = generated.to_numpy()
    train, test = int(len(values) * 0.7), int(len(values) * 0.2)
    values = (values - values[:train].mean(axis=0)) / values[:train].std(axis=0)
    marks = calendar_features(generated.index.to_numpy(), "h")

    def cases(start: int, end: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        first = np.arange(start, end - LOOKBACK - HORIZON + 1, step)
        x = values[first[:, None] + np.arange(LOOKBACK)].reshape(len(first), -1)
        y = values[first[:, None] + LOOKBACK + np.arange(HORIZON)]
        return np.hstack([x, marks[first + LOOKBACK], np.ones((len(first), 1))]), y

    x, y = cases(0, train, 11)
    weights = np.linalg.solve(x.T @ x + 30 * np.eye(x.shape[1]), x.T @ y.reshape(len(y), -1))
    x, y = cases(len(values) - test - LOOKBACK, len(values), 11)
    linear = np.mean(((x @ weights).reshape(y.shape) - y) ** 2)
    history = x[:, : LOOKBACK * 6].reshape(-1, LOOKBACK, 6)
    last, day_before = (np.mean((naive - y) ** 2) for naive in (history[:, -1:], history[:, -HORIZON:]))
    assert linear < 0.5 * day_before < 0.5 * last

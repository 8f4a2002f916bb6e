"""The notebook's object: fit, predict, prune, export, save, load."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import prunecast
from prunecast.errors import UserError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    times = pd.date_range("2024-01-01", periods=600, freq="h", name="when")
    hours = pd.Series(range(600), dtype=float)
    return pd.DataFrame({"when": times, "load": (hours % 24 - 12).abs(), "sun": (hours % 24).clip(6, 18)})


def test_the_whole_way(table: pd.DataFrame, tmp_path: Path) -> None:
    settings = ("train.max_steps=5", "train.threads=1")
    model = prunecast.Forecaster("dlinear", horizon=12, lookback=24, settings=settings).fit(table)
    pruned = model.prune("magnitude", 0.5)
    assert pruned.numbers.pruning is not None
    assert pruned.numbers.nonzero == model.numbers.nonzero - pruned.numbers.pruning.realised
    forecast = pruned.predict(table)
    assert list(forecast.columns) == ["date", "load", "sun"]
    assert forecast["date"].iloc[0] == table["when"].iloc[-1] + pd.Timedelta("1h")
    assert pruned.export("onnxruntime", tmp_path / "p.onnx").bytes > 0
    pruned.save(tmp_path / "saved")
    loaded = prunecast.Forecaster.load(tmp_path / "saved")
    assert loaded.predict(table).equals(forecast)
    assert loaded.numbers == pruned.numbers
    module = prunecast.load(tmp_path / "saved")
    assert not module.training
    assert module(torch.zeros(2, 24, 2)).shape == (2, 12, 2)


def test_nothing_works_before_fit(table: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="call fit first"):
        prunecast.Forecaster().predict(table)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError):
        prunecast.nothing  # noqa: B018

"""The last-value forecast over our windows equals the published error of that forecast, in both scorings."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from prunecast.data.series import Series, load_series
from prunecast.data.windows import prepare
from prunecast.recipe import DataConfig

PAPER_BATCH = 32


@cache
def series_of(name: str) -> Series:
    return load_series(DataConfig(name=name))


def published_rows(reference_dir: Path) -> Iterator[dict[str, str]]:
    path = reference_dir.parent / "targets" / "repeat_baseline.csv"
    if not path.is_file():
        reason = f"no published errors at {path}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def last_value_errors(row: dict[str, str]) -> tuple[int, float, float]:
    """Returns windows, MSE and MAE of the last-value forecast on the test part."""
    config = DataConfig(name=row["dataset"])
    lookback, horizon = int(row["lookback"]), int(row["horizon"])
    windows = prepare(series_of(config.name), config, lookback=lookback, horizon=horizon, label_len=lookback // 2).test
    squared = absolute = 0.0
    count = 0
    for batch in windows.batches(PAPER_BATCH):
        if row["scoring"] == "paper" and len(batch.x_BLC) < PAPER_BATCH:
            break  # published code dropped the last batch
        error_BHC = (batch.x_BLC[:, -1:] - batch.y_BHC).double()
        squared += float(error_BHC.square().mean(dim=(1, 2)).sum())
        absolute += float(error_BHC.abs().mean(dim=(1, 2)).sum())
        count += len(error_BHC)
    return count, squared / count, absolute / count


@pytest.mark.usefixtures("data_dir")
def test_last_value_forecast_equals_every_published_row(reference_dir: Path) -> None:
    rows = list(published_rows(reference_dir))
    assert len(rows) == 40
    with torch.inference_mode():
        for row in rows:
            count, mse, mae = last_value_errors(row)
            assert (count, f"{mse:.4f}", f"{mae:.4f}") == (int(row["windows"]), row["mse"], row["mae"]), row


@pytest.mark.usefixtures("data_dir")
def test_last_value_forecast_of_pjm_is_what_it_was() -> None:
    """No table has it; a change would mean another split, scaler or window."""
    with torch.inference_mode():
        count, mse, mae = last_value_errors({"dataset": "PJM", "lookback": "96", "horizon": "96", "scoring": "full"})
    assert (count, f"{mse:.4f}", f"{mae:.4f}") == (11453, "1.2722", "0.8633")

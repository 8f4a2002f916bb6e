"""Emulated devices: what `make devices` builds and reads, and that it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import devices
from benchmarks.devices import DEVICES, WAYS, Asked, exported, missing, of_artefact, outcome_of

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.errors import UserError
from prunecast.recipe import DataConfig


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    series = load_series(DataConfig(name="synthetic-load"))
    return prepare(series, DataConfig(name="synthetic-load"), lookback=96, horizon=96, label_len=48)


def test_an_absent_emulator_is_named() -> None:
    device = replace(DEVICES["cortex-m7"], prefix="no-such-", emulator=("no-such-emulator",))
    assert missing(device) == "there is no no-such-gcc and no no-such-emulator"


def test_windows_become_c_with_all_their_digits() -> None:
    history = np.array([[[0.1], [7.0]]], np.float32)
    asked = Asked(history, [pd.Timestamp("2024-02-29 23:59:58")], np.zeros((1, 1, 1)), np.ones(1))
    assert "{0.100000001f,7.0f}" in asked.source()
    assert "{2024,2,29,23,59,58}" in asked.source()


@pytest.mark.parametrize(
    ("device", "way"),
    [
        *((device, "DLinear") for device in DEVICES),
        *(pytest.param(device, way, marks=pytest.mark.slow) for device in DEVICES for way in WAYS if way != "DLinear"),
    ],
)
def test_a_device_forecasts_what_pytorch_does(device: str, way: str, prepared: Prepared, tmp_path: Path) -> None:
    reason = missing(DEVICES[device])
    if reason is not None:
        pytest.skip(reason)
    found = outcome_of(device, way, *exported(way, prepared, tmp_path))
    assert found.max_deviation < 1e-4
    if DEVICES[device].regions:
        assert found.instructions
        assert found.memory_bytes
        assert found.memory_bytes < 256_000


def test_the_published_table_reaches_what_is_promised() -> None:
    table = pd.read_csv(Path("results/devices") / devices.TABLE).set_index(["model", "device"])
    m7, m55 = table.loc[("Transformer", "cortex-m7")], table.loc[("Transformer", "cortex-m55")]
    assert m7["instructions"] <= 70e6
    assert m7["memory_bytes"] <= 256_000
    assert m7["instructions"] >= 2 * m55["instructions"]
    assert table["max_deviation"].max() < 1e-4


def test_an_artefact_is_asked_for_what_it_forecasts_or_refused(prepared: Prepared, tmp_path: Path) -> None:
    path, asked = exported("DLinear", prepared, tmp_path)
    assert np.array_equal(of_artefact(path, prepared).expected, asked.expected)
    narrow = replace(prepared, series=replace(prepared.series, channels=("one",)))
    with pytest.raises(UserError, match="expected a forecaster of 96 steps of one to 96"):
        of_artefact(path, narrow)


def test_what_is_run_again_takes_the_place_of_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"

    def row(model: str, flash_bytes: int | None) -> dict[str, object]:
        counts = dict.fromkeys(("instructions", "code_bytes", "memory_bytes"), flash_bytes)
        return {"device": "aarch64", "model": model, "max_deviation": 1e-7, "flash_bytes": flash_bytes, **counts}

    devices.with_rows([row("own", 3), row("DLinear", 1), row("LSTM", None)], path).to_csv(path, index=False)
    found = devices.with_rows([row("DLinear", 2)], path)
    assert list(found["model"]) == ["LSTM", "DLinear", "own"]
    assert found["flash_bytes"].fillna(0).tolist() == [0, 2, 3]

"""The page on deploying: its example needs neither Prunecast nor torch, and its tables are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.cli.main import main
from prunecast.data.calendar import FEATURES, calendar_features

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
ROWS = [tuple(row.split(" | ")) for row in re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE)]


def test_the_example_forecasts_what_the_command_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hours, history, model = np.arange(700), tmp_path / "new.csv", str(tmp_path / "model")
    table = pd.DataFrame({"date": pd.date_range("2024-01-20", periods=700, freq="h")})
    table["unused"] = hours * 1.0
    table["load"], table["temperature"] = 40 + 5 * np.sin(hours / 4), 10 - 8 * np.cos(hours / 12)
    table.drop(columns="unused").to_csv(tmp_path / "load.csv", index=False)
    table[["date", "temperature", "unused", "load"]].to_csv(history, index=False)
    data = ("--data", str(tmp_path / "load.csv"))
    sizes = ("--horizon", "12", "--lookback", "48", "--set", "model.d_model=16", "--set", "model.d_ff=16")
    cut = ("--set", "train.max_steps=3", "--set", "train.threads=1")
    assert main(["train", "--model", "transformer", *data, *sizes, *cut, "--out", model]) == 0
    assert main(["export", model, *data, "--out", f"{model}.onnx"]) == 0
    assert main(["forecast", f"{model}.onnx", "--data", str(history), "--out", str(tmp_path / "f.csv")]) == 0
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    alone = "import sys\nsys.modules['torch'] = sys.modules['prunecast'] = None\n"
    (tmp_path / "example.py").write_text(f"{alone}{example}\nnp.save('forecast.npy', forecast)\n")
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True)
    expected = pd.read_csv(tmp_path / "f.csv")[["load", "temperature"]].to_numpy()
    np.testing.assert_allclose(np.load(tmp_path / "forecast.npy"), expected, rtol=1e-5, atol=1e-5)


def test_the_features_of_each_set_are_told() -> None:
    assert {name: tuple(features.split(", ")) for name, features in (row for row in ROWS if len(row) == 2)} == {
        "`freq`": ("features", "in this order"),
        **FEATURES,
    }


@pytest.mark.parametrize("name", ["second", "minute", "hour", "weekday", "day", "yearday", "week", "month"])
def test_the_formula_of_each_feature_is_told(name: str) -> None:
    formula = next(row[1] for row in ROWS if row[0] == name)
    index = pd.date_range("2023-12-30 21:58:57", periods=500, freq="107min7s")
    counted = {
        "weekday": index.day_of_week,
        "day": index.day - 1,
        "yearday": index.day_of_year - 1,
        "week": index.isocalendar().week.to_numpy(dtype=float) - 1,
        "month": index.month - 1,
    }.get(name)
    values = eval(formula, {name: getattr(index, name) if counted is None else counted})
    freq = next(freq for freq, features in FEATURES.items() if name in features)
    column = calendar_features(index.to_numpy(), freq)[:, FEATURES[freq].index(name)]
    np.testing.assert_allclose(np.asarray(values, dtype=float), column, atol=1e-6)

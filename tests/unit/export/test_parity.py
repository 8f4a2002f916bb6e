"""Parity: an honest export passes, a wrong one is caught."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.support.saved_models import saved_model, windows

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.export.base import Tolerance
from prunecast.export.parity import RAW_ROUNDING, check_parity
from prunecast.export.raw import raw_inputs
from prunecast.models.io import SavedModel, ScalerFacts, save_model
from prunecast.records import Parity
from prunecast.registry import RUNTIMES


@pytest.fixture
def saved() -> SavedModel:
    return saved_model(name="dlinear")


def test_an_export_is_within_its_tolerance(saved: SavedModel, tmp_path: Path) -> None:
    path = RUNTIMES.load("onnxruntime").export(saved, tmp_path / "model.onnx")
    parity = check_parity(saved, "onnxruntime", path, [windows(saved), windows(saved, 3)])
    assert parity.windows == 8
    assert 0 < parity.max_deviation < 1e-5 < parity.tolerance < 2e-4
    assert abs(parity.mse_change) < 1e-5


def test_eager_from_its_folder_is_nearly_equal(saved: SavedModel, tmp_path: Path) -> None:
    save_model(saved, tmp_path)
    assert check_parity(saved, "eager", tmp_path, [windows(saved)]).max_deviation < 1e-5


@pytest.mark.parametrize("wrong", [1e-2, math.nan])
def test_a_wrong_export_is_an_error(saved: SavedModel, tmp_path: Path, wrong: float) -> None:
    other = saved_model(name="dlinear")
    with torch.no_grad():
        other.model.get_parameter("trend.bias")[4] += wrong
    path = RUNTIMES.load("onnxruntime").export(other, tmp_path / "model.onnx")
    with pytest.raises(RuntimeError, match="training standard deviations"):
        check_parity(saved, "onnxruntime", path, [windows(saved)])


def test_deviation_and_change_are_those_computed_by_hand(saved: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, mean, std = windows(saved), np.array(saved.metadata.scaler.mean), np.array(saved.metadata.scaler.std)
    with torch.inference_mode():
        eager = saved.model(batch.x_BLC).double().numpy()
    shifted = eager + 5e-5 * np.array([0, 1, 0])  # one channel, in its own standard deviations

    class Shifted:
        tolerance = Tolerance(1e-4, "shifted")

        def load(self, path, threads):
            return lambda inputs: (shifted * std + mean).astype(np.float64)

    monkeypatch.setattr("prunecast.export.parity.RUNTIMES", type("Table", (), {"load": lambda _, name: Shifted()})())
    parity = check_parity(saved, "onnxruntime", Path(), [batch])
    truth = batch.y_BHC.double().numpy()
    change = np.square(shifted - truth).mean() / np.square(eager - truth).mean() - 1
    assert parity.max_deviation == pytest.approx(5e-5, rel=1e-6)
    assert parity.mse_change == pytest.approx(change, rel=1e-6)


def at_level(saved: SavedModel, level: float) -> SavedModel:
    facts = ScalerFacts(mean=(level, -level, 0.5), std=(1.0, 7.0, 2.0))
    return replace(saved, metadata=saved.metadata.model_copy(update={"scaler": facts}))


def far_from_training(saved: SavedModel, deviations: float) -> Batch:
    batch = windows(saved)
    return batch._replace(x_BLC=batch.x_BLC + deviations, y_BHC=batch.y_BHC + deviations)


def test_values_far_from_training_widen_the_tolerance_by_their_rounding(saved: SavedModel, tmp_path: Path) -> None:
    near = at_level(saved, 0.0)
    path = RUNTIMES.load("onnxruntime").export(near, tmp_path / "model.onnx")
    parity = check_parity(near, "onnxruntime", path, [far_from_training(near, 2e4)])
    tolerance = RUNTIMES.load("onnxruntime").tolerance
    assert parity.max_deviation > tolerance.value
    assert parity.tolerance == pytest.approx(tolerance.value + RAW_ROUNDING.value * 2e4, rel=1e-3)


def test_float32_may_move_a_forecast_by_a_tenth_of_a_deviation_and_no_further(
    saved: SavedModel, tmp_path: Path
) -> None:
    near = at_level(saved, 0.0)
    path = RUNTIMES.load("onnxruntime").export(near, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="too few digits for this data"):
        check_parity(near, "onnxruntime", path, [far_from_training(near, 1e7)])


@pytest.mark.parametrize("level", [0.0, 249.0, 1e4, 1e9])
@pytest.mark.parametrize("runtime", ["onnxruntime", "eager"])
def test_no_level_costs_anything(runtime: str, level: float, saved: SavedModel, tmp_path: Path) -> None:
    far = at_level(saved, level)
    if runtime == "eager":
        save_model(far, tmp_path)
    path = tmp_path if runtime == "eager" else RUNTIMES.load(runtime).export(far, tmp_path / "model.onnx")
    parity = check_parity(far, runtime, path, [windows(far)])
    assert parity.max_deviation < 1e-4
    assert parity.tolerance < 4e-4 if level == 249.0 else parity.tolerance < 1.2e-4


def test_whoever_feeds_raw_values_to_a_file_with_an_offset_is_told(saved: SavedModel, tmp_path: Path) -> None:
    path = RUNTIMES.load("onnxruntime").export(at_level(saved, 1e9), tmp_path / "model.onnx")
    graph = onnx.load(path).graph
    assert [entry.name for entry in (*graph.input, *graph.output)] == ["history_less_offset", "forecast_less_offset"]


def test_every_tolerance_has_its_cause() -> None:
    of_runtimes = [RUNTIMES.load(name).tolerance for name in RUNTIMES.names()]
    assert all(entry.value > 0 and entry.cause for entry in (*of_runtimes, RAW_ROUNDING))


def test_what_installs_a_runtime_is_an_extra_of_the_package() -> None:
    extras = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in RUNTIMES.names():
        runtime = RUNTIMES.load(name)
        assert runtime.name == name
        assert runtime.title
        assert runtime.extra is None or runtime.extra in extras


def test_naming_a_runtime_imports_neither_torch_nor_what_runs_models() -> None:
    code = (
        "import sys; from prunecast.registry import RUNTIMES; [RUNTIMES.load(name) for name in RUNTIMES.names()]; "
        "print(*{'torch', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'executorch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_not_a_number_is_never_within() -> None:
    assert not Parity(windows=1, max_deviation=math.nan, mse_change=0.0, tolerance=1.0).within


def test_raw_inputs_undo_the_scaler(saved: SavedModel) -> None:
    batch = windows(saved)
    inputs = raw_inputs(saved.metadata, batch)
    assert all(values.dtype == np.float32 for values in inputs.values())
    back = (inputs["history"] - np.array(saved.metadata.scaler.mean)) / np.array(saved.metadata.scaler.std)
    np.testing.assert_allclose(back, batch.x_BLC.numpy(), atol=1e-6)
    np.testing.assert_array_equal(inputs["y_mark"], batch.y_mark_BTF.numpy())

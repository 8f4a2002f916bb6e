"""Models are told by what is in them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.support.saved_models import saved_model, windows
from tests.support.series_files import write_table

from prunecast import api
from prunecast.errors import UserError
from prunecast.export.int8 import int8_bytes
from prunecast.export.onnx import onnx_bytes
from prunecast.export.raw import raw_inputs
from prunecast.forecaster import Forecaster
from prunecast.inference import open_artifact
from prunecast.registry import RUNTIMES

SMALL = ("train.max_steps=2", "train.threads=1")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "own.csv")


@pytest.fixture
def model(table: Path, tmp_path: Path) -> Path:
    api.train("dlinear", str(table), horizon=6, lookback=24, settings=SMALL, out=tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["model.foo", "model", "model.openvino.old"])
def test_an_artefact_is_told_by_its_content(name: str, model: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported" / name
    api.export(model, out=out, data=str(table))
    found, plain = (api.evaluate(path, data=str(table)) for path in (out, model))
    assert found.mse == pytest.approx(plain.mse, rel=1e-5)
    assert open_artifact(out).runtime == "onnxruntime"
    renamed = out.rename(out.with_name("model.openvino"))
    assert open_artifact(renamed).runtime == "openvino", "both run such a file, and the ending chooses"


def test_an_artefact_that_names_its_runtime_is_that_ones_under_any_name(tmp_path: Path) -> None:
    saved = saved_model(name="dlinear")
    calibration = [raw_inputs(saved.metadata, windows(saved, batch)) for batch in (2, 3)]
    path = tmp_path / "model.foo"
    for content in (onnx_bytes(saved, runtime="openvino"), int8_bytes(saved, calibration, runtime="openvino")):
        path.write_bytes(content)
        for name in ("other.foo", "model", "model.openvino", "model.onnx", "model.foo"):
            path = path.rename(tmp_path / name)
            assert open_artifact(path).runtime == "openvino", name
    with pytest.raises(UserError, match="is for the runtime 'openvino', and 'onnxruntime' was asked for"):
        open_artifact(path).shipped("onnxruntime", tmp_path / "new")
    flipped = bytearray(path.read_bytes())
    flipped[flipped.rindex(b"prunecast_runtime")] ^= 1  # the file names no runtime then
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="is damaged"):
        open_artifact(path)
    path.write_bytes(onnx_bytes(saved, runtime="unheard-of"))
    with pytest.raises(UserError, match="is for the runtime 'unheard-of'"):
        open_artifact(path)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_runs_what_was_exported_for_it_under_any_name(model: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.foo"
    api.export(model, runtime="openvino", out=out, data=str(table))
    assert open_artifact(out).runtime == "openvino"
    found, plain = (api.evaluate(path, data=str(table)) for path in (out, model))
    assert found.mse == pytest.approx(plain.mse, rel=1e-5)
    saved = open_artifact(out).saved
    assert RUNTIMES.load("onnxruntime").export(saved, tmp_path / "model.onnx").read_bytes() == onnx_bytes(saved)
    assert b"prunecast_runtime" not in onnx_bytes(saved), "any runtime's, as they were before"


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="is no model: expected a model folder or an exported artefact"):
        open_artifact(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="does not exist"):
        open_artifact(tmp_path / "absent")


def test_a_large_level_costs_no_digit_of_a_forecast(tmp_path: Path) -> None:
    """A level of 1e9 with a deviation of one: what follows is what follows at level zero, and the level added."""
    rows = np.arange(400)
    wave = np.sin(rows / 4) + np.cos(rows / 9)
    found = {}
    for level in (0.0, 1e9):
        times = pd.date_range("2024-01-01", periods=len(rows), freq="h")
        data, model = tmp_path / f"{level}.csv", tmp_path / f"{level}"
        pd.DataFrame({"date": times, "a": level + wave}).to_csv(data, index=False)
        api.train("dlinear", str(data), horizon=6, lookback=24, settings=SMALL, out=model)
        api.export(model, out=tmp_path / f"{level}.onnx", data=str(data))
        for source in (model, tmp_path / f"{level}.onnx"):
            out = tmp_path / f"{source.name}.forecast.csv"
            api.forecast(source, data, out=out)
            found[level, source.suffix == ".onnx"] = pd.read_csv(out)["a"].to_numpy()
        found[level, "mse"] = api.evaluate(tmp_path / f"{level}.onnx", data=str(data)).mse
    assert found[1e9, False] - 1e9 == pytest.approx(found[0.0, False], abs=1e-5)
    assert found[1e9, True] == pytest.approx(found[1e9, False], abs=1e-5, rel=0)
    assert np.ptp(found[1e9, True]) > 0.1, "no constant"
    assert found[1e9, "mse"] == pytest.approx(found[0.0, "mse"], rel=1e-4)


@pytest.mark.parametrize("kind", ["folder", "artefact"])
def test_a_forecast_that_is_no_number_is_not_written(kind: str, model: Path, table: Path, tmp_path: Path) -> None:
    source = model
    if kind == "artefact":
        source = tmp_path / "m.onnx"
        api.export(model, out=source, data=str(table))
    far = pd.read_csv(table)
    far["a"] = 3e38 * (-1.0) ** np.arange(len(far))
    far.to_csv(tmp_path / "far.csv", index=False)
    with pytest.raises(UserError, match=r"far\.csv: .*finite"):
        api.forecast(source, tmp_path / "far.csv", out=tmp_path / "f.csv")
    assert not (tmp_path / "f.csv").exists()


def test_a_flipped_bit_is_found_by_every_verb_that_loads(model: Path, table: Path, tmp_path: Path) -> None:
    api.export(model, out=tmp_path / "m.onnx", data=str(table))
    for path in (model / "model.safetensors", tmp_path / "m.onnx"):
        content = bytearray(path.read_bytes())
        content[-100 if path.suffix == ".safetensors" else content.index(b"mean_C") + 8] ^= 1
        path.write_bytes(content)
    out, given = tmp_path / "out", {"data": str(table)}
    for use in (
        lambda: api.prune(model, "magnitude", 0.5, out=out, **given),
        lambda: api.evaluate(model, **given),
        lambda: api.export(model, out=out, **given),
        lambda: api.measure([model], **given),
        lambda: api.forecast(model, table, out=out),
        lambda: Forecaster.load(model),
    ):
        with pytest.raises(UserError, match=r"damaged: model\.safetensors"):
            use()
    for use in (api.evaluate, lambda path, data: api.forecast(path, table, out=tmp_path / "f.csv")):
        with pytest.raises(UserError, match=r"m\.onnx (is damaged: |.*expected an ONNX file)"):
            use(tmp_path / "m.onnx", data=str(table))
    assert not out.exists()


def test_an_evaluation_has_errors_of_channels_and_steps(model: Path, table: Path, tmp_path: Path) -> None:
    api.export(model, out=tmp_path / "m.onnx", data=str(table))
    found, exported = (api.evaluate(path, data=str(table)) for path in (model, tmp_path / "m.onnx"))
    facts = found.to_json()
    assert [row["name"] for row in facts["channels"]] == ["a", "b"]
    assert [row["step"] for row in facts["steps"]] == [1, 2, 3, 4, 5, 6]
    assert np.mean([row["mse"] for row in facts["channels"]]) == pytest.approx(found.mse)
    assert np.mean([row["mae"] for row in facts["steps"]]) == pytest.approx(found.mae)
    std = open_artifact(model).metadata.scaler.std
    for row, deviation in zip(facts["channels"], std, strict=True):
        assert row["raw_rmse"] == pytest.approx(row["rmse"] * deviation)
        assert row["raw_mse"] == pytest.approx(row["rmse"] ** 2 * deviation**2)
    assert exported.channels[0].errors["mase"] == pytest.approx(found.channels[0].errors["mase"], rel=1e-4)
    assert facts.keys() >= {"mse", "mae", "val_mse", "windows", "scoring", "parameters", "nonzero", "sparsity"}

"""Matrix products in 8 bits: really stored and run in 8 bits, close to the model, and honest about what they hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from tests.support.onnx_graphs import check_fixed
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.batch import Batch
from prunecast.cli.main import main
from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import Inputs, Int8Runtime
from prunecast.export.int8 import Int8Onnx, int8_bytes
from prunecast.export.onnx import onnx_bytes
from prunecast.export.onnxruntime import RUNTIME
from prunecast.export.parity import EIGHT_BITS, check_parity
from prunecast.export.raw import raw_inputs
from prunecast.inference import windows_for
from prunecast.measure.size import measure_size
from prunecast.models.io import SavedModel, load_model
from prunecast.recipe import ExportConfig, load_recipe
from prunecast.records import Quantizer
from prunecast.registry import RUNTIMES
from prunecast.stages.base import Parent, StageInputs
from prunecast.stages.export import export_stage, refusal, sensitive_weights
from prunecast.stages.job import Job
from prunecast.store import read_record

MODELS = {
    "transformer": TRANSFORMER,
    "no-marks-two-targets": TRANSFORMER | {"marks": 0, "targets": (2, 0)},
    "dlinear": {"name": "dlinear"},
}


def calibration(saved: SavedModel) -> list[Inputs]:
    return [raw_inputs(saved.metadata, windows(saved, 64))]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    saved = saved_model(**TRANSFORMER)
    return saved, RUNTIME.export_int8(saved, tmp_path_factory.mktemp("int8") / "model.onnx", calibration(saved))


def quantised(saved: SavedModel) -> list[str]:
    """The output layer stays, and the embedding: its weights are joined before their product."""
    return [name for name in saved.model.prunable() if "embedding" not in name and "projection" not in name]


@pytest.mark.parametrize("name", MODELS)
def test_an_8_bit_artefact_forecasts_nearly_what_the_model_does(name: str, tmp_path: Path) -> None:
    saved = saved_model(**MODELS[name])
    path = RUNTIME.export_int8(saved, tmp_path / "model.onnx", calibration(saved))
    parity = check_parity(saved, "onnxruntime", path, [windows(saved, 1), windows(saved, 5)], int8=True)
    assert 1e-4 < parity.max_deviation < 0.1
    assert parity.tolerance >= EIGHT_BITS.value


def test_the_batch_stays_free(exported: tuple[SavedModel, Path]) -> None:
    saved, path = exported
    predict, inputs = RUNTIME.load(path, 1), raw_inputs(saved.metadata, windows(saved, 5))
    one = predict({key: values[3:4] for key, values in inputs.items()})
    np.testing.assert_allclose(one[0], predict(inputs)[3], rtol=1e-4, atol=1e-4)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_weights_are_stored_once_and_in_8_bits(exported: tuple[SavedModel, Path]) -> None:
    saved, path = exported
    stored = {entry.name: entry for entry in onnx.load(path).graph.initializer}
    for name in quantised(saved):
        assert stored[f"model.{name}.T_quantized"].data_type == onnx.TensorProto.INT8
        assert not {f"model.{name}", f"model.{name}.T"} & stored.keys()


def test_a_weight_takes_a_byte_instead_of_four() -> None:
    saved = saved_model(name="dlinear", lookback=96, horizon=96)
    gone = len(onnx_bytes(saved)) - len(int8_bytes(saved, calibration(saved)))
    assert gone > 2.8 * measure_size(saved).parameters


def test_products_are_run_in_8_bits(exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    saved, path = exported
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("MatMulIntegerToFloat") == len(quantised(saved))


def test_the_file_is_read_back_as_the_numbers_that_it_stands_for(exported: tuple[SavedModel, Path]) -> None:
    saved, path = exported
    back = RUNTIME.read(path)
    assert back.metadata == saved.metadata
    for name, weight in saved.model.state_dict().items():
        found = back.model.state_dict()[name]
        if name in quantised(saved):
            step = weight.abs().amax(1, keepdim=True) / 63
            assert ((found - weight).abs() <= step * 0.51).all(), name
            assert not torch.equal(found, weight), name
        else:
            assert torch.equal(found, weight), name


def test_zeros_stay_zeros_and_count_as_such(tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER)
    with torch.no_grad():
        saved.model.get_parameter("encoder.layers.0.feed_forward.up.weight")[3] = 0  # a whole unit, without a range
        saved.model.get_parameter("encoder.layers.0.attention.out.weight")[:, ::2] = 0
    path = RUNTIME.export_int8(saved, tmp_path / "model.onnx", calibration(saved))
    back = RUNTIME.read(path).model
    for name, parameter in saved.model.named_parameters():
        assert (back.get_parameter(name)[parameter == 0] == 0).all()
    assert measure_size(RUNTIME.read(path)).parameters == measure_size(saved).parameters
    assert check_parity(saved, "onnxruntime", path, [windows(saved)], int8=True).max_deviation < 0.1


def test_equal_models_give_equal_bytes_whatever_the_process() -> None:
    code = (
        "from tests.unit.export.test_int8 import *; saved = saved_model(name='dlinear'); "
        "sys.stdout.buffer.write(int8_bytes(saved, calibration(saved)))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    saved = saved_model(name="dlinear")
    assert done.stdout == int8_bytes(saved, calibration(saved))
    assert not done.stderr, "an export is quiet"


def test_no_word_about_the_machine(exported: tuple[SavedModel, Path]) -> None:
    content = exported[1].read_bytes()
    for word in (str(Path.home()), "/tmp", "site-packages", ".py"):
        assert word.encode() not in content


def test_a_weight_that_is_also_used_otherwise_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = saved_model(name="dlinear")
    model = onnx.ModelProto.FromString(onnx_bytes(saved))
    turned = next(node.output[0] for node in model.graph.node if "model.trend.weight" in node.input)
    model.graph.node.append(onnx.helper.make_node("Identity", [turned], ["copy"], name="copy"))
    monkeypatch.setattr("prunecast.export.int8.onnx_model", lambda *_, **__: model)
    stored = onnx.ModelProto.FromString(int8_bytes(saved, calibration(saved))).graph.initializer
    assert {"model.trend.weight", "model.seasonal.weight.T_quantized"} < {entry.name for entry in stored}


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    saved = saved_model(name="repeat")
    with pytest.raises(UserError, match="repeat has no weight"):
        RUNTIME.export_int8(saved, tmp_path / "model.onnx", calibration(saved))
    assert not list(tmp_path.iterdir())


def test_a_runtime_without_8_bits_refuses_them() -> None:
    model = saved_model(name="dlinear").model
    assert isinstance(RUNTIMES.load("onnxruntime"), Int8Runtime)
    assert refusal(model, ExportConfig(runtime="onnxruntime", int8=True)) is None
    assert refusal(model, ExportConfig(runtime="eager")) is None
    assert "no 8-bit export" in (refusal(model, ExportConfig(runtime="eager", int8=True)) or "")


def test_windows_far_beyond_the_range_are_caught(tmp_path: Path) -> None:
    saved = saved_model(name="dlinear")
    path = RUNTIME.export_int8(saved, tmp_path / "model.onnx", calibration(saved))
    near = windows(saved)
    far = Batch(near.x_BLC * 30, near.y_BHC, near.x_mark_BLF, near.y_mark_BTF)
    assert check_parity(saved, "onnxruntime", path, [near], int8=True).within
    with pytest.raises(UserError, match="8 bits are too few"):
        check_parity(saved, "onnxruntime", path, [far], int8=True)


def test_8_bits_without_their_scale_are_refused(exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    model = onnx.load(exported[1])
    scale = next(entry for entry in model.graph.initializer if entry.name.endswith("weight.T_scale"))
    scale.name = "model.other"
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="without their scale"):
        RUNTIME.read(tmp_path / "changed.onnx")


def test_the_whole_chain_of_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def facts(*arguments: str) -> dict:
        capsys.readouterr()
        assert main(["--quiet", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    hours = np.arange(600)
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=600, freq="h")})
    table["a"] = 40 + 5 * np.sin(hours * np.pi / 12) + np.cos(hours)
    table.to_csv(tmp_path / "own.csv", index=False)
    data, model, small = ("--data", str(tmp_path / "own.csv")), str(tmp_path / "m"), str(tmp_path / "m.onnx")
    cut = ("--set", "train.max_steps=20", "--set", "train.threads=1", "--horizon", "24")
    facts("train", "--model", "dlinear", *data, *cut, "--out", model)
    exported = facts("export", model, "--int8", *data, "--out", small)
    assert exported["bytes"] == Path(small).stat().st_size
    assert 1e-4 < exported["max_deviation"] < 0.2
    assert exported["mse_change"] != 0
    recipe = load_recipe(base={"export": {"int8": True}})
    saved = load_model(Path(model))
    known, windows = Parent(saved, read_record(Path(model))), windows_for(saved.metadata, data[1])
    job = Job(stage="export", role="dense", recipe=recipe, data_sha256="", source="")
    found = export_stage(job, StageInputs(prepared=windows, directory=tmp_path, known=known))
    assert [artefact.bytes for artefact in found.artefacts] == [exported["bytes"]]
    assert (tmp_path / "model.onnx").read_bytes() == Path(small).read_bytes()
    assert "no 8-bit export" in found.unsupported["eager"]
    dense, scored = facts("evaluate", model, *data), facts("evaluate", small, *data)
    assert scored["mse"] == pytest.approx(dense["mse"], rel=0.02)
    assert scored["parameters"] == dense["parameters"]
    measured = facts("measure", model, small, *data)["models"]
    assert measured[1]["bytes"] == exported["bytes"] < measured[0]["bytes"]
    assert measured[1]["macs"] == measured[0]["macs"]
    facts("forecast", small, *data, "--out", str(tmp_path / "f.csv"))
    assert len(pd.read_csv(tmp_path / "f.csv")) == 24


# How, and what stays in float32


@pytest.mark.parametrize("name", MODELS)
def test_ranges_may_be_those_of_each_forecast(name: str, tmp_path: Path) -> None:
    saved = saved_model(**MODELS[name])
    path = RUNTIME.quantised(saved, calibration(saved), quantizer="dynamic").export(tmp_path / "model.onnx")
    assert "DynamicQuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
    parity = check_parity(saved, "onnxruntime", path, [windows(saved, 5)], int8=True)
    assert 1e-4 < parity.max_deviation < 0.1
    assert RUNTIME.read(path).metadata == saved.metadata


@pytest.mark.parametrize("quantizer", ["static", "dynamic"])
def test_named_weights_stay_in_float32(quantizer: Quantizer, tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER)
    made = RUNTIME.quantised(saved, calibration(saved), quantizer=quantizer)
    kept = made.weights[1:4]
    path = made.export(tmp_path / "some.onnx", kept)
    inside = dict(RUNTIME.read(path).model.named_parameters())
    weights = dict(saved.model.named_parameters())
    assert {name for name in made.weights if torch.equal(inside[name], weights[name])} == {*kept}
    assert check_parity(saved, "onnxruntime", path, [windows(saved, 5)], int8=True).max_deviation > 1e-4
    none = made.export(tmp_path / "none.onnx", made.weights)
    assert check_parity(saved, "onnxruntime", none, [windows(saved, 5)]).within


def test_a_graph_of_fixed_shapes_can_be_in_8_bits(tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER)
    made = RUNTIME.quantised(saved, calibration(saved), batch=2)
    assert {*made.weights} == {*quantised(saved)}
    path = made.export(tmp_path / "model.onnx")
    check_fixed(path, batch=2)
    assert 1e-4 < check_parity(saved, "onnxruntime", path, [windows(saved, 5)], int8=True).max_deviation < 0.1


def test_the_fewest_weights_stay_that_keep_the_error_within_its_limit() -> None:
    costs = {"a": 0.01, "b": 0.0, "c": 0.2, "d": 0.03, "e": -0.02}

    def change(kept: Collection[str]) -> float:
        return sum(cost for name, cost in costs.items() if name not in kept)

    names = tuple(costs)
    assert sensitive_weights(names, change, 0.3) == ()
    assert sensitive_weights(names, change, 0.05) == ("c",)
    assert {*sensitive_weights(names, change, 0.0)} == {"c", "d"}
    with pytest.raises(UserError, match="even in a single weight"):
        sensitive_weights(("a", "c"), lambda kept: 1.0, 0.01)


def test_sensitive_weights_stay_when_8_bits_cost_more_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--model", "dlinear", "--data", "synthetic-load", "--horizon", "6", "--lookback", "24",
                 "--set", "train.max_steps=5", "--out", str(tmp_path / "model")]) == 0  # fmt: skip
    monkeypatch.setattr(
        "prunecast.stages.export.mse_change",
        lambda saved, runtime, path, batches: 0.0 if b"trend.weight.T_quantized" not in path.read_bytes() else 0.1,
    )
    capsys.readouterr()
    export = ["--json", "export", str(tmp_path / "model"), "--max-mse-increase", "0.01"]
    assert main([*export, "--int8", "--out", str(tmp_path / "model.onnx")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["float32"] == ["trend.weight"]
    assert main(["--json", "evaluate", str(tmp_path / "model.onnx")]) == 0
    assert json.loads(capsys.readouterr().out)["mse"] == pytest.approx(told["mse"], rel=1e-6)
    assert main([*export, "--out", str(tmp_path / "other.onnx")]) == 2
    assert "add --int8" in capsys.readouterr().err


def test_a_quantizer_that_a_runtime_lacks_is_refused() -> None:
    asked = ExportConfig(int8=True, quantizer="nncf")
    assert refusal(saved_model(name="dlinear").model, asked) == "it has no quantizer 'nncf'; it has static, dynamic"


def test_without_nncf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    saved = saved_model(name="dlinear")
    with pytest.raises(MissingExtra, match=r"pip install 'prunecast\[nncf\]'"):
        Int8Onnx(saved, calibration(saved), quantizer="nncf")


@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
@pytest.mark.parametrize("name", ["transformer", "dlinear"])
def test_nncf_quantises_for_openvino(name: str, tmp_path: Path) -> None:
    saved, openvino = saved_model(**MODELS[name]), RUNTIMES.load("openvino")
    made = openvino.quantised(saved, calibration(saved), quantizer="nncf")
    path = made.export(tmp_path / "model.openvino")
    parity = check_parity(saved, "openvino", path, [windows(saved, 5)], int8=True)
    assert 1e-4 < parity.max_deviation < 0.2
    inside = openvino.read(path)
    assert inside.metadata == saved.metadata
    for weight in made.weights:  # the numbers that the 8 bits stand for
        scale = saved.model.get_parameter(weight).abs().max()
        assert 0 < (inside.model.get_parameter(weight) - saved.model.get_parameter(weight)).abs().max() < scale / 50
    some = made.export(tmp_path / "some.openvino", made.weights[:1])
    kept = openvino.read(some).model.get_parameter(made.weights[0])
    assert torch.equal(kept, saved.model.get_parameter(made.weights[0]))

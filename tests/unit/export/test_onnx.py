"""ONNX files: what is in them, that they say what the model says, and that foreign ones are refused."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.errors import UserError
from prunecast.export import onnx as onnx_export
from prunecast.export.base import BATCH_KEY, FILE_LIMIT_BYTES, OLDEST_RUNTIME, of_any_batch
from prunecast.export.onnx import onnx_bytes
from prunecast.export.onnxruntime import RUNTIME
from prunecast.export.raw import raw_forecaster, raw_inputs
from prunecast.models.io import SavedModel

MODELS = {
    "transformer": TRANSFORMER,
    "no-marks-two-targets": TRANSFORMER | {"marks": 0, "targets": (2, 0)},
    "dlinear": {"name": "dlinear"},
    "repeat": {"name": "repeat"},
    "seasonal_naive": {"name": "seasonal_naive", "period": 5},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    saved = saved_model(**TRANSFORMER)
    return saved, RUNTIME.export(saved, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.parametrize("name", MODELS)
def test_an_artefact_forecasts_what_the_model_does(name: str, tmp_path: Path) -> None:
    saved = saved_model(**MODELS[name])
    predict = RUNTIME.load(RUNTIME.export(saved, tmp_path / "model.onnx"), threads=1)
    raw = raw_forecaster(saved)
    for count in (1, 5):
        inputs = raw_inputs(saved.metadata, windows(saved, count))
        with torch.inference_mode():
            expected = raw(*map(torch.from_numpy, inputs.values())).numpy()
        found = predict(inputs)
        assert found.shape == (count, 12, saved.model.config.outputs)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_inputs_and_output_have_their_names_and_a_free_batch(exported: tuple[SavedModel, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    shapes = {
        entry.name: [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in (*graph.input, *graph.output)
    }
    assert shapes == {
        "history": ["batch", 24, 3],
        "x_mark": ["batch", 24, 4],
        "y_mark": ["batch", 18, 4],
        "forecast": ["batch", 12, 3],
    }
    onnx.checker.check_model(onnx.load(exported[1]), full_check=True)


def test_a_file_for_one_batch_refuses_another_in_one_line(tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER)
    path = RUNTIME.export(saved, tmp_path / "model.onnx", batch=2)
    texts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert texts[BATCH_KEY] == "2"
    predict, inputs = RUNTIME.load(path, 1), raw_inputs(saved.metadata, windows(saved, 5))
    with pytest.raises(UserError, match=r"expected 2 windows in one call.* found 5") as error:
        predict(inputs)
    assert "\n" not in str(error.value)
    whole = of_any_batch(predict)(inputs)  # as `evaluate` calls it: two by two, the last call filled up
    expected = RUNTIME.load(RUNTIME.export(saved, tmp_path / "any.onnx"), 1)(inputs)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", OLDEST_RUNTIME)
def test_older_runtimes_get_an_older_file(opset: int, exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    saved, path = exported
    old = RUNTIME.export(saved, tmp_path / "old.onnx", opset)
    model = onnx.load(old)
    assert (model.opset_import[0].version, model.ir_version) == (opset, OLDEST_RUNTIME[opset][0])
    lowest = next(entry[1] for entry in onnx.helper.VERSION_TABLE if entry[2] == opset)
    assert model.ir_version == lowest, "the lowest file format that has these operators"
    inputs = raw_inputs(saved.metadata, windows(saved))
    np.testing.assert_allclose(RUNTIME.load(old, 1)(inputs), RUNTIME.load(path, 1)(inputs), rtol=1e-5, atol=1e-5)
    assert RUNTIME.read(old).metadata == saved.metadata


def test_bytes_that_are_no_text_are_refused(exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    content = exported[1].read_bytes()
    for name in (b"model.encoder", b"history", b"channels", b"MatMul"):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content.replace(name, b"\xff\xfe" + name[2:], 1))
        with pytest.raises(UserError, match=r"bad\.onnx"):
            RUNTIME.read(path)


def test_inputs_that_a_model_does_not_use_are_absent(tmp_path: Path) -> None:
    graph = onnx.load(RUNTIME.export(saved_model(name="dlinear"), tmp_path / "model.onnx")).graph
    assert [entry.name for entry in graph.input] == ["history"]


def test_equal_models_give_equal_bytes_whatever_the_process() -> None:
    code = (
        "from tests.support.saved_models import saved_model; from prunecast.export.onnx import onnx_bytes; "
        "import sys; sys.stdout.buffer.write(onnx_bytes(saved_model(name='dlinear')))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert done.stdout == onnx_bytes(saved_model(name="dlinear"))
    assert not done.stderr, "an export is quiet"


def test_no_word_about_the_machine(exported: tuple[SavedModel, Path]) -> None:
    content = exported[1].read_bytes()
    package = Path(onnx_export.__file__).parents[1]
    for word in (str(package), str(Path.home()), "site-packages", ".py", "pkg.torch", "forward("):
        assert word.encode() not in content


def test_another_models_weights_fill_the_same_graph(exported: tuple[SavedModel, Path]) -> None:
    before = onnx_export._graph.cache_info().misses
    other = onnx_bytes(saved_model(seed=2, **TRANSFORMER))
    assert onnx_export._graph.cache_info().misses == before
    assert other != exported[1].read_bytes()


def test_the_model_comes_back_from_its_file(exported: tuple[SavedModel, Path]) -> None:
    saved, path = exported
    found = RUNTIME.read(path)
    assert found.metadata == saved.metadata
    state, back = saved.model.state_dict(), found.model.state_dict()
    assert state.keys() == back.keys()
    assert all(torch.equal(state[name], back[name]) for name in state)


def test_denormal_weights_are_flushed(tmp_path: Path) -> None:
    saved = saved_model(name="dlinear")
    with torch.no_grad():
        saved.model.get_parameter("trend.weight")[0] = 1e-39
    back = RUNTIME.read(RUNTIME.export(saved, tmp_path / "model.onnx"))
    assert torch.equal(back.model.get_parameter("trend.weight")[0], torch.zeros(24))
    assert saved.model.get_parameter("trend.weight")[0, 0] > 0, "the model itself stays as it is"


def test_loading_leaves_this_threads_arithmetic_alone(exported: tuple[SavedModel, Path]) -> None:
    saved, path = exported
    RUNTIME.load(path, 1)(raw_inputs(saved.metadata, windows(saved)))
    assert torch.tensor(1e-39) * 2 > 0, "denormal numbers count in a process that trains"


def test_logging_is_as_before_after_an_export(exported: tuple[SavedModel, Path]) -> None:
    assert logging.root.manager.disable == logging.NOTSET


def test_a_failed_write_leaves_the_old_file(exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(UserError, match="cannot write"):
        RUNTIME.export(exported[0], folder)
    assert list(tmp_path.iterdir()) == [folder]


def foreign(path: Path, location: str | None = None) -> Path:
    """Writes an ONNX file that is not ours; its weight may lie in another file."""
    weight = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    if location is not None:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Add", ["history", "w"], ["forecast"])
    inputs, outputs = [value("history", 1, [4])], [value("forecast", 1, [4])]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs, [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100, None])
def test_what_is_not_onnx_is_refused(content: bytes | None, exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(exported[1].read_bytes()[:2000] if content is None else content)
    for use in (RUNTIME.read, lambda path: RUNTIME.load(path, 1)):
        with pytest.raises(UserError, match=r"bad\.onnx") as error:
            use(path)
        assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        for use in (RUNTIME.read, lambda path: RUNTIME.load(path, 1)):
            with pytest.raises(UserError):
                use(path)


def test_an_onnx_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "foreign.onnx")
    for use in (RUNTIME.read, lambda path: RUNTIME.load(path, 1)):
        with pytest.raises(UserError, match="no model metadata"):
            use(path)


def test_weights_outside_the_folder_are_not_followed(exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    np.zeros(4, np.float32).tofile(tmp_path / "secret.bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        with pytest.raises(UserError, match="ONNX Runtime cannot load"):
            RUNTIME.load(foreign(folder / "foreign.onnx", location), 1)


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [("mean_C", np.nan, False), ("std_O", np.inf, False), ("mask", np.nan, False), ("mask", -np.inf, True)],
)
def test_constants_that_are_no_numbers_are_refused_when_the_file_is_opened(
    name: str, value: float, taken: bool, exported: tuple[SavedModel, Path], tmp_path: Path
) -> None:
    file = onnx.load(exported[1])
    file.metadata_props.pop()  # its seal: older files have none
    known = [entry for entry in file.graph.initializer if entry.name == name]
    entry = known[0] if known else file.graph.initializer.add()
    entry.CopyFrom(onnx.numpy_helper.from_array(np.full(3, value, np.float32), name))
    (tmp_path / "model.onnx").write_bytes(file.SerializeToString())
    if taken:  # attention masks with it
        assert RUNTIME.read(tmp_path / "model.onnx").metadata == exported[0].metadata
    else:
        with pytest.raises(UserError, match=f"{name}: expected finite numbers"):
            RUNTIME.read(tmp_path / "model.onnx")


def test_a_changed_artefact_is_refused(exported: tuple[SavedModel, Path], tmp_path: Path) -> None:
    def changed(change) -> Path:
        model = onnx.load(exported[1])
        change(model)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def outside(model: onnx.ModelProto) -> None:
        weight = next(entry for entry in model.graph.initializer if entry.name.startswith("model."))
        weight.data_location = onnx.TensorProto.EXTERNAL

    def reshaped(model: onnx.ModelProto) -> None:
        weight = next(entry for entry in model.graph.initializer if entry.name == "model.decoder.projection.weight")
        weight.dims[0], weight.dims[1] = 1, weight.dims[0] * weight.dims[1]

    def no_json(model: onnx.ModelProto) -> None:
        model.metadata_props[0].value = "{"

    for change, message in ((outside, "outside"), (reshaped, "model metadata says"), (no_json, "not valid JSON")):
        with pytest.raises(UserError, match=message):
            RUNTIME.read(changed(change))


def test_a_model_that_fits_no_file_is_unsupported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = saved_model(name="dlinear")
    assert RUNTIME.unsupported(saved.model) is None
    monkeypatch.setattr("prunecast.export.base.FILE_LIMIT_BYTES", 1000)
    assert FILE_LIMIT_BYTES < 2**31
    with pytest.raises(UserError, match="one ONNX file holds 2 GB"):
        RUNTIME.export(saved, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "layers"), [("transformer", 2), ("patchtst", 2), ("crossformer", 1), ("itransformer", 2)]
)
def test_a_graph_computes_no_shapes_and_multiplies_matrices(name: str, layers: int, tmp_path: Path) -> None:
    """Put together for speed, it forecasts what the plain graph does."""
    saved = saved_model(name=name, d_model=16, n_heads=2, d_ff=32, encoder_layers=layers)
    plain = onnx_export.sealed(onnx_export.onnx_model(saved, plain=True), onnx_export.UNNAMED)
    (tmp_path / "plain.onnx").write_bytes(plain)
    RUNTIME.export(saved, tmp_path / "fast.onnx")
    fast = onnx.load(tmp_path / "fast.onnx")
    names = {entry.name for entry in fast.graph.initializer}
    assert all(node.input[1] in names for node in fast.graph.node if node.op_type == "Reshape")
    assert len(fast.graph.node) < 0.8 * len(onnx.load(tmp_path / "plain.onnx").graph.node)
    inputs = raw_inputs(saved.metadata, windows(saved))
    one, other = (RUNTIME.load(tmp_path / f"{kind}.onnx", 1)(inputs) for kind in ("plain", "fast"))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)

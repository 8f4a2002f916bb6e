"""OpenVINO: forecasts what the model does where it is installed, and says what to install where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows
from tests.unit.export.test_onnx import MODELS, foreign

from prunecast.cli.main import main
from prunecast.errors import MissingExtra, UserError
from prunecast.export.onnx import onnx_bytes
from prunecast.export.openvino import RUNTIME
from prunecast.export.parity import check_parity
from prunecast.export.raw import raw_inputs
from prunecast.measure.latency import time_against
from prunecast.models.io import SavedModel, save_model
from prunecast.recipe import MeasureConfig

HINT = "openvino is not installed; run: pip install 'prunecast[openvino]'"

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason=HINT)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    """What `export` writes, also where OpenVINO is not installed."""
    saved, path = saved_model(**TRANSFORMER), tmp_path_factory.mktemp("openvino") / "model.openvino"
    path.write_bytes(onnx_bytes(saved, runtime="openvino"))
    return saved, path


@needs_openvino
def test_it_says_what_it_needs_itself() -> None:
    assert RUNTIME.needs(18).startswith("ONNX operators 18 in file format 8; OpenVINO 20")
    assert "ONNX Runtime" not in RUNTIME.needs(None)


# Without the package


@pytest.fixture
def _absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Takes the package away from this process and from those that it starts."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "openvino.py").write_text("raise ModuleNotFoundError('hidden', name='openvino')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"), prepend=os.pathsep)


@pytest.mark.usefixtures("_absent")
def test_without_the_package_every_use_says_what_to_install(artefact: tuple[SavedModel, Path], tmp_path: Path) -> None:
    saved, path = artefact
    inputs = raw_inputs(saved.metadata, windows(saved))
    for use in (
        lambda: RUNTIME.unsupported(saved.model),
        lambda: RUNTIME.export(saved, tmp_path / "new.openvino"),
        lambda: RUNTIME.export_int8(saved, tmp_path / "new.openvino", [inputs]),
        lambda: RUNTIME.load(path, 1),
    ):
        with pytest.raises(MissingExtra) as error:
            use()
        assert str(error.value) == HINT
    with pytest.raises(UserError) as told:
        time_against("openvino", path, None, inputs, MeasureConfig())
    assert str(told.value) == HINT
    assert not (tmp_path / "new.openvino").exists()
    assert RUNTIME.read(path).metadata == saved.metadata, "the model inside needs no OpenVINO"


@pytest.mark.usefixtures("_absent")
def test_without_the_package_the_commands_say_it_in_one_line(
    artefact: tuple[SavedModel, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "out.openvino"
    model.mkdir()
    save_model(artefact[0], model)
    assert main(["export", str(model), "--runtime", "openvino", "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"prunecast: error: {HINT}\n"
    assert captured.out == ""
    assert not out.exists()
    assert main(["--json", "list", "runtimes"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["runtimes"]}
    assert rows["openvino"] == {
        **{"name": "openvino", "title": "OpenVINO", "file": ".openvino"},
        **{"int8": True, "extra": "openvino"},
    }


def test_a_file_is_not_named_like_another_runtimes(
    artefact: tuple[SavedModel, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(artefact[0], tmp_path)
    assert main(["export", str(tmp_path), "--runtime", "onnxruntime", "--out", str(tmp_path / "x.openvino")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err


# With it


@needs_openvino
@pytest.mark.parametrize("name", MODELS)
def test_an_artefact_forecasts_what_the_model_does(name: str, tmp_path: Path) -> None:
    saved = saved_model(**MODELS[name])
    path = RUNTIME.export(saved, tmp_path / f"model{RUNTIME.suffix}")
    assert check_parity(saved, "openvino", path, [windows(saved, 1), windows(saved, 5)]).max_deviation < 1e-5
    assert RUNTIME.read(path).metadata == saved.metadata


@needs_openvino
@pytest.mark.parametrize("name", ["transformer", "dlinear"])
def test_8_bits_are_taken_too(name: str, tmp_path: Path) -> None:
    saved = saved_model(**MODELS[name])
    path = RUNTIME.export_int8(saved, tmp_path / "model.openvino", [raw_inputs(saved.metadata, windows(saved, 64))])
    parity = check_parity(saved, "openvino", path, [windows(saved, 1), windows(saved, 5)], int8=True)
    assert 1e-4 < parity.max_deviation < 0.1


@needs_openvino
def test_forecasts_are_the_callers_own(artefact: tuple[SavedModel, Path]) -> None:
    saved, path = artefact
    predict = RUNTIME.load(path, 1)
    first = predict(raw_inputs(saved.metadata, windows(saved, 2)))
    kept = first.copy()
    predict({name: values + 1 for name, values in raw_inputs(saved.metadata, windows(saved, 2)).items()})
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_loading_leaves_this_threads_arithmetic_and_processors_alone(artefact: tuple[SavedModel, Path]) -> None:
    saved, path = artefact
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    RUNTIME.load(path, 1)(raw_inputs(saved.metadata, windows(saved)))
    assert torch.tensor(1e-39) * 2 > 0, "denormal numbers count in a process that trains"
    if processors is not None:
        assert os.sched_getaffinity(0) == processors


@needs_openvino
def test_a_process_that_runs_it_is_lean_and_tells_nobody(artefact: tuple[SavedModel, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from prunecast.registry import RUNTIMES; "
        f"RUNTIMES.load('openvino').load(Path({str(artefact[1])!r}), 1); import numpy; "
        "print(*{'torch', 'onnx', 'onnxruntime', 'openvino_telemetry'} & sys.modules.keys()); "
        "print(numpy.float32(1e-39) * numpy.float32(2) == 0)"
    )
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment, text=True)
    assert done.stdout.splitlines() == ["", "True"], "no package but its own, and denormal numbers are flushed"
    assert not done.stderr
    assert list(tmp_path.iterdir()) == [], "its telemetry would leave a folder here"


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100, b'<?xml version="1.0"?><net version="11"/>', None])
def test_what_is_not_onnx_is_refused(
    content: bytes | None, artefact: tuple[SavedModel, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.openvino"
    path.write_bytes(artefact[1].read_bytes()[:2000] if content is None else content)
    for use in (RUNTIME.read, lambda path: RUNTIME.load(path, 1)):
        with pytest.raises(UserError, match=r"bad\.openvino") as error:
            use(path)
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@needs_openvino
def test_foreign_files_and_folders_are_refused(tmp_path: Path) -> None:
    np.zeros(4, np.float32).tofile(tmp_path / "secret.bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        with pytest.raises(UserError, match="outside"):
            RUNTIME.load(foreign(folder / "foreign.openvino", location), 1)
    with pytest.raises(UserError, match="no model metadata"):
        RUNTIME.load(foreign(folder / "foreign.openvino"), 1)
    for path in (tmp_path, tmp_path / "none.openvino"):
        with pytest.raises(UserError, match="OpenVINO cannot load"):
            RUNTIME.load(path, 1)

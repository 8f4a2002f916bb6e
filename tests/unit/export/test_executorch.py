"""ExecuTorch: forecasts what the model does where it is installed, and says what to install where it is not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import FixedBatch
from prunecast.export.executorch import ENDING, RUNTIME
from prunecast.export.parity import check_parity
from prunecast.export.raw import raw_inputs
from prunecast.inference import open_artifact
from prunecast.models.io import SavedModel
from prunecast.records import Quantizer

HINT = "executorch is not installed; run: pip install 'prunecast[executorch]'"

needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason=HINT)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedModel, Path]:
    saved = saved_model(name="dlinear")
    return saved, RUNTIME.export(saved, tmp_path_factory.mktemp("executorch") / "model.pte")


def test_without_the_package_every_use_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("executorch", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    saved = saved_model(name="dlinear")
    inputs = raw_inputs(saved.metadata, windows(saved))
    for use in (
        RUNTIME.start,
        lambda: RUNTIME.unsupported(saved.model),
        lambda: RUNTIME.export(saved, tmp_path / "new.pte"),
        lambda: RUNTIME.export_int8(saved, tmp_path / "new.pte", [inputs]),
    ):
        with pytest.raises(MissingExtra) as error:
            use()
        assert str(error.value) == HINT
    assert not (tmp_path / "new.pte").exists()


@needs_executorch
def test_an_artefact_is_told_by_its_content_and_holds_the_model(
    artefact: tuple[SavedModel, Path], tmp_path: Path
) -> None:
    saved, path = artefact
    other = tmp_path / "other.bin"
    other.write_bytes(path.read_bytes())
    opened = open_artifact(other)
    assert opened.runtime == "executorch"
    assert opened.metadata == saved.metadata
    inside = opened.saved.model.state_dict()
    assert all(torch.equal(tensor, inside[name]) for name, tensor in saved.model.state_dict().items())
    weight = saved.model.get_parameter("trend.weight").detach().numpy().tobytes()
    assert path.read_bytes().count(weight) == 1, "it lies in the program, and is not added"


@needs_executorch
def test_equal_models_give_equal_bytes(artefact: tuple[SavedModel, Path], tmp_path: Path) -> None:
    saved, path = artefact
    assert RUNTIME.export(saved, tmp_path / "again.pte").read_bytes() == path.read_bytes()


@needs_executorch
def test_another_number_of_windows_is_refused(artefact: tuple[SavedModel, Path], tmp_path: Path) -> None:
    saved, path = artefact
    predict, inputs = RUNTIME.load(path, 1), raw_inputs(saved.metadata, windows(saved, 2))
    assert isinstance(predict, FixedBatch)
    with pytest.raises(UserError, match=r"expected 1 window in one call.* found 2"):
        predict(inputs)
    of_two = RUNTIME.load(RUNTIME.export(saved, tmp_path / "two.pte", batch=2), 1)
    np.testing.assert_allclose(of_two(inputs), predict.in_turn(inputs), rtol=1e-5, atol=1e-5)


@needs_executorch
@pytest.mark.parametrize("quantizer", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["dlinear", pytest.param("transformer", marks=pytest.mark.slow)])
def test_8_bits_forecast_nearly_the_same(name: str, quantizer: Quantizer, tmp_path: Path) -> None:
    saved = saved_model(**(TRANSFORMER if name == "transformer" else {"name": name}))
    made = RUNTIME.quantised(saved, [raw_inputs(saved.metadata, windows(saved, 8))], quantizer=quantizer)
    path = made.export(tmp_path / "model.pte")
    assert 1e-4 < check_parity(saved, "executorch", path, [windows(saved, 5)], int8=True).max_deviation < 0.5
    inside = RUNTIME.read(path).model
    for weight in made.weights:  # the numbers that the 8 bits stand for
        change = (inside.get_parameter(weight) - saved.model.get_parameter(weight)).abs().max()
        assert 0 < change.item() < saved.model.get_parameter(weight).abs().max().item() / 100
    kept = made.export(tmp_path / "kept.pte", made.weights[:1])
    assert torch.equal(
        RUNTIME.read(kept).model.get_parameter(made.weights[0]), saved.model.get_parameter(made.weights[0])
    )


@needs_executorch
def test_a_process_that_runs_it_says_nothing(artefact: tuple[SavedModel, Path]) -> None:
    code = (
        "from pathlib import Path; from prunecast.registry import RUNTIMES; "
        f"RUNTIMES.load('executorch').load(Path({str(artefact[1])!r}), 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@needs_executorch
def test_what_is_no_artefact_is_refused_in_one_line(artefact: tuple[SavedModel, Path], tmp_path: Path) -> None:
    content, path = artefact[1].read_bytes(), tmp_path / "bad.pte"
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for bad in (b"", b"hello", content[:1000], content[:-1], content[100:], changed, ENDING, 50 * b"\0" + ENDING):
        path.write_bytes(bad)
        for use in (RUNTIME.read, lambda path: RUNTIME.load(path, 1)):
            with pytest.raises(UserError, match=r"bad\.pte") as error:
                use(path)
            assert "\n" not in str(error.value)
    for absent in (tmp_path, tmp_path / "none.pte"):
        with pytest.raises(UserError, match="cannot read"):
            RUNTIME.read(absent)

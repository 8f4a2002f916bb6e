"""Models are told by what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.series_files import write_table

from prunecast import api
from prunecast.errors import UserError
from prunecast.inference import open_artifact

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


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="is no model: expected a model folder or an exported artefact"):
        open_artifact(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="does not exist"):
        open_artifact(tmp_path / "absent")

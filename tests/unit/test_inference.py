"""Models are told by what is in them, and data is read once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.series_files import write_table

from prunecast import api
from prunecast.data import files
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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of data that were read since."""
    found: list[Path] = []
    read = files.read_content

    def noted(path: Path) -> bytes:
        found.append(path)
        return read(path)

    monkeypatch.setattr(files, "read_content", noted)
    return found


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


def verbs(model: Path, table: Path, out: Path) -> Sequence[tuple[Any, ...]]:
    data = str(table)
    return [
        (api.train, "dlinear", data, {"settings": SMALL, "lookback": 24, "horizon": 6, "out": out / "t"}),
        (api.prune, model, "magnitude", 0.5, {"data": data, "out": out / "p"}),
        (api.evaluate, model, {"data": data}),
        (api.export, model, {"data": data, "out": out / "e.onnx"}),
        (api.measure, [model, model], {"data": data}),
        (api.forecast, model, table, {"out": out / "f.csv"}),
    ]


def test_a_file_is_read_once_per_verb(model: Path, table: Path, tmp_path: Path, reads: list[Path]) -> None:
    for verb, *arguments, options in verbs(model, table, tmp_path / "out"):
        reads.clear()
        verb(*arguments, **options)
        assert reads == [table], verb.__name__


def test_a_model_without_data_learns_it_from_one_reading(table: Path, tmp_path: Path, reads: list[Path]) -> None:
    parts = {"weight": torch.zeros(6, 24), "bias": torch.zeros(6)}
    state = {f"Linear_{part}.{name}": value for part in ("Seasonal", "Trend") for name, value in parts.items()}
    torch.save(state, tmp_path / "checkpoint.pth")
    settings = ("model.channels=2",)
    api.import_checkpoint(
        tmp_path / "checkpoint.pth", "dlinear", source="tslib", settings=settings, out=tmp_path / "imported"
    )
    for verb, *arguments, options in verbs(tmp_path / "imported", table, tmp_path / "out")[1:-1]:
        reads.clear()
        verb(*arguments, **options)
        assert reads == [table], verb.__name__
    with pytest.raises(UserError, match="imported without data"):
        api.forecast(tmp_path / "imported", table, out=tmp_path / "f.csv")
    assert api.evaluate(tmp_path / "out" / "p", data=str(table)).sparsity > 0

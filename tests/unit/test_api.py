"""The verbs as functions: each reads and parses the file of its data once, however many of its steps need it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.foreign_checkpoints import HORIZON, LOOKBACK, dlinear
from tests.support.series_files import write_table

import prunecast.data.files
import prunecast.data.series
from prunecast import api
from prunecast.errors import UserError

SETTINGS = ("train.epochs=1", "train.max_steps=2", "train.threads=1")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file has been read, and how often the content of each has been parsed."""
    counts: Counter[str] = Counter()

    def counted(function: Callable[..., object], kind: str, name: Callable[..., str]) -> Callable[..., object]:
        def wrapper(*arguments: object) -> object:
            counts[f"{kind} {name(*arguments)}"] += 1
            return function(*arguments)

        return wrapper

    for module in (prunecast.data.files, prunecast.data.series):
        monkeypatch.setattr(module, "read_content", counted(module.read_content, "read", lambda path: path.name))
        monkeypatch.setattr(module, "parsed", counted(module.parsed, "parse", lambda _, name, *more: name))
    return counts


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_table(tmp_path / "own.csv")


def import_without_data(out: Path) -> Path:
    """A model that was imported without its data: every verb has to be told, and learns scaler and names from it."""
    torch.save(dlinear(), out.with_suffix(".pth"))
    settings = ("model.channels=2", f"model.lookback={LOOKBACK}", f"model.horizon={HORIZON}", "train.threads=1")
    api.import_checkpoint(out.with_suffix(".pth"), "dlinear", source="tslib", settings=settings, out=out)
    return out


def train_small(data: Path, out: Path) -> Path:
    api.train("dlinear", str(data), lookback=LOOKBACK, horizon=HORIZON, settings=SETTINGS, out=out)
    return out


@pytest.fixture(params=["trained", "imported"])
def model(request: pytest.FixtureRequest, own: Path, tmp_path: Path) -> Path:
    """A model of a file, which every verb has to be told again."""
    out = tmp_path / "model"
    return train_small(own, out) if request.param == "trained" else import_without_data(out)


ONCE = {"read own.csv": 1, "parse own.csv": 1}


def test_train(own: Path, tmp_path: Path, reads: Counter[str]) -> None:
    train_small(own, tmp_path / "model")
    assert reads == ONCE


def test_train_on_a_catalogue_set(tmp_path: Path, reads: Counter[str], data_dir: Path) -> None:
    api.train("dlinear", "ILI", lookback=36, horizon=24, settings=SETTINGS, out=tmp_path / "model")
    assert reads == {"read national_illness.csv": 1, "parse national_illness.csv": 1}


def test_import_with_data(own: Path, tmp_path: Path, reads: Counter[str]) -> None:
    torch.save(dlinear(), tmp_path / "checkpoint.pth")
    path = tmp_path / "checkpoint.pth"
    api.import_checkpoint(path, "dlinear", source="tslib", data=str(own), settings=SETTINGS[2:], out=tmp_path / "model")
    assert reads == ONCE


def test_evaluate(model: Path, own: Path, reads: Counter[str]) -> None:
    api.evaluate(model, data=str(own))
    assert reads == ONCE


def test_export(model: Path, own: Path, tmp_path: Path, reads: Counter[str]) -> None:
    api.export(model, "onnxruntime", data=str(own), out=tmp_path / "model.onnx")
    assert reads == ONCE


class _Enough(Exception):
    """All data has been read; what follows takes long."""


def test_measure_of_two_models(model: Path, own: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise _Enough

    monkeypatch.setattr("prunecast.measure.latency.time_against", stop)
    with pytest.raises(_Enough):
        api.measure([model, model], runtime="eager", data=str(own))
    assert reads == ONCE


def test_prune_and_fine_tune(model: Path, own: Path, tmp_path: Path, reads: Counter[str]) -> None:
    finetuning = {"finetune_epochs": 1, "settings": ("finetune.max_steps=2", "finetune.threads=1")}
    api.prune(model, "magnitude", 0.5, data=str(own), out=tmp_path / "pruned", **finetuning)  # type: ignore[arg-type]
    assert reads == ONCE


def test_forecast(own: Path, tmp_path: Path, reads: Counter[str]) -> None:
    model = train_small(own, tmp_path / "model")
    reads.clear()
    api.forecast(model, own, out=tmp_path / "forecast.csv")
    assert reads == ONCE


def test_a_model_without_data_learns_it_and_keeps_it(own: Path, tmp_path: Path) -> None:
    imported = import_without_data(tmp_path / "imported")
    with pytest.raises(UserError, match="imported without data"):
        api.forecast(imported, own, out=tmp_path / "f.csv")
    api.prune(imported, "magnitude", 0.5, data=str(own), out=tmp_path / "pruned")
    assert api.evaluate(tmp_path / "pruned", data=str(own)).sparsity > 0
    assert api.forecast(tmp_path / "pruned", own, out=tmp_path / "f.csv").rows == HORIZON

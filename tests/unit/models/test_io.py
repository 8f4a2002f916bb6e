"""Model folders that were tampered with: each is refused in one line, before anything large is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.saved_models import TRANSFORMER, saved_model
from torch import Tensor

from prunecast.errors import UserError
from prunecast.export.onnx import METADATA_KEY, onnx_bytes, read_model
from prunecast.models.io import SavedModel, load_metadata, load_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a model folder with a held mask on one weight."""
    saved = saved_model(**TRANSFORMER)
    name = saved.model.prunable()[0]
    weight = saved.model.get_parameter(name)
    mask = torch.arange(weight.numel()).reshape(weight.shape) % 3 > 0
    weight.data[~mask] = 0
    save_model(SavedModel(saved.model, saved.metadata, {name: mask}), tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def artefact() -> bytes:
    return onnx_bytes(saved_model(**TRANSFORMER))


def change_metadata(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor], str], object]) -> None:
    """Calls `change` with the tensors and the name of the masked one."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name.removeprefix("mask/") for name in tensors if name.startswith("mask/"))
    change(tensors, name)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def complaint(call: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(UserError) as error:
        call(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def changed_artefact(content: bytes, path: Path, metadata: str) -> Path:
    model = onnx.ModelProto.FromString(content)
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    path.write_bytes(model.SerializeToString())
    return path


def metadata_of(content: bytes) -> dict[str, Any]:
    return json.loads(onnx.ModelProto.FromString(content).metadata_props[0].value)


HUGE = [
    ({"d_model": 10**8}, "says"),
    ({"d_ff": 10**18}, "beyond"),
    ({"horizon": 10**30}, "beyond"),
    ({"encoder_layers": 10**7}, "encoder_layers is 10000000"),
    ({"n_heads": 10**7, "head_size": 10**3}, "says"),
]


@pytest.mark.parametrize(("values", "hint"), HUGE)
def test_widths_are_believed_only_when_the_weights_have_them(
    values: dict[str, int], hint: str, folder: Path, artefact: bytes, tmp_path: Path
) -> None:
    change_metadata(folder, lambda metadata: metadata["model"].update(values))
    assert hint in complaint(load_model, folder)
    metadata = metadata_of(artefact)
    metadata["model"] |= values
    assert hint in complaint(read_model, changed_artefact(artefact, tmp_path / "m.onnx", json.dumps(metadata)))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda metadata: metadata["scaler"]["mean"].pop(), "scaler: expected 3"),
        (lambda metadata: metadata["scaler"]["std"].append(1.0), "scaler: expected 3"),
        (lambda metadata: metadata["scaler"].update(std=[1.0, 0.0, 1.0]), "positive"),
        (lambda metadata: metadata["scaler"].update(mean=[1.0, float("nan"), 1.0]), "finite"),
        (lambda metadata: metadata["scaler"].update(std=[1.0, float("inf"), 1.0]), "finite"),
        (lambda metadata: metadata["covariate_scaler"].update(mean=[0.0], std=[1.0]), "covariate_scaler: expected 0"),
        (lambda metadata: metadata.update(targets=[]), "targets"),
        (lambda metadata: metadata.update(targets=["a", "a", "b"]), "targets"),
        (lambda metadata: metadata.update(targets=["a", "b", "z"]), "targets"),
        (lambda metadata: metadata.update(targets=["a"]), "as model.targets"),
        (lambda metadata: metadata["model"].update(channels=4), "as model.channels"),
        (lambda metadata: metadata.update(dense_parameters=-1), "dense_parameters"),
        (lambda metadata: metadata.update(freq="century"), "freq"),
        (lambda metadata: metadata.update(frequency="x"), "frequency: expected a step"),
        (lambda metadata: metadata.update(frequency="0h"), "frequency: expected a step"),
        (lambda metadata: metadata["data"].update(fill="guess"), "fill"),
        (lambda metadata: metadata["data"].update(split=[0.5, 0.5, 0.5]), "add up to 1"),
        (lambda metadata: metadata.update(schema_version=2), "schema version 1"),
    ],
)
def test_metadata_that_contradict_themselves(
    change: Callable[[dict[str, Any]], object], hint: str, folder: Path
) -> None:
    change_metadata(folder, change)
    assert hint in complaint(load_metadata, folder)


def test_metadata_have_every_default_of_their_model(folder: Path) -> None:
    whole = load_metadata(folder)
    change_metadata(folder, lambda metadata: metadata["model"].pop("dropout"))
    assert load_metadata(folder) == whole


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "1" * 5000, "\xff"])
def test_what_is_not_json(text: str, folder: Path, artefact: bytes, tmp_path: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert "not valid JSON" in complaint(load_metadata, folder)
    if text.isascii():
        path = changed_artefact(artefact, tmp_path / "m.onnx", text)
        assert "not valid JSON" in complaint(read_model, path)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda tensors, name: tensors.update({name: tensors[name].double()}), "float64"),
        (lambda tensors, name: tensors.update({name: tensors[name].half()}), "float16"),
        (lambda tensors, name: tensors.update({"mask/" + name: tensors["mask/" + name].short()}), "int16"),
        (lambda tensors, name: tensors.update({"mask/" + name: tensors["mask/" + name][1:]}), "uint8"),
        (lambda tensors, name: tensors.update({"mask/other": tensors["mask/" + name].clone()}), "mask/other"),
        (lambda tensors, name: tensors[name].fill_(1.0), "zeros where masked"),
    ],
)
def test_tensors_that_are_not_the_models(
    change: Callable[[dict[str, Tensor], str], object], hint: str, folder: Path
) -> None:
    assert load_model(folder).masks
    change_tensors(folder, change)
    assert hint in complaint(load_model, folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float, folder: Path, artefact: bytes, tmp_path: Path) -> None:
    change_tensors(
        folder, lambda tensors, _: tensors["decoder.projection.bias"].index_fill_(0, torch.tensor([1]), value)
    )
    assert "decoder.projection.bias: expected finite numbers" in complaint(load_model, folder)
    model = onnx.ModelProto.FromString(artefact)
    weight = next(entry for entry in model.graph.initializer if entry.name == "model.decoder.projection.bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(3, value, np.float32), weight.name))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "decoder.projection.bias: expected finite numbers" in complaint(read_model, tmp_path / "m.onnx")


def test_weights_that_cannot_be_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "cannot read" in complaint(load_model, folder)


@pytest.mark.parametrize("metadata", ["[1]", "3", "null", '{"schema_version": 2}'])
def test_an_onnx_file_with_other_metadata(metadata: str, artefact: bytes, tmp_path: Path) -> None:
    assert "schema version 1" in complaint(read_model, changed_artefact(artefact, tmp_path / "m.onnx", metadata))

"""Model folders that were tampered with: each is refused in one line, before anything large is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.saved_models import TRANSFORMER, saved_model
from torch import Tensor

from prunecast.errors import UserError
from prunecast.export.onnx_graph import CARD_KEY, onnx_bytes, read_model
from prunecast.models.io import SavedModel, load_card, load_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a model folder with a held mask on one weight."""
    saved = saved_model(**TRANSFORMER)
    name = saved.model.prunable()[0]
    weight = saved.model.get_parameter(name)
    mask = torch.arange(weight.numel()).reshape(weight.shape) % 3 > 0
    weight.data[~mask] = 0
    save_model(SavedModel(saved.model, saved.card, {name: mask}), tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def artefact() -> bytes:
    return onnx_bytes(saved_model(**TRANSFORMER))


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


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


def changed_artefact(content: bytes, path: Path, card: str) -> Path:
    model = onnx.ModelProto.FromString(content)
    onnx.helper.set_model_props(model, {CARD_KEY: card})
    path.write_bytes(model.SerializeToString())
    return path


def card_of(content: bytes) -> dict[str, Any]:
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
    change_card(folder, lambda card: card["model"].update(values))
    assert hint in complaint(load_model, folder)
    card = card_of(artefact)
    card["model"] |= values
    assert hint in complaint(read_model, changed_artefact(artefact, tmp_path / "m.onnx", json.dumps(card)))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda card: card["scaler"]["mean"].pop(), "scaler: expected 3"),
        (lambda card: card["scaler"]["std"].append(1.0), "scaler: expected 3"),
        (lambda card: card["scaler"].update(std=[1.0, 0.0, 1.0]), "positive"),
        (lambda card: card["scaler"].update(mean=[1.0, float("nan"), 1.0]), "finite"),
        (lambda card: card["scaler"].update(std=[1.0, float("inf"), 1.0]), "finite"),
        (lambda card: card["covariate_scaler"].update(mean=[0.0], std=[1.0]), "covariate_scaler: expected 0"),
        (lambda card: card.update(targets=[]), "targets"),
        (lambda card: card.update(targets=["a", "a", "b"]), "targets"),
        (lambda card: card.update(targets=["a", "b", "z"]), "targets"),
        (lambda card: card.update(targets=["a"]), "as model.targets"),
        (lambda card: card["model"].update(channels=4), "as model.channels"),
        (lambda card: card.update(dense_parameters=-1), "dense_parameters"),
        (lambda card: card.update(freq="century"), "freq"),
        (lambda card: card["data"].update(fill="guess"), "fill"),
        (lambda card: card["data"].update(split=[0.5, 0.5, 0.5]), "add up to 1"),
        (lambda card: card.update(schema_version=2), "schema version 1"),
    ],
)
def test_a_card_that_contradicts_itself(change: Callable[[dict[str, Any]], object], hint: str, folder: Path) -> None:
    change_card(folder, change)
    assert hint in complaint(load_card, folder)


def test_a_card_has_every_default_of_its_model(folder: Path) -> None:
    whole = load_card(folder)
    change_card(folder, lambda card: card["model"].pop("dropout"))
    assert load_card(folder) == whole


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "1" * 5000, "\xff"])
def test_what_is_not_json(text: str, folder: Path, artefact: bytes, tmp_path: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert "not valid JSON" in complaint(load_card, folder)
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


def test_weights_that_cannot_be_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "cannot read" in complaint(load_model, folder)


@pytest.mark.parametrize("card", ["[1]", "3", "null", '{"schema_version": 2}'])
def test_an_onnx_file_with_another_card(card: str, artefact: bytes, tmp_path: Path) -> None:
    assert "schema version 1" in complaint(read_model, changed_artefact(artefact, tmp_path / "m.onnx", card))

"""The reference cases through `import`: a file as training scripts save it becomes a folder that forecasts the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.reference.test_published_models import BUFFERS, SINGLE, Published
from tests.reference.test_published_models import published as published  # noqa: PLC0414 - a fixture

from prunecast import facade
from prunecast.models.disk import load, load_card
from prunecast.models.imports import published as published_model


def settings(case: Published) -> list[str]:
    """What no tensor shows, as a user gives it who knows the arguments of the training."""
    known = published_model(case.name, case.source)
    values = known.config(case.config)
    return [f"model.{key}={json.dumps(values[key])}" for key in known.unseen if key in values]


def imported(case: Published, folder: Path, **arguments: Any) -> Path:
    torch.save(case.tensors("state"), folder / "checkpoint.pth")
    modes = {
        name.removeprefix("modes/"): kept.tolist() for name, kept in case.tensors("aux").items() if "modes" in name
    }
    if modes:
        (folder / "modes.json").write_text(json.dumps(modes))
        arguments |= {"modes": folder / "modes.json"}
    out = folder / "model"
    facade.import_checkpoint(
        folder / "checkpoint.pth", case.name, source=case.source, settings=settings(case), out=out, **arguments
    )
    return out


def take_drawn(folder: Path, case: Published) -> None:
    """Puts in the sampled keys of the reference run, which an import draws anew."""
    tensors = load_file(folder / "model.safetensors")
    buffers = BUFFERS[case.name](load(folder), case.tensors("aux"))
    assert {name: tensor.shape for name, tensor in buffers.items()} == {n: tensors[n].shape for n in buffers}
    save_file(tensors | buffers, folder / "model.safetensors")


def test_forecasts(published: Published, tmp_path: Path) -> None:
    folder = imported(published, tmp_path)
    if published.name == "informer":
        take_drawn(folder, published)
    with torch.no_grad():
        found = load(folder)(*published.inputs(SINGLE))
    expected = published.tensors("output")["eval"]
    assert found.dtype == SINGLE
    assert (found - expected).abs().max().item() <= 1e-4 * expected.abs().max().item()


def test_everything_is_from_the_tensors_or_the_user(published: Published, tmp_path: Path) -> None:
    torch.save(published.tensors("state"), tmp_path / "checkpoint.pth")
    folder = imported(published, tmp_path)
    expected = published.model(SINGLE).config.model_dump(mode="json")
    if "label_len" not in published.config:
        expected["label_len"] = expected["lookback"] // 2
    assert load_card(folder).model == expected

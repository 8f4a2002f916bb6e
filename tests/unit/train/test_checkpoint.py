"""Foreign files: what holds tensors is read, whatever else is refused in one line, and no object is ever built."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.foreign_checkpoints import dlinear, saved
from torch import nn

from prunecast.errors import UserError
from prunecast.models.convert.checkpoint import read_checkpoint

STATE = dlinear()


def older(content: object, path: Path) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize("save", [saved, older])
@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (STATE, ()),
        (OrderedDict(STATE), ()),
        ({name: nn.Parameter(tensor) for name, tensor in STATE.items()}, ()),
        (prefixed("module."), ("prefix 'module.' taken off every name",)),
        (
            prefixed("_orig_mod.module."),
            ("prefix '_orig_mod.' taken off every name", "prefix 'module.' taken off every name"),
        ),
        ({"state_dict": STATE, "epoch": 3}, ("taken from the file's key 'state_dict'",)),
        (
            {"model": prefixed("module."), "optimizer": {"lr": 0.1}},
            ("taken from the file's key 'model'", "prefix 'module.' taken off every name"),
        ),
    ],
)
def test_tensors_come_out_of_what_is_around_them(
    save: Callable[[object, Path], Path], content: Any, notes: tuple[str, ...], tmp_path: Path
) -> None:
    found = read_checkpoint(save(content, tmp_path / "c.pth"))
    assert sorted(found.notes) == sorted(notes)
    assert found.tensors.keys() == STATE.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in STATE.items())
    assert not any(tensor.requires_grad for tensor in found.tensors.values())


class Payload:
    """What a hostile file would do when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def truncated(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def compressed(path: Path) -> None:
    whole = path.with_suffix(".whole")
    shutil.move(path, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "directory"),
    "empty": (lambda path: path.touch(), "found an empty file"),
    "text": (lambda path: path.write_text("hello " * 100), "torch did not write"),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps(STATE)), "torch did not write"),
    "hostile pickle": (lambda path: path.write_bytes(pickle.dumps(Payload())), "torch did not write"),
    "hostile": (lambda path: saved({"w": Payload()}, path), "found objects (posix.mkdir), which are never loaded"),
    "hostile, older": (lambda path: older({"w": Payload()}, path), "found objects (posix.mkdir)"),
    "a module": (lambda path: saved(nn.Linear(2, 2), path), "found objects (torch.nn.modules.linear.Linear)"),
    "arguments": (lambda path: saved({"model": STATE, "args": argparse.Namespace()}, path), "(argparse.Namespace)"),
    "a NumPy number": (lambda path: saved({"model": STATE, "loss": np.float64(1)}, path), "found objects (numpy"),
    "TorchScript": (scripted, "found a TorchScript archive"),
    "truncated": (lambda path: truncated(saved(STATE, path)), "truncated or damaged"),
    "truncated, older": (lambda path: truncated(older(STATE, path), 0.9), "truncated or damaged"),
    "nearly empty, older": (lambda path: truncated(older(STATE, path), 0.05), "truncated or damaged"),
    "another archive": (lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "x"), "truncated or damaged"),
    "compressed": (lambda path: compressed(saved(STATE, path)), "found a compressed archive"),
    "a tensor": (lambda path: saved(torch.ones(2), path), "found a Tensor"),
    "a list": (lambda path: saved([1, 2], path), "found a list"),
    "nothing": (lambda path: saved({}, path), "found no tensor"),
    "numbers": (lambda path: saved({"epoch": 3}, path), "found an int under 'epoch'"),
    "more than tensors": (lambda path: saved(STATE | {"epoch": 3}, path), "found an int under 'epoch'"),
    "tensors deeper down": (lambda path: saved({"a": {"b": torch.ones(1)}}, path), "found a dict under 'a'"),
    "not finite": (lambda path: saved({"w": torch.tensor([1.0, float("nan")])}, path), "expected finite numbers"),
    "sparse": (lambda path: saved({"w": torch.eye(3).to_sparse()}, path), "sparse_coo"),
    "no numbers": (lambda path: saved({"w": torch.ones(3, device="meta")}, path), "on meta"),
    "8-bit floats": (lambda path: saved({"w": torch.ones(3).to(torch.float8_e5m2)}, path), "float8_e5m2"),
    "a bomb": (lambda path: saved({"w": torch.zeros(1).expand(10**6, 10**6)}, path), "a number in the file for each"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_files_are_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, (write, hint) = tmp_path / "c.pth", BAD[name]
    write(path)
    with pytest.raises(UserError) as refusal:
        read_checkpoint(path)
    assert hint in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("save", [saved, older])
def test_damage_anywhere_is_read_or_refused(save: Callable[[object, Path], Path], tmp_path: Path) -> None:
    path, draw = save({"w": torch.ones(3), "b": torch.ones(2)}, tmp_path / "c.pth"), random.Random(1)
    whole, refused = path.read_bytes(), 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 2, 5))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            assert all(tensor.numel() <= 5 for tensor in read_checkpoint(path).tensors.values())
        except UserError:
            refused += 1
    assert refused > 100

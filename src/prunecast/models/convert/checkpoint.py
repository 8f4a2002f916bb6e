"""Checkpoints of other code: a state dict that `torch.save` wrote, read as tensors; no object in it is ever built."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunecast.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state dict, beside an epoch, an optimiser and the like."""

PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""

EXPECTED = "expected a state dict saved with torch.save(model.state_dict(), path)"

_ARCHIVE = b"PK\x03\x04"
_OLDER = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that torch wrote since version 1.6, and before (its magic number, pickled)."""

_DAMAGED = (
    *(pickle.UnpicklingError, AttributeError, EOFError, LookupError),
    *(ValueError, struct.error, RuntimeError, TypeError, AssertionError),
)
"""What torch's reader raises for bytes that mean nothing. The first four are those that pickle names; text that is none
is a ValueError, half a number a struct.error, an archive or a storage that is none a RuntimeError; the reader of older
files asserts what it expects, and calls what it finds."""


@dataclass(frozen=True)
class Checkpoint:
    """A state dict as other code saved it.

    Attributes:
        path: of the file.
        sha256: of its content.
        tensors: by name.
        notes: what was around them and has been taken off, in words.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a `.pth` or `.pt` file: tensors alone, on the processor.

    Large ones are mapped, not read: a tensor takes memory when it is copied into a model.

    Raises:
        UserError: when the file is no checkpoint, a damaged one, or one that holds more than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_OLDER))
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    content = _content(path, start)
    try:
        tensors, notes = _unwrapped(content)
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Checkpoint(path, sha256, {name: tensor.detach() for name, tensor in tensors.items()}, notes)


def _content(path: Path, start: bytes) -> Any:
    if not start:
        raise UserError(f"{path}: {EXPECTED}, found an empty file")
    if not start.startswith((_ARCHIVE, _OLDER)):
        raise UserError(f"{path}: {EXPECTED}, found a file that torch did not write")
    mapped = start.startswith(_ARCHIVE)
    if mapped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _DAMAGED as error:
        raise UserError(f"{path}: {_reason(str(error))}") from None


def _check_archive(path: Path) -> None:
    """Refuses archives that torch does not write: mapping a compressed one would give noise, reading it could explode.

    Raises:
        UserError: when the archive is cut off, compressed, or TorchScript.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error):
        raise UserError(f"{path}: {EXPECTED}, found a truncated or damaged file; take an intact copy") from None
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise UserError(f"{path}: {EXPECTED}, found a TorchScript archive; save the state dict of its model")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: {EXPECTED}, found a compressed archive; unpack it")


def _reason(error: str) -> str:
    """Returns in one line what keeps torch from reading a file."""
    foreign = re.search(r"GLOBAL (\S+)", error)
    if foreign is not None:
        return f"{EXPECTED}, found objects ({foreign[1]}), which are never loaded; save the state dict alone"
    return f"{EXPECTED}, found a truncated or damaged file; take an intact copy"


def _unwrapped(content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the tensors by their own names, and what was taken off."""
    notes = []
    if not isinstance(content, Mapping):
        raise UserError(f"{EXPECTED}, found {_kind(content)}")
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    if wrapper is not None:
        content = content[wrapper]
        notes.append(f"taken from the file's key {wrapper!r}")
    other = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None or not content:
        found = "no tensor" if other is None else f"{_kind(content[other])} under {str(other)!r}"
        raise UserError(f"{EXPECTED}, found {found}; save the state dict alone")
    tensors = {str(name): tensor for name, tensor in content.items()}
    for prefix in (prefix for _ in PREFIXES for prefix in PREFIXES):  # either may stand before the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            notes.append(f"prefix {prefix!r} taken off every name")
    return tensors, tuple(notes)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _check_tensor(name: str, tensor: Tensor) -> None:
    short = tensor.is_floating_point() and tensor.itemsize < 2
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or short:
        kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        raise UserError(f"{name}: expected plain numbers, found {kind} on {tensor.device}; save the float model")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # a few bytes seen as terabytes
        raise UserError(f"{name}: expected a number in the file for each of {tensor.numel()}, found fewer")
    if not torch.isfinite(tensor).all():
        raise UserError(f"{name}: expected finite numbers, found others; take the checkpoint of a sound training")

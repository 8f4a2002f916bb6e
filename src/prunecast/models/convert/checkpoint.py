"""Checkpoints of other code: a state dict that `torch.save` wrote, read as tensors; no object in it is ever built."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunecast.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state dict, beside an epoch, an optimiser and the like."""

PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""

REBUILT = frozenset({"weight_g", "weight_v", "weight_u", "lora_A", "lora_B"})
"""Names of what stands for a weight under weight and spectral norm, and in adapters."""

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
        masks: of those that torch.nn.utils.prune held at zero: name -> boolean tensor, True where a weight stays.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)


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
        tensors, masks = _unmasked(tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if masks:
        notes = (*notes, f"{len(masks)} weights multiplied by the masks of torch.nn.utils.prune, which are held on")
    return Checkpoint(path, sha256, {name: tensor.detach() for name, tensor in tensors.items()}, notes, masks)


def _unmasked(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors with what torch.nn.utils.prune keeps in two put together, and its masks.

    Raises:
        UserError: when something else stands for a weight that only its own code can put together.
    """
    other = next((name for name in tensors if ".parametr" in name or REBUILT.intersection(name.split("."))), None)
    if other is not None:
        raise UserError(
            f"{other}: a weight that is computed from others in each forecast; have it computed for good before you "
            "save (torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, merge_and_unload)"
        )
    whole, masks = dict(tensors), {}
    for original in [name for name in tensors if name.endswith("_orig")]:
        name = original.removesuffix("_orig")
        weight, mask = whole.pop(original), whole.pop(f"{name}_mask", None)
        if mask is None or mask.shape != weight.shape or not ((mask == 0) | (mask == 1)).all():
            raise UserError(f"{original}: expected a mask of zeros and ones of its shape, found none; save both")
        masks[name] = mask != 0
        whole[name] = weight * masks[name]
    return whole, masks


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
            tensors = _without(prefix, tensors)
            notes.append(f"prefix {prefix!r} taken off every name")
    return tensors, tuple(notes)


def unwrapped(checkpoint: Checkpoint, is_known: Callable[[Mapping[str, Tensor]], bool]) -> Checkpoint:
    """Returns the checkpoint of the model itself, where other code had it as a part: Lightning as `model`, for one.

    Args:
        checkpoint: as it was read.
        is_known: says of tensors whether they are the model's; the largest part of which it says so is taken. Where it
            says so of none, the checkpoint comes back as it is.
    """
    parts = [("", checkpoint.tensors)]
    while parts:
        prefix, tensors = parts.pop(0)
        if is_known(tensors):
            break
        inside = Counter(name.partition(".")[0] + "." for name in tensors if "." in name)
        most = [(part, count) for part, count in inside.most_common(1) if 2 * count > len(checkpoint.tensors)]
        parts += [(prefix + part, _without(part, tensors)) for part, _ in most]
    else:
        return checkpoint
    if not prefix:
        return checkpoint
    note = f"prefix {prefix!r} taken off every name"
    if left := sorted(name for name in checkpoint.tensors if not name.startswith(prefix)):
        note += f"; left out, beside the model: {', '.join(left[:3])}{' and more' if len(left) > 3 else ''}"
    masks = _without(prefix, checkpoint.masks)
    return replace(checkpoint, tensors=tensors, masks=masks, notes=(*checkpoint.notes, note))


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


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

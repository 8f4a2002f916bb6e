"""How much there is to store: numbers that need no clock."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from safetensors.torch import save
from torch import Tensor

from prunecast.models.io import SavedModel
from prunecast.records import Size


def measure_size(saved: SavedModel) -> Size:
    """Returns parameters, non-zeros and bytes of a model; its held masks take no part in the bytes.

    Unused parameters count as non-zero whatever they hold: an exported file does not have them, and is no sparser.
    """
    model = saved.model
    parameters, unused = dict(model.named_parameters()), set(model.unused_parameters())
    dead = sum(real_numbers(parameters[name]) for name in unused)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    return Size(
        parameters=sum(map(real_numbers, parameters.values())),
        nonzero=dead + count_nonzero(tensor for name, tensor in parameters.items() if name not in unused),
        prunable=sum(real_numbers(parameters[name]) for name in model.prunable()),
        dead=dead,
        raw_bytes=len(content),
        zip_bytes=compressed_bytes(content),
    )


def compressed_bytes(content: bytes) -> int:
    """Returns the length of the content after DEFLATE at level 9: what zeros save in a compressed file."""
    return len(zlib.compress(content, level=9))


def count_nonzero(tensors: Iterable[Tensor]) -> int:
    """Returns how many real numbers in the tensors are not zero."""
    reals = (torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors)
    return sum(int(torch.count_nonzero(tensor.detach())) for tensor in reals)


def real_numbers(tensor: Tensor) -> int:
    """Returns how many real numbers a tensor holds: a complex one counts as two."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)

"""Sizes: what is counted, and that it is what lies on disk."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from tests.support.saved_models import TRANSFORMER, saved_model
from torch import nn

from prunecast.measure.size import compressed_bytes, count_nonzero, measure_size, real_numbers
from prunecast.models.io import SavedModel, save_model


def test_bytes_are_those_on_disk_without_masks(tmp_path: Path) -> None:
    saved = saved_model(**TRANSFORMER)
    save_model(saved, tmp_path)
    written = (tmp_path / "model.safetensors").read_bytes()
    masks = {name: torch.ones_like(saved.model.get_parameter(name), dtype=bool) for name in saved.model.prunable()}
    size = measure_size(SavedModel(saved.model, saved.metadata, masks))
    assert size.raw_bytes == len(written)
    assert size.zip_bytes == len(zlib.compress(written, 9))


def test_zeros_lower_nonzero_and_compressed_bytes_alone() -> None:
    dense, pruned = saved_model(name="dlinear"), saved_model(name="dlinear")
    with torch.no_grad():
        pruned.model.get_parameter("trend.weight")[:6] = 0.0
    before, after = measure_size(dense), measure_size(pruned)
    assert before.parameters == after.parameters == 2 * (24 * 12 + 12)
    assert before.prunable == after.prunable == 2 * 24 * 12
    assert before.nonzero - after.nonzero == 6 * 24
    assert before.raw_bytes == after.raw_bytes
    assert after.zip_bytes < before.zip_bytes


def test_a_complex_number_counts_as_two() -> None:
    weight = nn.Parameter(torch.tensor([1 + 2j, 3j, 0j]))
    assert real_numbers(weight) == 6
    assert count_nonzero([weight]) == 3


def test_compressed_bytes_are_those_of_deflate() -> None:
    assert compressed_bytes(b"\0" * 100_000) < 200

"""Names of variants: two that differ in their settings never read the same."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from prunecast.recipe import fingerprint
from prunecast.records import Role, RunRecord

MODEL_NAMES: Mapping[str, str] = {
    "transformer": "Transformer",
    "informer": "Informer",
    "autoformer": "Autoformer",
    "fedformer": "FEDformer",
    "crossformer": "Crossformer",
    "patchtst": "PatchTST",
    "itransformer": "iTransformer",
    "dlinear": "DLinear",
    "fits": "FITS",
    "sparsetsf": "SparseTSF",
    "lstm": "LSTM",
    "repeat": "last value",
    "seasonal_naive": "seasonal naive",
}
"""Registered name -> the name that people know; others are shown as they are."""

_SECTIONS: Mapping[Role, tuple[str, ...]] = {
    "dense": ("data", "model", "train"),
    "naive": ("data", "model"),
    "small-dense": ("data", "model", "train"),
    "zeroed-body": ("data", "model", "train"),
    "dense-continued": ("data", "model", "train", "finetune"),
    "pruned": ("data", "model", "train", "prune"),
    "pruned+finetuned": ("data", "model", "train", "prune", "finetune"),
}
"""What of a recipe makes two seeds the same variant."""


class Labels:
    """Adds to a name the settings in which the configurations of that name differ."""

    def __init__(self, entries: Iterable[tuple[Hashable, Mapping[str, Any]]], ignore: set[str]) -> None:
        sections: dict[Hashable, dict[str, Mapping[str, Any]]] = {}
        for group, section in entries:
            sections.setdefault(group, {}).setdefault(repr(section), section)
        self._keys = {group: _differing(found.values(), ignore) for group, found in sections.items()}

    def name(self, group: Hashable, name: str, section: Mapping[str, Any]) -> str:
        """Returns the name, with "(key=value, ...)" where it alone would not do."""
        differing = self._keys.get(group, ())
        settings = ", ".join(f"{key}={section.get(key)}" for key in differing)
        return f"{name} ({settings})" if settings else name


def _differing(sections: Iterable[Mapping[str, Any]], ignore: set[str]) -> tuple[str, ...]:
    every = list(sections)
    keys = sorted({key for section in every for key in section} - ignore)
    return tuple(key for key in keys if len({repr(section.get(key)) for section in every}) > 1)


def identity(record: RunRecord) -> str:
    """Returns what the seeds of a variant share; a small dense model without its original stands alone."""
    sections = {name: record.recipe.get(name) for name in _SECTIONS[record.role]}
    return fingerprint({"role": record.role, "model": record.model, "of": record.compared_with, **sections})

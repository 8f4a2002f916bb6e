"""`device: auto` in a study: decided when it first runs, and kept with it.

Numbers from a processor and from a GPU differ, so the device is part of what names a result: a store that two machines
share must not hold one for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunecast.recipe import FitConfig, Recipe, checked, load_recipe
from prunecast.train.fit import choose_device

AUTO = "auto"
_SECTIONS = ("train", "finetune")


def decided(recipe: Recipe, earlier: Path | None = None) -> Recipe:
    """Returns the recipe with a device for every `auto` in it.

    Args:
        recipe: of a study.
        earlier: the recipe that the study ran by before, if it did: its device is kept.
    """
    values = recipe.model_dump()
    asked = [values, *_entries(values, "models"), *_entries(values, "datasets")]
    open_sections = [(name, entry[name]) for entry in asked for name in _SECTIONS if entry[name].get("device") == AUTO]
    if not open_sections:
        return recipe
    kept = _earlier(earlier)
    for name, section in open_sections:
        section["device"] = kept.get(name) or choose_device(FitConfig()).type
    return checked(Recipe, values, "recipe")


def _entries(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    study = values["study"] or {}
    return list(study.get(key, ()))


def _earlier(path: Path | None) -> dict[str, str]:
    """Returns the device of each section, as it was decided before."""
    if path is None or not path.is_file():
        return {}
    recipe = load_recipe(path)
    devices = {"train": recipe.train.device, "finetune": recipe.finetune.device}
    return {name: device for name, device in devices.items() if device != AUTO}

"""A model on disk: a directory with `config.json` and `model.safetensors`. No pickle, ever.

`config.json` holds the card: widths, constants, channel names, scaler. `model.safetensors` holds weights, buffers
and, under `mask/`, the packed masks of an unstructured pruning. A structurally pruned model is simply another
config, so it is loaded the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.api import Forecaster, ForecasterConfig, build, config_from
from prunecast.recipe_io import checked

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MASK_PREFIX = "mask/"


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ScalerFacts(_CardPart):
    """Mean and standard deviation per input channel, fitted on the training part (raw units)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class DataSource(_CardPart):
    """What the model was trained on: by name and content, no path; the rest as in the recipe's data section."""

    name: str
    sha256: str
    time_column: str | None = None
    fill: str = "refuse"
    split: tuple[float, float, float] | None = None


class Card(_CardPart):
    """Everything about a model but its tensors.

    Attributes:
        model: values of the model's config.
        channels: names of the input channels, in order.
        targets: names of the forecast channels, in order.
        covariates: names of known future columns, after the calendar features in the marks.
        freq: which set of calendar features the marks begin with.
        scaler: for the channels.
        covariate_scaler: for the covariates; empty without.
        dense_parameters: how many the dense parent had; what `sparsity` is a share of.
        frequency: the series' own step, as pandas writes it (for instance "h", "10min"), if regular.
        data: what it was trained on.
    """

    schema_version: int = SCHEMA_VERSION
    model: dict[str, Any]
    channels: tuple[str, ...]
    targets: tuple[str, ...]
    covariates: tuple[str, ...] = ()
    freq: str = "h"
    scaler: ScalerFacts
    covariate_scaler: ScalerFacts = ScalerFacts(mean=(), std=())
    dense_parameters: int
    frequency: str | None = None
    data: DataSource


@dataclass(frozen=True)
class SavedModel:
    """A model with its card and its held masks (parameter name -> boolean tensor, True where a weight stays)."""

    model: Forecaster
    card: Card
    masks: Mapping[str, Tensor] = field(default_factory=dict)


def save_model(saved: SavedModel, directory: Path) -> None:
    """Writes `config.json` and `model.safetensors` into an existing directory.

    The caller makes the whole directory appear at once (see `store.publish`).
    """
    values = saved.card.model_dump(mode="json") | {"model": saved.model.config.model_dump(mode="json")}
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.model.state_dict().items()}
    packed = {MASK_PREFIX + name: pack_mask(mask) for name, mask in saved.masks.items()}
    save_file(tensors | packed, directory / WEIGHTS_FILE)


def load_model(directory: Path) -> SavedModel:
    """Reads a model directory; the module is in eval mode.

    Raises:
        UserError: when it is not a model directory, a file is truncated or foreign, or widths do not fit weights.
    """
    card = load_card(directory)
    config = config_from(card.model)
    tensors = _read_tensors(directory / WEIGHTS_FILE)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(MASK_PREFIX)}
    model = _filled(config, weights, directory)
    masks = {
        name.removeprefix(MASK_PREFIX): unpack_mask(tensor, weights[name.removeprefix(MASK_PREFIX)].shape)
        for name, tensor in tensors.items()
        if name.startswith(MASK_PREFIX) and name.removeprefix(MASK_PREFIX) in weights
    }
    return SavedModel(model.eval(), card, masks)


def load(path: str | Path) -> Forecaster:
    """Returns the module of a model folder, in eval mode: standardised values in, standardised values out.

    Raises:
        UserError: when it is not a model folder, or a damaged one.
    """
    return load_model(Path(path)).model


def load_card(directory: Path) -> Card:
    """Reads `config.json` alone.

    Raises:
        UserError: when the directory or the file is not a model's.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{directory} is not a model directory: expected {CONFIG_FILE} in it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: expected a Prunecast model card of schema version {SCHEMA_VERSION}")
    return checked(Card, values, "config.json")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a model directory: expected {WEIGHTS_FILE} in it") from None
    except SafetensorError as error:
        raise UserError(f"{path}: truncated or not a safetensors file: {error}") from None


def _filled(config: ForecasterConfig, weights: Mapping[str, Tensor], directory: Path) -> Forecaster:
    with torch.random.fork_rng(devices=[]):  # building draws weights that are thrown away
        model = build(config)
    expected = model.state_dict()
    missing, foreign = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or foreign:
        wrong = f"{sorted(missing)[0]!r} is missing" if missing else f"{sorted(foreign)[0]!r} is not in the model"
        raise UserError(f"{directory / WEIGHTS_FILE}: tensors do not fit {CONFIG_FILE}: {wrong}")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"{directory / WEIGHTS_FILE}: {name}: {CONFIG_FILE} says {tuple(tensor.shape)}, "
                f"found {tuple(weights[name].shape)}"
            )
    model.load_state_dict(dict(weights))
    return model


def pack_mask(mask: Tensor) -> Tensor:
    """Returns a boolean mask as bytes, eight weights in one, row-major, first weight in the highest bit."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpack_mask(packed: Tensor, shape: torch.Size) -> Tensor:
    """Returns the boolean mask of the given shape from its bytes."""
    bits = np.unpackbits(packed.numpy(), count=shape.numel())
    return torch.from_numpy(bits.astype(bool)).reshape(shape)

"""A model on disk: a directory with `config.json` and `model.safetensors`. No pickle, ever.

`config.json` holds the metadata: widths, constants, channel names, scaler. `model.safetensors` holds weights, buffers
and, under `mask/`, the packed masks of an unstructured pruning. A structurally pruned model is simply another
config, so it is loaded the same way. `earlier.safetensors` is there where training was asked to keep earlier weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunecast.errors import UserError, shown
from prunecast.models.base import ForecasterConfig, ForecastModel, blank, config_from, outline
from prunecast.recipe import DataConfig, Parts, ReadOptions, checked
from prunecast.records import Reading, Strict
from prunecast.store import check_sums

CONFIG_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
EARLIER_FILE = "earlier.safetensors"
MASK_PREFIX = "mask/"


class ScalerFacts(Strict):
    """Mean and standard deviation per input channel, fitted on the training part (raw units)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std, default=1.0) <= 0:
            raise ValueError("scaler: expected finite means and positive deviations, found others; take an intact copy")
        return self

    def check_count(self, count: int, what: str) -> None:
        """Checks that there is one mean and one deviation for each of so many columns.

        Raises:
            UserError: when there are more or fewer.
        """
        if (len(self.mean), len(self.std)) != (count, count):
            found = f"{len(self.mean)} and {len(self.std)}"
            raise UserError(f"{what}: expected {count} means and deviations, found {found}; take an intact copy")


class DataSource(ReadOptions):
    """What the model was trained on: by name and content, no path; the rest as in the recipe's data section.

    Attributes:
        reading: what was found out about a file of the user's own; new rows are read likewise.
    """

    name: str
    sha256: str
    split: Parts | None = None
    reading: Reading | None = Field(None, exclude_if=lambda reading: reading is None)


class ModelMetadata(Strict):
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
        data: what it was trained on; None for a model imported without data, whose names and scaler mean nothing.
    """

    schema_version: int = CONFIG_VERSION
    model: dict[str, Any]
    channels: tuple[str, ...]
    targets: tuple[str, ...]
    covariates: tuple[str, ...] = ()
    freq: str = "h"
    scaler: ScalerFacts
    covariate_scaler: ScalerFacts = ScalerFacts(mean=(), std=())
    dense_parameters: int = Field(ge=0)
    frequency: str | None = None
    data: DataSource | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = len(self.channels)
        if self.model.get("channels", count) != count:
            says = f"expected {self.model['channels']!r} names, as model.channels"
            raise ValueError(f"channels: {says}, found {count}; take an intact copy")
        if not self.targets or len(set(self.targets)) < len(self.targets) or not set(self.targets) <= {*self.channels}:
            raise ValueError(f"targets: expected some of the channels, each once, found {list(self.targets)}")
        self.scaler.check_count(count, "scaler")
        self.covariate_scaler.check_count(len(self.covariates), "covariate_scaler")
        if self.frequency is not None and not _is_step(self.frequency):
            raise ValueError(f"frequency: expected a step as pandas writes it, found {shown(self.frequency)}")
        source = {} if self.data is None else self.data.model_dump(include={"name", "fill", "split"})
        checked(DataConfig, source | {"freq": self.freq}, "data")
        return self


def _is_step(frequency: str) -> bool:
    try:
        return pd.tseries.frequencies.to_offset(frequency).n > 0
    except (ValueError, OverflowError):
        return False


@dataclass(frozen=True)
class SavedModel:
    """A model with its metadata.

    Attributes:
        model: in eval mode.
        metadata: all about it but its tensors.
        masks: that are held: parameter name -> boolean tensor, True where a weight stays.
        earlier: its tensors after an earlier step of training; None where they were not kept.
    """

    model: ForecastModel
    metadata: ModelMetadata
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    earlier: Mapping[str, Tensor] | None = field(default=None, repr=False)


def save_model(saved: SavedModel, directory: Path) -> None:
    """Writes `config.json` and `model.safetensors` into an existing directory.

    The caller makes the whole directory appear at once (see `store.new_directory`).
    """
    values = saved.metadata.model_dump(mode="json") | {"model": saved.model.config.model_dump(mode="json")}
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.model.state_dict().items()}
    packed = {MASK_PREFIX + name: pack_mask(mask) for name, mask in saved.masks.items()}
    save_file(tensors | packed, directory / WEIGHTS_FILE)
    if saved.earlier is not None:
        save_file(dict(saved.earlier), directory / EARLIER_FILE)


def load_model(directory: Path) -> SavedModel:
    """Reads a model directory; the module is in eval mode.

    Raises:
        UserError: when it is not a model directory, a file is truncated or foreign, or widths do not fit weights.
    """
    metadata, path = load_metadata(directory), directory / WEIGHTS_FILE
    tensors = _read_tensors(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(MASK_PREFIX)}
    packed = {name.removeprefix(MASK_PREFIX): tensors[name] for name in tensors.keys() - weights.keys()}
    model = with_tensors(config_from(metadata.model), weights, path, CONFIG_FILE)
    masks = {name: _mask(name, packed[name], model, path) for name in sorted(packed)}
    check_sums(directory, (CONFIG_FILE, WEIGHTS_FILE))
    return SavedModel(model.eval(), metadata, masks, _earlier(directory / EARLIER_FILE, model.config))


def _earlier(path: Path, config: ForecasterConfig) -> dict[str, Tensor] | None:
    """Returns the tensors of an earlier step, once they are known to be the config's; None where none were kept."""
    if not path.exists():
        return None
    model = with_tensors(config, _read_tensors(path), path, CONFIG_FILE)
    check_sums(path.parent, (EARLIER_FILE,))
    return model.state_dict()


def load(path: str | Path) -> ForecastModel:
    """Returns the module of a model folder, in eval mode: standardised values in, standardised values out.

    Raises:
        UserError: when it is not a model folder, or a damaged one.
    """
    return load_model(Path(path)).model


def load_metadata(directory: Path) -> ModelMetadata:
    """Reads `config.json` alone.

    Raises:
        UserError: when the directory or the file is not a model's.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{directory} is not a model directory: expected {CONFIG_FILE} in it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return metadata_from(parse_metadata(content, str(path)), str(path))


def parse_metadata(content: str | bytes, source: str) -> object:
    """Returns what a JSON text holds; `source` names it in errors.

    Raises:
        UserError: when it is no JSON.
    """
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets, thousands of them
        found = f"not valid JSON: {error}"
        raise UserError(f"{source}: expected model metadata, found {found}; take an intact copy") from None
    return value


def metadata_from(values: object, source: str) -> ModelMetadata:
    """Returns the checked metadata in what `parse_metadata` found, every default of its `model` spelled out.

    Raises:
        UserError: when it is no metadata of this version, or one whose parts contradict each other.
    """
    if not isinstance(values, dict) or values.get("schema_version") != CONFIG_VERSION:
        raise UserError(f"{source}: expected Prunecast model metadata of schema version {CONFIG_VERSION}")
    try:
        metadata = checked(ModelMetadata, values, "metadata")
        config = config_from(metadata.model)
        forecast = range(config.channels) if config.targets is None else config.targets
        expected = tuple(metadata.channels[target] for target in forecast)
        if metadata.targets != expected:
            raise UserError(f"targets: expected {list(expected)}, as model.targets, found {list(metadata.targets)}")
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return metadata.model_copy(update={"model": config.model_dump(mode="json")})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a model directory: expected {path.name} in it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: truncated or not a safetensors file: {error}") from None


def with_tensors(
    config: ForecasterConfig,
    weights: Mapping[str, Tensor],
    source: Path,
    metadata: str,
    may_lack: Callable[[ForecastModel], Collection[str]] = lambda _: (),
) -> ForecastModel:
    """Returns the model of a config with the given weights, once they are known to be the config's.

    Args:
        config: what was read; nothing of its size is allocated before the weights bear it out.
        weights: every tensor of the state dict.
        source: the file that they come from, for errors.
        metadata: what the config comes from, for errors.
        may_lack: the names of tensors that may be missing: parameters become zero, buffers stay as the config has them.

    Raises:
        UserError: naming the first tensor whose name, shape or type is not the config's.
    """
    mistake = f"{source}: tensors do not fit {metadata}"
    for key, value in config:
        if key.endswith("_layers") and value > len(weights):
            raise UserError(f"{mistake}: {key} is {value}, found {len(weights)} tensors; take an intact copy")
    try:
        expected_model = outline(config)
    except UserError:
        raise UserError(f"{mistake}: its widths are beyond what a tensor can have; take an intact copy") from None
    expected = expected_model.state_dict()
    lacking, foreign = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    missing = lacking - set(may_lack(expected_model)) if lacking else lacking
    if missing or foreign:
        wrong = f"{min(missing)!r} is missing" if missing else f"{min(foreign)!r} is not in the model"
        raise UserError(f"{mistake}: {wrong}; take an intact copy")
    for name in (name for name in expected if name in weights):
        says, found = _kind(expected[name]), _kind(weights[name])
        if says != found:
            raise UserError(f"{source}: {name}: {metadata} says {says}, found {found}; take an intact copy")
        if weights[name].is_floating_point() and not torch.isfinite(weights[name]).all():
            raise UserError(f"{source}: {name}: expected finite numbers, found others; take an intact copy")
    model = blank(config)
    model.load_state_dict(dict(weights), strict=False)
    return model


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _mask(name: str, packed: Tensor, model: ForecastModel, source: Path) -> Tensor:
    """Returns the held mask of a parameter, once it is known to be one."""
    weight = dict(model.named_parameters(remove_duplicate=False)).get(name)
    if weight is None:
        raise UserError(f"{source}: {MASK_PREFIX}{name}: expected a parameter of the model; take an intact copy")
    size = -(-weight.numel() // 8)
    if packed.dtype != torch.uint8 or packed.shape != (size,):
        mistake = f"{MASK_PREFIX}{name}: expected ({size},) uint8, found {_kind(packed)}"
        raise UserError(f"{source}: {mistake}; take an intact copy")
    mask = unpack_mask(packed, weight.shape)
    masked = int(weight[~mask].count_nonzero())
    if masked:
        mistake = f"{name}: expected zeros where masked, found {masked} other weights"
        raise UserError(f"{source}: {mistake}; take an intact copy")
    return mask


def pack_mask(mask: Tensor) -> Tensor:
    """Returns a boolean mask as bytes, eight weights in one, row-major, first weight in the highest bit."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpack_mask(packed: Tensor, shape: torch.Size) -> Tensor:
    """Returns the boolean mask of the given shape from its bytes."""
    bits = np.unpackbits(packed.numpy(), count=shape.numel())
    return torch.from_numpy(bits.astype(bool)).reshape(shape)

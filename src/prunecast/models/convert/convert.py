"""Foreign checkpoints: the state dict of a published implementation becomes one of ours."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunecast.errors import UserError, near
from prunecast.models.base import ForecasterConfig, ForecastModel, build, outline
from prunecast.models.convert.published import Modes, Published, Tensors
from prunecast.registry import MODELS, PUBLISHED

Values = Mapping[str, Any]

TABLES_LIMIT_BYTES = 2**32
"""Of what a model computes from its lengths: position tables, moving averages, Fourier transforms. A look-back of
720 steps takes a few megabytes."""

NAMED = 3
"""Names that a message tells; of the others it tells how many."""


def sources(model: str) -> tuple[str, ...]:
    """Returns whose implementations of a model can be imported: tslib (Time-Series-Library), original."""
    return tuple(name.partition("/")[2] for name in PUBLISHED.names() if name.partition("/")[0] == model)


def published(model: str, source: str = "tslib") -> Published:
    """Returns what is known of an implementation: source tslib (Time-Series-Library) or original.

    Raises:
        UserError: when that implementation has no such model, or we do not.
    """
    MODELS.check(model)
    known = sources(model)
    if source not in known:
        hint = near(source, known) if known else "no implementation of it can be imported"
        raise UserError(f"unknown source {source!r} of model {model!r}; {hint}")
    found: Published = PUBLISHED.load(f"{model}/{source}")
    return found


@dataclass(frozen=True)
class Claim:
    """Values of a model's config that somebody vouches for, by key; `words` says who: "the tensors show"."""

    origin: str
    words: str
    values: Values


@dataclass(frozen=True)
class Origins:
    """Where the values of a model's config come from: origin -> values by key."""

    values: Mapping[str, Values]

    def of(self, origin: str) -> dict[str, Any]:
        """Returns the values from one origin."""
        return dict(self.values.get(origin, {}))

    def together(self) -> dict[str, Any]:
        """Returns the values of all origins."""
        return {key: value for values in self.values.values() for key, value in values.items()}


def shown_values(known: Published, tensors: Tensors, implementation: str) -> dict[str, Any]:
    """Returns the values of our config that a checkpoint's tensors show.

    Args:
        known: of the implementation.
        tensors: the checkpoint's.
        implementation: in words, for errors.

    Raises:
        UserError: when it is another model's checkpoint.
    """
    if any(".temporal_embedding.hour_embed." in name for name in tensors):
        raise UserError(
            "trained with calendar embeddings of whole numbers (--embed fixed or learned), and only timeF can be "
            "imported; train it again with --embed timeF"
        )
    try:
        return known.sizes(tensors)
    except KeyError as error:
        raise UserError(
            f"not a checkpoint of {implementation}: expected {error}, found {some(tensors)}; see --from and --model"
        ) from None
    except _OTHER_TENSORS:
        raise UserError(f"not a checkpoint of {implementation}: its tensors have other shapes; see --model") from None


def is_known(known: Published, tensors: Tensors) -> bool:
    """Whether the sizes of a model can be told from these tensors."""
    try:
        known.sizes(tensors)
    except _OTHER_TENSORS:
        return False
    return True


def held_masks(model: ForecastModel, checkpoint: Tensors, masks: Tensors, source: str) -> dict[str, Tensor]:
    """Returns the masks of a published state dict under our names: boolean, True where a weight stays.

    Args:
        model: with the weights of that state dict.
        checkpoint: the published state dict.
        masks: of some of its tensors, by name.
        source: tslib or original.
    """
    if not masks:
        return {}
    numbers = {name: masks.get(name, torch.ones(1)).expand(tensor.shape) * 1.0 for name, tensor in checkpoint.items()}
    ours = {name: mask != 0 for name, mask in published(model.config.name, source).tensors(numbers).items()}
    weights = dict(model.named_parameters())
    zeros = {name for name in ours.keys() & weights.keys() if not (weights[name][~ours[name]] != 0).any()}
    return {name: ours[name].contiguous() for name in sorted(zeros) if not ours[name].all()}


def agreed(claims: Iterable[Claim]) -> Origins:
    """Returns what the claims say together; of two that say the same, the first one counts.

    Raises:
        UserError: when two say different things, in their words.
    """
    first: dict[str, Claim] = {}
    for claim in claims:
        for key, value in claim.values.items():
            before = first.setdefault(key, claim)
            if _plain(before.values[key]) != _plain(value):
                raise UserError(
                    f"model.{key}: {before.words} {before.values[key]!r}, {claim.words} {value!r}; "
                    "expected the same of both"
                )
    origins: dict[str, dict[str, Any]] = {}
    for key, claim in first.items():
        origins.setdefault(claim.origin, {})[key] = claim.values[key]
    return Origins(origins)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def unclaimed(config: ForecasterConfig, origins: Origins) -> dict[str, Any]:
    """Returns the values of a config that nobody vouched for, its defaults; keys that are not set are left out."""
    claimed = {"name", *origins.together()}
    values = config.model_dump(mode="json").items()
    return {key: value for key, value in values if key not in claimed and value is not None}


@dataclass(frozen=True)
class ModeChoice:
    """Where the Fourier modes come from that an implementation keeps outside its checkpoints.

    Attributes:
        file: JSON, name of the published module and attribute -> list of indices.
        seed: NumPy's when the published code built its model.
    """

    file: Path | None = None
    seed: int | None = None

    def check(self, known: Published, model: str) -> None:
        """Sees to it that modes are chosen in one way where a model has them, and not at all where it has none.

        Raises:
            UserError: when they are not.
        """
        ways = [way for way in (self.file, self.seed) if way is not None]
        if known.modes is None and ways:
            raise UserError(f"model {model!r} keeps no Fourier modes outside its checkpoint; leave out --modes")
        if known.modes is not None and len(ways) != 1:
            raise UserError(
                f"the Fourier modes of model {model!r} are not in its checkpoint: expected either --modes FILE.json "
                "(module name -> indices) or --modes-seed N (the NumPy seed that its training began with; published "
                f"scripts take 2021), found {'both' if ways else 'neither'}"
            )
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UserError(f"--modes-seed: expected a seed of NumPy, from 0 to {2**32 - 1}, found {self.seed}")

    def words(self) -> str | None:
        """Says where the modes come from; None for a model without."""
        if self.file is not None:
            return f"file {self.file.name}"
        return None if self.seed is None else f"NumPy seed {self.seed}"

    def buffers(self, known: Published, config: ForecasterConfig) -> dict[str, Tensor]:
        """Returns our buffers of the modes; none for a model without.

        Raises:
            UserError: when the file cannot be read, or its modes are not the model's.
        """
        if known.modes is None:
            return {}
        if self.file is not None:
            return known.modes(config, read_modes(self.file))
        assert known.drawn_modes is not None
        assert self.seed is not None
        return known.modes(config, known.drawn_modes(config, self.seed))


def read_modes(path: Path) -> Modes:
    """Returns the modes in a JSON file: name of module and attribute -> indices.

    The attribute may also stand beneath its module's name, and a module with a single one may go without.

    Raises:
        UserError: when it holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    modes: dict[str, Any] = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            modes |= {f"{name}.{attribute}": indices for attribute, indices in value.items()}
        else:
            modes[name if name.rpartition(".")[2].startswith("index") else f"{name}.index"] = value
    lists = [value for value in modes.values() if isinstance(value, list)]
    if not lists or len(lists) < len(modes) or not all(type(i) is int and i >= 0 for indices in lists for i in indices):
        raise UserError(f"{path}: expected JSON with a list of whole numbers for each module's name")
    return modes


def imported_model(
    config: ForecasterConfig,
    checkpoint: Tensors,
    source: str,
    buffers: Tensors | None = None,
    seed: int = 1,
) -> ForecastModel:
    """Returns the model of a config, in eval mode, with the weights of a published state dict.

    Args:
        config: of the model.
        checkpoint: the published state dict.
        source: tslib or original.
        buffers: ours by name, which the checkpoint lacks: Fourier modes.
        seed: of what the published model draws in every forecast, and ours once: Informer's sampled keys.

    Raises:
        UserError: when the tensors are not the config's.
    """
    sketch = outline(config)  # nothing is allocated before the tensors bear the config out
    tables = sum(buffer.nbytes for buffer in sketch.buffers())
    if tables > TABLES_LIMIT_BYTES:  # of lengths that no tensor of a checkpoint shows
        raise UserError(f"model: expected lengths whose tables fit into memory, found {tables / 1e9:.0f} GB of them")
    published_state(sketch, checkpoint, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
    model.load_state_dict(published_state(model, checkpoint, source, buffers))
    return model.eval()


def drawn_buffers(model: ForecastModel) -> set[str]:
    """Returns the names of the buffers that hold indices: what a published model draws, and ours keeps."""
    state = model.state_dict()
    return {name for name, tensor in model.named_buffers() if name in state and not tensor.is_floating_point()}


def published_state(
    model: ForecastModel,
    tensors: Mapping[str, Tensor],
    source: str = "tslib",
    buffers: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Returns a whole state dict for `model` from one of a published implementation.

    Args:
        model: whose config fits the tensors.
        tensors: the published state dict.
        source: tslib or original.
        buffers: ours by name, which the published state dict lacks (Fourier modes, sampled indices); those of
            `model` stay otherwise.

    Raises:
        UserError: when a tensor is missing, does not belong to the model, or has another shape.
    """
    known = published(model.config.name, source)
    given = _mapped(known, tensors, f"{source} {model.config.name}") | dict(buffers or {})
    hint = f"no tensor shows {', '.join(known.unseen)}: see --set"
    state = model.state_dict()
    missing, foreign = _learned(model) - given.keys(), given.keys() - state.keys()
    if missing or foreign:
        misfits = [f"it lacks what the model calls {some(missing)}"] if missing else []
        misfits += [f"the model has no place for {some(foreign)}"] if foreign else []
        raise UserError(f"not the model's: {'; '.join(misfits)}; {hint}")
    for name, tensor in given.items():
        if tensor.shape != state[name].shape:
            if name in model.output_layer() and tensor.shape[0] < state[name].shape[0]:
                hint = (
                    f"it forecasts {tensor.shape[0]} of the channels, or steps, that the config says: where they are "
                    "channels, name them with --set data.targets=[NAME] (without data: model.targets=[NUMBER])"
                )
            raise UserError(
                f"{name}: expected shape {tuple(state[name].shape)} from the config, found {tuple(tensor.shape)}; "
                f"{hint}"
            )
        _check_kind(name, tensor, state[name])
    return state | given


def _check_kind(name: str, tensor: Tensor, ours: Tensor) -> None:
    if tensor.is_complex() or tensor.is_floating_point() != ours.is_floating_point():
        raise UserError(f"{name}: expected numbers like {ours.dtype}, found {tensor.dtype}; save the model's own")
    if not torch.isfinite(tensor.to(ours.dtype)).all():
        raise UserError(f"{name}: expected numbers that {ours.dtype} can hold, found larger ones")


_OTHER_TENSORS = (LookupError, ValueError, RuntimeError)
"""What is raised where a name that is known stands on a tensor of other dimensions: by an index into its shape, by
taking its shape apart, and by torch."""


def _mapped(known: Published, tensors: Tensors, implementation: str) -> dict[str, Tensor]:
    try:
        return known.tensors(tensors)
    except UserError:
        raise
    except _OTHER_TENSORS:
        raise UserError(f"not a checkpoint of {implementation}: its tensors have other shapes; see --model") from None


def _learned(model: ForecastModel) -> set[str]:
    """Returns the names of what only training gives: parameters, and statistics of batches, but no position table."""
    buffers = {name for name, tensor in model.named_buffers() if tensor.is_floating_point()}
    statistics = {name for name in buffers & model.state_dict().keys() if not name.endswith("position")}
    return statistics | dict(model.named_parameters()).keys()


def some(names: Collection[str]) -> str:
    """Returns the first of some names, and how many there are beyond them."""
    rest = len(names) - NAMED
    return ", ".join(sorted(names)[:NAMED]) + (f" and {rest} more" if rest > 0 else "")

"""What a smaller model costs in one runtime, from the clock on some and by a fit for all others.

Whole models are measured, not single layers: what a call costs beside its products, and what a runtime fuses, is in
their times. They need no training: the graph of a model follows from its config. A time is then a sum of what there is
of each thing (multiply-adds, weights, layers, heads, hidden units) with coefficients that are not negative, for nothing
that is added makes a model faster. Bytes are counted; only what a file has beside its tensors is fitted.

N models, P parts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from prunecast.compress.budget import Budgets, Costs
from prunecast.errors import UserError
from prunecast.export.base import EmbeddedRuntime, Inputs, Int8Runtime, Runtime
from prunecast.measure.device import SET_FILE, DeviceProfile, time_set
from prunecast.measure.latency import time_against
from prunecast.measure.latency_worker import INPUTS_FILE
from prunecast.measure.operations import macs_per_weight
from prunecast.models.base import ForecastModel, Group, Keep, build
from prunecast.models.io import SavedModel, save_model
from prunecast.prune.damage import is_gone, least_units, tile_of
from prunecast.recipe import MeasureConfig
from prunecast.records import Quantizer, Strict, Timing
from prunecast.registry import RUNTIMES
from prunecast.report.statistics import Floats
from prunecast.store import new_directory, new_file

MEASURED = 25
"""Models that a table is fitted to, the dense and the smallest one among them."""

KEPT_SHARES = (1 / 2, 1 / 4, 1 / 8)
"""Of units that stay in them, along one axis or along all."""

TILE = 8
"""Feed-forward units and widths stay in multiples of so many: what the kernels of processors compute at once."""

WEIGHED = 5
"""Of the measured models the first so many are also written in 8 bits where a budget is of bytes: each takes seconds,
and they only tell what a file has beside its tensors."""

QUICK = {"warmup": 3, "min_count": 25, "min_time_s": 0.1}
"""How they are timed: many models for a short time tell more than few for a long one."""


# What there is of a smaller model


@dataclass(frozen=True)
class _Place:
    """A tensor; `dims` has for each of its dimensions how many positions the units of which groups own together."""

    shape: tuple[int, ...]
    reals: int
    item_bytes: int
    int8_item_bytes: int
    weight_macs: float
    is_parameter: bool
    dims: Mapping[int, Sequence[tuple[int, Sequence[str]]]]
    stack: tuple[str, int] | None


def _length(place: _Place, dim: int, share: Mapping[str, float]) -> int:
    """Returns how long a dimension is when only these shares of the groups stay."""
    owners = [owner for at, owned in place.dims.items() if at % len(place.shape) == dim for owner in owned]
    gone = [round(span * (1 - math.prod(share.get(name, 1.0) for name in names))) for span, names in owners]
    return place.shape[dim] - sum(gone)


class Anatomy:
    """Counts what is left of a model for any choice of units, in a fraction of a millisecond: nothing is built.

    Attributes:
        groups: of the model, by name.
        parts: names of what `amounts` counts.
    """

    def __init__(self, model: ForecastModel) -> None:
        self.groups = {group.name: group for group in model.groups()}
        stacks = [group.name for group in self.groups.values() if group.stack]
        self._stacks = stacks
        families: dict[str, list[Group]] = {}
        for group in (group for group in self.groups.values() if not group.stack):
            families.setdefault(family_of(group), []).append(group)
        self._families = families
        self.parts = ("call", "MMACs of weights", "k numbers", "k numbers beyond half", *stacks, *families)
        macs, owners = macs_per_weight(model), self._owners()
        parameters = dict(model.named_parameters())
        in_8_bits = {*model.prunable()} - {*model.output_layer()}
        tensors = {**parameters, **{name: value for name, value in model.named_buffers() if name in model.state_dict()}}
        self._places = [
            _Place(
                shape=tuple(tensor.shape),
                reals=2 if tensor.is_complex() else 1,
                item_bytes=tensor.element_size(),
                int8_item_bytes=1 if name in in_8_bits else tensor.element_size(),
                weight_macs=macs.get(name, 0.0),
                is_parameter=name in parameters,
                dims={
                    dim: [(len(span), names) for span, names in shared.items()]
                    for dim, shared in owners.get(name, {}).items()
                },
                stack=next(
                    (
                        (stack, int(name.removeprefix(f"{stack}.").partition(".")[0]))
                        for stack in stacks
                        if name.startswith(f"{stack}.")
                    ),
                    None,
                ),
            )
            for name, tensor in tensors.items()
        ]
        self._whole = self.parameters({})

    def _owners(self) -> dict[str, dict[int, dict[frozenset[int], list[str]]]]:
        """Returns tensor -> dimension -> positions -> the groups whose units own them.

        Two groups own the same positions where they meet in one dimension, as heads and the features of each.
        """
        owners: dict[str, dict[int, dict[frozenset[int], list[str]]]] = {}
        for group in self.groups.values():
            for member in group.members:
                shared = owners.setdefault(member.name, {}).setdefault(member.dim, {})
                shared.setdefault(frozenset(member.index.flatten().tolist()), []).append(group.name)
        return owners

    def _numbers(self, keep: Keep) -> list[int]:
        """Returns how many numbers each tensor has left."""
        share = {name: len(stay) / self.groups[name].size for name, stay in keep.items()}
        layers = {name: {*keep[name].tolist()} for name in self._stacks if name in keep}
        numbers = []
        for place in self._places:
            if place.stack is not None and place.stack[1] not in layers.get(place.stack[0], (place.stack[1],)):
                numbers.append(0)
                continue
            numbers.append(math.prod(_length(place, dim, share) for dim in range(len(place.shape))))
        return numbers

    def parameters(self, keep: Keep) -> int:
        """Returns the parameters that are left; a complex one counts as two."""
        counted = zip(self._numbers(keep), self._places, strict=True)
        return sum(n * place.reals for n, place in counted if place.is_parameter)

    def bytes(self, keep: Keep) -> int:
        """Returns the bytes of all tensors that are left, buffers included."""
        return sum(n * place.item_bytes for n, place in zip(self._numbers(keep), self._places, strict=True))

    def int8_bytes(self, keep: Keep) -> int:
        """Returns the same where the weights that 8 bits can hold are in 8 bits."""
        return sum(n * place.int8_item_bytes for n, place in zip(self._numbers(keep), self._places, strict=True))

    def int8_amounts(self, keep: Keep) -> Floats:
        """Returns what 8 bits cost beside that: 1 for the file, the tensors in them, and rows, which have scales."""
        share = {name: len(stay) / self.groups[name].size for name, stay in keep.items()}
        in_8_bits = [
            place
            for n, place in zip(self._numbers(keep), self._places, strict=True)
            if n and place.int8_item_bytes < place.item_bytes
        ]
        return np.array([1.0, len(in_8_bits), sum(_length(place, 0, share) for place in in_8_bits)])

    def amounts(self, keep: Keep) -> Floats:
        """Returns how much there is of each part, (P,)."""
        counted, parameters = zip(self._numbers(keep), self._places, strict=True), self.parameters(keep)
        macs = sum(n * place.reals * place.weight_macs for n, place in counted)
        layers = {name: keep[name] for name in self._stacks if name in keep}
        units = [
            sum(len(keep.get(group.name, range(group.size))) for group in family if not is_gone(group, layers))
            for family in self._families.values()
        ]
        stacked = [len(keep.get(name, range(self.groups[name].size))) for name in self._stacks]
        large = max(0.0, parameters - self._whole / 2) / 1e3
        return np.array([1.0, macs / 1e6, parameters / 1e3, large, *stacked, *units])


def family_of(group: Group) -> str:
    """Returns what the same groups of all layers have in common: their names without numbers."""
    return re.sub(r"\.\d+", "", group.name)


# Which models are measured


def models_to_measure(groups: Sequence[Group], tile: int, count: int = MEASURED) -> list[Keep]:
    """Returns choices of units that span what a search may find: the dense model, the smallest, then along all axes.

    Which of a group's units stay is all one: the first.
    """
    families = dict.fromkeys(map(family_of, groups))

    def cut(share_of: Callable[[Group], float]) -> Keep:
        return cut_to(groups, tile, share_of)

    def along(family: str, share: float) -> Keep:
        return cut(lambda group: share if family_of(group) == family else 1.0)

    found = [cut(lambda _: 1.0), cut(lambda _: 0.0)]
    found += [uniform(groups, tile, share) for share in KEPT_SHARES]
    found += [along(family, share) for share in (0.0, 1 / 2) for family in families]
    draw = Random(0)
    while len(found) < 4 * count:
        shares = {family: draw.choice((1.0, *KEPT_SHARES, 0.0)) for family in families}
        found.append(cut(lambda group, shares=shares: shares[family_of(group)]))  # type: ignore[misc]
    named: dict[tuple[tuple[str, int], ...], Keep] = {}
    for keep in found:
        named.setdefault(tuple(sorted((name, len(units)) for name, units in keep.items())), keep)
    return list(named.values())[:count]


def cut_to(groups: Sequence[Group], tile: int, share_of: Callable[[Group], float]) -> Keep:
    """Returns which units stay, the first, where of each group a share does, as near as tiles and the least allow."""
    stay = {}
    for group in groups:
        step, share = tile_of(group, tile), share_of(group)
        wanted = max(least_units(group, tile), round(group.size * share / step) * step)
        if share < 1 and wanted < group.size:
            stay[group.name] = wanted
    layers = {group.name: torch.arange(stay[group.name]) for group in groups if group.stack and group.name in stay}
    kept = {group.name: group for group in groups if group.name in stay and not is_gone(group, layers)}
    return {name: torch.arange(stay[name]) for name in kept}


def uniform(groups: Sequence[Group], tile: int, share: float) -> Keep:
    """Returns which units stay where the same share of heads, units and widths does everywhere, and all layers do."""
    return cut_to(groups, tile, lambda group: 1.0 if group.stack else share)


@dataclass
class Stopwatch:
    """Measures untrained models in a runtime, each in turn with the dense one: a machine that slows down does not show.

    Attributes:
        saved: the dense model.
        runtime: name of the runtime.
        config: threads and batch.
        inputs: real windows in raw units.
        folder: an empty one, for artefacts.
        dense_ms: time of the dense model when it was first measured.
        quantizer: how a model comes to 8 bits; the runtime's first when absent.
    """

    saved: SavedModel
    runtime: str
    config: MeasureConfig
    inputs: Inputs
    folder: Path
    dense_ms: float | None = None
    quantizer: Quantizer | None = None

    def __call__(self, keep: Keep) -> Costs:
        """Returns the costs of the model that has only these units."""
        path = self._written(keep)
        reference = self.folder / f"dense{path.suffix}"
        if not reference.exists():
            write_artefact(self.saved, self.runtime, reference)
        timing = self.time(path, reference)
        assert timing.reference is not None
        self.dense_ms = self.dense_ms or timing.reference.median
        latency_ms = timing.latency.median * self.dense_ms / timing.reference.median
        return costs_of(self.runtime, path, latency_ms, timing)

    def glance(self, keep: Keep, asked: Budgets) -> Costs:
        """Returns the costs of one model by itself, at once; its bytes alone where nothing else is asked."""
        path = self._written(keep)
        seen = costs_of(self.runtime, path, math.nan)
        if asked.max_bytes is not None and seen.bytes > asked.max_bytes:
            seen = seen.model_copy(update={"int8_bytes": self.weigh(keep)})
        if asked.max_latency_ms is None and (asked.max_memory_bytes is None or seen.memory_bytes is not None):
            return seen
        timing = self.time(path)
        known = costs_of(self.runtime, path, timing.latency.median, timing)
        return known.model_copy(update={"int8_bytes": seen.int8_bytes})

    def weigh(self, keep: Keep) -> int | None:
        """Returns the bytes of the model in 8 bits; None where the runtime has none for it."""
        kind = RUNTIMES.load(self.runtime)
        if not isinstance(kind, Int8Runtime):
            return None
        path = self.folder / f"int8{kind.suffix}"
        window = {name: values[:1] for name, values in self.inputs.items()}  # the ranges change no bytes
        asked = {} if self.quantizer is None else {"quantizer": self.quantizer}
        try:
            kind.quantised(untrained(self.saved, keep), [window], **asked).export(path)
        except UserError:
            return None
        return costs_of(self.runtime, path, math.nan).bytes

    def time(self, path: Path, reference: Path | None = None) -> Timing:
        """Times what the runtime loads, for a short time."""
        return time_against(self.runtime, path, reference, self.inputs, self.config.model_copy(update=QUICK))

    def _written(self, keep: Keep) -> Path:
        """Writes the untrained model that has only these units."""
        path = self.folder / f"smaller{RUNTIMES.load(self.runtime).suffix}"
        write_artefact(untrained(self.saved, keep), self.runtime, path)
        return path


def untrained(saved: SavedModel, keep: Keep) -> SavedModel:
    """Returns a model with only these units of another, its weights drawn anew: graph and costs are all that counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SavedModel(build(saved.model.shrunk_config(keep)).eval(), saved.metadata)


def write_artefact(saved: SavedModel, runtime: str, path: Path) -> None:
    """Writes what a runtime loads: its file, or a model folder where it runs that itself; replaces what is there."""
    kind: Runtime = RUNTIMES.load(runtime)
    if kind.suffix:
        kind.export(saved, path)
    else:
        path.mkdir(parents=True, exist_ok=True)
        save_model(saved, path)


def write_set(saved: SavedModel, runtime: str, inputs: Inputs, batch: int, folder: Path) -> int:
    """Writes the models that a table of costs is fitted to as files, to be timed on a device, see `measure.device`.

    Args:
        saved: the dense model.
        runtime: that the files are for.
        inputs: real windows in raw units.
        batch: how many of them a call takes.
        folder: an empty one.

    Returns:
        How many models there are.
    """
    suffix, models = RUNTIMES.load(runtime).suffix, dict[str, dict[str, int]]()
    for number, keep in enumerate(models_to_measure(saved.model.groups(), TILE)):
        name = f"{number:02}{suffix}"
        write_artefact(untrained(saved, keep) if keep else saved, runtime, folder / name)
        models[name] = {group: len(units) for group, units in keep.items()}
    np.savez(folder / INPUTS_FILE, allow_pickle=False, **{name: values[:batch] for name, values in inputs.items()})
    (folder / SET_FILE).write_text(json.dumps({"runtime": runtime, "batch": batch, "models": models}))
    return len(models)


def write_profile(saved: SavedModel, runtime: str, inputs: Inputs, config: MeasureConfig, out: Path) -> None:
    """Writes what smaller models cost on this machine to a JSON file, or the models to a folder, for a device.

    Raises:
        UserError: when it exists, or the runtime takes no files.
    """
    if not RUNTIMES.load(runtime).suffix:
        raise UserError(f"--profile-out: expected a runtime with files, such as onnxruntime, found {runtime!r}")
    if out.suffix != ".json":
        with new_directory(out) as folder:
            write_set(saved, runtime, inputs, config.batch, folder)
        return
    with TemporaryDirectory(prefix="prunecast-") as name, new_file(out) as temporary:
        write_set(saved, runtime, inputs, config.batch, Path(name))
        time_set(Path(name), config.threads).write(temporary)


def points_of(profile: DeviceProfile) -> list[Point]:
    """Returns the measured models of a device's profile."""
    return [
        Point(
            keep=dict(point.keep),
            costs=Costs(latency_ms=point.latency_ms, bytes=point.bytes, memory_bytes=point.memory_bytes),
        )
        for point in profile.points
    ]


def costs_of(runtime: str, path: Path, latency_ms: float, timing: Timing | None = None) -> Costs:
    """Returns what an artefact costs: of a runtime for devices the flash and the memory that its file tells.

    Args:
        runtime: that it is for.
        path: the artefact.
        latency_ms: of a call.
        timing: on this machine, whose memory counts where the file tells none.
    """
    kind: Runtime = RUNTIMES.load(runtime)
    if isinstance(kind, EmbeddedRuntime):
        flash_bytes, memory_bytes = kind.footprint(path)
        return Costs(latency_ms=latency_ms, bytes=flash_bytes, memory_bytes=memory_bytes)
    memory = None if timing is None else timing.peak_memory_bytes
    return Costs(latency_ms=latency_ms, bytes=bytes_of(path), memory_bytes=memory)


def bytes_of(path: Path) -> int:
    """Returns the bytes of an artefact, or of the tensors in a model folder."""
    return (path if path.is_file() else path / "model.safetensors").stat().st_size


# The fit


class Fitted(Strict):
    """A sum of parts with coefficients that are not negative.

    Attributes:
        coefficients: of each part.
        residuals: of each measured model, as a share of what was measured.
        scale: that a later correction multiplies all with.
    """

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    scale: float = 1.0

    @classmethod
    def to(cls, amounts_NP: Floats, measured_N: Floats) -> Self:
        """Returns the fit with the least sum of squared relative residuals (Lawson and Hanson's NNLS)."""
        rows_NP = amounts_NP / measured_N[:, None]
        size_P = np.maximum(np.abs(rows_NP).max(axis=0), 1e-12)
        found_P, _ = nnls(rows_NP / size_P, np.ones(len(measured_N)))
        coefficients_P = found_P / size_P
        residuals_N = amounts_NP @ coefficients_P / measured_N - 1
        return cls(coefficients=tuple(coefficients_P.tolist()), residuals=tuple(residuals_N.tolist()))

    def __call__(self, amounts_P: Floats) -> float:
        """Returns what the parts cost together."""
        return float(self.scale * (amounts_P @ np.array(self.coefficients)))

    def corrected(self, pairs: Sequence[tuple[float, float]]) -> Self:
        """Returns the fit rescaled by models that were measured since: (predicted, measured) of each."""
        ratios = [np.log(measured / predicted) for predicted, measured in pairs]
        return self.model_copy(update={"scale": self.scale * float(np.exp(np.mean(ratios)))}) if ratios else self

    @property
    def residual(self) -> float:
        """The root mean square of the residuals."""
        return float(np.sqrt(np.mean(np.square(self.residuals))))


class Point(Strict):
    """A model that was measured: how many units of each group stay, and its costs."""

    keep: dict[str, int]
    costs: Costs


@dataclass(frozen=True)
class CostTable:
    """Predicts the costs of any smaller model of a dense one.

    Attributes:
        anatomy: counts what there is of one.
        latency: of its parts.
        overhead: bytes beside its tensors.
        int8_overhead: further ones where it is in 8 bits, of `Anatomy.int8_amounts`; None where nobody asks for them.
        memory: of its parts; None where it is not known of all models.
        points: that were measured.
    """

    anatomy: Anatomy
    latency: Fitted
    overhead: Fitted
    int8_overhead: Fitted | None = None
    memory: Fitted | None = None
    points: Sequence[Point] = field(default=(), repr=False)

    @classmethod
    def of(cls, anatomy: Anatomy, points: Sequence[Point]) -> Self:
        """Returns the table that is fitted to measured models."""
        keeps = [kept_first(point.keep) for point in points]
        amounts_NP = np.stack([anatomy.amounts(keep) for keep in keeps])
        latency_N = np.array([point.costs.latency_ms for point in points])
        beside_N = np.array(
            [max(point.costs.bytes - anatomy.bytes(keep), 1) for point, keep in zip(points, keeps, strict=True)]
        )
        weighed = [
            (anatomy.int8_amounts(keep), max(int8_bytes - anatomy.int8_bytes(keep) - beside, 1.0))
            for point, keep, beside in zip(points, keeps, beside_N.tolist(), strict=True)
            if (int8_bytes := point.costs.int8_bytes) is not None
        ]
        memory_N = np.array([point.costs.memory_bytes or 0 for point in points], dtype=float)
        return cls(
            anatomy,
            latency=Fitted.to(amounts_NP, latency_N),
            overhead=Fitted.to(amounts_NP, beside_N),
            int8_overhead=Fitted.to(*map(np.array, zip(*weighed, strict=True))) if weighed else None,
            memory=Fitted.to(amounts_NP, memory_N) if memory_N.all() else None,
            points=points,
        )

    def costs(self, keep: Keep) -> Costs:
        """Returns what a model with only these units costs."""
        amounts_P, int8_bytes = self.anatomy.amounts(keep), None
        overhead = self.overhead(amounts_P)
        if self.int8_overhead is not None:
            beside = overhead + self.int8_overhead(self.anatomy.int8_amounts(keep))
            int8_bytes = round(self.anatomy.int8_bytes(keep) + beside)
        return Costs(
            latency_ms=self.latency(amounts_P),
            bytes=round(self.anatomy.bytes(keep) + overhead),
            memory_bytes=None if self.memory is None else round(self.memory(amounts_P)),
            int8_bytes=int8_bytes,
        )


def kept_first(counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns a choice of the first units of each group; counting needs no more."""
    return {name: torch.arange(count) for name, count in counts.items()}

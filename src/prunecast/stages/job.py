"""What a stage is: what it is asked for, what names it, and on which other stages it rests.

A stage's fingerprint covers everything that determines its result: its part of the recipe, the data by content,
its parents, the code version of the stage, and for timings the machine. Commit and library versions are recorded,
not hashed. The machine of a timing is not hashed either: its name follows the hash, so that the timings of all
machines are found under one hash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from prunecast.recipe import Recipe, Section
from prunecast.records import Role, Stage
from prunecast.registry import METHODS

CODE_VERSIONS: dict[Stage, int] = {"train": 1, "prune": 1, "zero": 1, "finetune": 1, "export": 1, "measure": 1}
"""Raised when a stage's numbers change; a golden record holds that it is not forgotten."""

METRIC_VERSIONS = {"rmse": 2}
"""The same of a metric, for stages whose data section asks for it; 1 where it is absent, which names nothing."""

RECOVERY_VERSIONS = {"ridge": 2}
"""The same of a recovery, for the pruning by methods that have it and where a recipe asks for it."""

FINGERPRINT_DIGITS = 20


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage to run.

    Attributes:
        stage: which kind.
        role: what its result is for in a comparison.
        recipe: resolved; its `model` section is whole.
        data_sha256: content of the series.
        source: catalogue name or path of the series; it finds the data and names nothing.
        label: for people.
        parent: fingerprint of the stage whose model is taken.
        compared_with: small-dense only: the pruned model whose size it is given.
        unpruned: fine-tuning that looks back only: the stage whose model was pruned.
    """

    stage: Stage
    role: Role
    recipe: Recipe
    data_sha256: str
    source: str
    label: str = ""
    parent: str | None = None
    compared_with: str | None = None
    unpruned: str | None = None

    @property
    def links(self) -> tuple[str | None, ...]:
        """Fingerprints as they are hashed: parent, what it is timed against or looks back to, compared_with, ..."""
        return self.parent, self.unpruned, self.compared_with

    @property
    def needs(self) -> tuple[str, ...]:
        """Fingerprints of the stages that must be done before."""
        return tuple(dict.fromkeys(parent for parent in self.links if parent is not None))

    @property
    def prunes(self) -> bool:
        """Whether something is removed here: by pruning, or by fine-tuning where the method prunes in training."""
        tuned = self.stage == "finetune" and self.role == "pruned+finetuned"
        return self.stage == "prune" or (tuned and in_training(self.recipe))

    @cached_property
    def fingerprint(self) -> str:
        """Names the stage's result."""
        version = str(CODE_VERSIONS[self.stage])
        lines = (self.stage, version, self.data_sha256, *map(str, self.links), *_determining(self))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:FINGERPRINT_DIGITS]


@dataclass(frozen=True, kw_only=True)
class TimingJob(Job):
    """The timing of the parent's model.

    Attributes:
        reference: the model that is timed in turn with it.
        exports: the export stages of parent and reference.
        machine: hash of the machine that it is timed on.
    """

    stage: Stage = "measure"
    reference: str | None = None
    exports: tuple[str, ...]
    machine: str

    @property
    def links(self) -> tuple[str | None, ...]:
        """Fingerprints as they are hashed."""
        return self.parent, self.reference, self.compared_with, *self.exports

    @cached_property
    def fingerprint(self) -> str:
        """Names the stage's result."""
        return f"{super().fingerprint}-{self.machine}"


def what_is_timed(fingerprint: str) -> str:
    """Returns a timing's fingerprint without the machine: what it has in common with those of other machines."""
    return fingerprint.partition("-")[0]


def in_training(recipe: Recipe) -> bool:
    """Whether the recipe's method prunes while the model is fine-tuned: then there is no stage of pruning before."""
    return recipe.prune is not None and bool(METHODS.load(recipe.prune.method).trains)


def _determining(job: Job) -> tuple[str, ...]:
    """Returns the parts of the recipe that the stage reads; its parents' parts are in their fingerprints."""
    recipe = job.recipe
    changed = [f"{name} {METRIC_VERSIONS[name]}" for name in recipe.data.metrics if name in METRIC_VERSIONS]
    data, seed = "\n".join((_text(recipe.data, "name"), *changed)), str(recipe.seed)  # by content, not by name
    match job.stage:
        case "train":
            return data, _canonical(recipe.model), _text(recipe.train), seed
        case "prune":
            return data, *_pruning(recipe), seed
        case "zero":
            return (data,)
        case "finetune":
            known = ("dropout",) if recipe.finetune.dropout == "own" else ()  # as before there was a choice
            return data, _text(recipe.finetune, *known), *(_pruning(recipe) if job.prunes else ()), seed
        case "export":
            unscored = () if recipe.data.score_test else ("test part unscored",)
            return _text(recipe.export), *recipe.measure.runtimes, *unscored
        case "measure":
            return (_text(recipe.measure),)


def _pruning(recipe: Recipe) -> tuple[str, ...]:
    """Returns what determines the pruning by a recipe."""
    assert recipe.prune is not None
    recoveries = {METHODS.load(recipe.prune.method).recovery, recipe.prune.recovery}
    renewed = [f"{name} {version}" for name, version in RECOVERY_VERSIONS.items() if name in recoveries]
    return _text(recipe.prune), *renewed


@lru_cache(maxsize=4096)
def _text(section: Section, *left_out: str) -> str:
    """Returns a section's canonical text; a large plan asks for few different ones, but for each of them often."""
    return _canonical(section.model_dump(mode="json", exclude=set(left_out)))


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

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

CODE_VERSIONS: dict[Stage, int] = {"train": 1, "prune": 1, "zero": 1, "finetune": 1, "export": 1, "measure": 1}
"""Raised when a stage's numbers change; a golden record holds that it is not forgotten."""


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
        parent: fingerprint of the stage whose model is taken.
        reference: measure only: the model that is timed in turn with the parent's.
        exports: measure only: the export stages of parent and reference.
        compared_with: small-dense only: the pruned model whose size it is given.
        machine: measure only: hash of the machine that it is timed on.
        label: for people.
    """

    stage: Stage
    role: Role
    recipe: Recipe
    data_sha256: str
    source: str
    parent: str | None = None
    reference: str | None = None
    exports: tuple[str, ...] = ()
    compared_with: str | None = None
    machine: str | None = None
    label: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Names the stage's result."""
        parents = (self.parent, self.reference, self.compared_with, *self.exports)
        version = str(CODE_VERSIONS[self.stage])
        lines = (self.stage, version, self.data_sha256, *map(str, parents), *_determining(self.stage, self.recipe))
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:FINGERPRINT_DIGITS]
        return digest if self.machine is None else f"{digest}-{self.machine}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Fingerprints of the stages that must be done before."""
        parents = (self.parent, self.reference, self.compared_with, *self.exports)
        return tuple(dict.fromkeys(parent for parent in parents if parent is not None))


def what_is_timed(fingerprint: str) -> str:
    """Returns a timing's fingerprint without the machine: what it has in common with those of other machines."""
    return fingerprint.partition("-")[0]


def _determining(stage: Stage, recipe: Recipe) -> tuple[str, ...]:
    """Returns the parts of the recipe that the stage reads; its parents' parts are in their fingerprints."""
    data, seed = _text(recipe.data, "name"), str(recipe.seed)  # data counts by content, not by name
    if stage == "train":
        return data, _canonical(recipe.model), _text(recipe.train), seed
    if stage == "prune":
        assert recipe.prune is not None
        return data, _text(recipe.prune), seed
    if stage == "finetune":
        return data, _text(recipe.finetune), seed
    if stage == "export":
        return _text(recipe.export), *recipe.measure.runtimes
    if stage == "measure":
        return (_text(recipe.measure),)
    return (data,)


@lru_cache(maxsize=4096)
def _text(section: Section, *left_out: str) -> str:
    """Returns a section's canonical text; a large plan asks for few different ones, but for each of them often."""
    return _canonical(section.model_dump(mode="json", exclude=set(left_out)))


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

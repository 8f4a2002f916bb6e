"""What a stage is: what it is asked for, what names it, and on which other stages it rests.

A stage's fingerprint covers everything that determines its result: its part of the recipe, the data by content,
its parents, the code version of the stage, and for timings the machine. Commit and library versions are recorded,
not hashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prunecast.recipe import Recipe, fingerprint
from prunecast.records import Role, Stage

CODE_VERSIONS: dict[Stage, int] = {"train": 1, "prune": 1, "zero": 1, "finetune": 1, "export": 1, "measure": 1}
"""Raised when a stage's numbers change; a golden record holds that it is not forgotten."""


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
        machine: measure only: hash of the machine.
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
        return fingerprint(
            {
                "stage": self.stage,
                "version": CODE_VERSIONS[self.stage],
                "data": self.data_sha256,
                "recipe": _determining(self.stage, self.recipe),
                "parents": [self.parent, self.reference, self.compared_with, *self.exports],
                "machine": self.machine,
            }
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """Fingerprints of the stages that must be done before."""
        parents = (self.parent, self.reference, self.compared_with, *self.exports)
        return tuple(dict.fromkeys(parent for parent in parents if parent is not None))

    @property
    def exclusive(self) -> bool:
        """Whether it must have the machine to itself, because a clock runs."""
        return self.stage == "measure"


def _determining(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """Returns the parts of the recipe that the stage reads; its parents' parts are in their fingerprints."""
    values = recipe.model_dump(mode="json")
    data = {key: value for key, value in values["data"].items() if key != "name"}  # data counts by content
    if stage == "train":
        return {"data": data, "model": values["model"], "fit": values["train"], "seed": recipe.seed}
    if stage == "prune":
        return {"data": data, "prune": values["prune"], "seed": recipe.seed}
    if stage == "finetune":
        return {"data": data, "fit": values["finetune"], "seed": recipe.seed}
    if stage == "export":
        return {"export": values["export"], "runtimes": values["measure"]["runtimes"]}
    if stage == "measure":
        return {"measure": values["measure"]}
    return {"data": data}

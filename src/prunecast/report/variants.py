"""From records to variants: which stages are one thing over several seeds, and which stage is whose parent.

A variant is what a row of the table is: a model after a method at a sparsity, on one data set and horizon.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prunecast.errors import UserError
from prunecast.recipe import fingerprint
from prunecast.records import Pruning, Role, RunRecord

MODEL_NAMES: Mapping[str, str] = {
    "transformer": "Transformer",
    "informer": "Informer",
    "autoformer": "Autoformer",
    "fedformer": "FEDformer",
    "crossformer": "Crossformer",
    "patchtst": "PatchTST",
    "itransformer": "iTransformer",
    "dlinear": "DLinear",
    "repeat": "last value",
    "seasonal_naive": "seasonal naive",
}
"""Registered name -> the name that people know; others are shown as they are."""

_SECTIONS: Mapping[Role, tuple[str, ...]] = {
    "dense": ("data", "model", "train"),
    "naive": ("data", "model"),
    "small-dense": ("data", "model", "train"),
    "zeroed-body": ("data", "model", "train"),
    "trained-on": ("data", "model", "train", "finetune"),
    "pruned": ("data", "model", "train", "prune"),
    "pruned+finetuned": ("data", "model", "train", "prune", "finetune"),
}
"""What of a recipe makes two seeds the same variant."""

_ROLE_ORDER: tuple[Role, ...] = (
    "dense",
    "trained-on",
    "pruned",
    "small-dense",
    "zeroed-body",
    "naive",
)


class Case(NamedTuple):
    """Numbers of one case may be ranked: one data set, one horizon."""

    dataset: str
    horizon: int

    @property
    def title(self) -> str:
        """The case in words."""
        return f"{self.dataset}, horizon {self.horizon}"


@dataclass(frozen=True)
class Variant:
    """One row of the table; equal for all seeds.

    Attributes:
        case: data set and horizon.
        model: name for people; where several configurations share it, with what sets them apart.
        role: what it is in its study.
        method: pruning method, also of the variant whose size a small dense model has; None for the others.
        requested: share that was to be removed, in the method's own budget.
        key: tells apart variants that read the same.
    """

    case: Case
    model: str
    role: Role
    method: str | None
    requested: float | None
    key: str

    @property
    def finetuned(self) -> bool:
        """Whether training went on after the dense model was done."""
        return self.role in ("trained-on", "pruned+finetuned")

    @property
    def series(self) -> str:
        """What it is coloured by: the method of a pruned variant, the role of a control."""
        if self.role in ("pruned", "pruned+finetuned"):
            assert self.method is not None, "a pruned variant has a method"
            return self.method
        return {"small-dense": "small dense", "zeroed-body": "zeroed body", "trained-on": "trained on"}.get(
            self.role, self.role
        )

    @property
    def name(self) -> str:
        """The variant within its model, in a few words."""
        percent = "" if self.requested is None else f" {100 * self.requested:.4g} %"
        if self.role == "naive":
            return "naive forecast"
        if self.role == "small-dense":
            return f"small dense, as {self.method}{percent}" if self.method else "small dense"
        return f"{self.series}{percent}" + (", fine-tuned" if self.role == "pruned+finetuned" else "")

    @property
    def full_name(self) -> str:
        """The variant with its model."""
        return self.model if self.role == "naive" else f"{self.model} {self.name}"


@dataclass(frozen=True)
class Study:
    """The records of a study, by variant and seed, and how they hang together."""

    runs: Mapping[Variant, Mapping[int, RunRecord]]
    by_fingerprint: Mapping[str, RunRecord]
    variant_of: Mapping[str, Variant]
    taken: Mapping[str, tuple[RunRecord, ...]] = field(default_factory=dict)
    """Fingerprint of a model's stage -> the stages that exported or timed that model."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, in the order of the table."""
        return tuple(dict.fromkeys(variant.case for variant in self.runs))

    def of(self, case: Case) -> tuple[Variant, ...]:
        """Returns a case's variants in the order of a table."""
        return tuple(variant for variant in self.runs if variant.case == case)

    def dense(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense model that a variant is held against: itself for a dense one, None for a naive one."""
        return _dense(record, self.by_fingerprint)

    def trained_on(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense parent trained on as the fine-tuned `record` was, where the study has it."""
        dense = self.dense(record)
        if record.role != "pruned+finetuned" or dense is None:
            return None
        wanted = record.recipe.get("finetune")
        for other in self.by_fingerprint.values():
            is_control = other.role == "trained-on" and other.stage == "finetune"
            if is_control and other.parent == dense.fingerprint and other.recipe.get("finetune") == wanted:
                return other
        return None

    def small_dense(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense model of a pruned variant's size, trained from scratch, where the study has it."""
        own = {record.fingerprint, record.parent}
        for other in self.by_fingerprint.values():
            if other.role == "small-dense" and other.stage == "train" and other.compared_with in own:
                return other
        return None


def collect(records: Sequence[RunRecord]) -> Study:
    """Returns the study that the records make up; their order does not matter.

    Raises:
        UserError: when two records claim to be the same seed of the same variant.
    """
    by_fingerprint = {record.fingerprint: record for record in sorted(records, key=lambda r: r.fingerprint)}
    models = [record for record in by_fingerprint.values() if _is_model(record)]
    namer = _Namer(models, by_fingerprint)
    runs: dict[Variant, dict[int, RunRecord]] = {}
    variant_of: dict[str, Variant] = {}
    for record in models:
        variant = variant_of[record.fingerprint] = namer.variant(record)
        twin = runs.setdefault(variant, {}).setdefault(record.seed, record)
        if twin is not record:
            raise UserError(
                f"expected one record of {variant.name!r} at seed {record.seed}, found {twin.fingerprint} and "
                f"{record.fingerprint}; report one study at a time"
            )
    rank = _Rank(runs)
    ordered = {variant: dict(sorted(runs[variant].items())) for variant in sorted(runs, key=rank.of)}
    return Study(ordered, by_fingerprint, variant_of, _taken(by_fingerprint.values()))


def _is_model(record: RunRecord) -> bool:
    return record.stage not in ("export", "measure") and record.test is not None


def _taken(records: Iterable[RunRecord]) -> dict[str, tuple[RunRecord, ...]]:
    taken: dict[str, tuple[RunRecord, ...]] = {}
    for record in records:
        if record.stage in ("export", "measure") and record.parent is not None:
            taken[record.parent] = (*taken.get(record.parent, ()), record)
    return taken


class _Rank:
    """The order of a table: large models first, naive forecasts last; then roles, methods (random last), sparsities."""

    def __init__(self, runs: Mapping[Variant, Mapping[int, RunRecord]]) -> None:
        self.parameters: dict[tuple[Case, str], int] = {}
        for variant, found in runs.items():
            largest = max(record.size.parameters if record.size else 0 for record in found.values())
            at = (variant.case, variant.model)
            self.parameters[at] = max(largest, self.parameters.get(at, 0))

    def of(self, variant: Variant) -> tuple[Any, ...]:
        """Returns the sort key of a variant."""
        role = "pruned" if variant.role == "pruned+finetuned" else variant.role
        method = variant.method or ""
        return (
            variant.case,
            variant.role == "naive",
            -self.parameters[variant.case, variant.model],
            variant.model,
            _ROLE_ORDER.index(role),
            "random" in method,
            method,
            variant.requested or 0.0,
            variant.finetuned,
            variant.key,
        )


def _dense(record: RunRecord, by_fingerprint: Mapping[str, RunRecord]) -> RunRecord | None:
    if record.role == "dense":
        return record
    above = record.compared_with if record.role == "small-dense" else record.parent
    parent = by_fingerprint.get(above or "")
    return None if parent is None else _dense(parent, by_fingerprint)


class _Namer:
    """Names variants so that two which differ in their settings never read the same."""

    def __init__(self, models: Sequence[RunRecord], by_fingerprint: Mapping[str, RunRecord]) -> None:
        self.by_fingerprint = by_fingerprint
        self.datasets = _Labels(((r.data.name, r.recipe["data"]) for r in models), ignore={"name", "scoring"})
        roots = [r for r in models if r.role in ("dense", "naive")]
        self.models = _Labels((((self._case(r), r.model), r.recipe["model"]) for r in roots), ignore={"name"})
        pruned = [r for r in models if self._method(r) is not None and r.role != "small-dense"]
        self.methods = _Labels(
            (((self._case(r), self._method(r)), r.recipe.get("prune") or {}) for r in pruned),
            ignore={"method", "sparsity"},
        )

    def variant(self, record: RunRecord) -> Variant:
        """Returns the variant that a model's record belongs to."""
        case = self._case(record)
        root = _dense(record, self.by_fingerprint) or record
        model = MODEL_NAMES.get(root.model, root.model)
        source = self._source(record)
        method = self._method(source)
        return Variant(
            case=case,
            model=self.models.name((case, root.model), model, root.recipe["model"]),
            role=record.role,
            method=method and self.methods.name((case, method), method, source.recipe.get("prune") or {}),
            requested=self._requested(source),
            key=_identity(source) if record.role != "small-dense" else f"small {_identity(source)}",
        )

    def _case(self, record: RunRecord) -> Case:
        name = self.datasets.name(record.data.name, record.data.name, record.recipe["data"])
        return Case(name, int(record.recipe["model"]["horizon"]))

    def _source(self, record: RunRecord) -> RunRecord:
        """Returns the pruned stage that a small dense model was sized after, else the record itself."""
        return self.by_fingerprint.get(record.compared_with or "", record)

    def _pruning(self, record: RunRecord) -> Pruning | None:
        if record.pruning is not None or record.role != "pruned+finetuned":
            return record.pruning
        parent = self.by_fingerprint.get(record.parent or "")
        return None if parent is None else parent.pruning

    def _method(self, record: RunRecord) -> str | None:
        pruning = self._pruning(record)
        return None if pruning is None else pruning.method

    def _requested(self, record: RunRecord) -> float | None:
        return None if self._pruning(record) is None else float(record.recipe["prune"]["sparsity"])


class _Labels:
    """Adds to a name the settings in which the configurations of that name differ."""

    def __init__(self, entries: Iterable[tuple[Hashable, Mapping[str, Any]]], ignore: set[str]) -> None:
        sections: dict[Hashable, list[Mapping[str, Any]]] = {}
        for group, section in entries:
            sections.setdefault(group, []).append(section)
        self.keys = {group: _differing(found, ignore) for group, found in sections.items()}

    def name(self, group: Hashable, name: str, section: Mapping[str, Any]) -> str:
        """Returns the name, with "(key=value, ...)" where it alone would not do."""
        differing = self.keys.get(group, ())
        settings = ", ".join(f"{key}={section.get(key)}" for key in differing)
        return f"{name} ({settings})" if settings else name


def _differing(sections: Sequence[Mapping[str, Any]], ignore: set[str]) -> tuple[str, ...]:
    keys = sorted({key for section in sections for key in section} - ignore)
    return tuple(key for key in keys if len({repr(section.get(key)) for section in sections}) > 1)


def _identity(record: RunRecord) -> str:
    """Returns what the seeds of a variant share; a small dense model without its original stands alone."""
    sections = {name: record.recipe.get(name) for name in _SECTIONS[record.role]}
    return fingerprint({"role": record.role, "model": record.model, "of": record.compared_with, **sections})

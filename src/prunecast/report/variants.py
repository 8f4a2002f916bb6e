"""From records to variants: which stages are one thing over several seeds, and which stage is whose parent.

A variant is what a row of the table is: a model after a method at a sparsity, on one data set and horizon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, get_args

from prunecast.errors import UserError
from prunecast.recipe import fingerprint
from prunecast.records import Accuracy, Pruning, Role, RunRecord, Scoring
from prunecast.report.format import percent
from prunecast.report.naming import MODEL_NAMES, Labels, identity

_ROLE_ORDER: tuple[Role, ...] = (
    "dense",
    "dense-continued",
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
    def pruned(self) -> bool:
        """Whether something was removed, fine-tuned afterwards or not."""
        return self.role in ("pruned", "pruned+finetuned")

    @property
    def finetuned(self) -> bool:
        """Whether training went on after the dense model was done."""
        return self.role in ("dense-continued", "pruned+finetuned")

    @property
    def series(self) -> str:
        """What it is coloured by: the method of a pruned variant, the role of a control."""
        if self.pruned:
            assert self.method is not None, "a pruned variant has a method"
            return self.method
        return {"small-dense": "small dense", "zeroed-body": "zeroed body", "dense-continued": "trained on"}.get(
            self.role, self.role
        )

    @property
    def name(self) -> str:
        """The variant within its model, in a few words."""
        share = "" if self.requested is None else f" {percent(self.requested)}"
        if self.role == "naive":
            return "naive forecast"
        if self.role == "small-dense":
            return f"small dense, as {self.method}{share}" if self.method else "small dense"
        return f"{self.series}{share}" + (", fine-tuned" if self.role == "pruned+finetuned" else "")

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
        return tuple(self._by_case)

    def of(self, case: Case) -> tuple[Variant, ...]:
        """Returns a case's variants in the order of a table."""
        return self._by_case.get(case, ())

    @cached_property
    def _by_case(self) -> dict[Case, tuple[Variant, ...]]:
        found: dict[Case, list[Variant]] = {}
        for variant in self.runs:
            found.setdefault(variant.case, []).append(variant)
        return {case: tuple(variants) for case, variants in found.items()}

    def accuracy(self, record: RunRecord) -> Accuracy:
        """Returns the test error in the scoring that all records of its case have: full where there is a choice."""
        found = accuracies(record)
        return found.get(self._scorings[self.variant_of[record.fingerprint].case]) or next(iter(found.values()))

    @cached_property
    def _scorings(self) -> dict[Case, Scoring]:
        """The scoring of each case; where none is common, that of its first record: `check_comparable` refuses it."""
        chosen: dict[Case, Scoring] = {}
        for case, variants in self._by_case.items():
            have = [accuracies(record).keys() for variant in variants for record in self.runs[variant].values()]
            shared = [scoring for scoring in get_args(Scoring) if all(scoring in found for found in have)]
            chosen[case] = shared[0] if shared else next(iter(have[0]))
        return chosen

    def dense(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense model that a variant is held against: itself for a dense one, None for a naive one."""
        return _dense(record, self.by_fingerprint)

    def trained_on(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense parent trained on as the fine-tuned `record` was, where the study has it."""
        dense = self.dense(record)
        if record.role != "pruned+finetuned" or dense is None:
            return None
        return self._tuned.get((dense.fingerprint, _tuning(record)))

    def small_dense(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense model of a pruned variant's size, trained from scratch, where the study has it."""
        return self._small.get(record.fingerprint) or self._small.get(record.parent)

    def zeroed_body(self, record: RunRecord) -> RunRecord | None:
        """Returns the dense parent with its body zeroed, where the study has it."""
        dense = self.dense(record)
        return None if dense is None else self._zeroed.get(dense.fingerprint)

    @cached_property
    def _tuned(self) -> dict[tuple[str | None, str], RunRecord]:
        found = (r for r in self.by_fingerprint.values() if r.role == "dense-continued" and r.stage == "finetune")
        return {(record.parent, _tuning(record)): record for record in found}

    @cached_property
    def _small(self) -> dict[str | None, RunRecord]:
        found = (r for r in self.by_fingerprint.values() if r.role == "small-dense" and r.stage == "train")
        return {record.compared_with: record for record in found if record.compared_with is not None}

    @cached_property
    def _zeroed(self) -> dict[str | None, RunRecord]:
        found = (r for r in self.by_fingerprint.values() if r.role == "zeroed-body" and r.stage == "zero")
        return {record.parent: record for record in found}


def accuracies(record: RunRecord) -> dict[Scoring, Accuracy]:
    """Returns the test errors of a record, by scoring: the same forecasts may have been scored in both ways."""
    return {found.scoring: found for found in (record.test, record.test_paper) if found is not None}


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
    taken: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.stage in ("export", "measure") and record.parent is not None:
            taken.setdefault(record.parent, []).append(record)
    return {fingerprint: tuple(found) for fingerprint, found in taken.items()}


def _tuning(record: RunRecord) -> str:
    return fingerprint(record.recipe.get("finetune") or {})


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
    """Finds the variant of a record, named so that it is not taken for another."""

    def __init__(self, models: Sequence[RunRecord], by_fingerprint: Mapping[str, RunRecord]) -> None:
        self.by_fingerprint = by_fingerprint
        self.datasets = Labels(((r.data.name, r.recipe["data"]) for r in models), ignore={"name", "scoring"})
        roots = [r for r in models if r.role in ("dense", "naive")]
        self.models = Labels((((self._case(r), r.model), r.recipe["model"]) for r in roots), ignore={"name"})
        pruned = [r for r in models if self._method(r) is not None and r.role != "small-dense"]
        self.methods = Labels(
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
            key=identity(source) if record.role != "small-dense" else f"small {identity(source)}",
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

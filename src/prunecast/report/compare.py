"""Which variant is held against which, seed by seed and block by block, and what may be said of the difference.

A variant is what a row of a table is: a model after a method at a sparsity, on one data set and horizon; its runs
differ in the seed alone. A row is what the study's frame has of one run. S seeds, B blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from prunecast.errors import UserError
from prunecast.recipe import LOOKS_BACK, fingerprint, read_by_control, with_recovery
from prunecast.records import Role, Scoring
from prunecast.report.statistics import Difference, Floats, Interval, LogRatio, difference
from prunecast.report.style import MODEL_NAMES, percent
from prunecast.study.frame import StageRow, StudyFrame

Against = Literal["dense", "dense-continued", "small-dense", "random", "naive", "zeroed-body"]
Verdict = Literal["better", "worse", "not told apart", "no interval"]

FLOORS: tuple[Against, ...] = ("naive", "zeroed-body")
"""What costs nothing to learn; a variant that is not better than that has nothing left to lose."""

_ROLE_ORDER: tuple[Role, ...] = ("dense", "dense-continued", "pruned", "small-dense", "zeroed-body", "naive")

_PRUNED: tuple[Role, ...] = ("pruned", "pruned+finetuned")

_SECTIONS: Mapping[Role, tuple[str, ...]] = {
    "dense": ("data", "model", "train"),
    "naive": ("data", "model"),
    "small-dense": ("data", "model", "train"),
    "zeroed-body": ("data", "model", "train"),
    "dense-continued": ("data", "model", "train", "finetune"),
    "pruned": ("data", "model", "train", "prune"),
    "pruned+finetuned": ("data", "model", "train", "prune", "finetune"),
}
"""What of a recipe makes two seeds the same variant."""


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
        sparsity_requested: share that was to be removed, in the method's own budget.
        key: tells apart variants that read the same.
        is_control: whether its method is there to be beaten: it removes at random.
    """

    case: Case
    model: str
    role: Role
    method: str | None
    sparsity_requested: float | None
    key: str
    is_control: bool = False

    @property
    def pruned(self) -> bool:
        """Whether something was removed, fine-tuned afterwards or not."""
        return self.role in _PRUNED

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
        return {"small-dense": "small dense", "zeroed-body": "zeroed body"}.get(self.role, self.role)

    @property
    def name(self) -> str:
        """The variant within its model, in a few words."""
        share = "" if self.sparsity_requested is None else f" {percent(self.sparsity_requested)}"
        if self.role == "naive":
            return "naive forecast"
        if self.role == "small-dense":
            return f"small dense, as {self.method}{share}" if self.method else "small dense"
        return f"{self.series}{share}" + (", fine-tuned" if self.role == "pruned+finetuned" else "")

    @property
    def full_name(self) -> str:
        """The variant with its model."""
        return self.model if self.role == "naive" else f"{self.model} {self.name}"


def scorings(row: StageRow) -> dict[str, str]:
    """Returns the scorings of a run's test errors, each with what the columns of its errors start with."""
    found = {row["scoring"]: "test"} if "test_mse" in row else {}
    return found | ({"paper": "paper"} if "paper_mse" in row else {})


@dataclass(frozen=True)
class StudyRuns:
    """The runs of a study, by variant and seed, and how its stages hang together.

    Attributes:
        frame: what it was made from.
        runs: by variant, in the order of a table, and by seed.
        variant_of: the variant of each scored model's stage.
        taken: fingerprint of a model's stage -> the stages that exported or timed that model.
    """

    frame: StudyFrame
    runs: Mapping[Variant, Mapping[int, StageRow]]
    variant_of: Mapping[str, Variant]
    taken: Mapping[str, Sequence[StageRow]]

    @classmethod
    def of(cls, frame: StudyFrame) -> StudyRuns:
        """Returns the study that the stages make up; their order does not matter.

        Raises:
            UserError: when two stages claim to be the same seed of the same variant.
        """
        recipes = {name: _recipe(row["recipe"]) for name, row in frame.rows.items()}
        rows = {name: {**frame.rows[name], "recipe": recipes[name]} for name in sorted(recipes)}
        variant_of = _variants(rows)
        runs: dict[Variant, dict[int, StageRow]] = {}
        for name, variant in variant_of.items():
            twin = runs.setdefault(variant, {}).setdefault(rows[name]["seed"], rows[name])
            if twin is not rows[name]:
                raise UserError(
                    f"expected one record of {variant.name!r} at seed {twin['seed']}, found {twin['fingerprint']} and "
                    f"{name}; report one study at a time"
                )
        taken: dict[str, list[StageRow]] = {}
        for row in rows.values():
            if row["stage"] in ("export", "measure") and "parent" in row:
                taken.setdefault(row["parent"], []).append(row)
        return cls(frame, {key: dict(sorted(runs[key].items())) for key in _ordered(runs)}, variant_of, taken)

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, in the order of the table."""
        return tuple(self._by_case)

    def of_case(self, case: Case) -> tuple[Variant, ...]:
        """Returns a case's variants in the order of a table."""
        return self._by_case.get(case, ())

    @cached_property
    def _by_case(self) -> dict[Case, tuple[Variant, ...]]:
        return {case: tuple(variants) for case, variants in groupby(self.runs, key=lambda variant: variant.case)}

    @cached_property
    def _prefixes(self) -> dict[str, str]:
        """What the columns of each run's errors start with, in the scoring that its case has; full where it can be."""
        found: dict[str, str] = {}
        for variants in self._by_case.values():
            have = {r["fingerprint"]: scorings(r) for variant in variants for r in self.runs[variant].values()}
            shared = [scoring for scoring in get_args(Scoring) if all(scoring in of for of in have.values())]
            for name, of in have.items():  # where none is common, `comparisons` refuses the case
                found[name] = of[shared[0]] if shared else next(iter(of.values()))
        return found

    def scoring(self, row: StageRow) -> str:
        """Returns the scoring that all runs of a run's case have: full where there is a choice."""
        return "paper" if self._prefixes[row["fingerprint"]] == "paper" else str(row["scoring"])

    def error(self, row: StageRow, metric: str = "mse") -> float | None:
        """Returns a run's test error in the scoring of its case, where it has one in that metric."""
        return row.get(f"{self._prefixes[row['fingerprint']]}_{metric}")

    def windows(self, row: StageRow) -> int:
        """Returns how many test windows that error is of."""
        return int(row[f"{self._prefixes[row['fingerprint']]}_windows"])

    def blocks(self, row: StageRow, metric: str) -> tuple[Floats, Floats] | None:
        """Returns a run's errors by block, (B,), and the windows of each block, (B,), where they were kept."""
        name = row["fingerprint"]
        key = self._prefixes[name]
        errors, windows = (self.frame.values(name, kind, key) for kind in (f"block_{metric}", "block_windows"))
        return None if errors is None or windows is None else (errors, windows)

    def dense(self, row: StageRow) -> StageRow | None:
        """Returns the dense model that a run is held against: itself for a dense one, None for a naive one."""
        return _dense(row, self.frame.rows)

    def partners(self, row: StageRow) -> Iterator[tuple[Against, StageRow]]:
        """Yields what a run is held against, as far as the study has it; naive forecasts are several."""
        name, role, dense = row["fingerprint"], row["role"], self.dense(row)
        found: list[tuple[Against, StageRow | None]] = [("dense", dense)]
        if dense is not None and role == "pruned+finetuned":
            continued = self._controls.get(("dense-continued", dense["fingerprint"], _tuning(row)))
            found.append(("dense-continued", continued))
        if role in _PRUNED:
            if "method_control" in row:
                found.append(("random", self._drawn.get(self._removal(row, row["method_control"]))))
            own, bare = (self._controls.get(("small-dense", of, "")) for of in (name, row.get("parent", "")))
            found.append(("small-dense", own or bare))
        if role not in ("naive", "zeroed-body"):
            if dense is not None:
                found.append(("zeroed-body", self._controls.get(("zeroed-body", dense["fingerprint"], ""))))
            for other in self.of_case(self.variant_of[name].case):
                if other.role == "naive":  # nothing is drawn in it, so a single run serves all seeds
                    runs = self.runs[other]
                    found.append(("naive", runs.get(row["seed"]) or next(iter(runs.values()))))
        for against, partner in found:
            if partner is not None and partner["fingerprint"] in self.variant_of and partner["fingerprint"] != name:
                yield against, partner

    @cached_property
    def _controls(self) -> dict[tuple[Role, str, str], StageRow]:
        """Controls by role, the stage that they belong to, and, of dense models trained on, how they were."""
        found: dict[tuple[Role, str, str], StageRow] = {}
        for variant, runs in self.runs.items():
            above = "compared_with" if variant.role == "small-dense" else "parent"
            for row in runs.values():
                if above in row:
                    found[variant.role, row[above], _tuning(row) if variant.role == "dense-continued" else ""] = row
        return found

    @cached_property
    def _drawn(self) -> dict[Hashable, StageRow]:
        """What was pruned at random, by what it removed of which model, and how what stays made good for that."""
        drawn = (run for variant, runs in self.runs.items() if variant.is_control for run in runs.values())
        return {self._removal(row, row["method"]): row for row in drawn if row["role"] in _PRUNED}

    def _removal(self, row: StageRow, method: str) -> Hashable:
        """Returns all that a pruned model and its random control have in common, the control's method named."""
        dense, recovery = self.dense(row), row.get("recovery")
        settings = read_by_control(row["method"], row["recipe"]["prune"], recovery)
        settings |= {"method": method, "recovery": recovery}
        tuning = _tuning(row) if row["role"] == "pruned+finetuned" else ""
        return dense and dense["fingerprint"], row["role"], fingerprint(settings), tuning


def _recipe(text: str) -> dict[str, Any]:
    """Returns a stage's recipe; one from before there was a choice of dropout says what was done."""
    recipe: dict[str, Any] = json.loads(text)
    if recipe.get("finetune"):
        recipe["finetune"].setdefault("dropout", "own")
    return recipe


def _tuning(row: StageRow) -> str:
    section = row["recipe"].get("finetune") or {}
    return fingerprint({key: value for key, value in section.items() if key not in LOOKS_BACK})


def _dense(row: StageRow, rows: Mapping[str, StageRow]) -> StageRow | None:
    if row["role"] == "dense":
        return row
    above = rows.get(row.get("compared_with" if row["role"] == "small-dense" else "parent", ""))
    return None if above is None else _dense(above, rows)


def _ordered(runs: Mapping[Variant, Mapping[int, StageRow]]) -> list[Variant]:
    """Returns the order of a table: large models first, naive forecasts last; then roles, methods, sparsities."""
    parameters: dict[tuple[Case, str], int] = {}
    for variant, found in runs.items():
        at = (variant.case, variant.model)
        parameters[at] = max([parameters.get(at, 0), *(row.get("parameters", 0) for row in found.values())])

    def rank(variant: Variant) -> tuple[Any, ...]:
        role = "pruned" if variant.role == "pruned+finetuned" else variant.role
        return (
            *(variant.case, variant.role == "naive", -parameters[variant.case, variant.model], variant.model),
            *(_ROLE_ORDER.index(role), variant.is_control, variant.method or "", variant.sparsity_requested or 0.0),
            *(variant.finetuned, variant.key),
        )

    return sorted(runs, key=rank)


def _variants(rows: Mapping[str, StageRow]) -> dict[str, Variant]:
    """Returns the variant of each scored model's stage, named so that it is not taken for another."""
    models = [row for row in rows.values() if row["stage"] not in ("export", "measure") and "test_mse" in row]
    dataset_name = _namer(((row["dataset"], row["recipe"]["data"]) for row in models), {"name", "scoring"})
    cases = {
        row["fingerprint"]: Case(
            dataset_name(row["dataset"], row["dataset"], row["recipe"]["data"]), int(row["recipe"]["model"]["horizon"])
        )
        for row in models
    }
    entries = [(cases[row["fingerprint"]], row) for row in models]
    model_name = _namer(
        (((case, row["model"]), row["recipe"]["model"]) for case, row in entries if row["role"] in ("dense", "naive")),
        {"name"},
    )
    method_name = _namer(
        ((_removed_by(row), row["recipe"]["prune"]) for _, row in entries if row["role"] in _PRUNED),
        {"method", "sparsity", "recovery"},
    )
    found = {}
    for case, row in entries:
        root = _dense(row, rows) or row
        # a small dense model bears the name of the pruned stage that it was sized after
        source = rows.get(row.get("compared_with", ""), row)
        method = _removed_by(source) if source["role"] in _PRUNED else None
        # what the seeds of a variant share; a small dense model without its original stands alone
        sections = {name: source["recipe"].get(name) for name in _SECTIONS[source["role"]]}
        same = {"role": source["role"], "model": source["model"], "of": source.get("compared_with"), **sections}
        found[row["fingerprint"]] = Variant(
            case=case,
            model=model_name(
                (case, root["model"]), MODEL_NAMES.get(root["model"], root["model"]), root["recipe"]["model"]
            ),
            role=row["role"],
            method=method and method_name(method, method, source["recipe"]["prune"]),
            sparsity_requested=None if method is None else float(source["sparsity_requested"]),
            key=f"{'small ' if row['role'] == 'small-dense' else ''}{fingerprint(same)}",
            is_control=method is not None and bool(source["method_is_control"]),
        )
    return found


def _removed_by(row: StageRow) -> str:
    config = row["recipe"]["prune"]
    return with_recovery(config["method"], config.get("recovery"))


def _namer(
    entries: Iterable[tuple[Hashable, Mapping[str, Any]]], ignore: set[str]
) -> Callable[[Hashable, str, Mapping[str, Any]], str]:
    """Returns what adds "(key=value, ...)" to a name: the settings in which the configurations of a group differ.

    Args:
        entries: groups, and the recipe's sections of each.
        ignore: keys that a name says already.
    """
    sections: dict[Hashable, dict[str, Mapping[str, Any]]] = {}
    for group, section in entries:
        sections.setdefault(group, {}).setdefault(repr(section), section)
    differing = {
        group: [
            key
            for key in sorted({key for section in found.values() for key in section} - ignore)
            if len({repr(section.get(key)) for section in found.values()}) > 1
        ]
        for group, found in sections.items()
    }

    def named(group: Hashable, name: str, section: Mapping[str, Any]) -> str:
        said = (key for key in differing.get(group, ()) if key in section)  # what is left out is as by default
        # a shape has a number for each group: too long for a name
        settings = ", ".join("a given shape" if key == "keep" else f"{key}={section[key]}" for key in said)
        return f"{name} ({settings})" if settings else name

    return named


@dataclass(frozen=True)
class Comparison:
    """The test error of a variant minus that of another, over the seeds that both have.

    Attributes:
        variant: what is judged.
        other: what it is held against.
        against: why: its dense parent, that parent trained on, the small dense model of its size, the same removed at
            random, a naive forecast, its dense parent with the body zeroed.
        seeds: how many seeds both have.
        reference: mean error of `other` over these seeds.
        difference: mean difference of the errors.
        interval: of the difference, where there are errors by block and more than one block.
        evidence: what the interval is drawn from, where there are errors by block.
        fingerprints: of the records of both, seed by seed.
        metric: of the errors.
    """

    variant: Variant
    other: Variant
    against: Against
    seeds: int
    reference: float
    difference: float
    interval: Interval | None
    evidence: Difference | None = None
    fingerprints: tuple[tuple[str, str], ...] = ()
    metric: str = "mse"

    @property
    def verdict(self) -> Verdict:
        """Better or worse only when the interval leaves out 0."""
        if self.interval is None:
            return "no interval"
        if not self.interval.leaves_out_zero:
            return "not told apart"
        return "better" if self.interval.high < 0 else "worse"

    @property
    def relative(self) -> Interval | None:
        """The interval as a share of the reference's error."""
        found, whole = self.interval, self.reference
        return None if found is None else Interval(found.value / whole, found.low / whole, found.high / whole)

    @cached_property
    def log_ratio(self) -> LogRatio:
        """The error over the reference's, for means over data sets."""
        if self.evidence is None:
            return LogRatio(float(np.log1p(self.difference / self.reference)), None, self.reference)
        return LogRatio.of(self.evidence, self.reference)


@dataclass(frozen=True)
class Compared:
    """All comparisons of a study in one metric, in the order of the variants, to be asked by variant."""

    every: tuple[Comparison, ...]

    @cached_property
    def _by_variant(self) -> Mapping[tuple[Variant, Against], Sequence[Comparison]]:
        found: dict[tuple[Variant, Against], list[Comparison]] = {}
        for comparison in self.every:
            found.setdefault((comparison.variant, comparison.against), []).append(comparison)
        return found

    def of(self, variant: Variant, against: Against) -> Comparison | None:
        """Returns a variant's comparison with its only partner of a kind, where there is one."""
        return next(iter(self.all_of(variant, against)), None)

    def all_of(self, variant: Variant, against: Against) -> Sequence[Comparison]:
        """Returns a variant's comparisons with all its partners of a kind; naive forecasts are several."""
        return self._by_variant.get((variant, against), ())

    def floor_names(self, variant: Variant) -> tuple[str, ...]:
        """Returns what a saturated variant is not shown to be better than, in words; nothing for any other."""
        held = (comparison for against in FLOORS for comparison in self.all_of(variant, against))
        floors = (comparison for comparison in held if comparison.verdict in ("worse", "not told apart"))
        return tuple(dict.fromkeys("its zeroed body" if c.against == "zeroed-body" else c.other.model for c in floors))

    def saturated(self, variant: Variant) -> bool:
        """Whether a forecast that learned nothing, or a body of zeros, does as well as a trained variant."""
        return bool(self.floor_names(variant))


def comparisons(study: StudyRuns, metric: str = "mse") -> Compared:
    """Returns all comparisons of a study in one metric; runs without an error in it are left out.

    Raises:
        UserError: when a case's test errors differ in scoring, number of windows or data; names one of each.
    """
    for case in study.cases:
        _check_comparable(study, case)
    pairs: dict[tuple[Variant, Variant, Against], list[tuple[StageRow, StageRow]]] = {}
    for variant, runs in study.runs.items():
        for row in runs.values():
            for against, other in study.partners(row):
                if study.error(row, metric) is not None and study.error(other, metric) is not None:
                    pair = (variant, study.variant_of[other["fingerprint"]], against)
                    pairs.setdefault(pair, []).append((row, other))
    found = []
    for (variant, other_variant, against), rows in pairs.items():
        errors = [(study.error(own, metric) or 0.0, study.error(reference, metric) or 0.0) for own, reference in rows]
        evidence = _evidence(study, metric, rows)
        comparison = Comparison(
            variant,
            other_variant,
            against,
            seeds=len(rows),
            reference=float(np.mean([reference for _, reference in errors])),
            difference=float(np.mean([own - reference for own, reference in errors])),
            interval=None if evidence is None else evidence.interval(),
            evidence=evidence,
            fingerprints=tuple((own["fingerprint"], reference["fingerprint"]) for own, reference in rows),
            metric=metric,
        )
        found.append(comparison)
    return Compared(tuple(found))


def _check_comparable(study: StudyRuns, case: Case) -> None:
    """Refuses to rank numbers that do not belong together."""
    seen: dict[tuple[str, int, str], str] = {}
    for variant in study.of_case(case):
        for seed, row in study.runs[variant].items():
            scored = (study.scoring(row), study.windows(row), row["data_sha256"][:12])
            seen.setdefault(scored, f"{variant.full_name}, seed {seed}")
    if len(seen) > 1:
        found = "; ".join(f"{s} scoring of {w} windows of data {sha} ({who})" for (s, w, sha), who in seen.items())
        raise UserError(f"{case.title}: expected all variants scored on the same test windows, found {found}")


def _evidence(study: StudyRuns, metric: str, rows: Sequence[tuple[StageRow, StageRow]]) -> Difference | None:
    """Returns the difference with its spread; None where errors by block were not kept or blocks are not the same."""
    found = []
    for own, reference in rows:
        ours, theirs = study.blocks(own, metric), study.blocks(reference, metric)
        if ours is None or theirs is None or not np.array_equal(ours[1], theirs[1]):
            return None
        found.append((ours[0], theirs[0], ours[1]))
    own_SB, reference_SB, windows_SB = (np.stack(values) for values in zip(*found, strict=True))
    return difference(own_SB, reference_SB, windows_SB[0])

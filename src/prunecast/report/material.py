"""All that the pages of a report are made of, found once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from prunecast.records import RunRecord
from prunecast.report.clocks import Clocks
from prunecast.report.compare import Compared, comparisons
from prunecast.report.headline import budgets
from prunecast.report.published_errors import Deviation, deviations
from prunecast.report.speeds import Speed, speeds
from prunecast.report.tables import Frame, Rows, by_variant, runs_table, summary_table
from prunecast.report.theme import LOOKS, MODEL_LOOKS, Look, looks
from prunecast.report.thresholds import Ladders
from prunecast.report.variants import Case, Study, Variant, collect
from prunecast.store import RECORD_FILE, Store


@dataclass(frozen=True)
class Links:
    """Where the records lie, seen from the page; a report without a store names them only."""

    store: Store | None = None
    page: Path = Path()

    def record(self, fingerprint: str) -> str | None:
        """Returns the address of a record, relative to the page, or None where it is not known."""
        if self.store is None:
            return None
        target = self.store.directory(fingerprint) / RECORD_FILE
        return quote(Path(os.path.relpath(target, self.page.parent)).as_posix())


@dataclass(frozen=True)
class Material:
    """The study, what was compared in it, and the summary of each variant."""

    study: Study
    compared: Compared
    ladders: Ladders
    clocks: Clocks
    runs: Frame
    summary: Frame

    @classmethod
    def of(cls, records: Sequence[RunRecord]) -> Material:
        """Returns the material in the records of one study.

        Raises:
            UserError: when two records claim to be the same seed of one variant, or numbers were not scored alike.
        """
        study = collect(records)
        compared = comparisons(study)
        clocks = Clocks(study)
        runs = runs_table(study, clocks)
        return cls(study, compared, Ladders(compared), clocks, runs, summary_table(runs, compared))

    @cached_property
    def rows(self) -> Rows:
        """The summary by variant."""
        return by_variant(self.summary)

    def rows_of(self, case: Case) -> Rows:
        """Returns the summary of one data set and horizon."""
        return {variant: self.rows[variant] for variant in self.study.of(case)}

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each method and control is drawn."""
        return looks((variant.series for variant in self.study.runs), LOOKS)

    @cached_property
    def model_looks(self) -> Mapping[str, Look]:
        """How each model is drawn where models are compared."""
        return looks((variant.model for variant in self.study.runs), MODEL_LOOKS)

    @cached_property
    def datasets(self) -> Mapping[str, tuple[Case, ...]]:
        """The data sets and their horizons."""
        found: dict[str, list[Case]] = {}
        for case in self.study.cases:
            found.setdefault(case.dataset, []).append(case)
        return {name: tuple(cases) for name, cases in found.items()}

    @cached_property
    def models(self) -> Mapping[str, tuple[Variant, ...]]:
        """The trained models, those that were pruned first, each with its variants."""
        found: dict[str, list[Variant]] = {}
        for variant in self.study.runs:
            if variant.role != "naive":
                found.setdefault(variant.model, []).append(variant)
        order = sorted(found, key=lambda model: not any(variant.pruned for variant in found[model]))
        return {model: tuple(found[model]) for model in order}

    @cached_property
    def methods(self) -> Mapping[str, tuple[str, ...]]:
        """The methods of pruning, each with the models that it was tried on."""
        found: dict[str, list[str]] = {}
        for model, method in self.ladders.methods:
            found.setdefault(method, []).append(model)
        return {method: tuple(models) for method, models in found.items()}

    @cached_property
    def budgets(self) -> Mapping[str, str]:
        """Of what each method removes its share."""
        return budgets(self.study)

    @cached_property
    def speeds(self) -> Sequence[Speed]:
        """What was timed."""
        return speeds(self.rows, self.clocks.runtimes)

    @cached_property
    def deviations(self) -> Sequence[Deviation]:
        """Our dense errors beside published ones."""
        return deviations(self.study)


def file_stem(*parts: object) -> str:
    """Returns a file name of small letters, digits and dashes: names from data are remade, not taken."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(str(part) for part in parts).lower()).strip("-")[:80].strip("-")

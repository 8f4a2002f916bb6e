"""All that charts, tables, sentences and pages of a report are made of, found once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from prunecast.report.compare import Case, Compared, Comparison, StudyRuns, Variant, comparisons
from prunecast.report.published_errors import Deviation, deviations
from prunecast.report.statistics import Interval
from prunecast.report.style import BUDGET_NAMES, LOOKS, MODEL_LOOKS, Look, file_stem, looks
from prunecast.report.summary import Rows, Speed, Timings, by_variant, mean_speedup, runs_table, speeds, summary_table
from prunecast.report.thresholds import Sweeps
from prunecast.study.frame import StudyFrame


class Context:
    """A study and what is found in it.

    Attributes:
        study: the runs and how they hang together.
        compared: its comparisons, by metric; MSE is always there.
        mse: those of MSE.
        sweeps: how far methods go.
        timings: what was timed.
        runs: a row a run.
        summary: a row a variant.
        rows: the summary by variant.
    """

    def __init__(self, frame: StudyFrame) -> None:
        self.study = StudyRuns.of(frame)
        metrics = [metric for metric in frame.metrics() if metric != "mae"]
        self.compared: Mapping[str, Compared] = {metric: comparisons(self.study, metric) for metric in metrics}
        self.mse = self.compared["mse"]
        self.sweeps = Sweeps(self.mse)
        self.timings = Timings(self.study)
        self.runs = runs_table(self.study, self.timings)
        self.summary = summary_table(self.runs, self.compared)
        self.rows: Rows = by_variant(self.summary)

    def rows_of(self, case: Case) -> Rows:
        """Returns the summary of one data set and horizon."""
        return {variant: self.rows[variant] for variant in self.study.of_case(case)}

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each method and control is drawn."""
        return looks((variant.series for variant in self.study.runs), LOOKS)

    @cached_property
    def model_looks(self) -> Mapping[str, Look]:
        """How each model is drawn where models are compared."""
        return looks((variant.model for variant in self.study.runs), MODEL_LOOKS)

    @cached_property
    def datasets(self) -> Mapping[str, Sequence[Case]]:
        """The data sets and their horizons."""
        names = dict.fromkeys(case.dataset for case in self.study.cases)
        return {name: [case for case in self.study.cases if case.dataset == name] for name in names}

    @cached_property
    def models(self) -> Mapping[str, Sequence[Variant]]:
        """The trained models, those that were pruned first, each with its variants."""
        found: dict[str, list[Variant]] = {}
        for variant in self.study.runs:
            if variant.role != "naive":
                found.setdefault(variant.model, []).append(variant)
        order = sorted(found, key=lambda model: not any(variant.pruned for variant in found[model]))
        return {model: found[model] for model in order}

    @cached_property
    def model_pages(self) -> Mapping[str, str]:
        """The page of each model."""
        return {model: file_stem("model", number, model) for number, model in enumerate(self.models, start=1)}

    @cached_property
    def methods(self) -> Mapping[str, Sequence[str]]:
        """The methods of pruning and their controls, each with the models that it was tried on."""
        pairs = self.sweeps.methods
        return {name: [model for model, of in pairs if of == name] for name in dict.fromkeys(of for _, of in pairs)}

    def pairs_of(self, model: str) -> list[tuple[str, str]]:
        """Returns a model with each method that it was pruned by."""
        return [(model, method) for method, models in self.methods.items() if model in models]

    def harmless(self, case: Case, model: str) -> list[Comparison]:
        """Returns what of a model goes furthest without a loss, by each method with and without fine-tuning."""
        found = (self.sweeps.fair(*pair, tuned, case) for pair in self.pairs_of(model) for tuned in (False, True))
        reached = (sweep.no_loss for sweep in found if sweep is not None and sweep.no_loss is not None)
        return [comparison for level in reached for comparison in level.comparisons]

    def judged_methods(self, *, controls: bool = False) -> Mapping[str, Sequence[str]]:
        """Returns the methods that are no controls, or the controls alone, each with its models."""
        return {name: models for name, models in self.methods.items() if self.sweeps.is_control(name) == controls}

    @cached_property
    def budgets(self) -> Mapping[str, str]:
        """Of what each method removes its share."""
        found: dict[str, str] = {}
        for variant, runs in self.study.runs.items():
            of = next(iter(runs.values())).get("budget_of")
            if variant.pruned and variant.method is not None and of is not None:
                found.setdefault(variant.method, BUDGET_NAMES[of])
        return found

    @cached_property
    def speeds(self) -> Sequence[Speed]:
        """What was timed."""
        return speeds(self.rows, self.timings.labels)

    def reached_speedup(self, model: str, method: str) -> Interval | None:
        """Returns the main runtime's speed-up up to where no loss is shown; None where none is, or none was timed."""
        sweep = self.sweeps.best(model, method)
        if self.timings.main is None or sweep is None or sweep.no_loss is None:
            return None
        return mean_speedup((self.rows[one.variant] for one in sweep.no_loss.comparisons), self.timings.main)

    @cached_property
    def deviations(self) -> Sequence[Deviation]:
        """Our dense errors beside published ones."""
        return deviations(self.study)

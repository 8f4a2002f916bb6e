"""The search for the best artefact within budgets: from a dense model, through rungs of ever dearer candidates.

Each candidate is made by ordinary stages in the store, none of which scores the test part, so a search that was killed
goes on where it was: what was measured or trained is read, and every choice follows from what is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from prunecast.compress.budget import BudgetLine, Costs, TimeUp, time_limit
from prunecast.compress.candidates import (
    WHOLE,
    How,
    Question,
    Shape,
    Tried,
    best_shapes,
    increase_of,
    shape_of,
    uniform_shape,
)
from prunecast.compress.cost import (
    TILE,
    WEIGHED,
    Anatomy,
    CostTable,
    Point,
    Stopwatch,
    costs_of,
    kept_first,
    models_to_measure,
)
from prunecast.compress.delivery import Delivery, TestScores
from prunecast.errors import UserError
from prunecast.export.base import EmbeddedRuntime, Int8Runtime, SparseRuntime
from prunecast.inference import open_artifact
from prunecast.measure.machine_lock import alone
from prunecast.models.base import Keep
from prunecast.prune.methods import Statistics
from prunecast.recipe import PruneConfig, Recipe, StudyConfig, checked
from prunecast.records import Accuracy
from prunecast.registry import MODELS
from prunecast.report.statistics import Interval
from prunecast.resolve import with_model
from prunecast.stages.job import Job
from prunecast.stages.measure import real_inputs
from prunecast.stages.model import TrainedModel
from prunecast.stages.prune import calibration
from prunecast.stages.run import Chain
from prunecast.stages.train import FULLY_TUNED, tuning_rungs
from prunecast.study.executor import Executor, Monitor, Outcome, Workload, run_plan
from prunecast.train.evaluate import evaluate_both, score

FRONT = 16
"""Candidates along the front."""

SHIPPED, PATIENCE = 3, 2
"""Candidates that variants are made of, and rungs of tuning in a row that may be in vain."""

MEASURING, FEWEST = 0.25, 8
"""Share of a limited time that may go into the table of costs, and the models that it is made of at the least."""

MOST_TIMED = 4
"""Candidates that are exported and timed after a rung until the best is among them."""

ALIKE = 0.02
"""Two times closer than that are one: the smaller error decides."""

PROMISE = 5.0
"""How much a share of loss above the budget weighs against the logarithm of the time: training may win it back."""

DOUBT, SLOWED = 1.1, 2.0
"""How many times too long a glance at the clock may be, and one on a busy machine: no more is believed of it."""

WAITING = 0.25
"""Share of the time left that a timing may wait for other stages on this machine."""

WHOLE_PROCESS = " (the process with the runtime in it; a model alone takes less: runtime c)"
"""What is told with a memory that is out of reach: most of it is no model's."""

ZEROS = 0.9
"""Share of the weights that are zero in the variant for runtimes that leave zeros out."""


@dataclass
class Compression:
    """One search.

    Attributes:
        parent: the given model.
        source: where its data is found.
        question: what is asked.
        out: folder of the result.
        executor: runs the stages.
        shipper: runs exports and timings of one model; the executor when absent.
        monitor: hears of it.
        time_limit_s: how long the search may take; what is best then is the result.
        wait_s: how long a timing waits for other stages on this machine.
        device: models that were measured on a device, whose costs then count; empty for this machine's.
        stopwatch: measures a model with only these units; the runtime's clock when absent.
        tried: all candidates, the given model first.
        nearest: what was written where a budget is out of reach.
        busy: whether other stages ran on this machine when that was found.
        ended_early: whether the time was over before the last rung.
        uniform: the shape with the same share of units everywhere, once there is one.
        stopped: why tuning ended before all epochs; None where it did not.
        tests: errors on the test part (of all windows, of whole batches) of the models that were scored, by stage.
        test: the chosen artefact's, as its runtime computes it.
    """

    parent: TrainedModel
    source: str
    question: Question
    out: Path
    executor: Callable[[Workload], Executor]
    monitor: Monitor
    shipper: Callable[[Workload], Executor] | None = None
    time_limit_s: float | None = None
    wait_s: float = 60.0
    device: Sequence[Point] = ()
    tried: list[Tried] = field(default_factory=list)
    ended_early: bool = False
    uniform: Shape | None = None
    stopped: str | None = None
    stopwatch: Callable[[Keep], Costs] | None = None
    tests: dict[str, TestScores] = field(default_factory=dict)
    test: Accuracy | None = None
    nearest: Tried | None = None
    busy: bool = False

    def __post_init__(self) -> None:
        self.started_s = time.monotonic()
        self.recipe = checked(Recipe, self.question.recipe, "recipe")
        self.model = self.parent.saved.model
        self.anatomy = Anatomy(self.model)
        self.groups = tuple(self.anatomy.groups.values())
        self.delivery = Delivery(self.parent, self.source, self.question, self.out)
        self.store = self.delivery.store
        self.points: list[Point] = [*self.device] or self.delivery.noted("costs", TypeAdapter(list[Point])) or []
        self.extremes = models_to_measure(self.groups, TILE)[:2] if self.groups else [{}]
        self._glimpse: Costs | None = None
        self._limited = False
        self._in_8_bits: set[str] = set()

    # The order of a search

    def run(self) -> bool:
        """Searches until the last rung or the time limit, with the best so far in its folder after each rung.

        Returns:
            Whether there was a search; False where a budget is out of reach, which is said at once, before the
            smallest model is written as the nearest.

        Raises:
            UserError: when the folder is another question's, or the runtime cannot run the model.
        """
        self.delivery.check()
        if not self.within_reach():
            self.monitor.note("; ".join(self.missed))
            with suppress(TimeUp), time_limit(self.left_s):
                self._write_nearest()
            return False
        self.delivery.note("question", self.question)
        self.delivery.note("costs", self.points)
        with self.store.writer():
            self._adopt()
            try:
                with time_limit(self.left_s):
                    self._limited = True
                    self._rungs()
            except TimeUp:
                self.ended_early = True
                self.monitor.note("the time is over: the best so far is the result")
            self._limited = False
            self._settle("the end")
            self._score_test()
        return True

    def _rungs(self) -> None:
        shapes, residual = self._front(), self.table.latency.residual
        self.monitor.note(f"costs are predicted to {residual:.1%}; {len(shapes)} candidates on the front")
        self._rung("repair of all", [("repaired", shape, self._jobs(shape, 0)) for shape in shapes])
        tuned, in_vain = 0, 0
        for epochs, count in tuning_rungs(len(shapes), FULLY_TUNED, self.recipe.finetune.epochs):
            if in_vain == PATIENCE:
                self.stopped = f"{in_vain} rungs in a row found nothing better: tuning ended after {tuned} epochs."
                self.monitor.note(self.stopped)
                break
            plan = [shape for shape in self._promising(count) if not self._is_full(shape)]
            if not plan:
                continue
            before, tuned = self.best, epochs
            self._rung(
                f"{epochs} epoch{'s' * (epochs > 1)} for the best {count}",
                [("tuned", shape, self._jobs(shape, epochs)) for shape in plan],
            )
            in_vain = in_vain + 1 if self.best is before else 0
        self._references(tuned)
        self._variants()

    def _references(self, epochs: int) -> None:
        """Makes what a search has to be better than, at the time of the best so far, and DLinear."""
        plan: list[tuple[How, Shape, tuple[Job, ...]]] = []
        for best in self._promising(1):
            table = self.corrected()
            latency_ms = table.costs(best.units).latency_ms
            self.uniform = uniform_shape(self.model, table, self.question.budgets, latency_ms)
            plan = [("uniform", self.uniform, self._jobs(self.uniform, trained)) for trained in (0, epochs)]
            plan.append(("scratch", best, self._scratch(best)))
        self._rung("references of the same time", plan, besides=[self.dlinear])

    def _is_full(self, shape: Shape) -> bool:
        """Whether a tuning was all the training that the recipe allows."""
        fits = [tried.record.fit for tried in self.tried if tried.shape is shape and tried.how == "tuned"]
        return any(fit is not None and fit.steps == self.recipe.finetune.max_steps for fit in fits)

    @property
    def left_s(self) -> float:
        """How much of the limited time is left; negative when it is over."""
        return math.inf if self.time_limit_s is None else self.time_limit_s - time.monotonic() + self.started_s

    @property
    def patience_s(self) -> float:
        """How long the next timing may wait for other stages."""
        return min(self.wait_s, WAITING * max(0.0, self.left_s))

    def _check_time(self) -> None:
        """Raises `TimeUp` when the time is over: where a destructor was at work, the alarm goes unheard."""
        if self._limited and self.left_s < 0:
            raise TimeUp

    # The given model

    def _adopt(self) -> None:
        """Puts the given model into the store, as the finished stage that it is."""
        name = self.question.parent
        if not self.store.has(name):
            self.parent.write(self.store.begin(name))
            self.store.commit(name)
        self.dense = Tried(
            how="dense",
            name="the given model",
            jobs=(),
            fingerprint=name,
            shape=None,
            predicted=self.given or self.cheapest,
            record=self.store.record(name),
            increase=Interval(0.0, 0.0, 0.0),
            sure=1.0,
            on_device=bool(self.device),
        )
        self.dense.record = self.dense.record.model_copy(update={"validation": self.dense_validation})
        self._ship(self.dense)
        self.tried = [self.dense]

    @cached_property
    def dense_validation(self) -> Accuracy:
        """The given model's error on the validation part, with those of its blocks."""
        known = self.parent.record.validation
        if known is None or known.blocks is None:
            known = evaluate_both(self.model, self.parent.windows.validation, "validation")[0]
            assert known is not None
        return known

    # Costs

    def within_reach(self) -> bool:
        """Says whether the smallest model is within every budget: by a glance, and if it may be, by the clock.

        The glance waits for nobody; on a busy machine a model may be faster than it says.
        """
        budgets = self.question.budgets
        if self.device:
            self._check_device()
        elif self.given is None:
            self._glimpse = seen = self._glance()
            least_ms = seen.latency_ms / (SLOWED if self.busy else DOUBT)
            if not budgets.holds(seen.smallest.model_copy(update={"latency_ms": least_ms})):
                return False
            self._measure(self.extremes)
        self._weigh(self.extremes[-1:])
        if not budgets.holds(self.cheapest.smallest):
            return False
        said = [
            f"{line.name} from {line.text(line.cheapest)} to {line.text(line.dense)}" for line in self.lines(None)[1:]
        ]
        least_ms, most_ms = (costs.latency_ms for costs in (self.cheapest, self.given or self.cheapest))
        self.monitor.note(f"within reach: {'; '.join(said) or f'from {least_ms:.3g} to {most_ms:.3g} ms'}")
        return True

    @property
    def given(self) -> Costs | None:
        """What the given model costs, by the same clock as those of the table; None where it was not measured."""
        return next((point.costs for point in self.points if not point.keep), None)

    @property
    def cheapest(self) -> Costs:
        """What the smallest model of the search costs."""
        if self.device:
            return min(self.points, key=lambda point: point.costs.latency_ms).costs
        smallest = {group: len(units) for group, units in self.extremes[-1].items()}
        found = next((point.costs for point in self.points if point.keep == smallest), self._glimpse)
        assert found is not None, "the smallest model is measured first"
        return found

    @property
    def missed(self) -> list[str]:
        """A sentence for each budget that not even the smallest model meets."""
        of_process = "" if isinstance(self.delivery.kind, EmbeddedRuntime) else WHOLE_PROCESS
        return [
            f"{line.name} {line.text(line.asked)} is out of reach: the smallest model of this search costs "
            f"{line.text(line.cheapest)}{of_process * (line.name == 'max-memory')}, which is the nearest"
            for line in self.lines(None)[1:]
            if not line.met
        ]

    def _check_device(self) -> None:
        known = {name: group.size for name, group in self.anatomy.groups.items()}
        if any(count > known.get(name, 0) for point in self.points for name, count in point.keep.items()):
            raise UserError("--profile: expected the costs of this model and smaller ones, found another model's")

    def lines(self, best: Tried | None) -> list[BudgetLine]:
        """Returns a line for each budget, with what a candidate reaches; the smallest model where there is none."""
        increase = None if best is None else best.increase.high
        return self.question.budgets.lines(
            self.given, self.cheapest, self.cheapest if best is None else self.costs_of(best), increase
        )

    def _measure(self, keeps: Sequence[Keep], until_s: float = math.inf) -> None:
        """Measures those that are not known yet, alone on the machine, and notes each where there is a folder."""
        known = [point.keep for point in self.points]
        counts = [{group: len(units) for group, units in keep.items()} for keep in keeps]
        missing = [(keep, of) for keep, of in zip(keeps, counts, strict=True) if of not in known]
        if not missing:
            return
        with TemporaryDirectory(prefix="prunecast-") as name, alone(self.patience_s):
            clock = self.stopwatch or self._clock(Path(name))
            for keep, of in missing:
                self._check_time()
                if time.monotonic() > until_s and len(self.points) >= FEWEST:
                    break
                self.points.append(Point(keep=of, costs=clock(keep)))
                if self.delivery.folder.is_dir():
                    self.delivery.note("costs", self.points)

    def _weigh(self, keeps: Sequence[Keep]) -> None:
        """Finds the bytes in 8 bits of those that were measured, where a budget is of bytes: that takes no clock."""
        wanted = [{group: len(units) for group, units in keep.items()} for keep in keeps]
        if self.question.budgets.max_bytes is None or not isinstance(self.delivery.kind, Int8Runtime):
            return
        with TemporaryDirectory(prefix="prunecast-") as name:
            clock = self._clock(Path(name))
            for place, point in enumerate(self.points):
                if point.keep in wanted and point.costs.int8_bytes is None:
                    self._check_time()
                    found = {"int8_bytes": clock.weigh(kept_first(point.keep))}
                    self.points[place] = Point(keep=point.keep, costs=point.costs.model_copy(update=found))

    def _clock(self, folder: Path) -> Stopwatch:
        config = self.recipe.measure
        inputs = real_inputs(self.parent.saved.metadata, self.parent.windows, config.batch)
        dense_ms = None if self.given is None else self.given.latency_ms
        quantizer = self.recipe.export.quantizer
        return Stopwatch(self.parent.saved, self.question.runtime, config, inputs, folder, dense_ms, quantizer)

    def _glance(self) -> Costs:
        """Returns the costs of the smallest model as one look shows them, and notes whether the machine was busy."""
        asked = self.question.budgets
        timed = asked.max_latency_ms is not None  # all else is the same on a busy machine
        with TemporaryDirectory(prefix="prunecast-") as name, alone(0.0) if timed else nullcontext(False) as self.busy:
            if self.stopwatch is not None:
                return self.stopwatch(self.extremes[-1])
            return self._clock(Path(name)).glance(self.extremes[-1], asked)

    @cached_property
    def table(self) -> CostTable:
        """The costs of all smaller models, from measured ones, which are noted.

        Nothing more is measured once there is a front, or the time is over; where time is limited, it takes a part.
        """
        settled = self.ended_early or self.delivery.noted("front", TypeAdapter(list[Shape])) is not None
        if self.groups and not settled:
            models = models_to_measure(self.groups, TILE)
            if not self.device:
                limit_s = math.inf if self.time_limit_s is None else self.time_limit_s * MEASURING
                self.monitor.note("the costs of smaller models, by the clock")
                self._measure(models, self.started_s + limit_s)
            self._weigh(models[:WEIGHED])
            self.delivery.note("costs", self.points)
        return CostTable.of(self.anatomy, self.points)

    def corrected(self) -> CostTable:
        """Returns the table rescaled by the candidates that were timed since; not by this machine's for a device."""
        if self.device:
            return self.table
        timed = [tried for tried in self.tried if tried.timing is not None and tried.plain]
        pairs = [
            (self.table.costs(tried.shape.units).latency_ms, tried.costs.latency_ms)
            for tried in timed
            if tried.shape is not None
        ]
        return replace(self.table, latency=self.table.latency.corrected(pairs))

    # Candidates

    def _front(self) -> list[Shape]:
        """Returns candidates from the dearest that is asked for to the cheapest, by their predicted time."""
        if not self.groups:
            return []
        shapes: list[Shape] | None = self.delivery.noted("front", TypeAdapter(list[Shape]))
        if shapes is None:
            self.monitor.note("the damage of all units, and the best choices of them")
            shapes = self._found_front()
            self.delivery.note("front", shapes)
        return shapes

    def _found_front(self) -> list[Shape]:
        torch.set_num_threads(self.recipe.train.threads)
        job = self._chain(None, 0).train("")  # the windows that the stages of pruning will look at
        pruning = PruneConfig(method="structured")
        job = replace(job, recipe=job.recipe.model_copy(update={"prune": pruning}))
        statistics = Statistics(self.recipe.seed, calibration(job, self.parent.windows), kinds=pruning.kinds)
        return best_shapes(self.model, self.table, self.question.budgets, statistics, FRONT)

    def _chain(self, shape: Shape | None, epochs: int, **sections: Any) -> Chain:
        values: dict[str, Any] = {"finetune": self.recipe.finetune.model_copy(update={"epochs": epochs}), **sections}
        if shape is not None:
            pruning = {"method": "structured", "sparsity": shape.share, "keep": shape.keep}
            values["prune"] = checked(PruneConfig, pruning, "prune")
        return Chain(self.recipe.model_copy(update=values), self.parent.windows.facts.sha256, self.source)

    def _jobs(self, shape: Shape, epochs: int) -> tuple[Job, ...]:
        """Returns the pruning of the given model to a shape, and its fine-tuning where there are epochs for it."""
        return self._chain(shape, epochs).prune(self.question.parent, shape.title)

    def _scratch(self, shape: Shape) -> tuple[Job, ...]:
        pruned = self._jobs(shape, 0)
        return (*pruned, self._chain(None, 0).train_small(pruned[-1], f"dense of the size of {shape.title}"))

    @cached_property
    def dlinear(self) -> Job:
        """Trains DLinear on the same data: whoever needs no more than that is to know it."""
        config = self.model.config.model_dump(mode="json")
        known = MODELS.load("dlinear").Config.model_fields
        values = {"name": "dlinear"} | {key: config[key] for key in config.keys() & known if key != "name"}
        plain = self.recipe.model_copy(
            update={"train": self.recipe.train.model_copy(update={"learning_rate": None, "keep_step": None})}
        )
        recipe = with_model(plain, values, self.recipe.data.name)
        return Chain(recipe, self.parent.windows.facts.sha256, self.source).train("DLinear")

    def _promising(self, count: int) -> list[Shape]:
        """Returns the shapes that are worth training: cheap ones whose loss is not far above the budget."""
        most, table = self.question.budgets.max_loss_increase, self.corrected()
        best: dict[int, tuple[float, Shape]] = {}
        for tried in self.tried:
            if tried.how in ("repaired", "tuned") and tried.shape is not None:
                latency_ms = table.costs(tried.shape.units).latency_ms
                over = max(0.0, tried.increase.value - most)
                value = math.log(latency_ms) + PROMISE * over
                best[id(tried.shape)] = min(
                    best.get(id(tried.shape), (math.inf, tried.shape)), (value, tried.shape), key=itemgetter(0)
                )
        return [shape for _, shape in sorted(best.values(), key=itemgetter(0))[:count]]

    # Rungs

    def _rung(
        self, title: str, plan: Sequence[tuple[How, Shape, tuple[Job, ...]]], besides: Sequence[Job] = ()
    ) -> None:
        """Makes candidates, and puts the best artefact so far in its place."""
        jobs = {job.fingerprint: job for _, _, made in plan for job in made} | {job.fingerprint: job for job in besides}
        try:
            self._run(title, list(jobs.values()))
        finally:  # when the time is over too: what is there counts
            for how, shape, made in plan:
                name = made[-1].fingerprint
                if self.store.has(name) and all(name != tried.fingerprint for tried in self.tried):
                    self.tried.append(self._assessed(how, shape, made))
        self._settle(title)

    def _run(self, title: str, jobs: Sequence[Job], executor: Callable[[Workload], Executor] | None = None) -> Outcome:
        self._check_time()
        waiting = [job for job in jobs if not self.store.has(job.fingerprint)]
        if not waiting:
            return Outcome(present=len(jobs))
        left = "" if self.time_limit_s is None else f", {max(0.0, self.left_s) / 60:.1f} min left"
        self.monitor.note(f"{title}: {len(waiting)} stages{left}")
        self.monitor.start(len(jobs), len(jobs) - len(waiting))
        workload = Workload(jobs, waiting, self.store, StudyConfig(), None, self.monitor, self.patience_s)
        try:
            return run_plan(executor or self.executor, workload, Outcome(present=len(jobs) - len(waiting)))
        finally:
            self.monitor.stop()

    def _assessed(self, how: How, shape: Shape, jobs: tuple[Job, ...]) -> Tried:
        record = self.store.record(jobs[-1].fingerprint)
        assert record.validation is not None
        increase, sure = self._increase(record.validation)
        epochs = sum(epoch.steps > 0 for epoch in record.fit.epochs) if record.fit else 0
        words = f"tuned for {epochs} epoch{'s' * (epochs != 1)}" if epochs else "repaired"
        if how == "scratch":
            words = "trained from scratch"
        return Tried(
            how=how,
            name=f"{'uniform, ' * (how == 'uniform')}{shape.title}, {words}",
            jobs=jobs,
            fingerprint=record.fingerprint,
            shape=shape,
            predicted=shape.predicted,
            record=record,
            increase=increase,
            sure=sure,
            on_device=bool(self.device),
        )

    def _increase(self, validation: Accuracy) -> tuple[Interval, float]:
        return increase_of(validation, self.dense_validation, self.question.budgets.max_loss_increase)

    def _variants(self) -> None:
        """Makes what a runtime can do on top: zeros that it leaves out, then 8 bits, of the best so far."""
        plain = [tried for tried in self.tried if tried.refused is None and not tried.int8]
        best = sorted(plain, key=self._hope)[:SHIPPED]
        if isinstance(self.delivery.kind, SparseRuntime):
            for base in list(best):
                jobs = self._chain(None, 0, prune=PruneConfig(method="unstructured", sparsity=ZEROS)).prune(
                    base.fingerprint, f"{base.name}, {ZEROS:.0%} zeros"
                )
                if not self._run("zeros", jobs).failed:
                    found = self._assessed("repaired", base.shape or WHOLE, (*base.jobs, *jobs))
                    best.append(replace(found, how="zeros", name=jobs[-1].label, predicted=base.costs))
                    self.tried.append(best[-1])
        self._write_in_8_bits(best)
        self._settle("variants")

    def _write_in_8_bits(self, bases: Sequence[Tried]) -> None:
        """Makes the 8-bit variants of candidates, scored as the runtime computes them, where it has 8 bits."""
        if not isinstance(self.delivery.kind, Int8Runtime):
            return
        new = [base for base in bases if base.fingerprint not in self._in_8_bits]
        exports = [self.delivery.export(base.fingerprint, base.record.role, int8=True) for base in new]
        self._run("8 bits", exports)
        for base, export in zip(new, exports, strict=True):
            self._in_8_bits.add(base.fingerprint)
            if self.store.has(export.fingerprint):
                validation = self.delivery.score_exported(export, "validation")
                increase, sure = self._increase(validation)
                tried = replace(
                    base,
                    how="int8",
                    name=f"{base.name}, 8 bits",
                    int8=True,
                    predicted=base.predicted.smallest,
                    validation=validation,
                    increase=increase,
                    sure=sure,
                    timing=None,
                    artefact_bytes=None,
                )
                self._ship(tried)
                self.tried.append(tried)

    # The best so far

    def _predict(self) -> None:
        """Renews what is thought of candidates that were not timed."""
        if any(tried.shape is not None for tried in self.tried):
            table = self.corrected()
            for tried in self.tried:
                if tried.shape is not None and tried.timing is None and tried.plain:
                    tried.predicted = table.costs(tried.shape.units)

    def costs_of(self, tried: Tried) -> Costs:
        """Returns what a candidate costs; one shape has one time, the mean of all candidates of it that were timed."""
        alike = [
            other for other in self.tried if other.plain and other.shape is tried.shape and other.timing is not None
        ]
        if not alike or not tried.plain:
            return tried.costs
        known = alike[0].costs if tried.timing is None else tried.costs
        latency_ms = math.exp(np.mean([math.log(other.costs.latency_ms) for other in alike]))
        return known.model_copy(update={"latency_ms": latency_ms})

    def _hoped_bytes(self, tried: Tried) -> int | None:
        """Returns the bytes that a candidate is thought to have in 8 bits, where only these may do and are to come."""
        most = self.question.budgets.max_bytes
        if most is None or not tried.plain or tried.fingerprint in self._in_8_bits or tried.costs.bytes <= most:
            return None
        return self.table.costs({} if tried.shape is None else tried.shape.units).int8_bytes

    def rank(self, tried: Tried, hoped_bytes: int | None = None) -> tuple[float, ...]:
        """Returns what candidates are sorted by: within all budgets, the fastest; of two alike, the smaller error.

        Where none is within all budgets, by how much the worst of them is exceeded.

        Args:
            tried: the candidate.
            hoped_bytes: that its artefact may have in the place of those that it has.
        """
        budgets, costs = self.question.budgets, self.costs_of(tried)
        if hoped_bytes is not None:
            costs = costs.model_copy(update={"bytes": hoped_bytes})
        over = max(0.0, tried.increase.high - budgets.max_loss_increase) + max(0.0, budgets.excess(costs))
        alike = round(math.log(costs.latency_ms) / ALIKE)
        return (over, alike, tried.increase.value)

    def _hope(self, tried: Tried) -> tuple[float, ...]:
        """Returns the rank that a candidate has, or may have in 8 bits where only these may do."""
        return self.rank(tried, self._hoped_bytes(tried))

    @property
    def best(self) -> Tried:
        """The best of those that were exported and timed."""
        return min((tried for tried in self.tried if tried.timing is not None), key=self.rank)

    def _settle(self, title: str) -> None:
        """Times the best candidates, corrects the predictions by them, and puts the best artefact in its place."""
        for _ in range(1 if self.ended_early else MOST_TIMED):
            self._predict()
            first = min((tried for tried in self.tried if tried.refused is None), key=self._hope)
            only_in_8_bits = self._hoped_bytes(first) is not None
            if first.timing is not None and not only_in_8_bits:
                break
            if first.timing is None:
                first.first_predicted = first.predicted
                self._ship(first)
            if only_in_8_bits and first.refused is None:
                self._write_in_8_bits([first])
        best = self.best
        self.monitor.note(
            f"after {title}: {best.name}, {best.costs.latency_ms:.3g} ms, {best.costs.bytes:,} bytes, "
            f"loss {best.increase.value:+.1%} (at most {best.increase.high:+.1%})"
        )
        self.delivery.publish(best, self.tests.get(best.fingerprint))

    def _ship(self, tried: Tried) -> None:
        """Exports a candidate and times it in turn with the given model, unless that was done."""
        export = self.delivery.export(tried.fingerprint, tried.record.role, int8=tried.int8)
        dense = None if tried.how == "dense" else self.delivery.export(self.question.parent, self.dense.record.role)
        timing = self.delivery.timing(tried, export, dense)
        outcome = self._run(f"export and time of {tried.name}", [export, timing], self.shipper)
        if not self.store.has(timing.fingerprint):
            tried.refused = "; ".join(outcome.failed.values()) or "it was not made"
            return
        record = self.store.record(timing.fingerprint)
        if not record.timing.runtimes:
            reasons = self.store.record(export.fingerprint).unsupported
            raise UserError(
                f"runtime {self.question.runtime!r} cannot run this model: {reasons[self.question.runtime]}"
            )
        tried.timing = record.timing.runtimes[0]
        artefact = record.artefacts[0]
        tried.artefact_bytes, tried.device_memory_bytes = artefact.stored_bytes, artefact.memory_bytes

    def _write_nearest(self) -> None:
        """Writes the smallest model as the nearest, and says what it costs and loses."""
        shape = shape_of(self.model, self.anatomy, self.extremes[-1], self.cheapest) if self.groups else None
        most, least = self.question.budgets.max_bytes, self.cheapest
        int8 = most is not None and least.bytes > most and least.smallest.bytes < least.bytes
        jobs, record = self.delivery.write_smallest(shape, int8=int8)
        validation = record.validation or self.dense_validation
        if int8:
            predict, windows = open_artifact(self.delivery.artefact).predictor(), self.parent.windows
            validation = score(predict, windows.validation, "validation")
            self.test = score(predict, windows.test, "test")
        increase, sure = self._increase(validation)
        with TemporaryDirectory(prefix="prunecast-") as name:
            timing = self._clock(Path(name)).time(self.delivery.artefact)
        told = costs_of(self.question.runtime, self.delivery.artefact, timing.latency.median, timing)
        predicted = self.cheapest
        if math.isnan(predicted.latency_ms):
            predicted = predicted.model_copy(update={"latency_ms": timing.latency.median})
        self.nearest = Tried(
            how="int8" if int8 else "dense" if shape is None else "repaired",
            int8=int8,
            validation=validation if int8 else None,
            name=("the given model" if shape is None else f"{shape.title}, repaired") + ", 8 bits" * int8,
            jobs=jobs,
            fingerprint=record.fingerprint,
            shape=shape,
            predicted=predicted,
            record=record,
            increase=increase,
            sure=sure,
            timing=timing,
            artefact_bytes=told.bytes,
            device_memory_bytes=told.memory_bytes,
            on_device=bool(self.device),
        )

    # The test part, once, at the end

    def _score_test(self) -> None:
        """Scores the chosen model, the given one and DLinear on the test part."""
        best, records = self.best, [self.dense.record, self.best.record]
        if self.store.has(self.dlinear.fingerprint):
            records.append(self.store.record(self.dlinear.fingerprint))
        self.tests = {record.fingerprint: self.delivery.score_test(record) for record in records}
        self.test = self.tests[best.fingerprint][0]
        if best.int8:
            export = self.delivery.export(best.fingerprint, best.record.role, int8=True)
            self.test = self.delivery.score_exported(export, "test")
        self.delivery.publish(best, self.tests[best.fingerprint])

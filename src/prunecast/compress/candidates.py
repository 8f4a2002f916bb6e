"""What a search is asked, and what it tries: shapes of a model, candidates of these shapes, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from prunecast.compress.budget import Budgets, Costs
from prunecast.compress.cost import TILE, Anatomy, CostTable, kept_first, uniform
from prunecast.measure.operations import dense_macs
from prunecast.models.base import ForecastModel, Keep
from prunecast.prune.damage import Limit, Search
from prunecast.prune.methods import Score, Statistics, UnitRequest
from prunecast.prune.structured import ranked_units
from prunecast.recipe import check_settings, load_recipe, merged
from prunecast.records import Accuracy, RunRecord, Strict, Timing
from prunecast.registry import METHODS, RUNTIMES, SCORES
from prunecast.report.statistics import Difference, Interval, difference
from prunecast.resolve import with_model
from prunecast.stages.job import Job
from prunecast.stages.model import TrainedModel
from prunecast.study.plan import decided

SETTINGS = frozenset({"seed", "train", "finetune", "measure", "export"})

PROPOSALS = 3
"""For each time on the front, proposals that are carried out and compared."""

How = Literal["dense", "repaired", "tuned", "scratch", "uniform", "zeros", "int8"]
"""What was done to a candidate last. `scratch`: a dense model of a candidate's size, trained from the start. `uniform`:
the same share of units was cut everywhere, then the same was done as to the others."""


class Question(Strict):
    """What a search is asked; the same question in the same folder goes on.

    Attributes:
        parent: fingerprint of the given model.
        budgets: that are to be met.
        runtime: name of the runtime that the costs are of.
        recipe: of all stages, without what differs between candidates.
        device: hash of the profile whose costs count; None for this machine's.
    """

    parent: str
    budgets: Budgets
    runtime: str
    recipe: dict[str, Any]
    device: str | None = None


class Shape(Strict):
    """A point of the front: which units stay, as a recipe says it, and what that was thought to cost."""

    keep: dict[str, int | tuple[int, ...]]
    share: float
    predicted: Costs

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.share:.1%} of the operations cut"

    @property
    def units(self) -> Keep:
        """Which units stay, as far as costs go: of those that are told by their number, the first."""
        counts = {name: told for name, told in self.keep.items() if isinstance(told, int)}
        layers = {name: torch.tensor(told) for name, told in self.keep.items() if isinstance(told, tuple)}
        return {**kept_first(counts), **layers}


WHOLE = Shape(keep={}, share=0.0, predicted=Costs(latency_ms=0.0, bytes=0))
"""All units."""


def shape_of(model: ForecastModel, anatomy: Anatomy, keep: Keep, predicted: Costs) -> Shape:
    """Returns the shape of a model that has only these units: layers by name, of all others how many."""
    told: dict[str, int | tuple[int, ...]] = {
        name: tuple(units.tolist()) if anatomy.groups[name].stack else len(units) for name, units in keep.items()
    }
    cost = dense_macs(model.shrunk_config(keep)) / dense_macs(model.config)
    return Shape(keep=told, share=round(1 - cost, 6), predicted=predicted)


def best_shapes(
    model: ForecastModel, table: CostTable, budgets: Budgets, statistics: Statistics, count: int
) -> list[Shape]:
    """Returns the shapes that do least damage for their time: the dearest first, all but the loss within the budgets.

    Args:
        model: the given one.
        table: predicts what smaller ones cost.
        budgets: that are to be met.
        statistics: windows to measure damage on.
        count: the most that there may be, at times spread evenly on the scale of logarithms.
    """
    groups = tuple(table.anatomy.groups.values())
    score_units: Score = SCORES.load(METHODS.load("structured").score)
    request = UnitRequest(model=model, groups=groups, statistics=statistics, cost=lambda _: 0, requested=0)
    limits = []
    if budgets.max_bytes is not None:
        limits.append(Limit(lambda keep: table.costs(keep).smallest.bytes, round(budgets.max_bytes)))
    if budgets.max_memory_bytes is not None and table.memory is not None:
        limits.append(Limit(lambda keep: table.costs(keep).memory_bytes or 0, round(budgets.max_memory_bytes)))
    search = Search(
        ranked_units(groups, score_units(model, statistics)),
        request,
        price=lambda keep: round(table.costs(keep).latency_ms * 1e6),
        limits=limits,
        tile=TILE,
    )
    least = search.cost(search.keep(search.smallest()))
    most = min(0.95 * search.total, 1e6 * (budgets.max_latency_ms or math.inf))
    shapes: dict[str, Shape] = {}
    for target in np.geomspace(most, max(min(least * 1.02, most), 1.0), count):
        proposal = search.best(round(float(target)), PROPOSALS)
        if proposal is not None:
            keep = search.keep(proposal)
            shape = shape_of(model, table.anatomy, keep, table.costs(keep))
            shapes.setdefault(str(sorted(shape.keep.items())), shape)
    return sorted(shapes.values(), key=lambda shape: -shape.predicted.latency_ms)


def uniform_shape(model: ForecastModel, table: CostTable, budgets: Budgets, latency_ms: float) -> Shape:
    """Returns the largest shape with the same share of units everywhere that takes no longer, within the budgets."""
    groups = tuple(table.anatomy.groups.values())
    for share in np.linspace(1, 0, 65):
        keep = uniform(groups, TILE, float(share))
        costs = table.costs(keep)
        if costs.latency_ms <= latency_ms and budgets.holds(costs.smallest):
            break  # else it is the smallest
    return shape_of(model, table.anatomy, keep, costs)


@dataclass(eq=False)
class Tried:
    """A candidate, and what is known of it so far.

    Attributes:
        how: what was done to it last.
        name: for people.
        jobs: that make it, in their order; none for the given model.
        fingerprint: of the stage that it comes from.
        shape: its units; None for the given model.
        predicted: its costs before it was measured.
        record: of its stage.
        increase: of the validation error over the dense model's, as a share of it.
        sure: how likely the increase is within the budget, by the same resamples.
        timing: in the runtime, None until it was timed.
        artefact_bytes: None until it was exported; of a runtime for devices the constants in flash.
        device_memory_bytes: that a forecast takes on a device, where the artefact tells it.
        refused: why it cannot be exported, or was not made.
        first_predicted: its costs as they were predicted last before it was timed.
        int8: whether its artefact is in 8 bits.
        on_device: whether its time and memory are those predicted for a device, whatever this machine's clock says.
        validation: in its own runtime where that is not PyTorch's error: 8 bits.
    """

    how: How
    name: str
    jobs: tuple[Job, ...]
    fingerprint: str
    shape: Shape | None
    predicted: Costs
    record: RunRecord
    increase: Interval
    sure: float
    timing: Timing | None = None
    artefact_bytes: int | None = None
    device_memory_bytes: int | None = None
    refused: str | None = None
    validation: Accuracy | None = None
    int8: bool = False
    first_predicted: Costs | None = None
    on_device: bool = False

    @property
    def costs(self) -> Costs:
        """What it costs: measured where it was timed, else predicted."""
        if self.timing is None or self.artefact_bytes is None:
            return self.predicted
        if self.on_device:
            return self.predicted.model_copy(update={"bytes": self.artefact_bytes})
        return Costs(
            latency_ms=self.timing.latency.median,
            bytes=self.artefact_bytes,
            memory_bytes=self.device_memory_bytes or self.timing.peak_memory_bytes,
        )

    @property
    def plain(self) -> bool:
        """Whether its time follows from its shape: without zeros that are left out, and not in 8 bits."""
        return self.how not in ("zeros", "int8")

    @property
    def validation_mse(self) -> float:
        """Its error on the validation part, in its own runtime where that is known."""
        found = self.validation or self.record.validation
        assert found is not None, "every candidate was scored"
        return found.mse


def question_of(
    parent: TrainedModel,
    budgets: Budgets,
    *,
    runtime: str,
    threads: int,
    settings: Sequence[str],
    device: str | None = None,
) -> Question:
    """Returns what is asked of a model, with the recipe that all candidates share.

    Fine-tuning goes as the training went, at half its rate, unless the settings say otherwise.

    Raises:
        UserError: when a setting does not fit.
    """
    check_settings(settings, SETTINGS)
    train = parent.recipe.train
    shared = {"batch_size", "max_steps", "schedule", "patience", "threads", "device", "precision"}
    tuning = train.model_dump(mode="json", include=shared) | {"epochs": max(3, min(train.epochs, 10))}
    tuning["learning_rate"] = None if train.learning_rate is None else train.learning_rate / 2
    changed = {
        "prune": None,
        "study": None,
        "data": {"score_test": False},
        "finetune": tuning | {"distill": 0.0, "rewind": False, "dropout": 0.0},
        "measure": {"runtimes": [RUNTIMES.check(runtime)], "threads": threads},
        "export": {"runtime": runtime, "int8": False},
    }
    recipe = decided(load_recipe(base=merged(parent.recipe.model_dump(mode="json"), changed), settings=settings))
    whole = with_model(recipe, parent.saved.model.config.model_dump(mode="json"), recipe.data.name)
    return Question(
        parent=parent.record.fingerprint,
        budgets=budgets,
        runtime=runtime,
        recipe=whole.model_dump(mode="json"),
        device=device,
    )


def paired(ours: Accuracy, dense: Accuracy) -> Difference | None:
    """Returns the difference of two models' errors on the same blocks of windows; None where there are none."""
    if ours.blocks is None or dense.blocks is None or ours.blocks.windows != dense.blocks.windows:
        return None
    errors, reference = (np.array([accuracy.blocks.mse]) for accuracy in (ours, dense) if accuracy.blocks)
    return difference(errors, reference, np.array(ours.blocks.windows, dtype=float))


def increase_of(ours: Accuracy, dense: Accuracy, most: float) -> tuple[Interval, float]:
    """Returns the increase of the loss as a share of the dense model's, and how likely it is at most `most`.

    By the paired bootstrap over blocks of windows; where these are too few, the interval is the value alone.
    """
    value, found = ours.mse / dense.mse - 1, paired(ours, dense)
    interval = None if found is None else found.interval()
    if found is None or interval is None:
        return Interval(value, value, value), float(value <= most)
    within = float(np.mean(found.resamples() / dense.mse <= most))
    return Interval(value, interval.low / dense.mse, interval.high / dense.mse), within

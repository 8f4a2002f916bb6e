"""Pruning a little at a time: in steps without training, or by a hook of the training loop while the model learns.

In steps, the scores are renewed in between; arXiv 2412.12883 cut its structures in 50 such steps, with the iterative
mode of Torch-Pruning.

In training, masks change a few times, evenly spread over its first part, and are held from then on: the weights that
the run ends with are chosen among those of the epochs after that.

At the end stands distillation, a hook that goes with any method: the model before pruning teaches the pruned one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, TrainingHook
from prunecast.prune.allocate import lowest
from prunecast.prune.masks import HeldMasks
from prunecast.prune.methods import Granularity, Masks, Pruned, Task
from prunecast.prune.unstructured import zeros_in
from prunecast.recipe import PruneConfig
from prunecast.records import Pruning


def in_steps(task: Task, granularity: Granularity) -> Pruned:
    """Returns what the last step leaves; its outcome counts from the model that the first one was given.

    Raises:
        UserError: on a budget that cannot be met, or when whole layers may go: they are counted anew at each step.
    """
    config, step = task.config, task.config.step
    assert step is not None
    if "layer" in config.kinds:
        raise UserError("prune.step: expected prune.kinds without layer, found it; remove layers at once")
    count = math.ceil(config.sparsity / step - 1e-9)
    first = last = granularity.prune(_asking(task, config.sparsity / count))
    total = first.outcome.total
    for number in range(2, count + 1):
        rest = _rest(last.outcome)
        missing = round(config.sparsity * number / count * total) - (total - rest)
        if missing > 0:  # the step before may have gone further than was asked for, by less than a unit
            before = last.keep
            last = granularity.prune(replace(_asking(task, missing / rest), model=last.model, masks=last.masks))
            left = {name: before[name][units] if name in before else units for name, units in last.keep.items()}
            last = replace(last, keep={**before, **left})
    sizes = {name: size for name, (_, size) in first.outcome.kept_units.items()}
    whole = {
        "total": total,
        "requested": round(config.sparsity * total),
        "realised": total - _rest(last.outcome) if sizes else last.outcome.realised,
        "kept_units": {name: (last.outcome.kept_units[name][0], size) for name, size in sizes.items()},
    }
    return replace(last, outcome=last.outcome.model_copy(update=whole))


def _asking(task: Task, share: float) -> Task:
    return replace(task, config=task.config.model_copy(update={"sparsity": share}))


def _rest(outcome: Pruning) -> int:
    """Returns how much there is to take shares of: single weights that are zero still count, units that went do not."""
    return outcome.total - outcome.realised if outcome.kept_units else outcome.total


@dataclass(frozen=True)
class Updates:
    """When masks change: `count` times in the first `until` steps, the last time after step `until`."""

    count: int
    until: int

    @classmethod
    def of(cls, config: PruneConfig, steps: int) -> Self:
        """Returns the updates of a training of so many steps; no step has two.

        Raises:
            UserError: when the training is too short for one.
        """
        until = math.floor(config.training_share * steps)
        if until < 1:
            raise UserError(
                f"method {config.method!r} prunes in the first {config.training_share:g} of the steps of fine-tuning, "
                f"expected at least one step in it, found {steps} in all; train longer"
            )
        return cls(min(config.training_updates, until), until)

    def after(self, steps: int) -> int | None:
        """Returns the number of the update that follows so many steps, from 1 to `count`, or None."""
        number = steps * self.count // self.until
        return number if 1 <= number <= self.count and steps == -(-number * self.until // self.count) else None


class MasksInTraining(HeldMasks, ABC):
    """What all methods that prune in training share: masks, some of which an update replaces.

    Args:
        task: its model is the one that is trained; its masks stay held whatever happens.
        prune: removes what a task asks for, see `Granularity`.
        updates: when masks change.
    """

    def __init__(self, task: Task, prune: Callable[[Task], Pruned], updates: Updates) -> None:
        super().__init__(task.masks)
        self.updates = updates
        prices = task.weight_cost(task.model) if task.of == "operations" else {}  # before the model is on a GPU
        self._task = replace(task, weight_cost=lambda _: prices)
        self._prune = prune
        self._asked = prune(self._task).outcome  # of all at once: it tells whether the budget can be met

    @property
    def outcome(self) -> Pruning:
        """What was asked for, and what the masks remove."""
        realised = round(self._amount(self.masks))
        changed = {"realised": realised, "removed_weights": zeros_in(self.masks)}
        return self._asked.model_copy(update=changed)

    @property
    def config(self) -> PruneConfig:
        """What was asked for."""
        return self._task.config

    def after_step(self, step: int) -> None:
        """Zeroes what is masked, and changes masks when it is time."""
        super().after_step(step)
        number = self.updates.after(step + 1)
        if number is not None:
            self.update(number)

    @abstractmethod
    def update(self, number: int) -> None:
        """Changes masks for the given time; the first is number 1, and the last leaves as many as were asked for."""

    def settled(self, steps: int) -> bool:
        """Whether no mask changes any more."""
        return steps >= self.updates.until

    def cubic_share(self, number: int) -> float:
        """Returns the share that is gone after an update: from what was gone at the start up to what is asked for.

        Zhu and Gupta 2017, "To prune, or not to prune" (arXiv 1710.01878), equation 1.
        """
        last, first = self.config.sparsity, self._amount(self._task.masks) / self._asked.total
        left = 1 - number / self.updates.count
        return last + (first - last) * left**3

    def choose(self, share: float, gone: Masks) -> Masks:
        """Returns masks of so large a share, by the method's score of the weights as they are now.

        Args:
            share: of what the budget counts.
            gone: masks whose zeros stay; they come back as they are when they remove as much already.
        """
        if round(share * self._asked.total) <= self._amount(gone):
            return gone
        config = self.config.model_copy(update={"sparsity": share})
        return self._prune(replace(self._task, config=config, masks=gone)).masks

    def _amount(self, masks: Masks) -> float:
        """Returns how much masks remove, in units of the budget."""
        if self._task.of != "operations":
            return sum(zeros_in(masks).values())
        prices = self._task.weight_cost(self._task.model)
        return math.fsum(prices.get(name, 0.0) * zeros for name, zeros in zeros_in(masks).items())


class GradualMasks(MasksInTraining):
    """More weights go at each update, by the method's score, fast at first (Zhu and Gupta 2017); none comes back."""

    def update(self, number: int) -> None:
        """Tightens the masks to the share of the cubic schedule."""
        self.hold(self.choose(self.cubic_share(number), self.masks))


class MovementMasks(MasksInTraining):
    """More weights go at each update, those that training moved towards zero; they come back when it moves them away.

    Sanh et al. 2020, "Movement pruning" (arXiv 2005.07683): the score of a weight is the sum of -weight x gradient over
    the steps, and the schedule is cubic. A weight that is masked forecasts nothing and does not learn, but keeps the
    value that it had, which its score goes by and which it comes back with.
    """

    def __init__(self, task: Task, prune: Callable[[Task], Pruned], updates: Updates) -> None:
        weights = {name: task.model.get_parameter(name) for name in task.model.prunable()}
        self._scores = {name: torch.zeros_like(weight.detach()) for name, weight in weights.items()}
        super().__init__(replace(task, statistics=replace(task.statistics, accumulated=self._scores)), prune, updates)
        self._aside = {name: torch.zeros_like(score) for name, score in self._scores.items()}

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Brings the sums, and the values of masked weights, to where the model is."""
        super().on_start(model, optimizer)
        device = next(model.parameters()).device
        for tensors in (self._scores, self._aside):
            tensors.update({name: tensor.to(device) for name, tensor in tensors.items()})

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Adds what this step says to the sums, of masked weights too; then zeroes masked gradients."""
        if not self.settled(step):
            for name, total in self._scores.items():
                weight = self._task.model.get_parameter(name)
                if weight.grad is not None:
                    total.sub_(((weight + self._aside[name]) * weight.grad).nan_to_num(0.0, 0.0, 0.0))
        super().after_backward(step)

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Chooses anew among all weights, those that are masked with the values that they had."""
        weights = {name: self._task.model.get_parameter(name) for name in self._scores}
        for name, weight in weights.items():
            weight.add_(self._aside[name])  # a masked weight is zero
        masks = self.choose(self.cubic_share(number), self._task.masks)
        for name, weight in weights.items():
            self._aside[name] = torch.zeros_like(weight)
            if name in masks:
                self._aside[name] += weight * ~masks[name].to(weight.device)
        self.hold(masks)

    def state(self) -> dict[str, Tensor]:
        """Returns the masks, the sums, and the values of masked weights."""
        kept = {"mask": self.masks, "score": self._scores, "aside": self._aside}
        return {f"{kind}/{name}": tensor for kind, tensors in kept.items() for name, tensor in tensors.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        kept: dict[str, dict[str, Tensor]] = {"mask": {}, "score": {}, "aside": {}}
        for place, tensor in state.items():
            kind, _, name = place.partition("/")
            kept[kind][name] = tensor
        self.masks = kept["mask"]
        self._scores.update(kept["score"])
        self._aside.update(kept["aside"])


class AlternatingMasks(MasksInTraining):
    """Training is sparse and dense in turn: masks are chosen, released, and chosen anew; the last phase is sparse.

    Peste et al. 2021, "AC/DC" (arXiv 2106.12379). Every second update chooses masks of the whole share, by the method's
    score; those between let all weights learn again, those that were masked from zero.
    """

    def update(self, number: int) -> None:
        """Chooses masks, or lets go of them."""
        sparse = (self.updates.count - number) % 2 == 0
        gone = self._task.masks
        self.hold(self.choose(self.config.sparsity, gone) if sparse else gone)


class RiggedMasks(MasksInTraining):
    """As many weights are masked from the start; at each update some are dropped, and as many grow elsewhere.

    Evci et al. 2020, "Rigging the lottery" (arXiv 1911.11134): in each parameter the smallest weights are dropped, and
    those masked weights whose gradient is largest grow, from zero. The share that is dropped falls from 30 % to none
    along a cosine.
    """

    dropped_at_first = 0.3

    def __init__(self, task: Task, prune: Callable[[Task], Pruned], updates: Updates) -> None:
        super().__init__(task, prune, updates)
        self.masks = dict(self.choose(task.config.sparsity, task.masks))

    def after_backward(self, step: int) -> None:
        """Changes masks when it is time, while the gradients of all weights are there; then zeroes masked ones."""
        number = self.updates.after(step + 1)
        if number is not None:
            share = self.dropped_at_first / 2 * (1 + math.cos(math.pi * number / self.updates.count))
            self.hold({name: self._regrown(name, mask, share) for name, mask in self.masks.items()})
        super().after_backward(step)

    def update(self, number: int) -> None:
        """Does nothing: gradients of masked weights are zero by now."""

    def _regrown(self, name: str, mask: Tensor, share: float) -> Tensor:
        """Returns the mask of a parameter once a share of its weights is dropped, and as many others have grown."""
        weight = self._task.model.get_parameter(name)
        mask = mask.to(weight.device)
        if weight.grad is None:
            return mask
        count = int(share * int(mask.sum()))
        size = weight.detach().abs().masked_fill(~mask, torch.inf).flatten()
        kept = mask & ~lowest(size, count).view_as(mask)
        taken = kept if name not in self._task.masks else kept | ~self._task.masks[name].to(weight.device)
        need = weight.grad.abs().nan_to_num(0.0).masked_fill(taken, -torch.inf).flatten()
        return kept | lowest(-need, count).view_as(mask)


class Distillation(TrainingHook):
    """A training hook for the loss (1 - share) x loss + share x MSE to the teacher's forecast.

    Hinton et al. 2015 (arXiv 1503.02531), for a regression: the teacher's forecast stands beside the truth. It costs
    one forecast of the teacher at each step.

    Args:
        teacher: stays as it is.
        share: of the loss, from 0 to 1.
    """

    def __init__(self, teacher: ForecastModel, share: float) -> None:
        self._teacher = teacher.eval()
        self._share = share

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Brings the teacher to where the model is."""
        self._teacher.to(next(model.parameters()).device)

    def loss(self, forecast_BHC: Tensor, batch: Batch, loss: Tensor) -> Tensor:
        """Returns the loss with the distance to the teacher's forecast in it."""
        with torch.no_grad():
            taught_BHC = self._teacher(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
        return (1 - self._share) * loss + self._share * nn.functional.mse_loss(forecast_BHC, taught_BHC)

"""Pruning a model by the method of the recipe, a search among several prunings, and the control that zeroes its body.

The search is the method `compress`. `structured` takes the choice of units that is thought to harm least; here the best
few are all cut out and repaired, and the better ones, by the validation part, are tuned for ever longer, as the verb
`compress` does it. That follows a clock and the budgets of one machine; this counts operations, so its result is the
same everywhere, and a study can hold it against other methods that cut as much.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from prunecast.data.windows import DrawnBatches, Prepared
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.measure.size import measure_size
from prunecast.models.base import TrainingHook
from prunecast.models.io import SavedModel
from prunecast.prune.apply import prune_in_several_ways, prune_model, zero_body
from prunecast.prune.masks import HeldMasks
from prunecast.prune.methods import Masks
from prunecast.prune.schedule import Distillation
from prunecast.records import Fit, Pruning
from prunecast.stages.base import ModelResult, StageInputs, assessed
from prunecast.stages.job import Job
from prunecast.train.evaluate import evaluate_model
from prunecast.train.fit import fit

CALIBRATION_BATCH = 32
"""Windows in a batch that a pruning method looks at."""

CHOICES, FULLY_TUNED = 8, 3
"""Choices of units that a search makes and repairs, at most: those of which `structured` takes the best on training
windows; and candidates of the later rungs of tuning."""


def prune_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Removes what the method of the recipe chooses; weights stay masked through a later fine-tuning.

    Raises:
        UserError: when the method cannot, or nothing more goes than is gone already.
    """
    config, seed = job.recipe.prune, job.recipe.seed
    assert config is not None
    parent, prepared = inputs.parent(job).saved, inputs.windows()
    pruned = prune_model(
        parent.model,
        config,
        seed=seed,
        masks=parent.masks,
        batches=calibration(job, prepared),
        cost=dense_macs,
        weight_cost=macs_per_weight,
    )
    if parent.masks and _same(parent.masks, pruned.masks):
        raise UserError(
            f"{config.method} {config.sparsity:g} removes nothing: the model is pruned by as much already "
            f"({pruned.outcome.realised} of its {pruned.outcome.total} {pruned.outcome.unit} are gone, and a sparsity "
            "counts them); give a larger one"
        )
    saved = SavedModel(pruned.model, parent.metadata, pruned.masks)
    outcome = pruned.outcome.model_copy(update={"given_nonzero": given_nonzero(parent)})
    return assessed(saved, prepared, job.recipe.data, pruning=outcome)


def given_nonzero(parent: SavedModel) -> int | None:
    """Returns how many parameters a model has left that was pruned before; None for a dense one."""
    given = measure_size(parent)
    dense = not parent.masks and given.parameters == parent.metadata.dense_parameters
    return None if dense else given.nonzero


def calibration(job: Job, prepared: Prepared) -> DrawnBatches:
    """Returns the windows that a pruning method may look at."""
    config = job.recipe.prune
    assert config is not None
    seed = job.recipe.seed if config.calibration_seed is None else config.calibration_seed
    return DrawnBatches(prepared.train, CALIBRATION_BATCH, config.calibration_batches, seed)


def _same(masks: Masks, others: Masks) -> bool:
    return masks.keys() == others.keys() and all(torch.equal(masks[name], others[name]) for name in masks)


def zero_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Zeroes the body of a model: what remains of its error when nothing learned is left there."""
    parent = inputs.parent(job).saved
    model, masks = zero_body(parent.model)
    return assessed(SavedModel(model, parent.metadata, masks), inputs.windows(), job.recipe.data)


# The search


@dataclass(frozen=True)
class _Candidate:
    """A choice of units as it is so far: repaired, or tuned by a rung. `place` is that among all choices."""

    place: int
    saved: SavedModel
    outcome: Pruning
    validation_mse: float
    fit: Fit | None = None


def search_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Prunes and tunes a model by the best of several choices of units; the validation part decides.

    Raises:
        UserError: when the budget is out of reach, or an option has no meaning here.
    """
    config, prepared, parent = job.recipe.prune, inputs.windows(), inputs.parent(job).saved
    assert config is not None
    choices = prune_in_several_ways(
        parent.model,
        config,
        CHOICES,
        seed=job.recipe.seed,
        masks=parent.masks,
        batches=calibration(job, prepared),
        cost=dense_macs,
        weight_cost=macs_per_weight,
    )
    tried = []
    for place, choice in enumerate(choices):
        accuracy = evaluate_model(choice.model.eval(), prepared.validation, "validation")
        saved = SavedModel(choice.model, parent.metadata, choice.masks)
        tried.append(_Candidate(place, saved, choice.outcome, accuracy.mse))
    repaired = list(tried)
    for epochs, count in tuning_rungs(len(repaired), FULLY_TUNED, job.recipe.finetune.epochs):
        ranked = sorted(tried, key=lambda candidate: candidate.validation_mse)
        for place in list(dict.fromkeys(candidate.place for candidate in ranked))[:count]:
            tried.append(_tuned(job, inputs, repaired[place], epochs))
    best = min(tried, key=lambda candidate: candidate.validation_mse)  # neither repair nor tuning is a must
    outcome = best.outcome.model_copy(update={"given_nonzero": given_nonzero(parent)})
    return assessed(best.saved, prepared, job.recipe.data, fit=best.fit, pruning=outcome)


def _tuned(job: Job, inputs: StageInputs, repaired: _Candidate, epochs: int) -> _Candidate:
    """Returns a repaired candidate after so many epochs."""
    prepared, config = inputs.windows(), job.recipe.finetune
    saved = SavedModel(copy.deepcopy(repaired.saved.model), repaired.saved.metadata, repaired.saved.masks)
    hooks = list[TrainingHook]()
    if job.unpruned is not None and config.distill:
        hooks.append(Distillation(inputs.unpruned(job).saved.model, config.distill))
    if saved.masks:
        hooks.append(HeldMasks(saved.masks))
    fitted = fit(
        saved.model,
        prepared.train,
        prepared.validation,
        config.model_copy(update={"epochs": epochs}),
        seed=job.recipe.seed,
        hooks=hooks,
        checkpoint=None if inputs.work is None else inputs.work / f"choice-{repaired.place}-{epochs}.safetensors",
        reporter=inputs.reporter,
    )
    known = fitted.validation or evaluate_model(saved.model.eval(), prepared.validation, "validation")
    return _Candidate(repaired.place, saved, repaired.outcome, known.mse, fitted)


def tuning_rungs(shapes: int, few: int, epochs: int) -> list[tuple[int, int]]:
    """Returns the rungs of tuning: for how many epochs, and how many candidates of so many shapes.

    One epoch for a third; then the few best in full, and where that is long, for as long as lies between first.
    """
    between = round(math.sqrt(epochs))
    later = [between, epochs] if 2 * between <= epochs and between > 1 else [epochs] if epochs > 1 else []
    first = [(1, math.ceil(shapes / 3))] if epochs else []
    return [*first, *((number, few) for number in later)]

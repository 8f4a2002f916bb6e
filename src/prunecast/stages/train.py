"""Training a model from scratch, fine-tuning one that is there, and the search among several prunings that are tuned.

The search is the method `compress`. `structured` takes the choice of units that is thought to harm least; here the best
few are all cut out and repaired, and the better ones, by the validation part, are tuned for ever longer, as the verb
`compress` does it. That follows a clock and the budgets of one machine; this counts operations, so its result is the
same everywhere, and a study can hold it against other methods that cut as much.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from prunecast.data.windows import Prepared
from prunecast.errors import UserError
from prunecast.kernels import dropout_set
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import TrainingHook, build, config_from
from prunecast.models.io import SavedModel, load_metadata
from prunecast.prune.apply import prune_in_several_ways, prune_in_training
from prunecast.prune.masks import HeldMasks
from prunecast.prune.schedule import Distillation, MasksInTraining
from prunecast.recipe import FitConfig
from prunecast.records import Fit, Pruning
from prunecast.registry import METHODS
from prunecast.stages.base import ModelResult, StageInputs, assessed, new_model
from prunecast.stages.job import Job
from prunecast.stages.prune import calibration, given_nonzero
from prunecast.train.checkpoint import KeptStep
from prunecast.train.evaluate import evaluate_model
from prunecast.train.fit import fit, total_steps

CHECKPOINT_FILE = "checkpoint.safetensors"

CHOICES, FULLY_TUNED = 8, 3
"""Choices of units that a search makes and repairs, at most: those of which `structured` takes the best on training
windows; and candidates of the later rungs of tuning."""

NO_EARLIER = (
    "finetune.rewind: expected weights of an earlier step beside the model that was pruned, found none; "
    "train it with --set train.keep_step=N, and for more than N steps"
)


def train_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Builds and trains the model of the recipe, or one of the size of the pruned model that the job names.

    Raises:
        UserError: when weights are to be kept of a step that training does not come to.
    """
    prepared = inputs.windows()
    pruned = job.compared_with
    config = config_from(job.recipe.model if pruned is None else load_metadata(inputs.folder(pruned)).model)
    torch.manual_seed(job.recipe.seed)
    saved, training = new_model(build(config), prepared, job.recipe), job.recipe.train
    if not saved.model.trainable:
        return assessed(saved, prepared, job.recipe.data)
    steps = total_steps(training, len(prepared.train))
    if (training.keep_step or 0) > steps:
        raise UserError(f"train.keep_step: expected at most the {steps} steps of training, found {training.keep_step}")
    kept = [] if training.keep_step is None else [KeptStep(training.keep_step)]
    fitted = _fitted(saved, training, job, inputs, kept)
    saved = replace(saved, earlier=kept[0].tensors if kept else None)
    return assessed(saved, prepared, job.recipe.data, fit=fitted)


def finetune_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Trains a model on, its masks held; by a method that prunes in training, they, or its units, are found here.

    Raises:
        UserError: when such a method cannot do what is asked for, or there are no weights to go back to.
    """
    if job.prunes and job.recipe.prune is not None and METHODS.load(job.recipe.prune.method).searches:
        return search_stage(job, inputs)
    parent, prepared, config = inputs.parent(job), inputs.windows(), job.recipe.finetune
    saved, outcome, hooks = parent.saved, parent.record.pruning, list[TrainingHook]()
    given = given_nonzero(saved)
    found = _found_in_training(job, saved, prepared) if job.prunes else None
    if job.unpruned is not None:
        unpruned = inputs.unpruned(job).saved
        if config.rewind:
            if unpruned.earlier is None:
                raise UserError(NO_EARLIER)
            saved.model.load_state_dict(dict(unpruned.earlier))
        if config.distill:
            hooks.append(Distillation(unpruned.model, config.distill))
    if found is not None or saved.masks:
        hooks.append(found or HeldMasks(saved.masks))
    fitted = _fitted(saved, config, job, inputs, hooks)
    if found is not None:
        outcome = found.outcome.model_copy(update={"given_nonzero": given})
        saved = replace(saved, masks={name: mask.cpu() for name, mask in found.masks.items()})
    saved = replace(saved, earlier=None)  # they were the dense model's
    return assessed(saved, prepared, job.recipe.data, fit=fitted, pruning=outcome)


def _found_in_training(job: Job, parent: SavedModel, prepared: Prepared) -> MasksInTraining:
    """Returns the hook that finds the masks of a model in training."""
    config = job.recipe.prune
    assert config is not None
    return prune_in_training(
        parent.model,
        config,
        steps=total_steps(job.recipe.finetune, len(prepared.train)),
        seed=job.recipe.seed,
        masks=parent.masks,
        batches=calibration(job, prepared),
        cost=dense_macs,
        weight_cost=macs_per_weight,
    )


def _fitted(
    saved: SavedModel,
    config: FitConfig,
    job: Job,
    inputs: StageInputs,
    hooks: Sequence[TrainingHook] = (),
    *,
    checkpoint: str = CHECKPOINT_FILE,
) -> Fit:
    prepared = inputs.windows()
    with dropout_set(saved.model, config.dropout_held):
        return fit(
            saved.model,
            prepared.train,
            prepared.validation,
            config,
            seed=job.recipe.seed,
            hooks=hooks,
            checkpoint=None if inputs.work is None else inputs.work / checkpoint,
            reporter=inputs.reporter,
        )


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
    saved = SavedModel(copy.deepcopy(repaired.saved.model), repaired.saved.metadata, repaired.saved.masks)
    config, hooks = job.recipe.finetune, list[TrainingHook]()
    if job.unpruned is not None and config.distill:
        hooks.append(Distillation(inputs.unpruned(job).saved.model, config.distill))
    if saved.masks:
        hooks.append(HeldMasks(saved.masks))
    rung = config.model_copy(update={"epochs": epochs})
    fitted = _fitted(saved, rung, job, inputs, hooks, checkpoint=f"choice-{repaired.place}-{epochs}.safetensors")
    known = fitted.validation or evaluate_model(saved.model.eval(), inputs.windows().validation, "validation")
    return _Candidate(repaired.place, saved, repaired.outcome, known.mse, fitted)


def tuning_rungs(shapes: int, few: int, epochs: int) -> list[tuple[int, int]]:
    """Returns the rungs of tuning: for how many epochs, and how many candidates of so many shapes.

    One epoch for a third; then the few best in full, and where that is long, for as long as lies between first.
    """
    between = round(math.sqrt(epochs))
    later = [between, epochs] if 2 * between <= epochs and between > 1 else [epochs] if epochs > 1 else []
    first = [(1, math.ceil(shapes / 3))] if epochs else []
    return [*first, *((number, few) for number in later)]

"""Training a model from scratch, and fine-tuning one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from prunecast.data.windows import Prepared
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import TrainingHook, build, config_from
from prunecast.models.io import SavedModel, load_metadata
from prunecast.prune.apply import prune_in_training
from prunecast.prune.masks import HeldMasks
from prunecast.prune.schedule import Distillation, MasksInTraining
from prunecast.recipe import FitConfig
from prunecast.records import Fit
from prunecast.registry import METHODS
from prunecast.stages.base import ModelResult, StageInputs, assessed, new_model
from prunecast.stages.job import Job
from prunecast.stages.prune import calibration, given_nonzero, search_stage
from prunecast.train.checkpoint import KeptStep
from prunecast.train.fit import fit, total_steps

CHECKPOINT_FILE = "checkpoint.safetensors"

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
    saved: SavedModel, config: FitConfig, job: Job, inputs: StageInputs, hooks: Sequence[TrainingHook] = ()
) -> Fit:
    prepared = inputs.windows()
    return fit(
        saved.model,
        prepared.train,
        prepared.validation,
        config,
        seed=job.recipe.seed,
        hooks=hooks,
        checkpoint=None if inputs.work is None else inputs.work / CHECKPOINT_FILE,
        reporter=inputs.reporter,
    )

"""Training a model from scratch, and fine-tuning one that is there."""

from __future__ import annotations

import torch

from prunecast.models.base import build, config_from
from prunecast.models.io import SavedModel, load_metadata
from prunecast.prune.masks import HeldMasks
from prunecast.recipe import FitConfig
from prunecast.records import Fit
from prunecast.stages.base import ModelResult, StageInputs, assessed, new_model
from prunecast.stages.job import Job
from prunecast.train.fit import fit

CHECKPOINT_FILE = "checkpoint.safetensors"


def train_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Builds and trains the model of the recipe, or one of the size of the pruned model that the job names."""
    prepared = inputs.windows()
    pruned = job.compared_with
    config = config_from(job.recipe.model if pruned is None else load_metadata(inputs.folder(pruned)).model)
    torch.manual_seed(job.recipe.seed)
    saved = new_model(build(config), prepared, job.recipe)
    fitted = _fitted(saved, job.recipe.train, job, inputs) if saved.model.trainable else None
    return assessed(saved, prepared, job.recipe.data, fit=fitted)


def finetune_stage(job: Job, inputs: StageInputs) -> ModelResult:
    """Trains a model on, its masks held."""
    parent = inputs.parent(job)
    fitted = _fitted(parent.saved, job.recipe.finetune, job, inputs)
    return assessed(parent.saved, inputs.windows(), job.recipe.data, fit=fitted, pruning=parent.record.pruning)


def _fitted(saved: SavedModel, config: FitConfig, job: Job, inputs: StageInputs) -> Fit:
    prepared = inputs.windows()
    return fit(
        saved.model,
        prepared.train,
        prepared.validation,
        config,
        seed=job.recipe.seed,
        hooks=[HeldMasks(saved.masks)] if saved.masks else [],
        checkpoint=None if inputs.work is None else inputs.work / CHECKPOINT_FILE,
        reporter=inputs.reporter,
    )

"""Pruning a model by the method of the recipe, and the control that zeroes its body."""

from __future__ import annotations

import torch

from prunecast.data.windows import DrawnBatches, Prepared
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.measure.size import measure_size
from prunecast.models.io import SavedModel
from prunecast.prune.apply import prune_model, zero_body
from prunecast.prune.methods import Masks
from prunecast.stages.base import ModelResult, StageInputs, assessed
from prunecast.stages.job import Job

CALIBRATION_BATCH = 32
"""Windows in a batch that a pruning method looks at."""


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

"""What a study needs besides its data: asked for before anything runs, not after hours of training."""

from __future__ import annotations

from collections.abc import Sequence

from prunecast.errors import MissingExtra, UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import build, config_from
from prunecast.prune.apply import check_budget
from prunecast.recipe import ExportConfig
from prunecast.stages.job import Job
from prunecast.stages.results import refusal
from prunecast.store import Store
from prunecast.study.stock import take_stock, to_run


def refuse_what_cannot_end(jobs: Sequence[Job], store: Store, *, own_timings: bool) -> None:
    """Refuses a plan of which something that is still to be made cannot be.

    Raises:
        MissingExtra: when a runtime's package is not installed; it names the package and what installs it.
        UserError: when a model cannot lose as many units as is asked for.
    """
    missing = _missing_runtime([job for job in jobs if job.stage == "export"])
    if missing is not None and _ships(to_run(jobs, take_stock(jobs, store, own_timings=own_timings))):
        raise missing
    finished = store.finished()
    _check_budgets([job for job in jobs if job.fingerprint not in finished])


def _check_budgets(jobs: Sequence[Job]) -> None:
    """Asks each model, at the most that is asked of it; seeds have one answer."""
    most: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        if job.stage == "prune" and job.recipe.prune is not None:
            way = job.recipe.prune.model_dump(exclude={"sparsity", "step"})
            key = (str(job.recipe.model), str(way))
            other = most.setdefault(key, job).recipe.prune
            if other is not None and other.sparsity < job.recipe.prune.sparsity:
                most[key] = job
    for job in most.values():
        assert job.recipe.prune is not None
        try:
            check_budget(config_from(job.recipe.model), job.recipe.prune, cost=dense_macs, weight_cost=macs_per_weight)
        except UserError as error:
            raise UserError(f"{job.label}: {error}") from None


def _ships(jobs: Sequence[Job]) -> bool:
    return any(job.stage in ("export", "measure") for job in jobs)


def _missing_runtime(exports: Sequence[Job]) -> MissingExtra | None:
    if not exports:
        return None
    model = build(config_from(exports[0].recipe.model))
    for name in exports[0].recipe.measure.runtimes:
        try:
            refusal(model, ExportConfig(runtime=name))
        except MissingExtra as error:
            return error
    return None

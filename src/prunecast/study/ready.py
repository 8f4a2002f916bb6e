"""What a study needs besides its data: asked for before anything runs, not after hours of training."""

from __future__ import annotations

from collections.abc import Sequence

from prunecast.assess import refusal
from prunecast.errors import MissingExtra
from prunecast.models.api import build, config_from
from prunecast.recipe import ExportConfig
from prunecast.stages import Job
from prunecast.store import Store
from prunecast.study.stock import take_stock, to_run


def refuse_what_cannot_end(jobs: Sequence[Job], store: Store, *, own_timings: bool) -> None:
    """Refuses a plan with exports or timings to make whose runtime's package is not installed.

    Raises:
        MissingExtra: naming the package and what installs it.
    """
    missing = _missing_runtime([job for job in jobs if job.stage == "export"])
    if missing is not None and _ships(to_run(jobs, take_stock(jobs, store, own_timings=own_timings))):
        raise missing


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

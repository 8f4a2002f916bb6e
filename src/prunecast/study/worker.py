"""What a worker process does: one stage at a time, from the store into the store."""

from __future__ import annotations

import os
import shutil
import threading
from functools import lru_cache
from multiprocessing import connection, parent_process
from pathlib import Path

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.pipeline import Place, run
from prunecast.recipe import DataConfig
from prunecast.stages import Job
from prunecast.store import Store, new_directory


def start_worker() -> None:
    """Prepares a fresh worker process: it ends when its parent dies, whatever it is doing."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from prunecast.export import onnxruntime  # noqa: F401 - the slow imports, before a stage is timed by anyone


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def execute(job: Job, root: Path) -> str:
    """Runs one stage into the store and returns its fingerprint; a stage that is there is left alone."""
    store = Store(root)
    if store.has(job.fingerprint):
        return job.fingerprint
    with new_directory(store.directory(job.fingerprint)) as directory:
        work = store.work(job.fingerprint)
        run(job, prepared_for(job), Place(directory=directory, found=store.directory, work=work))
    shutil.rmtree(work, ignore_errors=True)
    return job.fingerprint


def prepared_for(job: Job) -> Prepared:
    """Returns the windows of a job's data; a worker keeps the last few, for most jobs share them."""
    model = job.recipe.model
    data = job.recipe.data.model_copy(update={"name": job.source})
    return _prepared(data, int(model["lookback"]), int(model["horizon"]), int(model["label_len"]))


@lru_cache(maxsize=4)
def _prepared(data: DataConfig, lookback: int, horizon: int, label_len: int) -> Prepared:
    return prepare(load_series(data), data, lookback=lookback, horizon=horizon, label_len=label_len)

"""What a worker process does: one stage at a time, from the store into the store.

What takes long to import waits until the process keeps watch over its parent.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, parent_process
from pathlib import Path

from prunecast.stages import Job
from prunecast.store import Store, new_directory


def start_worker(exports: bool) -> None:
    """Prepares a fresh worker process: it ends when its parent dies or Ctrl-C is pressed, whatever it is doing.

    Args:
        exports: whether there are models to export: the exporter's first call is slow, and is made here.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))  # without a word: the parent says what has to be said
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from prunecast import pipeline  # noqa: F401 - slow imports, before the first stage's clock runs

    if exports:
        from prunecast.export.onnx_graph import warm_up

        warm_up()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def execute(job: Job, root: Path) -> str:
    """Runs one stage into the store and returns its fingerprint; a stage that is there is left alone."""
    from prunecast.pipeline import Place, prepared_for, run

    store = Store(root)
    if store.has(job.fingerprint):
        return job.fingerprint
    # Made before the stage's own folder is: two workers may begin under one pair of digits, and one of them may fail.
    with suppress(OSError):  # said in a better way by what comes next
        store.directory(job.fingerprint).parent.mkdir(parents=True, exist_ok=True)
    with new_directory(store.directory(job.fingerprint)) as directory:
        work = store.work(job.fingerprint)
        run(job, prepared_for(job), Place(directory=directory, found=store.directory, work=work))
    shutil.rmtree(work, ignore_errors=True)
    return job.fingerprint

"""What a worker process does: one stage at a time, from the store into the store's `work`.

What takes long to import waits until the process keeps watch over its parent.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import connection, parent_process
from pathlib import Path

from prunecast.errors import UserError
from prunecast.stages.job import Job
from prunecast.store import Damaged, Store, sync

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def start_worker(threads: int, visible_gpus: str, exports: bool) -> None:
    """Prepares a fresh worker process: it ends when its parent dies or Ctrl-C is pressed, whatever it is doing.

    Args:
        threads: the most that a stage takes; what counts its threads by itself gets no more.
        visible_gpus: those that it may use, as CUDA_VISIBLE_DEVICES names them.
        exports: whether there are models to export: the exporter's first call is slow, and is made here.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))  # without a word: the parent says what has to be said
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"CUDA_VISIBLE_DEVICES": visible_gpus}
    import_ahead(exports)


@cache
def import_ahead(exports: bool) -> None:
    """Imports what stages need, before the first one's clock runs; once in a process."""
    import torch

    from prunecast.stages import run  # noqa: F401 - slow imports

    if torch.get_num_interop_threads() > 1:  # no stage has operators side by side; it can be said once in a process
        torch.set_num_interop_threads(1)
    if exports:
        from prunecast.export.onnx import warm_up

        warm_up()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def execute(job: Job, root: str, machine_busy: bool = False) -> None:
    """Runs one stage into its folder in the store's `work`; raises Damaged when one that it needs is not whole."""
    from prunecast.stages.base import StageInputs
    from prunecast.stages.run import prepared_for, run_stage

    store = Store(Path(root))
    directory = store.result(job.fingerprint)
    with plain_errors():
        inputs = StageInputs(
            prepared=prepared_for(job),
            directory=directory,
            found=cache(store.checked),
            work=store.work(job.fingerprint),
            machine_busy=machine_busy,
        )
        run_stage(job, inputs)
        sync(directory)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Makes a user's mistake one that can travel to another process, whatever it was made of."""
    try:
        yield
    except Damaged:
        raise
    except UserError as error:
        raise UserError(str(error)) from None

"""Stages on a Ray cluster. This process alone reads and writes the store: what a stage needs travels to its worker
through Ray's object store, what it makes travels back.

Without RAY_ADDRESS a Ray of its own starts on this machine, on the loopback address, and ends with the study.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from prunecast.data.series import Series, load_series
from prunecast.errors import MissingExtra, UserError
from prunecast.recipe import DataConfig
from prunecast.stages.base import StageInputs
from prunecast.stages.job import Job
from prunecast.stages.run import data_section, prepared_for, run_stage
from prunecast.store import sync
from prunecast.study.executor import GIB, Completed, Resources, WorkerLost, Workload, here
from prunecast.study.worker import import_ahead, plain_errors

ADDRESS = "RAY_ADDRESS"

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_ON_LOOPBACK = _QUIET | {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for: no machine but this one, so listen on loopback alone
    "RAY_worker_niceness": "0",  # else its workers give way to everything, and a timing stage is one of them
}
KEPT_FOLDERS, KEPT_SERIES = 32, 8
"""How many finished stages and data sets stay in the object store for the next stages that need them."""

Folder = dict[str, bytes]
"""A stage's files: place in its folder -> content."""


class RayExecutor:
    """Runs stages on the cluster that RAY_ADDRESS names, or on a Ray of its own; Ray chooses where, by their needs."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._store, self._needed = workload, workload.store, workload.needed
        self._running: dict[Any, Job] = {}
        self._put_folder = lru_cache(KEPT_FOLDERS)(lambda name: self._ray.put(packed(self._store.checked(name))))
        self._put_series = lru_cache(KEPT_SERIES)(lambda data: self._ray.put(load_series(data)))

    @staticmethod
    def check() -> None:
        """Raises a UserError when Ray is not installed, or the address is one that studies cannot be run from."""
        if importlib.util.find_spec("ray") is None:
            raise MissingExtra("ray", "ray")
        address = os.environ.get(ADDRESS, "")
        if "://" in address:
            raise UserError(
                f"{ADDRESS}={address}: expected auto or host:port, with the study run on a node of the cluster: "
                "timings are taken where it runs"
            )

    def __enter__(self) -> Self:
        """Connects to the cluster; raises a UserError when none answers, or no machine has room for a stage."""
        with ExitStack() as held:
            held.enter_context(redirect_stdout(io.StringIO()))  # Ray prints a line there for every worker that is lost
            self._ray = _connected(self._workload)
            held.callback(self._ray.shutdown)
            machines = [_resources(node["Resources"]) for node in self._ray.nodes() if node["Alive"]]
            for needed in {self._needed(job) for job in self._workload.jobs if job.stage != "measure"}:
                if not any(machine.holds(needed) for machine in machines):
                    raise UserError(
                        f"no machine of the Ray cluster has room for a stage that takes {needed.threads} processors, "
                        f"{needed.gpus:g} GPUs and {needed.memory_bytes / GIB:.1f} GiB of memory; "
                        "see study.stage_gpus and study.stage_memory_gib"
                    )
            self._task = self._ray.remote(_run_stage)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves the cluster, or ends the Ray of its own."""
        self._held.close()

    def room(self) -> Resources:
        """Returns what the cluster has as a whole."""
        return _resources(self._ray.cluster_resources())

    def submit(self, job: Job, *, machine_busy: bool = False) -> None:
        """Hands a stage to the cluster, with what it needs; a timing has all of this machine reserved for it."""
        needed = self._needed(job)
        where: dict[str, Any] = {"memory": needed.memory_bytes}
        if job.stage == "measure":  # it bears the name of this machine
            name = self._ray.get_runtime_context().get_node_id()
            [node] = [node for node in self._ray.nodes() if node["NodeID"] == name]
            strategies = self._ray.util.scheduling_strategies
            where = {"scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(name, soft=False)}
            needed = _resources(node["Resources"])
        folders = {name: self._put_folder(name) for name in job.needs}
        task = self._task.options(max_retries=0, num_cpus=needed.threads, num_gpus=needed.gpus, **where)
        self._running[task.remote(job, folders, self._put_series(data_section(job)), machine_busy)] = job

    def completed(self) -> Sequence[Completed]:
        """Waits until a worker is through with a stage, and puts what it made into the store's `work`."""
        [finished], _ = self._ray.wait(list(self._running), num_returns=1)
        job, error = self._running.pop(finished), None
        exceptions, result = self._ray.exceptions, self._store.result(job.fingerprint)
        try:
            unpack(self._ray.get(finished), result)
        except exceptions.RayTaskError as failed:
            error = self._lost(failed.cause) if isinstance(failed.cause, exceptions.RayError) else failed.cause
        except exceptions.RayError as lost:
            error = self._lost(lost)
        except OSError as full:
            error = UserError(f"cannot write {result}: {full.strerror}")
        return [Completed(job, error)]

    def _lost(self, error: BaseException) -> WorkerLost:
        """What lay in the object store of a machine that is gone has to be put there again."""
        self._put_folder.cache_clear()
        self._put_series.cache_clear()
        return WorkerLost(f"its worker was lost ({type(error).__name__}: {str(error).strip().splitlines()[0]})")


def _connected(workload: Workload) -> Any:
    address = os.environ.get(ADDRESS)
    for name, value in (_QUIET if address else _ON_LOOPBACK).items():
        os.environ.setdefault(name, value)
    import ray

    if address:
        own: dict[str, Any] = {"address": address}
    else:
        threads = max(workload.needed(job).threads for job in workload.jobs)
        own = {"address": "local", "include_dashboard": False, "num_cpus": max(threads, here().threads)}
        own |= {"num_gpus": int(here().gpus)}
    try:
        ray.init(**own, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{ADDRESS}={address}: no Ray cluster answers: {reason}; start one, or unset it") from None
    return ray


def _resources(offered: Mapping[str, float]) -> Resources:
    return Resources(int(offered.get("CPU", 0)), offered.get("GPU", 0.0), int(offered.get("memory", 0)))


def _run_stage(job: Job, folders: Mapping[str, Any], series: Series, machine_busy: bool = False) -> Folder:
    """Runs one stage in a worker process of the cluster, and returns its files."""
    import ray

    if replace(job).fingerprint != job.fingerprint:  # it came with its own; the copy counts anew
        raise UserError("the worker has another version of prunecast than the machine that runs the study")
    import_ahead(job.stage == "export")
    with TemporaryDirectory(prefix="prunecast-stage-") as name, plain_errors():
        root = Path(name)
        for fingerprint, reference in folders.items():
            unpack(ray.get(reference), root / fingerprint)
        directory = root / "result"
        directory.mkdir()
        _SERIES[data_section(job)] = series  # one object for the same data, as the cache of windows wants it
        while len(_SERIES) > KEPT_SERIES:
            del _SERIES[next(iter(_SERIES))]
        prepared = prepared_for(job, _SERIES.__getitem__)
        inputs = StageInputs(prepared=prepared, directory=directory, found=root.joinpath, machine_busy=machine_busy)
        run_stage(job, inputs)
        return packed(directory)


_SERIES: dict[DataConfig, Series] = {}


def packed(directory: Path) -> Folder:
    """Returns the files of a folder."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def unpack(folder: Folder, directory: Path) -> None:
    """Writes the files of a folder, through to the disk."""
    for name, content in folder.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    sync(directory)

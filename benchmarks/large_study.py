"""How long a study of ten thousand cells takes to plan, and to go on with when all of it is done.

    python benchmarks/large_study.py [--cells 10000]

A cell is a model that is scored: a data set, horizon, seed, and what was done to the model. Its exports and timings
come on top. The store is filled with made-up results of a usual size: each with its record, its files and their sums.
`resume` is the whole of `study run` when all is there: the plan, a look at every result, and the report, which was
written before (`report`).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from prunecast import environment
from prunecast.api import study_run
from prunecast.data.series import load_series
from prunecast.recipe import Recipe, load_recipe, write_recipe
from prunecast.records import Accuracy, Blocks, DataFacts, Latency, Pruning, RunRecord, Size, StageTiming, Timing
from prunecast.stages.job import Job, TimingJob
from prunecast.store import Store, write_record
from prunecast.study.executor import ConsoleMonitor
from prunecast.study.plan import plan
from prunecast.study.study import status

PER_SEED = 288
"""Cells of one seed: two models, four horizons, 35 variants of each, and the naive forecasts."""
LIMITS_S = {"plan": 5.0, "resume": 10.0}
BLOCKS, SAMPLES, WEIGHTS_BYTES = 15, 1000, 20_000

Result = TypeVar("Result")


def recipe(seeds: int) -> Recipe:
    """Returns a grid of about `PER_SEED` cells for each seed."""
    small = {"d_model": 32, "n_heads": 4, "d_ff": 64}
    return load_recipe(
        base={
            "model": {"lookback": 96},
            "train": {"threads": 1},
            "finetune": {"epochs": 1, "threads": 1},
            "study": {
                "seeds": list(range(1, seeds + 1)),
                "horizons": [24, 48, 96, 192],
                "models": [{"model": {"name": "transformer", **small}}, {"model": {"name": "dlinear"}}],
                "prune": [{"methods": ["magnitude"], "sparsities": [0.1 + 0.1 * n for n in range(8)]}],
            },
        }
    )


@cache
def timing() -> StageTiming:
    """Returns the times of a made-up stage."""
    samples = tuple(1.0 + n / SAMPLES for n in range(SAMPLES))
    latency = Latency(median=1.5, p95=1.95, n=SAMPLES, samples=samples)
    runtimes = (Timing(runtime="onnxruntime", threads=1, batch=1, latency=latency, reference=latency),)
    return StageTiming(started_at="2026-01-01T00:00:00+00:00", elapsed_s=1.0, runtimes=runtimes)


def pruning(job: Job) -> Pruning | None:
    """Returns what a made-up pruned model lost."""
    if job.role not in ("pruned", "pruned+finetuned"):
        return None
    assert job.recipe.prune is not None
    removed = round(1000 * job.recipe.prune.sparsity)
    method = job.recipe.prune.method
    return Pruning(method=method, of="prunable", unit="weights", total=1000, requested=removed, realised=removed)


def made_up(job: Job) -> RunRecord:
    """Returns a record for a stage that never ran."""
    blocks = Blocks(length=192, windows=(192,) * BLOCKS, mse=(0.4,) * BLOCKS, mae=(0.4,) * BLOCKS)
    error = Accuracy(split="test", scoring="full", windows=2785, mse=0.4, mae=0.4, blocks=blocks)
    is_model = job.stage not in ("export", "measure")
    size = Size(parameters=9, nonzero=9, prunable=9, raw_bytes=9, zip_bytes=9)
    results: dict[str, Any] = {"test": error, "validation": error, "size": size, "pruning": pruning(job)}
    plain = StageTiming(started_at="2026-01-01T00:00:00+00:00", elapsed_s=1.0)
    return RunRecord(
        stage=job.stage,
        role=job.role,
        label=job.label,
        fingerprint=job.fingerprint,
        parent=job.parent,
        reference=job.reference if isinstance(job, TimingJob) else None,
        compared_with=job.compared_with,
        seed=job.recipe.seed,
        model=str(job.recipe.model["name"]),
        recipe=job.recipe.model_dump(mode="json"),
        data=DataFacts(name="made-up", sha256=job.data_sha256, rows=17420, channels=("load",), windows={"test": 2785}),
        timing=timing() if job.stage == "measure" else plain,
        environment=environment.describe(),
        **(results if is_model else {}),
    )


def fill(store: Store, jobs: Sequence[Job]) -> None:
    """Puts a made-up result for every stage into a store."""
    for job in jobs:
        directory = store.directory(job.fingerprint)
        directory.mkdir(parents=True)
        (directory / "recipe.yaml").write_text("seed: 1\n" * 100)
        if job.stage not in ("measure", "export"):
            (directory / "config.json").write_text("{}\n")
            (directory / "model.safetensors").write_bytes(bytes(WEIGHTS_BYTES))
        write_record(made_up(job), directory)


def timed(what: str, call: Callable[[], Result]) -> Result:
    """Calls, and prints how long that took."""
    clock = time.perf_counter()
    result = call()
    elapsed_s = time.perf_counter() - clock
    limit = LIMITS_S.get(what)
    verdict = "" if limit is None else f"   limit {limit:g} s: {'met' if elapsed_s <= limit else 'MISSED'}"
    print(f"{what:<12} {elapsed_s:7.2f} s{verdict}", flush=True)
    return result


def main() -> None:
    """Plans, fills, goes on, asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    grid = recipe(max(1, round(parser.parse_args().cells / PER_SEED)))
    machine = environment.describe().machine
    print(f"load before: {os.getloadavg()[0]:.2f}")
    jobs = timed("plan", lambda: plan(grid, load_series, machine))
    kinds = Counter(job.stage for job in jobs)
    cells = sum(count for kind, count in kinds.items() if kind not in ("export", "measure"))
    print(f"{cells} cells, {len(jobs)} stages: {dict(kinds)}")
    folder = Path(tempfile.mkdtemp(prefix="large-study-"))
    try:
        write_recipe(grid, folder / "recipe.yaml")
        out, monitor = folder / "out", ConsoleMonitor(quiet=True)
        timed("fill", lambda: fill(Store(out / "store"), jobs))
        timed("report", lambda: study_run(folder / "recipe.yaml", monitor=monitor, out=out))
        outcome = timed("resume", lambda: study_run(folder / "recipe.yaml", monitor=monitor, out=out)).outcome
        assert (outcome.present, outcome.ran) == (len(jobs), 0)
        timed("status", lambda: status(out))
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

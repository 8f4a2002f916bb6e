"""Time of one forecast, taken in a process of its own, in turn with a reference (DESIGN section 4).

All statistics come from the samples that are kept in the record, so that each of them can be computed again.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from prunecast.errors import UserError
from prunecast.export.base import Inputs
from prunecast.measure.latency_worker import INPUTS_FILE, JOB_FILE, RESULT_FILE, TimingResult, TimingTask, Turns
from prunecast.recipe import MeasureConfig
from prunecast.records import Beside, Energy, Latency, Ratio, Timing

KEPT_SAMPLES = 2000
RATIO_RESAMPLES = 2000

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def time_against(runtime: str, path: Path, reference: Path | None, inputs: Inputs, config: MeasureConfig) -> Timing:
    """Times a model, and a reference in turn with it; the caller has the machine to itself, see `machine_lock`.

    Args:
        runtime: name of the runtime.
        path: what the runtime loads.
        reference: what the reference is loaded from; without one there is a latency but no speed-up.
        inputs: at least `config.batch` real windows in raw units; the first ones are used.
        config: threads, batch, warm-up, minimum count and time.

    Raises:
        UserError: when a path is no artefact of its runtime.
        RuntimeError: when the timed process fails.
    """
    paths = [path] if reference is None else [path, reference]
    job = TimingTask(
        runtime=runtime,
        paths=[str(path.absolute()) for path in paths],
        threads=config.threads,
        warmup=config.warmup,
        min_count=config.min_count,
        min_time_s=config.min_time_s,
    )
    measured = _in_child(job, {name: values[: config.batch] for name, values in inputs.items()})
    samples_ms = kept_samples(measured.times_ns)
    return Timing(
        runtime=runtime,
        threads=config.threads,
        batch=config.batch,
        latency=summary(samples_ms[0]),
        reference=None if reference is None else summary(samples_ms[1]),
        speedup=None if reference is None else speedup(samples_ms[1], samples_ms[0]),
        peak_memory_bytes=measured.peak_memory_bytes,
        baseline_memory_bytes=measured.baseline_memory_bytes,
        start_ms=round(measured.start_ms, 3),
        load_ms=round(measured.load_ms, 3),
        first_forecast_ms=round(measured.first_forecast_ms, 3),
        beside=Beside(others_share=round(measured.others_share, 3), steal_share=round(measured.steal_share, 3)),
        energy=Energy(millijoules=measured.energy_mj, absent=measured.energy_absent),
    )


Samples = NDArray[np.float64]
"""(loads, turns, calls) times in ms of one model; turn i of a load was in the same round as the other model's."""


def kept_samples(times_ns: Sequence[Sequence[Turns]]) -> list[Samples]:
    """Returns the samples of each model from times per load, model, turn and call.

    Every load keeps as many turns as the shortest one has; of a model's samples at most `KEPT_SAMPLES` stay, evenly
    spaced.
    """
    loads = len(times_ns)
    turns = min(*(len(load[0]) for load in times_ns), KEPT_SAMPLES // loads)
    samples = []
    for model in range(len(times_ns[0])):
        calls = min(len(times_ns[0][model][0]), KEPT_SAMPLES // (loads * turns))
        kept = [_spread(_spread(np.asarray(load[model]), turns).T, calls).T for load in times_ns]
        samples.append((np.stack(kept) / 1e6).round(4))
    return samples


def _spread(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Returns `count` evenly spaced rows."""
    rows: NDArray[Any] = values[np.linspace(0, len(values) - 1, count).round().astype(int)]
    return rows


def summary(samples_ms: Samples) -> Latency:
    """Returns median and 95th percentile over all loads, with the samples themselves."""
    return Latency(
        median=float(np.median(samples_ms)),
        p95=float(np.percentile(samples_ms, 95)),
        n=samples_ms.size,
        samples=tuple(samples_ms.ravel().tolist()),
    )


def speedup(reference_ms: Samples, ours_ms: Samples, seed: int = 1) -> Ratio:
    """Returns reference median / our median with its 95 % interval by a hierarchical bootstrap.

    Loads are drawn first; in each, blocks of sqrt(turns) consecutive turns, since neighbouring calls are alike
    (circular blocks: Politis and Romano 1992, "A circular block-resampling procedure for stationary data").
    Both models take the same draws: the machine slows down and speeds up for both. So few loads as there are spread
    too little when drawn: the interval is widened, on the scale of logarithms, by Student's quantile over the normal
    one, and by the bias of the drawn variance, sqrt(loads / (loads - 1)).
    """
    loads, turns, _ = ours_ms.shape
    generator, length = np.random.default_rng(seed), math.isqrt(turns)
    load = generator.integers(loads, size=(RATIO_RESAMPLES, loads, 1))
    start = generator.integers(turns, size=(RATIO_RESAMPLES, loads, math.ceil(turns / length), 1))
    turn = ((start + np.arange(length)) % turns).reshape(RATIO_RESAMPLES, loads, -1)[:, :, :turns]
    drawn = (load * turns + turn).reshape(RATIO_RESAMPLES, -1)  # positions of turns, load after load
    reference, ours = (
        np.median(samples_ms.reshape(-1, samples_ms.shape[2])[drawn].reshape(RATIO_RESAMPLES, -1), axis=1)
        for samples_ms in (reference_ms, ours_ms)
    )
    ratio = float(np.median(reference_ms) / np.median(ours_ms))
    spread = np.log(np.percentile(reference / ours, [2.5, 97.5]) / ratio)
    student, normal = float(stdtrit(loads - 1, 0.975)), float(ndtri(0.975))
    low, high = ratio * np.exp(spread * (student / normal * math.sqrt(loads / (loads - 1))))
    return Ratio(ratio=ratio, low=float(low), high=float(high))


def _in_child(job: TimingTask, inputs: Inputs) -> TimingResult:
    with TemporaryDirectory(prefix="prunecast-") as name:
        folder = Path(name)
        (folder / JOB_FILE).write_text(json.dumps(asdict(job)))
        np.savez(folder / INPUTS_FILE, allow_pickle=False, **inputs)
        command = [sys.executable, "-P", "-m", "prunecast.measure.latency_worker", name]
        threads = dict.fromkeys(_THREAD_VARIABLES, str(job.threads))
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RuntimeError(f"the timed process failed: {reason}")
        result = json.loads((folder / RESULT_FILE).read_text())
    if "error" in result:
        raise UserError(result["error"])
    return TimingResult(**result)

"""The process that is timed: `python -m prunecast.measure.latency_worker FOLDER`, fresh for each timing.

It reads `job.json` and `inputs.npz` in the folder, and writes `result.json`. What it imports is what the runtime
needs: for ONNX Runtime no torch.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from prunecast.errors import UserError
from prunecast.export.base import Inputs, Predictor, Runtime
from prunecast.measure.counters import (
    ProcessorClock,
    energy_counters,
    keep_to_idlest,
    millijoules,
    peak_resident_bytes,
    resident_bytes,
)
from prunecast.registry import RUNTIMES

JOB_FILE, INPUTS_FILE, RESULT_FILE = "job.json", "inputs.npz", "result.json"
SEED = 1
LOADS = 5
TURN, LONGEST_TURN = 4, 100
"""Calls of the slowest model in its turn, and of any."""

Turns = list[list[int]]
"""Time in ns of each call, per turn."""


@dataclass(frozen=True, kw_only=True)
class TimingTask:
    """What is to be timed: the first model, in turn with the second where there is one.

    `warmup` calls come before the clock; then at least `min_count` calls of each model for at least `min_time_s`.
    """

    runtime: str
    paths: Sequence[str]
    threads: int
    warmup: int
    min_count: int
    min_time_s: float


@dataclass(frozen=True, kw_only=True)
class TimingResult:
    """What came of it: the first model's cold start, memory and energy, and the times in ns per load and model.

    `start_ms` is the import of the runtime, `energy_mj` that of one call, or `energy_absent` says why there is none;
    `others_share` and `steal_share` are of the processors' time while the times were taken.
    """

    start_ms: float
    load_ms: float
    first_forecast_ms: float
    baseline_memory_bytes: int
    peak_memory_bytes: int
    others_share: float
    steal_share: float
    energy_mj: float | None
    energy_absent: str | None
    times_ns: list[list[Turns]]


def main(folder: Path) -> None:
    """Runs the job of a folder; a mistake of the user's is a result too."""
    job = TimingTask(**json.loads((folder / JOB_FILE).read_text()))
    try:
        result = asdict(_measured(job, folder))
    except UserError as error:
        result = {"error": str(error)}
    (folder / RESULT_FILE).write_text(json.dumps(result))


def _measured(job: TimingTask, folder: Path) -> TimingResult:
    """Loads the first model, and only when its memory is known the one that it is timed against."""
    keep_to_idlest(job.threads)
    with np.load(folder / INPUTS_FILE, allow_pickle=False) as file:
        inputs = dict(file)
    runtime: Runtime = RUNTIMES.load(job.runtime)
    clock = time.perf_counter()
    runtime.start()
    start_ms = (time.perf_counter() - clock) * 1e3
    load = [partial(runtime.load, Path(path), job.threads) for path in job.paths]
    if (torch := sys.modules.get("torch")) is not None:  # other runtimes are told to take denormals for zero in `load`
        torch.set_flush_denormal(True)
    baseline_bytes, clock = resident_bytes(), time.perf_counter()
    first = load[0]()
    load_ms = (time.perf_counter() - clock) * 1e3
    [first_ns] = _timed(first, inputs, 1)
    _timed(first, inputs, job.warmup)
    peak_bytes, processors = peak_resident_bytes(), ProcessorClock()
    times_ns = _over_loads(load, inputs, job)
    others_share, steal_share = processors.shares()
    energy = _energy_mj(first, inputs, job)
    return TimingResult(
        start_ms=start_ms,
        load_ms=load_ms,
        first_forecast_ms=first_ns / 1e6,
        baseline_memory_bytes=baseline_bytes,
        peak_memory_bytes=peak_bytes,
        others_share=others_share,
        steal_share=steal_share,
        energy_mj=None if isinstance(energy, str) else energy,
        energy_absent=energy if isinstance(energy, str) else None,
        times_ns=times_ns,
    )


def _energy_mj(predict: Predictor, inputs: Inputs, job: TimingTask) -> float | str:
    """Returns the energy of one call in mJ, over at least the task's count and time, or why it is not known."""
    counters = energy_counters()
    if isinstance(counters, str):
        return counters
    times_ns: list[int] = []

    def work() -> None:
        while len(times_ns) < job.min_count or sum(times_ns) < job.min_time_s * 1e9:
            times_ns.extend(_timed(predict, inputs, 10))

    return millijoules(counters, work) / len(times_ns)


def _over_loads(load: Sequence[Callable[[], Predictor]], inputs: Inputs, job: TimingTask) -> list[list[Turns]]:
    """Returns times in ns per load and model.

    Where a load happens to put its weights and buffers in memory changes its time by some per cent until it is
    gone, so every model is loaded several times, in changing order, and all stay: a place that is given back would be
    taken again.
    """
    min_count, min_time_ns = math.ceil(job.min_count / LOADS), job.min_time_s * 1e9 / LOADS
    kept, times, calls = [], [], list[int]()
    for number in range(LOADS):
        loaded = {i: load[i]() for i in range(len(load))[:: -1 if number % 2 else 1]}
        kept.append([loaded[i] for i in range(len(load))])
        for predict in kept[-1]:
            _timed(predict, inputs, max(2, job.warmup // LOADS))
        calls = calls or calls_per_turn(kept[-1], inputs)
        times.append(timed_in_turn(kept[-1], inputs, calls, min_count, min_time_ns))
    return times


def calls_per_turn(predictors: Sequence[Predictor], inputs: Inputs) -> list[int]:
    """Returns how often each model is called in its turn: the slowest `TURN` times, the others for about as long."""
    fastest_ns = [min(_timed(predict, inputs, 3)) for predict in predictors]
    return [min(TURN * max(fastest_ns) // own, LONGEST_TURN) for own in fastest_ns]


def timed_in_turn(
    predictors: Sequence[Predictor], inputs: Inputs, calls: Sequence[int], min_count: int, min_time_ns: float
) -> list[Turns]:
    """Returns the time of each call in ns, per model: turn by turn, in random order within a round.

    Each turn begins with a call that does not count: it brings into the caches what the other model drove out.
    Rounds go on until every model has its minimum count and its minimum time.
    """
    order, shuffle = list(range(len(predictors))), random.Random(SEED).shuffle
    turns: list[Turns] = [[] for _ in predictors]
    spent_ns = [0] * len(predictors)
    parent = os.getppid()
    gc.collect()
    gc.disable()
    while len(turns[0]) * min(calls) < min_count or min(spent_ns) < min_time_ns:
        shuffle(order)
        for i in order:
            predictors[i](inputs)
            turns[i].append(_timed(predictors[i], inputs, calls[i]))
            spent_ns[i] += sum(turns[i][-1])
        if os.getppid() != parent:
            raise SystemExit("the process that asked for these times is gone")
    gc.enable()
    return turns


def _timed(predict: Predictor, inputs: Inputs, calls: int) -> list[int]:
    clock, times = time.perf_counter_ns, []
    for _ in range(calls):
        start = clock()
        predict(inputs)
        times.append(clock() - start)
    return times


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a second worker brings, and what the engine costs: a grid of small cells that only compute, run twice.

    python benchmarks/engine.py [--engine local|ray] [--seeds 6] [--steps 300]

`two / one`: time of the whole grid with two workers over that with one, starting them included (target: at most 0.6).
`overhead`: with one worker, the time between its first result and its last in which no stage ran, as a share of the
time in which one did (target: at most 2 %). Both need two processors with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.recipe import Recipe, load_recipe
from prunecast.registry import EXECUTORS
from prunecast.stages.job import Job
from prunecast.store import Store
from prunecast.study.executor import Monitor
from prunecast.study.plan import decided, plan
from prunecast.study.study import run_study

SPEED_TARGET, OVERHEAD_TARGET = 0.6, 0.02


@dataclass
class Clock(Monitor):
    """A monitor that notes when each stage was done, and ends the benchmark when one fails."""

    ended_s: dict[str, float] = field(default_factory=dict)

    def start(self, total: int, present: int) -> None:
        """Says how many there are."""
        print(f"  {total} stages", flush=True)

    def note(self, line: str) -> None:
        """Passes it on."""
        print(f"  {line}")

    def done(self, job: Job) -> None:
        """Notes the time."""
        self.ended_s[job.fingerprint] = time.perf_counter()

    def failed(self, job: Job, reason: str) -> None:
        """Ends the benchmark."""
        raise RuntimeError(f"{job.label}: {reason}")


def recipe(seeds: int, steps: int) -> Recipe:
    """Returns a grid that only computes: nothing is exported or timed."""
    fit = {"epochs": 50, "patience": 50, "learning_rate": 0.001, "schedule": "constant", "threads": 1}
    return decided(
        load_recipe(
            base={
                "model": {"lookback": 48, "horizon": 12},
                "train": fit | {"max_steps": steps},
                "finetune": fit | {"max_steps": steps // 4},
                "measure": {"runtimes": []},
                "study": {
                    "controls": [],
                    "seeds": list(range(1, seeds + 1)),
                    "models": [{"model": {"name": "transformer", "d_model": 32, "n_heads": 4, "d_ff": 64}}],
                    "prune": [{"methods": ["magnitude"], "sparsities": [0.5, 0.9]}],
                },
            }
        )
    )


def run(grid: Recipe, jobs: list[Job], engine: str, workers: int) -> tuple[float, float, float]:
    """Returns the time of the whole grid, and of it, after the first result: with a stage at work, and without."""
    folder, clock = Path(tempfile.mkdtemp(prefix="engine-")), Clock()
    began_s = time.perf_counter()
    try:
        run_study(folder, grid, jobs, workers, clock, executor=EXECUTORS.load(engine))
        whole_s = time.perf_counter() - began_s
        store = Store(folder / "store")
        first, *others = sorted(clock.ended_s, key=clock.ended_s.__getitem__)
        at_work_s = sum(store.record(name).timing.elapsed_s for name in others) / workers
        after_first_s = max(clock.ended_s.values()) - clock.ended_s[first]
        return whole_s, at_work_s, after_first_s - at_work_s
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Runs the grid with one worker and with two, and prints the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="local")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    grid = recipe(arguments.seeds, arguments.steps)
    jobs = plan(grid, load_series, environment.describe().machine)
    print(f"load before: {os.getloadavg()[0]:.2f}")
    one_s, at_work_s, idle_s = run(grid, jobs, arguments.engine, 1)
    two_s, _, _ = run(grid, jobs, arguments.engine, 2)
    verdict = {True: "met", False: "MISSED"}
    ratio, overhead = two_s / one_s, idle_s / at_work_s
    print(f"one worker {one_s:.1f} s, two workers {two_s:.1f} s")
    print(f"two / one  {ratio:.3f}   target {SPEED_TARGET}: {verdict[ratio <= SPEED_TARGET]}")
    print(f"overhead   {overhead:.2%}   target {OVERHEAD_TARGET:.0%}: {verdict[overhead <= OVERHEAD_TARGET]}")


if __name__ == "__main__":
    main()

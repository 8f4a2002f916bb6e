"""A study of ten stages or so, on a small series of its own, and a monitor that writes down what it hears."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.support.series_files import write_table
from tools.kill_study import timeline

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.recipe import Recipe, load_recipe
from prunecast.stages.job import Job
from prunecast.store import Store
from prunecast.study.executor import Executor, Monitor, Outcome
from prunecast.study.local import InProcess
from prunecast.study.plan import decided, plan
from prunecast.study.study import run_study

RECIPE: dict[str, Any] = {
    "model": {"lookback": 24, "horizon": 6},
    "train": {"epochs": 3, "learning_rate": 0.01, "threads": 1},
    "finetune": {"epochs": 2, "learning_rate": 0.01, "threads": 1},
    "measure": {"runtimes": ["onnxruntime"], "warmup": 1, "min_count": 5, "min_time_s": 0.01},
    "export": {"parity_windows": 4},
    "study": {
        "controls": ["naive"],
        "models": [{"model": {"name": "transformer", "d_model": 8, "n_heads": 2, "d_ff": 8, "encoder_layers": 1}}],
        "prune": [{"methods": ["magnitude"], "sparsities": [0.5]}],
    },
}


@dataclass
class Watch(Monitor):
    """A monitor that writes down what it hears."""

    heard: list[str] = field(default_factory=list)

    def start(self, total: int, present: int) -> None:
        self.heard.append(f"start {total} {present}")

    def note(self, line: str) -> None:
        self.heard.append(f"note {line}")

    def begin(self, job: Job) -> None:
        self.heard.append("begin")

    def done(self, job: Job) -> None:
        self.heard.append("done")

    def failed(self, job: Job, reason: str) -> None:
        self.heard.append(f"failed {reason}")

    def damaged(self, job: Job, reason: str) -> None:
        self.heard.append(f"damaged {job.stage}: {reason}")

    def stop(self) -> None:
        self.heard.append("stop")


@dataclass(frozen=True)
class Micro:
    """The study: its recipe file, its plan, and a folder in which it ran without interruption."""

    file: Path
    recipe: Recipe
    jobs: Sequence[Job]
    whole: Path
    outcome: Outcome
    times: Sequence[float]

    def run(
        self,
        out: Path,
        watch: Watch | None = None,
        jobs: Sequence[Job] | None = None,
        executor: type[Executor] = InProcess,
        workers: int = 1,
        own_timings: bool = False,
    ) -> Outcome:
        """Runs the study, or other stages, elsewhere."""
        asked = self.jobs if jobs is None else jobs
        return run_study(out, self.recipe, asked, workers, watch or Watch(), executor=executor, own_timings=own_timings)

    def the(self, stage: str, model: str = "transformer", role: str | None = None) -> Job:
        """Returns the only stage of its kind."""
        jobs = [job for job in self.jobs if (job.stage, job.recipe.model["name"]) == (stage, model)]
        [job] = [job for job in jobs if role in (job.role, None)]
        return job

    def copied(self, out: Path, *gone: Job) -> Path:
        """Returns a copy of the finished study in which some stages, and what rests on them, are not done."""
        shutil.copytree(self.whole, out)
        lost = {job.fingerprint for job in gone}
        for job in self.jobs:  # parents come first
            if lost.intersection({job.fingerprint, *job.needs}):
                lost.add(job.fingerprint)
                shutil.rmtree(Store(out / "store").directory(job.fingerprint))
        return out

    def planned(self, *settings: str, machine: str | None = None) -> tuple[Recipe, list[Job]]:
        """Returns the recipe with other settings, and its plan."""
        recipe = decided(load_recipe(self.file, settings))
        return recipe, plan(recipe, load_series, machine or environment.describe().machine)


def micro_study(folder: Path) -> Micro:
    """Writes the study's files into a folder and runs it."""
    table = write_table(folder / "own.csv", rows=400)
    file = folder / "micro.yaml"
    file.write_text(yaml.safe_dump(RECIPE | {"data": {"name": str(table)}}))
    recipe = decided(load_recipe(file))
    jobs = plan(recipe, load_series, environment.describe().machine)
    started_at = time.time()
    outcome = run_study(folder / "whole", recipe, jobs, 1, Watch())
    return Micro(file, recipe, jobs, folder / "whole", outcome, timeline(folder / "whole", started_at))

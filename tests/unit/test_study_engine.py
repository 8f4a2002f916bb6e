"""A study runs, resumes, survives what fails and what is killed, and never shows half a record."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.unit.own_series import write_table
from tools.kill_study import (
    Reader,
    contents,
    differences,
    done,
    kill_group,
    kill_parent,
    moments,
    run_to_the_end,
    start,
    timeline,
    wait_for,
)

from prunecast import environment, facade
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.recipe import Recipe
from prunecast.recipe_io import load_recipe
from prunecast.stages import Job
from prunecast.store import Store
from prunecast.study.engine import Outcome
from prunecast.study.folder import run_study, status
from prunecast.study.monitor import ConsoleMonitor
from prunecast.study.plan import plan

MICRO: dict[str, Any] = {
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
class Watch:
    """A monitor that writes down what it hears, and does something when a stage begins."""

    heard: list[str] = field(default_factory=list)

    def start(self, total: int, present: int) -> None:
        self.heard.append(f"start {total} {present}")

    def begin(self, job: Job) -> None:
        self.heard.append("begin")

    def done(self, job: Job) -> None:
        self.heard.append("done")

    def failed(self, job: Job, reason: str) -> None:
        self.heard.append(f"failed {reason}")

    def stop(self) -> None:
        self.heard.append("stop")


@dataclass(frozen=True)
class Micro:
    """A study of ten stages or so: its recipe file, its plan, and a folder in which it ran without interruption."""

    file: Path
    recipe: Recipe
    jobs: Sequence[Job]
    whole: Path
    outcome: Outcome
    times: Sequence[float]

    def run(self, out: Path, watch: Watch | None = None, jobs: Sequence[Job] | None = None) -> Outcome:
        return run_study(out, self.recipe, self.jobs if jobs is None else jobs, 1, watch or Watch())


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Micro:
    folder = tmp_path_factory.mktemp("study")
    table = write_table(folder / "own.csv", rows=400)
    (folder / "micro.yaml").write_text(yaml.safe_dump(MICRO | {"data": {"name": str(table)}}))
    recipe = load_recipe(folder / "micro.yaml")
    jobs = plan(recipe, load_series, environment.describe().machine)
    started_at = time.time()
    outcome = run_study(folder / "whole", recipe, jobs, 1, Watch())
    return Micro(folder / "micro.yaml", recipe, jobs, folder / "whole", outcome, timeline(folder / "whole", started_at))


def the_only(jobs: Sequence[Job], stage: str, model: str) -> Job:
    [job] = [job for job in jobs if (job.stage, job.recipe.model["name"]) == (stage, model)]
    return job


def test_every_stage_runs_once(micro: Micro) -> None:
    assert micro.outcome == Outcome(present=0, ran=len(micro.jobs), failed={})
    store = Store(micro.whole / "store")
    for job in micro.jobs:
        record = store.record(job.fingerprint)
        assert (record.fingerprint, record.stage, record.role) == (job.fingerprint, job.stage, job.role)
    assert len(done(micro.whole)) == len(micro.jobs)
    assert not list((micro.whole / "store" / "work").iterdir())


def test_a_finished_study_is_only_reported(micro: Micro) -> None:
    before = contents(micro.whole)
    watch = Watch()
    result = facade.study_run(micro.file, monitor=watch, out=micro.whole)
    assert (result.outcome.present, result.outcome.ran, result.outcome.failed) == (len(micro.jobs), 0, {})
    assert watch.heard == [f"start {len(micro.jobs)} {len(micro.jobs)}", "stop"]
    assert contents(micro.whole) == before
    assert result.files.page.is_file()


def test_status_before_and_after(micro: Micro, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a study"):
        facade.study_status(tmp_path)
    found = facade.study_status(micro.whole)
    assert (found["stages"], found["done"], found["running"]) == (len(micro.jobs), len(micro.jobs), False)
    assert found["failed"] == []
    assert found["by_stage"]["prune"] == "1 of 1"


def test_another_seed_finds_the_first_one_done(micro: Micro) -> None:
    two = load_recipe(micro.file, ["study.seeds=[1,2]"])
    jobs = plan(two, load_series, environment.describe().machine)
    store = Store(micro.whole / "store")
    assert sum(store.has(job.fingerprint) for job in jobs) == len(micro.jobs)


def copied(micro: Micro, out: Path, *gone: Job) -> Path:
    """Returns a copy of the finished study in which some stages, and what rests on them, are not done."""
    shutil.copytree(micro.whole, out)
    lost = {job.fingerprint for job in gone}
    for job in micro.jobs:  # parents come first
        if lost.intersection({job.fingerprint, *job.needs}):
            lost.add(job.fingerprint)
            shutil.rmtree(Store(out / "store").directory(job.fingerprint))
    return out


def test_what_fails_is_noted_the_rest_goes_on_and_it_is_tried_again(micro: Micro, tmp_path: Path) -> None:
    pruned, naive = the_only(micro.jobs, "prune", "transformer"), the_only(micro.jobs, "train", "repeat")
    out = copied(micro, tmp_path / "out", pruned, naive)
    place = Store(out / "store").directory(pruned.fingerprint).parent
    assert not list(place.iterdir()), "another stage's fingerprint begins alike"
    place.rmdir()
    place.write_text("in the way")
    models = [job for job in micro.jobs if job.stage not in ("export", "measure")]
    tuned = the_only(models, "finetune", "transformer")
    first = micro.run(out, jobs=models)
    assert (first.present, first.ran) == (2, 1)  # the other models; the naive forecast
    assert list(first.failed) == [pruned.label, tuned.label]
    assert "cannot write" in first.failed[pruned.label]
    assert first.failed[tuned.label] == "a stage that it needs failed"
    assert len(status(out)["failed"]) == 2
    place.unlink()
    second = micro.run(out, jobs=models)
    assert (second.present, second.ran, second.failed) == (3, 2, {})
    assert status(out)["failed"] == []


def test_a_stage_whose_worker_is_killed_is_tried_again(micro: Micro, tmp_path: Path) -> None:
    """And given up when that happens each time."""
    naive = the_only(micro.jobs, "train", "repeat")
    out = copied(micro, tmp_path / "out", naive)

    class Kills(Watch):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = times

        def begin(self, job: Job) -> None:
            super().begin(job)
            if self.heard.count("begin") <= self.times:
                for child in psutil.Process().children():
                    if "spawn_main" in " ".join(child.cmdline()):
                        child.send_signal(signal.SIGKILL)

    often = micro.run(out, Kills(9))
    assert often.failed == {naive.label: "its worker process died (killed, or out of memory)"}
    watch = Kills(1)
    once = micro.run(out, watch)
    assert (once.ran, once.failed, watch.heard.count("begin")) == (1, {}, 2)
    assert differences(out, micro.whole) == []


def test_a_study_that_failed_as_a_whole_says_why(micro: Micro, tmp_path: Path) -> None:
    settings = ["train.learning_rate=1e30", "train.schedule=constant", "study.controls=[]"]
    with pytest.raises(UserError, match=r"9 stages failed, the first .*: training diverged"):
        facade.study_run(micro.file, monitor=Watch(), out=tmp_path / "out", settings=settings)
    assert len(facade.study_status(tmp_path / "out")["failed"]) == facade.study_status(tmp_path / "out")["stages"]


def test_one_writer_and_any_number_of_askers(micro: Micro) -> None:
    with Store(micro.whole / "store").writer():
        assert facade.study_status(micro.whole)["running"]
        with pytest.raises(UserError, match="in use by another run"):
            facade.study_run(micro.file, monitor=Watch(), out=micro.whole)
    assert not facade.study_status(micro.whole)["running"]


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_killed_study_ends_as_an_uninterrupted_one(micro: Micro, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"kill moments from seed {seed}")  # noqa: T201 - shown when it fails
    draw, out = random.Random(seed), tmp_path / "killed"
    reader = Reader(out)
    with reader.reading():
        kills = (kill_group, kill_parent, kill_group)
        for kill, moment in zip(kills, moments(micro.times, 3, draw), strict=True):
            process = start(micro.file, out)
            if wait_for(moment, micro.times, out, process):
                kill(process)
            else:
                process.communicate()
        run_to_the_end(micro.file, out)
    assert reader.wrong == []
    assert reader.loaded > 0
    assert differences(micro.whole, out) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_a_failure_is_named_even_where_no_progress_is_wanted(
    micro: Micro, quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor, job = ConsoleMonitor(quiet=quiet), micro.jobs[0]
    monitor.start(2, 0)
    for hear in (monitor.begin, monitor.done):
        hear(job)
    monitor.failed(job, "no [more] disk")
    monitor.stop()
    *progress, last = capsys.readouterr().err.splitlines()
    assert last == f"failed: {job.label}: no [more] disk"
    assert progress == ([] if quiet else ["2 stages, 0 of them done before"])

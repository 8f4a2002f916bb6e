"""A study runs, resumes, survives what fails and what is killed, and never shows half a record."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import psutil
import pytest
from tests.support.small_study import Micro, Watch
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
    wait_for,
)

from prunecast import api, environment
from prunecast.errors import UserError
from prunecast.stages.job import Job
from prunecast.store import Store
from prunecast.study.executor import ConsoleMonitor, Outcome
from prunecast.study.local import LocalExecutor
from prunecast.study.study import open_study, status


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
    result = api.study_run(micro.file, monitor=watch, out=micro.whole)
    assert (result.outcome.present, result.outcome.ran, result.outcome.failed) == (len(micro.jobs), 0, {})
    assert watch.heard == [f"start {len(micro.jobs)} {len(micro.jobs)}", "stop"]
    assert contents(micro.whole) == before
    assert result.files.page.is_file()


def test_status_before_and_after(micro: Micro, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a study"):
        api.study_status(tmp_path)
    found = api.study_status(micro.whole)
    assert (found.stages, found.done, found.running) == (len(micro.jobs), len(micro.jobs), False)
    assert (found.waiting, found.failed, found.damaged, found.now) == (0, [], [], [])
    assert found.timed_on == {environment.describe().machine: 3}
    [pruning] = [row for row in found.by_stage if row["stage"] == "prune"]
    places = {"done": 1, "running": 0, "waiting": 0, "failed": 0, "damaged": 0}
    assert pruning == {"stage": "prune", "planned": 1} | places


def test_status_of_a_study_that_runs(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out", micro.the("finetune"))
    found = []

    class Asks(Watch):
        def begin(self, job: Job) -> None:
            super().begin(job)
            found.append((job, status(out)))

    left = micro.run(out, Asks()).ran
    assert len(found) == left > 1
    for number, (job, said) in enumerate(found):
        assert said.running is True
        assert said.now == [job.label]
        assert said.done == len(micro.jobs) - left + number
        assert said.waiting == left - number - 1
        [row] = [row for row in said.by_stage if row["running"]]
        assert (row["stage"], row["running"]) == (job.stage, 1)


def test_scored_stages_keep_paper_scoring_beside_the_full_one(micro: Micro) -> None:
    records, _ = open_study(micro.whole).results()
    scored = [record for record in records if record.test is not None]
    assert {record.stage for record in scored} == {"train", "prune", "finetune"}
    for record in scored:
        assert record.test is not None
        assert record.test_paper is not None
        assert (record.test.scoring, record.test_paper.scoring) == ("full", "paper")
        assert record.test_paper.windows == record.test.windows // 32 * 32 < record.test.windows
        assert record.test_paper.mse != record.test.mse


def test_what_fails_is_noted_the_rest_goes_on_and_it_is_tried_again(micro: Micro, tmp_path: Path) -> None:
    pruned, naive = micro.the("prune"), micro.the("train", "repeat")
    out = micro.copied(tmp_path / "out", pruned, naive)
    place = Store(out / "store").directory(pruned.fingerprint).parent
    assert not list(place.iterdir()), "another stage's fingerprint begins alike"
    place.rmdir()
    place.write_text("in the way")
    models = [job for job in micro.jobs if job.stage not in ("export", "measure")]
    tuned = micro.the("finetune")
    first = micro.run(out, jobs=models)
    assert (first.present, first.ran) == (2, 1)  # the other models; the naive forecast
    assert list(first.failed) == [pruned.label, tuned.label]
    assert "cannot write" in first.failed[pruned.label]
    assert first.failed[tuned.label] == "a stage that it needs failed"
    assert len(status(out).failed) == 2
    place.unlink()
    second = micro.run(out, jobs=models)
    assert (second.present, second.ran, second.failed) == (3, 2, {})
    assert status(out).failed == []


def test_a_stage_whose_worker_is_killed_is_tried_again(micro: Micro, tmp_path: Path) -> None:
    """And given up when that happens each time."""
    naive = micro.the("train", "repeat")
    out = micro.copied(tmp_path / "out", naive)

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

    often = micro.run(out, Kills(9), executor=LocalExecutor)
    assert often.failed == {naive.label: "its worker process died (killed, or out of memory)"}
    watch = Kills(1)
    once = micro.run(out, watch, executor=LocalExecutor)
    assert (once.ran, once.failed, watch.heard.count("begin")) == (1, {}, 2)
    assert differences(out, micro.whole) == []


def test_a_study_that_failed_as_a_whole_says_why(micro: Micro, tmp_path: Path) -> None:
    settings = ["train.learning_rate=1e30", "train.schedule=constant", "study.controls=[]"]
    with pytest.raises(UserError, match=r"9 stages failed, the first .*: training diverged"):
        api.study_run(micro.file, monitor=Watch(), out=tmp_path / "out", settings=settings)
    assert len(api.study_status(tmp_path / "out").failed) == api.study_status(tmp_path / "out").stages


def test_one_writer_and_any_number_of_askers(micro: Micro) -> None:
    with Store(micro.whole / "store").writer():
        assert api.study_status(micro.whole).running
        with pytest.raises(UserError, match="in use by another run"):
            api.study_run(micro.file, monitor=Watch(), out=micro.whole)
    assert not api.study_status(micro.whole).running


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

"""How the stages of a study share this machine's processors and GPUs."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.unit.study.test_run_plan import Silent, stage

from prunecast.recipe import StudyConfig
from prunecast.stages.job import Job
from prunecast.store import Store
from prunecast.study import executor, local
from prunecast.study.executor import Completed, Resources, Workload, visible_gpus
from prunecast.study.local import LocalExecutor


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processors, two GPUs, and processes that never start."""
    monkeypatch.setattr(local, "here", lambda: Resources(4, 2.0, 8 * 2**30))
    monkeypatch.setattr(local, "visible_gpus", lambda: ("0", "3"))
    monkeypatch.setattr(local._Process, "submit", lambda *_: Future())


def workers(tmp_path: Path, jobs: list[Job], at_once: int | None = None, gpus: float = 1.0) -> LocalExecutor:
    return LocalExecutor(
        Workload(jobs, jobs, Store(tmp_path), StudyConfig(stage_gpus=gpus, stage_memory_gib=1), at_once, Silent())
    )


def seen_gpus(hired: LocalExecutor) -> list[str]:
    return [process.visible_gpus for _, process in hired._running.values()]


def end(hired: LocalExecutor, job: Job) -> None:
    [future] = [future for future, (running, _) in hired._running.items() if running is job]
    future.set_result(None)
    assert [completed.job for completed in hired.completed()] == [job]


def test_each_stage_on_a_gpu_gets_one_and_the_others_see_none(tmp_path: Path) -> None:
    jobs = [stage(number, device="cuda") for number in range(3)] + [stage(9)]
    hired = workers(tmp_path, jobs)
    for job in (jobs[0], jobs[3], jobs[1]):
        hired.submit(job)
    assert seen_gpus(hired) == ["0", "", "3"]
    end(hired, jobs[1])
    hired.submit(jobs[2])
    assert seen_gpus(hired) == ["0", "", "3"]


def test_shares_of_gpus_are_spread_evenly(tmp_path: Path) -> None:
    jobs = [stage(number, device="cuda") for number in range(4)]
    hired = workers(tmp_path, jobs, gpus=0.5)
    for job in jobs:
        hired.submit(job)
    assert sorted(seen_gpus(hired)) == ["0", "0", "3", "3"]
    assert not hired.room().holds(Resources(4, 2.0, 4 * 2**30) + Resources(0, 0.5, 0))


def test_a_timing_sees_the_whole_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def submit(process: local._Process, job: Job, root: str, machine_busy: bool) -> Future[None]:
        seen.append((process.visible_gpus, machine_busy))
        future: Future[None] = Future()
        future.set_result(None)
        return future

    monkeypatch.setattr(local._Process, "submit", submit)
    timing = stage(1, timed=True)
    hired = workers(tmp_path, [stage(0), timing])
    hired.submit(timing, machine_busy=True)
    assert hired.completed() == [Completed(timing)]
    assert seen == [("0,3", True)]


def test_an_idle_process_is_taken_again(tmp_path: Path) -> None:
    jobs = [stage(number) for number in range(3)]
    hired = workers(tmp_path, jobs)
    hired.submit(jobs[0])
    [(_, first)] = hired._running.values()
    end(hired, jobs[0])
    hired.submit(jobs[1])
    [(_, second)] = hired._running.values()
    assert first is second


def test_what_fits_is_what_is_free(tmp_path: Path) -> None:
    room, two = workers(tmp_path, [stage(0)]).room(), Resources(2, 0.0, 2**30)
    assert room.holds(two + two)
    assert not room.holds(Resources(3, 0.0, 2**30) + two), "too few processors"
    assert not room.holds(Resources(1, 0.0, 7 * 2**30 + 1) + two), "too little memory"


@pytest.mark.parametrize(("threads", "at_once", "room"), [(2, 3, 2), (3, 2, 1), (9, 2, 1)])
def test_more_workers_than_there_is_room_for_is_said(tmp_path: Path, threads: int, at_once: int, room: int) -> None:
    monitor = Silent()
    LocalExecutor(Workload(*2 * [[stage(0, threads=threads)]], Store(tmp_path), StudyConfig(), at_once, monitor))
    expected = f"{at_once} workers asked for, {room} at once: a stage takes {threads} of 4 processors"
    [line] = monitor.heard
    assert line.startswith(expected)
    LocalExecutor(Workload(*2 * [[stage(0, threads=threads)]], Store(tmp_path), StudyConfig(), room, monitor))
    assert len(monitor.heard) == 1


def test_a_machine_has_processors_and_memory() -> None:
    assert executor.here().threads >= 1
    assert executor.here().memory_bytes > 0


def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert executor.visible_gpus() == ("GPU-a", "GPU-b")

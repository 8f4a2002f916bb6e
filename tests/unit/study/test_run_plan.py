"""What starts when, whoever runs it: a made-up crew in place of processes."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.stage_folders import FILES, put_result

from prunecast.errors import UserError
from prunecast.recipe import Recipe, StudyConfig, TrainConfig
from prunecast.stages.job import Job, TimingJob
from prunecast.store import Damaged, Store
from prunecast.study.executor import (
    ATTEMPTS,
    NOTHING,
    Completed,
    Monitor,
    Outcome,
    Resources,
    WorkerLost,
    Workload,
    needed_by,
    run_plan,
)

CORES = 4


def stage(number: int, needs: Sequence[Job] = (), *, threads: int = 1, timed: bool = False, device: str = "cpu") -> Job:
    """Returns a stage that rests on others; any number of them, as a timing alone may."""
    return TimingJob(
        stage="measure" if timed else "train",
        role="dense",
        recipe=Recipe(train=TrainConfig(threads=threads, device=device)),  # type: ignore[arg-type]
        data_sha256=str(number),
        source="nowhere",
        exports=tuple(job.fingerprint for job in needs),
        machine="m",
        label=f"stage {number}",
    )


@dataclass
class Silent(Monitor):
    """A monitor that writes down what was said."""

    heard: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        self.heard.append(line)

    def begin(self, job: Job) -> None:
        self.heard.append(f"begin {job.label}")

    def done(self, job: Job) -> None:
        self.heard.append(f"done {job.label}")

    def failed(self, job: Job, reason: str) -> None:
        self.heard.append(f"failed {job.label}")

    def damaged(self, job: Job, reason: str) -> None:
        self.heard.append(f"damaged {job.label}")


@dataclass
class Crew:
    """Runs stages in no time, in any order, and watches the rules.

    Attributes:
        lose: how often the worker of a stage is lost.
        fail: stages that fail.
        draw: decides who is through first.
    """

    lose: Counter[str] = field(default_factory=Counter)
    fail: frozenset[str] = frozenset()
    draw: random.Random = field(default_factory=random.Random)
    running: dict[str, Job] = field(default_factory=dict)
    at_once: int = 0
    started: list[str] = field(default_factory=list)
    workload: Workload | None = None

    def __call__(self, workload: Workload) -> Crew:
        self.workload = workload
        return self

    @staticmethod
    def check() -> None: ...

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        assert not self.running

    def room(self) -> Resources:
        return Resources(CORES, 1.0, 10**12)

    def submit(self, job: Job, *, machine_busy: bool = False) -> None:
        assert not (self.running and job.stage == "measure")
        self.start(job)
        assert "measure" not in {other.stage for other in self.running.values()} or len(self.running) == 1
        taken = sum((needed_by(job, StudyConfig()) for job in self.running.values()), NOTHING)
        assert taken.threads <= CORES or len(self.running) == 1
        assert taken.gpus <= 1

    def start(self, job: Job) -> None:
        assert self.workload is not None
        for need in job.needs:
            self.workload.store.checked(need)
        self.running[job.fingerprint] = job
        self.started.append(job.label)
        self.at_once = max(self.at_once, len(self.running))

    def completed(self) -> Sequence[Completed]:
        assert self.workload is not None
        name = self.draw.choice(list(self.running))
        job = self.running.pop(name)
        if self.lose[name] > 0:
            self.lose[name] -= 1
            return [Completed(job, WorkerLost("gone"))]
        if name in self.fail:
            return [Completed(job, UserError("no use"))]
        put_result(self.workload.store.result(name), name)
        return [Completed(job)]


def run(
    crew: Crew, store: Store, plan: Sequence[Job], at_once: int | None = None, *, keep_files: bool = True
) -> tuple[Outcome, list[str]]:
    monitor = Silent()
    todo = [job for job in plan if not store.has(job.fingerprint)]
    workload = Workload(plan, todo, store, StudyConfig(keep_files=keep_files), at_once, monitor, wait_s=0)
    return run_plan(crew, workload, Outcome()), monitor.heard


@st.composite
def plans(draw: st.DrawFn) -> list[Job]:
    """Graphs of stages, parents first; nothing rests on a timing."""
    plan: list[Job] = []
    for number in range(draw(st.integers(1, 12))):
        models = [number for number, job in enumerate(plan) if job.stage != "measure"]
        drawn = draw(st.lists(st.sampled_from(models), max_size=3, unique=True)) if models else []
        needs = [plan[number] for number in drawn]
        device = draw(st.sampled_from(["cpu", "cpu", "cuda"]))
        plan.append(stage(number, needs, threads=draw(st.integers(1, 6)), timed=draw(st.booleans()), device=device))
    return plan


@settings(max_examples=60, deadline=None)
@given(plans(), st.randoms(use_true_random=False), st.sampled_from([None, 1, 2]), st.booleans())
def test_every_stage_ends_as_it_must(
    plan: list[Job], chance: random.Random, at_once: int | None, keep_files: bool
) -> None:
    failing = frozenset(job.fingerprint for job in plan if chance.random() < 0.2)
    lost = Counter({job.fingerprint: chance.randrange(ATTEMPTS + 1) for job in plan if chance.random() < 0.3})
    bad = {name for name in failing if lost[name] < ATTEMPTS} | {name for name, n in lost.items() if n >= ATTEMPTS}
    reached = set(bad)
    for job in plan:
        if reached.intersection(job.needs):
            reached.add(job.fingerprint)
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        crew = Crew(lose=Counter(lost), fail=failing, draw=chance)
        outcome, heard = run(crew, store, plan, at_once, keep_files=keep_files)
        dense = {job.fingerprint for job in plan if job.stage == "train" and job.role == "dense"}
        waited_for = {name for job in plan if job.fingerprint in reached for name in job.needs}
        with_files = {name for name in store.finished() if not store.condition(name).bare}
        assert with_files == store.finished() & (store.finished() if keep_files else dense | waited_for)
        assert store.finished() == {job.fingerprint for job in plan} - reached
        assert set(outcome.failed) == {job.label for job in plan if job.fingerprint in reached}
        assert {failure.fingerprint for failure in store.failures()} == reached
        assert outcome.ran == len(plan) - len(reached)
        assert crew.at_once <= (at_once or CORES)
        ends = Counter(line for line in heard if line.startswith(("done", "failed")))
        assert set(ends.values()) == {1}
        assert ends.total() == len(plan)


def test_stages_run_in_the_order_of_the_plan_and_clocks_last(tmp_path: Path) -> None:
    first = stage(0)
    plan = [first, stage(1, [first]), stage(2, [first], timed=True), stage(3), stage(4, timed=True), stage(5, [first])]
    crew = Crew()
    run(crew, Store(tmp_path), plan, at_once=1)
    assert crew.started == [f"stage {number}" for number in (0, 1, 3, 5, 2, 4)]


def test_threads_are_shared_out(tmp_path: Path) -> None:
    """A stage that takes more than there is runs alone; the others fill what is free."""
    plan = [stage(0, threads=9), *(stage(number, threads=2) for number in range(1, 5))]
    crew = Crew(draw=random.Random(0))
    outcome, _ = run(crew, Store(tmp_path), plan)
    assert outcome.ran == 5
    assert crew.at_once == 2


def test_what_is_small_enough_does_not_wait_for_what_is_not(tmp_path: Path) -> None:
    crew = Crew(draw=random.Random(0))
    run(crew, Store(tmp_path), [stage(0, threads=3), stage(1, threads=3), stage(2, threads=1)])
    assert crew.started[:2] == ["stage 0", "stage 2"]


def test_only_training_on_a_gpu_takes_one() -> None:
    study = StudyConfig(stage_gpus=0.5, stage_memory_gib=1.5)
    assert needed_by(stage(0, threads=3, device="cuda"), study) == Resources(3, 0.5, 3 * 2**29)
    assert needed_by(stage(0), study) == Resources(1, 0.0, 3 * 2**29)
    assert needed_by(stage(0, device="cuda", timed=True), study).gpus == 0


def test_each_kind_of_stage_may_take_another_share() -> None:
    study = StudyConfig(stage_gpus={"train": 0.25}, stage_memory_gib={"train": 8})
    assert needed_by(stage(0, device="cuda"), study) == Resources(1, 0.25, 8 * 2**30)
    assert needed_by(stage(0, device="cuda", timed=True), study) == Resources(1, 0.0, 2 * 2**30)


# Damage that shows when a stage is gone on from


def spoil(store: Store, job: Job) -> None:
    """Changes a file in a way that shows only when it is read."""
    path = store.directory(job.fingerprint) / "model.safetensors"
    path.write_bytes(bytes(len(FILES["model.safetensors"])))
    os.utime(path, ns=(0, 0))


def test_a_parent_that_turns_out_to_be_damaged_is_computed_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    parent = stage(0)
    plan = [parent, *(stage(number, [parent]) for number in range(1, 4))]
    run(Crew(), store, plan[:1])
    spoil(store, parent)
    outcome, heard = run(Crew(draw=random.Random(0)), store, plan)
    assert outcome == Outcome(
        ran=4, damaged={"stage 0": "model.safetensors does not have the hash that SHA256SUMS names"}
    )
    assert heard.count("damaged stage 0") == 1
    assert (tmp_path / "damaged" / parent.fingerprint).is_dir()
    assert store.checked(parent.fingerprint)


def test_what_is_damaged_each_time_fails_in_the_end(tmp_path: Path) -> None:
    class Rotten(Crew):
        def start(self, job: Job) -> None:
            if job.needs:
                raise Damaged(Path(job.needs[0]), "rotten")
            super().start(job)

    parent = stage(0)
    plan = [parent, stage(1, [parent])]
    run(Crew(), Store(tmp_path), plan[:1])
    outcome, _ = run(Rotten(), Store(tmp_path), plan)
    assert "rotten" in outcome.failed["stage 1"]
    assert list(outcome.failed) == ["stage 1"]


def test_a_place_that_cannot_be_written_fails_one_stage(tmp_path: Path) -> None:
    plan = [stage(0), stage(1), stage(2)]
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / plan[1].fingerprint).write_text("in the way")
    outcome, _ = run(Crew(), Store(tmp_path), plan)
    assert outcome.ran == 2
    assert "cannot write" in outcome.failed["stage 1"]


def test_a_large_plan_costs_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every stage is looked at a few times, not once for each of the others."""
    count = 20_000
    parents = [stage(number) for number in range(count // 10)]
    plan = parents + [stage(count + number, [parents[number % len(parents)]]) for number in range(count - len(parents))]
    looked = 0

    def counted(job: Job, study: StudyConfig) -> Resources:
        nonlocal looked
        looked += 1
        return needed_by(job, study)

    class Instant(Crew):
        def completed(self) -> Sequence[Completed]:
            return [Completed(self.running.popitem()[1])]

        def start(self, job: Job) -> None:
            self.running[job.fingerprint] = job

        def submit(self, job: Job, *, machine_busy: bool = False) -> None:
            self.start(job)

    monkeypatch.setattr("prunecast.study.executor.needed_by", counted)
    monkeypatch.setattr(Store, "begin", lambda *_: None)
    monkeypatch.setattr(Store, "commit", lambda *_: None)
    outcome, _ = run(Instant(), Store(tmp_path), plan, at_once=1)
    assert (outcome.ran, looked) == (count, 2 * count)

"""What a study computes again, and what it takes as it is: after damage, copies, other machines, other recipes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.support.series_files import write_table
from tests.support.small_study import Micro, Watch
from tools.kill_study import contents, differences

from prunecast import api, environment
from prunecast.cli.main import main
from prunecast.errors import MissingExtra, UserError
from prunecast.measure.machine_lock import beside_others
from prunecast.recipe import Recipe, load_recipe, write_recipe
from prunecast.records import Failure
from prunecast.stages.job import Job
from prunecast.store import OF_THE_RECORD, SUMS_FILE, Store
from prunecast.study.frame import selected, write_frame
from prunecast.study.local import InProcess
from prunecast.study.plan import decided, located
from prunecast.study.study import Study, changed_data, open_study, run_study, status, take_inventory, to_run

ELSEWHERE = "0123456789ab"


def left_to_do(store: Path, jobs: Sequence[Job], *, own_timings: bool = False) -> list[Job]:
    """Returns what a run would compute."""
    return to_run(jobs, take_inventory(jobs, Store(store / "store"), own_timings=own_timings))


# Other recipes


def test_another_seed_computes_what_is_new_alone(micro: Micro) -> None:
    _, two = micro.planned("study.seeds=[1,2]")
    assert {job.recipe.seed for job in left_to_do(micro.whole, two)} == {2}
    assert len(left_to_do(micro.whole, two)) == len(micro.jobs)


@pytest.mark.parametrize(
    "setting",
    [
        "study.title=Another",
        "study.stage_memory_gib=1",
        "study.stage_memory_gib={train: 8, finetune: 4}",
        "study.stage_gpus=0.5",
        "study.timed=[1]",
        "study.keep_files=false",
    ],
)
def test_what_changes_no_number_computes_nothing(micro: Micro, setting: str) -> None:
    assert left_to_do(micro.whole, micro.planned(setting)[1]) == []


def test_a_study_that_keeps_no_files_has_the_same_records_and_goes_on(micro: Micro, tmp_path: Path) -> None:
    out, watch = tmp_path / "out", Watch()
    recipe, jobs = micro.planned("study.keep_files=false")
    assert run_study(out, recipe, jobs, 2, watch, executor=InProcess).ran == len(jobs)
    store, dense = Store(out / "store"), micro.the("train", role="dense")

    def with_files() -> set[str]:
        return {path.parent.name for path in (out / "store").glob("*/*/*") if path.name not in OF_THE_RECORD}

    assert with_files() == {dense.fingerprint}, "whatever is new goes on from it"
    for job in jobs:
        found, whole = store.record(job.fingerprint), Store(micro.whole / "store").record(job.fingerprint)
        assert (found.test, found.size, found.files) == (whole.test, whole.size, whole.files)
    recipe, more = micro.planned("study.keep_files=false", "finetune.learning_rate=0.005")
    watch = Watch()
    again = run_study(out, recipe, more, 1, watch, executor=InProcess)
    tuned = [job for job in more if job.fingerprint not in {old.fingerprint for old in jobs}]
    assert again.ran == len(tuned) + 2, "what was new, and what it needs: the pruned model, and the dense one exported"
    assert (again.failed, again.damaged) == ({}, {})
    assert status(out).done == len(more)
    assert with_files() == {dense.fingerprint}


def test_files_go_later_where_they_were_kept_before(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out")
    recipe, jobs = micro.planned("study.keep_files=false")
    assert run_study(out, recipe, jobs, 1, Watch(), executor=InProcess).ran == 0
    kept = {path.parent.name for path in (out / "store").glob("*/*/model.safetensors")}
    assert kept == {micro.the("train", role="dense").fingerprint}


def test_what_a_failed_stage_needs_stays(micro: Micro, tmp_path: Path) -> None:
    tuned = micro.the("finetune")
    out = micro.copied(tmp_path / "out", tuned)
    place = Store(out / "store").directory(tuned.fingerprint).parent
    shutil.rmtree(place)
    place.write_text("in the way")
    recipe, jobs = micro.planned("study.keep_files=false")
    assert tuned.label in run_study(out, recipe, jobs, 1, Watch(), executor=InProcess).failed
    assert (Store(out / "store").directory(micro.the("prune").fingerprint) / "model.safetensors").is_file()
    place.unlink()
    left = len(left_to_do(out, jobs))
    assert run_study(out, recipe, jobs, 1, Watch(), executor=InProcess).ran == left


def test_a_new_title_is_in_the_report_and_nothing_ran(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out")
    result = api.study_run(micro.file, monitor=Watch(), out=out, settings=["study.title=Quite another"])
    assert (result.outcome.ran, result.outcome.present) == (0, len(micro.jobs))
    assert "Quite another" in result.files.page.read_text(encoding="utf-8")


# The data's file

PLACES_OF_A_FILE = ("here/given/own.csv", "out/given/own.csv", "out/own.csv", "data/own.csv")
"""Where a recipe's `given/own.csv` is looked for, in this order: from here, from the recipe, beside it, by its name."""


@pytest.mark.parametrize("place", PLACES_OF_A_FILE)
def test_a_written_recipe_finds_its_file_again(
    place: str, micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of another content lie wherever is looked later."""
    out = micro.copied(tmp_path / "out")
    write_recipe(load_recipe(micro.file, ["data.name=given/own.csv"]), out / "recipe.yaml")
    for later in PLACES_OF_A_FILE[PLACES_OF_A_FILE.index(place) + 1 :]:
        write_table(tmp_path / later, first=9.0)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(micro.file.parent / "own.csv", tmp_path / place)
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path / "data"))
    for _ in range(2):  # then by the recipe that the first run wrote
        watch = Watch()
        outcome = api.study_run(Path("../out/recipe.yaml"), monitor=watch, out=Path("../out")).outcome
        assert (outcome.ran, outcome.present) == (0, len(micro.jobs))
        assert not [line for line in watch.heard if line.startswith("note")]


def test_each_data_set_of_a_study_is_looked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv")
    sets: list[Any] = [{"data": {"name": name}} for name in ("far/a.csv", "ETTh1")]
    recipe = load_recipe(base={"study": {"datasets": [*sets, {"data": {"freq": "t"}}]}})
    study = located(recipe, tmp_path).study
    assert study is not None
    assert [entry.data.get("name") for entry in study.datasets] == [str(tmp_path / "a.csv"), "ETTh1", None]
    absent = load_recipe(base={"study": {"datasets": [*sets, {"data": {"name": "absent.csv"}}]}})
    with pytest.raises(UserError, match=r"absent\.csv: no such file in .*" + re.escape(str(tmp_path))):
        located(absent, tmp_path)


def test_another_file_of_the_name_is_told_and_computed_anew(micro: Micro, tmp_path: Path) -> None:
    out, other = micro.copied(tmp_path / "out"), write_table(tmp_path / "own.csv", rows=400, first=9.0)
    new = next(job for job in micro.planned(f"data.name={other}")[1] if job.recipe.model["name"] == "repeat")
    watch = Watch()
    assert micro.run(out, watch, [new]).ran == 1
    told = f"own.csv: not the file that results in {out / 'store'} were made of; what rests on it is computed anew"
    assert [line for line in watch.heard if line.startswith("note")] == [f"note {told}"]
    longer = [job for job in micro.planned("train.epochs=4")[1] if job.stage == "train"]
    assert changed_data(longer, Store(out / "store")) == [], "other stages of the same file"


# Damage


def test_what_is_damaged_is_said_set_aside_and_computed_again(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out")
    store = Store(out / "store")
    model, record = micro.the("prune"), micro.the("train", "repeat")
    weights = store.directory(model.fingerprint) / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    path = store.directory(record.fingerprint) / "record.json"
    path.write_text(path.read_text().replace('"mse"', '"msf"', 1))
    found = status(out)
    assert (found.done, len(found.damaged), found.waiting) == (len(micro.jobs) - 2, 2, 0)
    assert {row["stage"]: row["damaged"] for row in found.by_stage if row["damaged"]} == {"prune": 1, "train": 1}
    assert [failure.label for failure in open_study(out).results()[1]] == [record.label], "the report leaves it out"
    watch = Watch()
    outcome = micro.run(out, watch)
    assert (outcome.ran, outcome.failed) == (2, {})
    assert outcome.damaged.keys() == {record.label, model.label}
    assert {line for line in watch.heard if line.startswith("damaged")} == {
        "damaged train: record.json does not have the hash that SHA256SUMS names",
        "damaged prune: model.safetensors does not have the hash that SHA256SUMS names",
    }
    assert {path.name for path in (out / "store" / "damaged").iterdir()} == {model.fingerprint, record.fingerprint}
    shutil.rmtree(out / "store" / "damaged")
    assert differences(micro.whole, out) == []


def test_results_without_their_models_are_results(micro: Micro, tmp_path: Path) -> None:
    """Records alone, as they are published, are gone on from by computing again what the new stages need."""
    out = micro.copied(tmp_path / "out", micro.the("prune"))
    store = Store(out / "store")
    for path in (out / "store").glob("??/*/*"):
        if path.is_file() and path.name not in OF_THE_RECORD:
            path.unlink()
    assert status(out).damaged == []
    assert left_to_do(out, [job for job in micro.jobs if store.has(job.fingerprint)]) == []
    again = left_to_do(out, micro.jobs)
    dense = micro.the("train")
    assert [job for job in again if store.has(job.fingerprint)] == [dense, micro.the("export", role="dense")]
    outcome = micro.run(out)
    assert (outcome.ran, outcome.failed) == (len(again), {})
    assert Store(out / "store").checked(dense.fingerprint)
    assert left_to_do(out, micro.jobs) == []


# Published tables


def test_a_published_study_is_gone_on_from(micro: Micro, tmp_path: Path) -> None:
    """Tables stand for records without files: what is new computes again what it needs, and all else is taken."""
    whole, _ = open_study(micro.whole).tables()
    out, tuned = tmp_path / "out", micro.the("finetune")
    lost = {job.fingerprint for job in micro.jobs if tuned.fingerprint in (job.fingerprint, *job.needs)}
    out.mkdir()
    write_frame(selected(whole, [job.fingerprint for job in micro.jobs if job.fingerprint not in lost]), out)
    write_recipe(micro.recipe, out / "recipe.yaml")
    before = status(out)
    assert (before.stages, before.done, before.failed) == (len(micro.jobs) - len(lost),) * 2 + ([],)
    outcome = micro.run(out)
    again = {micro.the("train").fingerprint, micro.the("prune").fingerprint}
    assert lost | again <= {path.parent.name for path in (out / "store").glob("??/*/record.json")}
    assert (outcome.failed, outcome.damaged, outcome.present) == ({}, {}, len(micro.jobs) - outcome.ran)
    assert status(out).done == len(micro.jobs)
    found, failures = open_study(out).tables()
    assert failures == []
    parts = ("_ms", "_mj", "speedup", "memory", "realised_share", "others_share", "steal_share")
    moved = [name for name in whole.stages.columns if any(part in name for part in parts)]
    moved += ["started_at", "elapsed_s", "machine_busy"]
    pd.testing.assert_frame_equal(found.stages.drop(columns=moved), whole.stages.drop(columns=moved))
    assert micro.run(out).ran == 0


# Copies


def test_two_halves_copied_together_are_a_whole(micro: Micro, tmp_path: Path) -> None:
    """Each half has what the other lacks; where both have a stage, one of the two stays."""
    one = micro.copied(tmp_path / "one", micro.the("prune"))
    other = micro.copied(tmp_path / "other", micro.the("train", "repeat"), micro.the("measure", role="dense"))
    assert left_to_do(one, micro.jobs)
    assert left_to_do(other, micro.jobs)
    together = shutil.copytree(one, tmp_path / "together")
    shutil.copytree(other, together, dirs_exist_ok=True)
    assert left_to_do(together, micro.jobs) == []
    outcome = micro.run(together)
    assert (outcome.present, outcome.ran, outcome.damaged) == (len(micro.jobs), 0, {})
    assert not differences(micro.whole, together)


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_a_moved_store_is_hashed_once(micro: Micro, tmp_path: Path, copy: object) -> None:
    """What is copied later than its sums is read to the end, and then trusted."""
    shutil.copytree(micro.whole, tmp_path / "moved", copy_function=copy)
    store = Store(tmp_path / "moved" / "store")
    before = contents(tmp_path / "moved")
    for job in micro.jobs:
        os.utime(store.directory(job.fingerprint) / SUMS_FILE, (1e9, 1e9))
    assert take_inventory(micro.jobs, store).hashed == {job.fingerprint for job in micro.jobs}
    assert micro.run(tmp_path / "moved").ran == 0
    assert take_inventory(micro.jobs, store).hashed == set()
    assert contents(tmp_path / "moved") == before


def test_a_failure_that_another_store_has_overcome_is_none(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out", micro.the("prune"))
    (out / "store" / "failures").mkdir(exist_ok=True)
    name = micro.the("prune").fingerprint
    reason = f'{{"stage": "prune", "fingerprint": "{name}", "label": "x", "reason": "no disk"}}'
    (out / "store" / "failures" / f"{name}.json").write_text(reason)
    assert status(out).failed == ["x: no disk"]
    shutil.copytree(micro.whole, out, dirs_exist_ok=True)
    assert (status(out).failed, status(out).done) == ([], len(micro.jobs))


# Other machines


def test_another_machines_timings_are_taken_unless_ones_own_are_asked_for(micro: Micro, tmp_path: Path) -> None:
    recipe, jobs = micro.planned(machine=ELSEWHERE)
    clocks = [job for job in jobs if job.stage == "measure"]
    assert left_to_do(micro.whole, jobs) == []
    assert left_to_do(micro.whole, jobs, own_timings=True) == clocks
    out = micro.copied(tmp_path / "out")
    assert run_study(out, recipe, jobs, 1, Watch(), executor=InProcess).ran == 0
    watch = Watch()
    own = run_study(out, recipe, jobs, 1, watch, executor=InProcess, own_timings=True)
    assert (own.ran, own.present, own.failed) == (len(clocks), len(jobs) - len(clocks), {})
    found = status(out)
    here = micro.the("measure", role="dense").machine
    assert found.timed_on == {here: len(clocks), ELSEWHERE: len(clocks)}
    assert found.done == found.stages == len(jobs)
    records, _ = open_study(out).results()
    assert len(records) == len(jobs) + len(clocks), "each timing under its machine"
    assert left_to_do(out, jobs, own_timings=True) == left_to_do(out, micro.jobs, own_timings=True) == []


def test_a_study_waits_once_for_a_busy_machine_and_its_records_say_so(
    micro: Micro, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = [job for job in micro.jobs if job.stage == "measure"]
    out, wait_s = micro.copied(tmp_path / "out", *clocks), 3.0
    with beside_others():
        outcome = run_study(out, micro.recipe, micro.jobs, 1, Watch(), executor=InProcess, wait_s=wait_s)
    assert (outcome.ran, outcome.failed) == (len(clocks), {})
    assert all(Store(out / "store").record(job.fingerprint).timing.machine_busy for job in clocks)
    waits = [record for record in caplog.records if "a timing waits" in record.getMessage()]
    assert len(waits) == 1, "what was waited for in vain is not waited for again"


def test_own_timings_are_asked_for_on_the_command_line(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = micro.copied(tmp_path / "out"), ["--json", "study", "run", str(micro.file)]
    here = environment.describe()
    monkeypatch.setattr(environment, "describe", lambda: here.model_copy(update={"machine": ELSEWHERE}))
    for measure, ran in (("any", 0), ("here", sum(job.stage == "measure" for job in micro.jobs)), ("here", 0)):
        assert main([*command, "--out", str(out), "--measure", measure]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["ran"] == ran, measure
    assert main([*command, "--out", str(out), "--measure", "there"]) == 2
    assert "--measure: expected any or here, found 'there'" in capsys.readouterr().err


def test_a_damaged_timing_is_one_machines_alone(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out")
    store, own = Store(out / "store"), micro.the("measure", role="dense")
    foreign = replace(own, machine=ELSEWHERE)
    shutil.copytree(store.directory(own.fingerprint), store.directory(foreign.fingerprint))
    inventory = take_inventory(micro.jobs, store)
    assert list(inventory.damaged) == [foreign.fingerprint], "its record bears another name"
    assert to_run(micro.jobs, inventory) == []


# What is missing is said before anything runs


def test_a_runtime_that_is_not_installed_is_refused_before_it_is_needed(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(*_: object) -> None:
        raise MissingExtra("openvino", "openvino")

    monkeypatch.setattr("prunecast.study.study.refusal", refusal)
    with pytest.raises(MissingExtra, match=r"pip install 'prunecast\[openvino\]'"):
        micro.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert micro.run(micro.copied(tmp_path / "done")).ran == 0, "nothing is to be exported"


def test_a_gpu_that_is_not_there_is_one_line(micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecast.study.local.visible_gpus", tuple)
    recipe, jobs = micro.planned("train.device=cuda")
    with pytest.raises(UserError, match="device 'cuda' is not available here"):
        run_study(tmp_path / "out", recipe, jobs, 1, Watch())


# Devices


def with_auto(**study: object) -> Recipe:
    return load_recipe(base={"study": study})


def test_auto_is_decided_everywhere_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecast.study.plan.choose_device", lambda _: type("Device", (), {"type": "cuda"}))
    models = [
        {"model": {"name": "dlinear"}, "train": {"device": "auto"}, "finetune": {"device": "cpu"}},
        {"model": {"name": "transformer"}},
    ]
    recipe = decided(with_auto(models=models, datasets=[{"data": {"name": "ETTh1"}, "train": {"device": "auto"}}]))
    assert recipe.study is not None
    assert (recipe.train.device, recipe.finetune.device) == ("cuda", "cuda")
    assert recipe.study.models[0].train == {"device": "cuda"}
    assert recipe.study.models[0].finetune == {"device": "cpu"}
    assert recipe.study.models[1].train == {}
    assert recipe.study.datasets[0].train == {"device": "cuda"}
    assert decided(recipe) is recipe


def test_a_study_stays_with_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecast.study.plan.choose_device", lambda _: type("Device", (), {"type": "cuda"}))
    write_recipe(load_recipe(settings=["train.device=cpu"]), tmp_path / "recipe.yaml")
    assert decided(with_auto(), tmp_path / "recipe.yaml").train.device == "cpu"
    assert decided(with_auto(), tmp_path / "none.yaml").train.device == "cuda"
    asked = load_recipe(settings=["train.device=mps", "finetune.device=mps"])
    assert decided(asked, tmp_path / "recipe.yaml").train.device == "mps"
    write_recipe(decided(load_recipe(settings=["train.device=cpu"])), tmp_path / "mixed.yaml")
    again = decided(load_recipe(settings=["train.device=cpu"]), tmp_path / "mixed.yaml")
    assert (again.train.device, again.finetune.device) == ("cpu", "cuda")
    write_recipe(load_recipe(), tmp_path / "recipe.yaml")  # by a version that left auto in it
    assert decided(with_auto(), tmp_path / "recipe.yaml").train.device == "cuda"


def test_the_device_names_the_result(micro: Micro) -> None:
    both = [micro.planned(f"train.device={device}", f"finetune.device={device}")[1] for device in ("cpu", "cuda")]
    names = [{job.fingerprint for job in jobs} for jobs in both]
    assert not names[0] & names[1]


def test_a_report_leaves_out_no_record_of_another_schema(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out")
    record = next(out.glob("store/*/*/record.json"))
    values = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(values | {"schema_version": 1}), encoding="utf-8")
    (record.parent / "SHA256SUMS").unlink()  # it had none
    with pytest.raises(UserError, match="expected a record of schema 2, found 1"):
        api.report(out, out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# The report of a study in which nothing changed


def test_an_unchanged_study_is_not_even_read(micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = micro.copied(tmp_path / "out")
    first = api.report(out).files
    written = {path: path.read_bytes() for path in (first.page, *first.tables, *first.figures)}
    for way in ("results", "tables"):
        monkeypatch.setattr(Study, way, lambda _: pytest.fail("records were read"))
    again = api.report(out).files
    assert (again.page, again.tables, again.figures) == (first.page, first.tables, first.figures)
    assert {path: path.read_bytes() for path in written} == written
    assert [list(map(str, row.values())) for row in again.rows] == [list(map(str, row.values())) for row in first.rows]


@pytest.mark.parametrize("change", ["page", "record", "failure", "title", "table"])
def test_a_report_follows_every_change(
    micro: Micro, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = micro.copied(tmp_path / "out")
    first = api.report(out).files
    read = []
    results = Study.results
    monkeypatch.setattr(Study, "results", lambda study: read.append(study) or results(study))
    if change == "page":
        first.page.write_text("other")
    elif change == "record":
        shutil.rmtree(Store(out / "store").directory(micro.the("finetune").fingerprint))
    elif change == "failure":
        name = micro.the("finetune").fingerprint
        shutil.rmtree(Store(out / "store").directory(name))
        Store(out / "store").fail(Failure(stage="finetune", fingerprint=name, label="x", reason="y"))
    elif change == "table":
        first.tables[0].unlink()
    else:
        write_recipe(load_recipe(out / "recipe.yaml", ["study.title=Quite another"]), out / "recipe.yaml")
    files = api.report(out).files
    assert len(read) == 1
    assert first.tables[0].is_file()
    assert files.page.read_text(encoding="utf-8") != "other"

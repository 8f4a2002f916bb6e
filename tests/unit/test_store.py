"""The store: a stage's folder is whole or absent and can tell which, one writer, failures kept apart."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.stage_folders import FILES, made_up, put_result
from tools import convert_records

from prunecast.errors import UserError
from prunecast.records import Failure, taken_apart
from prunecast.store import (
    ARRAYS_FILE,
    RECORD_FILE,
    SUMS_FILE,
    Condition,
    Damaged,
    Store,
    condition,
    new_directory,
    new_file,
    read_record,
    sweep,
    write_files,
    write_record,
    write_sums,
)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_files_that_cannot_all_be_written_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    (tmp_path / "taken").mkdir()
    files = {tmp_path / "new" / "one": b"1", tmp_path / "there": b"2", tmp_path / "taken": b"3"}
    with pytest.raises(UserError, match=r"cannot write \S+/taken: "):
        write_files(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "there"]


def test_errors_name_what_the_user_knows(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error, new_file(tmp_path / "model.onnx") as path, new_file(path, replace=True):
        raise OSError(28, "No space left on device")
    assert str(error.value).startswith(f"cannot write {tmp_path}/model.onnx: No space left")
    with pytest.raises(UserError) as error, new_directory(tmp_path / "model") as folder:
        raise UserError(f"cannot read {folder / 'x'}: it is odd")
    assert str(error.value) == f"cannot read {tmp_path}/model/x: it is odd"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a" / "model") as directory:
        (directory / "file").write_text("x")
        assert not (tmp_path / "a" / "model").exists()
    assert (tmp_path / "a" / "model" / "file").read_text() == "x"
    assert not leftovers(tmp_path)


def fill(target: Path, second: Path) -> None:
    """Fills a folder with a file, and then writes elsewhere."""
    with new_directory(target) as directory:
        (directory / "file").write_text("x")
        second.write_text("x")


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*Is a directory"):
        fill(tmp_path / "model", second=Path("/"))
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_refused_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("precious")
    with pytest.raises(UserError, match="exists"), new_file(target):
        pytest.fail("the block must not run")
    with pytest.raises(UserError, match="exists"), new_directory(target):
        pytest.fail("the block must not run")
    assert target.read_text() == "precious"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), new_directory(tmp_path / "file" / "model"):
        pytest.fail("the block must not run")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        fill(tmp_path / "model", second=Path("/dev/full"))
    assert list(tmp_path.iterdir()) == []


def test_one_writer_at_a_time_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from prunecast.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).writer():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert Store(tmp_path).is_held()
        with pytest.raises(UserError, match="in use"), Store(tmp_path).writer():
            pytest.fail("two writers")
        holder.kill()
    assert not Store(tmp_path).is_held()
    with Store(tmp_path).writer():
        pass


def test_a_writer_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / ".ab12.json.x1.json").write_text("")
    for fingerprint in ("ab12", "ab34"):
        (store.begin(fingerprint) / "half.json").write_text("{")
        (store.work(fingerprint) / "checkpoint").write_text("x")
    put_result(store.directory("ab12"))
    with store.writer():
        assert not leftovers(tmp_path)
        assert not store.work("ab12").exists(), "it is done"
        assert not store.result("ab34").exists()
        assert (store.work("ab34") / "checkpoint").exists(), "it can go on from there"


def test_what_is_left_of_one_target_is_swept_and_no_more(tmp_path: Path) -> None:
    for name in (".stages.json.x1.json", ".stages.yaml", ".git", "stages.json"):
        (tmp_path / name).write_text("")
    sweep(tmp_path / "stages.json")
    assert {path.name for path in tmp_path.iterdir()} == {".stages.yaml", ".git", "stages.json"}


# Stages under way


def test_a_stage_is_under_way_until_it_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.finished() == frozenset()
    with store.writer():
        (store.begin("ab12") / "record.json").write_text("{}")
        assert (store.under_way(), store.finished(), store.has("ab12")) == ({"ab12"}, frozenset(), False)
        store.commit("ab12")
        assert (store.under_way(), store.finished(), store.has("ab12")) == (frozenset(), {"ab12"}, True)
        store.begin("ab34")
    assert store.under_way() == frozenset(), "left by a writer that is gone"
    assert not store.work("ab12").exists()


def test_a_stage_begins_empty(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.begin("ab12") / "half").write_text("x")
    assert not list(store.begin("ab12").iterdir())


def test_a_result_takes_the_place_of_a_bare_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put_result(store.directory("ab12"))
    for name in FILES:
        (store.directory("ab12") / name).unlink()
    put_result(store.begin("ab12"), "ab12")
    store.commit("ab12")
    assert store.checked("ab12") == store.directory("ab12")
    assert not store.work("ab12").exists()


def test_a_stripped_stage_is_its_record_alone_and_a_kill_in_between_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = put_result(store.directory("ab12"))
    record = read_record(whole)
    before = store.work("ab12") / "before"  # as it lies between the two renames
    before.parent.mkdir(parents=True)
    whole.rename(before)
    with store.writer():
        assert condition(whole, thorough=True) == Condition(hashed=True)
        assert not store.work("ab12").exists()
        store.strip("ab12")
        assert {path.name for path in whole.iterdir()} == {RECORD_FILE, ARRAYS_FILE, SUMS_FILE}
        store.strip("ab12")
        assert store.condition("ab12", thorough=True) == Condition(bare=True, hashed=True)
        assert store.record("ab12") == record
    assert not store.work("ab12").exists()


def test_a_result_that_cannot_be_moved_to_its_place_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin("ab12")
    (tmp_path / "ab").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        store.commit("ab12")
    assert store.finished() == frozenset()


def test_what_is_damaged_is_set_aside_once_and_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for content in ("first", "second"):
        store.directory("ab12").mkdir(parents=True)
        (store.directory("ab12") / "record.json").write_text(content)
        aside = store.set_aside("ab12")
        assert aside == tmp_path / "damaged" / "ab12"
        assert (aside / "record.json").read_text() == content
        assert not store.has("ab12")


def test_a_reader_without_the_right_to_write_finds_no_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").mkdir()  # what cannot be opened for writing, also for root
    assert not Store(tmp_path).is_held()


def test_failures_are_kept_and_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failure = Failure(stage="train", fingerprint="ab12", label="train x", reason="diverged")
    store.fail(failure)
    store.fail(failure)
    assert store.failures() == [failure]
    (tmp_path / "failures" / ".ab34.json.x1.json").write_text("")  # half-written
    assert store.failures() == [failure]
    store.begin("ab12")
    assert store.failures() == []
    store.fail(failure)
    put_result(store.directory("ab12"))
    assert store.failures() == [], "done in a store that was copied here"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put_result(store.directory("ab12"))
    (store.directory("ab12") / "record.json").write_text('{"stage": "tr')
    with pytest.raises(UserError, match="does not have the hash"):
        store.record("ab12")
    assert "does not have the hash" in (store.condition("ab12").damage or "")


# What can be told of a folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return put_result(tmp_path / "ab" / "ab12")


def check(directory: Path) -> Path:
    """Returns the folder of a stage that is about to be used."""
    return Store(directory.parents[1]).checked(directory.name)


def make_older(directory: Path) -> None:
    """Makes all files older than their sums, whatever was written into them meanwhile."""
    for name in FILES:
        os.utime(directory / name, ns=(0, 0))


def test_what_was_written_is_whole(whole: Path) -> None:
    assert condition(whole) == Condition()
    assert condition(whole, thorough=True) == Condition(hashed=True)
    assert check(whole) == whole
    record = read_record(whole)
    assert record.files == {name: len(FILES[name]) for name in FILES}
    assert (whole / RECORD_FILE).read_text(encoding="utf-8") == taken_apart(record)[0]


def test_the_sums_are_of_every_file_as_sha256sum_reads_them(whole: Path) -> None:
    names = [line.partition("  ")[2] for line in (whole / SUMS_FILE).read_text().splitlines()]
    assert names == sorted([*FILES, RECORD_FILE, ARRAYS_FILE])
    check_tool = shutil.which("sha256sum")
    if check_tool is not None:
        subprocess.run([check_tool, "--check", "--strict", "--quiet", SUMS_FILE], cwd=whole, check=True)


def test_a_record_without_files_is_whole(tmp_path: Path) -> None:
    (tmp_path / "ab12").mkdir()
    write_record(made_up("ab12"), tmp_path / "ab12")
    assert condition(tmp_path / "ab12") == Condition()


def test_equal_runs_differ_in_what_may_differ_alone(whole: Path, tmp_path: Path) -> None:
    other = put_result(tmp_path / "elsewhere" / "ab12")
    slower = made_up("ab12").model_copy(update={"timing": made_up("ab12").timing.model_copy(update={"elapsed_s": 9.0})})
    write_record(slower, other)
    one, two = (json.loads((folder / RECORD_FILE).read_text()) for folder in (whole, other))
    assert one.pop("timing") != two.pop("timing")
    assert one == two
    assert (whole / ARRAYS_FILE).read_bytes() == (other / ARRAYS_FILE).read_bytes()


@pytest.mark.parametrize("name", [RECORD_FILE, ARRAYS_FILE, SUMS_FILE])
def test_no_changed_byte_of_a_record_goes_unseen(whole: Path, name: str) -> None:
    path = whole / name
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        assert condition(whole, thorough=True).damage is not None, f"byte {place} of {content!r}"
        if name != SUMS_FILE:  # a wrong sum may be another file's
            assert name == ARRAYS_FILE or condition(whole).damage is not None
            with pytest.raises(UserError):
                read_record(whole)


@pytest.mark.parametrize("name", [RECORD_FILE, ARRAYS_FILE, SUMS_FILE])
@pytest.mark.parametrize("kept", [0, 1, 40, -1, -2])
def test_a_record_that_was_cut_off_is_damaged(whole: Path, kept: int, name: str) -> None:
    path = whole / name
    path.write_bytes(path.read_bytes()[:kept])
    assert condition(whole, thorough=True).damage is not None
    if name != SUMS_FILE:
        with pytest.raises(Damaged, match=f"damaged: {name}"):
            read_record(whole)


@pytest.mark.parametrize("name", [RECORD_FILE, ARRAYS_FILE, SUMS_FILE])
def test_a_record_with_a_part_missing_is_damaged(whole: Path, name: str) -> None:
    (whole / name).unlink()
    assert condition(whole).damage is not None
    with pytest.raises(UserError):
        read_record(whole)


def test_another_stages_record_is_not_this_ones(whole: Path) -> None:
    moved = whole.rename(whole.with_name("ab34"))
    assert condition(moved).damage == "record.json is another stage's"


@pytest.mark.parametrize("name", list(FILES))
def test_a_changed_file_is_damage(whole: Path, name: str) -> None:
    content = bytearray(FILES[name])
    content[0] ^= 1
    (whole / name).write_bytes(content)
    assert condition(whole).damage == f"{name} does not have the hash that SHA256SUMS names"
    with pytest.raises(Damaged, match="does not have the hash"):
        check(whole)


def test_a_longer_file_and_a_missing_one_are_damage(whole: Path) -> None:
    (whole / "config.json").write_bytes(b"{}")
    make_older(whole)
    assert condition(whole).damage == "config.json has 2 bytes, expected 9"
    (whole / "config.json").unlink()
    assert condition(whole).damage == "config.json is missing"


def test_what_is_older_than_its_sums_is_hashed_when_asked_for_or_used(whole: Path) -> None:
    """A study is looked at in seconds; what was written to since, or is gone on from, is read to the end."""
    (whole / "model.safetensors").write_bytes(bytes(len(FILES["model.safetensors"])))
    make_older(whole)
    assert condition(whole) == Condition()
    assert condition(whole, thorough=True).damage is not None
    with pytest.raises(Damaged):
        check(whole)


def test_what_was_found_whole_need_not_be_hashed_again(whole: Path) -> None:
    for name in FILES:
        os.utime(whole / name, (2e9, 2e9))  # copied later than its sums were
    os.utime(whole / SUMS_FILE, (1e9, 1e9))
    assert condition(whole) == Condition(hashed=True)
    for path in whole.rglob("*"):
        os.utime(path, (1e9, 1e9))
    Store(whole.parents[1]).trust("ab12")
    assert condition(whole) == Condition()


def test_a_record_alone_can_be_read_and_not_gone_on_from(whole: Path) -> None:
    for name in FILES:
        (whole / name).unlink()
    assert condition(whole) == Condition(bare=True)
    assert read_record(whole).fingerprint == "ab12"
    with pytest.raises(Damaged, match="files that its record names are gone"):
        check(whole)


def test_a_record_alone_has_sums_of_its_own(whole: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "stripped")
    alone = shutil.copytree(whole, store.directory("ab12"))
    store.strip("ab12")
    assert {path.name for path in alone.iterdir()} == {RECORD_FILE, ARRAYS_FILE, SUMS_FILE}
    assert condition(alone, thorough=True) == Condition(bare=True, hashed=True)
    assert read_record(alone) == read_record(whole)
    for name in (RECORD_FILE, ARRAYS_FILE, SUMS_FILE):  # as when a store of records is copied over one with files
        shutil.copy(alone / name, whole)
    assert condition(whole).bare


def test_damage_travels_between_processes(whole: Path) -> None:
    error = Damaged(whole, "why")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.directory, copy.reason) == (Damaged, str(error), whole, "why")


def test_a_folder_that_is_not_there_is_damage(tmp_path: Path) -> None:
    assert condition(tmp_path / "ab12").damage == "cannot read it: No such file or directory"
    assert Store(tmp_path).condition("ab12").damage is not None


def test_another_schema_is_refused_and_is_no_damage(whole: Path) -> None:
    record = json.loads((whole / RECORD_FILE).read_text())
    (whole / RECORD_FILE).write_text(json.dumps(record | {"schema_version": 3}))
    write_sums(shutil.copytree(whole, whole.with_name("a") / "ab12"))  # they fit
    (whole / SUMS_FILE).unlink()
    for directory, look in itertools.product((whole, whole.with_name("a") / "ab12"), (read_record, condition)):
        with pytest.raises(UserError, match="expected a record of schema 2, found 3") as caught:
            look(directory)
        assert not isinstance(caught.value, Damaged)


# Records of schema 1


def as_in_schema_1(directory: Path) -> str:
    """Rewrites a folder's record as schema 1 had it, sealed and with hashes; returns its text."""
    record = read_record(directory)
    files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in FILES.items()}
    values = record.model_dump(mode="json") | {"schema_version": 1, "files": files, "role": "trained-on"}
    values["timing"]["record_sha256"] = None
    unsealed = json.dumps(values, indent=1, sort_keys=True) + "\n"
    seal = hashlib.sha256(unsealed.encode()).hexdigest()
    (directory / RECORD_FILE).write_text(unsealed.replace('"record_sha256": null', f'"record_sha256": "{seal}"'))
    for name in (ARRAYS_FILE, SUMS_FILE):
        (directory / name).unlink()
    return unsealed


def test_a_record_of_schema_1_is_converted_in_its_place(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(whole)
    as_in_schema_1(whole)
    with pytest.raises(UserError, match=r"expected a record of schema 2, found 1; see tools/convert_records\.py"):
        condition(whole)
    assert convert_records.main([str(whole.parent)]) == 0
    assert capsys.readouterr().out == "1 records converted\n"
    assert condition(whole, thorough=True) == Condition(hashed=True)
    assert read_record(whole) == record.model_copy(update={"role": "dense-continued"})


def test_what_is_damaged_is_not_converted(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = as_in_schema_1(whole)
    path = whole / RECORD_FILE
    path.write_text(path.read_text().replace("1.5", "1.6"))
    assert convert_records.main([str(whole.parent)]) == 1
    assert "does not have the hash that it names" in capsys.readouterr().err
    path.write_text(text)  # of earlier versions, which did not seal
    (whole / "config.json").write_text("{}")
    assert convert_records.main([str(whole.parent)]) == 1
    assert "config.json does not have the hash" in capsys.readouterr().err

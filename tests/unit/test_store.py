"""The store: a stage's folder is whole or absent, one writer, failures kept apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.stage_folders import FILES, put_result

from prunecast.errors import UserError
from prunecast.records import Failure
from prunecast.store import RECORD_FILE, Store, new_directory, new_file, sweep


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


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
    whole = store.directory("ab12")
    whole.mkdir(parents=True)
    for name in ("model.safetensors", RECORD_FILE):
        (whole / name).write_text(name)
    before = store.work("ab12") / "before"  # as it lies between the two renames
    before.parent.mkdir(parents=True)
    whole.rename(before)
    with store.writer():
        assert {path.name for path in whole.iterdir()} == {"model.safetensors", RECORD_FILE}
        assert not store.work("ab12").exists()
        store.strip("ab12")
        assert [path.name for path in whole.iterdir()] == [RECORD_FILE]
        store.strip("ab12")
        assert (whole / RECORD_FILE).read_text() == RECORD_FILE
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
    store.directory("ab12").mkdir(parents=True)
    (store.directory("ab12") / "record.json").write_text('{"stage": "tr')
    with pytest.raises(UserError, match="not a whole record"):
        store.record("ab12")
    assert "not a whole record" in (store.condition("ab12").damage or "")

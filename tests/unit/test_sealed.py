"""A sealed record tells whether it and the files beside it are whole."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from tests.support.stage_folders import FILES, made_up, put_result

from prunecast.errors import UserError
from prunecast.records import RunRecord, to_json
from prunecast.sealed import RECORD_FILE, Condition, Damaged, check, condition, read_record, trust, write_record
from prunecast.store import Store
from prunecast.study.study import open_study, status

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return put_result(tmp_path / "ab12")


def make_older(directory: Path) -> None:
    """Makes all files older than the record, whatever was written into them meanwhile."""
    for name in FILES:
        os.utime(directory / name, ns=(0, 0))


def test_what_was_written_is_whole(whole: Path) -> None:
    assert condition(whole) == Condition()
    assert condition(whole, thorough=True) == Condition(hashed=True)
    assert check(whole) == whole
    record = read_record(whole / RECORD_FILE)
    assert {name: facts.bytes for name, facts in record.files.items()} == {name: len(FILES[name]) for name in FILES}
    assert (whole / RECORD_FILE).read_text(encoding="utf-8") == to_json(record)


def test_a_record_without_files_is_whole(tmp_path: Path) -> None:
    (tmp_path / "ab12").mkdir()
    write_record(made_up("ab12"), tmp_path / "ab12")
    assert condition(tmp_path / "ab12") == Condition()


def test_equal_runs_differ_in_what_may_differ_alone(whole: Path, tmp_path: Path) -> None:
    other = put_result(tmp_path / "elsewhere" / "ab12")
    slower = made_up("ab12").model_copy(update={"timing": made_up("ab12").timing.model_copy(update={"elapsed_s": 9.0})})
    write_record(slower, other)
    one, two = (json.loads((folder / RECORD_FILE).read_text()) for folder in (whole, other))
    assert one.pop("timing")["record_sha256"] != two.pop("timing")["record_sha256"]
    assert one == two


def test_no_changed_byte_of_a_record_goes_unseen(whole: Path) -> None:
    path = whole / RECORD_FILE
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        assert condition(whole).damage is not None, f"byte {place} of {content!r}"
        with pytest.raises(UserError):
            read_record(path)


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -2])
def test_a_record_that_was_cut_off_is_damaged(whole: Path, kept: int) -> None:
    path = whole / RECORD_FILE
    path.write_bytes(path.read_bytes()[:kept])
    assert condition(whole).damage is not None
    with pytest.raises(Damaged, match=r"damaged: record.json"):
        read_record(path)


def test_another_stages_record_is_not_this_ones(whole: Path) -> None:
    moved = whole.rename(whole.with_name("ab34"))
    assert condition(moved).damage == "record.json is another stage's"


@pytest.mark.parametrize("name", list(FILES))
def test_a_changed_file_is_damage(whole: Path, name: str) -> None:
    content = bytearray(FILES[name])
    content[0] ^= 1
    (whole / name).write_bytes(content)
    assert condition(whole).damage == f"{name} does not have the hash that record.json names"
    with pytest.raises(Damaged, match="does not have the hash"):
        check(whole)


def test_a_longer_file_and_a_missing_one_are_damage(whole: Path) -> None:
    (whole / "config.json").write_bytes(b"{}")
    make_older(whole)
    assert condition(whole).damage == "config.json has 2 bytes, expected 9"
    (whole / "config.json").unlink()
    assert condition(whole).damage == "config.json is missing"


def test_what_is_older_than_its_record_is_hashed_when_asked_for_or_used(whole: Path) -> None:
    """A study is looked at in seconds; what was written to since, or is gone on from, is read to the end."""
    (whole / "model.safetensors").write_bytes(bytes(len(FILES["model.safetensors"])))
    make_older(whole)
    assert condition(whole) == Condition()
    assert condition(whole, thorough=True).damage is not None
    with pytest.raises(Damaged):
        check(whole)


def test_what_was_found_whole_need_not_be_hashed_again(whole: Path) -> None:
    for name in FILES:
        os.utime(whole / name, (2e9, 2e9))  # copied later than its record was
    os.utime(whole / RECORD_FILE, (1e9, 1e9))
    assert condition(whole) == Condition(hashed=True)
    for name in FILES:
        os.utime(whole / name, (1e9, 1e9))
    trust(whole)
    assert condition(whole) == Condition()


def test_a_record_alone_can_be_read_and_not_gone_on_from(whole: Path) -> None:
    for name in FILES:
        (whole / name).unlink()
    assert condition(whole) == Condition(bare=True)
    assert read_record(whole / RECORD_FILE).fingerprint == "ab12"
    with pytest.raises(Damaged, match="files that its record names are gone"):
        check(whole)


def test_records_of_earlier_versions_are_taken_as_they_are(tmp_path: Path) -> None:
    directory = tmp_path / "ab12"
    directory.mkdir()
    values = json.loads(to_json(made_up("ab12")))
    del values["files"], values["timing"]["record_sha256"]
    (directory / RECORD_FILE).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    assert condition(directory, thorough=True) == Condition()
    assert read_record(directory / RECORD_FILE) == made_up("ab12")


@pytest.mark.parametrize("study", sorted(path.name for path in RESULTS.iterdir()))
def test_every_committed_result_is_whole(study: str) -> None:
    found = status(RESULTS / study, thorough=True)
    assert (found["done"], found["failed"], found["damaged"]) == (found["stages"], [], [])
    records, failures = open_study(RESULTS / study).results()
    assert len(records) >= found["stages"]
    assert failures == []


def test_damage_travels_between_processes(whole: Path) -> None:
    error = Damaged(whole, "why")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.directory, copy.reason) == (Damaged, str(error), whole, "why")


def test_a_folder_that_is_not_there_is_damage(tmp_path: Path) -> None:
    assert condition(tmp_path / "ab12").damage == "cannot read it: No such file or directory"
    assert Store(tmp_path).condition("ab12").damage is not None


def test_the_schema_still_counts(whole: Path) -> None:
    record = json.loads((whole / RECORD_FILE).read_text())
    record["timing"]["record_sha256"] = None
    (whole / RECORD_FILE).write_text(json.dumps(record | {"unheard": 1}, indent=1, sort_keys=True))
    with pytest.raises(Damaged, match="not a whole record"):
        read_record(whole / RECORD_FILE)
    assert isinstance(made_up("x"), RunRecord)

"""A record that can tell whether it is whole: it names the hash of every file beside it, and its own.

The files are the same in every run of a stage, so their hashes stand in the open; the record's own hash covers times
as well, so it stands under `timing`. Records of earlier versions, which have neither, are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prunecast.errors import UserError
from prunecast.records import FileFacts, RunRecord, to_json

RECORD_FILE = "record.json"

_SEAL, _NO_SEAL = b'\n  "record_sha256": "', b'\n  "record_sha256": null'
_FILES, _END = b'\n "files": {', b"\n },"
_SHA256_DIGITS = 64


class Damaged(UserError):
    """A record, or a file beside it, is not what was written."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{directory} is damaged: {reason}; take an intact copy, or have a study compute it again")
        self.directory, self.reason = directory, reason

    def __reduce__(self) -> tuple[type[Damaged], tuple[Path, str]]:
        return type(self), (self.directory, self.reason)  # it travels from a worker process to its parent


@dataclass(frozen=True)
class Condition:
    """How a finished stage's folder was found.

    Attributes:
        damage: what is wrong with it, or None.
        bare: whether the record lies there without the files that it names: it can be read, but not gone on from.
        hashed: whether files that are newer than the record were hashed.
    """

    damage: str | None = None
    bare: bool = False
    hashed: bool = False


def write_record(record: RunRecord, directory: Path) -> RunRecord:
    """Writes the record of all else that lies in the directory, sealed; returns it."""
    unsealed = record.model_copy(update={"files": _facts_of_files(directory)})
    seal = hashlib.sha256(to_json(_with_seal(unsealed, None)).encode()).hexdigest()
    sealed = _with_seal(unsealed, seal)
    (directory / RECORD_FILE).write_text(to_json(sealed), encoding="utf-8")
    return sealed


def read_record(path: Path) -> RunRecord:
    """Returns the record in a file.

    Raises:
        UserError: when it is absent, damaged or of another schema.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}") from None
    _check_seal(content, path.parent)
    try:
        return RunRecord.model_validate_json(content)
    except ValidationError as error:
        raise Damaged(path.parent, f"{RECORD_FILE} is not a whole record: {error.errors()[0]['msg']}") from None


def condition(directory: Path, *, thorough: bool = False) -> Condition:
    """Says whether a finished stage, whose folder has its fingerprint for a name, is whole.

    The record is hashed each time. Of the other files that is done when they are newer than the record, which is
    written last, or when asked for; else their size has to do.

    Args:
        directory: of the stage.
        thorough: hash all files.
    """
    try:
        with (directory / RECORD_FILE).open("rb") as file:
            content, written_ns = file.read(), os.fstat(file.fileno()).st_mtime_ns
        named = _named_files(content, directory)
        return _condition_of_files(os.fspath(directory), named, None if thorough else written_ns)
    except OSError as error:
        return Condition(f"cannot read it: {error.strerror}")
    except Damaged as error:
        return Condition(error.reason)


def check(directory: Path) -> Path:
    """Checks every byte of a finished stage that is about to be used, and returns its folder.

    Raises:
        Damaged: when the record or a file is not what was written, or a file is missing.
    """
    found = condition(directory, thorough=True)
    if found.damage is not None or found.bare:
        raise Damaged(directory, found.damage or "the files that its record names are gone")
    return directory


def trust(directory: Path) -> None:
    """Makes the record newer than the files beside it, which were found whole: they need not be hashed again."""
    os.utime(directory / RECORD_FILE)


def _facts_of_files(directory: Path) -> dict[str, FileFacts]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / RECORD_FILE)
    return {
        path.relative_to(directory).as_posix(): FileFacts(bytes=path.stat().st_size, sha256=_sha256(path))
        for path in files
    }


def _with_seal(record: RunRecord, seal: str | None) -> RunRecord:
    return record.model_copy(update={"timing": record.timing.model_copy(update={"record_sha256": seal})})


def _check_seal(content: bytes, directory: Path) -> bool:
    """Returns whether a record is sealed; works on its text, for parsing takes a hundred times as long.

    Raises:
        Damaged: when it is, and the seal does not hold.
    """
    before = content.find(_SEAL)
    if before < 0:
        return False
    start = before + len(_SEAL)
    end = start + _SHA256_DIGITS
    digest = hashlib.sha256(content[:before] + _NO_SEAL + content[end + 1 :]).hexdigest()
    if digest.encode() != content[start:end]:
        raise Damaged(directory, f"{RECORD_FILE} does not have the hash that it names")
    return True


def _named_files(content: bytes, directory: Path) -> Mapping[str, Any]:
    """Returns the files that a whole record names: name -> size and hash.

    Raises:
        Damaged: when it is not whole, or another stage's.
    """
    if not _check_seal(content, directory):
        read_record(directory / RECORD_FILE)
    if f'\n "fingerprint": "{directory.name}"'.encode() not in content:
        raise Damaged(directory, f"{RECORD_FILE} is another stage's")
    start = content.find(_FILES)
    if start < 0:
        return {}
    opening = start + len(_FILES) - 1
    if content.startswith(b"{}", opening):
        return {}
    named: dict[str, Any] = json.loads(content[opening : content.index(_END, opening) + len(_END) - 1])
    return named


def _condition_of_files(directory: str, named: Mapping[str, Any], trusted_until_ns: int | None) -> Condition:
    missing, hashed, problems = 0, False, []
    for name, facts in named.items():
        path = f"{directory}/{name}"
        try:
            found = os.stat(path)  # noqa: PTH116 - tens of thousands of them in a few seconds
        except FileNotFoundError:
            missing += 1
            problems.append(f"{name} is missing")
            continue
        newer = trusted_until_ns is None or found.st_mtime_ns > trusted_until_ns
        hashed = hashed or newer
        if found.st_size != facts["bytes"]:
            problems.append(f"{name} has {found.st_size} bytes, expected {facts['bytes']}")
        elif newer and _sha256(Path(path)) != facts["sha256"]:
            problems.append(f"{name} does not have the hash that {RECORD_FILE} names")
    bare = bool(named) and missing == len(named)
    return Condition(None if bare or not problems else problems[0], bare, hashed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

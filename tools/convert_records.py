"""Turns records of schema 1 into records of today, in their places: of studies, stores and model folders.

    python tools/convert_records.py runs/my-study runs/my-model

Schema 1 (until November 2026) held everything in one JSON text, arrays too, with the hash of each file beside it. What
has such a hash is checked first: what is damaged stays as it is and is named, and the exit code is 1.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from prunecast.records import SCHEMA_VERSION, RunRecord, taken_apart
from prunecast.store import ARRAYS_FILE, RECORD_FILE, write_sums

ROLES = {"trained-on": "dense-continued"}
"""What roles were called -> what they are called."""


def record_of_schema_1(text: str) -> RunRecord:
    """Returns the record that a text of schema 1 holds.

    Raises:
        ValueError: when it is none, or its own hash does not hold.
    """
    values: dict[str, Any] = json.loads(text)
    if values.get("schema_version") != 1:
        raise ValueError(f"expected a record of schema 1, found {values.get('schema_version')}")
    seal = values["timing"].pop("record_sha256", None)
    unsealed = re.sub(r'(\n  "record_sha256": )"\w{64}"', r"\1null", text)
    if seal is not None and hashlib.sha256(unsealed.encode()).hexdigest() != seal:
        raise ValueError("it does not have the hash that it names")
    values["files"] = {name: facts["bytes"] for name, facts in values.get("files", {}).items()}
    values["role"] = ROLES.get(values["role"], values["role"])
    return RunRecord.model_validate(values | {"schema_version": SCHEMA_VERSION})


def check_files(text: str, directory: Path) -> None:
    """Holds the files beside a record of schema 1 against the hashes that it names; those that are gone may be.

    Raises:
        ValueError: when a file is not what was written.
    """
    for name, facts in json.loads(text).get("files", {}).items():
        path = directory / name
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != facts["sha256"]:
            raise ValueError(f"{name} does not have the hash that {RECORD_FILE} names")


def convert(directory: Path) -> None:
    """Rewrites the record of one folder.

    Raises:
        ValueError: when it is damaged, or of another schema.
    """
    text = (directory / RECORD_FILE).read_text(encoding="utf-8")
    record = record_of_schema_1(text)
    check_files(text, directory)
    scalars, arrays = taken_apart(record)
    save_file(arrays, directory / ARRAYS_FILE)
    (directory / RECORD_FILE).write_text(scalars, encoding="utf-8")
    write_sums(directory)


def main(folders: list[str]) -> int:
    """Converts what lies in the folders and below; returns 1 where something could not be."""
    done, failed = 0, 0
    for path in sorted(path for folder in folders for path in Path(folder).rglob(RECORD_FILE)):
        try:
            convert(path.parent)
            done += 1
        except ValueError as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
    print(f"{done} records converted")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

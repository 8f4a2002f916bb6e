"""Whether a report on disk is still that of its records: drawing takes seconds, a finished study changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from prunecast.records import Failure, RunRecord

FILE = "manifest.json"


class Manifest(BaseModel):
    """What a report was made from and what it is made of; lies beside its charts and tables.

    Attributes:
        inputs: `inputs_digest` of what it was made from.
        page: SHA-256 of the page.
        tables: names of the tables' files.
        figures: names of the charts' files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str
    page: str
    tables: tuple[str, ...]
    figures: tuple[str, ...]

    def holds(self, page: Path, folder: Path) -> bool:
        """Whether everything still lies where it was written, the page unchanged."""
        whole = all((folder / name).is_file() for name in (*self.tables, *self.figures))
        return whole and page.is_file() and digest(page.read_bytes()) == self.page

    def sweep(self, earlier: Manifest, folder: Path) -> None:
        """Removes what an earlier report wrote and this one did not; names that lead elsewhere are not followed."""
        for name in {*earlier.tables, *earlier.figures} - {*self.tables, *self.figures}:
            if Path(name).name == name:
                (folder / name).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest | None:
    """Returns the manifest of a report's folder, or None where there is none to go by."""
    try:
        return Manifest.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def inputs_digest(records: Sequence[RunRecord], failures: Sequence[Failure], title: str) -> str:
    """Returns a hash of all that a report depends on: the records in any order, and the code that draws it."""
    texts = [record.model_dump_json() for record in sorted(records, key=lambda record: record.fingerprint)]
    texts += sorted(failure.model_dump_json() for failure in failures)
    code = [digest(file.read_bytes()) for file in _sources(resources.files("prunecast.report"))]
    return digest("\n".join([title, *texts, *code]).encode())


def digest(content: bytes) -> str:
    """Returns the SHA-256 of the content in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _sources(folder: Traversable) -> list[Traversable]:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    found = [entry for entry in entries if entry.is_file() and not entry.name.endswith(".pyc")]
    for entry in entries:
        if entry.is_dir() and entry.name != "__pycache__":
            found += _sources(entry)
    return found

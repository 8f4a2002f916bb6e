"""The verbs of `prunecast data`: what the catalogue has, how it gets here, and what a file holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunecast.data import catalog
from prunecast.data.check import check_file
from prunecast.data.download import fetch_verified, find

Row = dict[str, Any]


def data_list() -> list[Row]:
    """Returns the catalogue: name, what it is, and where it is found on this machine."""
    entries = [catalog.entry(name) for name in catalog.names()]
    return [{"name": entry.name, "about": entry.about, "found": _where(entry)} for entry in entries]


def _where(entry: catalog.Entry) -> str | None:
    if entry.file is None:
        return "generated"
    found = find(entry)
    return None if found is None else str(found)


def data_fetch(names: Sequence[str], *, accept_unverified: bool = False) -> list[Row]:
    """Downloads data sets into the user cache and verifies them; what is there already is only verified.

    Raises:
        UserError: on an unknown name, a failed download or a wrong hash.
    """
    entries = [catalog.entry(name) for name in names]
    return [
        {"name": entry.name, "path": str(fetch_verified(entry, accept_unverified=accept_unverified))}
        for entry in entries
    ]


def data_check(file: Path, *, fill: str = "refuse") -> Row:
    """Says what a file holds and what stands in the way of using it.

    Raises:
        UserError: when the file cannot be read.
    """
    return check_file(file, fill=fill).model_dump(mode="json")

"""Is this file what was published? By SHA-256, or by the hash that git gives the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from prunecast.data.catalog import Entry
from prunecast.errors import UserError


def hash_file(path: Path) -> Path:
    """Returns where the hash of an unverified download is kept: beside it."""
    return path.with_name(path.name + ".sha256")


def verified(entry: Entry, content: bytes, path: Path) -> str:
    """Returns the SHA-256 that names the content of a set's file on this machine.

    A file for which the catalogue has no hash is held against the one that was kept when it was downloaded, if it was.

    Raises:
        UserError: when the content is not what it should be.
    """
    digest = published_hash(entry, content, str(path))
    beside = hash_file(path)
    if not entry.verifiable and beside.is_file():
        _require(digest, (beside.read_text(encoding="utf-8").split()[0],), f"{path} is not the {entry.name} first seen")
    return digest


def published_hash(entry: Entry, content: bytes, source: str) -> str:
    """Returns the SHA-256 that names the content, after checking it against the catalogue.

    Where mirrors hold the same rows with other line endings, the first listed hash names them all. A file whose
    repository is its source is checked by the hash that git gives it.

    Raises:
        UserError: when the content is not what was published; the message names the source.
    """
    digest = hashlib.sha256(content).hexdigest()
    problem = f"{source} is not {entry.name} as published"
    if entry.sha256:
        _require(digest, entry.sha256, problem)
        return entry.sha256[0]
    if entry.git_blob is not None:
        _require(git_blob_id(content), (entry.git_blob,), problem)
    return digest


def _require(found: str, expected: tuple[str, ...], problem: str) -> None:
    if found not in expected:
        raise UserError(
            f"{problem}: expected hash {' or '.join(expected)}, found {found}; delete it and fetch it again"
        )


def git_blob_id(content: bytes) -> str:
    """Returns the SHA-1 under which git keeps a file of this content."""
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()

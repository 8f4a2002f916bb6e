"""Where the file of a catalogue set lies: `$PRUNECAST_DATA`, then the user cache, then a download; always checked."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from prunecast.data.catalog import Entry
from prunecast.errors import UserError


def cache_dir() -> Path:
    """Returns the folder that downloads go to: `$PRUNECAST_CACHE`, else `~/.cache/prunecast`."""
    return Path(os.environ.get("PRUNECAST_CACHE") or Path.home() / ".cache" / "prunecast")


def find(entry: Entry) -> Path | None:
    """Returns the set's file where it is already on this machine, unchecked; None where it is not or is generated."""
    if entry.file is None:
        return None
    given = os.environ.get("PRUNECAST_DATA")
    folders = [Path(given)] if given else []
    candidates = (folder / entry.file for folder in [*folders, cache_dir()])
    return next((path for path in candidates if path.is_file()), None)


def locate(entry: Entry, *, accept_unverified: bool = False, quiet: bool = False) -> Path:
    """Returns the set's file, downloading it into the user cache when it is nowhere else.

    Args:
        entry: of a set that has a file.
        accept_unverified: download even where no hash is known.
        quiet: without a progress bar.

    Raises:
        UserError: when the download fails or is refused.
    """
    found = find(entry)
    if found is not None:
        return found
    from prunecast.data.fetch import download

    return download(entry, cache_dir(), accept_unverified=accept_unverified, quiet=quiet)


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

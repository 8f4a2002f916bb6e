"""Where the file of a catalogue set lies: `$PRUNECAST_DATA`, then the user cache, then a download; always checked."""

from __future__ import annotations

import os
from pathlib import Path

from prunecast.data.catalog import Entry
from prunecast.data.verify import verified
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
    from prunecast.data.fetch import download  # brings an HTTP client along, which most runs never need

    return download(entry, cache_dir(), accept_unverified=accept_unverified, quiet=quiet)


def fetch_verified(entry: Entry, *, accept_unverified: bool = False) -> Path:
    """Returns the set's file after checking its content, also where it was on this machine already.

    Args:
        entry: of any set.
        accept_unverified: download even where no hash is known.

    Raises:
        UserError: when the set has no file, the download fails or is refused, or the file cannot be read or is not
            what was published.
    """
    path = locate(entry, accept_unverified=accept_unverified)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    verified(entry, content, path)
    return path

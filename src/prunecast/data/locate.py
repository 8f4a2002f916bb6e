"""Where the file of a catalogue set lies: `$PRUNECAST_DATA`, then the user cache, then a download; always checked."""

from __future__ import annotations

import os
from pathlib import Path

from prunecast.data.catalog import Entry


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

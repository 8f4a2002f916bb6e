"""Downloads: HTTPS only, size-capped, hash-checked; a file appears whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from prunecast.data.catalog import Entry
from prunecast.data.verify import hash_file, published_hash
from prunecast.errors import UserError

TIMEOUT_S = 30.0


def https_client(transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """Returns a client that follows redirects and refuses, also in a redirect, whatever is not HTTPS."""
    return httpx.Client(
        transport=transport,
        timeout=TIMEOUT_S,
        follow_redirects=True,
        event_hooks={"request": [_require_https]},
    )


def _require_https(request: httpx.Request) -> None:
    if request.url.scheme != "https":
        raise UserError(f"refused to download from {request.url}: expected https")


def download(
    entry: Entry,
    folder: Path,
    *,
    accept_unverified: bool = False,
    quiet: bool = False,
    client: httpx.Client | None = None,
) -> Path:
    """Downloads the file of a catalogue set into a folder and returns its path.

    Args:
        entry: of a published set.
        folder: made when it is not there.
        accept_unverified: download even where no hash is known; the hash found is printed and kept beside the file.
        quiet: without a progress bar.
        client: what to ask with; an HTTPS-only one when absent.

    Raises:
        UserError: when the set is generated, when no hash is known and that was not accepted, on a failed, broken or
            too large transfer, on a wrong hash, and when the folder cannot be written. Nothing is left behind.
    """
    if entry.file is None:
        raise UserError(f"{entry.name} is generated; there is nothing to fetch")
    assert entry.url is not None, f"{entry.name} has no address"
    if not entry.verifiable and not accept_unverified:
        raise UserError(
            f"{entry.name}: no hash is known to check {entry.url} by; "
            "add --accept-unverified to download it all the same"
        )
    path = folder / entry.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with client or https_client() as session:
            _download_whole(session, entry, path, quiet)
    except httpx.HTTPError as error:
        remedy = f"try again, or put {entry.file} into the folder that PRUNECAST_DATA names"
        raise UserError(f"{entry.name}: download from {entry.url} failed: {_reason(error)}; {remedy}") from None
    except OSError as error:
        raise UserError(f"{entry.name}: cannot write {path}: {error.strerror or error}") from None
    return path


def _reason(error: httpx.HTTPError) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _download_whole(client: httpx.Client, entry: Entry, path: Path, quiet: bool) -> None:
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with part.open("xb") as file:
            for chunk in _chunks(client, entry, quiet):
                file.write(chunk)
        digest = published_hash(entry, part.read_bytes(), f"the file at {entry.url}")
        if not entry.verifiable:
            _keep_hash(path, digest)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _chunks(client: httpx.Client, entry: Entry, quiet: bool) -> Iterator[bytes]:
    """Gives the bytes as they were sent (never decompressed), showing how far it is on stderr."""
    headers = {"Accept-Encoding": "identity"}
    with _progress(quiet) as progress, client.stream("GET", str(entry.url), headers=headers) as response:
        response.raise_for_status()
        announced = int(response.headers.get("Content-Length", 0))
        task = progress.add_task(entry.name, total=announced or None)
        received = 0
        for chunk in response.iter_raw():
            received += len(chunk)
            if max(received, announced) > entry.max_bytes:
                raise UserError(f"{entry.name}: refused {entry.url}: larger than the expected {entry.max_bytes} bytes")
            progress.update(task, completed=received)
            yield chunk


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    # off a terminal rich ends even a transient bar with an empty line
    hidden = quiet or not console.is_terminal
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden, transient=True)


def _keep_hash(path: Path, digest: str) -> None:
    sys.stderr.write(f"{path.name}: not verified, sha256 {digest}\n")
    hash_file(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")

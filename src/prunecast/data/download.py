"""Files of catalogue sets: found on this machine or downloaded, and held against the hash that is known of them.

A file is looked for in `$PRUNECAST_DATA`, then in the user cache, and is else downloaded into that cache: over HTTPS
alone (also in a redirect), no larger than the catalogue says, and checked before it gets its name. A set that is
published in parts is put together from them.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from prunecast.data.catalog import Assembly, Entry
from prunecast.errors import UserError

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 16


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


def locate(entry: Entry, *, accept_unverified: bool = False) -> Path:
    """Returns the set's file, downloading it into the user cache when it is nowhere else.

    Args:
        entry: of a set that has a file.
        accept_unverified: download even where no hash is known.

    Raises:
        UserError: when the download fails or is refused.
    """
    return find(entry) or download(entry, cache_dir(), accept_unverified=accept_unverified)


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


def download(entry: Entry, folder: Path, *, accept_unverified: bool = False) -> Path:
    """Downloads a catalogue set into a folder and returns the path of its file.

    Args:
        entry: of a published set.
        folder: made when it is not there.
        accept_unverified: download even where no hash is known; the hash found is printed and kept beside the file.

    Raises:
        UserError: when the set is generated, when no hash is known and that was not accepted, on a failed, broken or
            too large transfer, on a wrong hash, and when the folder cannot be written. Nothing is left behind but whole
            and right parts of a set, which the next try starts from.
    """
    if entry.file is None:
        raise UserError(f"{entry.name} is generated; there is nothing to fetch")
    path = folder / entry.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if entry.assembly is not None:
            _assemble(entry, entry.assembly, path)
            return path
        assert entry.url is not None, f"{entry.name} has no address"
        if not entry.verifiable and not accept_unverified:
            raise UserError(
                f"{entry.name}: no hash is known to check {entry.url} by; "
                f"to download it all the same, run: prunecast data fetch {entry.name} --accept-unverified"
            )

        def check(content: bytes) -> None:
            digest = published_hash(entry, content, f"the file at {entry.url}")
            if not entry.verifiable:
                sys.stderr.write(f"{path.name}: not verified, sha256 {digest}\n")
                hash_file(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")

        _retrieve(entry, entry.url, path, check)
    except OSError as error:
        raise UserError(f"{entry.name}: cannot write {path}: {error.strerror or error}") from None
    return path


def _retrieve(entry: Entry, url: str, path: Path, check: Callable[[bytes], None]) -> None:
    """Downloads one file; pooch writes it under a passing name first, and moves it when `check` took its content."""
    import pooch  # brings an HTTP client along, which most runs never need
    import requests

    _require_https(url)
    pooch.get_logger().setLevel("WARNING")

    def downloaded(url: str, part: str, _: Any) -> None:
        with _Meter(entry, url, Path(part)) as meter:
            fetch = pooch.HTTPDownloader(
                progressbar=meter,
                chunk_size=CHUNK_BYTES,
                timeout=TIMEOUT_S,
                headers={"Accept-Encoding": "identity"},  # as it was published, never compressed on the way
                hooks={"response": meter.begin},
            )
            fetch(url, part, None)
        check(Path(part).read_bytes())
        Path(part).chmod(0o644)  # passing files are their owner's alone, but a cache may be shared

    try:
        pooch.retrieve(url, known_hash=None, fname=path.name, path=path.parent, downloader=downloaded)
    except requests.RequestException as error:
        remedy = f"try again, or put {entry.file} into the folder that PRUNECAST_DATA names"
        raise UserError(f"{entry.name}: download from {url} failed: {_reason(error)}; {remedy}") from None


def _reason(error: BaseException) -> str:
    """Returns the first line of what went wrong at the bottom: the layers above it only repeat it at length."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return next(iter(str(error).splitlines()), type(error).__name__)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise UserError(f"refused to download from {url}: expected https")


class _Meter:
    """Watches a transfer: refuses what is not HTTPS or too large, and shows on stderr how far it is.

    It is what pooch calls a progress bar: something with `total`, `update`, `reset` and `close`.
    """

    def __init__(self, entry: Entry, url: str, part: Path) -> None:
        self._entry, self._url, self._part = entry, url, part
        self.total = 0
        self._response: Any = None
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        # off a terminal rich ends even a transient bar with an empty line
        hidden = not console.is_terminal
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden, transient=True)
        self._task = self._bar.add_task(entry.name, total=None)

    def __enter__(self) -> _Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._response is not None:
            self._response.close()  # a transfer that was broken off would keep its connection

    def begin(self, response: Any, *_: object, **__: object) -> None:
        """Looks at the head of an answer, before a redirect is followed and before the body is read."""
        self._response = response
        if response.is_redirect:
            _require_https(urljoin(response.url, response.headers["Location"]))
        else:
            self._check_size(int(response.headers.get("Content-Length", 0)))

    def update(self, _: int) -> None:
        """Says that more has been written; how much the file itself knows best."""
        received = self._part.stat().st_size
        self._check_size(received)
        self._bar.update(self._task, completed=received, total=self.total or None)

    def reset(self) -> None:
        """Begins anew: pooch does so at the end, to fill a bar that compression left short."""

    def close(self) -> None:
        """Ends the bar: leaving the meter does."""

    def _check_size(self, size: int) -> None:
        limit = self._entry.max_bytes
        if size > limit:
            raise UserError(f"{self._entry.name}: refused {self._url}: larger than the expected {limit} bytes")


def _assemble(entry: Entry, assembly: Assembly, path: Path) -> None:
    """Downloads the parts of a set, one by one, and puts them together; whole parts stay until all are there."""
    folder = path.with_name(f"{path.name}.parts")
    folder.mkdir(exist_ok=True)
    try:
        contents = {
            channel: _part(entry, assembly.url.format(channel=channel), folder / f"{channel}.csv", sha256)
            for channel, sha256 in assembly.sha256.items()
        }
    finally:
        with suppress(OSError):
            folder.rmdir()  # where no part came; with parts in it, it stays
    content = assembled(assembly, contents)
    published_hash(entry, content, f"what the parts at {assembly.url.format(channel='...')} give")
    whole = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        whole.write_bytes(content)
        whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)  # another process may do the same


def _part(entry: Entry, url: str, path: Path, sha256: str) -> bytes:
    """Returns the content of a part, downloaded where it is not there already, whole and right."""

    def check(content: bytes) -> None:
        found = hashlib.sha256(content).hexdigest()
        _require(found, (sha256,), f"the file at {url} is not a part of {entry.name} as published")

    if path.is_file():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        path.unlink()
    _retrieve(entry, url, path, check)
    return path.read_bytes()


def assembled(assembly: Assembly, parts: Mapping[str, bytes]) -> bytes:
    """Returns the CSV file that the parts of a set give: a row for every step, a column for every part.

    Args:
        assembly: how.
        parts: content of each part's CSV file, by the name of its channel, in the order of the columns.
    """
    import pandas as pd  # most of the catalogue needs none

    columns = {}
    for channel, content in parts.items():
        part = pd.read_csv(io.BytesIO(content), parse_dates=[assembly.time_column])
        # sorts too: published parts go back day by day. An hour that stands twice is that of a clock set back
        columns[channel] = part.groupby(assembly.time_column)[assembly.value_column.format(channel=channel)].mean()
    steps = pd.date_range(assembly.start, assembly.end, freq=assembly.frequency, name="date")
    whole = pd.DataFrame(columns).reindex(steps).interpolate(limit=assembly.longest_gap).round(assembly.decimals)
    return whole.to_csv(date_format="%Y-%m-%d %H:%M:%S", lineterminator="\n").encode()

"""One clock at a time on a machine, and no stage beside it, whatever study or verb it belongs to.

Stages share a lock that a timing takes alone: it waits for those that run, and those that come after wait for it.
The lock is the operating system's and ends with its process. It is one file for each user and machine (or container);
what other users or other programs do meanwhile it cannot know.
"""

from __future__ import annotations

import getpass
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Protocol

from filelock import FileLock, ReadWriteLock, Timeout

from prunecast.errors import UserError

PATIENCE_S = 2.0
"""How long a timing waits without a word."""

TURN_S = 1.0
"""How long a wait goes on before Ctrl-C is heard."""

_LOG = logging.getLogger(__name__)


class _Acquire(Protocol):
    def __call__(self, timeout: float) -> object: ...


@contextmanager
def beside_others() -> Iterator[None]:
    """Keeps clocks on this machine waiting for as long as the block lasts."""
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes that train one model the first holds the lock:
        yield  # a second one could come to wait behind a clock that waits for the first
        return
    lock = _lock()
    _queue(lock.acquire_read)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Waits until nothing of ours runs on this machine, and keeps the rest waiting for as long as the block lasts.

    Args:
        patience_s: after so long it is said, by a warning of the log, what is waited for.
    """
    lock, words = _lock(), Timer(patience_s, _say_why)
    words.daemon = True
    words.start()
    try:
        _queue(lock.acquire_write)
    finally:
        words.cancel()
    try:
        yield
    finally:
        lock.release()


def lock_file() -> Path:
    """Returns the file that all processes of this user on this machine hold."""
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    return Path(tempfile.gettempdir(), f"prunecast-{user}.lock")


def _lock() -> ReadWriteLock:
    return ReadWriteLock(lock_file(), is_singleton=False)  # not one for the process: its threads exclude each other too


def _queue(acquire: _Acquire) -> None:
    """Acquires after those that came before: stages that overlap without end would keep a clock out for ever."""
    try:
        with FileLock(lock_file().with_suffix(".queue"), is_singleton=False, thread_local=False):
            while True:
                with suppress(Timeout):
                    acquire(timeout=TURN_S)
                    return
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"cannot lock {lock_file()}: {error}; remove it, or give another TMPDIR") from None


def _say_why() -> None:
    _LOG.warning("a timing waits until what else prunecast runs on this machine is through (lock: %s)", lock_file())

"""Machine-wide lock: a timing has the machine to itself, other stages share it, and nobody waits without limit.

A timing holds the gate, a lock of one holder, while it waits and while it measures. Other stages wait before the gate,
then enter and count as present for as long as they run. So a timing sees whether it is alone: before it starts, and at
its end, for a stage that has waited long enough enters although the gate is held. Where it was not, its record says so.

The locks are the operating system's and end with their process. There are two files for each user and machine (or
container); what other users or other programs do meanwhile they cannot know.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer

from filelock import FileLock, ReadWriteLock, Timeout

from prunecast.errors import UserError

WAIT_S = 60.0
"""How long a timing waits for other stages unless it is told otherwise, and other stages for a timing."""

SILENT_S = 2.0
"""How long a timing waits without a word."""

POLL_S = 0.1
"""Time between two looks at who is present."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS_S)})")

_LOG = logging.getLogger(__name__)


@contextmanager
def beside_others(wait_s: float | None = None) -> Iterator[None]:
    """Counts as present while the block runs; waits before that for a timing, at most so long, `WAIT_S` when None."""
    with _plain_errors(), suppress(Timeout), _gate().acquire(timeout=WAIT_S if wait_s is None else wait_s):
        pass
    with _present():
        yield


@contextmanager
def alone(wait_s: float = WAIT_S, silent_s: float = SILENT_S) -> Iterator[bool]:
    """Holds the gate while the block runs; waits before that until nothing of ours runs on this machine.

    Args:
        wait_s: how long at most.
        silent_s: after so long a warning of the log says what is waited for.

    Yields:
        Whether the machine is busy all the same. `is_busy` tells at the end whether it has become so.
    """
    deadline_s = time.monotonic() + wait_s
    text = "a timing waits, at most %g s (--wait), until what else prunecast runs on this machine is through (lock: %s)"
    words = Timer(silent_s, _LOG.warning, [text, wait_s, lock_file()])
    words.daemon = True
    words.start()
    with ExitStack() as held:
        try:
            with _plain_errors():
                held.enter_context(_gate().acquire(timeout=wait_s))
            while (busy := is_busy()) and time.monotonic() < deadline_s:
                time.sleep(POLL_S)
        except Timeout:  # another timing holds the gate, and is to know at its end that this one came beside it
            held.enter_context(_present())
            busy = True
        finally:
            words.cancel()
        if busy and wait_s > 0:
            _LOG.warning("the machine is still busy after %g s: measured all the same, and said in the record", wait_s)
        yield busy


def is_busy() -> bool:
    """Says whether stages run on this machine now; the caller is none of them."""
    presence = _presence()
    with _plain_errors():
        try:
            presence.acquire_write(timeout=0)
        except Timeout:
            return True
        presence.release()
    return False


def seconds(duration: str, option: str = "--wait") -> float:
    """Returns the seconds that a text like 60s, 500ms, 2min or 1h, the value of an option, stands for.

    Raises:
        UserError: when it is no such text.
    """
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        raise UserError(
            f"{option}: expected a time with its unit ({', '.join(_UNITS_S)}), as in 60s; found {duration!r}"
        )
    return float(match[1]) * _UNITS_S[match[2]]


def lock_file() -> Path:
    """Returns the file that all stages of this user on this machine share; the gate lies beside it."""
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    return Path(tempfile.gettempdir(), f"prunecast-{user}.lock")


@contextmanager
def _present() -> Iterator[None]:
    presence = _presence()
    with _plain_errors():
        presence.acquire_read()  # whoever looks holds it for an instant
    try:
        yield
    finally:
        presence.release()


def _presence() -> ReadWriteLock:
    return ReadWriteLock(lock_file(), is_singleton=False)  # not one for the process: its threads count one by one


def _gate() -> FileLock:
    return FileLock(lock_file().with_suffix(".gate"), is_singleton=False, thread_local=False)


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"cannot lock {lock_file()}: {error}; remove it, or give another TMPDIR") from None

"""Records and artefacts by fingerprint: a stage's folder is whole or absent, and present means done.

STORE/<2 digits>/<fingerprint>/record.json      and the stage's files beside it
STORE/work/<fingerprint>/                       checkpoints of what is under way
STORE/failures/<fingerprint>.json               why a stage failed last time
STORE/lock                                      held by the one writer
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError

from prunecast.errors import UserError
from prunecast.records import Failure, RunRecord, to_json

RECORD_FILE = "record.json"

LOCK_PATIENCE_S = 1.0
"""Whoever asks whether a store is held holds it for an instant; that is no other run."""


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Gives a folder to fill; when the block ends well it becomes `target` in one step, else it vanishes.

    Raises:
        UserError: when the target exists, or cannot be written (the disk is full, say).
    """
    with _plain_errors(target), _parents_of(target, refuse=True):
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives a path to write; when the block ends well it becomes `target` in one step, else it vanishes.

    Raises:
        UserError: when the target exists (unless `replace`), or cannot be written.
    """
    with _plain_errors(target), _parents_of(target, refuse=not replace):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent, suffix=target.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _parents_of(target: Path, *, refuse: bool) -> Iterator[None]:
    """Makes the folders above a target; those that it made go again when the target does not come to be."""
    if refuse and target.exists():
        raise UserError(f"{target} exists; give another --out")
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not target.exists():
            for folder in made:
                with suppress(OSError):  # somebody else has put something there meanwhile
                    folder.rmdir()


@contextmanager
def _plain_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in its own error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {target}: {reason}; nothing was left behind") from error


def sweep(target: Path) -> None:
    """Removes what killed writers of a file or folder left beside it; the caller sees to it that none is at work."""
    for leftover in target.parent.glob(f".{target.name}.*"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Brings the files to the disk before the folder gets its name, so that a power cut leaves no empty ones."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


class Store:
    """A folder of finished stages. Reading needs no lock; writing needs `writer()`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, fingerprint: str) -> Path:
        """Where a stage's files lie once it is done."""
        return self.root / fingerprint[:2] / fingerprint

    def work(self, fingerprint: str) -> Path:
        """Where a stage may keep checkpoints while it runs."""
        return self.root / "work" / fingerprint

    def has(self, fingerprint: str) -> bool:
        """Whether the stage is done."""
        return (self.directory(fingerprint) / RECORD_FILE).is_file()

    def record(self, fingerprint: str) -> RunRecord:
        """Returns a finished stage's record.

        Raises:
            UserError: when it is absent or damaged.
        """
        return read_record(self.directory(fingerprint) / RECORD_FILE)

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Holds the store for writing; the lock goes when the process ends, however it ends.

        Raises:
            UserError: when another process holds it.
        """
        with _plain_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "lock")
        try:
            lock.acquire(timeout=LOCK_PATIENCE_S)
        except Timeout:
            raise UserError(f"{self.root} is in use by another run; wait for it or end it") from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def is_held(self) -> bool:
        """Whether a writer is at work now."""
        if not (self.root / "lock").exists():
            return False
        try:
            with FileLock(self.root / "lock", timeout=0):
                return False
        except Timeout:
            return True

    def _sweep(self) -> None:
        """Removes what a killed writer left half-written, and checkpoints that it had no time to remove."""
        finished = [work for work in self.root.glob("work/*") if self.has(work.name)]
        for leftover in (*self.root.glob("??/.*"), *self.root.glob("failures/.*"), *finished):
            _remove(leftover)

    def fail(self, failure: Failure) -> None:
        """Notes why a stage failed."""
        with new_file(self.root / "failures" / f"{failure.fingerprint}.json", replace=True) as path:
            path.write_text(to_json(failure))

    def forgive(self, fingerprint: str) -> None:
        """Forgets a stage's failure, before it is tried again."""
        (self.root / "failures" / f"{fingerprint}.json").unlink(missing_ok=True)

    def failures(self) -> list[Failure]:
        """Returns the stages that failed, by fingerprint."""
        found = []
        for path in sorted((self.root / "failures").glob("[!.]*.json")):  # hidden ones are half-written
            with suppress(FileNotFoundError):  # forgiven meanwhile
                found.append(Failure.model_validate_json(path.read_text()))
        return found


def read_record(path: Path) -> RunRecord:
    """Returns the record in a file.

    Raises:
        UserError: when it is absent, damaged or of another schema.
    """
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(f"{path} is not a whole record: {error.errors()[0]['msg']}") from None

"""Records and artefacts by fingerprint: a stage's folder is whole or absent, and present means done.

STORE/<2 digits>/<fingerprint>/record.json      and the stage's files beside it
STORE/work/<fingerprint>/result/                what a stage under way has written so far; checkpoints beside it
STORE/failures/<fingerprint>.json               why a stage failed last time
STORE/damaged/<fingerprint>/                    what was found not to be whole, and set aside
STORE/lock                                      held by the one writer

No file names a place outside its folder and no file lists others' folders, so stores are moved and merged by copying.
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

from prunecast import sealed
from prunecast.errors import UserError
from prunecast.records import Failure, RunRecord, to_json
from prunecast.sealed import RECORD_FILE, read_record

__all__ = ["RECORD_FILE", "Store", "new_directory", "new_file", "read_record", "sweep", "sync"]

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
            sync(temporary)
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
        with suppress(FileNotFoundError, NotADirectoryError):  # the latter where a file stands for a folder above it
            path.unlink()


def sync(directory: Path) -> None:
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

    def result(self, fingerprint: str) -> Path:
        """Where a stage's files lie while it runs."""
        return self.work(fingerprint) / "result"

    def has(self, fingerprint: str) -> bool:
        """Whether the stage is done."""
        return (self.directory(fingerprint) / RECORD_FILE).is_file()

    def finished(self) -> frozenset[str]:
        """Returns the fingerprints of all stages that are done, of whatever study."""
        found: list[str] = []
        for folder in self.root.glob("[0-9a-f][0-9a-f]"):
            with suppress(OSError):  # something else in its place, which whoever writes there will meet
                found += os.listdir(folder)  # noqa: PTH208 - names are enough, and there are tens of thousands
        return frozenset(found)

    def condition(self, fingerprint: str, *, thorough: bool = False) -> sealed.Condition:
        """Says whether a finished stage is whole; see `sealed.condition`."""
        return sealed.condition(self.directory(fingerprint), thorough=thorough)

    def checked(self, fingerprint: str) -> Path:
        """Returns the folder of a finished stage, every byte of which was checked.

        Raises:
            Damaged: when it is not whole.
        """
        return sealed.check(self.directory(fingerprint))

    def trust(self, fingerprint: str) -> None:
        """Takes note that files which are newer than their record were found whole; see `sealed.condition`."""
        sealed.trust(self.directory(fingerprint))

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
        except OSError:  # whoever may only read cannot ask
            return False

    def _sweep(self) -> None:
        """Removes what a killed writer left half-written, and checkpoints that it had no time to remove."""
        for before in self.root.glob("work/*/before"):  # it was killed between two renames: what lay there goes back
            if not self.directory(before.parent.name).exists():
                before.rename(self.directory(before.parent.name))
        finished = [work for work in self.root.glob("work/*") if self.has(work.name)]
        for leftover in (*finished, *self.root.glob("work/*/result"), *self.root.glob("failures/.*")):
            _remove(leftover)

    def begin(self, fingerprint: str) -> Path:
        """Forgets how a stage failed, and gives the empty folder that it is to fill.

        Raises:
            UserError: when there is no place for it.
        """
        (self.root / "failures" / f"{fingerprint}.json").unlink(missing_ok=True)
        result = self.result(fingerprint)
        with _plain_errors(result):
            _remove(result)
            result.mkdir(parents=True)
        return result

    def commit(self, fingerprint: str) -> None:
        """Makes what a stage has written its result, in one step; what lay there before goes.

        Raises:
            UserError: when it cannot be moved there.
        """
        target = self.directory(fingerprint)
        with _plain_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                before = self.work(fingerprint) / "before"
                _remove(before)
                target.rename(before)
            self.result(fingerprint).rename(target)
        _remove(self.work(fingerprint))

    def strip(self, fingerprint: str) -> None:
        """Leaves a finished stage its record alone: a result still, but nothing goes on from it.

        Raises:
            UserError: when its files cannot be moved.
        """
        folder, work = self.directory(fingerprint), self.work(fingerprint)
        if os.listdir(folder) == [RECORD_FILE]:  # noqa: PTH208
            return
        with _plain_errors(folder):
            _remove(work)
            bare = work / "bare"
            bare.mkdir(parents=True)
            shutil.copy2(folder / RECORD_FILE, bare)
            sync(bare)
            folder.rename(work / "before")
            bare.rename(folder)
        _remove(work)

    def under_way(self) -> frozenset[str]:
        """Returns the fingerprints of the stages that run now."""
        held = self.is_held()
        return frozenset(path.parent.name for path in self.root.glob("work/*/result") if held)

    def set_aside(self, fingerprint: str) -> Path:
        """Moves a damaged stage out of the way and returns where it lies now; what was set aside before it goes."""
        aside = self.root / "damaged" / fingerprint
        with _plain_errors(aside):
            _remove(aside)
            aside.parent.mkdir(exist_ok=True)
            self.directory(fingerprint).rename(aside)
        return aside

    def fail(self, failure: Failure) -> None:
        """Notes why a stage failed; its checkpoints stay."""
        _remove(self.result(failure.fingerprint))
        with new_file(self.root / "failures" / f"{failure.fingerprint}.json", replace=True) as path:
            path.write_text(to_json(failure))

    def failures(self) -> list[Failure]:
        """Returns the stages that failed and are not done, by fingerprint."""
        found = []
        for path in sorted((self.root / "failures").glob("[!.]*.json")):  # hidden ones are half-written
            with suppress(FileNotFoundError, ValidationError):  # begun again meanwhile; half-copied
                found.append(Failure.model_validate_json(path.read_text()))
        return [failure for failure in found if not self.has(failure.fingerprint)]

"""Records and artefacts by fingerprint: a stage's folder is whole or absent, and present means done.

STORE/<2 digits>/<fingerprint>/record.json         scalars; the stage's files beside it
STORE/<2 digits>/<fingerprint>/arrays.safetensors  what of the record is long
STORE/<2 digits>/<fingerprint>/SHA256SUMS          of all of them; `sha256sum -c SHA256SUMS` reads it
STORE/work/<fingerprint>/result/                   what a stage under way has written so far; checkpoints beside it
STORE/failures/<fingerprint>.json                  why a stage failed last time
STORE/damaged/<fingerprint>/                       what was found not to be whole, and set aside
STORE/lock                                         held by the one writer

No file names a place outside its folder and no file lists others' folders, so stores are moved and merged by copying.
A model folder of the user's choice has the same three files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save_file as save_arrays

from prunecast.errors import UserError
from prunecast.records import SCHEMA_VERSION, Failure, RunRecord, put_together, taken_apart

RECORD_FILE = "record.json"
ARRAYS_FILE = "arrays.safetensors"
SUMS_FILE = "SHA256SUMS"
OF_THE_RECORD = (RECORD_FILE, ARRAYS_FILE, SUMS_FILE)
"""The files that a record is; all else in its folder is what the stage made."""

LOCK_PATIENCE_S = 1.0
"""Whoever asks whether a store is held holds it for an instant; that is no other run."""


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Gives a folder to fill; when the block ends well it becomes `target` in one step, else it vanishes.

    Raises:
        UserError: when the target exists, or cannot be written (the disk is full, say).
    """
    with _beside(target, refuse=True) as temporary:
        yield temporary
        sync(temporary)
        temporary.chmod(0o755)
        temporary.rename(target)


@contextmanager
def new_file(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives a path to write; when the block ends well it becomes `target` in one step, else it vanishes.

    Raises:
        UserError: when the target exists (unless `replace`), or cannot be written.
    """
    with _beside(target, refuse=not replace) as temporary:
        yield temporary / target.name
        (temporary / target.name).replace(target)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes files, each in one step; where one cannot be written, all that were not there before go again.

    Raises:
        UserError: when one cannot be written.
    """
    fresh = [path for path in contents if not path.exists()]
    folders = [folder for folder in {path.parent for path in fresh} if not folder.exists()]
    try:
        for target, content in contents.items():
            with new_file(target, replace=True) as path:
                path.write_bytes(content)
    except BaseException:  # an interruption too
        for path in fresh:
            _remove(path)
        for folder in folders:
            with suppress(OSError):  # somebody else has put something there meanwhile
                folder.rmdir()
        raise


@contextmanager
def _beside(target: Path, *, refuse: bool) -> Iterator[Path]:
    """Gives a temporary folder beside a target; folders above it go again when the target does not come to be."""
    with _plain_errors(target):
        if refuse and target.exists():
            raise UserError(f"{target} exists; give another --out")
        made = [folder for folder in target.parents if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        above, prefix = target.parent, f".{target.name}."
        try:
            with tempfile.TemporaryDirectory(dir=above, prefix=prefix, ignore_cleanup_errors=True) as temporary:
                yield Path(temporary)
        except UserError as error:  # it names what the user knows, not where that lies until it is whole
            if temporary not in str(error):
                raise
            inside = str(Path(temporary, target.name))
            raise UserError(str(error).replace(inside, str(target)).replace(temporary, str(target))) from error
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


# Records and the files beside them


class Damaged(UserError):
    """A record, or a file beside it, is not what was written."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{directory} is damaged: {reason}; take an intact copy, or have a study compute it again")
        self.directory, self.reason = directory, reason

    def __reduce__(self) -> tuple[type[Damaged], tuple[Path, str]]:
        return type(self), (self.directory, self.reason)  # it travels from a worker process to its parent


@dataclass(frozen=True)
class Condition:
    """How a finished stage's folder was found.

    Attributes:
        damage: what is wrong with it, or None.
        bare: whether the record lies there without the files that it names: it can be read, but not gone on from.
        hashed: whether files that are newer than their sums were hashed.
    """

    damage: str | None = None
    bare: bool = False
    hashed: bool = False


def write_record(record: RunRecord, directory: Path) -> RunRecord:
    """Writes the record of all else that lies in the directory, and the sums of everything; returns the record."""
    beside = {name: (directory / name).stat().st_size for name in _files(directory) if name not in OF_THE_RECORD}
    record = record.model_copy(update={"files": beside})
    text, arrays = taken_apart(record)
    save_arrays(arrays, directory / ARRAYS_FILE)
    (directory / RECORD_FILE).write_text(text, encoding="utf-8")
    write_sums(directory)
    return record


def write_sums(directory: Path) -> None:
    """Writes the hashes of all files in a folder and below, last of all."""
    lines = [f"{_sha256(directory / name)}  {name}\n" for name in _files(directory) if name != SUMS_FILE]
    (directory / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def read_record(directory: Path) -> RunRecord:
    """Returns the record in a folder.

    Raises:
        UserError: when it is absent, damaged or of another schema.
    """
    try:
        content, sums = _read_scalars(directory)
        packed = (directory / ARRAYS_FILE).read_bytes()
        _check_sum(directory, ARRAYS_FILE, packed, sums)
        return put_together(content, load_arrays(packed))
    except OSError as error:
        raise UserError(f"cannot read the record {directory / RECORD_FILE}: {error.strerror}") from None
    except UserError:
        raise
    except (ValueError, SafetensorError) as error:
        _refuse_other_schemas(directory / RECORD_FILE)
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise Damaged(directory, f"{RECORD_FILE} is not a whole record: {reason}") from None


def condition(directory: Path, *, thorough: bool = False) -> Condition:
    """Says whether a finished stage, whose folder has its fingerprint for a name, is whole.

    The record is hashed each time, without its arrays. Of the other files that is done when they are newer than their
    sums, which are written last, or when asked for; else their size has to do. A file without a sum counts as missing.

    Args:
        directory: of the stage.
        thorough: hash all files.

    Raises:
        UserError: when the record is of another schema, which is no damage.
    """
    try:
        content, sums = _read_scalars(directory)
        values = json.loads(content)
        if values["schema_version"] != SCHEMA_VERSION:
            _refuse_other_schemas(directory / RECORD_FILE)
        if values["fingerprint"] != directory.name:
            return Condition(f"{RECORD_FILE} is another stage's")
        trusted_until_ns = -1 if thorough else (directory / SUMS_FILE).stat().st_mtime_ns
        sizes: dict[str, int] = values["files"]
        missing, hashed, problems = 0, False, []
        for name in (ARRAYS_FILE, *sizes):
            path = f"{directory}/{name}"
            try:
                found = os.stat(path) if name in sums else None  # noqa: PTH116 - tens of thousands in a few seconds
            except FileNotFoundError:
                found = None
            if found is None:
                missing += name in sizes
                problems.append(f"{name} is missing")
                continue
            newer = found.st_mtime_ns > trusted_until_ns
            hashed = hashed or newer
            if found.st_size != sizes.get(name, found.st_size):
                problems.append(f"{name} has {found.st_size} bytes, expected {sizes[name]}")
            elif newer and _sha256(Path(path)) != sums[name]:
                problems.append(f"{name} does not have the hash that {SUMS_FILE} names")
    except OSError as error:
        return Condition(f"cannot read it: {error.strerror}")
    except Damaged as error:
        return Condition(error.reason)
    bare = 0 < missing == len(sizes) == len(problems)
    return Condition(None if bare or not problems else problems[0], bare, hashed)


def check_sums(directory: Path, names: Iterable[str]) -> None:
    """Holds files against the sums beside them; a folder that has none is taken as it is.

    Raises:
        Damaged: when a file is not what was written.
    """
    if (directory / SUMS_FILE).exists():
        _, sums = _read_scalars(directory)
        for name in names:
            if sums.get(name) != _sha256(directory / name):
                raise Damaged(directory, f"{name} does not have the hash that {SUMS_FILE} names")


def _files(directory: Path) -> list[str]:
    """Returns the names of all files in a folder and below, sorted."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _read_scalars(directory: Path) -> tuple[bytes, Mapping[str, str]]:
    """Returns record.json, which was hashed, and the hash of each file: name -> hexadecimal digits.

    Raises:
        UserError: when there is a record of another schema, without sums.
        Damaged: when there are no sums, it is no such file, or the record does not fit its sum.
    """
    try:
        text = (directory / SUMS_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Damaged(directory, f"{SUMS_FILE} is not a list of hashes") from None
    except FileNotFoundError:
        _refuse_other_schemas(directory / RECORD_FILE)
        raise Damaged(directory, f"{SUMS_FILE} is missing") from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    if not text.endswith("\n") or not {RECORD_FILE, ARRAYS_FILE} <= sums.keys():
        raise Damaged(directory, f"{SUMS_FILE} is not a list of hashes")
    content = (directory / RECORD_FILE).read_bytes()
    _check_sum(directory, RECORD_FILE, content, sums)
    return content, sums


def _refuse_other_schemas(path: Path) -> None:
    version = None
    with suppress(ValueError, AttributeError):  # not JSON, or no mapping: damage, as the caller says
        version = json.loads(path.read_bytes()).get("schema_version")
    if version not in (None, SCHEMA_VERSION):
        raise UserError(
            f"{path}: expected a record of schema {SCHEMA_VERSION}, found {version}; see tools/convert_records.py"
        )


def _check_sum(directory: Path, name: str, content: bytes, sums: Mapping[str, str]) -> None:
    if hashlib.sha256(content).hexdigest() != sums[name]:
        raise Damaged(directory, f"{name} does not have the hash that {SUMS_FILE} names")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The store


class Store:
    """A folder of finished stages. Reading needs no lock; writing needs `writer()`, and a UserError says if it fails.

    Attributes:
        root: the folder.
        published: fingerprints of stages whose records lie elsewhere, in tables: they are done, but without files.
    """

    def __init__(self, root: Path, published: Iterable[str] = ()) -> None:
        self.root, self.published = root, frozenset(published)

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
        return fingerprint in self.published or self._holds(fingerprint)

    def _holds(self, fingerprint: str) -> bool:
        return (self.directory(fingerprint) / RECORD_FILE).is_file()

    def finished(self) -> frozenset[str]:
        """Returns the fingerprints of all stages that are done, of whatever study."""
        found: list[str] = []
        for folder in self.root.glob("[0-9a-f][0-9a-f]"):
            with suppress(OSError):  # something else in its place, which whoever writes there will meet
                found += os.listdir(folder)  # noqa: PTH208 - names are enough, and there are tens of thousands
        return self.published.union(found)

    def condition(self, fingerprint: str, *, thorough: bool = False) -> Condition:
        """Says whether a finished stage is whole; see `condition`."""
        directory = self.directory(fingerprint)
        if fingerprint in self.published and not directory.exists():
            return Condition(bare=True)
        return condition(directory, thorough=thorough)

    def checked(self, fingerprint: str) -> Path:
        """Returns a finished stage's folder, every byte of which was checked; raises Damaged when it is not whole."""
        directory = self.directory(fingerprint)
        found = condition(directory, thorough=True)
        if found.damage is not None or found.bare:
            raise Damaged(directory, found.damage or "the files that its record names are gone")
        return directory

    def trust(self, fingerprint: str) -> None:
        """Makes a stage's sums newer than its files, which were found whole: they need not be hashed again."""
        os.utime(self.directory(fingerprint) / SUMS_FILE)

    def record(self, fingerprint: str) -> RunRecord:
        """Returns a finished stage's record; see `read_record`. Published stages have none."""
        return read_record(self.directory(fingerprint))

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
        finished = [work for work in self.root.glob("work/*") if self._holds(work.name)]
        for leftover in (*finished, *self.root.glob("work/*/result"), *self.root.glob("failures/.*")):
            _remove(leftover)

    def begin(self, fingerprint: str) -> Path:
        """Forgets how a stage failed, and gives the empty folder that it is to fill."""
        (self.root / "failures" / f"{fingerprint}.json").unlink(missing_ok=True)
        result = self.result(fingerprint)
        with _plain_errors(result):
            _remove(result)
            result.mkdir(parents=True)
        return result

    def commit(self, fingerprint: str) -> None:
        """Makes what a stage has written its result, in one step; what lay there before goes."""
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
        """Leaves a finished stage its record alone: a result still, but nothing goes on from it."""
        folder, work = self.directory(fingerprint), self.work(fingerprint)
        if not folder.exists() or set(os.listdir(folder)) <= set(OF_THE_RECORD):  # noqa: PTH208
            return
        with _plain_errors(folder):
            _remove(work)
            bare = work / "bare"
            bare.mkdir(parents=True)
            for name in (RECORD_FILE, ARRAYS_FILE):
                shutil.copy2(folder / name, bare)
            write_sums(bare)
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
            path.write_text(failure.model_dump_json(indent=1) + "\n")

    def failures(self) -> list[Failure]:
        """Returns the stages that failed and are not done, by fingerprint."""
        found = []
        for path in sorted((self.root / "failures").glob("[!.]*.json")):  # hidden ones are half-written
            with suppress(FileNotFoundError, ValidationError):  # begun again meanwhile; half-copied
                found.append(Failure.model_validate_json(path.read_text()))
        return [failure for failure in found if not self.has(failure.fingerprint)]

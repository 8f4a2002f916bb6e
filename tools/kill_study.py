"""Kills a study at random moments, starts it again each time, and compares the end with an uninterrupted run.

    python tools/kill_study.py recipes/tiny.yaml --kills 20
    python tools/kill_study.py recipes/tiny.yaml --kills 5 --parent-alone
    python tools/kill_study.py recipes/paper-small/all.yaml --kills 10 --engine ray --workers 2 --set study.seeds=[1]

All processes of the study get SIGKILL at once, or the parent alone does; then its workers have to end by themselves.
Meanwhile a reader loads every record that is there, again and again: none may ever be half-written. In the end every
file has to be equal byte for byte, records outside `timing` and `environment`. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open
from safetensors.numpy import load_file

from prunecast.errors import UserError
from prunecast.store import ARRAYS_FILE, RECORD_FILE, SUMS_FILE, Store

VOLATILE = ("timing", "environment")
WORKERS_END_WITHIN_S = 15.0
POLL_S = 0.02


def start(recipe: Path, out: Path, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Starts `prunecast study run`, with other options of it, in a process group of its own."""
    command = [sys.executable, "-m", "prunecast", "--quiet", "study", "run", str(recipe), "--out", str(out), *options]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def run_to_the_end(recipe: Path, out: Path, options: Sequence[str] = ()) -> None:
    """Runs a study until it is done.

    Raises:
        RuntimeError: when it ends badly.
    """
    process = start(recipe, out, options)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the study ended with exit code {process.returncode}: {errors.decode()[-2000:]}")


def kill_group(process: subprocess.Popen[bytes]) -> float:
    """Kills all processes of a study at once; returns the seconds until the last was gone."""
    return _kill(process, lambda: os.killpg(process.pid, signal.SIGKILL))


def kill_parent(process: subprocess.Popen[bytes]) -> float:
    """Kills the parent alone; returns the seconds until the last of its workers had ended by itself.

    Raises:
        TimeoutError: when one lives on.
    """
    return _kill(process, process.kill)


def _kill(process: subprocess.Popen[bytes], kill: Callable[[], None]) -> float:
    family = psutil.Process(process.pid).children(recursive=True)
    kill()
    clock = time.perf_counter()
    process.communicate()
    while living := [child.pid for child in family if _lives(child)]:
        if time.perf_counter() - clock > WORKERS_END_WITHIN_S:
            raise TimeoutError(f"processes {living} live on {WORKERS_END_WITHIN_S:g} s after their parent")
        time.sleep(POLL_S)
    return time.perf_counter() - clock


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def done(study: Path) -> list[Path]:
    """Returns the records of a study's finished stages."""
    return list((study / "store").glob(f"??/[!.]*/{RECORD_FILE}"))


def timeline(study: Path, started_at: float) -> list[float]:
    """Returns when each stage was done, in seconds after the start, sorted; `started_at` as `time.time()` tells it."""
    return sorted(record.stat().st_mtime - started_at for record in done(study))


def moments(times: Sequence[float], kills: int, draw: random.Random) -> list[float]:
    """Returns random moments of the uninterrupted run, sorted: each in a stage (or before the first), any as likely."""
    begun = [0.0, *times[:-1]]
    stages = [draw.randrange(len(times)) for _ in range(kills)]
    return sorted(draw.uniform(begun[stage], times[stage]) for stage in stages)


def wait_for(moment: float, times: Sequence[float], study: Path, process: subprocess.Popen[bytes]) -> bool:
    """Waits until a study stands where the uninterrupted run stood at a moment.

    Args:
        moment: in seconds after the start of the uninterrupted run.
        times: of its stages, see `timeline`.
        study: the one that is to be killed.
        process: its parent.

    Returns:
        False when the study ended before.
    """
    stages = bisect_right(times, moment)
    while process.poll() is None and len(done(study)) < stages:
        time.sleep(POLL_S)
    try:
        process.wait(moment - (times[stages - 1] if stages else 0.0))
    except subprocess.TimeoutExpired:
        return True
    return False


@dataclass
class Reader:
    """What a second process sees that looks at the study all the time: `loaded` records, and what was wrong."""

    study: Path
    loaded: int = 0
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads in a thread as long as the block lasts."""
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(0.1):
                self.read()

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def read(self) -> None:
        """Loads every record, every model's header and every failure once."""
        store = Store(self.study / "store")
        try:
            for path in done(self.study):
                store.record(path.parent.name)
                for weights in path.parent.glob("*.safetensors"):
                    with safe_open(weights, framework="np") as file:
                        file.keys()
                self.loaded += 1
            store.failures()
        except (UserError, ValueError, OSError) as error:
            self.wrong.append(str(error))


def contents(study: Path) -> dict[str, Any]:
    """Returns what has to be equal: each file's bytes by its place; of a record and its arrays what is not volatile."""
    files = [path for path in (study / "store").rglob("*") if path.is_file() and path.name != "lock"]
    files += [study / "recipe.yaml", study / "stages.json", *study.glob(".*")]
    return {str(path.relative_to(study)): _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.name == RECORD_FILE:
        values = json.loads(path.read_text())
        return {key: value for key, value in values.items() if key not in VOLATILE}
    if path.name == ARRAYS_FILE:
        arrays = load_file(path)
        return {place: array.tobytes() for place, array in arrays.items() if place.partition("/")[0] not in VOLATILE}
    if path.name == SUMS_FILE:  # sums of the two above follow what is volatile in them
        lines = path.read_text().splitlines()
        return [line for line in lines if not line.endswith((RECORD_FILE, ARRAYS_FILE))]
    return path.read_bytes()


def differences(one: Path, other: Path) -> list[str]:
    """Returns the places of the files that only one of two studies has, or that are not equal."""
    left, right = contents(one), contents(other)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def main() -> int:
    """Runs the comparison; returns 0 when all is equal, and else leaves both studies where they are."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="kill-study-"))
    print(f"in {folder}, seed {arguments.seed}")
    started_at = time.time()
    options, plain = _options(arguments), _options(arguments, engine="local")
    run_to_the_end(arguments.recipe, folder / "whole", plain)
    times = timeline(folder / "whole", started_at)
    print(f"uninterrupted: {len(times)} stages in {time.time() - started_at:.0f} s")
    draw = random.Random(arguments.seed)
    reader = Reader(folder / "killed")
    with reader.reading():
        for number, moment in enumerate(moments(times, arguments.kills, draw), start=1):
            print(f"kill {number}: {_start_and_kill(arguments, folder / 'killed', moment, times)}", flush=True)
        run_to_the_end(arguments.recipe, folder / "killed", options)
    unequal = differences(folder / "whole", folder / "killed")
    print(f"read meanwhile: {reader.loaded} records, {len(reader.wrong)} damaged", *reader.wrong, sep="\n  ")
    files = len(contents(folder / "whole"))
    print(f"compared: {files} files, {len(unequal)} unequal or on one side only", *unequal, sep="\n  ")
    if unequal or reader.wrong:
        return 1
    shutil.rmtree(folder)
    return 0


def _start_and_kill(arguments: argparse.Namespace, study: Path, moment: float, times: Sequence[float]) -> str:
    before, clock = len(done(study)), time.perf_counter()
    process = start(arguments.recipe, study, _options(arguments))
    if not wait_for(moment, times, study, process):
        process.communicate()
        return "it was done before"
    lived_s = time.perf_counter() - clock
    gone_s = kill_parent(process) if arguments.parent_alone else kill_group(process)
    return f"after {lived_s:.2f} s, {before} to {len(done(study))} of {len(times)} stages, all gone in {gone_s:.2f} s"


def _options(arguments: argparse.Namespace, engine: str | None = None) -> list[str]:
    """Returns the options of `study run`; the uninterrupted run is a local one, whatever the engine that is killed."""
    options = [part for setting in arguments.set for part in ("--set", setting)]
    options += ["--engine", engine or arguments.engine]
    return options if arguments.workers is None else [*options, "--workers", str(arguments.workers)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--parent-alone", action="store_true", help="kill the parent and leave its workers to themselves"
    )
    parser.add_argument("--engine", default="local", help="of the study that is killed")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the recipe")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

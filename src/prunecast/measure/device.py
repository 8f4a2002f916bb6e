"""What models cost on a device: a set of them is written where they are made, and timed where they are to run.

    prunecast measure model --profile-out set                           here: about 25 smaller models, as files
    python -m prunecast.measure.device set --out device.json            on the device: their times

The device needs NumPy, psutil and ONNX Runtime (or the set's other runtime), and no torch. The file that it writes is
JSON: what machine, runtime and threads, and of each model how many units of each group it has, and its costs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunecast.errors import UserError
from prunecast.measure.latency_worker import INPUTS_FILE, JOB_FILE, RESULT_FILE, TimingResult, TimingTask

DEVICE_SCHEMA = 1

SET_FILE = "models.json"
"""In a set: what runtime its files are for, and of each file how many units of each group it has."""


@dataclass(frozen=True, kw_only=True)
class DevicePoint:
    """One model on the device. `keep` has the units that are left of each group; a group that is whole may be absent.

    `latency_ms` is corrected by how much slower or faster the dense model was in turn with it than alone.
    """

    keep: Mapping[str, int]
    latency_ms: float
    bytes: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What a set of models costs on a device; the first one is the dense model."""

    machine: str
    runtime: str
    threads: int
    batch: int
    points: Sequence[DevicePoint]

    def write(self, path: Path) -> None:
        """Writes the profile as JSON."""
        path.write_text(json.dumps({"schema_version": DEVICE_SCHEMA} | asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> DeviceProfile:
        """Returns the profile in a file.

        Raises:
            UserError: when it is no such file, or one of another version.
        """
        values = _json(path, "a profile that prunecast measure --profile-out wrote")
        version = values.pop("schema_version", None)
        if version != DEVICE_SCHEMA:
            raise UserError(f"{path}: expected a profile of version {DEVICE_SCHEMA}, found {version!r}; measure again")
        try:
            points = [DevicePoint(**point) for point in values.pop("points")]
            numbers = [value for point in points for value in (point.latency_ms, point.bytes, *point.keep.values())]
            if not points or not all(isinstance(value, int | float) and value > 0 for value in numbers):
                raise TypeError
            return cls(points=points, **values)
        except (TypeError, KeyError, AttributeError):
            raise UserError(f"{path}: expected times of models in a profile, found others; measure again") from None


def _json(path: Path, expected: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected {expected}, found something else")
    return values


def time_set(folder: Path, threads: int, *, min_count: int = 25, min_time_s: float = 0.1) -> DeviceProfile:
    """Times a set of models, each in turn with the dense one, its first: a machine that slows down does not show.

    Args:
        folder: of the set.
        threads: processor threads of the runtime.
        min_count: calls of each model at the least.
        min_time_s: time of each model at the least.

    Raises:
        UserError: when it is no set, or the runtime cannot load one of its files.
    """
    known = _json(folder / SET_FILE, "the list of a set of models")
    models = known["models"]
    dense, *_ = models
    points: list[DevicePoint] = []
    dense_ms = 0.0
    for name, keep in models.items():
        task = TimingTask(
            runtime=known["runtime"],
            paths=[str((folder / one).absolute()) for one in dict.fromkeys((name, dense))],
            threads=threads,
            warmup=3,
            min_count=min_count,
            min_time_s=min_time_s,
        )
        found = _timed(task, folder)
        ours_ms, beside_ms = (
            float(np.median([call for load in found.times_ns for turn in load[place] for call in turn])) / 1e6
            for place in (0, -1)
        )
        dense_ms = dense_ms or ours_ms
        points.append(
            DevicePoint(
                keep=keep,
                latency_ms=ours_ms * dense_ms / beside_ms,
                bytes=(folder / name).stat().st_size,
                memory_bytes=found.peak_memory_bytes,
            )
        )
    machine = f"{platform.machine()} {platform.system()} {platform.processor()}".strip()
    return DeviceProfile(
        machine=machine, runtime=known["runtime"], threads=threads, batch=known["batch"], points=points
    )


def _timed(task: TimingTask, folder: Path) -> TimingResult:
    with tempfile.TemporaryDirectory(prefix="prunecast-") as name:
        work = Path(name)
        (work / JOB_FILE).write_text(json.dumps(asdict(task)))
        (work / INPUTS_FILE).write_bytes((folder / INPUTS_FILE).read_bytes())
        command = [sys.executable, "-P", "-m", "prunecast.measure.latency_worker", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RuntimeError(f"the timed process failed: {reason}")
        result = json.loads((work / RESULT_FILE).read_text())
    if "error" in result:
        raise UserError(result["error"])
    return TimingResult(**result)


def main() -> int:
    """Times the set that the command line names; returns 2 after a mistake of the user's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the set of models")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the profile, a JSON file")
    arguments = parser.parse_args()
    try:
        time_set(arguments.folder, arguments.threads).write(arguments.out)
    except UserError as error:
        print(f"prunecast: error: {error}", file=sys.stderr)  # noqa: T201 - there is no console on a device
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

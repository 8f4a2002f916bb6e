"""The runtime `c`: a zip with the C of a model, its program and itself, and the way to run it here.

What runs on this machine is never the C in the file: it is written again from the program, whose shapes are checked,
into the user's cache, and compiled there once. Loading and running need no torch.

Whoever compiles the C for a board finds beside it the calendar, the weights, a program that reads a CSV, and `make`:

    int prunecast_forecast(const float *history, const prunecast_calendar *now, float *forecast);

`history` has the last rows in raw units, `now` the time of the last of them on the clock on the wall, `forecast` takes
raw units. Nothing is allocated; the one block of memory is static.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from prunecast.errors import UserError
from prunecast.export.base import FixedBatch, Inputs, Offset, Predictor, Tolerance
from prunecast.export.c.board import board_files
from prunecast.export.c.program import ARGUMENTS, MOST_EIGHT, Numbers, Program
from prunecast.export.c.source import NOT_FINITE, Source, source_of
from prunecast.records import Strict

if TYPE_CHECKING:
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel
    from prunecast.records import Quantizer

FACTS, PROGRAM, CONSTANTS, MODEL = "prunecast.json", "program.json", "program.safetensors", "model.safetensors"
"""Files in the zip that are read back; the others are for whoever compiles the C."""

SCALE, LEAST_SCALE = ":scale", 1e-30
"""What the name of a weight's scales ends in; and their least: what is far below is no number of 8 bits."""

SEAL_BYTES = 64
"""The zip's comment, its last bytes, is the SHA-256 of all before it, in hexadecimal digits."""

MOST_BYTES = 2**31
"""What a zip of a model may have."""

FLAGS = ("-std=gnu99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared")
"""What the C is compiled with here; and for this processor, where the compiler can."""


class CEngine:
    """Runs C that is written for the model and compiled on this machine."""

    name = "c"
    title = "C"
    suffix = ".zip"
    tolerance = Tolerance(1e-4, "float32 sums in another order, its own exp, erf and tanh")
    packages: tuple[str, ...] = ()
    extra = None
    quantizers: tuple[Quantizer, ...] = ("weights",)

    def needs(self, opset: int | None) -> str:
        """Returns what the C takes."""
        return "a C99 compiler; GCC or Clang for vectors"

    def start(self) -> None:
        """Looks for the compiler.

        Raises:
            UserError: where there is none.
        """
        _compiler()

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns that the compiler is absent, or the operator that is; None where neither is."""
        from prunecast.export.c.lower import lower_model

        try:
            _compiler()
            lower_model(model)
        except UserError as error:
            return str(error)
        return None

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Writes the zip, whole or not at all, and returns its path, see `Runtime`."""
        return _Stored.of(saved, ()).write(path)

    def quantised(
        self, saved: SavedModel, windows: Iterable[Inputs], quantizer: Quantizer | None = None
    ) -> EightBitWeights:
        """Returns the model with weights in 8 bits, see `Int8Runtime`; what they multiply stays in float32."""
        return EightBitWeights(saved)

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the zip with all weights in 8 bits that can be, see `Int8Runtime`."""
        return EightBitWeights(saved).export(path)

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a zip that `export` wrote, see `Runtime`."""
        import torch

        from prunecast.models.base import config_from
        from prunecast.models.io import SavedModel, metadata_from, parse_metadata, with_tensors

        file = _File.read(path)
        source = f"{path}: its model metadata"
        metadata = metadata_from(parse_metadata(file.facts.metadata, source), source)
        tensors = {
            name: torch.from_numpy(value) for name, value in file.tensors(path).items() if not name.endswith(SCALE)
        }
        model = with_tensors(config_from(metadata.model), tensors, path, "its model metadata")
        return SavedModel(model.eval(), metadata)

    def footprint(self, path: Path) -> tuple[int, int]:
        """Returns the bytes of the C's constants and of its arena, see `EmbeddedRuntime`."""
        facts = _File.read(path).facts
        return facts.flash_bytes, facts.memory_bytes

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a zip of this runtime, whose C is written and compiled here unless it was before.

        Raises:
            UserError: when there is no compiler, the file is no such zip, or more threads than one are asked for.
        """
        if threads != 1:
            raise UserError(f"the runtime 'c' computes on one thread, found {threads}; ask for 1")
        file = _File.read(path)
        predict = predictor_of_program(file.program(path))
        offset = Offset.of(file.facts.offset, path)
        return FixedBatch(predict if offset is None else offset.around(predict), 1, path)


class EightBitWeights:
    """A model whose weights are in 8 bits, each row with a scale of its own, see `base.Quantised`.

    What they multiply is in float32, and so are sums: no window is needed to find a range. In 8 bits are `prunable`
    weights of linear layers, but the output layer's.

    Attributes:
        weights: names of those that are in 8 bits.
    """

    def __init__(self, saved: SavedModel) -> None:
        """Finds the weights that 8 bits can hold.

        Raises:
            UserError: when there is none.
        """
        body = [name for name in saved.model.prunable() if name not in saved.model.output_layer()]
        rounded = _Stored.of(saved, [name for name in body if saved.model.get_parameter(name).dim() == 2])
        program = rounded.program()
        found = {_digest(program.constants[name]) for name in program.code.scales}
        self.saved = saved
        self.weights = tuple(name for name in rounded.scales if _digest(rounded.weight(name)) in found)
        if not self.weights:
            raise UserError(f"{saved.model.config.name} has no weight that 8 bits could hold; leave out --int8")

    def export(self, path: Path, float32: Collection[str] = ()) -> Path:
        """Writes the zip, whole or not at all, and returns its path; the weights `float32` stay as they were."""
        return _Stored.of(self.saved, [name for name in self.weights if name not in float32]).write(path)


def predictor_of_program(program: Program, flags: tuple[str, ...] | None = None) -> Predictor:
    """Returns a callable on a program: it takes one window and gives its forecast.

    Args:
        program: what to do; its C is compiled unless it was before.
        flags: of the compiler; those for this processor when None.

    Raises:
        UserError: when there is no compiler.
    """
    return Compiled(source_of(program), program, flags)


class Compiled:
    """A program's C in this process.

    Attributes:
        source: what was compiled.
    """

    def __init__(self, source: Source, program: Program, flags: tuple[str, ...] | None = None) -> None:
        self.source, self.shapes = source, program.code.inputs
        self.run = ctypes.CDLL(str(_library(source, flags))).prunecast_run
        self.run.argtypes, self.run.restype = [ctypes.c_void_p] * 7, ctypes.c_int
        self.arena = _aligned(np.zeros(source.plan.arena, np.float32))
        self.weights, self.codes = _aligned(source.weights), source.codes
        self.out_shape = source.plan.outcome.shape

    def __call__(self, inputs: Inputs) -> NDArray[np.floating]:
        """Returns the forecast (1, H, O) of one window.

        Raises:
            UserError: when an input has a number that is not finite.
        """
        out = np.empty(self.out_shape, np.float32)
        given: list[Numbers | None] = []
        for name in ARGUMENTS:
            if name not in self.shapes:
                given.append(None)
                continue
            value = np.ascontiguousarray(inputs[name], dtype=np.float32)
            if value.shape != self.shapes[name]:
                raise UserError(f"{name}: expected the shape {self.shapes[name]}, found {value.shape}")
            given.append(value)
        arrays = [self.weights, self.codes, self.arena, *given, out]
        code = self.run(*(None if array is None else array.ctypes.data for array in arrays))
        if code:
            name = next(name for name, number in NOT_FINITE.items() if number == code)
            raise UserError(f"{name}: expected finite numbers, found others")
        return out


def _aligned(array: Numbers) -> Numbers:
    """Returns an array of the same numbers that begins where the widest vectors are read fastest."""
    room = np.empty(array.size + 16, np.float32)
    start = -room.ctypes.data % 64 // 4
    found = room[start : start + array.size]
    found[:] = array
    return found


# The file


class _Facts(Strict):
    """What is said of a zip.

    Attributes:
        metadata: of the model, as JSON.
        offset: as `Offset.text` has it; None where there is none.
        same: name of a constant of the program -> name of the model's tensor that it is.
        flash_bytes: of the constants of the C.
        memory_bytes: of its arena.
    """

    metadata: str
    offset: str | None
    same: dict[str, str]
    flash_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class _File:
    """A zip whose hash is right."""

    facts: _Facts
    members: Mapping[str, bytes]

    @classmethod
    def read(cls, path: Path) -> _File:
        """Reads a zip.

        Raises:
            UserError: when it is none that Prunecast wrote, or was changed since.
        """
        mistake = f"{path}: expected a zip of the C engine that prunecast wrote, found something else"
        try:
            if path.stat().st_size > MOST_BYTES:
                raise UserError(mistake)
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                stored = {info.filename: info for info in file.infolist()}
                wanted = (FACTS, PROGRAM, CONSTANTS, MODEL)
                if not {*wanted} <= {*stored} or any(
                    stored[name].compress_type != zipfile.ZIP_STORED for name in wanted
                ):
                    raise UserError(mistake)
                seal = hashlib.sha256(content[:-SEAL_BYTES]).hexdigest().encode()
                if content[-SEAL_BYTES:] != seal:
                    raise UserError(f"{path} is damaged: it does not have the hash that it names; take an intact copy")
                members = {name: file.read(name) for name in wanted}
            return cls(_Facts.model_validate_json(members[FACTS]), members)
        except (zipfile.BadZipFile, ValidationError, EOFError):
            raise UserError(mistake) from None

    def tensors(self, path: Path) -> dict[str, NDArray[Any]]:
        """Returns the model's tensors; those in 8 bits as the numbers that these stand for, and beside them the scales.

        Raises:
            UserError: when there is another thing.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found: dict[str, NDArray[Any]] = load(self.members[MODEL])
            for name in [name for name in found if name.endswith(SCALE)]:
                weight, scale = found[name.removesuffix(SCALE)], found[name]
                if weight.dtype != np.int8 or scale.dtype != np.float32 or scale.shape != weight.shape[:1]:
                    raise UserError(
                        f"{path}: expected weights in 8 bits with their scales, found others; export it again"
                    )
                found[name.removesuffix(SCALE)] = weight * scale[:, None]
        except (SafetensorError, LookupError):
            raise UserError(f"{path}: expected the tensors of its model, found others; export it again") from None
        return found

    def program(self, path: Path) -> Program:
        """Returns the program in the zip, whose shapes are known to fit.

        Raises:
            UserError: when there is another thing.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        tensors = self.tensors(path)
        try:
            constants = load(self.members[CONSTANTS])
            constants |= {name: tensors[tensor].astype(np.float32) for name, tensor in self.facts.same.items()}
            text = self.members[PROGRAM].decode()
        except (SafetensorError, LookupError, UnicodeDecodeError):
            raise UserError(f"{path}: expected the constants of its program, found others; export it again") from None
        if not all(np.isfinite(value).all() and value.dtype == np.float32 for value in constants.values()):
            raise UserError(f"{path}: expected finite constants, found others; export it again")
        try:
            return Program.read(text, constants)
        except UserError as error:
            raise UserError(f"{path}: {error}; export it again") from None


@dataclass(frozen=True, eq=False)
class _Stored:
    """A model as a zip stores it: some weights rounded to 8 bits, or none.

    Attributes:
        saved: some of its weights are what 8 bits hold.
        scales: name of each of these -> (O,): of its rows.
    """

    saved: SavedModel
    scales: Mapping[str, Numbers]

    @classmethod
    def of(cls, saved: SavedModel, names: Sequence[str]) -> _Stored:
        """Returns a model with some weights (O, I) rounded: the largest of each row to the largest number in 8 bits."""
        model, scales = copy.deepcopy(saved.model), {}
        for name in names:
            weight = model.get_parameter(name).data
            scale = (weight.abs().amax(1) / MOST_EIGHT).clamp(min=LEAST_SCALE)
            weight.copy_((weight / scale[:, None]).round() * scale[:, None] + 0.0)  # no zero has a sign
            scales[name] = scale.numpy()
        return cls(replace(saved, model=model), scales)

    def weight(self, name: str) -> Numbers:
        """Returns a weight as it is rounded."""
        found: Numbers = self.saved.model.get_parameter(name).detach().numpy()
        return found

    def program(self) -> Program:
        """Returns the program, which knows the scales of what it multiplies with."""
        from prunecast.export.c.lower import lower

        program, found = lower(self.saved), {}
        known = {_digest(self.weight(name)): scale for name, scale in self.scales.items()}
        for operation in program.code.operations:
            if operation.op == "linear" and (digest := _digest(program.constants[operation.inputs[1]])) in known:
                found[operation.inputs[1]] = known[digest]
        scales = {name: f"{name}{SCALE}" for name in found}
        constants = {**program.constants, **{scales[name]: scale for name, scale in found.items()}}
        return Program(program.code.model_copy(update={"scales": scales}), constants)

    def write(self, path: Path) -> Path:
        """Writes the zip, whole or not at all, and returns its path."""
        from prunecast.store import new_file

        content = self._zipped(self.program())
        with new_file(path, replace=True) as temporary:
            temporary.write_bytes(content)
        return path

    def _zipped(self, program: Program) -> bytes:
        """Returns the content of the zip: equal for equal models."""
        from safetensors.numpy import save

        from prunecast.data.calendar import FEATURES
        from prunecast.export.raw import offset_of

        saved = self.saved
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in sorted(saved.model.state_dict().items())
        }
        state: dict[str, NDArray[Any]] = {name: tensor.numpy() for name, tensor in tensors.items()}
        state |= {f"{name}{SCALE}": scale for name, scale in self.scales.items()}
        known = {_digest(value): name for name, value in state.items()}
        digests = {name: _digest(value) for name, value in program.constants.items()}
        same = {name: known[digest] for name, digest in digests.items() if digest in known}
        rest = {name: np.ascontiguousarray(value) for name, value in program.constants.items() if name not in same}
        for name, scale in self.scales.items():
            state[name] = np.rint(state[name] / scale[:, None]).astype(np.int8)
        source, offset = source_of(program), offset_of(saved.metadata)
        metadata = saved.metadata.model_dump(mode="json") | {"model": saved.model.config.model_dump(mode="json")}
        facts = _Facts(
            metadata=json.dumps(metadata, sort_keys=True, allow_nan=False),
            offset=offset.text() if offset else None,
            same=same,
            flash_bytes=source.flash_bytes,
            memory_bytes=source.memory_bytes,
        )
        features = FEATURES[saved.metadata.freq]
        members = {
            **board_files(source, program, saved.metadata, offset if offset else None, features),
            FACTS: facts.model_dump_json().encode(),
            PROGRAM: program.text().encode(),
            CONSTANTS: save(rest),
            MODEL: save(state),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
            for name, content in members.items():
                file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
            file.comment = b"0" * SEAL_BYTES
        hashed = buffer.getvalue()[:-SEAL_BYTES]
        return hashed + hashlib.sha256(hashed).hexdigest().encode()


def _digest(value: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return (value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest())


# The compiler


def _compiler() -> str:
    """Returns the C compiler: what CC names, else cc.

    Raises:
        UserError: where there is none.
    """
    name = os.environ.get("CC") or "cc"
    found = shutil.which(name)
    if found is None:
        raise UserError(f"the runtime 'c' needs a C compiler, and found no {name}; install one, or name it in CC")
    return found


@cache
def _target(compiler: str) -> tuple[tuple[str, ...], str]:
    """Returns the flags for this processor, and what says which compiler and processor these are."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    for flag in ("-march=native", "-mcpu=native"):
        tried = [compiler, flag, "-x", "c", "-fsyntax-only", os.devnull]
        if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            break
    else:
        flag = ""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else [platform.processor()]
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return (flag,) if flag else (), f"{version}{platform.machine()}{features}"


def _library(source: Source, flags: tuple[str, ...] | None) -> Path:
    """Returns the compiled C of a model in the user's cache."""
    from prunecast.data.download import cache_dir

    compiler = _compiler()
    native, identity = _target(compiler)
    flags = (*FLAGS, *(native if flags is None else flags))
    told = "\n".join([source.code, source.header, compiler, identity, *flags])
    folder = cache_dir() / "c"
    path = folder / f"{hashlib.sha256(told.encode()).hexdigest()}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        (work / "forecast.h").write_text(source.header)
        (work / "forecast.c").write_text(source.code)
        command = [compiler, *flags, "-o", str(work / "forecast.so"), str(work / "forecast.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next(iter(done.stderr.strip().splitlines()), "it said nothing")
            raise UserError(f"{compiler} does not compile the model's C: {first}; name another compiler in CC")
        (work / "forecast.so").replace(path)
    return path


RUNTIME = CEngine()

"""The runtime `c`: a zip with the C of a model, its program and itself, and the way to run it here.

What runs on this machine is never the C in the file: it is written again from the program, whose shapes are checked,
into the user's cache, and compiled there once. Loading and running need no torch.

Whoever compiles the C for a board finds beside it the calendar, the weights, a program that reads a CSV, and `make`:

    int prunecast_forecast(const float *history, const prunecast_calendar *now, float *forecast);

`history` has the last rows in raw units, `now` the time of the last of them on the clock on the wall, `forecast` takes
raw units. Nothing is allocated; the one block of memory is static.
"""

from __future__ import annotations

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from prunecast.errors import UserError
from prunecast.export.base import FixedBatch, Inputs, Offset, Predictor, Tolerance
from prunecast.export.c.program import ARGUMENTS, Numbers, Program
from prunecast.export.c.source import NOT_FINITE, Source, source_of
from prunecast.records import Strict

if TYPE_CHECKING:
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import ModelMetadata, SavedModel

FACTS, PROGRAM, CONSTANTS, MODEL = "prunecast.json", "program.json", "program.safetensors", "model.safetensors"
"""Files in the zip that are read back; the others are for whoever compiles the C."""

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
        from prunecast.export.c.lower import lower
        from prunecast.store import new_file

        content = _zipped(saved, lower(saved))
        with new_file(path, replace=True) as temporary:
            temporary.write_bytes(content)
        return path

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a zip that `export` wrote, see `Runtime`."""
        from safetensors.torch import load

        from prunecast.models.base import config_from
        from prunecast.models.io import SavedModel, metadata_from, parse_metadata, with_tensors

        file = _File.read(path)
        source = f"{path}: its model metadata"
        metadata = metadata_from(parse_metadata(file.facts.metadata, source), source)
        model = with_tensors(config_from(metadata.model), load(file.members[MODEL]), path, "its model metadata")
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

    def program(self, path: Path) -> Program:
        """Returns the program in the zip, whose shapes are known to fit.

        Raises:
            UserError: when there is another thing.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            constants, tensors = load(self.members[CONSTANTS]), load(self.members[MODEL])
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


def _zipped(saved: SavedModel, program: Program) -> bytes:
    """Returns the content of the zip: equal for equal models."""
    from safetensors.numpy import save
    from safetensors.torch import save as save_tensors

    from prunecast.data.calendar import FEATURES
    from prunecast.export.raw import offset_of

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(saved.model.state_dict().items())}
    known = {_digest(tensor.numpy()): name for name, tensor in state.items()}
    digests = {name: _digest(value) for name, value in program.constants.items()}
    same = {name: known[digest] for name, digest in digests.items() if digest in known}
    rest = {name: np.ascontiguousarray(value) for name, value in program.constants.items() if name not in same}
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
        **_board_files(source, program, saved.metadata, offset if offset else None, features),
        FACTS: facts.model_dump_json().encode(),
        PROGRAM: program.text().encode(),
        CONSTANTS: save(rest),
        MODEL: save_tensors(state),
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


# What a board needs

MOST_INSIDE_BYTES = 400_000
"""Weights up to which they are C themselves: their text takes about four times as much. Larger ones are a binary."""

_FEATURE = {
    "second": "t.second / 59.0f",
    "minute": "t.minute / 59.0f",
    "hour": "t.hour / 23.0f",
    "weekday": "pc_weekday(days) / 6.0f",
    "day": "(t.day - 1) / 30.0f",
    "yearday": "(days - pc_days(t.year, 1, 1)) / 365.0f",
    "week": "(pc_week(days) - 1) / 52.0f",
    "month": "(t.month - 1) / 11.0f",
}
"""Calendar feature -> its C, less a half; see `data.calendar`."""

INTERFACE = """\
#ifndef PRUNECAST_H
#define PRUNECAST_H

#include "forecast.h"

#define PRUNECAST_LOOKBACK {lookback} /* rows of the history */
#define PRUNECAST_CHANNELS {channels}
#define PRUNECAST_HORIZON {horizon}
#define PRUNECAST_TARGETS {targets}
#define PRUNECAST_STEP {step} /* seconds from row to row; 0 where the calendar cannot tell the marks */

/* A time on the clock on the wall. */
typedef struct {{
    int year, month, day, hour, minute, second;
}} prunecast_calendar;

/* Names of channels and targets; what is taken off each before float numbers hold it, and added again. */
extern const char *const prunecast_channels[PRUNECAST_CHANNELS], *const prunecast_targets[PRUNECAST_TARGETS];
extern const double prunecast_offset[PRUNECAST_CHANNELS], prunecast_target_offset[PRUNECAST_TARGETS];

{load}
/* history (LOOKBACK, CHANNELS) in raw units less the offset, the time of its last row, forecast (HORIZON, TARGETS).
   Returns 0; 1, 2 or 3 where history or marks have a number that is not finite; 4 without a valid time;
   5 where the weights were not given. */
int prunecast_forecast(const float *history, const prunecast_calendar *now, float *forecast);

/* The same with all marks, for models with covariates: x_mark (LOOKBACK, F), y_mark (LABEL + HORIZON, F). */
int prunecast_forecast_marks(const float *history, const float *x_mark, const float *y_mark, float *forecast);

/* Moves a time by so many seconds. */
prunecast_calendar prunecast_after(prunecast_calendar time, long long seconds);

#endif
"""

MODEL_SOURCE = """\
/* Written by Prunecast. */
#include "prunecast.h"

{names}
{weights}
static float arena[PRUNECAST_ARENA]{aligned};

/* days since 1970-01-01 of the proleptic Gregorian calendar */
static long long pc_days(long long y, int m, int d)
{{
    y -= m <= 2;
    long long era = (y >= 0 ? y : y - 399) / 400, year = y - era * 400;
    long long day = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + year * 365 + year / 4 - year / 100 + day - 719468;
}}
prunecast_calendar prunecast_after(prunecast_calendar t, long long seconds)
{{
    long long at = pc_days(t.year, t.month, t.day) * 86400 + t.hour * 3600 + t.minute * 60 + t.second + seconds;
    long long days = at / 86400 - (at % 86400 < 0), rest = at - days * 86400, z = days + 719468;
    long long era = (z >= 0 ? z : z - 146096) / 146097, of = z - era * 146097;
    long long year = (of - of / 1460 + of / 36524 - of / 146096) / 365;
    long long yearday = of - (365 * year + year / 4 - year / 100), month = (5 * yearday + 2) / 153;
    t.day = (int)(yearday - (153 * month + 2) / 5 + 1);
    t.month = (int)(month < 10 ? month + 3 : month - 9);
    t.year = (int)(year + era * 400 + (t.month <= 2));
    t.hour = (int)(rest / 3600), t.minute = (int)(rest / 60 % 60), t.second = (int)(rest % 60);
    return t;
}}
{calendar}
int prunecast_forecast_marks(const float *history, const float *x_mark, const float *y_mark, float *forecast)
{{
    if (!weights) return 5;
    return prunecast_run(weights, codes, arena, history, x_mark, y_mark, forecast);
}}
int prunecast_forecast(const float *history, const prunecast_calendar *now, float *forecast)
{{
{body}
}}
"""

CALENDAR = """\
static int pc_weekday(long long days) {{ return (int)(((days + 3) % 7 + 7) % 7); }} /* Monday is 0 */
static int pc_week(long long days)
{{
    long long thursday = days - pc_weekday(days) + 3;
    prunecast_calendar t = {{1970, 1, 1, 0, 0, 0}};
    t = prunecast_after(t, thursday * 86400);
    return (int)((thursday - pc_days(t.year, 1, 1)) / 7) + 1;
}}
static void pc_marks(const prunecast_calendar *now, long long step, float *marks)
{{
    prunecast_calendar t = prunecast_after(*now, step * PRUNECAST_STEP);
    long long days = pc_days(t.year, t.month, t.day);
    (void)days; (void)pc_week;
{features}
}}
"""

WITH_CALENDAR = """\
    static float x_mark[{lookback} * {marks}], y_mark[({label} + {horizon}) * {marks}];
    if (!now || now->month < 1 || now->month > 12 || now->day < 1 || now->day > 31) return 4;
    for (int i = 0; i < {lookback}; i++) pc_marks(now, i - {lookback} + 1, x_mark + i * {marks});
    for (int i = 0; i < {label} + {horizon}; i++) pc_marks(now, i - {label} + 1, y_mark + i * {marks});
    return prunecast_forecast_marks(history, x_mark, y_mark, forecast);"""

MAIN = r"""/* Reads a CSV (a header, a time, the channels in order) and writes the forecast after its last row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "prunecast.h"

static int fail(const char *what) { fprintf(stderr, "forecast: %s\n", what); return 2; }

int main(int count, char **given)
{
    static double rows[PRUNECAST_LOOKBACK][PRUNECAST_CHANNELS];
    static float history[PRUNECAST_LOOKBACK * PRUNECAST_CHANNELS], forecast[PRUNECAST_HORIZON * PRUNECAST_TARGETS];
    static char line[1 << 16];
    prunecast_calendar now = {0, 0, 0, 0, 0, 0};
    long read = 0;
    FILE *file = count > 1 ? fopen(given[1], "r") : NULL;
    if (!file) return fail("expected a CSV that can be read; forecast FILE.csv");
{load}
    if (!fgets(line, sizeof line, file)) return fail("expected a header, found an empty file");
    while (fgets(line, sizeof line, file)) {
        char *at = strchr(line, ',');
        prunecast_calendar t = {0, 0, 0, 0, 0, 0};
        int parts = sscanf(line, "%d-%d-%d%*[ T]%d:%d:%d", &t.year, &t.month, &t.day, &t.hour, &t.minute, &t.second);
        if (!at || parts < 3) return fail("expected a time (YYYY-MM-DD HH:MM:SS) and numbers in each row");
        for (int c = 0; c < PRUNECAST_CHANNELS; c++) {
            char *end;
            rows[read % PRUNECAST_LOOKBACK][c] = strtod(at + 1, &end);
            if (end == at + 1 || (c + 1 < PRUNECAST_CHANNELS && *end != ',')) return fail("expected numbers");
            at = end;
        }
        now = t;
        read++;
    }
    fclose(file);
    if (read < PRUNECAST_LOOKBACK) return fail("found fewer rows than the model looks back");
    for (int i = 0; i < PRUNECAST_LOOKBACK; i++)
        for (int c = 0; c < PRUNECAST_CHANNELS; c++)
            history[i * PRUNECAST_CHANNELS + c] =
                (float)(rows[(read + i) % PRUNECAST_LOOKBACK][c] - prunecast_offset[c]);
    int code = prunecast_forecast(history, &now, forecast);
    if (code) return fail(code == 4 ? "the model's marks are not told by the calendar" : "expected finite numbers");
    printf("date");
    for (int c = 0; c < PRUNECAST_TARGETS; c++) printf(",%s", prunecast_targets[c]);
    for (int i = 0; i < PRUNECAST_HORIZON; i++) {
        prunecast_calendar t = prunecast_after(now, (i + 1LL) * PRUNECAST_STEP);
        printf("\n%04d-%02d-%02d %02d:%02d:%02d", t.year, t.month, t.day, t.hour, t.minute, t.second);
        for (int c = 0; c < PRUNECAST_TARGETS; c++)
            printf(",%.9g", forecast[i * PRUNECAST_TARGETS + c] + prunecast_target_offset[c]);
    }
    printf("\n");
    return 0;
}
"""

LOAD = r"""    FILE *binary = fopen(count > 2 ? given[2] : "weights.bin", "rb");
    unsigned char *bytes = malloc(PRUNECAST_BINARY);
    if (!binary || !bytes || fread(bytes, 1, PRUNECAST_BINARY, binary) != PRUNECAST_BINARY)
        return fail("expected weights.bin; forecast FILE.csv [weights.bin]");
    fclose(binary);
    prunecast_weights(bytes);"""

MAKEFILE = """\
# make: the program `forecast`. For a board: CC=arm-none-eabi-gcc CFLAGS="-O3 -mcpu=cortex-m7 ..." make library
CFLAGS ?= -O3 -march=native
ALL = -std=gnu99 -ffp-contract=fast -fno-math-errno $(CFLAGS)
OBJECTS = forecast.o model.o{weights}

forecast: main.c $(OBJECTS)
\t$(CC) $(ALL) -o $@ main.c $(OBJECTS)
library: libforecast.a
libforecast.a: $(OBJECTS)
\t$(AR) rcs $@ $(OBJECTS)
%.o: %.c forecast.h prunecast.h
\t$(CC) $(ALL) -c -o $@ $<
clean:
\trm -f forecast libforecast.a *.o
.PHONY: library clean
"""

README = """\
A forecaster in C, written by Prunecast.

    make && ./forecast FILE.csv

`prunecast.h` is the interface. The forecast takes {memory} bytes of memory (one static block) and {flash} bytes of
constants beside its code, and calls no library but memcpy. Vectors are as wide as those of the processor that it is
compiled for. `model.safetensors`, `program.json`, `program.safetensors` and `prunecast.json` are what Prunecast itself
reads; the C does not need them.
"""


def _board_files(
    source: Source, program: Program, metadata: ModelMetadata, offset: Offset | None, features: Sequence[str]
) -> dict[str, bytes]:
    """Returns the files, by name.

    Args:
        source: the C of the model.
        program: what it was written from.
        metadata: of the model.
        offset: of its channels, if there is one.
        features: names of the calendar features that its marks begin with.
    """
    shapes = program.code.inputs
    inside = source.flash_bytes <= MOST_INSIDE_BYTES
    binary = source.weights.astype("<f4").tobytes() + source.codes.tobytes()
    step = _step(metadata) if not metadata.covariates else 0
    sizes = {
        "lookback": shapes["history"][1],
        "channels": len(metadata.channels),
        "horizon": source.plan.outcome.shape[1],
        "targets": len(metadata.targets),
        "step": step,
    }
    load = f"/* Says where weights.bin is in memory, {len(binary)} bytes, aligned to 4. */\n"
    load += f"#define PRUNECAST_BINARY {len(binary)}\nvoid prunecast_weights(const void *bytes);\n"
    files = {
        "forecast.h": source.header,
        "forecast.c": source.code,
        "prunecast.h": INTERFACE.format(**sizes, load="" if inside else load),
        "model.c": _model(program, metadata, offset, features, step, inside=inside),
        "main.c": MAIN.replace("{load}\n", "" if inside else LOAD + "\n"),
        "Makefile": MAKEFILE.format(weights=" weights.o" if inside else ""),
        "README.md": README.format(memory=source.memory_bytes, flash=source.flash_bytes),
    }
    if inside:
        files["weights.c"] = _weights(source.weights, source.codes)
    texts = {name: text.encode() for name, text in files.items()}
    return texts if inside else texts | {"weights.bin": binary}


def _step(metadata: ModelMetadata) -> int:
    """Returns the seconds of a model's step, 0 where there are no so many: months, business days, no step at all."""
    if metadata.frequency is None:
        return 0
    import pandas as pd

    offset = pd.tseries.frequencies.to_offset(metadata.frequency)
    if isinstance(offset, pd.offsets.Day | pd.offsets.Week):
        return offset.n * 86400 * (7 if isinstance(offset, pd.offsets.Week) else 1)
    if not isinstance(offset, pd.offsets.Tick):
        return 0
    seconds, rest = divmod(offset.nanos, 10**9)
    return 0 if rest else int(seconds)


def _model(
    program: Program,
    metadata: ModelMetadata,
    offset: Offset | None,
    features: Sequence[str],
    step: int,
    *,
    inside: bool,
) -> str:
    """Returns `model.c`: names, offsets, the arena, and the calendar."""
    shapes, zeros = program.code.inputs, [0.0] * len(metadata.channels)
    taken = zeros if offset is None else offset.history.tolist()
    added = zeros[: len(metadata.targets)] if offset is None else offset.forecast.tolist()
    names = [
        f"const char *const prunecast_{kind}[] = {{{', '.join(map(_text, found))}}};"
        for kind, found in (("channels", metadata.channels), ("targets", metadata.targets))
    ]
    names += [
        f"const double prunecast_{kind}[] = {{{', '.join(repr(float(value)) for value in values)}}};"
        for kind, values in (("offset", taken), ("target_offset", added))
    ]
    given = "extern const float pc_weights[];\nextern const unsigned char pc_codes[];\n"
    given += "static const float *const weights = pc_weights;\nstatic const unsigned char *const codes = pc_codes;"
    handed = (
        "static const float *weights;\nstatic const unsigned char *codes;\nvoid prunecast_weights(const void *bytes)\n"
    )
    handed += "{\n    weights = bytes;\n    codes = (const unsigned char *)bytes + 4L * PRUNECAST_WEIGHTS;\n}"
    calendar, body = "", "    (void)now;\n    return prunecast_forecast_marks(history, NULL, NULL, forecast);"
    if {*shapes} > {"history"} and step:
        lines = [f"    marks[{at}] = (float)({_FEATURE[name]}) - 0.5f;" for at, name in enumerate(features)]
        calendar = CALENDAR.format(features="\n".join(lines))
        label = int(metadata.model.get("label_len", 0))
        body = WITH_CALENDAR.format(
            lookback=shapes["history"][1], horizon=metadata.model["horizon"], label=label, marks=len(features)
        )
    elif {*shapes} > {"history"}:
        body = "    (void)history; (void)now; (void)forecast;\n    return 4;"
    aligned = "\n#if defined(__GNUC__)\n    __attribute__((aligned(64)))\n#endif\n    "
    text = MODEL_SOURCE.format(
        names="\n".join(names), weights=given if inside else handed, calendar=calendar, body=body, aligned=aligned
    )
    return text.replace('#include "prunecast.h"\n', '#include <stddef.h>\n#include "prunecast.h"\n', 1)


def _text(name: str) -> str:
    """Returns a name from a file as a C string: nothing but printed ASCII, nothing that ends it."""
    plain = json.dumps(name)[1:-1].encode("ascii", "replace").decode()
    kept = "".join(one if one.isalnum() or one in " _-.:()/" else "_" for one in plain)
    return f'"{kept}"'


def _weights(weights: Numbers, codes: NDArray[np.uint8]) -> str:
    """Returns `weights.c`; nine digits are all that a float has."""
    numbers = [f"{value:.9g}" for value in weights.tolist()]
    texts = [f"{one}f" if "." in one or "e" in one else f"{one}.0f" if one != "0" else "0" for one in numbers]
    lines = [",".join(texts[at : at + 12]) for at in range(0, len(texts), 12)]
    bytes_ = [",".join(map(str, codes[at : at + 32].tolist())) for at in range(0, codes.size, 32)]
    return (
        "const float pc_weights[]\n#if defined(__GNUC__)\n    __attribute__((aligned(64)))\n#endif\n    = {\n"
        + ",\n".join(lines)
        + "};\nconst unsigned char pc_codes[] = {\n"
        + ",\n".join(bytes_)
        + "};\n"
    )


RUNTIME = CEngine()

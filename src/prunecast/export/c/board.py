"""What the zip has for whoever compiles it for a board: the interface, the calendar, a program that reads a CSV, make.

The templates are C; what is filled in are numbers and names that cannot end a string.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunecast.export.base import Offset
from prunecast.export.c.program import Numbers, Program
from prunecast.export.c.source import Source

if TYPE_CHECKING:
    from prunecast.models.io import ModelMetadata

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
    if (read < PRUNECAST_LOOKBACK) {
        fprintf(stderr, "forecast: expected at least %d rows, found %ld\n", PRUNECAST_LOOKBACK, read);
        return 2;
    }
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


def board_files(
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

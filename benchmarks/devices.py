"""The C engine on emulated devices: forecasts held against eager, instructions counted, flash and memory told.

    make devices                                                  # writes results/devices/devices.csv
    python benchmarks/devices.py --out runs/devices [--models Transformer] [--devices cortex-m7]
    python benchmarks/devices.py --out runs/devices --artefacts small.zip   # of `export --runtime c`, trained on ETTh1

A Cortex-M7 (board mps2-an500) and a Cortex-M55 with Helium (mps3-an547) run in `qemu-system-arm -icount shift=0`, which
takes one nanosecond an instruction: SysTick, which counts the board's clock, so counts instructions. 64-bit ARM runs in
`qemu-aarch64`, which counts none. Debian's packages: gcc-arm-none-eabi, qemu-system-arm, gcc-aarch64-linux-gnu,
qemu-user. A device without its packages is left out, and why is said. No C library is linked on the boards.

Models are of width 64 with untrained weights, which change neither size nor instructions; an artefact is called what
its file is. Rows of the table that are not run again stay. All forecast windows of ETTh1's test part, raw units in and
out, calendar and scaler on the device. Memory is the data and bss of the linked program and the stack that was touched;
flash is code, constants and initial data, without the windows.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.errors import UserError
from prunecast.export.c.runtime import RUNTIME
from prunecast.export.eager import predictor_of
from prunecast.export.raw import raw_inputs
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.io import ModelMetadata, SavedModel, ScalerFacts
from prunecast.prune.apply import prune_model
from prunecast.recipe import DataConfig, PruneConfig
from prunecast.registry import MODELS as REGISTERED

TABLE = "devices.csv"
WINDOWS = 3
UNCOUNTED = 0xFFFFFFFF
"""Ticks that a clock gives that went round."""

STACK_BYTES = 64 * 1024
"""What is painted, so that it shows how deep the stack went."""

SIZES = {"lookback": 96, "horizon": 96, "label_len": 48, "d_model": 64, "d_ff": 256, "n_heads": 4}


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Attributes:
        model: name.
        zeros: share of each prunable tensor.
        together: neighbouring inputs that become zero at once (1x4 blocks have four).
        cut: share of the operations that are cut out before.
        int8: whether weights are in 8 bits, whose rounding is no deviation of a device: what it forecasts is held
            against PyTorch with the rounded weights.
    """

    model: str
    zeros: float = 0.0
    together: int = 1
    cut: float = 0.0
    int8: bool = False


WAYS: Mapping[str, Way] = {
    "Transformer": Way("transformer"),
    "Transformer, 8 bits": Way("transformer", int8=True),
    "Transformer, 80 % zeros": Way("transformer", zeros=0.8),
    "Transformer, 80 % zeros in 1x4": Way("transformer", zeros=0.8, together=4),
    "Transformer, 90 % zeros": Way("transformer", zeros=0.9),
    "Transformer, cut to 1/4": Way("transformer", cut=0.75),
    "Transformer, cut to 1/4, 8 bits": Way("transformer", cut=0.75, int8=True),
    "Transformer, cut to 1/4, 80 % zeros": Way("transformer", cut=0.75, zeros=0.8),
    "LSTM": Way("lstm"),
    "DLinear": Way("dlinear"),
}


@dataclass(frozen=True)
class Device:
    """A processor that is emulated.

    Attributes:
        title: for people.
        prefix: of its compiler and linker.
        flags: for the compiler.
        emulator: the command before the program.
        regions: where constants, and data, lie: origin and bytes; empty where an operating system decides.
        clock_hz: of SysTick; 0 where nothing counts instructions.
    """

    title: str
    prefix: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    regions: tuple[tuple[int, int], ...] = ()
    clock_hz: int = 0


BARE = ("-monitor", "none", "-serial", "none", "-display", "none", "-semihosting", "-icount", "shift=0", "-kernel")
DEVICES: Mapping[str, Device] = {
    "cortex-m7": Device(
        "Cortex-M7",
        "arm-none-eabi-",
        ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard", "-mthumb"),
        ("qemu-system-arm", "-M", "mps2-an500", *BARE),
        ((0x0, 4 << 20), (0x20000000, 4 << 20)),
        25_000_000,
    ),
    "cortex-m55": Device(
        "Cortex-M55, Helium",
        "arm-none-eabi-",
        ("-mcpu=cortex-m55", "-mfloat-abi=hard", "-mthumb"),
        ("qemu-system-arm", "-M", "mps3-an547", *BARE),
        ((0x01000000, 2 << 20), (0x21000000, 4 << 20)),
        32_000_000,
    ),
    "aarch64": Device("64-bit ARM, NEON", "aarch64-linux-gnu-", ("-static",), ("qemu-aarch64",)),
}

LINKER = """\
ENTRY(start)
MEMORY
{{
    vectors (rx) : ORIGIN = 0, LENGTH = 1K
    flash (rx) : ORIGIN = {flash}, LENGTH = {flash_bytes}
    ram (rw) : ORIGIN = {ram}, LENGTH = {ram_bytes}
}}
stack_top = ORIGIN(ram) + LENGTH(ram);
SECTIONS
{{
    .vectors : {{ KEEP(*(.vectors)) }} > vectors
    .text : {{ *(.text .text.*) }} > flash
    .rodata : {{ *(.rodata .rodata.*) }} > flash
    .exidx : {{ *(.ARM.exidx*) }} > flash
    .windows : {{ *(.windows) }} > flash
    .data : {{ data_start = .; *(.data .data.*); . = ALIGN(4); data_end = .; }} > ram AT > flash
    data_from = LOADADDR(.data);
    .bss (NOLOAD) : {{ bss_start = .; *(.bss .bss.* COMMON); . = ALIGN(4); bss_end = .; }} > ram
}}
"""

BOARD = r"""
/* What a bare board needs: vectors, memory made ready, text out through the debugger, a count of instructions. */
#include <stddef.h>
#include <stdint.h>
extern uint32_t data_from[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
int main(void);
static volatile uint32_t *const cpacr = (uint32_t *)0xE000ED88, *const systick = (uint32_t *)0xE000E010;

void *memcpy(void *to, const void *from, size_t bytes)
{
    unsigned char *y = to;
    const unsigned char *x = from;
    if ((((uintptr_t)y | (uintptr_t)x) & 3) == 0)
        for (; bytes >= 4; bytes -= 4, y += 4, x += 4) *(uint32_t *)y = *(const uint32_t *)x;
    while (bytes--) *y++ = *x++;
    return to;
}
void *memset(void *to, int value, size_t bytes)
{
    for (unsigned char *y = to; bytes--;) *y++ = (unsigned char)value;
    return to;
}
static int debugger(int call, const void *given)
{
    register int r0 __asm__("r0") = call;
    register const void *r1 __asm__("r1") = given;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
void put(const char *text) { debugger(4, text); }
void clock_start(void) { systick[1] = 0xffffff; systick[2] = 0; systick[0] = 5; }
/* ticks since; all bits where it went round */
uint32_t clock_ticks(void) { uint32_t now = systick[2]; return systick[0] >> 16 & 1 ? 0xffffffff : 0xffffff - now; }
uint32_t stack_used(void)
{
    const uint32_t *deepest = stack_top - STACK_WORDS;
    while (*deepest == 0xC0FFEE00) deepest++;
    return 4 * (uint32_t)(stack_top - deepest);
}
static void fault(void) { put("fault\n"); debugger(0x18, (void *)0x20026); }
__attribute__((naked)) void start(void) { __asm__("ldr r0, =stack_top\n mov sp, r0\n b ready"); }
__attribute__((used, noinline)) void ready(void)
{
    *cpacr |= 0xF << 20; /* floating point and vectors */
    __asm__ volatile("dsb\n isb");
    const uint32_t *from = data_from;
    for (uint32_t *at = data_start; at < data_end; at++) *at = *from++;
    for (uint32_t *at = bss_start; at < bss_end; at++) *at = 0;
    for (uint32_t *at = stack_top - STACK_WORDS; at < stack_top - 64; at++) *at = 0xC0FFEE00;
    main();
    debugger(0x18, (void *)0x20026);
}
__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, start, fault, fault, fault, fault, fault};
"""

HOSTED = r"""
#include <stdint.h>
#include <stdio.h>
void put(const char *text) { fputs(text, stdout); }
void clock_start(void) {}
uint32_t clock_ticks(void) { return 0; }
uint32_t stack_used(void) { return 0; }
"""

MAIN = r"""
#include <stdint.h>
#include "prunecast.h"
void put(const char *text);
void clock_start(void);
uint32_t clock_ticks(void), stack_used(void);
extern const float windows[][PRUNECAST_LOOKBACK * PRUNECAST_CHANNELS];
extern const prunecast_calendar times[];
extern const int count;
static float forecast[PRUNECAST_HORIZON * PRUNECAST_TARGETS];

static void number(uint32_t value)
{
    char text[10] = "        \n";
    for (int i = 0; i < 8; i++) text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    put(text);
}
int main(void)
{
#ifdef PRUNECAST_BINARY
    extern const unsigned char weights_binary[];
    prunecast_weights(weights_binary);
#endif
    for (int w = 0; w < count; w++) {
        clock_start();
        int code = prunecast_forecast(windows[w], &times[w], forecast);
        uint32_t ticks = clock_ticks();
        number((uint32_t)code);
        number(ticks);
        for (int i = 0; i < PRUNECAST_HORIZON * PRUNECAST_TARGETS; i++) {
            union { float number; uint32_t bits; } one = {forecast[i]};
            number(one.bits);
        }
    }
    number(stack_used());
    return 0;
}
"""

BINARY = """\
    .section .rodata
    .balign 64
    .global weights_binary
weights_binary:
    .incbin "weights.bin"
"""


@dataclass(frozen=True)
class Outcome:
    """What one model did on one device.

    Attributes:
        device: its name.
        model: the row.
        max_deviation: from eager, in standard deviations of the training part.
        instructions: of one forecast, the most of all windows; None where they are not counted.
        flash_bytes: code, constants and initial data; None beside an operating system, as what follows.
        code_bytes: of the flash, what is code.
        memory_bytes: data, bss and stack.
    """

    device: str
    model: str
    max_deviation: float
    instructions: int | None
    flash_bytes: int | None
    code_bytes: int | None
    memory_bytes: int | None


@dataclass(frozen=True, eq=False)
class Asked:
    """Windows in raw units, and what eager makes of them.

    Attributes:
        history: (N, L, C).
        times: of the last row of each, as calendars.
        expected: (N, H, C).
        std: (C,) of the training part.
    """

    history: np.ndarray
    times: Sequence[pd.Timestamp]
    expected: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, saved: SavedModel, prepared: Prepared) -> Asked:
        """Returns windows spread over the test part."""
        chosen = torch.linspace(0, len(prepared.test) - 1, WINDOWS).long()
        inputs = raw_inputs(saved.metadata, prepared.test.batch(chosen))
        last = [prepared.test.times_of(int(at))[saved.model.config.lookback - 1] for at in chosen]
        expected = predictor_of(saved, 1)(inputs)
        return cls(inputs["history"], [*map(pd.Timestamp, last)], expected, np.array(saved.metadata.scaler.std))

    def source(self) -> str:
        """Returns the windows as C."""
        rows = (
            "{" + ",".join(f"{value:.9g}f" if "." in f"{value:.9g}" else f"{value:.9g}.0f" for value in one) + "}"
            for one in self.history.reshape(len(self.history), -1).tolist()
        )
        times = (f"{{{t.year},{t.month},{t.day},{t.hour},{t.minute},{t.second}}}" for t in self.times)
        apart = '__attribute__((section(".windows")))'
        return (
            '#include "prunecast.h"\n'
            f"const int count = {len(self.history)};\n"
            f"const prunecast_calendar times[] = {{{', '.join(times)}}};\n"
            f"{apart} const float windows[][PRUNECAST_LOOKBACK * PRUNECAST_CHANNELS] = {{{','.join(rows)}}};\n"
        )


def missing(device: Device) -> str | None:
    """Returns why a device cannot be emulated here, or None when it can."""
    wanted = (f"{device.prefix}gcc", device.emulator[0])
    absent = [name for name in wanted if shutil.which(name) is None]
    return f"there is no {' and no '.join(absent)}" if absent else None


def saved_model(way: str, prepared: Prepared) -> SavedModel:
    """Returns the untrained model of a row, for the windows that it will forecast."""
    asked = WAYS[way]
    fields, sizes = (
        REGISTERED.load(asked.model).Config.model_fields,
        SIZES | {"channels": len(prepared.series.channels)},
    )
    known = {key: value for key, value in sizes.items() if key in fields}
    torch.manual_seed(1)
    model = build(config_from({"name": asked.model} | known)).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if asked.cut:
        request = PruneConfig(method="structured-magnitude", sparsity=asked.cut)
        pruned = prune_model(model, request, seed=1, masks={}, batches=[], cost=dense_macs, weight_cost=macs_per_weight)
        model = pruned.model.eval()
    metadata = ModelMetadata(
        model=model.config.model_dump(mode="json"),
        channels=prepared.series.channels,
        targets=prepared.series.channels,
        scaler=ScalerFacts(mean=tuple(prepared.scaler.mean), std=tuple(prepared.scaler.std)),
        dense_parameters=parameters,
        frequency=prepared.series.frequency,
        data=None,
    )
    return SavedModel(with_zeros(model, asked.zeros, asked.together), metadata)


def with_zeros(model: ForecastModel, share: float, width: int) -> ForecastModel:
    """Returns a copy whose prunable tensors have this share of zeros, each of them: the smallest, `width` at once."""
    found = copy.deepcopy(model)
    for name in found.prunable() if share else ():
        weight = found.get_parameter(name).data
        blocks = weight.view(-1, width if weight.shape[-1] % width == 0 else 1)
        blocks[blocks.abs().sum(1).argsort()[: int(share * len(blocks))]] = 0.0
    return found


def exported(way: str, prepared: Prepared, folder: Path) -> tuple[Path, Asked]:
    """Returns the artefact of a row, and what it will forecast."""
    saved, path = saved_model(way, prepared), folder / "model.zip"
    if WAYS[way].int8:
        RUNTIME.export_int8(saved, path, [])
        saved = RUNTIME.read(path)
    else:
        RUNTIME.export(saved, path)
    return path, Asked.of(saved, prepared)


def of_artefact(path: Path, prepared: Prepared) -> Asked:
    """Returns what an artefact of the C engine will forecast.

    Raises:
        UserError: when it is none, or one for windows of another shape.
    """
    saved = RUNTIME.read(path)
    config, channels = saved.model.config, prepared.series.channels
    found = (config.lookback, config.horizon, saved.metadata.channels)
    if found != (SIZES["lookback"], SIZES["horizon"], channels):
        expected = f"{SIZES['lookback']} steps of {', '.join(channels)} to {SIZES['horizon']}"
        raise UserError(f"{path}: expected a forecaster of {expected}; export one that was trained on ETTh1")
    return Asked.of(saved, prepared)


def run_on(device: Device, asked: Asked, folder: Path) -> tuple[list[int], dict[str, int]]:
    """Builds a model for a device and runs it there.

    Args:
        device: what is emulated.
        asked: what is forecast.
        folder: of an artefact; where it is built.

    Returns:
        the words that it printed; bytes of each section.
    """
    (folder / "windows.c").write_text(asked.source())
    (folder / "run.c").write_text(MAIN)
    (folder / "device.c").write_text(BOARD if device.regions else HOSTED)
    sources = ["run.c", "device.c", "windows.c", "model.c", "forecast.c"]
    if (folder / "weights.c").exists():
        sources.append("weights.c")
    else:
        (folder / "binary.s").write_text(BINARY)
        sources.append("binary.s")
    flags = ["-std=gnu99", "-O3", "-ffp-contract=fast", "-fno-math-errno", *device.flags]
    if device.regions:
        (flash, flash_bytes), (ram, ram_bytes) = device.regions
        at = {"flash": max(flash, 1024), "flash_bytes": flash_bytes - 1024, "ram": ram, "ram_bytes": ram_bytes}
        (folder / "board.ld").write_text(LINKER.format(**at))
        flags += ["-ffreestanding", "-nostdlib", "-fno-tree-loop-distribute-patterns", "-T", "board.ld"]
        flags += [f"-DSTACK_WORDS={STACK_BYTES // 4}"]
    command = [f"{device.prefix}gcc", *flags, "-o", "run.elf", *sources, *(["-lgcc"] if device.regions else [])]
    _checked(command, folder)
    printed = _checked([*device.emulator, "run.elf"], folder)
    if "fault" in printed:
        raise RuntimeError(f"{device.title}: the program faulted")
    sizes = _checked([f"{device.prefix}size", "-A", "run.elf"], folder)
    parts = [line.split() for line in sizes.splitlines() if line.startswith(".")]
    known = dict.fromkeys((".vectors", ".text", ".rodata", ".data", ".bss"), 0)
    return [int(word, 16) for word in printed.split()], known | {name: int(size) for name, size, _ in parts}


def _checked(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


def outcome_of(name: str, way: str, path: Path, asked: Asked) -> Outcome:
    """Returns what an artefact of the C engine did on a device.

    Raises:
        RuntimeError: when it does not build, run or give a forecast.
    """
    device = DEVICES[name]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as zipped:
            zipped.extractall(folder)
        (*words, stack), sections = run_on(device, asked, Path(folder))
    deviation, instructions = 0.0, 0
    for found, expected in zip(
        np.array(words, np.uint32).reshape(len(asked.expected), -1), asked.expected, strict=True
    ):
        code, ticks = int(found[0]), int(found[1])
        forecast = found[2:].view(np.float32).reshape(expected.shape)
        if code or ticks == UNCOUNTED or not np.isfinite(forecast).all():
            raise RuntimeError(f"{device.title}, {way}: code {code}, {ticks} ticks, or a forecast that is not finite")
        deviation = max(deviation, float((np.abs(forecast - expected) / asked.std).max()))
        instructions = max(instructions, round(ticks * 1e9 / (device.clock_hz or 1)))
    if not device.regions:
        return Outcome(name, way, deviation, None, None, None, None)
    code_bytes = sections[".text"] + sections[".vectors"]
    flash_bytes = code_bytes + sections[".rodata"] + sections[".data"]
    return Outcome(
        name, way, deviation, instructions, flash_bytes, code_bytes, sections[".data"] + sections[".bss"] + stack
    )


def main() -> None:
    """Runs all models on all devices that there are here, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/devices"), help="folder of the table")
    parser.add_argument("--models", nargs="+", choices=[*WAYS], help="all, unless artefacts are asked for")
    parser.add_argument("--artefacts", nargs="+", type=Path, default=[], help="zips of the C engine, 96 steps to 96")
    parser.add_argument("--devices", nargs="+", choices=[*DEVICES], default=[*DEVICES])
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepared = prepare(load_series("ETTh1"), DataConfig(name="ETTh1"), lookback=96, horizon=96, label_len=48)
    rows = []
    there = [name for name in given.devices if missing(DEVICES[name]) is None]
    for name in given.devices:
        if name not in there:
            print(f"{DEVICES[name].title}: left out, {missing(DEVICES[name])}", file=sys.stderr)
    if not there:
        sys.exit("nothing was run: install the packages that are named above")
    try:
        own = {path.stem: (path, of_artefact(path, prepared)) for path in given.artefacts}
    except UserError as error:
        parser.error(str(error))
    ways = given.models or ([] if own else [*WAYS])
    with tempfile.TemporaryDirectory() as folder:
        for way in [*ways, *own]:
            path, asked = own[way] if way in own else exported(way, prepared, Path(folder))
            for name in there:
                outcome = outcome_of(name, way, path, asked)
                print(outcome, flush=True)
                rows.append(vars(outcome))
    given.out.mkdir(parents=True, exist_ok=True)
    with_rows(rows, given.out / TABLE).to_csv(given.out / TABLE, index=False, float_format="%.2g")


def with_rows(rows: Sequence[Mapping[str, object]], path: Path) -> pd.DataFrame:
    """Returns the table of a file, if there is one, with rows in place of those of the same device and model."""
    counts = ("instructions", "flash_bytes", "code_bytes", "memory_bytes")
    table = pd.DataFrame(rows)
    if path.is_file():
        table = pd.concat([pd.read_csv(path), table]).drop_duplicates(["device", "model"], keep="last")
    known = {name: place for place, name in enumerate(WAYS)}
    order = table["model"].map(lambda name: known.get(name, len(known)))
    return table.iloc[order.argsort(kind="stable")].astype(dict.fromkeys(counts, "Int64"))


if __name__ == "__main__":
    main()

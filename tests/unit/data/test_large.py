"""Large CSV files are read block by block, to the same series and the same messages, in little memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from prunecast.data import files
from prunecast.data.files import Table, read_table
from prunecast.data.series import Series, load_series
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

ROWS = 3000


def lines(form: str = "%Y-%m-%d %H:%M", delimiter: str = ",") -> list[str]:
    """A header and rows of times, decimals, small ones in powers of ten, and whole numbers."""
    values = np.random.default_rng(0).normal(size=ROWS)
    times = pd.date_range("2024-01-01", periods=ROWS, freq="h").strftime(form)
    rows = (
        delimiter.join([time, f"{value:.4f}", repr(float(value) * 1e-9), str(row - 7)])
        for row, (time, value) in enumerate(zip(times, values, strict=True))
    )
    return [delimiter.join(["date", "a", "b", "n"]), *rows]


def changed(row: int, old: str, new: str) -> str:
    content = lines()
    assert old in content[row]
    content[row] = content[row].replace(old, new, 1)
    return "\n".join(content) + "\n"


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large, and has many blocks."""
    monkeypatch.setattr(files, "LARGE_BYTES", 0)
    monkeypatch.setattr("prunecast.data.large.BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr("prunecast.data.times.BLOCK_ROWS", 700)


def outcome(path: Path, **options: object) -> Series | str:
    try:
        return load_series(DataConfig.model_validate({"name": str(path), **options}))
    except UserError as error:
        return str(error)


def assert_same(first: Series | str, second: Series | str) -> None:
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return
    for name in ("times", "raw_TC", "raw_covariates_TK"):
        one, other = getattr(first, name), getattr(second, name)
        assert one.tobytes() == other.tobytes()
        assert one.flags.c_contiguous
        assert other.flags.c_contiguous
    for name in ("channels", "covariates", "frequency", "season", "breaks", "sha256", "reading", "time_name", "name"):
        assert getattr(first, name) == getattr(second, name)


def is_by_blocks(table: Table) -> bool:
    return pa.types.is_floating(table.columns.schema.field(1).type)


PLAIN = {
    "iso": ("\n".join(lines()), {}),
    "with an end of line": ("\r\n".join(lines()) + "\r\n", {}),
    "semicolons": ("\n".join(lines(delimiter=";")), {}),
    "tabs": ("\n".join(lines(delimiter="\t")), {}),
    "another form": ("\n".join(lines("%d/%m/%Y %H:%M")), {}),
    "another form, told": ("\n".join(lines("%d/%m/%Y %H:%M")), {"date_format": "%d/%m/%Y %H:%M"}),
    "with offsets": ("\n".join(lines("%Y-%m-%dT%H:%M:%S+01:00")), {}),
    "in a zone": ("\n".join(lines()), {"timezone": "Asia/Tokyo"}),
    "a covariate": ("\n".join(lines()), {"covariates": ["n"]}),
    "channels": ("\n".join(lines()), {"channels": ["b", "a"]}),
    "dropped": ("\n".join(lines()), {"drop": ["a"]}),
    "decimal": ("\n".join(lines()), {"decimal": "."}),
    "empty cells": (changed(2000, ",1992", ","), {}),
    "empty cells, filled": (changed(2000, ",1992", ","), {"fill": "ffill"}),
    "an empty tail": ("\n".join(lines()) + "\n,,,\n,,,\n", {"tail": "cut"}),
    "an empty tail, refused": ("\n".join(lines()) + "\n,,,\n,,,\n", {}),
    "a time that goes back": (changed(2000, "2024", "2023"), {}),
    "no time": (changed(2000, "2024", "in 2024"), {}),
    "beyond 32 bits": (changed(2000, ",1992", ",400000000000000000000000"), {}),
}

HOURS = pd.date_range("2024-01-10", periods=ROWS, freq="h")
EPOCH = 1_704_067_200


def timed(texts: Iterable[object], name: str = "date") -> str:
    """Rows of these times and a number."""
    return "\n".join([f"{name},a", *(f"{text},{row}.5" for row, text in enumerate(texts))])


TIMED = {
    "seconds": (timed(EPOCH + 60 * row for row in range(ROWS)), {}),
    "seconds, told": (timed((EPOCH + 60 * row for row in range(ROWS)), "n"), {"time_column": "n"}),
    "milliseconds": (timed(1000 * EPOCH + 250 * row for row in range(ROWS)), {}),
    "days of Excel": (timed(f"{45_000 + row / 24:.6f}" for row in range(ROWS)), {}),
    "digits": (timed(HOURS.strftime("%Y%m%d%H%M")), {}),
    "month first": (timed(HOURS.strftime("%m/%d/%Y %H:%M:%S")), {}),
    "dots": (timed(HOURS.strftime("%d.%m.%Y %H:%M")), {}),
    "single digits": (timed(f"{time.month}/{time.day}/{time.year} {time.hour}:00" for time in HOURS), {}),
    "AM and PM": (timed(HOURS.strftime("%d/%m/%Y %I:%M %p")), {}),
    "bare dates": (timed(time.strftime("%d/%m/%Y %H:%M" if time.hour else "%d/%m/%Y") for time in HOURS), {}),
    "24:00": (timed(f"{(time - time.resolution):%Y-%m-%d} {time.hour or 24}:00" for time in HOURS), {}),
    "a tie": (timed(f"05/06/2024 {row // 60:02}:{row % 60:02}" for row in range(24 * 60)), {}),
    "a tie in the head alone": (timed((HOURS - pd.Timedelta(days=8)).strftime("%d/%m/%Y %H:%M")), {}),
    "years of two digits": (timed(HOURS.strftime("%d/%m/%y %H:%M")), {}),
    "clocks that change": (
        timed(time.isoformat() for time in pd.date_range("2024-01-10", periods=ROWS, freq="h", tz="Europe/Berlin")), {}
    ),
    "offsets in some rows": (timed([*HOURS[:2000], *(f"{time}+01:00" for time in HOURS[2000:])]), {}),
    "no offset in some rows": (timed([*(f"{time}+01:00" for time in HOURS[:2000]), *HOURS[2000:]]), {}),
    "another form, mistold": (timed(HOURS.strftime("%d/%m/%Y %H:%M")), {"date_format": "%Y"}),
    "iso, mistold": (timed(HOURS), {"date_format": "%d/%m/%Y"}),
    "no form": (timed(HOURS), {"date_format": "%Q"}),
    "clocks of a zone": (timed(HOURS[:1500]), {"timezone": "America/Bogota"}),
    "an empty time": (timed([*HOURS[:2000], "", *HOURS[2001:]]), {}),
}  # fmt: skip

DOUBTFUL = {
    "seconds, then milliseconds": (timed(EPOCH * (1000 if row > 2000 else 1) + row for row in range(ROWS)), {}),
    "a word among seconds": (timed([*(EPOCH + row for row in range(2000)), "x"]), {}),
    "a word": (changed(2000, ",1992", ",x"), {}),
    "a decimal among whole numbers": (changed(2000, ",1992", ",1.992"), {}),
    "infinite": (changed(2000, "e-", "e+300"), {}),
    "inf": (changed(2000, ",1992", ",0").replace(lines()[1500].split(",")[1], "inf"), {}),
    "a blank": (changed(2000, ",1992", ", 1992"), {}),
    "quotes": (changed(2000, ",1992", ',"1992"'), {}),
    "a cell too many": (changed(2000, ",1992", ",1992,3"), {}),
    "decimal commas": ("\n".join(lines(delimiter=";")).replace(".", ","), {}),
    "either mark": ("\n".join(["date,a", *(f"{line.split(',')[0]},1.234" for line in lines()[1:])]), {}),
    "thousands": ("\n".join(lines()), {"thousands": ","}),
    "another decimal": ("\n".join(lines()), {"decimal": ","}),
    "two of a name": ("\n".join(["date,a,a,n", *lines()[1:]]), {}),
    "no name": ("\n".join(["date,a,,n", *lines()[1:]]), {}),
    "delimiters at the end": ("\n".join(line + "," for line in lines()), {}),
    "a mark in front": ("\ufeff" + "\n".join(lines()), {}),
    "sep=": ("sep=,\n" + "\n".join(lines()), {}),
    "several times": ("\n".join(lines()), {"time_column": ["date", "n"]}),
    "no such time": ("\n".join(lines()), {"time_column": "when"}),
    "words": ("\n".join(["date,a,b,n,w", *(line + ",w" for line in lines()[1:])]), {}),
    "a long table": ("\n".join(lines()), {"series_column": "n"}),
}


@pytest.mark.parametrize("case", [*PLAIN, *TIMED, *DOUBTFUL])
def test_block_by_block_is_as_at_once(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content, options = (PLAIN | TIMED | DOUBTFUL)[case]
    path = tmp_path / "own.csv"
    path.write_text(content, newline="")
    at_once = outcome(path, **options)
    request.getfixturevalue("by_blocks")
    assert_same(outcome(path, **options), at_once)


@pytest.mark.usefixtures("by_blocks")
@pytest.mark.parametrize("case", ["iso", "tabs", "with offsets", "empty cells", "an empty tail", "no time", *TIMED])
def test_plain_files_are_read_by_blocks(case: str, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    content, options = (PLAIN | TIMED)[case]
    path.write_text(content, newline="")
    table = read_table(path, DataConfig.model_validate({"name": str(path), **options}))
    assert is_by_blocks(table) == (case != "no form")
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("by_blocks")
def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes("\n".join(lines()).encode() + b"\n\xff,1.5,1.5,3\n")
    with pytest.raises(UserError, match="0xff at position"):
        read_table(path)


MEASURED = """
import resource, sys
from pathlib import Path
from prunecast.data.check import check_data
from prunecast.data.files import read_table
from prunecast.data.series import known_rows, load_series
from prunecast.recipe import DataConfig

def use(path):
    if sys.argv[1] == "load":
        return load_series(DataConfig(name=path))
    if sys.argv[1] == "check":
        return check_data(path)
    return known_rows(read_table(Path(path)), sys.argv[4].split(",")).histories(96, 24, "refuse")

use(sys.argv[2])  # what is loaded at the first use belongs to the start
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
use(sys.argv[3])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "channels", "form"),
    [
        ("load", 10, "%Y-%m-%dT%H:%M:%S"), ("load", 1, "%Y-%m-%d %H:%M:%S"), ("load", 3, "%d/%m/%Y %H:%M:%S"),
        ("load", 3, "%Y-%m-%dT%H:%M:%S+01:00"), ("check", 3, "%Y-%m-%d %H:%M:%S"), ("forecast", 1, "%m/%d/%Y %H:%M:%S"),
    ],
)  # fmt: skip
def test_a_large_file_takes_thrice_its_numbers(tmp_path: Path, use: str, channels: int, form: str) -> None:
    """Times are numbers too. `PRUNECAST_TEST_CSV_MB` is the size of the file; 2000 for what is promised."""
    path, size = tmp_path / "large.csv", int(os.environ.get("PRUNECAST_TEST_CSV_MB", "200")) << 20
    values = np.random.default_rng(0).normal(size=(20_000, channels))
    cells = [",".join(f"{value:.5f}" for value in row) for row in values]
    names = ",".join(f"c{number}" for number in range(channels))
    start, rows = np.datetime64("2000-01-01T00:00:00"), 0
    with path.open("w") as file:
        file.write(f"date,{names}\n")
        while file.tell() < size:
            times = pa.array(start + (rows + np.arange(len(cells))) * np.timedelta64(10, "s"))
            texts = pc.strftime(times, form).to_pylist()
            file.writelines(f"{text},{row}\n" for text, row in zip(texts, cells, strict=True))
            rows += len(cells)
    small = tmp_path / "small.csv"
    with path.open() as file:
        small.write_text("".join(islice(file, 200_000)))
    command = [sys.executable, "-c", MEASURED, use, str(small), str(path), names]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers, peak = 8 * rows * (channels + 1), int(run.stdout)
    assert run.stderr == ""
    assert peak <= 3 * numbers, f"{peak / numbers:.2f} times the numbers"

"""Large CSV files are read block by block, to the same series and the same messages, in little memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
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

DOUBTFUL = {
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


@pytest.mark.parametrize("case", [*PLAIN, *DOUBTFUL])
def test_block_by_block_is_as_at_once(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content, options = (PLAIN | DOUBTFUL)[case]
    path = tmp_path / "own.csv"
    path.write_text(content, newline="")
    at_once = outcome(path, **options)
    request.getfixturevalue("by_blocks")
    assert_same(outcome(path, **options), at_once)


@pytest.mark.usefixtures("by_blocks")
@pytest.mark.parametrize("case", ["iso", "tabs", "with offsets", "empty cells", "an empty tail", "no time"])
def test_plain_files_are_read_by_blocks(case: str, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(PLAIN[case][0], newline="")
    table = read_table(path)
    assert is_by_blocks(table)
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("by_blocks")
def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes("\n".join(lines()).encode() + b"\n\xff,1.5,1.5,3\n")
    with pytest.raises(UserError, match="0xff at position"):
        read_table(path)


MEASURED = """
import resource, sys
from prunecast.data.series import load_series
from prunecast.recipe import DataConfig

load_series(DataConfig(name=sys.argv[1]))  # what is loaded at the first use belongs to the start
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
series = load_series(DataConfig(name=sys.argv[2]))
print(series.raw_TC.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024)
"""


@pytest.mark.slow
def test_a_large_file_takes_thrice_its_numbers(tmp_path: Path) -> None:
    """`PRUNECAST_TEST_CSV_MB` is the size of the file; 2000 for what is promised."""
    path, size = tmp_path / "large.csv", int(os.environ.get("PRUNECAST_TEST_CSV_MB", "200")) << 20
    cells = [",".join(f"{value:.5f}" for value in row) for row in np.random.default_rng(0).normal(size=(20_000, 10))]
    with path.open("w") as file:
        file.write("date," + ",".join(f"c{number}" for number in range(10)) + "\n")
        start = np.datetime64("2000-01-01T00:00:00")
        while file.tell() < size:
            times = np.datetime_as_string(start + np.arange(len(cells)) * np.timedelta64(10, "s"))
            file.writelines(f"{time},{row}\n" for time, row in zip(times, cells, strict=True))
            start += len(cells) * np.timedelta64(10, "s")
    small = tmp_path / "small.csv"
    with path.open() as file:
        small.write_text("".join(islice(file, 1000)))
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(small), str(path)], capture_output=True, text=True, check=True
    )
    numbers, peak = map(int, run.stdout.split())
    assert run.stderr == ""
    assert peak <= 3 * numbers, f"{peak / numbers:.2f} times the numbers"

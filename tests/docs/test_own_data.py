"""The page on own data: what its table says of each kind of file is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.data.series import Series, load_series
from prunecast.errors import UserError
from prunecast.recipe import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("| your file |")[2].partition("\n\n")[0]
ROWS = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in TABLE.splitlines()[2:]]

HOURS = pd.date_range("2024-01-01", periods=240, freq="h")
BERLIN = pd.date_range("2024-10-25", periods=240, freq="h", tz="Europe/Berlin")
VALUES = (50 + 10 * np.sin(np.arange(240) * np.pi / 12)).round(2)


def csv(times: object, *, form: str | None = None, sep: str = ",", decimal: str = ".", **columns: object) -> bytes:
    index = pd.DatetimeIndex(times).strftime(form) if form else times
    frame = pd.DataFrame({"date": index, **(columns or {"y": VALUES[: len(index)]})})
    return frame.to_csv(sep=sep, decimal=decimal, index=False).encode()


def rows_of(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def grouped(values: object) -> list[str]:
    return [f"{value:,}".replace(",", ".") for value in values]


PLAIN = csv(HOURS)
HEADER, *LINES = rows_of(PLAIN)
TURNING = np.arange(240) % 500 + 900
MONTHS = pd.date_range("2000-01-01", periods=120, freq="MS")
FUTURE = rows_of(csv(HOURS + pd.Timedelta("10D")))[1:4]
DAY = pd.date_range("2024-06-05", periods=24, freq="h")

FILES = {
    "semicolons": [csv(HOURS, form="%d.%m.%Y %H:%M", sep=";", decimal=",")],
    "`45,67` in another": [csv(HOURS, sep=";", decimal=",", y=grouped(TURNING), price=VALUES)],
    "nothing else to go by": [csv(HOURS, sep=";", y=grouped(TURNING))],
    "`20240131`": [
        csv(pd.date_range("2024-01-01", periods=99), form="%Y%m%d"),
        csv(MONTHS, form="%b %Y"),
        csv(pd.period_range("2000Q1", periods=99, freq="Q").astype(str)),
        csv(HOURS, form="%m/%d/%Y %I:%M %p"),
        csv(np.arange(99) + 45292),
        csv(np.arange(99) * 900 + 1664458771),
    ],
    "both readings": [csv(DAY, form="%d/%m/%Y %H:%M")],
    "each midnight": [
        csv([f"{time - time.resolution:%d/%m/%Y} {time.hour or 24}:00" for time in HOURS]),
        csv([f"{time:%d/%m/%Y %H:%M}".removesuffix(" 00:00") for time in HOURS]),
    ],
    "two digits": [csv(HOURS, form="%m/%d/%y %H:%M")],
    "in two columns": [
        csv(HOURS, form="%Y-%m-%d", Time=HOURS.strftime("%H:%M"), y=VALUES).replace(b"date", b"Date")
    ],
    "a second column": [csv(HOURS, end=HOURS + pd.Timedelta("1h"), y=VALUES)],
    "offsets as": [csv(BERLIN)],
    "without an offset": [
        csv(pd.date_range(start, periods=900, freq=step, tz="Europe/Berlin"), form="%Y-%m-%d %H:%M", y=np.arange(900.0))
        for start in ("2024-03-25", "2024-10-21")
        for step in ("h", "15min")
    ],
    "words": [csv(HOURS, y=VALUES, region="north")],
    "some are wanted": [csv(HOURS, load=VALUES, wind=VALUES, sun=VALUES)],
    "one below the other": [csv([*HOURS, *HOURS], unique_id=["A"] * 240 + ["B"] * 240, y=[*VALUES, *VALUES])],
    "newest": [b"".join([HEADER, *reversed(LINES)])],
    "stands twice": [b"".join([HEADER, *LINES[:9], LINES[8].split(b",")[0] + b",3.5\n", *LINES[9:]])],
    "empty rows": [PLAIN + b"".join(line.split(b",")[0] + b",\n" for line in FUTURE)],
    "is missing": [
        b"".join([HEADER, *LINES[:9], *LINES[10:]]),
        b"".join([HEADER, *LINES[:9], LINES[9].split(b",")[0] + b",\n", *LINES[10:]]),
        csv(pd.bdate_range("2023-10-02", "2024-01-19").drop("2023-12-25")),
    ],
    "no row of names": [b"".join(LINES)],
    "workbook": [b"PK\x03\x04 [Content_Types].xml xl/workbook.xml"],
    "3.4e38": [csv(HOURS, y=VALUES * 1e39)],
}  # fmt: skip
"""Words of a row that are in no other -> files of that kind."""


def read(path: Path, option: str) -> Series:
    settings = [option] if option.startswith("data.") else []
    return load_series(load_recipe(settings=settings, base={"data": {"name": str(path)}}).data)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_kind_of_file_is_read_or_refused_as_the_table_says(row: tuple[str, str, str], tmp_path: Path) -> None:
    kind, without, settled = row
    (words,) = (words for words in FILES if words in kind)
    option = settled.strip("`")
    for content in FILES[words]:
        path = tmp_path / "file.csv"
        path.write_bytes(content)
        if without == "is refused":
            with pytest.raises(UserError) as refusal:
                read(path, "")
            assert option.partition("=")[0] in str(refusal.value) or not option.startswith("data.")
        else:
            assert np.isfinite(read(path, "").raw_TC).all()
        if option.startswith("data."):
            assert np.isfinite(read(path, option).raw_TC).all()


def test_every_kind_is_tried() -> None:
    assert len(ROWS) == len(FILES)


def test_the_values_are_the_right_ones(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(FILES["`45,67` in another"][0])
    np.testing.assert_array_equal(read(path, "").raw_TC[:, 0], TURNING)
    path.write_bytes(FILES["both readings"][0])
    np.testing.assert_array_equal(read(path, "data.date_format=%d/%m/%Y %H:%M").times, DAY.to_numpy())
    path.write_bytes(csv(BERLIN, form="%Y-%m-%d %H:%M"))
    np.testing.assert_array_equal(read(path, "data.timezone=Europe/Berlin").times, BERLIN.tz_convert(None).to_numpy())

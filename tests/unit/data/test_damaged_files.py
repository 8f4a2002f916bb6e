"""Damaged files: whatever is done to a file, reading it is a series or one line, and never a value that cannot be."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.data.check import check_data
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

MUTATIONS = 90

CELLS = (
    "", "NaN", "inf", "-", "1e400", "2024-02-30", "99999999999", "'", '"', "1.000,5", "1,5", "0x10", "24:00",
    "2024-03-31 02:30", "2024-01-01T00:00:00+99:99", "20240101", "-5", "Q1 2024", "9999-01-01", "0000-00-00",
    "1677-01-01", "12:00 AM", "\u202f", "Z", "1" * 400, "2024-01-01 00:00:00 +0100", "true", "None", "+",
)  # fmt: skip
REPLACED = ((".", ","), (":", ""), ("-", "/"), ("2024", "24"), ("-", "."), (" ", "T"), ("0", "1"))
ADDED = ("+01:00", "Z", " AM", "T00", " UTC", "00")
OPTIONS: tuple[dict[str, object], ...] = (
    {}, {}, {"order": "sort"}, {"duplicates": "mean"}, {"fill": "ffill"}, {"fill": "interpolate:2"}, {"tail": "cut"},
    {"timezone": "Europe/Berlin"}, {"date_format": "%d/%m/%Y %H:%M"}, {"date_format": "excel"}, {"decimal": ","},
    {"thousands": "."}, {"series_column": "id"}, {"time_column": ["date", "v"]}, {"delimiter": ";"},
    {"channels": ["v"]}, {"drop": ["id"]},
    {"order": "sort", "duplicates": "last", "fill": "ffill", "tail": "cut"},
)  # fmt: skip


def whole(draw: random.Random) -> list[list[str]]:
    times = pd.date_range("2024-03-30", periods=40, freq=draw.choice(["h", "D", "B", "MS"]))
    form = draw.choice(
        ["%Y-%m-%d %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p", "%Y%m%d%H%M", "%Y-%m-%dT%H:%MZ", "%d-%b-%y"]
    )
    rows = [[text, f"{row * 1.5}", draw.choice("AB"), f"{row}"] for row, text in enumerate(times.strftime(form))]
    return [["date", "v", "id", "w"], *rows] if draw.random() < 0.5 else [["date", "v"], *(row[:2] for row in rows)]


def damaged(draw: random.Random) -> bytes:
    rows, delimiter = whole(draw), draw.choice(",;\t")
    for _ in range(draw.randint(1, 3)):
        row = draw.randrange(1, len(rows))
        column = draw.randrange(len(rows[row]))
        match draw.randrange(8):
            case 0:
                rows[row][column] = draw.choice(CELLS)
            case 1:
                rows[1:] = rows[:0:-1]
            case 2 if len(rows) > 2:
                del rows[row]
            case 3:
                rows.insert(row, list(rows[row]))
            case 4:
                end = draw.choice(ADDED)
                rows[1:] = [[cell + end * (place == column) for place, cell in enumerate(cells)] for cells in rows[1:]]
            case 5:
                old, new = draw.choice(REPLACED)
                rows[1:] = [[cell.replace(old, new) for cell in cells] for cells in rows[1:]]
            case 6:
                rows[row:] = [[""] * len(rows[0])] * draw.randint(1, 3)
            case 7:
                rows = rows[: draw.randint(2, 8)]
    content = bytearray("\n".join(delimiter.join(cells) for cells in rows).encode())
    for _ in range(draw.randint(0, 2) if draw.random() < 0.3 else 0):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content[: draw.randrange(len(content) + 1)] if draw.random() < 0.1 else content)


@pytest.mark.parametrize("seed", range(3))
def test_reading_ends_in_a_series_or_in_one_line(tmp_path: Path, seed: int) -> None:
    path, said = tmp_path / "own.csv", []
    for number in range(MUTATIONS // 3):
        draw = random.Random(1000 * seed + number)
        path.write_bytes(damaged(draw))
        config = DataConfig.model_validate({"name": str(path), **draw.choice(OPTIONS)})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                raw_TC = load_series(config).raw_TC
            except UserError as error:
                said.append(str(error))
            else:
                assert raw_TC.size
                assert np.abs(raw_TC).max() < 3.5e38
            try:
                said.extend(check_data(path).problems)
            except UserError as error:
                said.append(str(error))
    assert all("\n" not in line and len(line) < 600 for line in said)


@pytest.mark.parametrize(
    ("content", "kind"),
    [("<!DOCTYPE html>\n<html>404</html>\n", "HTML"), ('[{"date": 1}]', "JSON"), ('{"date": [1]}', "JSON")],
)
def test_what_is_no_table_is_named_for_what_it_is(content: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(UserError, match=f"own.csv: is .*{kind}.*, expected a CSV"):
        check_data(tmp_path / "own.csv")


def test_lines_may_end_as_old_spreadsheets_end_them(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(b"date,v\r2024-01-01,1\r2024-01-02,2\r2024-01-03,4\r")
    assert load_series(DataConfig(name=str(tmp_path / "own.csv"))).raw_TC[:, 0].tolist() == [1, 2, 4]

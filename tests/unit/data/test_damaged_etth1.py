"""A hundred damaged variants of ETTh1: each fault alone and in pairs is named in one line, or repaired as asked."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from prunecast.data.check import check_data
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

SOUND = (Path(__file__).parents[2] / "data" / "ETTh1-2000.csv").read_text().splitlines()[:401]
NAMES = SOUND[0].split(",")
ROWS = (2, 57, 113, 250, 311, 398)
"""Rows of the file, the first after the header being 1."""

REPAIRS = {"fill": "ffill", "order": "sort", "duplicates": "first"}

Damage = Callable[[list[list[str]], int], None]


def cell(text: str, column: int) -> Damage:
    def damage(cells: list[list[str]], row: int) -> None:
        cells[row][column] = text

    return damage


def removed(cells: list[list[str]], row: int) -> None:
    del cells[row]


def doubled(cells: list[list[str]], row: int) -> None:
    cells.insert(row + 1, [cells[row][0], *(["1.5"] * (len(NAMES) - 1))])


def swapped(cells: list[list[str]], row: int) -> None:
    cells[row], cells[row + 1] = cells[row + 1], cells[row]


def longer(cells: list[list[str]], row: int) -> None:
    cells[row].append("7")


FAULTS: dict[str, tuple[Damage, str, bool]] = {
    "empty": (cell("", 3), f"column {NAMES[3]!r}: missing values (NaN): 1, the first in row {{row}}", True),
    "removed": (removed, "missing time steps: 1, the first after row {before}", True),
    "doubled": (doubled, "row {after} (", True),
    "swapped": (swapped, "row {after} (", True),
    "word": (cell("bad", 4), f"column {NAMES[4]!r}, row {{row}}: expected a number, found 'bad'", False),
    "infinite": (cell("inf", 2), f"column {NAMES[2]!r}, row {{row}}: expected a finite number", False),
    "huge": (cell("1e39", 5), f"column {NAMES[5]!r}, row {{row}}: 1e+39 is beyond", False),
    "no time": (cell("", 0), f"column {NAMES[0]!r}, row {{row}}: expected a date or time, found nothing", False),
    "wrong time": (cell("2016-02-30 00:00:00", 0), f"column {NAMES[0]!r}, row {{row}}: expected a date", False),
    "longer": (longer, "row {row} has 9 cells, expected 8", False),
}
"""How to damage, what is said of it, and whether the options repair it."""


def damaged(folder: Path, *faults: tuple[str, int]) -> Path:
    cells = [line.split(",") for line in SOUND]
    for name, row in sorted(faults, key=lambda fault: -fault[1]):
        FAULTS[name][0](cells, row)
    path = folder / "own.csv"
    path.write_text("\n".join(map(",".join, cells)) + "\n")
    return path


def said(name: str, row: int) -> str:
    return FAULTS[name][1].format(row=row, before=row - 1, after=row + 1)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_place_or_repaired(name: str, row: int, tmp_path: Path) -> None:
    path = damaged(tmp_path, (name, row))
    with pytest.raises(UserError) as raised:
        load_series(DataConfig(name=str(path)))
    assert said(name, row) in str(raised.value)
    assert "\n" not in str(raised.value)
    if FAULTS[name][2]:
        series = load_series(DataConfig.model_validate({"name": str(path), **REPAIRS}))
        expected = np.array([line.split(",")[1:] for line in SOUND[1:]], dtype=np.float64)
        assert series.raw_TC.shape == expected.shape
        assert (series.raw_TC != expected).any(axis=1).sum() <= 1, "no other row is touched"


@pytest.mark.parametrize(("first", "second"), tuple(combinations(FAULTS, 2)))
def test_of_two_faults_one_is_named_and_the_check_names_both(first: str, second: str, tmp_path: Path) -> None:
    path = damaged(tmp_path, (first, 113), (second, 311))
    with pytest.raises(UserError) as raised:
        load_series(DataConfig(name=str(path)))
    assert "\n" not in str(raised.value)
    later = 311 + {"removed": -1, "doubled": 1}.get(first, 0)
    assert any(part in str(raised.value) for part in (said(first, 113), said(second, later)))
    if "longer" not in (first, second):
        assert check_data(path).problems

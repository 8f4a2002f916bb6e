"""Columns into numbers: which marks stand in them is settled by the file as a whole, or asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prunecast.errors import UserError
from prunecast.recipe import ReadOptions
from prunecast.records import Reading

LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
"""What 32-bit numbers hold, in which models compute."""


class Marks(NamedTuple):
    """What stands before the decimals, and between groups of three digits (empty for nothing)."""

    decimal: str = "."
    thousands: str = ""


_CANDIDATES = (
    Marks(),
    Marks(",", ""),
    Marks(",", "."),
    Marks(".", ","),
    Marks(",", " "),
    Marks(".", " "),
    Marks(".", "'"),
    Marks(",", "'"),
)


def number_marks(
    columns: Mapping[str, pa.ChunkedArray], delimiter: str | None, options: ReadOptions, known: Reading | None
) -> Marks:
    """Returns the marks of a file's numbers.

    Args:
        columns: by name; those that hold no text have no marks, those that hold no numbers say nothing.
        delimiter: of the file.
        options: may name marks.
        known: how a model's own file was read; it decides where the columns leave a choice.

    Raises:
        UserError: when the columns read as other numbers by other marks, and nothing decides.
    """
    if options.thousands and options.decimal:
        return Marks(options.decimal, options.thousands)
    possible = [marks for marks in _CANDIDATES if _allowed(marks, options)]
    doubtful: list[tuple[str, pa.ChunkedArray]] = []
    for name, column in columns.items():
        settled = len({marks.decimal for marks in possible}) < 2
        if not is_text(column.type) or (settled and possible[0] == Marks() and _is_plain(column)):
            continue
        likely = [marks for marks in possible if _share(column.slice(0, 1000), marks) > 0.5]
        fitting = [marks for marks in likely if _fits(column, marks)] or likely
        possible = fitting or possible  # a column of times or of words says nothing
        if len({marks.decimal for marks in fitting}) > 1 and _first_marked(column) >= 0:
            doubtful.append((name, column))
    if not possible:
        return Marks(options.decimal or ".", options.thousands or "")
    if len({marks.decimal for marks in possible}) < 2 or not doubtful:
        return possible[0]
    if known is not None and (known.decimal, known.thousands) in possible:
        return Marks(known.decimal, known.thousands)
    name, column = doubtful[0]
    if (
        possible[0] == Marks()
        and delimiter != ";"
        and all(pc.all(pc.match_substring(column, ".")).as_py() for _, column in doubtful)
    ):
        return Marks()  # 12.345 in every row: three decimals, as nobody groups in a file with such a delimiter
    row = _first_marked(column)
    cell = column[row].as_py()
    other = next(marks for marks in possible if marks.decimal != possible[0].decimal)
    first, second = (_cleaned(pa.scalar(cell), marks).as_py() for marks in (possible[0], other))
    raise UserError(
        f"column {name!r}, row {row + 1}: {cell!r} may be {first} or {second}; "
        "set data.decimal to . or , (or data.thousands)"
    )


def _is_plain(column: pa.ChunkedArray) -> bool:
    try:
        column.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _first_marked(column: pa.ChunkedArray) -> int:
    """Returns the first row in which any mark stands, -1 for none."""
    return int(pc.index(pc.match_substring_regex(column, r"[.,']|\d\s\d"), True).as_py())


def _allowed(marks: Marks, options: ReadOptions) -> bool:
    return options.decimal in (None, marks.decimal) and options.thousands in (None, marks.thousands)


def _pattern(marks: Marks, *, strict: bool = True) -> str:
    """Returns what a number looks like; a strict one has its groups wherever it is long enough for them."""
    decimal, digits = re.escape(marks.decimal), r"\d+"
    if marks.thousands:
        grouped = rf"[1-9]\d{{0,2}}(?:{_group(marks)}\d{{3}})*|0"
        digits = rf"(?:{grouped})" if strict else rf"(?:{grouped}|\d+)"
    return rf"^\s*[+-]?(?:{digits}(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?\s*$"


def _group(marks: Marks) -> str:
    return "[ \u00a0\u202f]" if marks.thousands == " " else re.escape(marks.thousands)  # blanks that do not break, too


def _share(column: pa.ChunkedArray, marks: Marks) -> float:
    return float(pc.mean(pc.cast(pc.match_substring_regex(column, _pattern(marks)), pa.int8())).as_py() or 0.0)


def _fits(column: pa.ChunkedArray, marks: Marks) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, _pattern(marks))).as_py())


def _cleaned(texts: Any, marks: Marks) -> Any:
    """Returns texts (or one) with a point before the decimals and nothing between groups."""
    if marks.thousands:
        texts = pc.replace_substring_regex(texts, _group(marks), "")
    return pc.replace_substring(texts, marks.decimal, ".")


def numbers_of(name: str, column: pa.ChunkedArray, marks: Marks) -> tuple[NDArray[np.float64], str | None]:
    """Returns a column's values, NaN where there is none, and what is wrong with it."""
    if is_text(column.type):
        values, problem = _from_text(name, column, marks)
    elif is_number(column.type):
        values, problem = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64), None
    else:
        return np.full(len(column), np.nan), f"column {name!r}: expected numbers, found {column.type}"
    return values, problem or _beyond(name, values)


def _beyond(name: str, values: NDArray[np.float64]) -> str | None:
    """Returns what a model could not compute with."""
    largest = max(np.fmax.reduce(values, initial=0.0), -np.fmin.reduce(values, initial=0.0))
    if largest <= LARGEST and (largest == 0 or largest >= SMALLEST):
        return None
    row = int(np.nanargmax(np.abs(values)))
    if np.isinf(largest):
        return at(name, row, "expected a finite number, found inf")
    limit = f"the largest is {LARGEST:.1e}" if largest > LARGEST else f"no value of the column reaches {SMALLEST:.1e}"
    return at(name, row, f"{values[row]:g} is beyond 32-bit numbers ({limit}); give the column in another unit")


def _from_text(name: str, column: pa.ChunkedArray, marks: Marks) -> tuple[NDArray[np.float64], str | None]:
    plain = column
    if marks != Marks():
        fits = pc.match_substring_regex(column, _pattern(marks, strict=False))
        plain = pc.if_else(fits, _cleaned(column, marks), "?")  # 1.02 where a point groups is no number
    try:
        return np.asarray(plain.cast(pa.float64()).to_numpy(), dtype=np.float64), None
    except pa.ArrowInvalid:  # blanks around a number, true and false, or something that is none
        texts = plain.to_pandas().str.strip().replace({"true": "1", "false": "0", "True": "1", "False": "0"})
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unreadable = np.flatnonzero(np.isnan(values) & texts.notna().to_numpy())
    if unreadable.size == 0:
        return values, None
    row = int(unreadable[0])
    found = column[row].as_py()
    if any(re.match(_pattern(other), found) for other in _CANDIDATES):
        advice = "; set data.decimal or data.thousands, if that is one"
    elif re.match(r"\d{1,2}:\d\d", found):
        advice = f"; if it belongs to the time, set data.time_column=[DATE, {name}]"
    elif unreadable.size > len(column) / 2:
        advice = f"; leave the column out with data.drop=[{name}]"
        if pc.count_distinct(column).as_py() <= len(column) / 2:
            advice += f", or set data.series_column={name} if it says whose row it is"
    else:
        advice = ""
    return values, at(name, row, f"expected a number, found {excerpt(found)}{advice}")


# Said of a column


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers (or nothing)."""
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(check(kind) for check in checks)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def at(name: str, row: int, problem: str) -> str:
    """Returns a problem with the place of the cell that has it; rows count from 0."""
    return f"column {excerpt(name)}, row {row + 1}: {problem}"


def excerpt(value: object) -> str:
    """Returns what was found in a cell, in few characters."""
    return "nothing" if value is None else repr(value)[:60]

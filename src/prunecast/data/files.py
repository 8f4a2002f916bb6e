"""Files into tables: the columns of a CSV, Parquet or Feather file as they stand in it.

The content decides what a file is. Nothing is read as a time or a number yet: a CSV file's columns are texts.
Row 1 in a message is the first after the header.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from prunecast.data.large import EMPTY_CELLS, HEAD_BYTES, HEAD_ROWS, plain_types, read_blocks
from prunecast.data.times import TimesByBlock, plain_texts
from prunecast.errors import UserError
from prunecast.recipe import ReadOptions
from prunecast.records import Reading

MAX_CELLS = 500_000_000
"""A file that unfolds into more values is refused, and one that is small and holds many of them: see `_check_cells`."""

MAX_COLUMNS = 20_000
MAX_BYTES = 2 << 30
"""The most that a packed file may unfold into."""

LARGE_BYTES = 32 << 20
"""From this size on, a CSV file is read block by block where it can be."""

TIME_NAMES = frozenset({"date", "datetime", "date_time", "time", "timestamp", "time_stamp", "utc_timestamp", "ds"})
"""Column names that mean time, whatever their case."""

MAX_TEXT = 1000
"""Characters of the longest text in a Parquet or Feather file: a few bytes can stand for a million of them."""

_DELIMITERS = (",", ";", "\t", "|")
_EXPECTED = "expected a CSV, Parquet or Feather file"


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a file or a data frame as they stand in it, nothing yet read as a time or a number.

    Attributes:
        name: of the file, without its folder.
        sha256: of its content.
        columns: a pyarrow table; names without blanks around them.
        delimiter: between the columns of a CSV file; None for other files.
        times: of a large file, read with it; how they are settled says the column of times where it is None.
    """

    name: str
    sha256: str
    columns: pa.Table
    delimiter: str | None = None
    times: TimesByBlock | None = None


def read_table(path: Path, options: ReadOptions | None = None, known: Reading | None = None) -> Table:
    """Reads a CSV, Parquet or Feather file, also one packed by gzip; the content decides which it is.

    A large CSV file of plain numbers is read block by block, its times and numbers as such.

    Args:
        path: of the file.
        options: how it will be read; the delimiter of a CSV file is found by itself where they name none.
        known: how a model's own file was read.

    Raises:
        UserError: when it cannot be read or is none of these.
    """
    options = options or ReadOptions()
    if exists(path) and path.is_file() and path.stat().st_size >= LARGE_BYTES:
        table = _read_large(path, options, known)
        if table is not None:
            return table
    content = read_content(path)
    return parsed(content, path.name, hashlib.sha256(content).hexdigest(), options.delimiter)


def table_of(frame: pd.DataFrame | pd.Series[Any], name: str = "data frame") -> Table:
    """Returns the columns of a data frame, or a series, as its Parquet file would hold them; nothing is written.

    An index of times, of periods (which count from their begin, in a column too) or of texts is a column, called `date`
    where it has no name; the levels of an index of several are columns each. An index that only counts is none. Names
    of several levels are joined by points: ("load", "north") is load.north.

    Raises:
        UserError: when it has no rows, or columns that no Parquet file can hold.
    """
    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if isinstance(frame.columns, pd.MultiIndex):
        frame = frame.set_axis([".".join(filter(None, map(str, names))) for names in frame.columns], axis=1)
    if isinstance(frame.index, pd.PeriodIndex):
        frame = frame.set_axis(frame.index.to_timestamp())
    if isinstance(frame.index, pd.MultiIndex):
        frame = frame.reset_index(allow_duplicates=True)
    elif not pd.api.types.is_numeric_dtype(frame.index):
        frame = frame.reset_index(names=str(frame.index.name or "date"), allow_duplicates=True)
    frame = frame.copy(deep=False)
    for position, kind in enumerate(frame.dtypes):
        if isinstance(kind, pd.PeriodDtype):
            frame.isetitem(position, frame.iloc[:, position].dt.to_timestamp())
    file = io.BytesIO()
    try:
        frame.rename(columns=str).to_parquet(file, index=False)
    except (pa.ArrowException, ValueError) as error:  # mixed values; two columns of one name
        raise UserError(f"{name}: expected columns of times and numbers: {_first_line(error)}") from None
    content = file.getvalue()
    return parsed(content, name, hashlib.sha256(content).hexdigest())


def exists(path: Path) -> bool:
    """Whether something lies at a path; nothing does where its name is too long to be one."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises then


def read_content(path: Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        UserError: when there is no such file, it is a directory or device, empty, or cannot be read.
    """
    if not exists(path):
        raise UserError(f"{str(path)[:300]}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a directory, {_EXPECTED}")
    if stat.S_ISCHR(path.stat().st_mode) or path.is_block_device():
        raise UserError(f"{path}: is a device, {_EXPECTED}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{path}: is empty, {_EXPECTED}")
    return content


def parsed(content: bytes, name: str, sha256: str, delimiter: str | None = None) -> Table:
    """Returns the columns that a file's bytes hold.

    Raises:
        UserError: naming the file, when the bytes are of no kind that is read, or hold no rows.
    """
    if content.startswith(b"\x1f\x8b"):
        content = _unpacked(content, name)
    found = None
    if content.startswith(b"PAR1"):
        columns = _parse_parquet(content, name)
    elif content.startswith(b"ARROW1"):
        columns = _parse_feather(content, name)
    else:
        columns, found = _parse_csv(_text(content, name), name, delimiter)
    if columns.num_rows == 0:
        raise UserError(f"{name}: has no rows")
    if columns.num_columns > MAX_COLUMNS:
        raise UserError(f"{name}: has {columns.num_columns} columns, expected at most {MAX_COLUMNS}")
    return Table(name, sha256, columns.rename_columns([column.strip() for column in columns.column_names]), found)


def _unpacked(content: bytes, name: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name}: not a whole gzip file: {error}") from None
    if len(unpacked) > MAX_BYTES:
        raise UserError(f"{name}: unfolds into more than {MAX_BYTES} bytes")
    return unpacked


# Parquet and Feather


def _parse_parquet(content: bytes, name: str) -> pa.Table:
    def read() -> pa.Table:
        schema = pq.read_schema(pa.BufferReader(content))
        # texts stay as short as they are packed until their length is known
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        _check_cells(file.metadata.num_rows * file.metadata.num_columns, content, name)
        return file.read()

    return _typed(read, name, "Parquet")


def _parse_feather(content: bytes, name: str) -> pa.Table:
    def read() -> pa.Table:
        file = pa.ipc.open_file(pa.BufferReader(content))
        batches = []
        for position in range(file.num_record_batches):
            batches.append(file.get_batch(position))
            _check_cells(sum(batch.num_rows for batch in batches) * len(file.schema), content, name)
        return pa.Table.from_batches(batches, file.schema)

    return _typed(read, name, "Feather")


def _check_cells(cells: int, content: bytes, name: str) -> None:
    most = min(MAX_CELLS, max(MAX_CELLS // 10, 64 * len(content)))
    if cells > most:
        raise UserError(f"{name}: has more than {most} values")


def _typed(read: Callable[[], pa.Table], name: str, kind: str) -> pa.Table:
    """Returns what is read, with categories as the values that they stand for."""
    try:
        table = read()
        for position, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                column = table.column(position)
                longest = max((_longest(chunk.dictionary) for chunk in column.chunks), default=0)
                if longest > MAX_TEXT:
                    raise UserError(
                        f"{name}: column {field.name!r} holds a text of {longest} characters, "
                        f"expected at most {MAX_TEXT}"
                    )
                table = table.set_column(position, field.name, column.cast(field.type.value_type))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: not a whole {kind} file: {_first_line(error)}") from None
    return table


def _longest(texts: pa.Array) -> int:
    return int(pc.max(pc.binary_length(texts)).as_py() or 0) if pa.types.is_string(texts.type) else 0


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


# CSV


def _text(content: bytes, name: str) -> str:
    """Returns the text that bytes hold, in UTF-8 or, with its mark in front, UTF-16.

    Raises:
        UserError: saying what the bytes are instead, as far as they show it.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "UTF-16"
    elif content.startswith(b"PK\x03\x04"):
        workbook = b"xl/" in content or b"[Content_Types].xml" in content
        raise UserError(
            f"{name}: is an Excel workbook; save the sheet as CSV"
            if workbook
            else f"{name}: is a zip archive; unpack it, {_EXPECTED}"
        )
    elif content.startswith(b"\xd0\xcf\x11\xe0"):
        raise UserError(f"{name}: is an old Excel workbook; save the sheet as CSV")
    elif b"\0" in content[:65536]:
        raise UserError(f"{name}: neither CSV nor Parquet: it holds binary data")
    else:
        encoding = "UTF-8"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = f"found byte 0x{content[error.start]:02x} at position {error.start}"
        raise UserError(f"{name}: neither CSV in {encoding} nor Parquet: {found}; save it as UTF-8") from None


def _parse_csv(text: str, name: str, delimiter: str | None) -> tuple[pa.Table, str]:
    """Returns the columns of a CSV text, each cell a text or nothing, and the delimiter between them."""
    text = text.lstrip("\r\n")
    if text[:4].lower() == "sep=":  # what Excel writes for itself
        text = text.partition("\n")[2]
    if text.lstrip()[:1] in ("<", "{", "["):
        kind = "a page of HTML or XML" if text.lstrip().startswith("<") else "JSON"
        raise UserError(f"{name}: is {kind}, {_EXPECTED}")
    if "\n" not in text:  # old spreadsheets end lines so
        text = text.replace("\r", "\n")
    if "\n" not in text.strip():
        raise UserError(f"{name}: has no rows")
    asked, delimiter = delimiter, delimiter or _delimiter(text)
    names = next(iter(_cells(text, delimiter, 1)), [])
    if len(names) == 1 and asked and len(next(iter(_cells(text, found := _delimiter(text), 1)), [])) > 1:
        raise UserError(
            f"{name}: data.delimiter: expected several columns, found one with {asked!r}; set it to {found!r}, which "
            "stands between the columns, or leave it out"
        )
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{name}: has {len(names)} columns, expected at most {MAX_COLUMNS}")
    try:
        columns = pa.csv.read_csv(
            pa.BufferReader(text.encode()),
            read_options=pa.csv.ReadOptions(block_size=1 << 22),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True
            ),
        )
    except pa.ArrowException as error:
        uneven = _uneven(text, delimiter, len(names))
        raise UserError(f"{name}: {uneven or f'not a well-formed CSV file: {_first_line(error)}'}") from None
    return columns, delimiter


def _uneven(text: str, delimiter: str, expected: int) -> str | None:
    """Returns which row has other than the expected number of cells; None where none has."""
    try:
        rows = filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        row, found = next((row, len(cells)) for row, cells in enumerate(rows) if len(cells) != expected)
    except (csv.Error, StopIteration):
        return None
    return f"row {row} has {found} cells, expected {expected} as in the header; the delimiter is {delimiter!r}"


def _read_large(path: Path, options: ReadOptions, known: Reading | None) -> Table | None:
    """Returns a CSV file that is read block by block; None where its head, or an option, leaves any doubt about it.

    One column is that of the times, and those that are dropped may be texts; all others must hold plain numbers, each
    of which reads as one number alone, so that what is found out about the marks is what their texts would say.
    """
    if options.series_column is not None or options.decimal == "," or options.thousands is not None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(HEAD_BYTES).rpartition(b"\n")[0].decode()
    except (OSError, UnicodeDecodeError):
        return None
    if text.startswith(("\ufeff", "\r", "\n", "PAR1", "ARROW1", "PK")) or text[:4].lower() == "sep=" or "\0" in text:
        return None
    delimiter = options.delimiter or _delimiter(text)
    rows = _cells(text, delimiter, HEAD_ROWS + 1)
    types = plain_types(rows) if len(rows) > 20 else None  # as many as the delimiter is found from
    names = [name.strip() for name in rows[0]] if rows else []
    if types is None or len(set(names) - {""}) < len(names) or not 1 < len(names) <= MAX_COLUMNS:
        return None
    kept = [name for name, kind in zip(names, types, strict=True) if kind is None and name not in options.drop]
    named = (name for name in names if name.casefold() in TIME_NAMES)
    time = options.time_column or next(chain(named, kept), None)
    if time not in names or set(kept) - {time} or len(delimiter.encode()) > 1:
        return None
    column = names.index(time)
    types[column] = None
    kinds = {name: kind or pa.string() for name, kind in zip(rows[0], types, strict=True)}
    length = sum(map(len, chain.from_iterable(rows))) / len(rows) + len(names)
    expected = int(1.1 * path.stat().st_size / length)
    cells = pa.array([None if row[column] in EMPTY_CELLS else row[column] for row in rows[1:]], pa.string())
    try:
        times = TimesByBlock(time, plain_texts(cells), options, known, expected)
    except UserError:  # said in the usual way
        return None
    read = read_blocks(path, delimiter, kinds, rows[0][column], times, rows=expected)
    if read is None or read[0].num_rows == 0:
        return None
    return Table(path.name, read[1], read[0].rename_columns(names), delimiter, times)


def _delimiter(text: str) -> str:
    """Returns the delimiter that cuts the header and the first rows into equally many cells, and most of them."""

    def fit(delimiter: str) -> tuple[int, int]:
        header, *rows = [len(cells) for cells in _cells(text, delimiter, 20)] or [0]
        return (rows.count(header), header) if header > 1 else (0, 0)

    return max(_DELIMITERS, key=fit)


def _cells(text: str, delimiter: str, lines: int) -> list[list[str]]:
    """Returns the cells of the first lines that are not blank; delimiters and line ends within quotes are none."""
    reader = csv.reader(io.StringIO(text[: 1 << 22], newline=""), delimiter=delimiter)
    try:
        return list(islice(filter(None, reader), lines))
    except csv.Error:  # a cell without an end; what is wrong is said when the file is read
        return []

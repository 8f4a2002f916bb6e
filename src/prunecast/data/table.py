"""Files into tables: the bytes of a CSV or Parquet file, hashed and parsed once, nothing yet converted."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from prunecast.errors import UserError

MAX_CELLS = 500_000_000
"""A file that unfolds into more numbers is refused: a small Parquet file can hold billions of equal values."""

_PARQUET_MAGIC = b"PAR1"
_DELIMITERS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(rb"(?:^|[;\t])\s*[+-]?\d+,\d+\s*(?=[;\t\r\n]|$)", re.MULTILINE)


@dataclass(frozen=True)
class Table:
    """A file's columns as they stand in it.

    Attributes:
        name: of the file, without its folder.
        sha256: of its content.
        columns: a pyarrow table.
    """

    name: str
    sha256: str
    columns: pa.Table


def read_content(path: Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        UserError: when there is no such file, it is a directory, empty, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory, expected a CSV or Parquet file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{path}: is empty, expected a CSV or Parquet file")
    return content


def read_table(path: Path) -> Table:
    """Reads a CSV or Parquet file; the content decides which it is.

    Raises:
        UserError: when it cannot be read or is neither.
    """
    content = read_content(path)
    return Table(path.name, hashlib.sha256(content).hexdigest(), parse_table(content, path.name))


def parse_table(content: bytes, name: str) -> pa.Table:
    """Returns the columns that a file's bytes hold.

    Raises:
        UserError: naming the file, when the bytes are neither CSV nor Parquet, or hold no rows.
    """
    columns = _parse_parquet(content, name) if content.startswith(_PARQUET_MAGIC) else _parse_csv(content, name)
    if columns.num_rows == 0:
        raise UserError(f"{name}: has no rows")
    return columns


def _parse_parquet(content: bytes, name: str) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if file.metadata.num_rows * file.metadata.num_columns > MAX_CELLS:
            raise UserError(f"{name}: has more than {MAX_CELLS} values")
        return file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: not a whole Parquet file: {_first_line(error)}") from None


def _parse_csv(content: bytes, name: str) -> pa.Table:
    header, newline, _ = _text(content, name).strip().partition("\n")
    if not newline:
        raise UserError(f"{name}: has no rows")
    delimiter = max(_DELIMITERS, key=header.count)
    decimal = "," if delimiter != "," and _DECIMAL_COMMA.search(content) else "."
    try:
        return pa.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(decimal_point=decimal, strings_can_be_null=True),
        )
    except pa.ArrowException as error:
        raise UserError(f"{name}: not a well-formed CSV file: {_first_line(error)}") from None


def _text(content: bytes, name: str) -> str:
    if b"\0" in content[:65536]:
        raise UserError(f"{name}: neither CSV nor Parquet: it holds binary data")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"found byte 0x{content[error.start]:02x} at position {error.start}"
        raise UserError(f"{name}: neither CSV in UTF-8 nor Parquet: {found}; save it as UTF-8") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]

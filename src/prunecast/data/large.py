"""Large CSV files into columns, block by block: their text is never held as a whole.

Only what leaves no choice is read so: plain decimals, times, and texts beside them that are kept. All else is left to
the usual way, which holds the whole text and says what is wrong with it, and where.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from prunecast.data.times import TimesByBlock

BLOCK_BYTES = 1 << 20
HEAD_BYTES, HEAD_ROWS = 1 << 20, 1000
EMPTY_CELLS = frozenset(pa.csv.ConvertOptions().null_values)
"""What stands in an empty cell."""

_WHOLE = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"-?\d+\.\d+(?:[eE][+-]?\d+)?")
_NO_GROUPS = re.compile(r"-?(?:0\.\d+|\d+\.(?:\d{1,2}|\d{4,}))(?:[eE][+-]?\d+)?")
"""A point that groups no digits: it stands before decimals, whatever the rest of the column looks like."""


def plain_types(rows: Sequence[Sequence[str]]) -> list[pa.DataType | None] | None:
    """Returns the type of each column of a file's head, None for one whose cells are no plain numbers.

    Args:
        rows: the header and the first rows, each of as many cells; None is returned for others.
    """
    header, *cells = rows
    if not cells or any(len(row) != len(header) for row in cells):
        return None
    return [_plain_type(column) for column in zip(*cells, strict=True)]


def _plain_type(cells: Sequence[str]) -> pa.DataType | None:
    known = [cell for cell in cells if cell not in EMPTY_CELLS]
    if known and all(_WHOLE.fullmatch(cell) for cell in known):
        return pa.int64()
    plain = all(_DECIMAL.fullmatch(cell) or _WHOLE.fullmatch(cell) for cell in known)
    return pa.float64() if plain and any(_NO_GROUPS.fullmatch(cell) for cell in known) else None


def read_blocks(
    path: Path, delimiter: str, types: Mapping[str, pa.DataType], time: str, times: TimesByBlock, *, rows: int
) -> tuple[pa.Table, str] | None:
    """Returns the columns of a CSV file and the SHA-256 of its content; None where the usual way has to look at it.

    Args:
        path: of a file in UTF-8.
        delimiter: between its columns.
        types: of all its columns, by name.
        time: which column holds the times, as texts.
        times: reads them; what they are in the table is not settled yet.
        rows: that it is likely to have.
    """
    try:
        with _Watched(path, delimiter) as file:
            reader = pa.csv.open_csv(
                file,
                read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
                parse_options=pa.csv.ParseOptions(delimiter=delimiter),
                convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True),
            )
            columns = _Columns(types, time, times, rows)
            for batch in reader:
                if file.doubtful or not columns.add(batch):
                    return None
            return None if file.doubtful else (columns.whole(), file.sha256.hexdigest())
    except (pa.ArrowException, OSError):
        return None


class _Columns:
    """The columns so far. Numbers lie in one piece of memory, which is given back when they go; many small ones stay.

    Args:
        types: by name.
        time: which column holds the times.
        times: what they read as.
        rows: that are likely to come; memory that is not written to costs nothing.
    """

    def __init__(self, types: Mapping[str, pa.DataType], time: str, times: TimesByBlock, rows: int) -> None:
        texts = [name for name, kind in types.items() if kind == pa.string() and name != time]
        self._texts: dict[str, list[pa.Array]] = {name: [] for name in texts}
        self._numbers = [name for name in types if name not in (time, *texts)]
        self._time, self._times = time, times
        self._names, self._rows = tuple(types), 0
        self._values_NT = np.empty((len(self._numbers), rows))

    def add(self, batch: pa.RecordBatch) -> bool:
        """Puts rows below, and returns whether all their numbers are finite, and their times of one kind."""
        if not self._times.add(batch.column(self._time)):
            return False
        start, self._rows = self._rows, self._rows + batch.num_rows
        if self._rows > self._values_NT.shape[1]:
            wider_NT = np.empty((len(self._numbers), self._rows * 5 // 4))
            wider_NT[:, :start] = self._values_NT[:, :start]
            self._values_NT = wider_NT
        for name, chunks in self._texts.items():
            chunks.append(batch.column(name))
        for values_T, name in zip(self._values_NT, self._numbers, strict=True):
            numbers = batch.column(name).cast(pa.float64(), safe=False)
            if pc.all(pc.is_finite(numbers)).as_py() is False:
                return False
            values_T[start : self._rows] = numbers.to_numpy(zero_copy_only=False)
        return True

    def whole(self) -> pa.Table:
        """Returns all rows; NaN and NaT stand for nothing, and numbers are not copied."""
        columns = {name: pa.chunked_array(chunks, pa.string()) for name, chunks in self._texts.items()}
        for name, values_T in zip(self._numbers, self._values_NT[:, : self._rows], strict=True):
            columns[name] = pa.array(values_T, from_pandas=True)
        columns[self._time] = pa.array(self._times.unsettled(), from_pandas=True)
        return pa.table({name: columns[name] for name in self._names})


class _Watched(io.RawIOBase):
    """A file that is read once: it is hashed, a bar shows on a terminal how far it is, and doubtful cells are seen.

    Quotes, and blanks around a number, are doubtful: a number with them is no plain one.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        self.sha256, self.doubtful = hashlib.sha256(), False
        self._last, mark = b"", delimiter.encode()
        self._doubts = [b'"', mark + b" ", b" " + mark, b"\n ", b" \n", b" \r"]
        self._doubts += [b"\t"] if delimiter != "\t" else []
        self._file = path.open("rb")
        console = Console(stderr=True)
        name, bar = TextColumn("{task.description}", markup=False), BarColumn(bar_width=20)
        # off a terminal rich ends even a transient bar with an empty line
        hidden = not console.is_terminal
        self._bar = Progress(
            *(name, bar, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
            console=console,
            disable=hidden,
            transient=True,
        )
        self._task = self._bar.add_task(path.name, total=path.stat().st_size)

    def __enter__(self) -> _Watched:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._file.close()
        self.close()

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes."""
        block = self._file.read(size)
        self.sha256.update(block)
        seen = self._last + (block or b"\n")  # the last line may have no end
        self.doubtful = self.doubtful or any(doubt in seen for doubt in self._doubts)
        self._last = seen[-1:]
        self._bar.advance(self._task, len(block))
        return block

"""Columns into times: the form that a file has is settled by the file, by the model's own file, or asked for.

T rows. What a form is, `time_forms` says.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prunecast.data.calendar import Times, distinct_times, grid_of, local_times, wall_times
from prunecast.data.numbers import at, excerpt, is_number, is_text
from prunecast.data.time_forms import (
    EPOCH_UNITS,
    NO_TIME,
    Unit,
    as_numbers,
    cells_of,
    ends_of_days,
    form_of_numbers,
    forms_of,
    matches,
    read_as,
)
from prunecast.errors import UserError
from prunecast.recipe import ReadOptions
from prunecast.records import Reading

BLOCK_ROWS = 1 << 18
"""Texts of more rows are read block by block."""

_HELD_S = 2**63 // 10**9
"""Nanoseconds hold so many seconds before and after 1970."""

SAMPLE_ROWS = 1000
"""Forms are guessed from at most so many rows."""

_BEHIND = 1000
"""A form that leaves so many more rows unread than another is given up."""


_OFFSET = r":\d\d(?:[.,]\d+)?\s*(?P<offset>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$"

_ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Athens", "Europe/Chisinau", "America/New_York", "America/Chicago",
    "America/Denver", "America/Los_Angeles", "America/Anchorage", "America/Halifax", "America/St_Johns",
    "America/Santiago", "Asia/Jerusalem", "Asia/Beirut", "Africa/Cairo", "Australia/Sydney", "Australia/Adelaide",
    "Pacific/Auckland",
)  # fmt: skip
"""Zones whose clocks change today, one for each rule: looked for first where offsets in a file change."""


@dataclass(frozen=True, eq=False)
class ReadTimes:
    """The times of a column.

    Attributes:
        times_T: nanoseconds; in UTC where they have a zone; NaT where unreadable.
        form: how they were read; None where the file itself holds times.
        zone: of the clock that they tell; None for times without one.
        problem: what is wrong about them, in one line.
        notes: what was taken otherwise than it stands, one line each.
        cell: the first text; None where the file itself holds times.
    """

    times_T: Times
    form: str | None = None
    zone: str | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    cell: str | None = None


def read_times(name: str, column: pa.ChunkedArray, options: ReadOptions, known: Reading | None = None) -> ReadTimes:
    """Returns the times of a column.

    Args:
        name: of the column.
        column: of texts, numbers or times.
        options: may say the form and the zone.
        known: how a model's own file was read: taken where it fits, before anything is guessed.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times, zone = _from_arrow(column), getattr(column.type, "tz", None)
        unread = np.flatnonzero(np.isnat(times))[:1].tolist()  # as texts: Python's own times end with the year 9999
        problem = next((_unreadable(name, row, column[row].cast(pa.string()).as_py()) for row in unread), None)
        return _zoned(name, ReadTimes(times, None, zone, problem), options)
    if is_number(column.type):  # whole ones have no point
        whole = pc.all(pc.equal(column, pc.round(column))).as_py() if pa.types.is_floating(column.type) else False
        column = column.cast(pa.int64(), safe=False) if whole else column
        column = column.cast(pa.string())
    if not is_text(column.type):
        problem = f"column {name!r}: expected dates or times, found {column.type}"
        return ReadTimes(np.full(len(column), NO_TIME), problem=problem)
    rows = np.unique(np.linspace(0, len(column) - 1, SAMPLE_ROWS).astype(np.int64))
    sample = plain_texts(column.take(rows))
    # what numbers are is told by all of them together
    size = BLOCK_ROWS if as_numbers(sample) is None else len(column)
    try:
        sample = sample if size == BLOCK_ROWS else plain_texts(column)
        read = TimesByBlock(name, sample, options, known, len(column))
        for start in range(0, len(column), size):
            read.add(column.slice(start, size))
    except UserError as error:
        return ReadTimes(np.full(len(column), NO_TIME), problem=str(error))
    return read.whole()


def looks_like_times(column: pa.ChunkedArray) -> bool:
    """Whether a column whose name says nothing holds times: texts that read so, or times."""
    if not is_text(column.type):
        return bool(pa.types.is_timestamp(column.type) or pa.types.is_date(column.type))
    some = column.drop_null()[:100]
    texts = some.to_pandas()
    if len(texts) == 0 or as_numbers(texts) is not None:
        return False
    return any(not np.isnat(read_as(texts, form)).any() for form in forms_of(texts))


def plain_texts(column: pa.Array | pa.ChunkedArray) -> pd.Series[str]:
    """Returns texts without blanks around them, and with an offset for UTC and GMT."""
    trimmed = pc.utf8_trim_whitespace(column)
    texts: pd.Series[str] = pc.replace_substring_regex(trimmed, r"\s*(UTC|GMT)$", "+00:00").to_pandas()
    return texts


def _unreadable(name: str, row: int, found: str | None, asked: str | None = None) -> str:
    expected = f"a date or time of the form {asked}" if asked else "a date or time"
    advice = "" if asked or found is None else "; data.date_format says of what form they are, as %d/%m/%Y %H:%M"
    return at(name, row, f"expected {expected}, found {excerpt(found)}{advice}")


def _from_arrow(column: pa.ChunkedArray) -> Times:
    zone = getattr(column.type, "tz", None)
    seconds = column.cast(pa.timestamp("s", tz=zone), safe=False).cast(pa.int64())
    held = pc.and_(pc.less(seconds, _HELD_S), pc.greater(seconds, -_HELD_S))
    nanoseconds = pc.if_else(held, column, None).cast(pa.timestamp("ns", tz=zone)).cast(pa.int64())
    # NaT is the smallest whole number there is
    filled = nanoseconds.fill_null(np.iinfo(np.int64).min)
    return np.asarray(filled.to_numpy()).view("datetime64[ns]")


# The form of texts


@dataclass(eq=False)
class _Reading:
    """What texts are by one form, so far: times, how many rows have none, and the first of those with its text."""

    times_T: Times
    unread: int = 0
    first: tuple[int, str | None] = (0, None)


@dataclass(eq=False)
class _Seen:
    """How many rows have a mark, and the first of them."""

    count: int = 0
    first: int = 0

    def add(self, flags: NDArray[np.bool_], start: int) -> None:
        """Counts the rows of a block that begins at row `start`."""
        if not self.count and flags.any():
            self.first = start + int(flags.argmax())
        self.count += int(flags.sum())

    def __str__(self) -> str:
        return f"{self.count} rows, the first row {self.first + 1}" if self.count > 1 else f"row {self.first + 1}"


class TimesByBlock:
    """Times of texts that come block by block. The forms that they may have are tried side by side, all on all rows.

    Args:
        name: of the column.
        sample: some of the texts, as `plain_texts` makes them; all of them where they are numbers.
        options: may say the form and the zone.
        known: how a model's own file was read.
        rows: that are likely to come; memory that is not written to costs nothing.

    Raises:
        UserError: when the form that is asked for is none.
    """

    def __init__(
        self, name: str, sample: pd.Series[str], options: ReadOptions, known: Reading | None = None, rows: int = 0
    ) -> None:
        self._name, self._options, self._known, self._rows = name, options, known, 0
        self._trained = None if known is None or options.date_format else known.form
        numbers = as_numbers(sample)
        self._numbers = None if numbers is None else form_of_numbers(sample, numbers)
        if options.date_format is not None:
            read_as(sample.head(1), options.date_format)
            forms: tuple[str, ...] = (options.date_format, "iso")  # iso is the same to all
        elif self._numbers is None and not np.isnat(read_as(sample.dropna(), "iso")).any():
            forms = ("iso",)  # leaves no choice
        else:
            forms = tuple(forms_of(sample))
        tried = dict.fromkeys((*([self._trained] if self._trained else []), *forms))
        self._readings = {form: _Reading(np.empty(rows, dtype="datetime64[ns]")) for form in tried}
        self._differ: dict[tuple[str, str], tuple[int, str]] = {}
        self._offsets = _Offsets(name)
        self._ends: list[str | None] = []
        self._years = True
        self._late, self._bare, self._clocks, self._empty = _Seen(), _Seen(), _Seen(), _Seen()

    def add(self, column: pa.Array | pa.ChunkedArray) -> bool:
        """Reads the next texts, and returns whether those that are numbers are so in one way, as far as was seen."""
        start, texts = self._rows, plain_texts(column)
        if self._numbers is not None and self._options.date_format is None and texts.notna().any():
            numbers = as_numbers(texts)
            if numbers is None or form_of_numbers(texts, numbers) != self._numbers:
                return False
        self._rows += len(texts)
        self._see(column, texts, start)
        for form, reading in self._readings.items():
            times = read_as(texts, form)
            if self._rows > len(reading.times_T):
                more = np.empty(max(self._rows * 5 // 4 if start else 0, self._rows), dtype="datetime64[ns]")
                more[:start] = reading.times_T[:start]
                reading.times_T = more
            reading.times_T[start : self._rows] = times
            unread = np.isnat(times)
            if unread.any() and not reading.unread:
                row = int(unread.argmax())
                reading.first = (start + row, column[row].as_py())
            reading.unread += int(unread.sum())
        most = min(reading.unread for reading in self._readings.values()) + _BEHIND
        kept = {form: found for form, found in self._readings.items() if found.unread <= most}
        self._readings = kept if self._options.date_format is None else self._readings
        self._compare(texts, start)
        return True

    def _see(self, column: pa.Array | pa.ChunkedArray, texts: pd.Series[str], start: int) -> None:
        """Notes what the end has to know of the texts themselves."""
        self._ends = [*(self._ends[:1] or [column[0].as_py()]), column[-1].as_py()]
        self._years = self._years and _are_two_years(texts)
        clocks = matches(texts, ":")
        empty = texts.isna().to_numpy()
        for seen, flags in (
            (self._empty, empty), (self._clocks, clocks), (self._bare, ~clocks & ~empty),
            (self._late, ends_of_days(texts)),
        ):  # fmt: skip
            seen.add(flags, start)
        self._offsets.add(texts, start)

    def _compare(self, texts: pd.Series[str], start: int) -> None:
        """Notes the first text that reads differently by two forms."""
        for pair in combinations(self._readings, 2):
            one, other = (self._readings[form].times_T[start : self._rows] for form in pair)
            differ = (one != other) & ~(np.isnat(one) & np.isnat(other))
            if pair not in self._differ and differ.any():
                row = int(differ.argmax())
                self._differ[pair] = (start + row, texts.iloc[row])

    def unsettled(self) -> Times:
        """Returns what the texts are by one of the forms."""
        return next(iter(self._readings.values())).times_T[: self._rows]

    def whole(self, rows: int | None = None) -> ReadTimes:
        """Returns the times, with their zone, and what is wrong about them.

        Args:
            rows: from the first on, after which all are empty; all rows when absent.
        """
        cell, asked = self._ends[0], self._options.date_format
        cut = 0 if rows is None else self._rows - rows
        self._rows -= cut
        self._empty.count -= cut
        for found in self._readings.values():
            found.unread -= cut
        try:
            form, reading = self._settled()
            times = reading.times_T[: self._rows]
            if reading.unread:
                return ReadTimes(times, form, problem=_unreadable(self._name, *reading.first, asked), cell=cell)
            zone = self._offsets.zone(times, self._known)
            midnights = wall_times(times, zone) if self._late.count else times[:0]
            if int((midnights == midnights.astype("datetime64[D]")).sum()) > self._late.count:
                raise UserError(at(self._name, self._late.first, "24:00 stands beside 0:00; write midnight in one way"))
            since = "UTC" if form in EPOCH_UNITS and self._options.timezone else zone  # seconds since 1970 are UTC's
            read = _zoned(self._name, ReadTimes(times, form, since), self._options)
        except UserError as error:
            return ReadTimes(np.full(self._rows, NO_TIME), problem=str(error), cell=cell)
        return replace(read, notes=tuple(self._notes()), cell=cell)

    def _notes(self) -> Iterator[str]:
        if self._late.count:
            yield f"column {self._name!r}: 24:00 ({self._late}) is read as 0:00 of the next day"
        if self._bare.count and self._clocks.count:
            yield f"column {self._name!r}: dates without a clock ({self._bare}) are read as 0:00"

    def _settled(self) -> tuple[str, _Reading]:
        """Returns the form of the texts, and what they are by it.

        Raises:
            UserError: when they read as different times by different forms, and nothing decides.
        """
        asked, readings = self._options.date_format, self._readings
        iso, first, last = readings.get("iso"), self._ends[0], self._ends[-1]
        if asked is not None:
            told = readings[asked]
            return asked, told if iso is None or iso.unread or told.unread == self._empty.count else iso
        if self._trained in readings and readings[self._trained].unread == self._empty.count:
            return self._trained, readings[self._trained]
        if iso is not None and not iso.unread:  # leaves no choice, but for 2023/24
            if self._years and self._rows > 1:
                raise UserError(
                    f"column {self._name!r}: {excerpt(first)} to {excerpt(last)} look like years from one "
                    "to the next; write the first day of each, or set data.date_format=iso if they are months"
                )
            return "iso", iso
        least = min(reading.unread for reading in readings.values())
        best = {form: found.times_T[: self._rows] for form, found in readings.items() if found.unread == least}
        form, *others = sorted(best, key=lambda form: _disorder(best[form])) if len(best) > 1 else best
        if "%y" in form and least < self._rows:
            raise UserError(at(self._name, 0, f"{excerpt(first)} has a year of two digits; {_say(form)}"))
        for other in others if least < self._rows else ():
            pair = (form, other) if (form, other) in self._differ else (other, form)
            if pair in self._differ and not _is_beyond_doubt(best[form], best[other]):
                row, text = self._differ[pair]
                dates = " or ".join(str(best[name][row].astype("datetime64[s]")) for name in pair)
                raise UserError(at(self._name, row, f"{excerpt(text)} may be {dates}; {_say(*pair)}"))
        return form, readings[form]


def _are_two_years(texts: pd.Series[str]) -> bool:
    """Whether texts look like 2009/10 in each row, where the second number is the year after the first."""
    if texts.empty or not re.match(r"\d{4}[-/]\d\d$", str(texts.iloc[0])):
        return False
    years = texts.str.extract(r"^(\d{4})[-/](\d{2})$").astype("Int64")
    return bool(((years[0] + 1) % 100 == years[1]).fillna(value=False).all())


def _say(*forms: str) -> str:
    return f"set data.date_format, for instance to {' or '.join(repr(form) for form in forms)}"


def _disorder(times: Times) -> tuple[int, bool]:
    """Returns how unlikely times are to be read rightly: 0 for one step, 1 with few gaps, 2; and whether they go back.

    The fifth of each month is no step that is read, but a likely reading.
    """
    known = times[~np.isnat(times)]
    back = bool((np.diff(known) < np.timedelta64(0)).any())
    distinct = distinct_times(known)
    grid = grid_of(distinct)
    missing = len(known) if grid is None else grid.missing
    months = np.diff(distinct.astype("datetime64[M]")).astype(np.int64)
    if len(months) == len(known) - 1 > 1 and (months > 0).all() and len(set(pd.DatetimeIndex(distinct).day)) == 1:
        missing = min(missing, int((months - 1).sum()))
    return 2 if missing > len(known) // 10 + 1 else int(missing > 0), back


def _is_beyond_doubt(times: Times, others: Times) -> bool:
    """Whether times are read rightly, not as others: they alone follow a step, and go back no more than these do."""
    (gaps, back), (other_gaps, other_back) = _disorder(times), _disorder(others)
    return (gaps < other_gaps and back <= other_back) or (gaps == other_gaps == 0 and back < other_back)


# Zones


def _zoned(name: str, read: ReadTimes, options: ReadOptions) -> ReadTimes:
    """Returns times with their zone: the one that is asked for, or their own."""
    wanted = options.timezone
    if read.problem is not None or wanted is None:
        return read
    if read.zone is not None:
        return replace(read, zone=wanted)
    try:
        return replace(read, times_T=_localized(name, read.times_T, wanted), zone=wanted)
    except UserError as error:
        return ReadTimes(np.full(len(read.times_T), NO_TIME), problem=str(error))


def _localized(name: str, wall_T: Times, zone: str) -> Times:
    """Returns what clocks on the wall say, in UTC; of a doubled hour the first comes first.

    Raises:
        UserError: when they say an hour that is skipped there, or one that may be either of two.
    """
    order = np.arange(len(wall_T))
    if len(wall_T) > 1 and (np.diff(wall_T) < np.timedelta64(0)).mean() > 0.5:  # the newest stands first
        order = order[::-1]
    if (np.diff(wall_T[order]) < -np.timedelta64(1, "h")).any():  # else they go back with the clocks alone
        order = order[np.argsort(wall_T[order], kind="stable")]
    try:
        index = pd.DatetimeIndex(wall_T[order]).tz_localize(zone, ambiguous="infer", nonexistent="raise")
    except ValueError as error:
        raise UserError(
            f"column {name!r}: not times in {zone}: {str(error).splitlines()[0][:150]}; "
            "leave data.timezone out, or give times with their offset"
        ) from None
    times = np.empty_like(wall_T)
    times[order] = index.tz_convert(None).to_numpy()
    return times


class _Offsets:
    """The offsets from UTC that stand in texts, block by block; kept are those of the rows at which they change.

    Args:
        name: of the column.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._some: bool | None = None
        self._minutes: dict[int, int] = {}
        self._last: tuple[int, int] | None = None
        self._problem: str | None = None

    def add(self, texts: pd.Series[str], start: int) -> None:
        """Looks at the next texts, the first of which stands in row `start`."""
        texts = texts.set_axis(range(start, start + len(texts))).dropna()
        if self._problem is not None or texts.empty:
            return
        some = matches(texts, _OFFSET)
        self._some = bool(some[0]) if self._some is None else self._some
        if (some != self._some).any():
            what, first = ("no", "one") if self._some else ("an", "none")
            row = int(texts.index[int((some != self._some).argmax())])
            self._problem = at(self._name, row, f"has {what} offset from UTC, and the first row has {first}")
        elif self._some:
            offsets = pc.struct_field(pc.extract_regex(cells_of(texts), _OFFSET), "offset")
            kinds = offsets.dictionary_encode()
            known = np.array([_minutes(kind) for kind in kinds.dictionary.to_pylist()], dtype=np.int64)
            minutes = known[kinds.indices.to_numpy()]
            rows, before = texts.index.to_numpy(), self._last or (start, int(minutes[0]))
            self._minutes.setdefault(int(rows[0]), int(minutes[0]))
            for place in np.flatnonzero(np.diff(minutes, prepend=before[1])):
                last = (int(rows[place - 1]), int(minutes[place - 1])) if place else before
                self._minutes |= dict([last, (int(rows[place]), int(minutes[place]))])
            self._last = (int(rows[-1]), int(minutes[-1]))

    def zone(self, times: Times, known: Reading | None) -> str | None:
        """Returns the zone whose clocks the texts tell; None when they have no offsets.

        Raises:
            UserError: when some have one and some have none.
        """
        if self._problem is not None:
            raise UserError(self._problem)
        if self._last is None:
            return None
        self._minutes |= dict([self._last])
        rows, minutes = np.array(list(self._minutes)), np.array(list(self._minutes.values()))
        change = bool((minutes != minutes[0]).any())
        first = [] if known is None or known.zone is None else [known.zone]
        for zone in chain(first, (*_ZONES, *sorted(zoneinfo.available_timezones())) if change else ()):
            ahead = wall_times(times[rows], zone) - times[rows]
            if (ahead == minutes * np.timedelta64(1, "m")).all():
                return zone
        if change or minutes[0] == 0:
            return "UTC"
        hours, rest = divmod(abs(int(minutes[0])), 60)
        return f"{'-' if minutes[0] < 0 else '+'}{hours:02}:{rest:02}"


def _doubled(wall_T: Times, zone: str | None) -> NDArray[np.bool_]:
    """Returns which times on the wall clocks tell twice in a zone, as they are put back."""
    local = pd.DatetimeIndex(wall_T).tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward")
    return np.asarray(local.isna())


def _minutes(offset: str) -> int:
    if not offset.startswith(("+", "-")):
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return (1 if offset[0] == "+" else -1) * (int(digits[:2]) * 60 + int(digits[2:]))


# Times into texts


_EPOCH = np.datetime64("1970-01-01", "ns")
_ISO_FORMS = tuple(
    date + clock + offset
    for date in ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%Y-%m")
    for clock in ("", *(mark + clock for mark in " T" for clock in ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%H")))
    for offset in ("", "%:z", "%z", "Z", " UTC")
)


def time_of(text: str, reading: Reading) -> np.datetime64:
    """Returns a time that somebody wrote in a file's own form or as ISO 8601; in UTC where the file's have a zone.

    Raises:
        UserError: when it is neither.
    """
    texts = pd.Series([text.strip()], dtype="str")
    times = [read_as(texts, form)[0] for form in (reading.form or "iso", "iso")]
    time: np.datetime64 = times[1] if np.isnat(times[0]) else times[0]
    if np.isnat(time):
        raise UserError(f"expected a time as the file has it, or as 2024-01-31T12:00, found {excerpt(text)}")
    if reading.zone is None or re.search(_OFFSET, text.strip()):
        return time
    if reading.form in EPOCH_UNITS and not np.isnat(times[0]):
        return time
    if _doubled(np.array([time]), reading.zone).any():
        raise UserError(f"{excerpt(text)}: clocks double that hour in {reading.zone}; write its offset too, as +02:00")
    local = pd.Timestamp(time).tz_localize(reading.zone, nonexistent="shift_forward")
    return np.datetime64(local.tz_convert(None), "ns")


def texts_of(times: Times, reading: Reading, cell: str) -> pd.Index[Any]:
    """Returns times as the cells of the file that they go on from.

    Where clocks double an hour among them, and the file's cells do not say which it is, all are ISO 8601 with offsets.

    Args:
        times: as they are held.
        reading: how the file was read.
        cell: one of its cells.
    """
    form, local = reading.form, local_times(times, reading.zone)
    wall = local.tz_localize(None)
    if form is None:
        return local
    named = form not in EPOCH_UNITS and not re.search(_OFFSET, cell)
    if named and _doubled(wall.to_numpy(), reading.zone).any():
        return pd.Index([time.isoformat() for time in local])
    if form == "excel" or form in EPOCH_UNITS:
        since, unit = (wall - pd.Timestamp("1899-12-30"), "D") if form == "excel" else (times - _EPOCH, form)
        numbers = (pd.TimedeltaIndex(since) / pd.Timedelta(1, cast("Unit", unit))).to_numpy()
        cells: pd.Index[Any] = pd.Index(numbers.astype(np.int64) if (numbers % 1 == 0).all() else numbers)
        return cells
    if form == "quarter":
        between = re.sub(r"[\dQq]", "", cell)
        form = f"%Y{between}Q%q" if cell[0].isdigit() else f"Q%q{between}%Y"
    if form != "iso":
        return pd.Index([_text(time, form) for time in local])
    zone, held = (reading.zone, times) if re.search(_OFFSET, cell) else (None, wall.to_numpy())
    [known] = local_times(read_as(plain_texts(pa.array([cell])), "iso"), zone)
    for form in (form for form in _ISO_FORMS if _text(known, form) == cell):
        texts = pd.Series([_text(time, form) for time in local])
        if (read_as(plain_texts(pa.array(texts)), "iso") == held).all():
            return pd.Index(texts)
    return pd.Index([time.isoformat() for time in local])


def _text(time: pd.Timestamp, form: str) -> str:
    ahead = time.strftime("%z")  # with a colon, it is Python 3.12's
    return time.strftime(form.replace("%:z", f"{ahead[:3]}:{ahead[3:]}").replace("%q", str(time.quarter)))

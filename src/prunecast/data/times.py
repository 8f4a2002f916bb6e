"""Columns into times: the form that a file has is settled by the file, by the model's own file, or asked for.

T rows. A form is what strptime takes ("%d/%m/%Y %H:%M") or one of these words: iso; quarter ("2024Q1", "Q1 2024");
excel (days since 1899-12-30); s, ms, us, ns (since 1970).
"""

from __future__ import annotations

import re
import warnings
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prunecast.data.calendar import Times, grid_of, local_times, wall_times
from prunecast.data.numbers import at, excerpt, is_number, is_text
from prunecast.errors import UserError
from prunecast.recipe import ReadOptions
from prunecast.records import Reading

NO_TIME = np.datetime64("NaT", "ns")
BLOCK_ROWS = 1 << 18
"""Texts of more rows are read block by block where nothing but one form is in question."""

_FIRST_DAY, _LAST_DAY = np.datetime64("1677-09-22"), np.datetime64("2262-04-11")  # whole days within nanoseconds

_Unit = Literal["s", "ms", "us", "ns"]
_EPOCH_UNITS: Mapping[str, float] = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}
"""Times since 1970 and their units, told apart by their size, from these on a thousandfold: dates from 1973 to 5138."""

_EXCEL_DAYS = (18_000, 80_000)  # from 1949 to 2119
_DIGIT_FORMS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_WORDS = ("iso", "quarter", "excel", *_EPOCH_UNITS)

_OFFSET = r":\d\d(?:[.,]\d+)?\s*(?P<offset>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$"
_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_QUARTER = r"^(?:(?P<y>\d{4})[-/ ]?Q(?P<q>[1-4])|Q(?P<q2>[1-4])[-/ ]?(?P<y2>\d{4}))$"

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
    """

    times_T: Times
    form: str | None = None
    zone: str | None = None
    problem: str | None = None


def read_times(name: str, column: pa.ChunkedArray, options: ReadOptions, known: Reading | None = None) -> ReadTimes:
    """Returns the times of a column.

    Args:
        name: of the column.
        column: of texts, numbers or times.
        options: may say the form and the zone.
        known: how a model's own file was read: taken where it fits, before anything is guessed.
    """
    try:
        return _zoned(name, _read(name, column, options, known), column, options, known)
    except UserError as error:
        return ReadTimes(np.full(len(column), NO_TIME), problem=str(error))


def looks_like_times(column: pa.ChunkedArray) -> bool:
    """Whether a column whose name says nothing holds times: texts that read so, or times."""
    if not is_text(column.type):
        return bool(pa.types.is_timestamp(column.type) or pa.types.is_date(column.type))
    some = column.drop_null()[:100]
    texts = some.to_pandas()
    if len(texts) == 0 or _as_numbers(texts) is not None:
        return False
    return any(not np.isnat(_read_as(texts, form)).any() for form in _forms(texts))


def _read(name: str, column: pa.ChunkedArray, options: ReadOptions, known: Reading | None) -> ReadTimes:
    """Returns the times as they stand: those that carry an offset in UTC, all others on the wall."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times = _from_arrow(column)
        zone = getattr(column.type, "tz", None)
        return ReadTimes(times, None, zone, _unreadable(name, column, times))
    if is_number(column.type):  # whole ones have no point
        whole = pc.all(pc.equal(column, pc.round(column))).as_py() if pa.types.is_floating(column.type) else False
        column = column.cast(pa.int64(), safe=False) if whole else column
        column = column.cast(pa.string())
    if not is_text(column.type):
        raise UserError(f"column {name!r}: expected dates or times, found {column.type}")
    read = _read_blocks(column, options, known) if len(column) > BLOCK_ROWS else None
    if read is not None:
        return read
    texts = _without_names(column.to_pandas())
    form, times = _settled(name, texts, options, known)
    return ReadTimes(times, form, None, _unreadable(name, column, times, form, options.date_format))


def _read_blocks(column: pa.ChunkedArray, options: ReadOptions, known: Reading | None) -> ReadTimes | None:
    """Returns what `_settled` settles on where the first form that it tries fits all, without a copy of all texts."""
    first = (column[0].as_py() or "").strip()
    form = options.date_format or (None if known is None else known.form)
    if form is None and not re.match(rf"{_NUMBER}$|\d{{4}}[-/]\d\d$", first):  # numbers and years leave a choice
        form = "iso"
    if form is None:
        return None
    times = np.empty(len(column), dtype="datetime64[ns]")
    for start in range(0, len(column), BLOCK_ROWS):
        block = column.slice(start, BLOCK_ROWS).to_pandas()
        times[start : start + BLOCK_ROWS] = _read_as(_without_names(block), form)
        if np.isnat(times[start : start + BLOCK_ROWS]).any():
            return None
    return ReadTimes(times, form)


def _unreadable(
    name: str, column: pa.ChunkedArray, times: Times, form: str | None = None, asked: str | None = None
) -> str | None:
    rows = np.flatnonzero(np.isnat(times))
    if rows.size == 0:
        return None
    row = int(rows[0])
    expected = f"a date or time of the form {form}" if asked else "a date or time"
    found = column[row].as_py()
    advice = "" if asked or found is None else "; data.date_format says of what form they are, as %d/%m/%Y %H:%M"
    return at(name, row, f"expected {expected}, found {excerpt(found)}{advice}")


def _from_arrow(column: pa.ChunkedArray) -> Times:
    zone = getattr(column.type, "tz", None)
    try:
        nanoseconds = column.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64())
    except pa.ArrowInvalid:  # a year that nanoseconds cannot hold
        return np.full(len(column), NO_TIME)
    # NaT is the smallest whole number there is
    filled = nanoseconds.fill_null(np.iinfo(np.int64).min)
    return np.asarray(filled.to_numpy()).view("datetime64[ns]")


# The form of texts


def _settled(name: str, texts: pd.Series[str], options: ReadOptions, known: Reading | None) -> tuple[str, Times]:
    """Returns the form of texts and what they read as by it.

    Raises:
        UserError: when they read as different times by different forms, and nothing decides.
    """
    if options.date_format is not None:
        times = _read_as(texts, options.date_format)
        standard = _read_as(texts, "iso") if np.isnat(times)[texts.notna()].any() else times
        return options.date_format, times if np.isnat(standard).any() else standard  # iso is the same to all
    if known is not None and known.form is not None:
        times = _read_as(texts, known.form)
        if not np.isnat(times)[texts.notna()].any():
            return known.form, times
    readings: dict[str, Times] = {}
    for form in _forms(texts):
        times = _read_as(texts, form)
        if form == "iso" and not np.isnat(times).any():  # leaves no choice, but for 2023/24
            if _are_two_years(texts):
                raise UserError(
                    f"column {name!r}: {excerpt(texts.iloc[0])} to {excerpt(texts.iloc[-1])} look like years from one "
                    "to the next; write the first day of each, or set data.date_format=iso if they are months"
                )
            return form, times
        if not any(np.array_equal(times, other, equal_nan=True) for other in readings.values()):
            readings[form] = times
    ranks = {form: _disorder(times) for form, times in readings.items()}
    best = [form for form in readings if ranks[form] == min(ranks.values())]
    form = best[0]
    if "%y" in form and not np.isnat(readings[form]).all():
        raise UserError(at(name, 0, f"{excerpt(texts.iloc[0])} has a year of two digits; {_say(form)}"))
    if len(best) > 1 and ranks[form][0] < len(texts):
        row = int(np.flatnonzero(readings[form] != readings[best[1]])[0])
        first, second = (str(readings[other][row].astype("datetime64[s]")) for other in best[:2])
        raise UserError(at(name, row, f"{excerpt(texts.iloc[row])} may be {first} or {second}; {_say(*best[:2])}"))
    return form, readings[form]


def _are_two_years(texts: pd.Series[str]) -> bool:
    """Whether texts look like 2009/10 in each row, where the second number is the year after the first."""
    years = texts.str.extract(r"^(\d{4})[-/](\d{2})$").astype("Int64")
    return len(texts) > 1 and bool(((years[0] + 1) % 100 == years[1]).fillna(value=False).all())


def _say(*forms: str) -> str:
    return f"set data.date_format, for instance to {' or '.join(repr(form) for form in forms)}"


def _disorder(times: Times) -> tuple[int, int, bool]:
    """Returns how unlikely times are to be read rightly: unreadable ones, gaps or no step, steps backward."""
    known = times[~np.isnat(times)]
    grid = grid_of(np.unique(known))
    gaps = 2 if grid is None or grid.missing > len(known) // 10 + 1 else int(grid.missing > 0)
    months = np.diff(np.unique(known.astype("datetime64[M]"))).astype(np.int64)
    if len(months) == len(known) - 1 > 1 and (months == 1).all() and len(set(pd.DatetimeIndex(known).day)) == 1:
        gaps = 0  # the fifth of each month is no step that is read, but a likely reading
    return len(times) - len(known), gaps, bool((np.diff(known) < np.timedelta64(0)).any())


def _forms(texts: pd.Series[str]) -> Iterator[str]:
    """Yields the forms that some of the texts may have, the likelier first."""
    numbers = _as_numbers(texts)
    if numbers is not None:
        yield _form_of_numbers(texts, numbers)
        return
    yield "iso"
    known = texts.dropna()
    if known.empty:
        return
    # several, as not every text can be guessed from: 12:00 AM, for one
    some = dict.fromkeys(known.iloc[sorted({0, len(known) // 3, len(known) // 2, len(known) - 1} - {-1})])
    yield from dict.fromkeys(form for text in some for form in _guesses(text))


_MONTHS = ("%b %Y", "%B %Y", "%b-%Y", "%B-%Y", "%Y-%b", "%Y %b", "%Y %B", "%m/%Y", "%m.%Y", "%b-%y", "%b %y", "%y-%b")
_SHORT_YEARS = (
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%m-%d-%y", "%d-%m-%y", "%y-%m-%d", "%y/%m/%d"),
    *("%d-%b-%y", "%d %b %y", "%d/%b/%y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def _guesses(text: str) -> Iterator[str]:
    if re.match(_QUARTER, text, re.IGNORECASE):
        yield "quarter"
    plain = re.sub(r"\s*[ap]m$", "", text, flags=re.IGNORECASE)
    # 01.02.2020 is the first of February, 01/02/2020 may be either; after the year the month comes first
    orders = (True,) if "." in text else (False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that an order does not fit, which is what is found out here
        guesses = [pd.tseries.api.guess_datetime_format(plain, dayfirst=order) for order in orders]
    for guess in guesses:
        if guess is not None and not re.search("%Y.%d|%p", guess):
            yield guess if plain == text else guess.replace("%H", "%I") + re.sub("[^ ]", "", text[len(plain) :]) + "%p"
    for date, clock in product((*_MONTHS, *_SHORT_YEARS), _CLOCKS):
        if not pd.isna(pd.to_datetime(text, format=date + clock, errors="coerce")):
            yield date + clock


def _read_as(texts: pd.Series[str], form: str) -> Times:
    """Returns what texts are by a form, NaT for those that are nothing by it."""
    if form in _EPOCH_UNITS or form == "excel":
        return _from_numbers(pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan), form)
    if form == "quarter":
        parts = texts.str.extract(_QUARTER, flags=re.IGNORECASE)
        month = pd.to_numeric(parts["q"].fillna(parts["q2"])) * 3 - 2
        texts, form = parts["y"].fillna(parts["y2"]) + "-" + month.astype("Int64").astype("string"), "%Y-%m"
    try:
        read = pd.to_datetime(texts, format="ISO8601" if form == "iso" else form, utc=True, errors="coerce")
    except (ValueError, re.error) as error:
        raise UserError(
            f"data.date_format: expected {', '.join(_WORDS)}, or a form as %d/%m/%Y %H:%M, found {form!r}: {error}"
        ) from None
    return _nanoseconds(read.dt.tz_localize(None).to_numpy())


# Numbers


def _as_numbers(texts: pd.Series[str]) -> NDArray[np.float64] | None:
    """Returns texts as numbers, None when one of them is none."""
    known = texts.dropna()
    if known.empty or not re.fullmatch(_NUMBER, known.iloc[0]):
        return None
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return None if np.isnan(values[texts.notna()]).any() else values


def _form_of_numbers(texts: pd.Series[str], numbers: NDArray[np.float64]) -> str:
    """Returns what numbers are: digits of a date where all of them read so, else Excel's days or time since 1970."""
    known = texts.dropna()
    digits = _DIGIT_FORMS.get(len(known.iloc[0]))
    if digits is not None and known.str.len().nunique() == 1 and known.str.isdigit().all():
        years = _read_as(known, digits).astype("datetime64[Y]").astype(np.int64) + 1970
        if ((years >= 1700) & (years < 2262)).all():
            return digits
    smallest, largest = np.nanmin(numbers), np.nanmax(numbers)
    if _EXCEL_DAYS[0] <= smallest and largest < _EXCEL_DAYS[1]:
        return "excel"
    unit = next((unit for unit, low in _EPOCH_UNITS.items() if low <= abs(largest) < 1000 * low), None)
    return unit or "%Y"


def _from_numbers(numbers: NDArray[np.float64], form: str) -> Times:
    if form == "excel":  # a day in six decimals is right to a tenth of a second
        days = pd.to_datetime(numbers, unit="D", origin="1899-12-30", errors="coerce")
        return _nanoseconds(days.round("s").to_numpy())
    # 64 bits hold a time of today to a quarter of a microsecond
    return _nanoseconds(pd.to_datetime(numbers, unit=cast("_Unit", form), errors="coerce").round("us").to_numpy())


def _nanoseconds(times: Times) -> Times:
    """Returns times of any unit in nanoseconds, NaT for those that nanoseconds cannot hold."""
    held = (times >= _FIRST_DAY) & (times < _LAST_DAY)
    return np.where(held, times, np.datetime64("NaT")).astype("datetime64[ns]")


# Zones


def _zoned(
    name: str, read: ReadTimes, column: pa.ChunkedArray, options: ReadOptions, known: Reading | None
) -> ReadTimes:
    """Returns times with their zone: the one that is asked for, the model's where it fits, or the file's own."""
    if read.problem is not None:
        return read
    zone, times = read.zone, read.times_T
    if read.form is not None and is_text(column.type):
        zone = _zone_of_offsets(name, times, column, known)
    wanted = options.timezone
    if wanted is None or zone is not None:
        return ReadTimes(times, read.form, zone if wanted is None else wanted)
    return ReadTimes(_localized(name, times, wanted), read.form, wanted)


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


def _zone_of_offsets(name: str, times: Times, column: pa.ChunkedArray, known: Reading | None) -> str | None:
    """Returns the zone of times that stand in a file with their offsets from UTC; None when they have none.

    Raises:
        UserError: when some have one and some have none.
    """
    if not re.search(_OFFSET, column[0].as_py().strip()):
        with_offset = pc.index(pc.match_substring_regex(column, _OFFSET), True).as_py()
        if with_offset >= 0:
            raise UserError(at(name, with_offset, "has an offset from UTC, and the first row has none"))
        return None
    offsets = column.to_pandas().str.strip().str.extract(_OFFSET, expand=False)
    if offsets.isna().any():
        row = int(offsets.isna().to_numpy().argmax())
        raise UserError(at(name, row, "has no offset from UTC, and the first row has one"))
    minutes = offsets.map({text: _minutes(text) for text in offsets.unique()}).to_numpy(dtype=np.int64)
    changes = np.flatnonzero(np.diff(minutes))
    rows = np.unique([0, len(minutes) - 1, *changes, *(changes + 1)])
    first = [] if known is None or known.zone is None else [known.zone]
    for zone in chain(first, (*_ZONES, *sorted(zoneinfo.available_timezones())) if changes.size else ()):
        ahead = wall_times(times[rows], zone) - times[rows]
        if (ahead == minutes[rows] * np.timedelta64(1, "m")).all():
            return zone
    if changes.size or minutes[0] == 0:
        return "UTC"
    hours, rest = divmod(abs(int(minutes[0])), 60)
    return f"{'-' if minutes[0] < 0 else '+'}{hours:02}:{rest:02}"


def _minutes(offset: str) -> int:
    if not offset.startswith(("+", "-")):
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return (1 if offset[0] == "+" else -1) * (int(digits[:2]) * 60 + int(digits[2:]))


# Times into texts


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
    texts = pd.Series([text.strip()], dtype="string")
    times = [_read_as(texts, form)[0] for form in (reading.form or "iso", "iso")]
    time: np.datetime64 = times[1] if np.isnat(times[0]) else times[0]
    if np.isnat(time):
        raise UserError(f"expected a time as the file has it, or as 2024-01-31T12:00, found {excerpt(text)}")
    if reading.zone is None or re.search(_OFFSET, text.strip()):
        return time
    local = pd.Timestamp(time).tz_localize(reading.zone, ambiguous=True, nonexistent="shift_forward")
    return np.datetime64(local.tz_convert(None), "ns")


def texts_of(times: Times, reading: Reading, cell: str) -> pd.Index[Any]:
    """Returns times as the cells of the file that they go on from.

    Args:
        times: as they are held.
        reading: how the file was read.
        cell: one of its cells.
    """
    form, local = reading.form, local_times(times, reading.zone)
    wall = local.tz_localize(None)
    if form is None:
        return local
    if form == "excel" or form in _EPOCH_UNITS:
        start, unit = ("1899-12-30", "D") if form == "excel" else ("1970-01-01", form)
        numbers = ((wall - pd.Timestamp(start)) / pd.Timedelta(1, cast("_Unit", unit))).to_numpy()
        cells: pd.Index[Any] = pd.Index(numbers.astype(np.int64) if (numbers % 1 == 0).all() else numbers)
        return cells
    if form == "quarter":
        between = re.sub(r"[\dQq]", "", cell)
        form = f"%Y{between}Q%q" if cell[0].isdigit() else f"Q%q{between}%Y"
    if form != "iso":
        return pd.Index([_text(time, form) for time in local])
    zone, held = (reading.zone, times) if re.search(_OFFSET, cell) else (None, wall.to_numpy())
    [known] = local_times(_read_as(_without_names(pd.Series([cell])), "iso"), zone)
    for form in (form for form in _ISO_FORMS if _text(known, form) == cell):
        texts = pd.Series([_text(time, form) for time in local])
        if (_read_as(_without_names(texts), "iso") == held).all():
            return pd.Index(texts)
    return pd.Index([time.isoformat() for time in local])


def _text(time: pd.Timestamp, form: str) -> str:
    ahead = time.strftime("%z")  # with a colon, it is Python 3.12's
    return time.strftime(form.replace("%:z", f"{ahead[:3]}:{ahead[3:]}").replace("%q", str(time.quarter)))


def _without_names(texts: pd.Series[str]) -> pd.Series[str]:
    return texts.astype("string").str.strip().str.replace(r"\s*(UTC|GMT)$", "+00:00", regex=True)

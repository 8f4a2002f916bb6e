"""Forms of times: which ones texts may have, and what they read as by each.

T rows. A form is what strptime takes ("%d/%m/%Y %H:%M") or one of these words: iso; quarter ("2024Q1", "Q1 2024");
excel (days since 1899-12-30); s, ms, us, ns (since 1970).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prunecast.data.calendar import Times
from prunecast.errors import UserError

NO_TIME = np.datetime64("NaT", "ns")

_FIRST_DAY, _LAST_DAY = np.datetime64("1677-09-22"), np.datetime64("2262-04-11")  # whole days within nanoseconds

Unit = Literal["s", "ms", "us", "ns"]
EPOCH_UNITS: Mapping[str, float] = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}
"""Times since 1970 and their units, told apart by their size, from these on a thousandfold: dates from 1973 to 5138."""

_EXCEL_DAYS = (18_000, 80_000)  # from 1949 to 2119
_DIGIT_FORMS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_WORDS = ("iso", "quarter", "excel", *EPOCH_UNITS)

_DAYS_END = r"[ T]24:00(?::00(?:[.,]0*)?)?\s*(?:Z|[+-]\d\d(?::?\d\d)?)?$"

_DIGITS = {"%Y": r"(\d{4})"} | dict.fromkeys(("%m", "%d", "%H", "%M", "%S"), r"(\d\d)")
"""Parts of forms that have one width."""

_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_QUARTER = r"^(?:(?P<y>\d{4})[-/ ]?Q(?P<q>[1-4])|Q(?P<q2>[1-4])[-/ ]?(?P<y2>\d{4}))$"


def forms_of(texts: pd.Series[str]) -> Iterator[str]:
    """Yields the forms that some of the texts may have, the likelier first; of numbers there is one alone."""
    numbers = as_numbers(texts)
    if numbers is not None:
        yield form_of_numbers(texts, numbers)
        return
    yield "iso"
    known = texts.dropna()
    if known.empty:
        return
    # several, as not every text can be guessed from: 12:00 AM, for one; a bare date at midnight has no clock
    rows = {0, len(known) // 3, len(known) // 2, len(known) - 1, int(known.str.len().to_numpy().argmax())}
    some = known.iloc[sorted(rows)]
    guessed = (form for text in _on_clock(some, ends_of_days(some)).unique() for form in _guesses(text))
    yield from dict.fromkeys(guessed)


_MONTHS = ("%b %Y", "%B %Y", "%b-%Y", "%B-%Y", "%Y-%b", "%Y %b", "%Y %B", "%m/%Y", "%m.%Y", "%b-%y", "%b %y", "%y-%b")
_SHORT_YEARS = (
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%m.%d.%y", "%m-%d-%y", "%d-%m-%y", "%y-%m-%d", "%y/%m/%d"),
    *("%d-%b-%y", "%d %b %y", "%d/%b/%y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def _guesses(text: str) -> Iterator[str]:
    if re.match(_QUARTER, text, re.IGNORECASE):
        yield "quarter"
    plain = re.sub(r"\s*[ap]m$", "", text, flags=re.IGNORECASE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that an order does not fit, which is what is found out here
        guesses = [pd.tseries.api.guess_datetime_format(plain, dayfirst=order) for order in (False, True)]
    for guess in guesses:  # after the year the month comes first
        if guess is not None and not re.search("%Y.%d|%p", guess):
            yield guess if plain == text else guess.replace("%H", "%I") + re.sub("[^ ]", "", text[len(plain) :]) + "%p"
    for date, clock in product((*_MONTHS, *_SHORT_YEARS), _CLOCKS):
        if not pd.isna(pd.to_datetime(text, format=date + clock, errors="coerce")):
            yield date + clock


def read_as(texts: pd.Series[str], form: str) -> Times:
    """Returns what texts are by a form, NaT for those that are nothing by it.

    24:00 is the next day's 0:00; amid times with a clock, a bare date of the same form is its midnight.

    Raises:
        UserError: when there is no such form.
    """
    if form in EPOCH_UNITS or form == "excel":
        return _from_numbers(pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan), form)
    if form == "quarter":
        parts = texts.str.extract(_QUARTER, flags=re.IGNORECASE)
        month = pd.to_numeric(parts["q"].fillna(parts["q2"])) * 3 - 2
        texts, form = parts["y"].fillna(parts["y2"]) + "-" + month.astype("Int64").astype("string"), "%Y-%m"
    late = ends_of_days(texts)
    clocks = _on_clock(texts, late)
    times = _parsed(clocks, form)
    bare = re.match(r"(.*\S)[ T]+%[HI]", form)
    unread = np.isnat(times)
    if bare and unread.any() and not unread.all():
        times[unread] = _parsed(clocks[unread], bare[1])
    times[late] += np.timedelta64(1, "D")
    return times


def ends_of_days(texts: pd.Series[str]) -> NDArray[np.bool_]:
    """Returns which of some texts say 24:00 behind a date, the end of that day."""
    return matches(texts, _DAYS_END)


def cells_of(texts: pd.Series[str]) -> pa.Array:
    """Returns texts as one pyarrow array."""
    cells = pa.array(texts, pa.string())
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def matches(texts: pd.Series[str], pattern: str) -> NDArray[np.bool_]:
    """Returns in which texts something matches a regular expression, by pyarrow: far faster than by pandas."""
    found = pc.match_substring_regex(cells_of(texts), pattern)
    return np.asarray(found.fill_null(fill_value=False).to_numpy(zero_copy_only=False))


def _on_clock(texts: pd.Series[str], late: NDArray[np.bool_]) -> pd.Series[str]:
    """Returns texts with 0:00 for 24:00, which no form knows."""
    return texts.mask(late, texts.str.replace(r"24:00", "00:00", regex=False)) if late.any() else texts


def _parsed(texts: pd.Series[str], form: str) -> Times:
    cells = cells_of(texts)
    iso = cells if form == "iso" else _as_iso(cells, form)
    for zone in (None, "UTC"):
        with suppress(pa.ArrowInvalid):  # far faster than pandas, where it reads them all
            if iso is not None:
                return _nanoseconds(iso.cast(pa.timestamp("us", zone)).to_numpy(zero_copy_only=False))
    try:
        read = pd.to_datetime(texts, format="ISO8601" if form == "iso" else form, utc=True, errors="coerce")
    except (ValueError, re.error) as error:
        raise UserError(
            f"data.date_format: expected {', '.join(_WORDS)}, or a form as %d/%m/%Y %H:%M, found {form!r}: {error}"
        ) from None
    return _nanoseconds(read.dt.tz_localize(None).to_numpy())


# Numbers


def as_numbers(texts: pd.Series[str]) -> NDArray[np.float64] | None:
    """Returns texts as numbers, None when one of them is none; nothing is NaN."""
    known = texts.dropna()
    if known.empty or not re.fullmatch(_NUMBER, known.iloc[0]):
        return None
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return None if np.isnan(values[texts.notna()]).any() else values


def form_of_numbers(texts: pd.Series[str], numbers: NDArray[np.float64]) -> str:
    """Returns what numbers are: digits of a date where all of them read so, else Excel's days or time since 1970."""
    known = texts.dropna()
    digits = _DIGIT_FORMS.get(len(known.iloc[0]))
    if digits is not None and known.str.len().nunique() == 1 and known.str.isdigit().all():
        years = read_as(known, digits).astype("datetime64[Y]").astype(np.int64) + 1970
        if ((years >= 1700) & (years < 2262)).all():
            return digits
    smallest, largest = np.nanmin(numbers), np.nanmax(numbers)
    if _EXCEL_DAYS[0] <= smallest and largest < _EXCEL_DAYS[1]:
        return "excel"
    unit = next((unit for unit, low in EPOCH_UNITS.items() if low <= abs(largest) < 1000 * low), None)
    return unit or "%Y"


def _from_numbers(numbers: NDArray[np.float64], form: str) -> Times:
    if form == "excel":  # a day in six decimals is right to a tenth of a second
        days = pd.to_datetime(numbers, unit="D", origin="1899-12-30", errors="coerce")
        return _nanoseconds(days.round("s").to_numpy())
    # 64 bits hold a time of today to a quarter of a microsecond
    return _nanoseconds(pd.to_datetime(numbers, unit=cast("Unit", form), errors="coerce").round("us").to_numpy())


def _as_iso(texts: pa.Array, form: str) -> pa.Array | None:
    """Returns texts of a form of whole digits as ISO 8601; None where one of them, or the form, is none of that."""
    parts = re.findall("%.", form)
    if not {"%Y", "%m", "%d"} <= set(parts) <= set(_DIGITS) or len(set(parts)) < len(parts):
        return None
    pattern = re.sub("%(.)", lambda part: _DIGITS[part[0]], f"^{re.escape(form)}$")
    if pc.all(pc.match_substring_regex(texts, pattern)).as_py() is not True:
        return None
    group = {part: rf"\{parts.index(part) + 1}" if part in parts else "00" for part in _DIGITS}
    iso = "{%Y}-{%m}-{%d} {%H}:{%M}:{%S}".format_map(group)
    return pc.replace_substring_regex(texts, pattern, iso)


def _nanoseconds(times: Times) -> Times:
    """Returns times of any unit in nanoseconds, NaT for those that nanoseconds cannot hold."""
    held = (times >= _FIRST_DAY) & (times < _LAST_DAY)
    return np.where(held, times, np.datetime64("NaT")).astype("datetime64[ns]")

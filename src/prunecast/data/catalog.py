"""Data sets as data: `catalog.yaml` says where a set comes from, how it is checked, split and used."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from prunecast.data.splits import SplitRule
from prunecast.errors import UserError, near
from prunecast.recipe import checked, parse_yaml
from prunecast.records import Strict


def _https(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError(f"expected an https:// address, found {url!r}")
    return url


HttpsUrl = Annotated[str, AfterValidator(_https)]
"""An address that nobody on the way can change the answer of."""


class Irregularity(Strict):
    """Something in a published set that a reader of its numbers should know; the set is used with it.

    Attributes:
        kind: what it is.
        note: in words.
        columns: where, if not everywhere.
        count: how many rows, values or names.
        value: the value that stands for a missing one.
        after: time of the last row before a break.
        before: time of the first row after it.
    """

    kind: Literal["break", "sentinel", "repeated", "relabelled", "unused", "missing", "names"]
    note: str
    columns: tuple[str, ...] = ()
    count: int | None = None
    value: float | None = None
    after: dt.datetime | None = None
    before: dt.datetime | None = None


class Selection(Strict):
    """Which columns of a wide file make up the set, and how their gaps are closed.

    Attributes:
        columns: regular expression that a whole column name matches.
        max_missing: a column with a larger share of missing values is left out; the gaps of the others are bridged
            by a straight line, and by the nearest value at the ends.
    """

    columns: str
    max_missing: float = Field(ge=0, lt=1)


class Assembly(Strict):
    """How a set's file is put together from the file of each channel.

    Attributes:
        url: where a part is downloaded from; `{channel}` in it stands for the name of the channel.
        sha256: of each part, by channel, in the order of the columns.
        time_column: of a part; times that stand twice are averaged.
        value_column: of a part, with `{channel}` too.
        start: first row.
        end: last row.
        frequency: step of the rows, as pandas writes it.
        longest_gap: this many missing steps in a row are bridged by a straight line.
        decimals: of the values.
    """

    url: HttpsUrl
    sha256: Mapping[str, str]
    time_column: str
    value_column: str
    start: dt.datetime
    end: dt.datetime
    frequency: str
    longest_gap: int
    decimals: int


class Entry(Strict):
    """One data set.

    Attributes:
        name: in the catalogue.
        about: what it is and who published it.
        file: its published file name; None for a generated set.
        url: where it is downloaded from.
        assembly: for a set that is downloaded in parts and put together.
        max_bytes: a download (of the file, or of one part) that grows larger is refused.
        sha256: of the known byte forms of the same rows; the first names the content.
        git_blob: SHA-1 that git gives the file, where its repository is the source.
        time_column: the one with the times.
        frequency: step of the series, as pandas writes it.
        season: steps after which the series repeats itself best; the seasonal naive forecast goes back so far.
        split: into train, validation and test.
        rows: as published; checked on loading.
        channels: as published; checked on loading.
        lookback: customary look-back.
        horizons: customary horizons.
        select: for a file of which only a part is used.
        irregularities: known ones.
    """

    name: str
    about: str
    file: str | None = None
    url: HttpsUrl | None = None
    assembly: Assembly | None = None
    max_bytes: int = 0
    sha256: tuple[str, ...] = ()
    git_blob: str | None = None
    time_column: str = "date"
    frequency: str
    season: int = Field(ge=1)
    split: SplitRule = SplitRule()
    rows: int | None = None
    channels: int | None = None
    lookback: int = 96
    horizons: tuple[int, ...] = (96, 192, 336, 720)
    select: Selection | None = None
    irregularities: tuple[Irregularity, ...] = ()

    @property
    def verifiable(self) -> bool:
        """Whether a hash of the file is known."""
        return bool(self.sha256) or self.git_blob is not None


@cache
def _entries() -> dict[str, Entry]:
    source = files("prunecast.data").joinpath("catalog.yaml")
    table = parse_yaml(source.read_text(encoding="utf-8"), "catalog.yaml")
    return {name: checked(Entry, {"name": name, **values}, f"catalog.yaml: {name}") for name, values in table.items()}


def names() -> tuple[str, ...]:
    """Returns the names of all data sets in the order of the catalogue."""
    return tuple(_entries())


def entry(name: str) -> Entry:
    """Returns the entry of a data set.

    Raises:
        UserError: when the name is not in the catalogue; the message suggests the nearest one.
    """
    entries = _entries()
    if name not in entries:
        raise UserError(f"unknown data set {name!r} and no such file; {near(name, entries)}")
    return entries[name]

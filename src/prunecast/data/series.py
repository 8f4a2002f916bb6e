"""Series: times, channels and covariates of one data set, checked, whole and in order.

T rows, C channels, K covariates (columns that are known for the future).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunecast.data import catalog
from prunecast.data.calendar import Times, frequency_of, season_of
from prunecast.data.catalog_files import load_published
from prunecast.data.columns import Frame, to_frame
from prunecast.data.gaps import REFUSE, Break, breaks_of, check_fill, filled, on_grid, order_problem
from prunecast.data.splits import SplitRule
from prunecast.data.table import read_table
from prunecast.errors import UserError, near
from prunecast.recipe import DataConfig

MIN_ROWS = 3
"""Fewer rows have no step that could be told."""


@dataclass(frozen=True, eq=False)
class Series:
    """A multivariate series that can be cut into windows.

    Attributes:
        name: catalogue name, or file name without its folder.
        times: (T,) datetime64[ns].
        values_TC: raw units, no missing value.
        channels: names of the channels.
        covariates_TK: raw units of the columns known for the future.
        covariates: their names.
        targets: which channels are forecast; None for all.
        frequency: the step, as pandas writes it.
        season: steps after which the series repeats itself best.
        split: into train, validation and test.
        breaks: where the times leave the step (published sets only: other files are refused or filled).
        sha256: of the content it came from.
    """

    name: str
    times: Times
    values_TC: NDArray[np.float64]
    channels: tuple[str, ...]
    covariates_TK: NDArray[np.float64]
    covariates: tuple[str, ...]
    targets: tuple[int, ...] | None
    frequency: str
    season: int
    split: SplitRule
    breaks: tuple[Break, ...]
    sha256: str

    def select(self, channels: Sequence[str], targets: Sequence[str]) -> Series:
        """Returns the series with only these channels, in this order, and these targets; all of them must be there."""
        columns = [self.channels.index(channel) for channel in channels]
        return replace(
            self,
            values_TC=np.ascontiguousarray(self.values_TC[:, columns]),
            channels=tuple(channels),
            targets=None if tuple(targets) == tuple(channels) else tuple(channels.index(target) for target in targets),
        )


@dataclass(frozen=True, eq=False)
class History:
    """What a forecast starts from.

    Attributes:
        series: the known rows.
        future_TK: covariates of the rows after them; no rows where there are no covariates.
    """

    series: Series
    future_TK: NDArray[np.float64]


def load_series(config: DataConfig, *, accept_unverified: bool = False, quiet: bool = False) -> Series:
    """Returns the series that a recipe's data section names.

    Args:
        config: its name is one of the catalogue or the path of a CSV or Parquet file.
        accept_unverified: download a catalogue set even where no hash is known.
        quiet: without a progress bar.

    Raises:
        UserError: in one line, whatever is wrong with the name, the file or its content.
    """
    if config.name in catalog.names():
        return _from_catalog(config, accept_unverified, quiet)
    path = Path(config.name)
    if not path.exists() and not path.suffix and path.name == config.name:
        catalog.entry(config.name)  # says which name is near
    return _from_file(config, path)


def _from_catalog(config: DataConfig, accept_unverified: bool, quiet: bool) -> Series:
    entry = catalog.entry(config.name)
    if config.fill != REFUSE:
        raise UserError(f"data.fill: {entry.name} is used as published; expected {REFUSE!r}, found {config.fill!r}")
    if config.time_column not in (None, entry.time_column):
        raise UserError(
            f"data.time_column: expected {entry.time_column!r} for {entry.name}, found {config.time_column!r}"
        )
    published = load_published(entry, accept_unverified=accept_unverified, quiet=quiet)
    series = _series(entry.name, published.frame, config, published.sha256, entry.frequency)
    return replace(series, season=entry.season, split=_split(config, entry.split))


def _from_file(config: DataConfig, path: Path) -> Series:
    table = read_table(path)
    try:
        frame = sound(to_frame(table.columns, config.time_column))
        frame = filled(on_grid(frame, config.fill), config.fill)
        return _series(table.name, frame, config, table.sha256, frequency_of(frame.times))
    except UserError as error:
        raise UserError(f"{table.name}: {error}") from None


def sound(frame: Frame) -> Frame:
    """Returns the frame when its columns could be read and its times increase.

    Raises:
        UserError: with the first problem.
    """
    problem = next(iter(problems_of(frame)), None)
    if problem is not None:
        raise UserError(problem)
    return frame


def problems_of(frame: Frame) -> tuple[str, ...]:
    """Returns what is wrong with a frame's columns, the order of its times and its length."""
    if np.isnat(frame.times).any():
        return frame.problems
    disorder = order_problem(frame.times)
    rows = len(frame.times)
    short = f"expected at least {MIN_ROWS} rows, found {rows}" if rows < MIN_ROWS else None
    return (*frame.problems, *(problem for problem in (disorder, short) if problem))


def _series(name: str, frame: Frame, config: DataConfig, sha256: str, frequency: str | None) -> Series:
    assert frequency is not None, "a series has a step: on_grid sees to it"
    _check_known("covariates", config.covariates, frame.names)
    channels = tuple(name for name in frame.names if name not in config.covariates)
    if not channels:
        raise UserError("data.covariates: expected to leave at least one channel, found none left")
    if config.targets == ():
        raise UserError("data.targets: expected at least one channel, found none")
    _check_known("targets", config.targets or (), channels)
    return Series(
        name,
        frame.times,
        _pick(frame, channels),
        channels,
        _pick(frame, config.covariates),
        config.covariates,
        None if config.targets is None else tuple(channels.index(target) for target in config.targets),
        frequency,
        season_of(frequency),
        _split(config, SplitRule()),
        breaks_of(frame.times),
        sha256,
    )


def _check_known(key: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(f"data.{key}: no column {unknown[0]!r}; {near(unknown[0], known)}")
    if len(set(asked)) < len(asked):
        raise UserError(f"data.{key}: expected each column once, found {', '.join(asked)}")


def _pick(frame: Frame, names: Sequence[str]) -> NDArray[np.float64]:
    return np.ascontiguousarray(frame.values_TN[:, [frame.names.index(name) for name in names]])


def _split(config: DataConfig, published: SplitRule) -> SplitRule:
    return published if config.split is None else SplitRule(shares=config.split)


def load_history(
    path: Path,
    channels: Sequence[str],
    covariates: Sequence[str] = (),
    *,
    time_column: str | None = None,
    fill: str = REFUSE,
) -> History:
    """Returns the rows of a file that a forecast starts from, by column name; other columns are left out.

    With covariates the file goes on into the future: in its last rows the covariates stand and all channels are empty.

    Args:
        path: a CSV or Parquet file.
        channels: names of the model's channels, in its order.
        covariates: names of the model's covariates, in its order.
        time_column: found by itself when absent.
        fill: what to do with gaps.

    Raises:
        UserError: in one line, whatever is wrong with the file or its content, a missing column included.
    """
    check_fill(fill)
    table = read_table(path)
    config = DataConfig(name=str(path), covariates=tuple(covariates))
    try:
        frame = on_grid(sound(to_frame(table.columns, time_column, (*channels, *covariates))), fill)
        known = len(frame.times) - (_empty_rows_at_end(frame, len(channels)) if covariates else 0)
        past = filled(_rows(frame, known), fill)
        ahead = filled(_of(frame, covariates), fill)
        series = _series(table.name, past, config, table.sha256, frequency_of(frame.times))
    except UserError as error:
        raise UserError(f"{table.name}: {error}") from None
    return History(series, ahead.values_TN[known:])


def _empty_rows_at_end(frame: Frame, channels: int) -> int:
    filled_rows = np.flatnonzero(~np.isnan(frame.values_TN[:, :channels]).all(axis=1))
    return len(frame.times) - (int(filled_rows[-1]) + 1 if filled_rows.size else 0)


def _rows(frame: Frame, count: int) -> Frame:
    return replace(frame, times=frame.times[:count], values_TN=frame.values_TN[:count])


def _of(frame: Frame, names: Sequence[str]) -> Frame:
    return replace(frame, names=tuple(names), values_TN=_pick(frame, names))

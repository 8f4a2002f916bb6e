"""What is in a file or a published set, and what stands in the way of using it: all that can be said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunecast.data import catalog, describe
from prunecast.data.calendar import distinct_times, season_of, usual_frequency
from prunecast.data.files import read_table, table_of
from prunecast.data.frames import Frame, frame_of_table
from prunecast.data.gaps import (
    MIN_ROWS,
    REFUSE,
    Break,
    breaks_of,
    check_fill,
    filled,
    in_order,
    interpolated,
    iso,
    on_grid,
    without_empty_tail,
)
from prunecast.data.numbers import LARGEST, SMALLEST
from prunecast.data.scaler import Array
from prunecast.data.series import own_file, published_rows, split_of
from prunecast.data.splits import SplitLengths, SplitRule
from prunecast.errors import UserError
from prunecast.recipe import DataConfig, load_recipe
from prunecast.records import Record

SHOWN_BREAKS = 10

FEWEST_FOR_DRIFT = 8
"""Rows of the test part, and no less than a season, from which on a drift is told."""

_FAR, _WIDE = 1.0, 2.0
"""A drift is said from so many deviations of the mean on, or so many times the deviation."""


class ChannelCheck(Record):
    """One numeric column; what cannot be told of it is absent.

    Attributes:
        name: of the column.
        min: smallest finite value, raw units.
        max: largest finite value, raw units.
        missing: how many values there are not.
        missing_share: of the rows.
        season: steps after which it repeats itself, the shortest that shows.
        shift: mean of the test part less that of the training part, in deviations of the training part.
        spread: deviation of the test part over that of the training part.
        last_value_mae: what the last value errs as a forecast, raw units.
        seasonal_mae: what the last season errs, raw units.
    """

    name: str
    min: float | None
    max: float | None
    missing: int
    missing_share: float
    season: int | None = None
    shift: float | None = None
    spread: float | None = None
    last_value_mae: float | None = None
    seasonal_mae: float | None = None


class ToBeat(Record):
    """What a model has to beat on the test part: the MSE, in standardised units, of repeating the last rows.

    Attributes:
        forecast: last value, or seasonal naive.
        horizon: steps that are forecast.
        period: rows that are repeated.
        windows: that were forecast.
        mse: over all channels.
    """

    forecast: str
    horizon: int
    period: int
    windows: int
    mse: float


class PartRows(Record):
    """Rows of each part, as training would split the series."""

    train: int
    validation: int
    test: int


class DataCheck(Record):
    """One file, or one set of the catalogue.

    Attributes:
        rows: after the header.
        start: first time.
        end: last time.
        frequency: the usual step.
        breaks: the first ten of `break_count` places where the times leave it.
        break_count: how many there are.
        channels: the columns of numbers.
        seasons: steps after which all channels together repeat themselves.
        parts: rows of training, validation and test.
        windows: that common look-backs and horizons leave.
        to_beat: errors of forecasts that need no model.
        problems: what has to be settled before the file can be used, one line each; verbs refuse it with the first.
        hints: what can be used as it is and should be looked at, one line each.
    """

    rows: int
    start: str | None
    end: str | None
    frequency: str | None
    breaks: tuple[Break, ...]
    break_count: int
    channels: tuple[ChannelCheck, ...]
    seasons: tuple[describe.Season, ...]
    parts: PartRows
    windows: tuple[describe.WindowCount, ...]
    to_beat: tuple[ToBeat, ...]
    problems: tuple[str, ...]
    hints: tuple[str, ...]


def check_data(
    source: str | Path | pd.DataFrame, fill: str = REFUSE, settings: Sequence[str] = (), plot: Path | None = None
) -> DataCheck:
    """Returns what is in a series, with one line for each thing that stands in the way.

    Args:
        source: a catalogue name, a CSV, Parquet or Feather file, which is looked for as `load_series` does, or a table.
        fill: what is to be done with gaps; gaps that it closes are no problem.
        settings: "data.key=value" texts; what they settle is no problem.
        plot: file for a picture of the channels.

    Raises:
        UserError: when the file cannot be read as a table at all, when `fill` or a setting does not fit, when a set of
            the catalogue is not what was published, or when the picture cannot be made.
    """
    check_fill(fill)
    table = table_of(source) if isinstance(source, pd.DataFrame) else None
    name = str(source) if table is None else table.name
    config = load_recipe(settings=settings, base={"data": {"name": name, "fill": fill}}).data
    entry, split = None, SplitRule()
    if table is None and config.name in catalog.names():
        entry, found, _ = published_rows(config)
        split, sound = entry.split, _Sound(found.values_TN, entry.frequency, ())
    else:
        wanted = None if config.channels is None else (*config.channels, *config.covariates)
        found = frame_of_table(table or read_table(own_file(config.name), config), config, wanted)
        sound = _repaired(found, config)
    whole, step, problems = sound
    frame, zone = found.values_TN, found.reading.zone
    times = frame.index.dropna().to_numpy()
    breaks = breaks_of(times, zone)
    try:
        split = split_of(config, split, whole.index.to_numpy(), zone)
    except UserError as error:
        problems = (*problems, str(error))
    lengths = split.lengths(len(whole), step or "")
    season = None if entry is None else entry.season
    channels, described = _described(found, whole, step, lengths, season)
    if plot is not None:
        from prunecast.data.picture import write_picture

        write_picture(plot, whole, lengths)
    distinct, windows = distinct_times(times), tuple(describe.common_window_counts(lengths))
    return DataCheck(
        rows=len(frame),
        start=iso(times[0], zone) if times.size else None,
        end=iso(times[-1], zone) if times.size else None,
        frequency=usual_frequency(distinct, zone) if len(distinct) >= 2 else None,
        breaks=breaks[:SHOWN_BREAKS],
        break_count=len(breaks),
        channels=channels,
        seasons=described.seasons,
        parts=PartRows(train=lengths.train, validation=lengths.validation, test=lengths.test),
        windows=windows,
        to_beat=described.to_beat,
        problems=problems,
        hints=(
            *found.notes,
            *_hints(
                found,
                whole,
                channels,
                entry,
                too_short=lengths if step and not any(count.fits for count in windows) else None,
                whole_season=lengths.test >= max(FEWEST_FOR_DRIFT, season or (season_of(step) if step else 1)),
            ),
        ),
    )


# What stands in the way


class _Sound(NamedTuple):
    """The rows as far as they can be put right, their step, and all that has to be settled before."""

    rows: pd.DataFrame
    step: str | None
    problems: tuple[str, ...]


def _repaired(found: Frame, config: DataConfig) -> _Sound:
    """Returns what can be put right, and what cannot.

    The first problem is the one that verbs refuse the file with. What one problem hides is looked for as if it were
    settled.
    """
    problems, zone = list(found.problems), found.reading.zone
    frame = found.values_TN[found.values_TN.index.notna()]
    known = len(frame) == len(found.values_TN)
    settled = config
    for option, value in (("order", config.order), ("order", "sort"), ("duplicates", "first")):
        settled = settled.model_copy(update={option: value})
        try:
            frame = in_order(frame, settled, zone)
            break
        except UserError as error:
            problems += [str(error)] if known else []
    if known and len(frame) < MIN_ROWS:
        problems.append(f"expected at least {MIN_ROWS} rows, found {len(frame)}")
    try:
        frame = without_empty_tail(frame, config)
    except UserError as error:
        problems.append(str(error))
        frame = without_empty_tail(frame, config.model_copy(update={"tail": "cut"}))
    step = None
    if known and len(frame) >= MIN_ROWS:
        try:
            frame, step = on_grid(frame, config.fill, zone)
        except UserError as error:
            problems.append(str(error))
    lacking = zip(found.values_TN.items(), found.missing, strict=True)
    unreadable = [name for (name, values), count in lacking if count == 0 and values.isna().any()]
    problems += _missing(frame.drop(columns=unreadable), config.fill)  # that they hold no number has been said
    if step is None and len(frame) >= MIN_ROWS:
        try:
            frame, step = on_grid(frame, "ffill", zone)
        except UserError:
            step = None  # on no grid at all, which has been said
    return _Sound(frame, step, tuple(dict.fromkeys(problems)))


def _missing(frame: pd.DataFrame, fill: str) -> Iterator[str]:
    """Yields what cannot be filled: first what all columns are refused with, then what each is."""
    if not frame.shape[1] or not len(frame):
        return
    empty = [name for name, some in frame.isna().any().items() if some]
    for names in (empty, *([name] for name in empty)) if empty else ():
        try:
            filled(frame[names], fill)
        except UserError as error:
            yield str(error)


# What the numbers are like


class _Described(Record):
    seasons: tuple[describe.Season, ...] = ()
    to_beat: tuple[ToBeat, ...] = ()


def _described(
    found: Frame,
    whole: pd.DataFrame,
    step: str | None,
    lengths: SplitLengths,
    season: int | None,
) -> tuple[tuple[ChannelCheck, ...], _Described]:
    """Returns what is said of each column, and of all of them together; gaps are bridged for it.

    `season` is what the seasonal naive forecast repeats; what is found when absent.
    """
    frame = found.values_TN
    told: dict[str, dict[str, float | int | None]] = {str(name): {} for name in frame.columns}
    names, values_TC = _usable(whole)
    described = _Described()
    if names and len(whole) >= MIN_ROWS and lengths.train and lengths.test:
        seasons, each = describe.seasons_of(values_TC)
        drift = describe.drift_of(values_TC, lengths)
        horizon = next((steps for steps in (96, 48, 24, 12, 6, 3, 1) if 2 * steps <= lengths.test), 1)
        usual = 1 if step is None else season_of(step)
        period = season or next((shortest.steps for shortest in seasons), usual)
        beaten = []
        for forecast, rows in (("last value", 1), ("seasonal naive", period)):
            error = describe.naive_error(values_TC, lengths, horizon, rows)
            if error is None or (forecast == "seasonal naive" and period == 1):
                continue
            beaten.append(ToBeat(forecast=forecast, horizon=horizon, period=rows, windows=error.windows, mse=error.mse))
            for name, mae in zip(names, error.mae, strict=True):
                told[name]["last_value_mae" if forecast == "last value" else "seasonal_mae"] = float(mae)
        for place, name in enumerate(names):
            own = each[place]
            told[name]["season"] = None if own is None else own.steps
            if np.isfinite(drift.shift[place]):
                told[name] |= {"shift": float(drift.shift[place]), "spread": float(drift.ratio[place])}
        described = _Described(seasons=seasons, to_beat=tuple(beaten))
    channels = []
    for (column, values), lacking in zip(frame.items(), found.missing, strict=True):
        finite = values[np.isfinite(values)]
        low, high = (None, None) if finite.empty else (float(finite.min()), float(finite.max()))
        facts = {"min": low, "max": high, "missing": lacking, "missing_share": lacking / max(len(frame), 1)}
        channels.append(ChannelCheck.model_validate({"name": str(column), **facts, **told[str(column)]}))
    return tuple(channels), described


def _usable(whole: pd.DataFrame) -> tuple[list[str], Array]:
    """Returns the columns that can be computed with, and their values (T, C) with gaps bridged."""
    with np.errstate(invalid="ignore"):
        values_TN = whole.to_numpy()
        largest = np.maximum(np.fmax.reduce(values_TN, initial=0.0), -np.fmin.reduce(values_TN, initial=0.0))
    kept = (largest <= LARGEST) & ((largest >= SMALLEST) | (largest == 0)) & ~np.isnan(values_TN).all(axis=0)
    some = whole if kept.all() else whole.loc[:, kept]
    if some.isna().to_numpy().any():
        some = interpolated(some, ends=True)
    return [str(name) for name in some.columns], np.ascontiguousarray(some.to_numpy())


def _hints(
    found: Frame,
    whole: pd.DataFrame,
    channels: Sequence[ChannelCheck],
    entry: catalog.Entry | None,
    *,
    too_short: SplitLengths | None,
    whole_season: bool,
) -> tuple[str, ...]:
    """Returns what is no reason to refuse a series and should be known, with what to do about it.

    Nothing can be done about a set of the catalogue, which is used as published: what is known of it stands there.

    Args:
        found: the rows as they were read.
        whole: the rows as far as they can be put right.
        channels: what is known of each.
        entry: of a set of the catalogue; None for a file.
        too_short: the parts of a series that leaves no common windows; None for others.
        whole_season: whether the test part has one.
    """
    hints = [] if too_short is None else [_longest(too_short)]
    seen = [*_twice(found), *_odd(found.values_TN, channels, whole_season=whole_season), *_copies(whole)]
    if entry is None:
        return (*hints, *(f"{what}; {remedy}" for what, remedy in seen))
    known = [
        f"known of {entry.name}: {' '.join(map(repr, item.columns))}{': ' * bool(item.columns)}{item.note}"
        f"{'' if item.count is None else f' ({item.count})'}"
        for item in entry.irregularities
    ]
    return (*known, *hints, *(what for what, _ in seen))


def _longest(lengths: SplitLengths) -> str:
    """Returns that no common windows fit, and the longest that do."""
    train, validation, test = lengths
    rows = f"{sum(lengths)} rows (training {train}, validation {validation}, test {test})"
    least = f"a look-back of {min(describe.LOOKBACKS)} and a horizon of {min(describe.HORIZONS)}"
    horizon = min(validation, test, train - 1)
    if horizon < 1:
        return f"{rows} are too few for any look-back and horizon; more rows, or another data.split, are needed"
    return f"{rows} are too few for {least}; the longest that fit are --horizon {horizon} --lookback {train - horizon}"


def _twice(found: Frame) -> Iterator[tuple[str, str]]:
    times = found.values_TN.index
    twice = (np.diff(times.to_numpy()) == np.timedelta64(0)).nonzero()[0]
    for row in twice[:1]:
        yield (
            f"times that stand twice: {len(twice)}, the first in row {row + 2} ({iso(times[row], found.reading.zone)})",
            "a row that repeats all of the one before is left out, for others data.duplicates says which counts",
        )


def _odd(frame: pd.DataFrame, channels: Sequence[ChannelCheck], *, whole_season: bool) -> Iterator[tuple[str, str]]:
    """Yields columns from which nothing can be learnt, numbers that stand for missing ones, and last drift.

    A part of a season differs from the whole by its nature: drift is told where the test part has `whole_season`.
    """
    drifts = []
    for channel in channels:
        values_T = frame[channel.name].to_numpy()
        if channel.min is None or channel.missing == len(frame) or np.isinf(values_T).any():
            continue
        drop = f"leave it out with data.drop=[{channel.name}]"
        if channel.min == channel.max:
            yield f"column {channel.name!r} is constant ({channel.min:g}): nothing can be learnt from it", drop
        elif describe.is_index(values_T):
            yield f"column {channel.name!r} only counts, as an index does", drop
        elif (sentinel := describe.sentinel_of(values_T)) is not None:
            value, count, row = sentinel
            yield (
                f"column {channel.name!r}: {value:g} stands in {count} row{'s' * (count > 1)}, the first row "
                f"{row + 1}, and far from all else",
                "where it means that nothing was measured, empty these cells and set data.fill",
            )
        elif channel.shift is None or channel.spread is None or not whole_season:
            continue
        elif abs(channel.shift) > _FAR or not 1 / _WIDE <= channel.spread <= _WIDE:
            drifts.append(
                (
                    f"column {channel.name!r} drifts: in the test part its mean lies {channel.shift:+.2f} training "
                    f"deviations off and its deviation is {channel.spread:.2f} times that of training",
                    "another data.split, or newer rows, may suit it better",
                )
            )
    yield from drifts


def _copies(whole: pd.DataFrame) -> Iterator[tuple[str, str]]:
    names, values_TC = _usable(whole)
    for copy in describe.copies_of(values_TC):
        when = f"{copy.lag} steps later" if copy.lag else "at the same time"
        yield (
            f"column {names[copy.later]!r} repeats {names[copy.earlier]!r} {when}, up to scale and level",
            f"leave one of them out with data.drop=[{names[copy.later]}]",
        )

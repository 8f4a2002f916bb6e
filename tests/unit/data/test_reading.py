"""Files as people have them: each kind of form is read rightly, or refused with the cause and the option that helps."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.histories import history_of

from prunecast.data.calendar import wall_times
from prunecast.data.check import check_data
from prunecast.data.files import read_table, table_of
from prunecast.data.series import Series, load_series, series_of
from prunecast.data.times import texts_of, time_of
from prunecast.errors import UserError
from prunecast.recipe import DataConfig, load_recipe

HOURS = pd.date_range("2024-01-01", periods=48, freq="h")


def load(folder: Path, content: str | bytes, **options: object) -> Series:
    path = folder / "own.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_series(DataConfig.model_validate({"name": str(path), **options}))


def table(times: pd.DatetimeIndex, form: str, header: str = "date,v") -> str:
    return f"{header}\n" + "".join(f'"{text}",{row + 0.5}\n' for row, text in enumerate(times.strftime(form)))


def refused(folder: Path, content: str | bytes, *parts: str, **options: object) -> None:
    with pytest.raises(UserError) as raised:
        load(folder, content, **options)
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


# Times


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d %H:%M", "%Y.%m.%d %H:%M:%S", "%Y%m%d %H%M", "%Y%m%d%H%M",
        "%Y%m%d%H", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%m/%d/%Y %I:%M %p", "%d/%m/%Y %I:%M:%S %p",
        "%d %b %Y %H:%M", "%b %d, %Y %H:%M", "%d-%B-%Y %H:%M", "%Y-%m-%d %H:%M UTC",
    ],
)  # fmt: skip
def test_forms_of_hours(tmp_path: Path, form: str) -> None:
    series = load(tmp_path, table(HOURS, form))
    np.testing.assert_array_equal(series.times, HOURS.to_numpy())
    assert series.frequency == "h"


@pytest.mark.parametrize(
    ("form", "step"),
    [("%Y-%m", "MS"), ("%Y%m", "MS"), ("%b %Y", "MS"), ("%B %Y", "MS"), ("%b-%Y", "MS"), ("%m/%Y", "MS"),
     ("%Y", "YS"), ("%Y%m%d", "D"), ("%Y%m%d", "B"), ("%d-%b-%Y", "W-FRI"), ("%a, %d %b %Y", "D")],
)  # fmt: skip
def test_forms_of_longer_steps(tmp_path: Path, form: str, step: str) -> None:
    times = pd.date_range("2019-02-01", periods=30, freq=step)
    series = load(tmp_path, table(times, form))
    np.testing.assert_array_equal(series.times, times.to_numpy())
    assert series.frequency == ("7D" if step.startswith("W") else step)


@pytest.mark.parametrize("form", ["{0}Q{1}", "{0}-Q{1}", "Q{1} {0}", "{0} q{1}"])
def test_quarters(tmp_path: Path, form: str) -> None:
    rows = "".join(f"{form.format(2020 + row // 4, row % 4 + 1)},{row}\n" for row in range(12))
    series = load(tmp_path, "quarter,v\n" + rows)
    assert (series.frequency, str(series.times[1])[:10]) == ("QS", "2020-04-01")


@pytest.mark.parametrize(
    ("unit", "numbers"),
    [
        ("excel", [f"{43831 + row / 24:.6f}" for row in range(48)]),
        ("s", [str(1704067200 + 3600 * row) for row in range(48)]),
        ("ms", [str(1000 * (1704067200 + 3600 * row)) for row in range(48)]),
        ("ns", [str(10**9 * (1704067200 + 3600 * row)) for row in range(48)]),
    ],
)
def test_numbers_that_are_times(tmp_path: Path, unit: str, numbers: list[str]) -> None:
    series = load(tmp_path, "date,v\n" + "".join(f"{text},1\n" for text in numbers))
    start = "2020-01-01" if unit == "excel" else "2024-01-01"
    assert (series.reading.form, series.frequency, str(series.times[0])[:10]) == (unit, "h", start)


def test_seconds_with_fractions_are_regular(tmp_path: Path) -> None:
    rows = "".join(f"{1664458771 + row / 5:.1f},{row}\n" for row in range(48))
    assert load(tmp_path, "timestamp,v\n" + rows).frequency == "200ms"


def test_a_tie_between_day_and_month_is_named_and_settled(tmp_path: Path) -> None:
    """One day in June or in May: nothing in the file says which."""
    june = pd.date_range("2024-06-05", periods=24, freq="h")
    content = table(june, "%d/%m/%Y %H:%M")
    refused(tmp_path, content, "may be 2024-05-06T00:00:00 or 2024-06-05T00:00:00; set data.date_format")
    np.testing.assert_array_equal(load(tmp_path, content, date_format="%d/%m/%Y %H:%M").times, june.to_numpy())
    refused(
        tmp_path, "date,a\n1/1/2020,1\n1/2/2020,2\n1/3/2020,3\n", "may be 2020-01-02T00:00:00 or 2020-02-01T00:00:00"
    )


@pytest.mark.parametrize("mark", "./-")
@pytest.mark.parametrize("form", ["%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%d{0}%m{0}%Y %H:%M", "%m{0}%d{0}%Y %H:%M:%S.%f"])
def test_order_of_day_and_month_is_no_matter_of_the_mark(tmp_path: Path, form: str, mark: str) -> None:
    """Up to the twelfth, days in a row may be months in a row; their hours, or a thirteenth, say which."""
    form = form.format(mark)
    days = pd.date_range("2024-01-03", periods=9, freq="D")
    refused(tmp_path, table(days, form), "row 1", "may be", "set data.date_format", repr(form))
    np.testing.assert_array_equal(load(tmp_path, table(days, form), date_format=form).times, days.to_numpy())
    for times in (pd.date_range("2024-01-03", periods=13, freq="D"), pd.date_range("2024-01-03", periods=99, freq="h")):
        if times.freqstr == "D" or "%H" in form:
            np.testing.assert_array_equal(load(tmp_path, table(times, form)).times, times.to_numpy())


def test_a_gap_does_not_settle_the_order_of_day_and_month(tmp_path: Path) -> None:
    """Months, of which one is missing, are as likely as days with one missing."""
    months = pd.date_range("2024-01-01", periods=12, freq="MS").delete([5]) + pd.Timedelta(days=4)
    refused(tmp_path, table(months, "%d.%m.%Y"), "may be", "set data.date_format", fill="ffill")
    refused(tmp_path, table(months, "%m/%d/%Y"), "may be", "set data.date_format", fill="ffill")


def test_the_same_day_of_each_month_is_as_likely_as_days_in_a_row(tmp_path: Path) -> None:
    months = "date,v\n" + "".join(f"05/{month:02}/2024,{month}\n" for month in range(1, 8))
    refused(tmp_path, months, "may be 2024-05-01T00:00:00 or 2024-01-05T00:00:00; set data.date_format")
    assert load(tmp_path, months, date_format="%m/%d/%Y").frequency == "D"


@pytest.mark.parametrize("mark", "/-")
def test_years_from_one_to_the_next_are_no_months(tmp_path: Path, mark: str) -> None:
    """2000/01 to 2011/12 would else be months, thirteen apart."""
    years = "year,v\n" + "".join(f"{year}{mark}{(year + 1) % 100:02},{year}\n" for year in range(2000, 2012))
    refused(tmp_path, years, "look like years from one to the next", "data.date_format=iso")
    assert load(tmp_path, years, date_format="iso").frequency == "13MS"


def test_what_training_settled_is_used_again(tmp_path: Path) -> None:
    trained = load(tmp_path, table(pd.date_range("2024-04-05", periods=1800, freq="h"), "%d/%m/%Y %H:%M"))
    (tmp_path / "new.csv").write_text(table(pd.date_range("2024-06-05", periods=24, freq="h"), "%d/%m/%Y %H:%M"))
    series = history_of(read_table(tmp_path / "new.csv"), ("v",), known=trained.reading)
    assert series.times[0] == np.datetime64("2024-06-05")
    (tmp_path / "new.csv").write_text(table(pd.date_range("2024-06-05", periods=24, freq="h"), "%Y-%m-%d %H:%M"))
    assert history_of(read_table(tmp_path / "new.csv"), ("v",), known=trained.reading).reading.form == "iso"


@pytest.mark.parametrize("form", ["%Y-%m-%d {}", "%d/%m/%Y {}", "%m/%d/%Y {}", "%Y-%m-%dT{}+01:00", "%d.%m.%Y {}:00"])
def test_24_00_is_the_end_of_a_day(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    times = pd.date_range("2024-01-10 01:00", periods=24 * 20, freq="h")
    ends = [
        (time - pd.Timedelta(days=1)).strftime(form.format("24:00"))
        if time.hour == 0 else time.strftime(form.format("%H:%M")) for time in times
    ]  # fmt: skip
    rows = [f"{text},{row + 0.5}" for row, text in enumerate(ends)]
    series = load(tmp_path, "\n".join(["date,v", *rows]))
    np.testing.assert_array_equal(wall_times(series.times, series.reading.zone), times.to_numpy())
    said = "own.csv: column 'date': 24:00 (20 rows, the first row 24) is read as 0:00 of the next day\n"
    assert capsys.readouterr().err == said
    assert said.strip().partition(": ")[2] in check_data(tmp_path / "own.csv").hints
    rows[23] = rows[23].replace("24:00", "00:00").replace(rows[23][:10], rows[24][:10])
    if "T" not in form:
        refused(tmp_path, "\n".join(["date,v", *rows]), "row 48: 24:00 stands beside 0:00")


def test_hours_from_one_to_24_in_a_column_of_their_own(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-10", periods=24 * 5, freq="h")
    rows = "".join(f"{time:%d/%m/%Y},{time.hour + 1},{time.hour}\n" for time in times)
    series = load(tmp_path, "Date,Hour,v\n" + rows, time_column=["Date", "Hour"])
    np.testing.assert_array_equal(series.times, (times + pd.Timedelta(hours=1)).to_numpy())


@pytest.mark.parametrize("form", ["%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M"])
def test_a_bare_date_amid_times_is_its_midnight(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    times = pd.date_range("2024-01-10", periods=24 * 6 + 1, freq="h")
    date = form.split(maxsplit=1)[0]
    texts = [time.strftime(date if time.hour == 0 else form) for time in times]
    series = load(tmp_path, "\n".join(["date,v", *(f"{text},1" for text in texts)]))
    np.testing.assert_array_equal(series.times, times.to_numpy())
    said = "own.csv: column 'date': dates without a clock (7 rows, the first row 1) are read as 0:00\n"
    assert capsys.readouterr().err == said
    other = "10 Jan 2024" if form[1] != "Y" else "10/01/2024"
    refused(tmp_path, "\n".join(["date,v", *(f"{text},1" for text in [*texts[:24], other, *texts[25:]])]), "row 25")


def test_years_of_two_digits_are_asked_for(tmp_path: Path) -> None:
    content = table(HOURS, "%m/%d/%y %H:%M")
    refused(tmp_path, content, "has a year of two digits; set data.date_format, for instance to '%m/%d/%y %H:%M'")
    assert load(tmp_path, content, date_format="%m/%d/%y %H:%M").times[-1] == HOURS[-1].to_numpy()
    refused(tmp_path, content, "expected a date or time of the form %Y", date_format="%Y")
    refused(tmp_path, content, "data.date_format: expected iso, quarter, excel", date_format="%Q")


def test_time_in_several_columns(tmp_path: Path) -> None:
    rows = "".join(f"{time:%d/%m/%Y};{time:%H:%M:%S};{time.hour}\n" for time in HOURS)
    refused(tmp_path, "Date;Time;p\n" + rows, "data.time_column=[Date, Time]")
    series = load(tmp_path, "Date;Time;p\n" + rows, time_column=["Date", "Time"])
    np.testing.assert_array_equal(series.times, HOURS.to_numpy())
    assert series.channels == ("p",)
    parts = "".join(f"{time.year},{time.month},{time.day},{time.hour},{time.hour}\n" for time in HOURS)
    series = load(tmp_path, "year,month,day,hour,v\n" + parts, time_column=["year", "month", "day", "hour"])
    np.testing.assert_array_equal(series.times, HOURS.to_numpy())


# Zones


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Sydney"])
@pytest.mark.parametrize(("step", "periods"), [("h", 24 * 300), ("D", 300), ("B", 200)])
def test_local_times_with_offsets_across_both_clock_changes(tmp_path: Path, zone: str, step: str, periods: int) -> None:
    times = pd.date_range("2023-02-01", periods=periods, freq=step, tz=zone)
    series = load(tmp_path, "date,v\n" + "".join(f"{time.isoformat()},1\n" for time in times))
    assert (series.frequency, series.reading.zone) == (step, zone)
    np.testing.assert_array_equal(series.times, times.tz_convert(None).to_numpy())
    np.testing.assert_array_equal(wall_times(series.times, zone), times.tz_localize(None).to_numpy())


@pytest.mark.parametrize("zone", ["America/Sao_Paulo", "Asia/Tehran", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_days_of_zones_with_rules_of_their_own(tmp_path: Path, zone: str) -> None:
    days = pd.date_range("2017-02-01", periods=300, freq="D")
    times = days.tz_localize(zone, nonexistent="shift_forward")
    series = load(tmp_path, "date,v\n" + "".join(f"{time.isoformat()},1\n" for time in times))
    assert series.frequency == "D"
    np.testing.assert_array_equal(series.times, times.tz_convert(None).to_numpy())
    np.testing.assert_array_equal(wall_times(series.times, series.reading.zone), times.tz_localize(None).to_numpy())
    gaps = "date,v\n" + "".join(f"{time.isoformat()},1\n" for time in times.delete([20, 200]))
    np.testing.assert_array_equal(load(tmp_path, gaps, fill="ffill").times, series.times)


def test_offsets_of_a_series_in_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunecast.data.times.BLOCK_ROWS", 500)
    times = pd.date_range("2023-01-01", periods=8000, freq="h", tz="Europe/Paris")
    series = load(tmp_path, "date,v\n" + "".join(f"{time.isoformat()},1\n" for time in times))
    np.testing.assert_array_equal(series.times, times.tz_convert(None).to_numpy())
    assert series.reading.zone == "Europe/Berlin"


def test_an_offset_that_never_changes_is_a_zone(tmp_path: Path) -> None:
    series = load(tmp_path, "date,v\n" + "".join(f"{time.isoformat()}+05:30,1\n" for time in HOURS))
    assert series.reading.zone == "+05:30"
    assert wall_times(series.times, "+05:30")[0] == HOURS[0].to_numpy()


def test_days_of_utc_written_by_local_clocks_are_days_of_utc(tmp_path: Path) -> None:
    times = pd.date_range("2023-10-20", periods=20, freq="D", tz="UTC").tz_convert("Europe/Berlin")
    series = load(tmp_path, "date,v\n" + "".join(f"{time.isoformat()},1\n" for time in times))
    assert (series.frequency, series.reading.zone) == ("D", "UTC")


def test_a_zone_can_be_named(tmp_path: Path) -> None:
    """An hour that clocks double stands twice in the file, one that they skip is not there."""
    times = pd.date_range("2023-03-01", "2023-11-30 23:00", freq="h", tz="Europe/Berlin")
    content = table(times.tz_localize(None), "%Y-%m-%d %H:%M")
    refused(tmp_path, content, "repeats row")
    series = load(tmp_path, content, timezone="Europe/Berlin")
    np.testing.assert_array_equal(series.times, times.tz_convert(None).to_numpy())
    with pytest.raises(UserError, match=r"timezone: .*no time zone 'Berlin'; did you mean 'Europe/Berlin'"):
        load_recipe(settings=["data.timezone=Berlin"])
    skipped = table(pd.date_range("2023-03-25", periods=48, freq="h"), "%Y-%m-%d %H:%M")
    refused(tmp_path, skipped, "not times in Europe/Berlin", "leave data.timezone out", timezone="Europe/Berlin")


def test_a_forecast_says_which_of_two_hours_it_means(tmp_path: Path) -> None:
    """Cells without an offset would tell the doubled hour twice alike."""
    times = pd.date_range("2023-10-25", "2023-10-31 23:00", freq="h", tz="Europe/Berlin")
    for form in ("%Y-%m-%d %H:%M", "%d/%m/%Y %H:%M"):
        content = table(times.tz_localize(None), form)
        reading = load(tmp_path, content, timezone="Europe/Berlin").reading
        cell = content.splitlines()[1].split(",")[0].strip('"')
        calm = texts_of(times[:20].tz_convert(None).to_numpy(), reading, cell)
        assert calm.tolist() == times[:20].strftime(form).tolist()
        written = texts_of(times.tz_convert(None).to_numpy(), reading, cell)
        assert written[0] == "2023-10-25T00:00:00+02:00"
        again = load(tmp_path, "date,v\n" + "".join(f"{text},1\n" for text in written), timezone="Europe/Berlin")
        np.testing.assert_array_equal(again.times, times.tz_convert(None).to_numpy())
        with pytest.raises(UserError, match="clocks double that hour in Europe/Berlin; write its offset too"):
            time_of("2023-10-29T02:00", reading)
        assert time_of("2023-10-29T02:00+01:00", reading) == np.datetime64("2023-10-29T01:00")


def test_seconds_since_1970_are_of_utc_whatever_clocks_they_are_told_by(tmp_path: Path) -> None:
    times = pd.date_range("2023-03-01", "2023-11-30 23:00", freq="h")
    seconds = times.as_unit("s").astype(np.int64)
    series = load(tmp_path, "time,v\n" + "".join(f"{time},1\n" for time in seconds), timezone="Europe/Berlin")
    np.testing.assert_array_equal(series.times, times.to_numpy())
    assert (series.reading.zone, series.frequency) == ("Europe/Berlin", "h")
    assert texts_of(series.times, series.reading, str(seconds[0])).tolist() == seconds.tolist()
    assert time_of(str(seconds[9]), series.reading) == times[9].to_numpy()
    assert time_of("2023-03-01T10:00", series.reading) == times[9].to_numpy()


def test_times_with_and_without_offset_are_told_apart(tmp_path: Path) -> None:
    rows = "2024-01-01T00:00,1\n2024-01-01T01:00+01:00,2\n2024-01-01T02:00,3\n"
    refused(tmp_path, "date,v\n" + rows, "row 2: has an offset from UTC, and the first row has none")


# Steps, order and gaps


@pytest.mark.parametrize(
    "step",
    ["B", "MS", "ME", "QS", "QE", "YS", "YE", "YS-APR", "YE-MAR", "QS-FEB", "SMS", "SME", "BME", "2D", "7D", "h"],
)
def test_a_gap_is_counted_and_filled_on_the_step_of_the_calendar(tmp_path: Path, step: str) -> None:
    times = pd.date_range("2001-02-03", periods=60, freq=step)
    content = table(times.delete([30]), "%Y-%m-%d %H:%M")
    refused(tmp_path, content, "missing time steps: 1, the first after row 30", f"at the step {step}; set data.fill")
    series = load(tmp_path, content, fill="ffill")
    np.testing.assert_array_equal(series.times, times.to_numpy())
    assert (series.frequency, series.raw_TC[30, 0]) == (step, 29.5)


def test_five_days_from_monday_to_friday_follow_the_models_step(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(table(pd.date_range("2023-06-12", periods=5, freq="D"), "%Y-%m-%d"))
    assert history_of(read_table(tmp_path / "new.csv"), ("v",), step="B").frequency == "B"


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%d/%m/%Y %H:%M"])
def test_rows_in_another_order_are_sorted_on_request(tmp_path: Path, form: str) -> None:
    times = pd.date_range("2024-01-01", periods=24 * 20, freq="h")
    content = table(times[::-1], form)
    refused(tmp_path, content, "goes back behind row 1", "more do so; set data.order=sort")
    series = load(tmp_path, content, order="sort")
    np.testing.assert_array_equal(series.times, times.to_numpy())
    assert series.raw_TC[0, 0] == len(times) - 0.5


def test_times_that_stand_twice(tmp_path: Path) -> None:
    times = HOURS.insert(5, HOURS[5])
    content = table(times, "%Y-%m-%d %H:%M")
    refused(tmp_path, content, "row 7 (2024-01-01T05:00:00) repeats row 6", "set data.duplicates=mean, first or last")
    for choice, value in {"mean": 6, "first": 5.5, "last": 6.5}.items():
        series = load(tmp_path, content, duplicates=choice)
        assert (len(series.times), series.raw_TC[5, 0]) == (48, value)


@pytest.mark.parametrize("order", ["refuse", "sort"])
def test_the_first_of_two_is_the_first_in_the_file(tmp_path: Path, order: str) -> None:
    """Also where the newest row comes first."""
    times = HOURS.insert(5, HOURS[5])
    times = times[::-1] if order == "sort" else times
    content = table(times, "%Y-%m-%d %H:%M")
    rows = [row + 0.5 for row, time in enumerate(times) if time == HOURS[5]]
    refused(tmp_path, content, f"row {rows[1] + 0.5:.0f} (2024-01-01T05:00:00) repeats row {rows[0] + 0.5:.0f} (",
            order=order)  # fmt: skip
    for choice, value in {"first": rows[0], "last": rows[1], "mean": sum(rows) / 2}.items():
        assert load(tmp_path, content, order=order, duplicates=choice).raw_TC[5, 0] == value


@pytest.mark.parametrize("step", ["h", "15min"])
@pytest.mark.parametrize(("start", "what"), [("10-20", "back"), ("03-24", "on")])
def test_an_hour_that_clocks_double_or_skip_asks_for_their_zone(
    tmp_path: Path, step: str, start: str, what: str
) -> None:
    times = pd.date_range(f"2024-{start}", periods=1500, freq=step, tz="Europe/Berlin")
    content = table(times, "%Y-%m-%d %H:%M")
    refused(tmp_path, content, f"if clocks went {what} there, set data.timezone to theirs")
    np.testing.assert_array_equal(load(tmp_path, content, timezone="Europe/Berlin").times, times.tz_convert(None))


def test_a_row_that_repeats_all_of_the_one_before_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(HOURS, "%Y-%m-%d %H:%M").splitlines(keepends=True)
    assert len(load(tmp_path, "".join([*lines[:9], lines[8], lines[8], *lines[9:]])).times) == 48
    said = "row 9 (2024-01-01T07:00:00) wholly repeats another and is left out (and 1 more)"
    assert capsys.readouterr().err == f"own.csv: {said}\n"
    history_of(read_table(tmp_path / "own.csv"), ("v",))
    assert capsys.readouterr().err == f"own.csv: {said}\n"
    long = "id,date,v\n" + "".join(f"{name},{line}" for name in "AB" for line in [*lines[1:9], lines[8], *lines[9:]])
    assert load(tmp_path, long, series_column="id").raw_TC.shape == (48, 2)
    assert "series 'B': row 9 (2024-01-01T07:00:00) wholly repeats another" in capsys.readouterr().err


@pytest.mark.parametrize("empty", ["2024-01-03 0{0}:00,\n", ",\n"])
def test_empty_rows_at_the_end_are_named_or_cut(tmp_path: Path, empty: str) -> None:
    content = table(HOURS, "%Y-%m-%d %H:%M") + "".join(empty.format(hour) for hour in range(6))
    for fill in ("refuse", "ffill"):
        refused(tmp_path, content, "49", "empty", "data.tail=cut", fill=fill)
        assert len(load(tmp_path, content, fill=fill, tail="cut").times) == 48
    (tmp_path / "new.csv").write_text(content)
    assert history_of(read_table(tmp_path / "new.csv"), ("v",), fill="ffill").times[-1] == HOURS[-1].to_numpy()


# Numbers


def numbers(folder: Path, *cells: str, delimiter: str = ";", **options: object) -> list[float]:
    rows = "".join(f"{2000 + row}-01-01{delimiter}{cell}\n" for row, cell in enumerate(cells))
    return load(folder, f"date{delimiter}v\n" + rows, **options).raw_TC[:, 0].tolist()


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (("1.5", "2.25", "999"), [1.5, 2.25, 999]),
        (("1,5", "2,25", "999"), [1.5, 2.25, 999]),
        (("1.002,5", "999", "1.000.000"), [1002.5, 999, 1e6]),
        (("1,002.5", "999", "1,000,000"), [1002.5, 999, 1e6]),
        (("1 002,5", "999", "1\u202f000\u00a0000"), [1002.5, 999, 1e6]),
        (("1'002.5", "999", "-1'000'000"), [1002.5, 999, -1e6]),
        (("0.002", "1.002", "999"), [0.002, 1.002, 999]),
        (('"1.5"', '"2"', "1e3"), [1.5, 2, 1000]),
        (("true", "false", "true"), [1, 0, 1]),
    ],
)
def test_marks_that_the_file_settles(tmp_path: Path, cells: tuple[str, ...], values: list[float]) -> None:
    assert numbers(tmp_path, *cells) == values


@pytest.mark.parametrize("cells", [("1.002", "999", "1.100"), ("1,002", "999", "1,100"), ("1.002", "2.100", "3.100")])
def test_marks_that_nothing_settles_are_named(tmp_path: Path, cells: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"row 1: '1.002' may be (1.002 or 1002|1002 or 1.002); set data\.decimal to"):
        numbers(tmp_path, *cells)
    plain = [float(cell.replace(",", ".")) for cell in cells]
    grouped = [float(re.sub("[.,]", "", cell)) for cell in cells]
    mark, other = (".", ",") if "." in cells[0] else (",", ".")
    assert numbers(tmp_path, *cells, decimal=mark) == plain
    assert numbers(tmp_path, *cells, decimal=other) == grouped
    assert numbers(tmp_path, *cells, thousands=mark) == grouped


def test_three_decimals_in_every_row_are_decimals_where_a_comma_divides_the_columns(tmp_path: Path) -> None:
    assert numbers(tmp_path, "1.002", "2.100", "3.100", delimiter=",") == [1.002, 2.1, 3.1]


def test_one_column_settles_the_marks_of_all(tmp_path: Path) -> None:
    rows = "".join(f"{2000 + row}-01-01;{cells}\n" for row, cells in enumerate(("1.002;45,67", "999;1,5", "1.100;2")))
    assert load(tmp_path, "date;a;b\n" + rows).raw_TC.tolist() == [[1002, 45.67], [999, 1.5], [1100, 2]]


@pytest.mark.parametrize("cell", ["4e39", "1e160", "-1e300", "3e-300"])
def test_numbers_that_no_model_can_compute_with_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UserError, match=r"row \d: .* is beyond 32-bit numbers"):
        numbers(tmp_path, cell, cell, cell)


# Columns


def test_columns_are_left_out_or_chosen(tmp_path: Path) -> None:
    content = "date,load,region\n" + "".join(f"{2000 + row}-01-01,{row},north\n" for row in range(6))
    refused(tmp_path, content, "column 'region', row 1: expected a number, found 'north'", "data.drop=[region]")
    assert load(tmp_path, content, drop=["region"]).channels == ("load",)
    assert load(tmp_path, content, channels=["load"]).channels == ("load",)
    refused(tmp_path, content, "data.drop: no column 'regoin'; did you mean 'region'?", drop=["regoin"])
    refused(tmp_path, content, "column 'lod' is missing; did you mean 'load'?", channels=["lod"])
    wide = "date,0,1,2\n" + "".join(f"{2000 + row}-01-01,1,2,3\n" for row in range(6))
    assert load(tmp_path, wide, channels=[2, 0], targets=[0]).raw_TC[0].tolist() == [3, 1]


def test_a_long_table_becomes_a_column_for_each_series(tmp_path: Path) -> None:
    rows = [
        f"{name},{time:%Y-%m-%d %H:%M},{time.hour + shift}" for name, shift in (("A", 0), ("B", 9)) for time in HOURS
    ]
    content = "\n".join(["unique_id,ds,y", *rows])
    refused(tmp_path, content, "data.series_column=unique_id")
    series = load(tmp_path, content, series_column="unique_id")
    assert (series.channels, series.raw_TC.shape, series.raw_TC[1].tolist()) == (("A", "B"), (48, 2), [1, 10])
    one = load(tmp_path, content, series_column="unique_id", channels=["B"])
    assert (one.channels, one.raw_TC[0, 0]) == (("B",), 9)
    refused(tmp_path, content, "no series 'C' in 'unique_id'", series_column="unique_id", channels=["C"])
    refused(tmp_path, content.replace("A,2024-01-01 01", "A,2024-01-01 00"), "series 'A'", series_column="unique_id")
    two = "\n".join(["id,ds,y,z", *(f"{row},1" for row in rows)])
    assert load(tmp_path, two, series_column="id").channels == ("A.y", "A.z", "B.y", "B.z")


@pytest.mark.parametrize("below", [True, False])
def test_a_long_table_whose_series_are_numbered_is_told(tmp_path: Path, below: bool) -> None:
    """Sorted, with the mean of what stands twice, it would be the mean of all its series."""
    rows = [(name, time) for name in (1, 2) for time in HOURS]
    rows = rows if below else sorted(rows, key=lambda row: row[1])
    content = "id,ds,y\n" + "".join(f"{name},{time},{100 * name + time.hour}\n" for name, time in rows)
    refused(tmp_path, content, "if column 'id' says whose row it is, set data.series_column=id")
    refused(tmp_path, content, "data.series_column=id", order="sort")
    assert load(tmp_path, content, series_column="id").raw_TC[1].tolist() == [101, 201]


def test_a_file_without_header_is_named(tmp_path: Path) -> None:
    refused(tmp_path, table(HOURS, "%Y-%m-%d %H:%M").partition("\n")[2], "has no header: '2024-01-01 00:00'")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_within_quotes_are_none(tmp_path: Path, delimiter: str) -> None:
    rows = "".join(f'2024-01-0{day}{delimiter}1.5{delimiter}"2.5"\n' for day in range(1, 6))
    content = f'time{delimiter}"a, b, c; d"{delimiter}"e|f, g\th"\n{rows}'
    assert load(tmp_path, content).channels == ("a, b, c; d", "e|f, g\th")
    assert load(tmp_path, content, delimiter=delimiter).raw_TC[0].tolist() == [1.5, 2.5]


def test_a_wrong_delimiter_is_named_with_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = table(HOURS, "%Y-%m-%d %H:%M", "date;v").replace(",", ";")
    for size in (1 << 30, 0):
        monkeypatch.setattr("prunecast.data.files.LARGE_BYTES", size)
        refused(tmp_path, content, "data.delimiter: expected several columns, found one with '|'; set it to ';'",
                delimiter="|")  # fmt: skip
        assert load(tmp_path, content, delimiter=";").channels == ("v",)


# Files


def test_other_encodings_and_packings(tmp_path: Path) -> None:
    text = table(HOURS, "%Y-%m-%d %H:%M", "date,größe")
    plain = load(tmp_path, text)
    frame = pd.DataFrame({"date": HOURS, "größe": plain.raw_TC[:, 0]})
    feather = io.BytesIO()
    pyarrow.feather.write_feather(pa.Table.from_pandas(frame), feather)
    for content in (
        text.encode("utf-16"), b"\xfe\xff" + text.encode("utf-16-be"), text.encode("utf-8-sig"),
        gzip.compress(text.encode()), gzip.compress(text.encode("utf-16")), feather.getvalue(),
        b"sep=,\r\n" + text.encode(),
    ):  # fmt: skip
        series = load(tmp_path, content)
        assert series.channels == ("größe",)
        np.testing.assert_array_equal(series.raw_TC, plain.raw_TC)
        np.testing.assert_array_equal(series.times, plain.times)


def test_files_of_other_kinds_are_named_for_what_they_are(tmp_path: Path) -> None:
    for member, what in (
        ("xl/workbook.xml", "is an Excel workbook; save the sheet as CSV"),
        ("a.csv", "is a zip archive"),
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(member, "date,v\n")
        refused(tmp_path, packed.getvalue(), what)
    refused(tmp_path, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Excel workbook")
    refused(tmp_path, gzip.compress(b"date,v\n" * 100)[:-20], "not a whole gzip file")
    refused(tmp_path, b"ARROW1\0\0 and no more", "not a whole Feather file")
    with pytest.raises(UserError, match="is a device"):
        load_series(DataConfig(name="/dev/zero"))
    with pytest.raises(UserError, match="no such file") as raised:
        load_series(DataConfig(name="a" * 400 + ".csv"))
    assert len(str(raised.value)) < 330


def test_what_unfolds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"date": ["x" * 10_000_000] * 100}), path, compression="zstd")
    with pytest.raises(UserError, match=r"'date' holds a text of 10000000 characters, expected at most 1000"):
        load_series(DataConfig(name=str(path)))
    monkeypatch.setattr("prunecast.data.files.MAX_BYTES", 100)
    refused(tmp_path, gzip.compress(b"date,v\n" * 100), "unfolds into more than 100 bytes")
    refused(tmp_path, "date," + ",".join(f"c{n}" for n in range(20_001)) + "\n1,2\n", "expected at most 20000")


def test_numbers_that_turn_from_whole_to_decimal_after_a_megabyte_are_read(tmp_path: Path) -> None:
    times = pd.date_range("2000-01-01", periods=100_000, freq="min").strftime("%Y-%m-%d %H:%M").tolist()
    rows = "".join(f"{time},{row if row < 99_999 else '1.5'}\n" for row, time in enumerate(times))
    assert load(tmp_path, "date,v\n" + rows).raw_TC[-1, 0] == 1.5


@pytest.mark.parametrize(
    ("index", "frequency", "zone"),
    [
        (HOURS, "h", None),
        (pd.date_range("2024-03-01", periods=48, freq="D", tz="Europe/Berlin", name="when"), "D", "Europe/Berlin"),
        (pd.period_range("2020-01", periods=48, freq="M"), "MS", None),
    ],
    ids=["times", "times with a zone", "periods"],
)
def test_the_index_of_a_data_frame_is_its_times(index: pd.Index, frequency: str, zone: str | None) -> None:
    series = series_of(table_of(pd.DataFrame({0: range(48), "b": 1.0}, index=index)), DataConfig(name="-"))
    assert (series.channels, series.frequency, series.reading.zone) == (("0", "b"), frequency, zone)
    assert series.time_name == (index.name or "date")
    with pytest.raises(UserError, match="expected columns of times and numbers"):
        table_of(pd.DataFrame({"a": ["x", 1.5]}))
    with pytest.raises(UserError, match="Duplicate column names"):
        table_of(pd.DataFrame({"date": 1.0}, index=HOURS))


def test_names_of_two_levels_are_joined() -> None:
    names = pd.MultiIndex.from_tuples([("load", "north"), ("load", "south"), (3, "")])
    frame = pd.DataFrame(np.arange(144.0).reshape(48, 3), index=HOURS, columns=names)
    assert series_of(table_of(frame), DataConfig(name="-")).channels == ("load.north", "load.south", "3")
    frame.columns = pd.MultiIndex.from_tuples([("load", ""), ("", "load"), ("a", "b")])
    with pytest.raises(UserError, match="Duplicate column names"):
        table_of(frame)


@pytest.mark.parametrize("beyond", [300_000_000_000_000_000, -300_000_000_000_000_000, 10_000_000_000_000_000])
def test_times_beyond_all_calendars_are_named(tmp_path: Path, beyond: int) -> None:
    times = pa.array([0, 3_600_000_000, beyond], pa.timestamp("us"))
    pq.write_table(pa.table({"date": times, "v": [1.0, 2.0, 3.0]}), tmp_path / "own.parquet")
    with pytest.raises(UserError, match=r"column 'date', row 3: expected a date or time, found '"):
        load_series(DataConfig(name=str(tmp_path / "own.parquet")))


# What is read is what was written


@settings(max_examples=40, deadline=None)
@given(
    start=st.datetimes(pd.Timestamp("1980-01-01").to_pydatetime(), pd.Timestamp("2060-01-01").to_pydatetime()),
    step=st.sampled_from(["h", "15min", "7s", "D", "3D", "B", "MS", "ME", "QE", "YS-JUL", "SMS"]),
    zone=st.sampled_from([None, "UTC", "Europe/London", "America/Chicago", "Asia/Kolkata"]),
    form=st.sampled_from(["%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%z"]),
    marks=st.sampled_from(
        [(".", "", ","), (",", "", ";"), (",", ".", ";"), (".", ",", "\t"), (",", " ", ";"), (".", "'", "|")]
    ),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
)
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    start: pd.Timestamp,
    step: str,
    zone: str | None,
    form: str,
    marks: tuple[str, str, str],
    scale: float,
) -> None:
    day = pd.Timestamp(start).floor("s" if step in ("h", "15min", "7s") else "D")
    times = pd.date_range(day, periods=40, freq=step)
    if zone is not None:
        times = times.tz_localize("UTC").tz_convert(zone) if step in ("h", "15min", "7s") else times.tz_localize(zone)
    decimal, thousands, delimiter = marks
    values = np.random.default_rng(len(step)).normal(size=40).cumsum() * scale
    cells = [f"{value:,.4f}".translate(str.maketrans({",": thousands, ".": decimal})) for value in values]
    rows = "".join(f"{time}{delimiter}{cell}\n" for time, cell in zip(times.strftime(form), cells, strict=True))
    series = load(tmp_path_factory.mktemp("own"), f"when{delimiter}v\n" + rows)
    instants = times if zone is None else times.tz_convert(None)
    np.testing.assert_array_equal(series.times, instants.to_numpy())
    np.testing.assert_array_equal(wall_times(series.times, series.reading.zone), times.tz_localize(None).to_numpy())
    np.testing.assert_array_equal(series.raw_TC[:, 0], np.round(values, 4))
    assert series.frequency == step


def test_a_column_of_periods_is_its_times() -> None:
    frame = pd.DataFrame({"when": pd.period_range("2020-01", periods=30, freq="M"), 7: np.arange(30.0)})
    series = series_of(table_of(frame), DataConfig(name="table"))
    assert (series.frequency, series.channels, str(series.times[1])[:10]) == ("MS", ("7",), "2020-02-01")
    assert isinstance(frame["when"].dtype, pd.PeriodDtype), "the caller's frame stays as it is"

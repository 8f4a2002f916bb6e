"""A set that is published in parts: the nine files of PJM, put together to the bytes of one."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.data import catalog
from prunecast.data.catalog import Assembly, Entry
from prunecast.data.download import download, put_together
from prunecast.errors import UserError

TINY = """\
date,A,B
2012-10-27 22:00:00,1.0,10.0
2012-10-27 23:00:00,2.5,10.3
2012-10-28 00:00:00,4.0,10.7
2012-10-28 01:00:00,5.0,11.0
"""
PARTS = {
    # days in descending order; 23 h stands twice; B lacks two hours; rows before and after the wanted ones
    "A": b"t,A_MW\n2012-10-28 00:00:00,4.0\n2012-10-28 01:00:00,5.0\n2012-10-28 02:00:00,9.0\n"
    b"2012-10-27 21:00:00,9.0\n2012-10-27 22:00:00,1.0\n2012-10-27 23:00:00,2.0\n2012-10-27 23:00:00,3.0\n",
    "B": b"t,B_MW\n2012-10-28 01:00:00,11.0\n2012-10-27 22:00:00,10.0\n",
}


def assembly(parts: Mapping[str, bytes], **changes: object) -> Assembly:
    values: dict[str, object] = {
        "url": "https://example.org/{channel}_hourly.csv",
        "sha256": {channel: hashlib.sha256(content).hexdigest() for channel, content in parts.items()},
        "time_column": "t",
        "value_column": "{channel}_MW",
        "start": "2012-10-27T22:00:00",
        "end": "2012-10-28T01:00:00",
        "frequency": "h",
        "longest_gap": 3,
        "decimals": 1,
    }
    return Assembly.model_validate({**values, **changes})


def test_order_doubled_hours_and_gaps_are_mended() -> None:
    assert put_together(assembly(PARTS), PARTS).decode() == TINY


def published_parts(whole: bytes) -> dict[str, bytes]:
    """Parts as PJM's are: days go back, hours in them forward; clocks going back double an hour, going forward skip it.

    What was bridged is left out again, so that bridging has to give the same value.
    """
    frame = pd.read_csv(io.BytesIO(whole), parse_dates=["date"])
    parts = {}
    for channel in frame.columns[1:]:
        rows = frame[["date", channel]].set_axis(["Datetime", f"{channel}_MW"], axis=1)
        spring = rows["Datetime"].isin(pd.to_datetime([f"{year}-03-10 03:00" for year in range(2012, 2019)]))
        value = rows[f"{channel}_MW"]
        straight = ((value.shift(1) + value.shift(-1)) / 2).round(1) == value
        rows = rows[~(spring & straight)]
        autumn = rows[rows["Datetime"].isin(pd.to_datetime([f"{year}-11-04 02:00" for year in range(2012, 2018)]))]
        low, high = autumn.copy(), autumn.copy()
        low[f"{channel}_MW"] -= 8.0
        high[f"{channel}_MW"] += 8.0
        rows = pd.concat([rows.drop(autumn.index), low, high])
        outside = pd.DataFrame({"Datetime": pd.to_datetime(["2011-12-31", "2018-08-03"]), f"{channel}_MW": 1.0})
        rows = pd.concat([rows, outside])
        order = np.lexsort([rows["Datetime"], -rows["Datetime"].dt.normalize().astype("int64")])
        parts[channel] = rows.iloc[order].to_csv(index=False, date_format="%Y-%m-%d %H:%M:%S").encode()
    return parts


def test_parts_like_the_published_ones_give_the_known_file(data_dir: Path) -> None:
    entry = catalog.entry("PJM")
    assert entry.assembly is not None
    whole = (data_dir / str(entry.file)).read_bytes()
    parts = published_parts(whole)
    assert list(parts) == list(entry.assembly.sha256)
    assert len(parts["AEP"].splitlines()) > 57_743
    assert put_together(entry.assembly, parts) == whole


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Entry, list[str]]:
    """A set of two parts, and the addresses that have been asked for."""
    asked: list[str] = []

    def retrieve(entry: Entry, url: str, path: Path, check: object, quiet: bool) -> None:
        asked.append(url)
        content = PARTS[re.findall(r"(\w)_hourly", url)[0]]
        assert callable(check)
        check(content)
        path.write_bytes(content)

    monkeypatch.setattr("prunecast.data.download._retrieve", retrieve)
    entry = Entry(
        name="x",
        about="x",
        file="x.csv",
        frequency="h",
        season=24,
        max_bytes=1000,
        sha256=(hashlib.sha256(TINY.encode()).hexdigest(),),
        assembly=assembly(PARTS),
    )
    return entry, asked


def test_parts_are_downloaded_checked_and_leave_one_file(tiny: tuple[Entry, list[str]], tmp_path: Path) -> None:
    entry, asked = tiny
    assert download(entry, tmp_path).read_text() == TINY
    assert asked == ["https://example.org/A_hourly.csv", "https://example.org/B_hourly.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_the_next_try_takes_the_parts_that_are_there(
    tiny: tuple[Entry, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, asked = tiny
    right, wrong = PARTS["B"], b"t,B_MW\n"
    monkeypatch.setitem(PARTS, "B", wrong)
    with pytest.raises(UserError, match=r"the file at .*B_hourly.csv is not a part of x as published: expected hash"):
        download(entry, tmp_path)
    monkeypatch.setitem(PARTS, "B", right)
    (tmp_path / "x.csv.parts" / "B.csv").write_bytes(wrong)  # a damaged part is fetched anew
    asked.clear()
    assert download(entry, tmp_path).read_text() == TINY
    assert asked == ["https://example.org/B_hourly.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_whole_of_other_bytes_is_refused(tiny: tuple[Entry, list[str]], tmp_path: Path) -> None:
    entry, _ = tiny
    with pytest.raises(UserError, match=r"what the parts at .* give is not x as published"):
        download(entry.model_copy(update={"assembly": assembly(PARTS, decimals=0)}), tmp_path)
    assert not (tmp_path / "x.csv").exists()


def test_only_https_parts_are_taken() -> None:
    with pytest.raises(ValueError, match="https://"):
        assembly(PARTS, url="http://example.org/{channel}.csv")

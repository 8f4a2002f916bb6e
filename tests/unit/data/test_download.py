"""Downloads against a server on this machine: whole and right, or nothing at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from requests.adapters import HTTPAdapter

from prunecast.data import catalog
from prunecast.data.catalog import Assembly, Entry
from prunecast.data.download import (
    assembled,
    download,
    fetch_verified,
    find,
    git_blob_id,
    hash_file,
    locate,
    verified,
)
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.recipe import DataConfig

CONTENT = b"date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03,3\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


HOST = "https://published.example"


class Answers(BaseHTTPRequestHandler):
    """Gives the file, also by a redirect, broken off, compressed, or far too long with no length said; else 404."""

    def do_GET(self) -> None:
        bodies = {
            "/good": CONTENT,
            "/short": CONTENT[:20],
            "/endless": CONTENT * 50,
            "/bomb": gzip.compress(bytes(100_000)),
        }
        if self.path in ("/moved", "/downgrade"):
            self.send_response(302)
            self.send_header("Location", f"{HOST}/good" if self.path == "/moved" else "http://example.org/x.csv")
            self.end_headers()
        elif self.path in bodies:
            self.send_response(200)
            if self.path == "/bomb":
                self.send_header("Content-Encoding", "gzip")
            elif self.path != "/endless":
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(bodies[self.path])
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


@pytest.fixture
def server(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A host that answers for HTTPS; behind it stands the plain server of this machine. No other host is asked."""
    reach(address, monkeypatch)
    return HOST


def reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send = HTTPAdapter.send

    def redirected(self: HTTPAdapter, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        assert request.url is not None
        assert request.url.startswith(HOST), f"asked {request.url}"
        asked, request.url = request.url, request.url.replace(HOST, address)
        response = send(self, request, **{**settings, "proxies": {}})
        request.url = response.url = asked
        return response

    monkeypatch.setattr(HTTPAdapter, "send", redirected)


def entry_at(url: str, **changes: object) -> Entry:
    base = Entry(name="x", about="x", file="x.csv", frequency="D", season=7, max_bytes=1000, sha256=(SHA256,))
    return base.model_copy(update={"url": url, **changes})


def fetch(entry: Entry, folder: Path, *, accept_unverified: bool = False) -> Path:
    return download(entry, folder, accept_unverified=accept_unverified)


def test_right_file_is_stored_whole(server: str, tmp_path: Path) -> None:
    path = fetch(entry_at(f"{server}/good"), tmp_path / "new" / "cache")
    assert path.read_bytes() == CONTENT
    assert [item.name for item in path.parent.iterdir()] == ["x.csv"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("/good", {"sha256": ("0" * 64,)}, "is not x as published: expected hash 0{64}, found"),
        ("/good", {"sha256": (), "git_blob": "0" * 40}, "is not x as published"),
        ("/short", {}, r"failed: IncompleteRead\(20 bytes read, \d+ more expected\); try again"),
        ("/good", {"max_bytes": 20}, "larger than the expected 20 bytes"),
        ("/endless", {}, "larger than the expected 1000 bytes"),
        ("/bomb", {}, "larger than the expected 1000 bytes"),
        ("/absent", {}, "failed: 404 Client Error: Not Found"),
        ("/downgrade", {}, r"refused to download from http://example\.org/x\.csv: expected https"),
    ],
)
def test_wrong_file_is_refused_and_leaves_nothing(
    server: str, tmp_path: Path, path: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        fetch(entry_at(server + path, **changes), tmp_path)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reach(f"http://127.0.0.1:{unused.getsockname()[1]}", monkeypatch)
        with pytest.raises(UserError, match=r"x: download from .* failed: .*refused; try again, or put x.csv into the"):
            fetch(entry_at(f"{HOST}/good"), tmp_path)


def test_git_blob_alone_verifies(server: str, tmp_path: Path) -> None:
    entry = entry_at(f"{server}/good", sha256=(), git_blob=git_blob_id(CONTENT))
    assert verified(entry, fetch(entry, tmp_path).read_bytes(), tmp_path / "x.csv") == SHA256


def test_git_blob_id_is_that_of_git() -> None:
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_other_line_ends_are_named_by_the_first_hash(tmp_path: Path) -> None:
    windows = CONTENT.replace(b"\n", b"\r\n")
    entry = entry_at("https://x", sha256=(SHA256, hashlib.sha256(windows).hexdigest()))
    assert verified(entry, windows, tmp_path / "x.csv") == verified(entry, CONTENT, tmp_path / "x.csv") == SHA256


def test_unknown_hash_has_to_be_accepted(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = entry_at(f"{server}/good", sha256=())
    with pytest.raises(UserError, match=r"no hash is known .* prunecast data fetch \w+ --accept-unverified"):
        fetch(entry, tmp_path)
    assert list(tmp_path.iterdir()) == []
    path = fetch(entry, tmp_path, accept_unverified=True)
    assert SHA256 in capsys.readouterr().err
    assert hash_file(path).read_text() == f"{SHA256}  x.csv\n"
    assert verified(entry, CONTENT, path) == SHA256
    with pytest.raises(UserError, match="is not the x first seen"):
        verified(entry, CONTENT + b"\n", path)


def test_plain_http_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected https"):
        fetch(entry_at("http://example.org/x.csv"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_https_redirect_is_followed(server: str, tmp_path: Path) -> None:
    assert fetch(entry_at(f"{server}/moved"), tmp_path).read_bytes() == CONTENT


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        fetch(entry_at("https://example.org/x.csv"), tmp_path / "file")


def test_lookup_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    monkeypatch.setenv("PRUNECAST_DATA", str(data))
    monkeypatch.setenv("PRUNECAST_CACHE", str(cache))
    entry = catalog.entry("ETTh1")
    assert find(entry) is None
    for folder in (cache, data):
        folder.mkdir()
        (folder / "ETTh1.csv").write_bytes(CONTENT)
        assert locate(entry) == folder / "ETTh1.csv"
    assert find(catalog.entry("synthetic-load")) is None


def test_foreign_file_in_the_data_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    (tmp_path / "ETTh1.csv").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"ETTh1\.csv is not ETTh1 as published: expected hash f18de3ad"):
        load_series(DataConfig(name="ETTh1"))


def test_unhashed_set_is_checked_by_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    (tmp_path / "electricity.csv").write_bytes(CONTENT)
    with pytest.raises(UserError, match="expected 26304 rows of 321 channels, found 3 of 1"):
        load_series(DataConfig(name="ECL"))


def test_file_that_is_there_is_verified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNECAST_DATA", str(tmp_path))
    entry = entry_at("https://example.org/x.csv")
    (tmp_path / "x.csv").write_bytes(CONTENT)
    assert fetch_verified(entry) == tmp_path / "x.csv"
    (tmp_path / "x.csv").write_bytes(CONTENT[:20])
    with pytest.raises(UserError, match=r"x\.csv is not x as published: expected hash .* fetch it again"):
        fetch_verified(entry)


def test_generated_set_cannot_be_fetched() -> None:
    with pytest.raises(UserError, match=r"^synthetic-load is generated; there is nothing to fetch$"):
        fetch_verified(catalog.entry("synthetic-load"))


def test_download_off_a_terminal_prints_nothing(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="404"):
        download(entry_at(f"{server}/absent"), tmp_path)
    assert capsys.readouterr().err == ""


# A set that is published in parts: the nine files of PJM, put together to the bytes of one

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
    assert assembled(assembly(PARTS), PARTS).decode() == TINY


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
    assert assembled(entry.assembly, parts) == whole


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Entry, list[str]]:
    """A set of two parts, and the addresses that have been asked for."""
    asked: list[str] = []

    def retrieve(entry: Entry, url: str, path: Path, check: object) -> None:
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


def test_no_part_leaves_nothing(tiny: tuple[Entry, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, _ = tiny
    monkeypatch.setitem(PARTS, "A", b"")
    with pytest.raises(UserError, match="is not a part of x"):
        download(entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_of_other_bytes_is_refused(tiny: tuple[Entry, list[str]], tmp_path: Path) -> None:
    entry, _ = tiny
    with pytest.raises(UserError, match=r"what the parts at .* give is not x as published"):
        download(entry.model_copy(update={"assembly": assembly(PARTS, decimals=0)}), tmp_path)
    assert not (tmp_path / "x.csv").exists()


def test_only_https_parts_are_taken() -> None:
    with pytest.raises(ValueError, match="https://"):
        assembly(PARTS, url="http://example.org/{channel}.csv")

"""A timing has the machine to itself, and nobody waits for that without limit."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prunecast.errors import UserError
from prunecast.measure import machine_lock
from prunecast.measure.machine_lock import alone, beside_others, is_busy, lock_file, seconds

HOLDER = """
import sys
from prunecast.measure import machine_lock
kind, wait_s = sys.argv[1], float(sys.argv[2])
machine_lock.WAIT_S = wait_s
with machine_lock.alone(wait_s) if kind == "alone" else machine_lock.beside_others() as busy:
    print("in", busy, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that run beside this one are on another machine, as far as the lock can tell."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@contextmanager
def other_process(kind: str, wait_s: float = 60, said: str = "in") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, kind, str(wait_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(said)
        yield process
        process.kill()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def entered(kind: str, within_s: float) -> bool:
    """Returns whether another process, which waits for a minute, gets in within so many seconds."""
    command = [sys.executable, "-c", HOLDER, kind, "60"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(within_s, process.kill)
        timer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        timer.cancel()
        process.kill()
    return line.startswith("in")


def test_stages_run_side_by_side() -> None:
    with beside_others():
        assert entered("beside", 60)


@pytest.mark.parametrize("kind", ["beside", "alone"])
def test_nothing_starts_beside_a_timing(kind: str) -> None:
    assert entered(kind, 60)
    with alone() as busy:
        assert not entered(kind, 3)
        assert not busy
        assert not is_busy()


def test_a_timing_waits_for_what_runs_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with other_process("beside") as process:
        threading.Timer(1.0, let_go, [process]).start()
        started_s = time.monotonic()
        with alone(silent_s=0.2) as busy:
            assert time.monotonic() - started_s > 0.5
            assert not busy
    [record] = caplog.records
    assert str(lock_file()) in record.getMessage()
    assert "at most 60 s (--wait)" in record.getMessage()


@pytest.mark.parametrize("kind", ["beside", "alone"])
def test_a_timing_waits_no_longer_than_it_is_told_and_then_knows_that_it_was_not_alone(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with other_process(kind):
        started_s = time.monotonic()
        with alone(wait_s=0.5) as busy:
            assert 0.4 < time.monotonic() - started_s < 10
            assert busy
        assert "measured all the same" in caplog.text
        with alone(wait_s=0) as busy:
            assert busy


def test_a_timing_is_told_of_another_one_that_would_not_wait_longer() -> None:
    with alone() as busy:
        with other_process("alone", wait_s=0.1, said="in True"):
            assert is_busy()
        assert not busy


def test_a_stage_waits_no_longer_for_a_timing_which_learns_of_it() -> None:
    with alone() as busy:
        started_s = time.monotonic()
        with other_process("beside", wait_s=0.5):
            assert time.monotonic() - started_s > 0.4
            assert is_busy()
        assert not busy


@pytest.mark.parametrize("kind", ["beside", "alone"])
def test_a_killed_process_holds_nothing(kind: str) -> None:
    with other_process(kind):
        pass
    with alone(wait_s=30) as busy:
        assert not busy


def test_later_stages_wait_for_a_timing_that_waits() -> None:
    """A row of overlapping stages must not use up a timing's patience."""
    order: list[bool] = []

    def time_alone() -> None:
        with alone() as busy:
            order.append(busy)

    with other_process("beside") as process:
        timing = threading.Thread(target=time_alone)
        timing.start()
        time.sleep(0.5)
        assert not entered("beside", 3)
        assert not order
        let_go(process)
        timing.join(60)
    assert order == [False]


def test_a_lock_that_cannot_be_taken_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(machine_lock, "lock_file", lambda: tmp_path / "file" / "prunecast.lock")
    for take in (alone, beside_others):
        with pytest.raises(UserError, match="give another TMPDIR"), take():
            pass


@pytest.mark.parametrize(
    ("text", "expected_s"), [("60s", 60), ("500ms", 0.5), ("2min", 120), ("1.5 h", 5400), ("0s", 0)]
)
def test_times_are_read_with_their_unit(text: str, expected_s: float) -> None:
    assert seconds(text) == pytest.approx(expected_s)


@pytest.mark.parametrize("text", ["60", "s", "-1s", "1 day", ""])
def test_a_time_without_its_unit_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"--wait: expected a time with its unit .*, as in 60s; found"):
        seconds(text)

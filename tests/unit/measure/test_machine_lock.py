"""A clock has the machine to itself."""

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

from prunecast.measure.machine_lock import alone, beside_others, lock_file

HOLDER = """
import sys
from prunecast.measure.machine_lock import alone, beside_others
with alone() if sys.argv[1] == "alone" else beside_others():
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that run beside this one are on another machine, as far as the lock can tell."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@contextmanager
def other_process(kind: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def entered(kind: str, seconds: float) -> bool:
    """Returns whether another process gets in within so many seconds."""
    command = [sys.executable, "-c", HOLDER, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        timer.cancel()
        process.kill()
    return line == "in\n"


def test_stages_run_side_by_side() -> None:
    with beside_others():
        assert entered("beside", 60)


@pytest.mark.parametrize("kind", ["beside", "alone"])
def test_nothing_starts_beside_a_clock(kind: str) -> None:
    assert entered(kind, 60)
    with alone():
        assert not entered(kind, 3)


def test_a_clock_waits_for_what_runs_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with other_process("beside") as process:
        threading.Timer(1.0, let_go, [process]).start()
        started = time.monotonic()
        with alone(patience_s=0.2):
            assert time.monotonic() - started > 0.5
    [record] = caplog.records
    assert str(lock_file()) in record.getMessage()


@pytest.mark.parametrize("kind", ["beside", "alone"])
def test_a_killed_process_holds_nothing(kind: str) -> None:
    with other_process(kind):
        pass
    with alone(patience_s=30):
        pass


def test_later_stages_wait_for_a_clock_that_waits() -> None:
    """A row of overlapping stages must not keep a clock waiting for ever."""
    order: list[str] = []
    with other_process("beside") as process:
        clock = threading.Thread(target=lambda: _enter(order))
        clock.start()
        time.sleep(0.5)
        assert not entered("beside", 3)
        assert not order
        let_go(process)
        clock.join(60)
    assert order == ["clock"]


def _enter(order: list[str]) -> None:
    with alone(patience_s=60):
        order.append("clock")


def test_only_the_first_of_several_processes_that_train_one_model_holds_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with alone(), beside_others():
        assert lock_file().exists()

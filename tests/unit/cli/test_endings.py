"""How a command ends that is not let to its end: by a signal, on a full disk, with a name that no file can have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunecast.cli.main import main
from prunecast.stages.model import TrainedModel

TRAIN = ["--quiet", "train", "--model", "repeat", "--data", "synthetic-load"]


@pytest.fixture
def _heard() -> Iterator[None]:
    """Ctrl-C and a closed terminal are heard, also where the tests run in the background or under nohup."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.usefixtures("_heard")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_training_that_is_ended_leaves_one_line_and_nothing_else(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TrainedModel, "trained", lambda *_, **__: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert main([*TRAIN, "--out", str(tmp_path / "out")]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert captured.err.startswith("prunecast: error: interrupted; given again, the command goes on")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


def test_a_terminal_that_closes_does_not_end_what_shall_outlive_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainedModel, "trained", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
    try:
        assert main(["list", "models"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_an_answer_that_cannot_be_written(flags: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "prunecast", *flags, "list", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "prunecast: error: cannot write to the standard output: No space left on device\n"


@pytest.mark.parametrize(
    "verb",
    [
        ["evaluate", "NAME"],
        ["data", "check", "NAME"],
        ["study", "run", "NAME"],
        ["report", "NAME"],
        ["measure", "NAME"],
        ["train", "--model", "repeat", "--data", "NAME", "--out", "OUT"],
        ["import", "NAME", "--from", "tslib", "--model", "dlinear", "--out", "OUT"],
    ],
)
def test_a_name_that_no_file_can_have(verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"NAME": "n" * 300, "OUT": str(tmp_path / "out")}
    assert main([named.get(part, part) for part in verb]) == 2
    line = capsys.readouterr().err
    assert line.startswith("prunecast: error: ")
    assert line.count("\n") == 1
    assert len(line) < 330
    assert list(tmp_path.iterdir()) == []


def test_what_a_library_prints_is_no_part_of_the_result() -> None:
    code = """
import os, sys
from prunecast import api
from prunecast.cli import main
run = main._run
def printing(arguments):
    os.write(1, b"transformNewIntegerFeasibleSolution\\n")
    return run(arguments)
main._run = printing
sys.exit(main.main(["--json", "list", "models"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "models" in json.loads(done.stdout)
    assert done.stderr == "transformNewIntegerFeasibleSolution\n"

"""The page on compressing: its keys are those of the answer, and its commands run."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from prunecast.cli.main import main
from prunecast.compress.candidates import SETTINGS
from prunecast.results import Compressed

PAGE = (Path(__file__).parents[2] / "docs" / "compress.md").read_text(encoding="utf-8")


def test_the_keys_of_the_answer_are_told() -> None:
    table = PAGE[PAGE.index("| key of `--json` | what |") : PAGE.index("## Settings")]
    first = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert {key for cell in first for key in re.findall(r"`(\w+)`", cell)} == {
        field.name for field in fields(Compressed)
    }


def test_the_sections_that_can_be_set_are_told() -> None:
    named = PAGE[PAGE.index("any other key of the") :].partition("change that")[0]
    assert {*re.findall(r"`(\w+)`", named)} == SETTINGS


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    [script] = re.findall(r"<!-- run by .*? -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in script.splitlines():
        code = main(["--json", *shlex.split(line)[1:]])
        said = capsys.readouterr()
        assert code in ((0, 3) if "compress" in line else (0,)), said.err
        answer = json.loads(said.out)
        assert answer["mse" if "compress" not in line else "compressed"]
    assert (tmp_path / "small" / "report.html").is_file()

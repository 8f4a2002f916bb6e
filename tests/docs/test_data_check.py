"""The page on own data shows what `data check` really says; PRUNECAST_WRITE_DOCS=1 writes it there again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prunecast.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"
SHOWN = re.compile(r"(<!-- made by tests/docs/test_data_check.py -->\n```text\n)(.*?)(```)", re.DOTALL)


def test_the_screen_of_data_check_is_the_one_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = np.arange(1500)
    noise = np.random.default_rng(1).normal(size=1500)
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=1500, freq="h")})
    table["load"] = (40 + 5 * np.sin(hours * 2 * np.pi / 24) + noise).round(2)
    table["temperature"] = (10 - 8 * np.cos(hours * 2 * np.pi / 24) - noise[::-1]).round(1)
    table["meter"] = 7
    table.loc[30, "load"] = None
    table.drop(index=[700, 701]).to_csv(tmp_path / "load.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["data", "check", "load.csv"]) == 0
    said = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    page = PAGE.read_text(encoding="utf-8")
    if os.environ.get("PRUNECAST_WRITE_DOCS"):
        PAGE.write_text(SHOWN.sub(lambda found: found[1] + said + found[3], page), encoding="utf-8")
    else:
        found = SHOWN.search(page)
        assert found is not None
        assert found[2] == said

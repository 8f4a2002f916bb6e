"""What docs/other-models.md shows runs, in its order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "other-models.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "documented"}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    assert {path.name for path in (tmp_path / "smaller").iterdir()} == {"model.safetensors", "module.json"}

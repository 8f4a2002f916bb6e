"""The notebook in docs/ runs from top to bottom, and what it shows was made by the cells that stand there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.run_notebook import run_cells

PAGE = Path(__file__).parents[2] / "docs" / "from-file-to-forecast.ipynb"
SHORTER = {"train.epochs=6": "train.max_steps=5", "finetune_epochs=2": "finetune_epochs=0"}
"""What the notebook says -> what makes it quick."""


def shown(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """Returns in what forms each code cell shows its outputs."""
    cells = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[sorted(output.get("data", output)) for output in outputs] for outputs in cells]


def test_the_notebook_runs_and_shows_what_it_did(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(text) < 300_000
    written = json.loads(text)
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    again = json.loads(text)
    run_cells(again, tmp_path)
    assert shown(again) == shown(written)
    assert {path.name for path in tmp_path.iterdir()} >= {"meter.csv", "dense.onnx", "small.onnx", "tomorrow.csv"}

"""Renews the golden record of `recipes/tiny.yaml`: its main numbers, and the code versions that they belong to.

    python tools/golden.py

Do this after raising a stage's version in `src/prunecast/stages.py`, because its numbers have changed on purpose.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from prunecast.facade import study_run
from prunecast.records import RunRecord
from prunecast.stages import CODE_VERSIONS
from prunecast.study.folder import open_study
from prunecast.study.monitor import ConsoleMonitor

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "tiny.yaml"
GOLDEN = ROOT / "tests" / "recipes" / "golden.json"
DIGITS = 4


def numbers(study: Path) -> dict[str, dict[str, Any]]:
    """Returns the main numbers of a study's models by the label of their stage, in the order of the plan."""
    records, _ = open_study(study).results()
    return {record.label: _numbers(record) for record in records if record.test is not None}


def _numbers(record: RunRecord) -> dict[str, Any]:
    assert record.test is not None
    assert record.size is not None
    assert record.operations is not None
    return {
        "stage": record.stage,
        "mse": float(f"{record.test.mse:.{DIGITS}g}"),
        "nonzero": record.size.nonzero,
        "macs": record.operations.dense_macs,
    }


def main() -> None:
    """Runs the recipe and writes the golden record."""
    with tempfile.TemporaryDirectory() as folder:
        study_run(RECIPE, monitor=ConsoleMonitor(), out=Path(folder) / "tiny")
        golden = {"versions": CODE_VERSIONS, "models": numbers(Path(folder) / "tiny")}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"wrote {GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

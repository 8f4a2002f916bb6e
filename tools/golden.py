"""Renews the golden records: main numbers of `recipes/tiny.yaml`, and of every model trained and pruned a little.

    python tools/golden.py

With them stand the code versions that they belong to. Do this after raising a stage's version in
`src/prunecast/stages/job.py`, because its numbers have changed on purpose.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from prunecast import environment
from prunecast.api import study_run
from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.records import RunRecord
from prunecast.registry import MODELS
from prunecast.stages.job import CODE_VERSIONS
from prunecast.study.executor import ConsoleMonitor
from prunecast.study.plan import decided, plan
from prunecast.study.study import open_study, run_study

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "tiny.yaml"
GOLDEN = ROOT / "tests" / "recipes" / "golden.json"
DIGITS = 4

NARROW = {"d_model": 16, "n_heads": 2, "d_ff": 32, "seg_len": 6, "patch_len": 8, "stride": 4, "modes": 8}
"""Sizes of every model, as far as it has them."""

EVERY_MODEL: dict[str, Any] = {
    "data": {"split": [0.92, 0.04, 0.04]},
    "model": {"lookback": 48, "horizon": 12},
    "train": {"epochs": 1, "max_steps": 10, "learning_rate": 0.002, "schedule": "constant", "threads": 1},
    "study": {"finetune": [False], "controls": []},
}


def every_model() -> dict[str, Any]:
    """Returns a recipe that trains each model for ten steps and takes half of it away, singly and in whole units."""
    kinds = {name: MODELS.load(name) for name in MODELS.names()}
    trained = {name: kind.Config.model_fields for name, kind in kinds.items() if kind.trainable}
    models = [
        {"model": {"name": name} | {key: value for key, value in NARROW.items() if key in fields}}
        for name, fields in trained.items()
    ]
    cut = [name for name, fields in trained.items() if "d_ff" in fields]
    grids = [
        {"methods": ["magnitude"], "sparsities": [0.5]},
        {"methods": ["structured-magnitude"], "sparsities": [0.5], "models": cut},
    ]
    return EVERY_MODEL | {"study": EVERY_MODEL["study"] | {"models": models, "prune": grids}}


def numbers_of_every_model(folder: Path) -> dict[str, dict[str, Any]]:
    """Trains and prunes every model in a folder, and returns their main numbers."""
    recipe = decided(load_recipe(base=every_model()))
    jobs = plan(recipe, load_series, environment.describe().machine)
    scored = [job for job in jobs if job.stage in ("train", "prune")]
    run_study(folder, recipe, scored, None, ConsoleMonitor())
    return numbers(folder)


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
        tiny, every = numbers(Path(folder) / "tiny"), numbers_of_every_model(Path(folder) / "every")
    golden = {"versions": CODE_VERSIONS, "models": tiny, "every_model": every}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"wrote {GOLDEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

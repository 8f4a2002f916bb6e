"""What others add, one file and its lines in the registry each: a study with all controls runs it, the report shows it.

The score and the runtime are those of docs/new-pruner.md and docs/new-runtime.md; an N:M granularity and a metric are
here. Everything runs in processes of their own, on a copy of the package that has the new files.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from tests.support.extended_package import Extended, extended

from prunecast.models.io import load_model

DOCS = Path(__file__).parents[2] / "docs"

TWO_OF_FOUR = '''
"""Granularity `2of4`: of every four weights that lie side by side, the two of lower score become zero."""

import copy

import torch

from prunecast.errors import UserError
from prunecast.prune.budget import budget_for
from prunecast.prune.masks import apply_masks
from prunecast.prune.methods import Granularity, Method, Pruned, Scores, Masks, Task
from prunecast.prune.unstructured import candidates, zeros_in
from prunecast.registry import ALLOCATIONS, SCORES


def two_of_four(scores: Scores, count: int) -> Masks:
    """Keeps the upper two of each four."""
    masks = {}
    for name, score in scores.items():
        order = score.reshape(-1, 4).argsort(dim=1, stable=True)
        every = torch.ones_like(order, dtype=torch.bool)
        masks[name] = every.scatter(1, order[:, :2], False).view_as(score)
    return masks


def prune_two_of_four(task: Task) -> Pruned:
    """Returns a copy of the model with half of its weights at zero, in the pattern."""
    task.refuse("kinds")
    if task.config.sparsity != 0.5:
        raise UserError(f"2 of 4 are a sparsity of 0.5, found {task.config.sparsity:g}")
    scores = SCORES.load(task.method.score)(task.model, task.statistics)
    scores = {name: scores[name] for name in candidates(task)}
    budget = budget_for("prunable", sum(score.numel() for score in scores.values()), task.config.sparsity)
    masks = ALLOCATIONS.load(task.method.allocation)(scores, budget.requested)
    model = copy.deepcopy(task.model)
    apply_masks(model, masks)
    removed = zeros_in(masks)
    return Pruned(model, masks, budget.outcome(task.method.name, sum(removed.values()), removed_weights=removed))


TWO_OF_FOUR = Granularity(prune=prune_two_of_four)
MAGNITUDE = Method(
    name="magnitude-2of4",
    summary="the two smaller of every four weights become zero",
    score="magnitude",
    granularity="2of4",
    allocation="2of4",
    default_of="prunable",
    control="random-2of4",
)
RANDOM = Method(
    name="random-2of4",
    summary="two of every four weights, drawn at random, become zero (a control)",
    score="random",
    granularity="2of4",
    allocation="2of4",
    default_of="prunable",
    is_control=True,
)
'''

SCALED = '''
"""Mean absolute scaled error (Hyndman and Koehler 2006): the seasonal naive forecast has 1 on the training part."""


def scaled(forecast_BHC, truth_BHC, context):
    """Returns the absolute error of each step over the channel's seasonal naive error."""
    return (forecast_BHC - truth_BHC).double().abs() / context.naive_mae_C
'''

STUDY: dict[str, Any] = {
    "data": {"name": "synthetic-load", "metrics": ["scaled"]},
    "model": {"lookback": 24, "horizon": 6},
    "train": {"epochs": 1, "max_steps": 10, "learning_rate": 0.003, "threads": 1},
    "finetune": {"epochs": 1, "max_steps": 5, "learning_rate": 0.001, "threads": 1},
    "measure": {"runtimes": ["numpy"], "warmup": 1, "min_count": 10, "min_time_s": 0.01},
    "export": {"parity_windows": 4},
    "study": {
        "models": [{"model": {"name": "transformer", "d_model": 8, "n_heads": 2, "d_ff": 8, "encoder_layers": 1}}],
        "prune": [
            {"methods": ["taylor-element-row"], "sparsities": [0.5], "settings": {"calibration_batches": 2}},
            {"methods": ["magnitude-2of4"], "sparsities": [0.5]},
        ],
    },
}


def documented(package: Extended, page: str, tables: dict[str, str]) -> None:
    """Adds what a page defines to the modules that it names, and its lines to the registry's tables.

    Args:
        package: to add to.
        page: of the documentation.
        tables: of the registry, by the module that a line names.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = re.findall(r'^    "([\w-]+)": "prunecast\.([\w.]+):(\w+)",$', text, re.MULTILINE)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        [module] = {path for _, path, attribute in lines if re.search(rf"^(def )?{attribute}\b", block, re.MULTILINE)}
        package.add(f"{module.replace('.', '/')}.py", block)
    for name, path, attribute in lines:
        package.register(tables[path], {name: f"prunecast.{path}:{attribute}"})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """The package with four additions."""
    package = extended(tmp_path_factory.mktemp("package"))
    tables = {
        "prune.scores": "SCORES",
        "prune.allocate": "ALLOCATIONS",
        "prune.methods": "METHODS",
        "prune.schedule": "SCHEDULES",
    }
    documented(package, "new-pruner.md", tables)
    documented(package, "new-runtime.md", {"export.numpy_runtime": "RUNTIMES"})
    package.add("prune/two_of_four.py", TWO_OF_FOUR)
    package.register("GRANULARITIES", {"2of4": "prunecast.prune.two_of_four:TWO_OF_FOUR"})
    package.register("ALLOCATIONS", {"2of4": "prunecast.prune.two_of_four:two_of_four"})
    for name in ("MAGNITUDE", "RANDOM"):
        package.register("METHODS", {f"{name.lower()}-2of4": f"prunecast.prune.two_of_four:{name}"})
    package.add("train/scaled.py", SCALED)
    package.register("METRICS", {"scaled": "prunecast.train.scaled:scaled"})
    return package


@pytest.fixture(scope="module")
def study(package: Extended, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with all its controls, its report beside it."""
    folder = tmp_path_factory.mktemp("study")
    recipe, out = folder / "study.yaml", folder / "out"
    recipe.write_text(yaml.safe_dump(STUDY))
    done = package.run("-m", "prunecast", "--quiet", "study", "run", str(recipe), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def records(study: Path) -> list[dict[str, Any]]:
    found = study.glob("store/*/*/record.json")
    return [json.loads(path.read_text()) | {"folder": path.parent} for path in found]


def pruned(records: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """Returns the record of the Transformer's pruning by a method."""
    stages = [one for one in records if (one["stage"], one["model"]) == ("prune", "transformer")]
    [record] = [one for one in stages if one["pruning"]["method"] == method]
    return record


def test_a_score_sees_the_training_data(records: list[dict[str, Any]]) -> None:
    record = pruned(records, "taylor-element-row")
    assert record["recipe"]["prune"]["calibration_batches"] == 2
    masks = load_model(record["folder"]).masks
    by_index = [name for name, mask in masks.items() if not mask.flatten(1)[:, : mask.flatten(1).shape[1] // 2].any()]
    assert masks
    assert not by_index, "a score that saw nothing prunes by index"
    assert "calibration_batches" not in pruned(records, "random")["recipe"]["prune"]


@pytest.mark.parametrize("method", ["magnitude-2of4", "random-2of4"])
def test_a_granularity_comes_with_its_control(method: str, records: list[dict[str, Any]]) -> None:
    record = pruned(records, method)
    for mask in load_model(record["folder"]).masks.values():
        assert torch.equal(mask.reshape(-1, 4).sum(1), torch.full((mask.numel() // 4,), 2))
    assert record["pruning"]["realised"] == record["pruning"]["requested"]


def test_every_control_is_there(records: list[dict[str, Any]]) -> None:
    roles = {record["role"] for record in records if record["stage"] not in ("export", "measure")}
    assert roles == {"dense", "naive", "zeroed-body", "dense-continued", "pruned", "pruned+finetuned"}
    assert {record["model"] for record in records} == {"transformer", "dlinear", "repeat", "seasonal_naive"}


def test_a_metric_has_its_interval(records: list[dict[str, Any]], study: Path) -> None:
    scored = [record for record in records if record["stage"] not in ("export", "measure")]
    assert all(record["test"]["metrics"]["scaled"] > 0 for record in scored)
    found = pd.read_csv(study / "report_files" / "comparisons.csv")
    scaled = found[found["metric"] == "scaled"]
    assert set(scaled["variant"]) == set(found[found["metric"] == "mse"]["variant"])
    assert (scaled["difference_low"] <= scaled["difference"]).all()
    assert (scaled["difference"] <= scaled["difference_high"]).all()
    assert (scaled["difference_low"] < scaled["difference_high"]).any()


def test_a_runtime_is_timed_and_its_files_are_read(records: list[dict[str, Any]], package: Extended) -> None:
    timed = [record for record in records if record["stage"] == "measure" and record["timing"]["runtimes"]]
    assert {record["model"] for record in timed} == {"dlinear"}
    assert {record["role"] for record in timed} == {"dense", "pruned", "pruned+finetuned"}
    assert all([timing["runtime"] for timing in record["timing"]["runtimes"]] == ["numpy"] for record in timed)
    exported = [record for record in records if record["stage"] == "export"]
    refused = [record["unsupported"] for record in exported if record["model"] == "transformer"]
    assert refused
    assert all(one == {"numpy": "only dlinear is written in NumPy"} for one in refused)
    [dense] = [record for record in exported if (record["model"], record["role"]) == ("dlinear", "dense")]
    [trained] = [record for record in records if record["fingerprint"] == dense["parent"]]
    for source in (dense["folder"] / "model.npz", trained["folder"]):
        done = package.run("-m", "prunecast", "--json", "evaluate", str(source))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["mse"] == pytest.approx(trained["test"]["mse"], rel=1e-4)
    assert found["scaled"] == pytest.approx(trained["test"]["metrics"]["scaled"], rel=1e-6)


def test_the_report_shows_all_four(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    packed = re.findall(r'<script type="application/gzip" id="page-[^>]*>([^<]*)</script>', page)
    shown = page + "".join(gzip.decompress(base64.b64decode(text)).decode() for text in packed)
    for name in ("taylor-element-row", "magnitude-2of4", "random-2of4", "SCALED", "NumPy"):
        assert name in shown
    tables = "".join(path.read_text(encoding="utf-8") for path in (study / "report_files").glob("*.csv"))
    for name in ("taylor-element-row", "magnitude-2of4", "random-2of4", "scaled", "numpy"):
        assert name in tables

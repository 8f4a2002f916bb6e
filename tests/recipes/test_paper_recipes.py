"""The recipes of the published study: the whole grid is planned, and nothing is asked for that cannot be."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prunecast.data.catalog import entry
from prunecast.errors import UserError
from prunecast.recipe import DataConfig, load_recipe
from prunecast.stages.job import Job
from prunecast.study.plan import plan
from prunecast.study.study import check_budgets

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*/*.yaml") if path.parent.name != "published")
FIVE = {"transformer", "informer", "autoformer", "fedformer", "crossformer"}
NINE = {"ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Exchange", "ECL", "Traffic", "ILI"}
DENSITIES = {round(1 - 0.8**n, 6) for n in range(1, 10)}


def described(data: DataConfig) -> Any:
    """What a plan asks of a series, from the catalogue: most of the files are not here."""
    found = entry(data.name)
    channels = tuple(f"c{number}" for number in range(found.channels or 59))
    return SimpleNamespace(sha256=data.name, channels=channels, covariates=(), targets=None, season=found.season)


@cache
def jobs_of(path: Path) -> tuple[Job, ...]:
    return tuple(plan(load_recipe(path), described, "machine"))


def cells(jobs: tuple[Job, ...], role: str) -> list[Job]:
    models = (job for job in jobs if job.stage not in ("export", "measure"))
    return [job for job in models if job.role == role and str(job.recipe.model["name"]) in FIVE]


def asked(jobs: tuple[Job, ...], role: str) -> Counter[tuple[str, float]]:
    """How many cells each method and sparsity has."""
    of = (job.recipe.prune for job in cells(jobs, role))
    return Counter((prune.method, round(prune.sparsity, 6)) for prune in of if prune is not None)


def dense_cells(jobs: tuple[Job, ...]) -> set[tuple[str, str, int, int]]:
    return {
        (str(job.recipe.model["name"]), job.source, int(job.recipe.model["horizon"]), job.recipe.seed)
        for job in cells(jobs, "dense")
    }


def test_every_cell_of_the_study_is_in_it() -> None:
    jobs = jobs_of(FOLDER / "paper" / "all.yaml")
    dense, pruned = dense_cells(jobs), asked(jobs, "pruned")
    assert len(dense) == 5 * 9 * 4 * 3
    assert {source for _, source, _, _ in dense} == NINE
    assert {sparsity for method, sparsity in pruned if method == "magnitude"} == DENSITIES
    assert set(pruned.values()) == {len(dense)}
    assert asked(jobs, "pruned+finetuned") == pruned
    settings = (job.recipe.prune for job in cells(jobs, "pruned"))
    assert {prune.step for prune in settings if prune is not None and "structured" in prune.method} == {0.02}


def test_the_small_study_is_the_one_that_was_asked_for() -> None:
    jobs = jobs_of(FOLDER / "paper-small" / "all.yaml")
    dense, pruned = dense_cells(jobs), asked(jobs, "pruned")
    assert len(dense) == 5 * 3 * 3
    places = {(source, horizon) for _, source, horizon, _ in dense}
    assert places == {("ETTh1", 96), ("Exchange", 96), ("ILI", 24)}
    unstructured = {sparsity for method, sparsity in pruned if method == "magnitude"}
    assert unstructured == {round(1 - 0.8**n, 6) for n in (1, 3, 5, 7, 9)}
    assert len([1 for method, _ in pruned if method == "structured-magnitude"]) == 3
    assert {job.role for job in jobs} >= {"naive", "small-dense", "zeroed-body", "dense-continued"}


def test_each_model_learns_at_its_own_rate() -> None:
    jobs = jobs_of(FOLDER / "paper" / "all.yaml")
    rates = {job.recipe.model["name"]: job.recipe.train.learning_rate for job in jobs}
    assert rates["dlinear"] == 1e-3
    assert {rates[name] for name in FIVE} == {1e-4}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_more_is_asked_than_a_model_can_lose(path: Path) -> None:
    jobs = jobs_of(path)
    few = [job for job in jobs if job.source in ("ETTh1", "Exchange", "Weather", "ILI", "ENTSO-E", "PJM")]
    horizons = {job.recipe.model["horizon"] for job in few}
    ends = {min(horizons), max(horizons), 60}
    check_budgets([job for job in few if job.recipe.model["horizon"] in ends])
    assert path.read_text().startswith("# "), "a recipe says what it is for"


def test_what_no_model_can_lose_is_said_before_anything_runs() -> None:
    recipe = load_recipe(
        FOLDER / "paper-small" / "all.yaml",
        ["study.prune=[{methods: [structured-magnitude], sparsities: [0.5, 0.95]}]"],
    )
    with pytest.raises(UserError, match=r"ILI 24 \w+ seed 1: structured-magnitude 0.95: .* at most 0\.\d+$"):
        check_budgets(plan(recipe, described, "machine"))

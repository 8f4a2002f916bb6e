"""Published results are found again: their recipes ask for stages of the same names, and nothing is run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.stages.job import what_is_timed
from prunecast.study.frame import read_frame
from prunecast.study.plan import plan
from prunecast.study.study import open_study, status

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/records.parquet"))
FILES = {"recipe.yaml", "records.parquet", "arrays.parquet", "overview.svg", "README.md"}


def test_they_weigh_little() -> None:
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert STUDIES == ["etth1-models", "etth1-small", "paper-small"]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert len(files) <= 60
    for study in STUDIES:
        assert {path.name for path in (RESULTS / study).iterdir()} >= FILES


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_goes_on_from_the_published_tables(name: str) -> None:
    """Where a stage's code version was raised on purpose its results are to be run again, or taken away."""
    folder = RESULTS / name
    jobs = plan(load_recipe(folder / "recipe.yaml"), load_series, environment.describe().machine)
    kept = set(read_frame(folder).stages["fingerprint"].map(what_is_timed))
    assert {what_is_timed(job.fingerprint) for job in jobs} == kept


@pytest.mark.parametrize("name", STUDIES)
def test_every_published_study_is_whole(name: str) -> None:
    found = status(RESULTS / name, thorough=True)
    assert (found["done"], found["failed"], found["damaged"]) == (found["stages"], [], [])
    tables, failures = open_study(RESULTS / name).tables()
    assert len(tables.stages) == found["stages"]
    assert failures == []
    parents = set(tables.stages[["parent", "reference", "compared_with"]].stack().dropna())
    assert parents <= set(tables.stages["fingerprint"])
    known = set(tables.arrays["fingerprint"])
    assert set(tables.stages.dropna(subset=["test_mse"])["fingerprint"]) <= known, "errors by block are there"

"""Committed results are found again: their recipes ask for stages of the same names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.stages.job import what_is_timed
from prunecast.study.plan import plan

RESULTS = Path(__file__).parents[2] / "results"
CURRENT = ("etth1-models", "paper-small")
"""Not etth1-small: it ran before the configs had every width of every layer, and is kept as it was."""


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("name", CURRENT)
def test_a_study_goes_on_from_the_committed_records(name: str) -> None:
    """Where a stage's code version was raised on purpose its results are to be run again, or taken away."""
    folder = RESULTS / name
    jobs = plan(load_recipe(folder / "recipe.yaml"), load_series, environment.describe().machine)
    kept = {what_is_timed(stage["fingerprint"]) for stage in json.loads((folder / "stages.json").read_text())}
    assert {what_is_timed(job.fingerprint) for job in jobs} == kept
    record_folders = {what_is_timed(path.parent.name) for path in (folder / "store").glob("*/*/record.json")}
    assert kept <= record_folders

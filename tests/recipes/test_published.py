"""The recipe that repeats published errors is the six trainings that it says, beside the naive forecasts."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.study.plan import plan

RECIPE = Path(__file__).parents[2] / "recipes" / "published" / "ltsf-96.yaml"


@pytest.mark.usefixtures("data_dir")
def test_it_trains_both_models_on_three_data_sets_and_nothing_else() -> None:
    jobs = plan(load_recipe(RECIPE), load_series, environment.describe().machine)
    assert {job.stage for job in jobs} == {"train"}
    dense = [job for job in jobs if job.role == "dense"]
    assert {(job.recipe.model["name"], job.recipe.data.name) for job in dense} == {
        (model, data) for model in ("itransformer", "dlinear") for data in ("ETTh1", "ETTh2", "Exchange")
    }
    assert len(dense) == 6
    for job in dense:
        assert (job.recipe.model["lookback"], job.recipe.model["horizon"]) == (96, 96)
        rate, width = {"itransformer": (1e-4, 128), "dlinear": (1e-3, None)}[job.recipe.model["name"]]
        assert (job.recipe.train.learning_rate, job.recipe.model.get("d_model")) == (rate, width)
    assert {job.role for job in jobs} == {"dense", "naive"}

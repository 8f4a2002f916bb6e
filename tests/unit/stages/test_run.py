"""One way through the stages: a verb makes what a study would make, and names it alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.series_files import write_table

from prunecast import api
from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.records import RunRecord
from prunecast.resolve import resolved
from prunecast.stages.base import Parent, StageInputs
from prunecast.stages.job import Job
from prunecast.stages.run import Chain, prepared_for, run_stage
from prunecast.store import read_record
from prunecast.study.plan import plan

SIZES = {"lookback": 24, "horizon": 6}
TRAIN = {"epochs": 1, "max_steps": 5, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("stages") / "own.csv")


def planned(table: Path) -> list[Job]:
    """Returns the stages of a study of one small model."""
    study = {"controls": [], "prune": [{"methods": ["magnitude"], "sparsities": [0.5]}]}
    base = {"data": {"name": str(table)}, "model": {"name": "dlinear", **SIZES}, "train": TRAIN, "finetune": TRAIN}
    return plan(load_recipe(base=base | {"study": study}), load_series, machine="m")


def test_a_verb_and_a_study_name_a_stage_alike(table: Path, tmp_path: Path) -> None:
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    api.train("dlinear", str(table), out=tmp_path / "dense", settings=settings, **SIZES)
    tune = {"finetune_epochs": 1, "settings": [text.replace("train", "finetune") for text in settings[1:]]}
    api.prune(tmp_path / "dense", "magnitude", 0.5, out=tmp_path / "tuned", data=str(table), **tune)  # type: ignore[arg-type]
    dense, pruned, tuned = (job for job in planned(table) if job.stage in ("train", "prune", "finetune"))
    made: list[RunRecord] = [read_record(tmp_path / name) for name in ("dense", "tuned")]
    assert [record.fingerprint for record in made] == [dense.fingerprint, tuned.fingerprint]
    assert made[1].parent == pruned.fingerprint
    assert [(record.stage, record.role) for record in made] == [("train", "dense"), ("finetune", "pruned+finetuned")]


def test_a_timing_bears_its_machine_and_rests_on_models_and_exports(table: Path) -> None:
    jobs = {job.fingerprint: job for job in planned(table)}
    timings = [job for job in jobs.values() if job.stage == "measure"]
    assert len(timings) == 3
    for timing in timings:
        assert timing.fingerprint.endswith("-m")
        assert {jobs[name].stage for name in timing.needs} <= {"train", "prune", "finetune", "export"}
        elsewhere = replace(timing, machine="n")  # type: ignore[call-arg]
        assert elsewhere.fingerprint == timing.fingerprint.removesuffix("m") + "n"


def test_a_stage_leaves_the_model_that_it_goes_on_from_as_it_is(table: Path) -> None:
    recipe = load_recipe(base={"data": {"name": str(table)}, "model": {"name": "dlinear", **SIZES}, "train": TRAIN})
    series = load_series(recipe.data)
    chain = Chain(resolved(recipe, series), series.sha256, str(table))
    dense = chain.train("dense")
    inputs = StageInputs(prepared=prepared_for(dense))
    trained = run_stage(dense, inputs)
    before = {name: value.clone() for name, value in trained.result.saved.model.state_dict().items()}  # type: ignore[union-attr]
    zeroed = run_stage(chain.zero(dense), replace(inputs, known=Parent(trained.result.saved, trained.record)))  # type: ignore[union-attr]
    assert zeroed.record.parent == dense.fingerprint
    assert zeroed.record.test != trained.record.test
    after = trained.result.saved.model.state_dict()  # type: ignore[union-attr]
    assert all(before[name].equal(after[name]) for name in before)

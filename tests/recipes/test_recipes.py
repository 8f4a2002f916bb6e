"""The recipes of the house: all of them plan, the tiny one runs, and the main one shows what it claims."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.golden import GOLDEN, numbers, numbers_of_every_model

from prunecast import environment
from prunecast.cli.main import main
from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.records import RECORD_BYTES, Accuracy, taken_apart
from prunecast.report.statistics import Interval
from prunecast.report.statistics import difference as difference_of
from prunecast.stages.base import StageInputs
from prunecast.stages.job import CODE_VERSIONS, Job
from prunecast.stages.run import prepared_for, run_stage
from prunecast.store import Store, read_record
from prunecast.study.plan import plan
from prunecast.study.study import open_study

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TINY, QUICKSTART = (next(path for path in RECIPES if path.stem == stem) for stem in ("tiny", "quickstart"))
STAGES = ("train", "prune", "zero", "finetune", "export", "measure")
ROUNDING = 1e-3
"""Relative; processors that add in another order move the fifth digit."""

ROUNDING_OF_TEN_STEPS = 1e-2
"""Adam's first steps have one size whatever the gradient, so those near zero go either way: between two processors 6e-3
was seen."""


def jobs_of(recipe: Path, *settings: str) -> list[Job]:
    return plan(load_recipe(recipe, settings), load_series, environment.describe().machine)


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_plans(recipe: Path) -> None:
    jobs = jobs_of(recipe)
    assert {job.stage for job in jobs} == set(STAGES)
    assert {"naive", "small-dense", "zeroed-body", "dense-continued"} <= {job.role for job in jobs}
    assert load_recipe(recipe).study is not None
    assert recipe.read_text().startswith("# "), "a recipe says what it is for"


# The tiny study


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole study of recipes/tiny.yaml, by the command line."""
    out = tmp_path_factory.mktemp("recipes") / "tiny"
    assert main(["--quiet", "study", "run", str(TINY), "--out", str(out)]) == 0
    return out


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["--quiet", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_tiny_study_is_whole(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "study", "status", str(tiny))
    assert found["stages"] == found["done"] == len(jobs_of(TINY))
    assert (found["failed"], found["running"]) == ([], False)
    for fingerprint in (job.fingerprint for job in jobs_of(TINY)):
        folder = Store(tiny / "store").directory(fingerprint)
        text = (folder / "record.json").read_text()
        assert text == taken_apart(read_record(folder))[0]
        assert len(text) <= RECORD_BYTES


def test_a_finished_study_runs_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "study", "run", str(TINY), "--out", str(tiny))
    assert (found["ran"], found["failed"]) == (0, [])
    assert found["done_before"] == found["stages"]


def test_the_report_is_one_page_that_works_offline(tiny: Path) -> None:
    page = (tiny / "report.html").read_text(encoding="utf-8")
    assert "A tiny study" in page
    assert not re.search(r"<script[^>]*\ssrc\s*=", page)
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\ssrc\s*=\s*.(?!data:)|<link\b|@import\b|url\(\s*['\"]?(?!data:)", outside)


def test_every_exported_model_is_within_its_tolerance(tiny: Path) -> None:
    records, _ = open_study(tiny).results()
    parities = [artefact.parity for record in records for artefact in record.artefacts if record.stage == "export"]
    assert parities
    assert all(parity is not None and parity.within for parity in parities)


def test_the_numbers_are_the_golden_ones(tiny: Path) -> None:
    check_golden("models", numbers(tiny), ROUNDING)


def test_every_model_trains_and_is_pruned_as_it_was(tmp_path: Path) -> None:
    check_golden("every_model", numbers_of_every_model(tmp_path / "study"), ROUNDING_OF_TEN_STEPS)


def check_golden(name: str, found: Mapping[str, Mapping[str, Any]], rounding: float) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["versions"] == CODE_VERSIONS, "a version was raised: renew with `python tools/golden.py`"
    assert list(found) == list(golden[name]), "the plan is another: renew with `python tools/golden.py`"
    moved = [
        (STAGES.index(value["stage"]), f"{label}: {golden[name][label]} is now {value}")
        for label, value in found.items()
        if value != golden[name][label] | {"mse": pytest.approx(golden[name][label]["mse"], rel=rounding)}
    ]
    assert not moved, (
        f"{len(moved)} models have other numbers, first {min(moved)[1]}; if that is meant, raise the version of the "
        f"stage {STAGES[min(moved)[0]]!r} in src/prunecast/stages/job.py and renew with `python tools/golden.py`"
    )


# The main job


def scored(job: Job, folder: Path) -> Accuracy:
    """Returns the test error of a training stage that runs here."""
    directory = folder / job.fingerprint
    directory.mkdir()
    record = run_stage(
        job, StageInputs(prepared=prepared_for(job), directory=directory, found=lambda _: directory)
    ).record
    assert record.test is not None
    return record.test


def difference(one: Accuracy, other: Accuracy) -> Interval:
    """Returns the difference of two test errors, over the same blocks of windows."""
    assert one.blocks is not None
    assert other.blocks is not None
    assert one.blocks.windows == other.blocks.windows
    errors, reference = (np.array([accuracy.blocks.mse]) for accuracy in (one, other) if accuracy.blocks is not None)
    interval = difference_of(errors, reference, np.array(one.blocks.windows, dtype=float)).interval()
    assert interval is not None
    return interval


@pytest.mark.slow
def test_the_dense_transformer_of_the_main_job_beats_both_naive_forecasts(tmp_path: Path) -> None:
    """By more than the interval; one of its epochs is enough for that."""
    trained = {job.recipe.model["name"]: job for job in jobs_of(QUICKSTART, "train.epochs=1")
               if job.stage == "train" and job.role in ("dense", "naive")}  # fmt: skip
    ours = scored(trained["transformer"], tmp_path)
    for naive in ("repeat", "seasonal_naive"):
        assert difference(ours, scored(trained[naive], tmp_path)).high < 0

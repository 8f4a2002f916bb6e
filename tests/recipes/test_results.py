"""Published results are found again: their recipes ask for stages of the same names, and nothing is run again."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from tools import publish

from prunecast import environment
from prunecast.data.series import load_series
from prunecast.errors import UserError
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
    assert STUDIES == [
        "etth1-models",
        "etth1-small",
        "paper-small",
        "pruning-choice",
        "pruning-etth1",
        "pruning-fedformer",
        "pruning-paper-size",
        "pruning-pjm",
        "pruning-pjm-tuned",
        "pruning-pjm-tuned-50",
        "pruning-training",
    ]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert len(files) <= 70
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
    assert (found.done, found.failed, found.damaged) == (found.stages, [], [])
    tables, failures = open_study(RESULTS / name).tables()
    assert len(tables.stages) == found.stages
    assert failures == []
    parents = set(tables.stages[["parent", "reference", "compared_with"]].stack().dropna())
    assert parents <= set(tables.stages["fingerprint"])
    known = set(tables.arrays["fingerprint"])
    assert set(tables.stages.dropna(subset=["test_mse"])["fingerprint"]) <= known, "errors by block are there"


def test_a_study_takes_the_place_of_the_one_before_when_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, target = RESULTS / "etth1-small", tmp_path / "packed"
    target.mkdir()
    (target / "old").touch()
    with monkeypatch.context() as broken:
        broken.setattr(publish, "write_frame", full)
        with pytest.raises(UserError, match="No space left"):
            publish.publish(source, target)
    assert [path.name for path in tmp_path.rglob("*")] == ["packed", "old"]
    assert publish.publish(source, target) == len(open_study(source).stages)
    assert {path.name for path in target.iterdir()} == {"recipe.yaml", "records.parquet", "arrays.parquet"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("target", ["results", "results/a/b", "elsewhere"])
def test_only_a_folder_right_under_results_is_written(target: str, tmp_path: Path) -> None:
    tool = Path(publish.__file__).resolve()
    command = [sys.executable, tool, tmp_path, target]
    done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected a folder right under results/" in done.stderr

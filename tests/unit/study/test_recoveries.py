"""Methods with and without a recovery in one study: told apart everywhere, each beside its own random control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.series_files import write_table
from tests.support.small_study import Watch

from prunecast.data.series import load_series
from prunecast.recipe import load_recipe
from prunecast.report.compare import StudyRuns
from prunecast.report.context import Context
from prunecast.report.sheets import variants_table
from prunecast.report.tables import Cell, Head
from prunecast.study.local import InProcess
from prunecast.study.plan import plan
from prunecast.study.study import open_study, run_study

ONCE: dict[str, Any] = {"sparsities": [0.4, 0.7]}
RECIPE: dict[str, Any] = {
    "model": {"lookback": 24, "horizon": 6},
    "train": {"epochs": 1, "max_steps": 10, "learning_rate": 0.01, "threads": 1},
    "finetune": {"epochs": 1, "max_steps": 3, "learning_rate": 0.001, "threads": 1},
    "measure": {"runtimes": []},
    "study": {
        "controls": ["random", "dense-continued"],
        "models": [{"model": {"name": "transformer", "d_model": 8, "n_heads": 2, "d_ff": 8, "encoder_layers": 1}}],
        "prune": [
            {"methods": ["magnitude", "structured-magnitude", "obc", "structured"], **ONCE},
            {"methods": ["magnitude", "structured-magnitude"], **ONCE, "settings": {"recovery": "ridge"}},
        ],
    },
}
CONTROLS = {
    "magnitude": "random",
    "structured-magnitude": "structured-random",
    "obc": "random + ridge",
    "structured": "structured-random + ridge",
    "magnitude + ridge": "random + ridge",
    "structured-magnitude + ridge": "structured-random + ridge",
}
"""Method, as reports name it -> its control."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recoveries")
    base = RECIPE | {"data": {"name": str(write_table(folder / "own.csv", rows=400))}}
    recipe = load_recipe(base=base)
    outcome = run_study(
        folder / "study", recipe, plan(recipe, load_series, "m"), 1, Watch(), executor=InProcess, own_timings=False
    )
    assert not outcome.failed
    return folder / "study"


def test_a_method_is_held_against_the_control_that_recovers_as_it_does(finished: Path) -> None:
    context = Context(open_study(finished).tables()[0])
    found = [comparison for comparison in context.mse.every if comparison.against == "random"]
    assert {(one.variant.method, one.other.method) for one in found} == set(CONTROLS.items())
    assert len(found) == 2 * 2 * len(CONTROLS), "each share, fine-tuned or not"
    for one in found:
        assert one.variant.sparsity_requested == one.other.sparsity_requested
        assert one.variant.role == one.other.role
        assert one.other.is_control


def test_two_cells_of_one_method_are_two_lines(finished: Path) -> None:
    context = Context(open_study(finished).tables()[0])
    methods = {*CONTROLS, *CONTROLS.values()}
    assert {method for _, method in context.sweeps.methods} == methods
    assert {line.method for line in context.sweeps.lines} == methods
    looks = [context.looks[method] for method in methods]
    assert len(looks) == len(set(looks)), "each is drawn in its own way"
    names = [variant.full_name for variant in context.study.runs]
    assert len(names) == len(set(names))
    errors = context.summary.set_index(["method", "role", "sparsity_requested"])["test_mse"]
    for method in ("magnitude", "structured-magnitude", "random", "structured-random"):
        assert errors[method, "pruned", 0.7] != errors[f"{method} + ridge", "pruned", 0.7]


def test_tables_have_the_control_beside_each_method(finished: Path) -> None:
    context = Context(open_study(finished).tables()[0])
    judged = context.summary["method"].isin(CONTROLS)
    assert context.summary[judged]["vs_random"].notna().all()
    assert context.summary[~judged]["vs_random"].isna().all()
    [case] = context.study.cases
    shown = variants_table(context, "variants", case).rows
    against = Head("change of MSE against", "random", paper=False)
    held = {row.series for row in shown if row.cells.get(against, Cell()).text}
    assert held == set(CONTROLS)


def test_records_of_before_that_name_no_control_are_compared_without(finished: Path) -> None:
    frame = open_study(finished).tables()[0]
    older = type(frame)(frame.stages.drop(columns=["method_control", "recovery"]), frame.arrays)
    runs = StudyRuns.of(older)
    partners = {
        against for variant in runs.runs.values() for row in variant.values() for against, _ in runs.partners(row)
    }
    assert partners == {"dense", "dense-continued"}

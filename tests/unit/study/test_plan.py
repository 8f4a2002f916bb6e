"""A grid becomes stages: what is shared, what is always there, and what each choice changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.series_files import write_table

from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.recipe import load_recipe, merged
from prunecast.stages.job import CODE_VERSIONS, RECOVERY_VERSIONS, Job
from prunecast.study.plan import plan

METHODS = ["magnitude", "structured-magnitude"]
NARROW = {"d_model": 8, "n_heads": 2, "d_ff": 8}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("plan") / "own.csv")


def grid(table: Path, difference: Mapping[str, Any] | None = None) -> list[Job]:
    """Returns the stages of a small grid with a difference laid over it."""
    base: dict[str, Any] = {
        "data": {"name": str(table)},
        "model": {"lookback": 24, "horizon": 6},
        "finetune": {"epochs": 1},
        "measure": {"runtimes": ["onnxruntime"]},
        "study": {
            "models": [{"model": {"name": "transformer", **NARROW}}],
            "prune": [{"methods": METHODS, "sparsities": [0.5, 0.9]}],
        },
    }
    recipe = load_recipe(base=merged(base, difference or {}))
    return plan(recipe, load_series, machine="m")


def prune_lines(*lines: Mapping[str, Any], **study: Any) -> dict[str, Any]:
    return {"study": {"prune": list(lines), **study}}


def names(jobs: Iterable[Job]) -> set[str]:
    return {job.fingerprint for job in jobs}


def changed(before: list[Job], after: list[Job]) -> set[str]:
    """Returns the kinds of stage that got another fingerprint; the plans are alike in all else."""
    assert len(before) == len(after)
    return {old.stage for old, new in zip(before, after, strict=True) if old.fingerprint != new.fingerprint}


def of_model(jobs: Iterable[Job], name: str) -> list[Job]:
    return [job for job in jobs if job.recipe.model["name"] == name]


# Shape of the plan


def test_parents_come_first_and_each_stage_once(table: Path) -> None:
    seen: set[str] = set()
    for job in grid(table):
        assert set(job.needs) <= seen
        assert job.fingerprint not in seen
        seen.add(job.fingerprint)


def test_a_dense_model_is_trained_once_and_shared(table: Path) -> None:
    jobs = of_model(grid(table), "transformer")
    dense = [job for job in jobs if job.stage == "train" and job.role == "dense"]
    assert len(dense) == 1
    pruned = [job for job in jobs if job.stage == "prune"]
    assert {job.parent for job in pruned} == {dense[0].fingerprint}
    timed = [job for job in jobs if job.stage == "measure" and job.role != "dense"]
    assert {job.reference for job in timed} == {dense[0].fingerprint}
    assert len({job.exports[1] for job in timed}) == 1


def test_every_variant_is_pruned_tuned_exported_and_timed(table: Path) -> None:
    jobs = of_model(grid(table), "transformer")
    for method in METHODS:
        for sparsity in (0.5, 0.9):
            [pruned] = [j for j in jobs if j.stage == "prune" and j.recipe.prune is not None
                        and (j.recipe.prune.method, j.recipe.prune.sparsity) == (method, sparsity)]  # fmt: skip
            [tuned] = [j for j in jobs if j.stage == "finetune" and j.parent == pruned.fingerprint]
            for made in (pruned, tuned):
                [export] = [j for j in jobs if j.stage == "export" and j.parent == made.fingerprint]
                [timing] = [j for j in jobs if j.stage == "measure" and j.parent == made.fingerprint]
                assert timing.exports[0] == export.fingerprint


def test_controls_are_there_unless_named(table: Path) -> None:
    jobs = grid(table)
    assert {job.recipe.model["name"] for job in jobs} == {"transformer", "dlinear", "repeat", "seasonal_naive"}
    assert {job.role for job in of_model(jobs, "repeat")} == {"naive"}
    own = of_model(jobs, "transformer")
    roles = Counter(job.role for job in own if job.stage != "export" and job.stage != "measure")
    assert roles["zeroed-body"] == roles["dense-continued"] == 1
    assert roles["small-dense"] == 2  # one for each structured sparsity
    methods = Counter(job.recipe.prune.method for job in own if job.stage == "prune" and job.recipe.prune)
    assert methods == {"magnitude": 2, "random": 2, "structured-magnitude": 2, "structured-random": 2}
    tuned = [job for job in own if job.stage == "finetune" and job.role == "pruned+finetuned"]
    assert len(tuned) == 8  # the twins too


@pytest.mark.parametrize(
    ("control", "gone"),
    [
        ("naive", {"naive"}),
        ("zeroed-body", {"zeroed-body"}),
        ("dense-continued", {"dense-continued"}),
        ("small-dense", {"small-dense"}),
        ("dlinear", set()),
        ("random", set()),
    ],
)
def test_a_control_can_be_left_out_by_naming_the_others(table: Path, control: str, gone: set[str]) -> None:
    everything = ["naive", "dlinear", "random", "zeroed-body", "dense-continued", "small-dense"]
    with_all = grid(table)
    without = grid(table, {"study": {"controls": [name for name in everything if name != control]}})
    assert names(without) < names(with_all)
    assert {job.role for job in with_all} - {job.role for job in without} == gone
    if control == "dlinear":
        assert not of_model(without, "dlinear")
    if control == "random":
        assert not any("random" in job.label for job in without)


def removals(jobs: Iterable[Job]) -> Counter[tuple[str, str | None]]:
    """Returns the methods of the Transformer's prunings, each with the recovery that it was asked for."""
    prunings = [job.recipe.prune for job in of_model(jobs, "transformer") if job.stage == "prune"]
    return Counter((config.method, config.recovery) for config in prunings if config is not None)


def test_a_random_control_recovers_as_its_method_does(table: Path) -> None:
    once = {"sparsities": [0.5]}
    lines = [{"methods": METHODS, **once}, {"methods": METHODS, **once, "settings": {"recovery": "ridge"}}]
    both = grid(table, prune_lines(*lines))
    controls = {"random", "structured-random"}
    assert removals(both) == {(name, how): 1 for name in {*METHODS, *controls} for how in (None, "ridge")}
    labels = [job.label for job in both]
    assert len(labels) == len(set(labels)), "cells of one method are told apart"
    one_line = removals(grid(table, prune_lines({"methods": ["magnitude", "random", "obc"], **once})))
    assert one_line == {("magnitude", None): 1, ("random", None): 1, ("obc", None): 1, ("random", "ridge"): 1}


def test_a_recovery_that_is_the_methods_own_is_no_other_cell(table: Path) -> None:
    line = {"methods": ["obc", "magnitude"], "sparsities": [0.5]}
    plain, said = (
        grid(table, prune_lines(*lines)) for lines in ([line], [line, line | {"settings": {"recovery": "ridge"}}])
    )
    assert removals(said) == removals(plain) + Counter([("magnitude", "ridge")])


def test_a_control_reads_what_its_method_reads_of_the_data(table: Path) -> None:
    settings = {"recovery": "ridge", "calibration_batches": 2}
    jobs = grid(table, prune_lines({"methods": ["magnitude"], "sparsities": [0.5], "settings": settings}))
    prunings = [job.recipe.prune for job in of_model(jobs, "transformer") if job.stage == "prune"]
    assert {config.calibration_batches for config in prunings if config} == {2}


@pytest.mark.parametrize(
    ("method", "recovery", "expected"),
    [
        ("magnitude", "rigde", "unknown recovery 'rigde'; did you mean 'ridge'"),
        ("movement", "ridge", "'movement' prunes in training.*expected no recovery, found 'ridge'"),
    ],
)
def test_a_recovery_without_meaning_is_refused_before_anything_is_trained(
    table: Path, method: str, recovery: str, expected: str
) -> None:
    line = {"methods": [method], "sparsities": [0.5], "settings": {"recovery": recovery}}
    with pytest.raises(UserError, match=expected):
        grid(table, prune_lines(line))


def test_of_the_controls_only_small_dense_models_are_timed(table: Path) -> None:
    timed = [job for job in grid(table) if job.stage in ("export", "measure")]
    assert {job.role for job in timed} == {"dense", "pruned", "pruned+finetuned", "small-dense"}
    assert not any("random" in job.label for job in timed)


def test_a_method_is_asked_of_the_models_that_are_named(table: Path) -> None:
    jobs = grid(table, prune_lines({"methods": ["magnitude"], "sparsities": [0.5], "models": ["dlinear"]}))
    assert {job.recipe.model["name"] for job in jobs if job.stage == "prune"} == {"dlinear"}


def test_without_tuning_there_are_no_tuned_models(table: Path) -> None:
    for difference in ({"finetune": {"epochs": 0}}, {"study": {"finetune": [False]}}):
        assert not [job for job in grid(table, difference) if job.stage == "finetune"]


def test_tuned_models_alone_still_rest_on_pruned_ones(table: Path) -> None:
    jobs = grid(table, {"study": {"finetune": [True]}})
    timed = [job for job in jobs if job.stage == "measure"]
    assert {job.role for job in timed} == {"dense", "pruned+finetuned", "small-dense"}
    assert any(job.stage == "prune" for job in jobs)


def test_no_season_in_a_window_means_no_seasonal_forecast(table: Path) -> None:
    jobs = grid(table, {"model": {"lookback": 20}})
    assert "seasonal_naive" not in {job.recipe.model["name"] for job in jobs}


def test_a_grid_of_horizons_seeds_and_data_multiplies(table: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other.csv", first=9.0)
    dense: dict[str, Any] = {"controls": [], "prune": []}
    jobs = grid(
        table,
        {
            "study": {
                **dense,
                "horizons": [3, 6],
                "seeds": [1, 2, 3],
                "datasets": [{"data": {"name": str(table)}}, {"data": {"name": str(other)}}],
            }
        },
    )
    cells = {(job.source, job.recipe.model["horizon"], job.recipe.seed) for job in jobs}
    assert len(cells) == 12
    assert sum(job.stage == "train" for job in jobs) == 12


def test_a_data_set_brings_its_own_horizons_and_sizes(table: Path) -> None:
    own = {"data": {"name": str(table)}, "horizons": [2], "model": {"lookback": 12}, "train": {"batch_size": 8}}
    jobs = grid(table, {"study": {"horizons": [3, 6], "datasets": [{"data": {"name": str(table)}}, own]}})
    cells = {
        (job.recipe.model["lookback"], job.recipe.model["horizon"], job.recipe.train.batch_size)
        for job in jobs
        if job.stage == "train"
    }
    assert cells == {(24, 3, 32), (24, 6, 32), (12, 2, 8)}


def test_only_some_seeds_may_be_timed(table: Path) -> None:
    jobs = grid(table, {"study": {"seeds": [1, 2, 3], "timed": [2]}})
    clocked = {job.recipe.seed for job in jobs if job.stage in ("export", "measure")}
    assert clocked == {2}
    assert {job.recipe.seed for job in jobs if job.stage == "finetune"} == {1, 2, 3}


# What names a stage


def test_one_more_seed_only_adds(table: Path) -> None:
    one, two = grid(table, {"study": {"seeds": [1]}}), grid(table, {"study": {"seeds": [1, 2]}})
    assert names(one) < names(two)
    assert len(two) == 2 * len(one)


def test_one_more_sparsity_only_adds(table: Path) -> None:
    line = {"methods": METHODS, "sparsities": [0.5, 0.9, 0.95]}
    assert names(grid(table)) < names(grid(table, prune_lines(line)))


@pytest.mark.parametrize(
    ("difference", "kinds"),
    [
        ({"study": {"title": "another"}}, set()),
        ({"measure": {"min_count": 7}}, {"measure"}),
        ({"measure": {"threads": 2}}, {"measure"}),
        ({"export": {"parity_windows": 3}}, {"export", "measure"}),
        ({"finetune": {"learning_rate": 0.5}}, {"finetune", "export", "measure"}),
        ({"train": {"batch_size": 16}}, set(CODE_VERSIONS)),
        ({"data": {"scoring": "paper"}}, set(CODE_VERSIONS)),
        ({"model": {"label_len": 3}}, set(CODE_VERSIONS)),
    ],
)
def test_a_setting_changes_the_stages_that_rest_on_it(table: Path, difference: dict[str, Any], kinds: set[str]) -> None:
    assert changed(grid(table), grid(table, difference)) == kinds


def test_a_change_of_tuning_leaves_what_is_not_tuned(table: Path) -> None:
    before, after = grid(table), grid(table, {"finetune": {"learning_rate": 0.5}})
    kept = names(before) & names(after)
    assert {job.role for job in before if job.fingerprint not in kept} == {"dense-continued", "pruned+finetuned"}


def test_the_other_machine_times_anew(table: Path) -> None:
    recipe = load_recipe(
        base={"data": {"name": str(table)}, "model": {"lookback": 24, "horizon": 6}, "study": {"controls": []}}
    )
    assert changed(*(plan(recipe, load_series, machine=machine) for machine in ("m", "n"))) == {"measure"}


def test_data_counts_by_content_not_by_path(table: Path, tmp_path: Path) -> None:
    moved = write_table(tmp_path / "elsewhere" / "renamed.csv")
    other = write_table(tmp_path / "own.csv", first=9.0)
    assert names(grid(moved)) == names(grid(table))
    assert not names(grid(other)) & names(grid(table))


def test_no_path_reaches_a_recipe_that_is_kept(table: Path) -> None:
    assert not [job for job in grid(table) if str(table.parent) in job.recipe.model_dump_json()]


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("train", set(CODE_VERSIONS)),
        ("prune", {"prune", "finetune", "train", "export", "measure"}),
        ("export", {"export", "measure"}),
        ("measure", {"measure"}),
    ],
)
def test_the_version_of_the_code_counts(
    table: Path, stage: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = grid(table)
    monkeypatch.setitem(CODE_VERSIONS, stage, CODE_VERSIONS[stage] + 1)  # type: ignore[index, misc]
    after = grid(table)
    assert changed(before, after) == kinds
    if stage == "prune":  # of the trained models, those alone that have a pruned one's size
        trained = {old.role for old, new in zip(before, after, strict=True)
                   if old.stage == "train" and old.fingerprint != new.fingerprint}  # fmt: skip
        assert trained == {"small-dense"}


# What goes wrong


def test_a_shape_that_a_search_found_has_its_control_of_the_same_shape(table: Path) -> None:
    shape = {"keep": {"encoder.layers": [0], "encoder.width": 8}}
    line = {"methods": ["structured"], "sparsities": [0.8], "models": ["transformer"], "settings": shape}
    jobs = [job for job in grid(table, prune_lines(line)) if job.stage == "prune"]
    pruned = {job.recipe.prune.method: job.recipe.prune for job in jobs if job.recipe.prune}
    assert pruned.keys() == {"structured", "structured-random"}
    assert pruned["structured-random"].keep == pruned["structured"].keep
    assert pruned["structured-random"].kinds == pruned["structured"].kinds, "layers are no kind of its own"


@pytest.mark.parametrize(
    ("difference", "hint"),
    [
        ({"study": {"models": [{"model": {"name": "transfomer"}}]}}, "did you mean 'transformer'"),
        ({"study": {"models": [{"model": {"name": "dlinear", "d_model": 8}}]}}, "unknown key 'model.d_model'"),
        ({"study": {"models": [{"model": {"name": "dlinear"}, "train": {"epoch": 3}}]}}, "did you mean 'epochs'"),
        (prune_lines({"methods": ["magnitud"], "sparsities": [0.5]}), "did you mean 'magnitude'"),
        (prune_lines({"methods": ["magnitud"], "sparsities": [0.5]}, controls=[]), "did you mean 'magnitude'"),
        (prune_lines({"methods": ["magnitude"], "sparsities": [1.0]}), "prune.sparsity"),
        (prune_lines({"methods": ["magnitude"], "sparsities": [0.5], "settings": {"off": "model"}}), "did you mean"),
        (prune_lines({"methods": ["magnitude"], "sparsities": [0.5], "models": ["transfomer"]}), "did you mean"),
        ({"study": {"datasets": [{"data": {"nam": "ETTh1"}}]}}, "did you mean 'name'"),
        ({"study": {"datasets": [{"data": {"name": "ETTh7"}}]}}, "did you mean 'ETTh"),
        ({"study": {"controls": ["naiv"]}}, "study.controls"),
        ({"study": {"horizons": [0]}}, "model.horizon"),
        ({"model": {"lookback": "long"}}, "model.lookback"),
        ({"measure": {"runtimes": ["onnxruntim"]}}, "did you mean 'onnxruntime'"),
    ],
)
def test_a_grid_that_does_not_fit_is_one_line(table: Path, difference: dict[str, Any], hint: str) -> None:
    with pytest.raises(UserError) as caught:
        grid(table, difference)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "settings", "renewed"),
    [
        ("magnitude", {}, False),
        ("magnitude", {"recovery": "ridge"}, True),
        ("wanda", {}, False),
        ("structured", {}, True),
        ("structured", {"recovery": "none"}, True),  # its choice repairs too
        ("obc", {}, True),
    ],
)
def test_a_recovery_that_was_changed_renames_the_pruning_that_has_it(
    method: str, settings: dict[str, str], renewed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(base={"prune": {"method": method, "sparsity": 0.5, **settings}})

    def names() -> list[str]:
        return [
            Job(stage=stage, role="pruned", recipe=recipe, data_sha256="", source="").fingerprint
            for stage in ("train", "prune", "finetune")
        ]

    before = names()
    monkeypatch.setitem(RECOVERY_VERSIONS, "ridge", 99)
    assert [old != new for old, new in zip(before, names(), strict=True)] == [False, renewed, False]

"""One way through the stages: a verb makes what a study would make, and names it alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from tests.support.series_files import write_table
from torch import Tensor

from prunecast import api
from prunecast.data.series import load_series
from prunecast.errors import UserError
from prunecast.models.base import build
from prunecast.models.io import load_model
from prunecast.recipe import PruneConfig, load_recipe
from prunecast.records import RunRecord
from prunecast.registry import METHODS
from prunecast.resolve import resolved
from prunecast.stages.base import Parent, StageInputs
from prunecast.stages.job import Job
from prunecast.stages.run import Chain, prepared_for, run_stage
from prunecast.store import read_record
from prunecast.study.plan import plan
from prunecast.study.study import check_budgets

SIZES = {"lookback": 24, "horizon": 6}
TRAIN = {"epochs": 1, "max_steps": 5, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("stages") / "own.csv")


def planned(
    table: Path,
    changed: Mapping[str, Any] = MappingProxyType({}),
    *,
    methods: Sequence[str] = ("magnitude",),
    **keys: Any,
) -> list[Job]:
    """Returns the stages of a study of one small model."""
    study = {"controls": [], "prune": [{"methods": methods, "sparsities": [0.5]}]} | keys
    base = {"data": {"name": str(table)}, "model": {"name": "dlinear", **SIZES}, "train": TRAIN, "finetune": TRAIN}
    return plan(load_recipe(base=base | {"study": study} | {**changed}), load_series, machine="m")


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


METHODS_THAT_TRAIN = [name for name in METHODS.names() if METHODS.load(name).schedule]


@pytest.mark.parametrize("method", METHODS_THAT_TRAIN)
def test_a_method_that_prunes_in_training_is_one_stage_of_verb_and_study(
    table: Path, tmp_path: Path, method: str
) -> None:
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    api.train("dlinear", str(table), out=tmp_path / "dense", settings=settings, **SIZES)
    tune = [text.replace("train", "finetune") for text in settings[1:]]
    places = {"out": tmp_path / "half", "data": str(table)}
    with pytest.raises(UserError, match="prunes in training, expected epochs of fine-tuning, found 0; give --finetune"):
        api.prune(tmp_path / "dense", method, 0.5, settings=tune, **places)  # type: ignore[arg-type]
    assert not (tmp_path / "half").exists()
    made = api.prune(tmp_path / "dense", method, 0.5, finetune_epochs=1, settings=tune, **places)  # type: ignore[arg-type]
    record = read_record(tmp_path / "half")
    pruning, masks = record.pruning, load_model(tmp_path / "half").masks
    assert pruning is not None
    assert pruning.method == method
    assert pruning.realised == pruning.requested == sum(int((~mask).sum()) for mask in masks.values())
    assert made.nonzero <= made.parameters - pruning.realised
    jobs = planned(table, methods=[method, "magnitude"], controls=["random", "dense-continued"])
    by_role = {(job.role, job.recipe.prune.method): job for job in jobs if job.prunes and job.recipe.prune}
    assert [role for role, name in by_role if name == method] == ["pruned+finetuned"]
    assert by_role["pruned+finetuned", method].fingerprint == record.fingerprint
    labels = [job.label.partition(": ")[2] for job in jobs if method in job.label]
    assert labels == [f"{method} 0.5", f"export of {method} 0.5", f"timing of {method} 0.5"]
    assert ("pruned", "random") in by_role
    dense = next(job for job in jobs if job.stage == "train")
    assert record.parent == dense.fingerprint
    with pytest.raises(UserError, match=f"method '{method}' prunes in training, expected epochs"):
        planned(table, methods=[method], finetune=[False])


def test_a_search_is_one_stage_of_verb_and_study_and_takes_the_best_by_validation(table: Path, tmp_path: Path) -> None:
    small = {"name": "transformer", **SIZES, "d_model": 16, "n_heads": 2, "d_ff": 24, "encoder_layers": 2}
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    settings += [f"model.{key}={value}" for key, value in small.items() if key not in ("name", *SIZES)]
    api.train("transformer", str(table), out=tmp_path / "dense", settings=settings, **SIZES)
    tune = [f"finetune.{key}={value}" for key, value in TRAIN.items() if key != "epochs"]
    places = {"out": tmp_path / "half", "data": str(table)}
    with pytest.raises(UserError, match="'compress' prunes in training, expected epochs of fine-tuning, found 0"):
        api.prune(tmp_path / "dense", "compress", 0.5, **places)  # type: ignore[arg-type]
    made = api.prune(tmp_path / "dense", "compress", 0.5, finetune_epochs=1, settings=tune, **places)  # type: ignore[arg-type]
    record = read_record(tmp_path / "half")
    assert record.pruning is not None
    assert record.pruning.method == "compress"
    assert abs(record.pruning.realised - record.pruning.requested) < 0.05 * record.pruning.total
    assert made.parameters == record.size.parameters < read_record(tmp_path / "dense").size.parameters  # type: ignore[union-attr]
    once = api.prune(tmp_path / "dense", "structured", 0.5, out=tmp_path / "once", data=str(table))
    assert made.val_mse <= once.val_mse, "what structured chooses is one of its choices, and tuning is no must"  # type: ignore[operator]
    jobs = planned(table, {"model": small}, methods=["compress"], controls=["random", "small-dense", "dense-continued"])
    check_budgets(jobs)
    roles = [(job.role, job.recipe.prune.method) for job in jobs if job.prunes and job.recipe.prune]
    assert roles == [("pruned+finetuned", "compress"), ("pruned", "structured-random")]
    [ours] = [job for job in jobs if job.fingerprint == record.fingerprint]
    assert [job.compared_with for job in jobs if job.role == "small-dense" and job.stage == "train"] == [
        ours.fingerprint
    ]


def test_the_control_of_a_method_that_prunes_in_training_is_pruned_at_once(table: Path) -> None:
    line = {"methods": ["acdc"], "sparsities": [0.5], "settings": {"training_updates": 4}}
    jobs = [job for job in planned(table, controls=["random"], prune=[line]) if job.prunes]
    check_budgets(jobs)
    found = {job.recipe.prune.method: job.recipe.prune.training_updates for job in jobs if job.recipe.prune}
    assert found == {"acdc": 4, "random": PruneConfig().training_updates}


@pytest.mark.parametrize("method", METHODS_THAT_TRAIN)
def test_a_model_that_was_pruned_before_is_pruned_further_in_training(table: Path, tmp_path: Path, method: str) -> None:
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    api.train("dlinear", str(table), out=tmp_path / "dense", settings=settings, **SIZES)
    first = api.prune(tmp_path / "dense", "magnitude", 0.3, data=str(table), out=tmp_path / "first")
    tune = [text.replace("train", "finetune") for text in settings[1:]]
    places = {"out": tmp_path / "second", "data": str(table)}
    api.prune(tmp_path / "first", method, 0.5, finetune_epochs=1, settings=tune, **places)  # type: ignore[arg-type]
    pruning = read_record(tmp_path / "second").pruning
    assert pruning is not None
    assert pruning.given_nonzero == first.nonzero
    assert pruning.realised == round(0.5 * pruning.total)
    before, after = (load_model(tmp_path / name).masks for name in ("first", "second"))
    assert not any((after[name] & ~mask).any() for name, mask in before.items())


def test_pruning_again_goes_on_from_the_model_and_not_from_how_it_was_tuned(table: Path, tmp_path: Path) -> None:
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    api.train("dlinear", str(table), out=tmp_path / "dense", settings=settings, **SIZES)
    tune = [text.replace("train", "finetune") for text in settings[1:]]
    tune += ["finetune.distill=0.5", "prune.training_updates=3"]
    places = {"out": tmp_path / "first", "data": str(table)}
    api.prune(tmp_path / "dense", "acdc", 0.3, finetune_epochs=1, settings=tune, **places)  # type: ignore[arg-type]
    api.prune(tmp_path / "first", "magnitude", 0.5, data=str(table), out=tmp_path / "second")
    record = read_record(tmp_path / "second")
    assert (record.stage, record.fit) == ("prune", None)


def test_distillation_has_the_model_before_pruning_for_its_teacher(table: Path, tmp_path: Path) -> None:
    settings = [f"train.{key}={value}" for key, value in TRAIN.items()]
    api.train("dlinear", str(table), out=tmp_path / "dense", settings=settings, **SIZES)
    tune = [text.replace("train", "finetune") for text in settings[1:]]
    made = {}
    for share in (0, 0.5, 1):
        api.prune(
            tmp_path / "dense",
            "magnitude",
            0.5,
            out=tmp_path / f"{share}",
            data=str(table),
            finetune_epochs=1,
            settings=[*tune, f"finetune.distill={share}"],
        )
        made[share] = read_record(tmp_path / f"{share}")
    assert len({str(record.test) for record in made.values()}) == 3
    base = {"finetune": TRAIN | {"distill": 0.5}}
    jobs = planned(table, base, methods=["magnitude"], controls=["dense-continued"])
    tuned = next(job for job in jobs if job.role == "pruned+finetuned" and job.stage == "finetune")
    dense = next(job for job in jobs if job.stage == "train")
    assert tuned.fingerprint == made[0.5].fingerprint
    assert dense.fingerprint in tuned.needs, "a study keeps the teacher until then"
    plain = planned(table, methods=["magnitude"], controls=["dense-continued"])
    trained_on = [next(job for job in found if job.role == "dense-continued") for found in (jobs, plain)]
    assert trained_on[0].fingerprint == trained_on[1].fingerprint, "the dense model is trained on plainly"


@pytest.mark.parametrize("step", [0, 3])
def test_fine_tuning_goes_back_to_the_weights_that_training_kept(table: Path, tmp_path: Path, step: int) -> None:
    train = [f"train.{key}={value}" for key, value in TRAIN.items()]
    api.train("dlinear", str(table), out=tmp_path / "dense", settings=[*train, f"train.keep_step={step}"], **SIZES)
    dense = load_model(tmp_path / "dense")
    assert dense.earlier is not None
    short = [text for text in train if "max_steps" not in text]
    if step:  # what is kept is what a training of so many steps ends with
        api.train("dlinear", str(table), out=tmp_path / "short", settings=[*short, f"train.max_steps={step}"], **SIZES)
        expected = load_model(tmp_path / "short").model.state_dict()
    else:
        torch.manual_seed(1)
        expected = build(dense.model.config).state_dict()
    assert dense.earlier.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in dense.earlier.items())
    # at a rate of nearly nothing, fine-tuning ends where it begins
    tune = ["finetune.learning_rate=1e-12", "finetune.device=cpu", "finetune.threads=1", "finetune.rewind=true"]
    places = {"out": tmp_path / "half", "data": str(table)}
    api.prune(tmp_path / "dense", "magnitude", 0.5, finetune_epochs=1, settings=tune, **places)  # type: ignore[arg-type]
    tuned = load_model(tmp_path / "half")
    masks, weights = tuned.masks, tuned.model.state_dict()
    chosen = {name: dense.model.get_parameter(name).detach().abs() for name in masks}
    for name, mask in masks.items():
        assert not weights[name][~mask].any()
        torch.testing.assert_close(weights[name], dense.earlier[name] * mask, rtol=0, atol=1e-8)
    kept = torch.cat([chosen[name][mask] for name, mask in masks.items()])
    assert kept.min() > torch.cat([chosen[name][~mask] for name, mask in masks.items()]).max(), "by trained weights"
    assert tuned.earlier is None
    with pytest.raises(UserError, match=r"weights of an earlier step .* train it with --set train\.keep_step=N"):
        api.prune(
            tmp_path / "half", "magnitude", 0.7, finetune_epochs=1, settings=tune, data=str(table), out=tmp_path / "x"
        )


def test_what_cannot_be_gone_back_to_is_refused_before_anything_is_done(table: Path) -> None:
    rewound = {"finetune": TRAIN | {"rewind": True}}
    with pytest.raises(UserError, match="expected weights of an earlier step"):
        planned(table, rewound)
    kept = {"train": TRAIN | {"keep_step": 2}, "model": {"name": "itransformer", **SIZES}}
    assert planned(table, rewound | kept)
    with pytest.raises(UserError, match="method that masks weights, found 'structured-magnitude'"):
        planned(table, rewound | kept, methods=["structured-magnitude"])
    with pytest.raises(UserError, match=r"finetune\.rewind: expected epochs of fine-tuning, found 0"):
        planned(table, {"finetune": TRAIN | {"distill": 0.5, "epochs": 0}})


def test_a_step_that_training_does_not_come_to_cannot_be_kept(table: Path, tmp_path: Path) -> None:
    settings = [*(f"train.{key}={value}" for key, value in TRAIN.items()), "train.keep_step=6"]
    with pytest.raises(UserError, match=r"train\.keep_step: expected at most the 4 steps of training, found 6"):
        api.train("dlinear", str(table), out=tmp_path / "dense", settings=settings, **SIZES)


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


def test_whoever_selects_leaves_the_test_part_alone(table: Path) -> None:
    [job] = [job for job in planned(table, {"data": {"name": str(table), "score_test": False}}) if job.stage == "train"]
    [scored] = [job for job in planned(table) if job.stage == "train"]
    record = run_stage(job, StageInputs(prepared=prepared_for(job))).record
    assert record.validation is not None
    assert (record.test, record.test_paper, record.examples) == (None, None, ())
    assert job.fingerprint != scored.fingerprint


def test_fine_tuning_has_a_dropout_of_its_own(table: Path, tmp_path: Path) -> None:
    sizes = [f"model.{key}={value}" for key, value in {"d_model": 8, "n_heads": 2, "d_ff": 8, "dropout": 0.5}.items()]
    settings = [*sizes, *(f"train.{key}={value}" for key, value in TRAIN.items())]
    api.train("itransformer", str(table), out=tmp_path / "dense", settings=settings, **SIZES)

    def tuned(dropout: str) -> dict[str, Tensor]:
        settings = [
            f"finetune.{key}={value}" for key, value in {**TRAIN, "dropout": dropout}.items() if key != "epochs"
        ]
        tune: dict[str, Any] = {"finetune_epochs": 1, "settings": settings}
        api.prune(tmp_path / "dense", "magnitude", 0.5, out=tmp_path / dropout, data=str(table), **tune)
        saved = load_model(tmp_path / dropout)
        assert saved.model.config.model_dump()["dropout"] == 0.5
        return saved.model.state_dict()

    own, same, none = tuned("own"), tuned("0.5"), tuned("0")
    assert all(torch.equal(tensor, same[name]) for name, tensor in own.items())
    assert not all(torch.equal(tensor, none[name]) for name, tensor in own.items())

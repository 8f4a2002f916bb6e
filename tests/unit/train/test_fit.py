"""The training loop: deterministic, resumable, selective, and honest about divergence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.interruptions import Stop, StopsAfter
from torch import nn

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, TrainingHook, build, config_from
from prunecast.prune.masks import HeldMasks
from prunecast.recipe import DataConfig, FitConfig
from prunecast.train import fit as fitting
from prunecast.train.checkpoint import KeptStep
from prunecast.train.evaluate import evaluate_both, evaluate_model, scored_windows
from prunecast.train.fit import DivergedError, fit, learning_rate

CONFIG = FitConfig(epochs=4, batch_size=400, learning_rate=0.01, schedule="constant", threads=1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    data = DataConfig(name="synthetic-load")
    series = load_series(data)
    few = {name: getattr(series, name)[:1500] for name in ("times", "raw_TC", "raw_covariates_TK")}
    return prepare(replace(series, **few), data, lookback=24, horizon=6, label_len=12)


def transformer(prepared: Prepared) -> ForecastModel:
    sizes = {"lookback": 24, "horizon": 6, "label_len": 12, "channels": 6, "marks": 4, "dropout": 0.1}
    torch.manual_seed(3)
    narrow = {"d_model": 8, "n_heads": 2, "d_ff": 8, "encoder_layers": 1}
    return build(config_from({"name": "transformer"} | sizes | narrow))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_one_seed_gives_one_result(prepared: Prepared) -> None:
    models = [transformer(prepared) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, prepared.train, prepared.validation, CONFIG, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


@pytest.mark.parametrize("masked", [False, True])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(prepared: Prepared, tmp_path: Path, masked: bool) -> None:
    whole, broken, again = (transformer(prepared) for _ in range(3))
    masks = {name: torch.rand_like(whole.get_parameter(name)) > 0.5 for name in whole.prunable()} if masked else {}
    checkpoint = tmp_path / "checkpoint.safetensors"
    parts = (prepared.train, prepared.validation, CONFIG)

    def hooks() -> list[HeldMasks]:
        return [HeldMasks(masks)] if masked else []

    expected = fit(whole, *parts, seed=1, hooks=hooks())
    with pytest.raises(Stop):
        fit(broken, *parts, seed=1, hooks=hooks(), checkpoint=checkpoint, reporter=StopsAfter(2))
    found = fit(again, *parts, seed=1, hooks=hooks(), checkpoint=checkpoint)
    assert found == expected
    assert torch.equal(weights(again), weights(whole))
    assert all((whole.get_parameter(name)[~mask] == 0).all() for name, mask in masks.items())
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("step", [0, 2, 7])
def test_weights_of_an_earlier_step_are_kept_through_an_interruption(
    prepared: Prepared, tmp_path: Path, step: int
) -> None:
    checkpoint, parts = tmp_path / "checkpoint.safetensors", (prepared.train, prepared.validation, CONFIG)
    whole, broken, again = KeptStep(step), KeptStep(step), KeptStep(step)
    fit(transformer(prepared), *parts, seed=1, hooks=[whole])
    with pytest.raises(Stop):
        fit(transformer(prepared), *parts, seed=1, hooks=[broken], checkpoint=checkpoint, reporter=StopsAfter(1))
    assert (broken.tensors is None) == (step == 7), "an epoch has three steps"
    fit(transformer(prepared), *parts, seed=1, hooks=[again], checkpoint=checkpoint)
    assert whole.tensors is not None
    assert again.tensors is not None
    assert all(torch.equal(value, again.tensors[name]) for name, value in whole.tensors.items())
    start = transformer(prepared).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in whole.tensors.items()) == (step == 0)


def test_the_best_epoch_is_kept(prepared: Prepared) -> None:
    model = transformer(prepared)
    result = fit(model, prepared.train, prepared.validation, CONFIG, seed=1)
    losses = [epoch.validation_loss for epoch in result.epochs]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert result.validation == evaluate_model(model, prepared.validation, "validation")
    assert result.validation.mse == min(losses)
    assert "validation" not in result.model_dump()
    assert not model.training


def test_no_better_epoch_stops_the_run(prepared: Prepared) -> None:
    wild = CONFIG.model_copy(update={"epochs": 30, "learning_rate": 0.5, "patience": 2})
    result = fit(transformer(prepared), prepared.train, prepared.validation, wild, seed=1)
    assert result.stopped_early
    assert len(result.epochs) == result.best_epoch + 2


def test_max_steps_ends_inside_an_epoch(prepared: Prepared) -> None:
    config = CONFIG.model_copy(update={"max_steps": 4})
    result = fit(transformer(prepared), prepared.train, prepared.validation, config, seed=1)
    assert [epoch.steps for epoch in result.epochs] == [3, 1]
    assert result.steps == 4


def test_divergence_is_said(prepared: Prepared) -> None:
    model = transformer(prepared)

    class Explodes(TrainingHook):
        """A hook whose loss is not a number from the second step on."""

        def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            self.model = model

        def after_step(self, step: int) -> None:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)

    with pytest.raises(DivergedError, match=r"loss is nan in epoch 1; try a learning rate below 0\.01"):
        fit(model, prepared.train, prepared.validation, CONFIG, seed=1, hooks=[Explodes()])


@pytest.mark.parametrize(
    ("change", "hint"), [({"device": "cuda"}, "not available"), ({"device": "cpu", "precision": "fp16"}, "needs an")]
)
def test_what_the_machine_cannot_do_is_refused(prepared: Prepared, change: dict[str, str], hint: str) -> None:
    if change["device"] == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has what the test asks for in vain")
    with pytest.raises(UserError, match=hint):
        fit(transformer(prepared), prepared.train, prepared.validation, CONFIG.model_copy(update=change), seed=1)


def test_rates_follow_the_published_schedule() -> None:
    halving = FitConfig(epochs=5, learning_rate=1.0)
    assert [learning_rate(halving, epoch) for epoch in range(1, 6)] == [1, 1, 0.5, 0.25, 0.125]
    cosine = FitConfig(epochs=4, learning_rate=1.0, schedule="cosine")
    assert [round(learning_rate(cosine, epoch), 3) for epoch in range(1, 5)] == [1, 0.854, 0.5, 0.146]


def test_a_compiled_run_is_the_same_run(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled to plain operators, which takes no C++ compiler; one model after the other, as in a study."""

    def plain_operators(model: nn.Module, _: torch.device) -> Callable[..., torch.Tensor]:
        torch.compiler.reset()
        return torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)

    monkeypatch.setattr(fitting, "_compiled", plain_operators)
    config = FitConfig(epochs=2, max_steps=20, learning_rate=1e-3, threads=1, device="cpu")
    curves = []
    for compiled in (False, True, True):
        model = build(transformer(prepared).config.model_copy(update={"dropout": 0.0}))
        model.load_state_dict(transformer(prepared).state_dict())
        done = fit(model, prepared.train, prepared.validation, config.model_copy(update={"compile": compiled}), seed=1)
        curves.append([epoch.validation_loss for epoch in done.epochs])
        assert list(model.state_dict()) == list(transformer(prepared).state_dict())
    assert curves[1] == curves[2]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, when its compiler is loaded
def test_a_machine_without_a_compiler_says_so(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nonexistent",))
    config = FitConfig(epochs=1, max_steps=1, learning_rate=1e-3, threads=1, device="cpu", compile=True)
    with pytest.raises(UserError, match="needs a C"):
        fit(transformer(prepared), prepared.train, prepared.validation, config, seed=1)


def test_training_learns(prepared: Prepared) -> None:
    model = transformer(prepared)
    before = evaluate_model(model, prepared.test, "test").mse
    fit(model, prepared.train, prepared.validation, CONFIG.model_copy(update={"epochs": 12}), seed=1)
    assert evaluate_model(model, prepared.test, "test").mse < 0.8 * before


def test_scores_do_not_depend_on_the_mode_and_blocks_add_up(prepared: Prepared) -> None:
    model = transformer(prepared).train()
    accuracy = evaluate_model(model, prepared.test, "test")
    assert model.training
    assert accuracy == evaluate_model(model.eval(), prepared.test, "test")
    blocks = accuracy.blocks
    assert blocks is not None
    assert sum(blocks.windows) == accuracy.windows == len(prepared.test)
    mean = sum(mse * count for mse, count in zip(blocks.mse, blocks.windows, strict=True)) / accuracy.windows
    assert mean == pytest.approx(accuracy.mse, rel=1e-12)


def test_paper_scoring_leaves_out_the_last_incomplete_batch() -> None:
    assert [scored_windows(100, scoring) for scoring in ("full", "paper")] == [100, 96]


def test_both_scorings_come_from_the_same_forecasts(prepared: Prepared) -> None:
    model = transformer(prepared)
    full, paper = evaluate_both(model, prepared.test, "test")
    assert full == evaluate_model(model, prepared.test, "test")
    assert paper == evaluate_model(model, prepared.test, "test", "paper").model_copy(update={"blocks": None})
    assert paper is not None
    assert paper.windows < full.windows

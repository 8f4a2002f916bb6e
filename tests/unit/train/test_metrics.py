"""Metrics: MSE and MAE always, others by name; what they may know of the series, and how a window's error is made."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from prunecast.batch import Batch
from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.errors import UserError
from prunecast.recipe import DataConfig, load_recipe
from prunecast.records import Accuracy
from prunecast.registry import METRICS
from prunecast.stages import job
from prunecast.stages.job import Job
from prunecast.train.evaluate import evaluate_both, score
from prunecast.train.metrics import Errors, MetricContext, bound_metrics, metric_context

SEASON = 24


def infinite(forecast_BHC: Tensor, truth_BHC: Tensor, context: MetricContext) -> Tensor:
    return truth_BHC.double() / 0


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_metrics")
    vars(module)["infinite"] = infinite
    monkeypatch.setitem(METRICS.entries, "infinite", "own_metrics:infinite")
    monkeypatch.setitem(sys.modules, "own_metrics", module)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    data = DataConfig(name="synthetic-load", targets=("retail", "office"))
    series = load_series(data)
    few = {name: getattr(series, name)[:1500] for name in ("times", "raw_TC", "raw_covariates_TK")}
    return prepare(replace(series, **few), data, lookback=24, horizon=6, label_len=12)


def zeros(batch: Batch) -> Tensor:
    """The mean of the training part, as a forecast."""
    return torch.zeros_like(batch.y_BHC)


def test_a_metric_knows_the_scored_channels_of_the_training_part(prepared: Prepared) -> None:
    accuracy = score(zeros, prepared.test, "test", further=bound_metrics(prepared, ["mase", "mape", "rmse"]))
    targets = list(prepared.train.targets or ())
    training = prepared.train.x_TC[:, targets].double().numpy()
    naive = np.abs(training[SEASON:] - training[:-SEASON]).mean(0)
    truth = torch.stack([prepared.test.batch(torch.tensor([i])).y_BHC[0] for i in range(len(prepared.test))])
    y_WHC = truth.double().numpy()
    raw = y_WHC * prepared.scaler.std[targets] + prepared.scaler.mean[targets]
    assert accuracy.metrics.keys() == {"mase", "mape", "rmse"}
    assert accuracy.metrics["mase"] == pytest.approx((np.abs(y_WHC) / naive).mean(), rel=1e-12)
    assert accuracy.metrics["mape"] == pytest.approx(np.abs(1 - prepared.scaler.mean[targets] / raw).mean(), rel=1e-9)
    assert accuracy.metrics["rmse"] == pytest.approx(np.sqrt((y_WHC**2).mean()), rel=1e-12)
    assert accuracy.metrics["rmse"] == np.sqrt(accuracy.mse), "one definition: the root of the mean over all windows"


def test_errors_of_channels_and_steps_are_those_of_all_windows(prepared: Prepared) -> None:
    errors = Errors(metric_context(prepared))
    accuracy = score(zeros, prepared.test, "test", errors=errors)
    targets = list(prepared.train.targets or ())
    truth = (
        torch.cat([prepared.test.batch(torch.tensor([i])).y_BHC for i in range(len(prepared.test))]).double().numpy()
    )
    std, mean = prepared.scaler.std[targets], prepared.scaler.mean[targets]
    training = prepared.train.x_TC[:, targets].double().numpy()
    naive = np.abs(training[SEASON:] - training[:-SEASON]).mean(0)
    channels, steps = errors.channels(["retail", "office"]), errors.steps()
    assert [row.name for row in channels] == ["retail", "office"]
    assert [row.name for row in steps] == [1, 2, 3, 4, 5, 6]
    for number, row in enumerate(channels):
        of_channel = truth[..., number]
        expected = {
            "mse": (of_channel**2).mean(),
            "mae": np.abs(of_channel).mean(),
            "rmse": np.sqrt((of_channel**2).mean()),
            "mape": np.abs(of_channel * std[number] / (of_channel * std[number] + mean[number])).mean(),
            "mase": (np.abs(of_channel) / naive[number]).mean(),
        }
        assert row.errors["infinite"] is None, "it has no meaning on this data, and the others have"
        assert {name: row.errors[name] for name in expected} == pytest.approx(expected, rel=1e-9)
        assert row.raw == pytest.approx(
            {name: expected[name] * std[number] ** (2 if name == "mse" else 1) for name in ("mse", "mae", "rmse")}
        )
    assert np.mean([row.errors["mse"] for row in channels]) == pytest.approx(accuracy.mse, rel=1e-12)
    assert steps[2].errors["rmse"] == pytest.approx(np.sqrt((truth[:, 2] ** 2).mean()), rel=1e-12)
    assert np.mean([row.errors["mae"] for row in steps]) == pytest.approx(accuracy.mae, rel=1e-12)


def test_blocks_of_every_metric_add_up(prepared: Prepared) -> None:
    accuracy = score(zeros, prepared.test, "test", further=bound_metrics(prepared, ["mase", "rmse"]))
    assert accuracy.blocks is not None
    for name in ("mase", "rmse"):
        of_blocks = np.average(accuracy.blocks.metrics[name], weights=accuracy.blocks.windows)
        assert of_blocks == pytest.approx(accuracy.metrics[name], rel=1e-12)


def test_blocks_of_a_root_move_it_as_its_mean_would(prepared: Prepared) -> None:
    """The bootstrap of blocks is that of the root of resampled means, to first order."""
    blocks = score(zeros, prepared.test, "test", further=bound_metrics(prepared, ["rmse"])).blocks
    assert blocks is not None
    rng, few = np.random.default_rng(0), np.array(blocks.windows)
    drawn = rng.dirichlet(np.full(len(few), 2000.0), size=200) * few
    drawn /= drawn.sum(axis=1, keepdims=True)
    roots, linear = np.sqrt(drawn @ np.array(blocks.mse)), drawn @ np.array(blocks.metrics["rmse"])
    assert linear == pytest.approx(roots, rel=1e-3)
    assert np.corrcoef(linear, roots)[0, 1] > 0.999


def test_errors_that_are_all_zero_have_a_root(prepared: Prepared) -> None:
    accuracy = score(lambda batch: batch.y_BHC, prepared.test, "test", further=bound_metrics(prepared, ["rmse"]))
    assert accuracy.metrics["rmse"] == accuracy.mse == 0


def test_only_stages_that_ask_for_rmse_got_another_name() -> None:
    names = {}
    for metrics in ([], ["mase"], ["rmse"], ["mase", "rmse"]):
        recipe = load_recipe(base={"data": {"metrics": metrics}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "METRIC_VERSIONS", {})
            before = Job(stage="train", role="dense", recipe=recipe, data_sha256="", source="").fingerprint
        now = Job(stage="train", role="dense", recipe=recipe, data_sha256="", source="").fingerprint
        names[tuple(metrics)] = now == before
    assert names == {(): True, ("mase",): True, ("rmse",): False, ("mase", "rmse"): False}


def test_both_scorings_have_every_metric_and_the_others_do_not_change_mse(prepared: Prepared) -> None:
    class Zeros(torch.nn.Module):
        def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor, y_mark_BTF: Tensor) -> Tensor:
            return torch.zeros(len(x_BLC), 6, 2)

    full, paper = evaluate_both(Zeros(), prepared.test, "test", bound_metrics(prepared, ["mase"]))
    plain, _ = evaluate_both(Zeros(), prepared.test, "test")
    assert paper is not None
    assert paper.metrics.keys() == full.metrics.keys() == {"mase"}
    assert (full.mse, full.mae) == (plain.mse, plain.mae)


def test_a_metric_without_meaning_on_the_data_is_refused(prepared: Prepared) -> None:
    with pytest.raises(UserError, match="infinite of the test part is not finite"):
        score(zeros, prepared.test, "test", further=bound_metrics(prepared, ["infinite"]))


def test_only_registered_metrics_can_be_asked_for_and_none_twice() -> None:
    assert DataConfig(metrics=("mase", "rmse")).model_dump()["metrics"] == ("mase", "rmse")
    for names, reason in ((("masse",), "did you mean 'mase'"), (("mae",), "given anyway"), (("mase", "mase"), "given")):
        with pytest.raises(ValidationError, match=reason):
            DataConfig(metrics=names)


def test_what_was_not_asked_for_is_not_written() -> None:
    assert "metrics" not in DataConfig().model_dump()
    assert "metrics" not in Accuracy(split="test", scoring="full", windows=1, mse=1.0, mae=1.0).model_dump()

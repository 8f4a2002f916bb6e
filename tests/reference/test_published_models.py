"""Our models with published weights give the published forecasts, losses and gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prunecast.models.api import Forecaster, build, config_from
from prunecast.models.imports import tslib_state, tslib_tensors

CASES = ("transformer-24-16", "transformer-48-20", "dlinear-24-16", "dlinear-48-20")
DOUBLE, SINGLE = torch.float64, torch.float32


@dataclass(frozen=True)
class Published:
    """One reference file: what went in and what came out."""

    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    def tensors(self, kind: str) -> dict[str, Tensor]:
        found = {name: torch.from_numpy(array) for name, array in self.arrays.items() if name.startswith(f"{kind}/")}
        return {name.removeprefix(f"{kind}/"): tensor for name, tensor in found.items()}

    def model(self, dtype: torch.dtype) -> Forecaster:
        model = build(config_from(CONFIGS[self.config["model"]](self.config))).to(dtype)
        model.load_state_dict(tslib_state(model, self.tensors("state")))
        return model.eval()

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        values = self.tensors("input")
        return values["x"].to(dtype), values["x_mark"].to(dtype), values["y_mark"].to(dtype)


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    theirs = {"lookback": "seq_len", "horizon": "pred_len", "label_len": "label_len", "channels": "enc_in"}
    return {ours: config[name] for ours, name in theirs.items()}


def _transformer(config: dict[str, Any]) -> dict[str, Any]:
    same = {key: config[key] for key in ("d_model", "n_heads", "d_ff", "dropout", "activation")}
    layers = {"encoder_layers": config["e_layers"], "decoder_layers": config["d_layers"]}
    return {"name": "transformer"} | _sizes(config) | same | layers


def _dlinear(config: dict[str, Any]) -> dict[str, Any]:
    return {"name": "dlinear", "moving_avg": config["moving_avg"]} | _sizes(config)


CONFIGS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"Transformer": _transformer, "DLinear": _dlinear}


@pytest.fixture(params=CASES)
def published(request: pytest.FixtureRequest, reference_dir: Path) -> Published:
    with np.load(reference_dir / f"{request.param}.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return Published(json.loads(str(arrays.pop("config"))), arrays)


def _assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found.detach().double() - expected.double()).abs().max().item() <= tolerance


def _tolerance(expected: Tensor, dtype: torch.dtype) -> float:
    return 1e-8 if dtype == DOUBLE else 1e-4 * expected.abs().max().item()


def test_every_file_of_these_models_is_a_case(reference_dir: Path) -> None:
    files = {path.stem for name in ("transformer", "dlinear") for path in reference_dir.glob(f"{name}-*.npz")}
    assert files == set(CASES)


def test_parameters_are_as_many(published: Published) -> None:
    model = published.model(SINGLE)
    assert sum(parameter.numel() for parameter in model.parameters()) == published.config["parameters"]


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
def test_forecasts(published: Published, dtype: torch.dtype) -> None:
    model, expected = published.model(dtype), published.tensors("output")
    _assert_close(model(*published.inputs(dtype)), expected["eval"], _tolerance(expected["eval"], dtype))
    found = model.train()(*published.inputs(dtype))
    _assert_close(found, expected["train_dropout0"], _tolerance(expected["train_dropout0"], dtype))


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
@pytest.mark.parametrize("train", [True, False])
def test_loss_and_every_gradient(published: Published, dtype: torch.dtype, train: bool) -> None:
    model = published.model(dtype).train(train)
    loss = F.mse_loss(model(*published.inputs(dtype)), published.tensors("input")["target"].to(dtype))
    loss.backward()
    expected_loss = published.tensors("output")["loss_train"]
    _assert_close(loss, expected_loss, _tolerance(expected_loss, dtype))

    expected = tslib_tensors(model.config.name, published.tensors("grad"))
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        # the files hold gradients of a float64 run rounded to float32: half a unit in the last place is theirs
        rounding = np.spacing(gradient.abs().max().numpy()).item() / 2
        _assert_close(found[name], gradient, 1e-8 + rounding if dtype == DOUBLE else 1e-4 * largest)

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

from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published as published_model
from prunecast.models.convert.convert import published_state

CASES = (
    "transformer-24-16",
    "transformer-48-20",
    "informer-24-16",
    "informer-24-16-full",
    "informer-48-20",
    "informer-48-20-full",
    "autoformer-24-16",
    "autoformer-48-20",
    "fedformer-24-16",
    "fedformer-48-20",
    "fedformer-original-24-16",
    "crossformer-24-16",
    "crossformer-48-20",
    "crossformer-original-24-16",
    "patchtst-24-16",
    "patchtst-48-20",
    "itransformer-24-16",
    "itransformer-48-20",
    "dlinear-24-16",
    "dlinear-48-20",
)
OWN = Path(__file__).parents[1] / "data" / "reference"
OWN_CASES = tuple(name for name in CASES if "-24-16" in name)
DOUBLE, SINGLE = torch.float64, torch.float32

Tensors = Mapping[str, Tensor]


def sampled_keys(model: ForecastModel, aux: Tensors) -> dict[str, Tensor]:
    """The published code draws keys call by call: encoder layers, then both attentions of each decoder layer."""
    names = [name for name, _ in model.named_buffers() if name.endswith(".sampled")]
    return {name: aux[f"sampled_key_index/{call}"] for call, name in enumerate(names)}


def kept_modes(model: ForecastModel, aux: Tensors) -> dict[str, Tensor]:
    modes = published_model("fedformer").modes
    assert modes is not None
    return modes(model.config, {name.removeprefix("modes/"): indices.tolist() for name, indices in aux.items()})


BUFFERS: dict[str, Callable[[ForecastModel, Tensors], dict[str, Tensor]]] = {
    "informer": sampled_keys,
    "fedformer": kept_modes,
}
"""Model -> our buffers from what a file holds under `aux/`, where the published state dict lacks them."""


@dataclass(frozen=True)
class Published:
    """One reference file: what went in and what came out."""

    config: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    def tensors(self, kind: str) -> dict[str, Tensor]:
        found = {name: torch.from_numpy(array) for name, array in self.arrays.items() if name.startswith(f"{kind}/")}
        return {name.removeprefix(f"{kind}/"): tensor for name, tensor in found.items()}

    @property
    def name(self) -> str:
        return str(self.config["model"]).lower()

    @property
    def source(self) -> str:
        return "original" if self.config["source"].startswith("original") else "tslib"

    @property
    def was_double(self) -> bool:
        return bool(self.arrays["output/eval"].dtype == np.float64)

    def model(self, dtype: torch.dtype) -> ForecastModel:
        values = published_model(self.name, self.source).config(self.config)
        model = build(config_from({"name": self.name} | values)).to(dtype)
        buffers = BUFFERS.get(self.name, lambda *_: {})(model, self.tensors("aux"))
        model.load_state_dict(published_state(model, self.tensors("state"), self.source, buffers))
        return model.eval()

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        values = self.tensors("input")
        return tuple(values[name].to(dtype) if name in values else None for name in ("x", "x_mark", "y_mark"))


@pytest.fixture(params=CASES)
def published(request: pytest.FixtureRequest, reference_dir: Path) -> Published:
    if reference_dir == OWN and request.param not in OWN_CASES:
        pytest.skip("a clone alone has the small cases")
    with np.load(reference_dir / f"{request.param}.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return Published(json.loads(str(arrays.pop("config"))), arrays)


def _assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found.detach().double() - expected.double()).abs().max().item() <= tolerance


def _tolerance(published: Published, expected: Tensor, dtype: torch.dtype) -> float:
    exact = dtype == DOUBLE and published.was_double
    return 1e-8 if exact else 1e-4 * expected.abs().max().item()


def test_every_file_is_a_case(reference_dir: Path) -> None:
    assert {path.stem for path in reference_dir.glob("*.npz")} == set(OWN_CASES if reference_dir == OWN else CASES)


def test_a_clone_alone_has_a_case_of_every_model(reference_dir: Path) -> None:
    """In both published variants where there are two, with and without drawn keys, the same as in the larger folder."""
    assert {path.stem for path in OWN.glob("*.npz")} == set(OWN_CASES)
    assert {name.partition("-")[0] for name in OWN_CASES} == {name.partition("-")[0] for name in CASES}
    for name in OWN_CASES:
        assert (OWN / f"{name}.npz").read_bytes() == (reference_dir / f"{name}.npz").read_bytes(), name


def test_parameters_are_as_many(published: Published) -> None:
    model = published.model(SINGLE)
    complex_twice = sum(parameter.numel() for parameter in model.parameters())
    theirs = published.tensors("grad")  # a state lists what layers share with each of them
    pairs = sum(tensor.numel() for tensor in theirs.values() if tensor.is_complex())
    assert complex_twice == published.config["parameters"] + pairs


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
def test_forecasts(published: Published, dtype: torch.dtype) -> None:
    model, expected = published.model(dtype), published.tensors("output")
    for train, name in ((False, "eval"), (True, "train_dropout0")):
        found = model.train(train)(*published.inputs(dtype))
        _assert_close(found, expected[name], _tolerance(published, expected[name], dtype))


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
def test_loss_and_every_gradient(published: Published, dtype: torch.dtype) -> None:
    model = published.model(dtype).train()
    loss = F.mse_loss(model(*published.inputs(dtype)), published.tensors("input")["target"].to(dtype))
    loss.backward()
    expected_loss = published.tensors("output")["loss_train"]
    _assert_close(loss, expected_loss, _tolerance(published, expected_loss, dtype))

    expected = published_model(published.name, published.source).tensors(published.tensors("grad"))
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert expected.keys() <= found.keys()
    assert all(found[name] is None for name in found.keys() - expected.keys())
    assert set(model.unused_parameters()) == found.keys() - {
        name for name, gradient in expected.items() if gradient.any()
    }
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        if name in model.unused_parameters():
            continue
        # the files hold gradients of a float64 run rounded to float32: half a unit in the last place is theirs
        rounding = np.spacing(gradient.abs().max().numpy()).item() / 2
        exact = dtype == DOUBLE and published.was_double
        _assert_close(found[name], gradient, 1e-8 + rounding if exact else 1e-4 * largest)

"""Modules that are not of the house: of torch, of Hugging Face, of neuralforecast, and some that are hard to cut."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def encoder(channels: int = 7) -> tuple[nn.Sequential, tuple[Tensor]]:
    """Returns torch's own encoder between two linear layers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(channels, 32), body, nn.Linear(32, channels)).eval(), (torch.randn(4, 24, channels),)


class Attention(nn.Module):
    """Attention as many write it; `needs_width`: the number of inner features is written down a second time."""

    def __init__(self, width: int, heads: int, needs_width: bool) -> None:
        super().__init__()
        self.heads, self.head_size, self.width, self.needs_width = heads, width // heads, width, needs_width
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query, key, value = (
            part(x).view(batch, tokens, self.heads, self.head_size).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        read = torch.softmax(query @ key.mT / self.head_size**0.5, dim=-1) @ value
        return self.out(read.transpose(1, 2).reshape(batch, tokens, self.width if self.needs_width else -1))


class _Flipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).flip(-1))


def entangled() -> tuple[nn.Module, tuple[Tensor]]:
    """Returns a module whose units are read in another order than they are written: no graph of layers says so."""
    torch.manual_seed(0)
    return _Flipped().eval(), (torch.randn(3, 6),)


def _patchtst() -> tuple[nn.Module, Any]:
    transformers = pytest.importorskip("transformers", reason="Hugging Face transformers is not installed")
    config = transformers.PatchTSTConfig(
        num_input_channels=3, context_length=48, prediction_length=12, patch_length=8, patch_stride=8, d_model=32,
        num_attention_heads=4, num_hidden_layers=2, ffn_dim=64, loss="mse",
    )  # fmt: skip
    return transformers.PatchTSTForPrediction(config), {"past_values": torch.randn(4, 48, 3)}


def _informer() -> tuple[nn.Module, Any]:
    transformers = pytest.importorskip("transformers", reason="Hugging Face transformers is not installed")
    config = transformers.InformerConfig(
        input_size=1, context_length=24, prediction_length=12, lags_sequence=[1, 2, 3], num_time_features=2, d_model=32,
        encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_parallel_samples=2,
    )  # fmt: skip
    inputs = {
        "past_values": torch.randn(4, 27),
        "past_time_features": torch.randn(4, 27, 2),
        "past_observed_mask": torch.ones(4, 27),
        "future_values": torch.randn(4, 12),
        "future_time_features": torch.randn(4, 12, 2),
    }
    return transformers.InformerForPrediction(config), inputs


def _of_neuralforecast(name: str, **sizes: Any) -> tuple[nn.Module, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is older than the language
        models = pytest.importorskip("neuralforecast.models", reason="neuralforecast is not installed")
        model = getattr(models, name)(h=12, input_size=48, max_steps=1, **sizes)
    given = {"insample_y": torch.randn(4, 48, 1), "insample_mask": torch.ones(4, 48, 1)}
    return model, ({**given, "futr_exog": None, "hist_exog": None, "stat_exog": None},)


MODULES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "nn.TransformerEncoder": encoder,
    "Hugging Face PatchTST": _patchtst,
    "Hugging Face Informer": _informer,
    "neuralforecast NHITS": lambda: _of_neuralforecast("NHITS", mlp_units=3 * [[64, 64]]),
    "neuralforecast PatchTST": lambda: _of_neuralforecast(
        "PatchTST", encoder_layers=2, n_heads=4, hidden_size=32, linear_hidden_size=64, patch_len=8, stride=8
    ),
}


def module_and_inputs(kind: str) -> tuple[nn.Module, Any]:
    """Returns a small module with random weights, always the same ones, and what to call it with."""
    torch.manual_seed(0)
    module, inputs = MODULES[kind]()
    return module.eval(), inputs


def other_inputs(inputs: Any, seed: int) -> Any:
    """Returns inputs of the same kind and of other values, 32 in a batch; what is all ones stays so."""
    if isinstance(inputs, dict):
        return {name: other_inputs(value, seed + place) for place, (name, value) in enumerate(inputs.items())}
    if isinstance(inputs, tuple):
        return tuple(other_inputs(value, seed) for value in inputs)
    if not isinstance(inputs, Tensor):
        return inputs
    shape = (32, *inputs.shape[1:])
    return (
        torch.ones(shape)
        if bool((inputs == 1).all())
        else torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    )

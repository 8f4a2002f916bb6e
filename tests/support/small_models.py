"""One small config per registered model: what every conformance test runs over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunecast.models.base import ForecastModel, build, config_from
from prunecast.registry import MODELS

SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"d_model": 24, "n_heads": 4, "d_ff": 20, "encoder_layers": 3, "decoder_layers": 2},
    "informer": {"d_model": 24, "n_heads": 4, "d_ff": 20, "encoder_layers": 3, "decoder_layers": 2, "factor": 2},
    "autoformer": {"d_model": 24, "n_heads": 4, "d_ff": 20, "encoder_layers": 3, "decoder_layers": 2, "moving_avg": 7},
    "fedformer": {
        "d_model": 24,
        "n_heads": 4,
        "d_ff": 20,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "moving_avg": 5,
        "modes": 5,
    },
    "crossformer": {"d_model": 12, "n_heads": 3, "d_ff": 10, "encoder_layers": 3, "factor": 3, "seg_len": 3},
    "patchtst": {"d_model": 24, "n_heads": 4, "d_ff": 20, "encoder_layers": 3, "patch_len": 5, "stride": 3},
    "itransformer": {"d_model": 24, "n_heads": 4, "d_ff": 20, "encoder_layers": 3},
    "dlinear": {"moving_avg": 7},
    "fits": {"base_T": 8, "H_order": 1, "cut_freq": 7},
    "sparsetsf": {"period_len": 5, "model_type": "mlp", "d_model": 10},
    "lstm": {"d_model": 12, "encoder_layers": 2},
    "repeat": {},
    "seasonal_naive": {"period": 5},
}
"""Model name -> what differs from `SIZES`. A model that is registered and not here fails the conformance tests."""

TRAINED = tuple(name for name in SMALL if MODELS.load(name).trainable)

SIZES = {"lookback": 16, "horizon": 9, "label_len": 6, "channels": 3, "marks": 4}


def small_model(name: str, **values: Any) -> ForecastModel:
    """Returns the small model in eval mode, float64, every parameter random (none at a start of zeros or ones).

    The same one whatever was drawn before it. Not every seed will do: distilling doubles Informer's first and last
    steps, and where such twins are on the edge of its choice of queries, rounding says which of them is chosen.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build(config_from(SIZES | {"name": name} | SMALL[name] | values)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def small_inputs(batch: int = 2, lookback: int = SIZES["lookback"]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x, x_mark and y_mark for `SIZES`, or for another look-back."""
    generator = torch.Generator().manual_seed(2)
    known = SIZES["label_len"] + SIZES["horizon"]
    shapes = ((lookback, SIZES["channels"]), (lookback, SIZES["marks"]), (known, SIZES["marks"]))
    x, x_mark, y_mark = (torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, x_mark, y_mark


def prunable_models() -> list[str]:
    """Returns the names of registered models that declare groups."""
    return [name for name in MODELS.names() if small_model(name).groups()]

"""Every model trains in bfloat16 on a processor, and its saved weights are scored as they will compute."""

from __future__ import annotations

import pytest
import torch
from tests.support.small_models import SIZES, SMALL, TRAINED

from prunecast.data.series import load_series
from prunecast.data.windows import Prepared, prepare
from prunecast.models.base import build, config_from
from prunecast.recipe import DataConfig, FitConfig
from prunecast.train.fit import fit


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    # enough steps for the layers' fast ways, which small inputs pass by
    data = DataConfig(name="synthetic-load")
    return prepare(load_series(data), data, lookback=24, horizon=SIZES["horizon"], label_len=SIZES["label_len"])


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_in_bfloat16(name: str, prepared: Prepared) -> None:
    torch.manual_seed(1)
    sizes = SIZES | {
        "lookback": 24,
        "channels": len(prepared.facts.channels),
        "marks": prepared.train.marks_TF.shape[1],
    }
    model = build(config_from(sizes | {"name": name} | SMALL[name]))
    before = {key: tensor.clone() for key, tensor in model.named_parameters()}
    config = FitConfig(epochs=1, max_steps=2, learning_rate=1e-3, precision="bf16", threads=1, device="cpu")
    done = fit(model, prepared.train, prepared.validation, config, seed=1)
    assert done.steps == 2
    assert done.validation is None, "scored in bfloat16, and the saved model computes in float32"
    assert any(not torch.equal(before[key], tensor) for key, tensor in model.named_parameters())
    batch = prepared.validation.batch(torch.arange(4))
    fresh = build(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(batch.x_BLC, *batch[2:]), fresh(batch.x_BLC, *batch[2:]))

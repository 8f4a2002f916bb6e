"""A blank model is the built one without its values, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from tests.support.small_models import SIZES, SMALL

from prunecast.models.base import blank, build, config_from


@pytest.mark.parametrize("name", SMALL)
def test_a_blank_model_has_every_shape_and_no_value(name: str) -> None:
    config = config_from(SIZES | {"name": name} | SMALL[name])
    before = torch.random.get_rng_state()
    model = blank(config)
    assert torch.equal(torch.random.get_rng_state(), before), "torch's generator is put back"
    whole = build(config)
    shapes = {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}
    assert shapes == {key: (value.shape, value.dtype) for key, value in whole.state_dict().items()}
    assert all(not parameter.any() for parameter in model.parameters())
    fixed = {key: value for key, value in whole.named_buffers() if value.is_floating_point()}  # choices are whole
    for key, value in model.named_buffers():
        if key in fixed:
            assert torch.equal(value, fixed[key]), f"{key} is no random number, and is there"

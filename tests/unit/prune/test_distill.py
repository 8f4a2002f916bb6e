"""Distillation: what the loss is, and where the teacher comes from."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.support.small_models import small_inputs, small_model
from torch import nn

from prunecast.batch import Batch
from prunecast.prune.schedule import Distillation


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_loss_is_drawn_to_the_teacher_by_the_share(share: float) -> None:
    teacher, model = small_model("itransformer"), small_model("itransformer", d_ff=8)
    x, x_mark, y_mark = small_inputs()
    batch = Batch(x, torch.zeros(2, 9, 3, dtype=x.dtype), x_mark, y_mark)
    before = copy.deepcopy(teacher.state_dict())
    hook = Distillation(teacher.train(), share)
    hook.on_start(model, torch.optim.Adam(model.parameters()))
    forecast = model(x, x_mark, y_mark)
    plain = nn.functional.mse_loss(forecast, batch.y_BHC)
    loss = hook.loss(forecast, batch, plain)
    taught = teacher.eval()(x, x_mark, y_mark)
    torch.testing.assert_close(loss, (1 - share) * plain + share * (forecast - taught).square().mean())
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunecast.errors import UserError
from prunecast.models.base import TrainingHook
from prunecast.prune.masks import HeldMasks, apply_masks


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def _masks() -> dict[str, torch.Tensor]:
    """Every other weight: no unit is cut off, so whatever is left has a gradient."""
    return {"0.weight": _checkered(8, 6), "2.weight": _checkered(2, 8)}


def _checkered(rows: int, columns: int) -> torch.Tensor:
    return (torch.arange(rows).unsqueeze(1) + torch.arange(columns)) % 2 == 0


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, hook: TrainingHook, steps: int) -> None:
    generator = torch.Generator().manual_seed(7)
    for step in range(steps):
        x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 2, generator=generator)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        hook.after_backward(step)
        optimizer.step()
        hook.after_step(step)


def _nonzero(model: nn.Module, masks: dict[str, torch.Tensor]) -> bool:
    return any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.Adam(weights, lr=0.1, weight_decay=0.1),
        lambda weights: torch.optim.Adam(weights, lr=0.1, amsgrad=True, fused=True),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    ],
    ids=["adam", "adam-amsgrad-fused", "sgd"],
)
def test_masked_weights_and_moments_stay_zero_and_the_rest_learns(make) -> None:
    model, masks = _model(), _masks()
    optimizer = make(model.parameters())
    hook = HeldMasks(masks)
    hook.on_start(model, optimizer)
    before = {name: model.get_parameter(name).detach().clone() for name in masks}
    _train(model, optimizer, hook, 5)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        states = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
        assert states
        assert not any(value[~mask].any() for value in (weight, weight.grad, *states))
        assert not weight[~mask].signbit().any()
        assert (weight != before[name])[mask].all()


def test_moments_from_before_the_pruning_do_not_move_masked_weights() -> None:
    model, masks = _model(), _masks()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    free = HeldMasks({})
    free.on_start(model, optimizer)
    _train(model, optimizer, free, 3)
    assert optimizer.state[model.get_parameter("0.weight")]["exp_avg"][~masks["0.weight"]].any()
    HeldMasks(masks).on_start(model, optimizer)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()  # only moments act, and nothing masks the weights afterwards
    assert not _nonzero(model, masks)


def test_a_resumed_hook_holds_the_masks_of_the_checkpoint() -> None:
    masks = _masks()
    state = HeldMasks(masks).state()
    model, resumed = _model(), HeldMasks({})
    resumed.restore(state)
    optimizer = torch.optim.Adam(model.parameters())
    resumed.on_start(model, optimizer)
    _train(model, optimizer, resumed, 2)
    assert not _nonzero(model, masks)
    assert resumed.state().keys() == masks.keys()


def test_masked_weights_are_positive_zeros() -> None:
    model, masks = _model(), _masks()
    apply_masks(model, masks)
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].signbit().any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"1.weight": torch.ones(2, 8).bool()}, r"mask '1.weight' does not fit the model: it has no such parameter"),
        ({"2.weight": torch.ones(2, 9).bool()}, r"mask '2.weight' .* expected shape \(2, 8\), found \(2, 9\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message: str) -> None:
    model = _model()
    with pytest.raises(UserError, match=message):
        apply_masks(model, mask)

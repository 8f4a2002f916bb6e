from __future__ import annotations

import copy

import pytest
import torch
from tests.support.coupled_model import ENTRY, Coupled, CoupledConfig, coupled
from tests.support.small_models import prunable_models, small_inputs, small_model
from torch import Tensor

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.prune.methods import Statistics
from prunecast.prune.scores import (
    DECAY,
    HARMLESS,
    Gates,
    unit_ema_taylor,
    unit_fisher,
    unit_fluctuation,
    unit_gauss_newton,
    unit_leave_one_out,
    unit_magnitude,
    unit_random,
    unit_taylor,
)
from prunecast.prune.shrink import shrink
from prunecast.recipe import PruneConfig
from prunecast.registry import MODELS

STATISTICS = Statistics(seed=11)
LOOK_AT_DATA = [unit_taylor, unit_fisher, unit_ema_taylor, unit_gauss_newton, unit_leave_one_out]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS.entries, "coupled", ENTRY)


def batches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randn(size, 13, 2, generator=generator, dtype=torch.double) for size in sizes]
    return [Batch(draw[:, :8], draw[:, 8:], draw[:, :8], draw) for draw in draws]


def mean_loss(model: Coupled, data: list[Batch]) -> Tensor:
    return torch.cat([(model(part.x_BLC) - part.y_BHC).square().mean((1, 2)) for part in data]).mean()


def window_slopes(model: Coupled, data: list[Batch]) -> Tensor:
    """Of each window, by the factor on each unit of the first feed-forward layer: weights times their gradients."""
    down, slopes = model.blocks[0].down.weight, []
    for part in data:
        for x_LC, y_HC in zip(part.x_BLC, part.y_BHC, strict=True):
            loss = (model(x_LC.unsqueeze(0))[0] - y_HC).square().mean()
            slopes.append((down * torch.autograd.grad(loss, down)[0]).sum(0))
    return torch.stack(slopes).detach()


def test_random_scores_follow_their_seed_alone() -> None:
    model = coupled()
    state = torch.get_rng_state()
    first = unit_random(model, STATISTICS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second, other = unit_random(model, STATISTICS), unit_random(model, Statistics(seed=12))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_unit_is_worth_the_norm_of_all_it_owns_relative_to_its_group() -> None:
    model = coupled()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.blocks[0].up.weight[4] *= 3.0
        model.blocks[0].up.bias[4] *= 3.0
        model.blocks[0].down.weight[:, 4] *= 3.0
    scores = unit_magnitude(model, STATISTICS)
    ffn = scores["blocks.0.ffn"]
    assert ffn.shape == (10,)
    assert ffn.mean().item() == pytest.approx(1.0)
    assert (ffn[4] / ffn[0]).item() == pytest.approx(3.0)
    assert torch.equal(ffn.argsort(stable=True)[-1:], torch.tensor([4]))


def test_unit_scores_cover_every_group_and_do_not_depend_on_its_scale() -> None:
    model = coupled()
    before = unit_magnitude(model, STATISTICS)
    assert {group.name: group.size for group in model.groups()} == {name: len(score) for name, score in before.items()}
    with torch.no_grad():
        for name in ("fused.weight", "fused.bias", "merge.weight"):
            model.blocks[1].get_parameter(name).mul_(7.0)
    after = unit_magnitude(model, STATISTICS)
    assert torch.allclose(after["blocks.1.heads"], before["blocks.1.heads"])
    assert after["blocks"][1] > before["blocks"][1]
    assert not torch.allclose(after["width"], before["width"])


def test_a_head_owns_its_rows_in_both_halves() -> None:
    model = coupled()
    with torch.no_grad():
        for member in model.heads(0).members:
            tensor = model.get_parameter(member.name)
            tensor.index_fill_(member.dim, member.index[2], 0.0)
    score = unit_magnitude(model, STATISTICS)["blocks.0.heads"]
    assert (score == 0).nonzero().flatten().tolist() == [2]


def test_a_group_of_zeros_scores_zero() -> None:
    model = coupled()
    with torch.no_grad():
        for parameter in model.blocks[0].parameters():
            parameter.zero_()
    assert torch.equal(unit_magnitude(model, STATISTICS)["blocks.0.ffn"], torch.zeros(10, dtype=torch.double))


@pytest.mark.parametrize("score", LOOK_AT_DATA)
def test_scores_of_data_cover_every_unit_and_leave_the_model_alone(score) -> None:
    model = coupled().double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = score(model, Statistics(1, batches(4, 2)))
    assert {name: len(of_units) for name, of_units in scores.items()} == {
        group.name: group.size for group in model.groups()
    }
    assert all(of_units.isfinite().all() and of_units.dtype == torch.double for of_units in scores.values())
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    heads = score(model, Statistics(1, batches(4, 2), kinds=("head",)))
    assert all(torch.allclose(heads[name], scores[name]) for name in ("blocks.0.heads", "blocks.1.heads"))
    assert set(heads) == {"blocks.0.heads", "blocks.1.heads"}


@pytest.mark.parametrize("score", LOOK_AT_DATA)
@pytest.mark.parametrize("data", [None, []])
def test_scores_of_data_are_refused_without(score, data: list[Batch] | None) -> None:
    with pytest.raises(UserError, match="expected batches of the training part, found none"):
        score(coupled(), Statistics(1, data))


def test_slopes_are_taken_of_each_window_by_itself() -> None:
    model, data = coupled().double(), batches(4, 2)
    slopes_NU = window_slopes(model, data)
    taylor = unit_taylor(model, Statistics(1, data))["blocks.0.ffn"]
    assert torch.allclose(taylor, slopes_NU.mean(0).abs(), rtol=1e-10)
    fisher = unit_fisher(model, Statistics(1, data))["blocks.0.ffn"]
    assert torch.allclose(fisher, slopes_NU.square().mean(0) / 2, rtol=1e-10)
    assert not torch.allclose(fisher, slopes_NU.mean(0).square() / 2, rtol=0.1)


def test_a_moving_average_starts_from_the_first_batch() -> None:
    model, data = coupled().double(), batches(4, 2, 3)
    estimates_NU = window_slopes(model, data).square() / 2 - window_slopes(model, data)
    first, second, third = (part.mean(0) for part in estimates_NU.split([4, 2, 3]))
    expected = DECAY * third + (1 - DECAY) * (DECAY * second + (1 - DECAY) * first)
    found = unit_ema_taylor(model, Statistics(1, data))["blocks.0.ffn"]
    assert torch.allclose(found, expected.abs(), rtol=1e-10)


def test_second_order_is_exact_where_the_forecast_is_linear_in_the_gates() -> None:
    """The last feed-forward layer: removal adds -slope + half the curvature to the loss, nothing more."""
    model, (data,) = coupled().double(), batches(5)
    gates = Gates(model, ("ffn",))

    def loss(gate_U: Tensor) -> Tensor:
        return gates.losses(gates.ones() | {"blocks.1.ffn": gate_U}, data).mean()

    ones = gates.ones()["blocks.1.ffn"]
    slope_U = torch.autograd.functional.jacobian(loss, ones)
    curvature_UU = torch.autograd.functional.hessian(loss, ones)
    assert torch.allclose(slope_U, gates.slopes(data)["blocks.1.ffn"].mean(0), rtol=1e-10)
    for unit in range(len(ones)):
        others = torch.tensor([other for other in range(len(ones)) if other != unit])
        without = mean_loss(shrink(model, {"blocks.1.ffn": others}), [data])
        expected = mean_loss(model, [data]) - slope_U[unit] + curvature_UU[unit, unit] / 2
        assert torch.allclose(without, expected, rtol=1e-10)


@pytest.mark.parametrize("score", LOOK_AT_DATA)
def test_layers_score_what_leaving_them_out_adds_to_the_loss(score) -> None:
    model, data = coupled().double(), batches(4, 2)
    without = [mean_loss(shrink(model, {"blocks": torch.tensor([other])}), data) for other in (1, 0)]
    expected = (torch.stack(without) - mean_loss(model, data)).detach()
    assert torch.allclose(score(model, Statistics(1, data))["blocks"], expected, rtol=1e-10)


def test_units_of_a_module_add_up_to_what_leaving_it_out_adds_to_the_loss() -> None:
    model, data = coupled().double(), batches(4, 2)
    scores, estimates = unit_leave_one_out(model, Statistics(1, data)), unit_gauss_newton(model, Statistics(1, data))
    for group, weight in (("blocks.0.heads", "blocks.0.merge.weight"), ("blocks.1.ffn", "blocks.1.down.weight")):
        silenced = copy.deepcopy(model)
        silenced.get_parameter(weight).data.zero_()
        increase = (mean_loss(silenced, data) - mean_loss(model, data)).detach().clamp_min(HARMLESS)
        assert torch.allclose(scores[group].sum(), increase, rtol=1e-9)
        assert torch.equal(scores[group].argsort(), estimates[group].argsort())
    assert torch.equal(scores["width"], estimates["width"])


def test_gauss_newton_is_how_far_the_forecast_moves_where_it_is_linear_in_the_gates() -> None:
    """With one number to forecast, a random sign tells all of it."""
    model = Coupled(CoupledConfig(channels=1, horizon=1)).double().eval()
    (batch,) = batches(6)
    one = Batch(batch.x_BLC[..., :1], batch.y_BHC[:, :1, :1], batch.x_mark_BLF, batch.y_mark_BTF)
    scores = unit_gauss_newton(model, Statistics(1, [one]))["blocks.1.ffn"]
    with torch.no_grad():
        for unit in range(len(scores)):
            others = torch.tensor([other for other in range(len(scores)) if other != unit])
            moved = shrink(model, {"blocks.1.ffn": others})(one.x_BLC) - model(one.x_BLC)
            assert torch.allclose(scores[unit], moved.square().mean(), rtol=1e-9, atol=1e-15)


def test_projected_slopes_are_those_of_the_forecast_along_a_direction() -> None:
    model, (data,) = coupled().double(), batches(3)
    gates, directions_BHC = Gates(model, ("ffn",)), torch.randn(3, 5, 2, dtype=torch.double)

    def along(gate_U: Tensor) -> Tensor:
        """The loss against a truth far away along the direction falls as the forecast goes there."""
        values, far = gates.ones() | {"blocks.0.ffn": gate_U}, 1e6
        near_N = gates.losses(values, data._replace(y_BHC=far * directions_BHC))
        return (near_N - gates.losses(values, data._replace(y_BHC=-far * directions_BHC))) / (-4 * far) * 10

    slopes_NU = gates.projected_slopes(data, directions_BHC)["blocks.0.ffn"]
    expected_NU = torch.autograd.functional.jacobian(along, gates.ones()["blocks.0.ffn"])
    assert torch.allclose(slopes_NU, expected_NU, rtol=1e-6, atol=1e-9)


def test_fluctuation_is_the_error_of_a_unit_at_its_mean_against_its_layer() -> None:
    model, data = coupled().double(), batches(4, 2)
    kinds = ("head", "ffn", "width")
    scores = unit_fluctuation(model, Statistics(1, data, kinds=kinds))
    heard: list[Tensor] = []
    handle = model.blocks[0].down.register_forward_pre_hook(
        lambda _, arguments: heard.append(arguments[0].flatten(0, 1))
    )
    with torch.no_grad():
        mean_loss(model, data)
    handle.remove()
    hidden_NU, down = torch.cat(heard), model.blocks[0].down
    errors = []
    for unit in range(hidden_NU.shape[1]):
        replaced = hidden_NU.clone()
        replaced[:, unit] = hidden_NU[:, unit].mean()
        errors.append((down(replaced) - down(hidden_NU)).square().sum(1).mean().detach())
    expected = torch.stack(errors)
    expected = (expected - expected.mean()) / expected.std(correction=0)
    assert torch.allclose(scores["blocks.0.ffn"], expected, rtol=1e-9)
    assert {name: len(score) for name, score in scores.items()} == {
        group.name: group.size for group in model.groups() if group.kind in kinds
    }
    with pytest.raises(UserError, match=r"knows no map that reads blocks; leave 'layer' out of prune\.kinds"):
        unit_fluctuation(model, Statistics(1, data))


@pytest.mark.parametrize("name", prunable_models())
def test_fluctuation_knows_what_reads_the_units_of_every_model(name: str) -> None:
    model, (x_BLC, x_mark_BLF, y_mark_BTF) = small_model(name), small_inputs(3)
    kinds = tuple({group.kind for group in model.groups() if group.kind in PruneConfig().kinds}) or ("mode",)
    batch = Batch(x_BLC, x_BLC, x_mark_BLF, y_mark_BTF)
    scores = unit_fluctuation(model, Statistics(1, [batch], kinds=kinds))
    assert set(scores) == {group.name for group in model.groups() if group.kind in kinds}
    assert all(score.isfinite().all() and score.std() > 0.5 for score in scores.values())

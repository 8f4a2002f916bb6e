from __future__ import annotations

import pytest
import torch
from tests.support.coupled_model import coupled

from prunecast.prune.methods import Statistics
from prunecast.prune.scores import magnitude, random, unit_magnitude, unit_random

STATISTICS = Statistics(seed=11)


def test_magnitude_is_the_absolute_weight() -> None:
    model = coupled()
    scores = magnitude(model, STATISTICS)
    assert tuple(scores) == model.prunable()
    assert all(torch.equal(scores[name], model.get_parameter(name).abs()) for name in scores)
    assert not any(score.requires_grad for score in scores.values())


@pytest.mark.parametrize("score", [random, unit_random])
def test_random_scores_follow_their_seed_alone(score) -> None:
    model = coupled()
    state = torch.get_rng_state()
    first = score(model, STATISTICS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second, other = score(model, STATISTICS), score(model, Statistics(seed=12))
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

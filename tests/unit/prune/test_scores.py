from __future__ import annotations

import torch
from tests.support.coupled_model import coupled

from prunecast.prune.methods import Statistics
from prunecast.prune.scores import magnitude, random

STATISTICS = Statistics(seed=11)


def test_magnitude_is_the_absolute_weight() -> None:
    model = coupled()
    scores = magnitude(model, STATISTICS)
    assert tuple(scores) == model.prunable()
    assert all(torch.equal(scores[name], model.get_parameter(name).abs()) for name in scores)
    assert not any(score.requires_grad for score in scores.values())


def test_random_scores_follow_their_seed_alone() -> None:
    model = coupled()
    state = torch.get_rng_state()
    first = random(model, STATISTICS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second, other = random(model, STATISTICS), random(model, Statistics(seed=12))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)

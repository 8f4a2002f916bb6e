"""What methods say of themselves: their parts, and the control that a study sets beside them."""

from __future__ import annotations

import pytest

from prunecast.registry import GRANULARITIES, METHODS


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_has_a_control_that_removes_the_like_or_is_one(name: str) -> None:
    method = METHODS.load(name)
    if method.is_control:
        assert method.control is None
    else:
        control = METHODS.load(method.control)
        assert control.is_control
        assert control.default_of == method.default_of
        # weights are chosen by scores, or with an update of what stays: either way single ones at random stand beside
        shrinks = {GRANULARITIES.load(one.granularity).shrinks for one in (method, control)}
        assert len(shrinks) == 1


def test_only_units_make_a_model_smaller() -> None:
    shrinking = {name for name in GRANULARITIES.names() if GRANULARITIES.load(name).shrinks}
    assert shrinking == {"unit"}

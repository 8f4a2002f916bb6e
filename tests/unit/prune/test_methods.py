"""What methods say of themselves: their parts, and the control that a study sets beside them."""

from __future__ import annotations

import pytest

from prunecast.registry import GRANULARITIES, METHODS


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_has_a_control_of_its_granularity_or_is_one(name: str) -> None:
    method = METHODS.load(name)
    if method.is_control:
        assert method.control is None
    else:
        control = METHODS.load(method.control)
        assert control.is_control
        assert (control.granularity, control.default_of) == (method.granularity, method.default_of)


def test_only_units_make_a_model_smaller() -> None:
    shrinking = {name for name in GRANULARITIES.names() if GRANULARITIES.load(name).shrinks}
    assert shrinking == {"unit"}

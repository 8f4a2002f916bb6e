"""Every model, pruned by half in every group at once, goes through the whole chain."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conformance.small import prunable_models
from tests.unit.halved import check_half


@pytest.mark.parametrize("name", prunable_models())
def test_half_a_model_saves_loads_learns_and_exports(name: str, tmp_path: Path) -> None:
    check_half(name, tmp_path)

"""Every model, pruned by half in every group at once, goes through the whole chain."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.half_models import check_half
from tests.support.small_models import prunable_models


@pytest.mark.parametrize("name", prunable_models())
def test_half_a_model_saves_loads_learns_and_exports(name: str, tmp_path: Path) -> None:
    check_half(name, tmp_path)

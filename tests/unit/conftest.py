"""What several tests share because it takes seconds to make."""

from __future__ import annotations

import pytest
from tests.support.small_study import Micro, micro_study


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Micro:
    """A small study that ran without interruption; nobody writes into its folder."""
    return micro_study(tmp_path_factory.mktemp("study"))

"""Shared files for the tests: named by environment variables; in CI a missing one fails, elsewhere it skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_dir():
        return Path(value)
    reason = f"{variable} does not name a folder: {value!r}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the published data sets."""
    return _folder("PRUNECAST_DATA")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder with the published models' outputs."""
    return _folder("PRUNECAST_REFERENCE")

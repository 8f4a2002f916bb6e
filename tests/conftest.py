"""Shared files for the tests: named by environment variables; in CI a missing one fails, elsewhere it skips."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # a machine of its own, as far as clocks can tell: they wait for each other's stages by a file in this folder
    os.environ["TMPDIR"] = str(Path(tempfile.gettempdir(), f"pc-{worker}"))  # short: sockets lie below it
    Path(os.environ["TMPDIR"]).mkdir(exist_ok=True)
    tempfile.tempdir = None


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

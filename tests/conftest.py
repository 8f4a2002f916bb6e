"""Files for the tests, in `tests/data` and in folders that environment variables name.

Where a variable names nothing, its tests do with what a clone has, or are left out. In CI a name of nothing fails.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# a machine of its own, as far as clocks can tell: runs of tests, and workers of one run, do not wait for each other's
# stages, which they know by a file in this folder; what tests leave behind lies where pytest puts it
OUTSIDE = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="pc-", dir=OUTSIDE)  # short: sockets lie below it
tempfile.tempdir = None
atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)


OWN = Path(__file__).parent / "data"
"""What a clone brings along; its README says where it is from."""


def _folder(variable: str, own: Path | None = None) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_dir():
        return Path(value)
    reason = f"{variable} does not name a folder: {value!r}"
    if value and os.environ.get("CI") == "true":
        pytest.fail(reason)
    return own or pytest.skip(reason)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the published data sets."""
    return _folder("PRUNECAST_DATA")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder with the published models' outputs; a clone has the small ones."""
    return _folder("PRUNECAST_REFERENCE", OWN / "reference")


@pytest.fixture(scope="session")
def hourly_csv() -> Path:
    """A real hourly file: the first 2,000 rows of ETTh1."""
    return OWN / "ETTh1-2000.csv"


@pytest.fixture(autouse=True)
def _the_same_random_numbers() -> Iterator[None]:
    """Starts torch's default generator anew for each test, so that no test depends on what ran before it.

    A net below the tests, which draw their models and numbers from seeds of their own.
    """
    if (torch := sys.modules.get("torch")) is None:  # whoever needs no torch does not wait for it
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield

"""What training frees stays with the process: the next step finds it again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from prunecast.train.fit import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.ones(6 * 2**20)  # 24 MB: by default a mapping of its own, which goes back at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(5 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_was_freed_is_not_fetched_again() -> None:
    assert 10 * faults("kept") < faults("plain")

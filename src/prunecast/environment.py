"""The machine, the versions and the source that a result comes from; found without importing torch."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from prunecast.records import Environment
from prunecast.registry import RUNTIMES

PACKAGES = ("prunecast", "torch", "numba", "numpy", "pandas", "pyarrow", "scipy", "safetensors", "ray")
"""What computes, whatever the runtime; runtimes name their own."""

_CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def describe() -> Environment:
    """Returns what this process runs on; found once."""
    name, cores = processor(), os.cpu_count() or 1
    memory_bytes = int(psutil.virtual_memory().total)
    system, accelerator = f"{platform.system()} {platform.machine()}", _accelerator()
    return Environment(
        machine=_machine(f"{name}|{_model_and_features()}", cores, memory_bytes, system, accelerator),
        processor=name,
        cores=cores,
        memory_bytes=memory_bytes,
        system=system,
        python=platform.python_version(),
        versions=_versions(),
        commit=_git("rev-parse", "HEAD"),
        dirty=_dirty(),
        accelerator=accelerator,
    )


def _machine(name: str, cores: int, memory_bytes: int, system: str, accelerator: str | None) -> str:
    """Returns 12 hexadecimal digits that name the kind of machine; memory counts in whole GiB."""
    profile = f"{name}|{cores}|{round(memory_bytes / 2**30)}|{system}"
    if accelerator is not None:
        profile += f"|{accelerator}"
    return hashlib.sha256(profile.encode()).hexdigest()[:12]


def _model_and_features() -> str:
    """Returns what tells apart processors of one name, where the system says it: a virtual one is often just "EPYC"."""
    keys = ("cpu family", "model", "stepping", "flags", "Features", "CPU part")
    return "|".join(" ".join(sorted(value.split())) for value in map(_cpuinfo, keys) if value is not None)


@cache
def processor() -> str:
    """Returns the processor's name, as its maker writes it; found once."""
    name = _cpuinfo("(?:model name|Model|Hardware)")
    if name is not None:
        return name.strip()
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str | None:
    """Returns what Linux says of the first processor; None where it says nothing."""
    found = re.search(rf"^{key}\s*:\s*(.+)$", _cpuinfo_text(), re.MULTILINE)
    return None if found is None else found[1]


@cache
def _cpuinfo_text() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.is_file() else ""


def _versions() -> dict[str, str]:
    """Returns the versions of what computes or is timed, as far as it is installed."""
    of_runtimes = (package for name in RUNTIMES.names() for package in RUNTIMES.load(name).packages)
    versions = {}
    for package in dict.fromkeys((*PACKAGES, *of_runtimes)):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _dirty() -> bool | None:
    """Returns whether the package's source differs from its commit; other files of the checkout change no result."""
    changes = _git("status", "--porcelain", "--", "src")
    return None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Asks git about the checkout that this file lies in; an installed package has none, whatever it is inside of."""
    if not ((_CHECKOUT / ".git").exists() and (_CHECKOUT / "src" / "prunecast").is_dir()):
        return None
    return _output("git", "--no-optional-locks", "-C", str(_CHECKOUT), *arguments)


def _accelerator() -> str | None:
    found = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return ", ".join(found.splitlines()) if found else None


def _output(*command: str) -> str | None:
    """Returns what a command prints, or None when it is absent or fails."""
    if shutil.which(command[0]) is None:
        return None
    # a hook of git's sets variables that would make git look at another repository
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()

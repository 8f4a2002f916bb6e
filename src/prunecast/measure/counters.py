"""What the system counts while a model runs: memory, processor time of this process and of others, energy."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the energy counters of processors (RAPL)."""


def resident_bytes() -> int:
    """Returns the physical memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Returns the most physical memory that this process has held so far.

    The peak comes from the address space itself where the system has it (Linux): `ru_maxrss` would hand a child the
    peak of the parent that it was forked from.
    """
    if _STATUS.is_file():
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if peak is not None:
            return int(peak[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss if sys.platform == "darwin" else peak_rss * 1024


def keep_to_idlest(threads: int) -> None:
    """Pins this process to the idlest processors, one per thread, where the system can pin."""
    if hasattr(os, "sched_setaffinity"):
        allowed, busy = os.sched_getaffinity(0), psutil.cpu_percent(interval=0.05, percpu=True)
        idlest = sorted(allowed, key=lambda cpu: busy[cpu] if cpu < len(busy) else 0.0)
        os.sched_setaffinity(0, idlest[:threads])


class ProcessorClock:
    """Tells what share of its processors' time others took from now on: those that this process is pinned to."""

    def __init__(self) -> None:
        every = range(psutil.cpu_count() or 1)
        self._cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(every)
        self._before = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        """Returns seconds: by the clock, of this process, of all that ran here, and taken away by the host."""
        every = psutil.cpu_times(percpu=True)
        ours = [every[cpu] for cpu in self._cpus if cpu < len(every)]
        stolen = sum(getattr(cpu, "steal", 0.0) for cpu in ours)
        idle = sum(cpu.idle + getattr(cpu, "iowait", 0.0) for cpu in ours)
        guests = sum(getattr(cpu, "guest", 0.0) + getattr(cpu, "guest_nice", 0.0) for cpu in ours)  # in user and nice
        return time.perf_counter(), time.process_time(), sum(map(sum, ours)) - idle - stolen - guests, stolen

    def shares(self) -> tuple[float, float]:
        """Returns the shares of other processes, and of the host for its other guests.

        The system counts in ticks of 10 ms: of half a second they are exact to some per cent.
        """
        clock_s, own_s, all_s, stolen_s = (now - before for now, before in zip(self._now(), self._before, strict=True))
        whole_s = max(clock_s * len(self._cpus), 1e-9)
        return tuple(min(max(one / whole_s, 0.0), 1.0) for one in (all_s - own_s, stolen_s))  # type: ignore[return-value]


def energy_counters(powercap: Path = POWERCAP) -> list[Path] | str:
    """Returns the energy counters of the machine's processor packages, or why there are none to read.

    Args:
        powercap: folder in which the system shows them.
    """
    packages = [
        zone / "energy_uj"
        for zone in sorted(powercap.glob("*rapl:*"))
        if (zone / "name").is_file() and (zone / "name").read_text().startswith("package")
    ]
    if not packages:
        return f"this machine offers no energy counters (no processor package under {powercap})"
    unreadable = next((path for path in packages if not os.access(path, os.R_OK)), None)
    return packages if unreadable is None else f"{unreadable} may not be read by this user"


def millijoules(counters: list[Path], work: Callable[[], object]) -> float:
    """Returns the energy that the processor packages took while some work was done, other programs' share included."""

    def read() -> list[int]:
        return [int(path.read_text()) for path in counters]

    before = read()
    work()
    total_uj = 0
    for path, start, end in zip(counters, before, read(), strict=True):
        around = int((path.parent / "max_energy_range_uj").read_text()) if end < start else 0
        total_uj += end - start + around
    return total_uj / 1e3

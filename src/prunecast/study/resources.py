"""What a stage needs of a machine, and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import psutil

from prunecast.recipe import StudyConfig
from prunecast.records import Stage
from prunecast.stages.job import Job

GIB = 2**30


@dataclass(frozen=True)
class Resources:
    """Processor threads, GPUs (shares of one count) and bytes of memory.

    Attributes:
        threads: processor threads; a stage's are in its recipe, for its numbers follow them.
        gpus: as many as a stage takes, or a machine has.
        memory_bytes: of the processor.
    """

    threads: int
    gpus: float
    memory_bytes: int

    def holds(self, needed: Resources) -> bool:
        """Whether there is enough here for what is needed."""
        return (
            needed.threads <= self.threads
            and needed.gpus <= self.gpus + 1e-9
            and needed.memory_bytes <= self.memory_bytes
        )

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.threads + other.threads, self.gpus + other.gpus, self.memory_bytes + other.memory_bytes)


NOTHING = Resources(0, 0.0, 0)


def total(parts: Iterable[Resources]) -> Resources:
    """Returns what several stages take together."""
    return sum(parts, NOTHING)


@dataclass(frozen=True)
class Shares:
    """How much each kind of stage is given of what its recipe does not settle.

    Attributes:
        memory_gib: of the processor.
        gpus: share of a GPU, where it trains on one.
    """

    memory_gib: Mapping[Stage, float]
    gpus: Mapping[Stage, float]

    @classmethod
    def of(cls, study: StudyConfig | None) -> Shares:
        """Returns the shares that a study names."""
        study = study or StudyConfig()
        return cls(study.stage_memory_gib, study.stage_gpus)

    def needed(self, job: Job) -> Resources:
        """Returns what a stage takes while it runs: a GPU where it trains on one."""
        recipe = job.recipe
        section = {"train": recipe.train, "finetune": recipe.finetune}.get(job.stage)
        threads = max(recipe.train.threads, section.threads if section else 1)
        gpus = self.gpus[job.stage] if section and section.device == "cuda" else 0.0
        return Resources(threads, gpus, round(self.memory_gib[job.stage] * GIB))


@cache
def here() -> Resources:
    """Returns what this process may use of its machine."""
    return Resources(usable_cores(), float(len(visible_gpus())), int(psutil.virtual_memory().total))


def usable_cores() -> int:
    """Returns the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(count)]
    return tuple(name.strip() for name in names)[:count]

"""What of a plan lies in a store, and whether it is whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prunecast.stages.job import Job, what_is_timed
from prunecast.store import Store


class Planned(Protocol):
    """A stage of a plan."""

    @property
    def fingerprint(self) -> str:
        """Names the stage's result."""


@dataclass(frozen=True)
class Stock:
    """How the stages of a plan were found.

    Attributes:
        done: a planned stage's fingerprint -> those of the whole results that stand for it; several for a timing that
            was taken on several machines.
        damaged: fingerprint of a result -> what is wrong with it.
        bare: results whose record is all that there is of them.
        hashed: results whose files are newer than their record, and whole.
    """

    done: Mapping[str, Sequence[str]]
    damaged: Mapping[str, str]
    bare: frozenset[str]
    hashed: frozenset[str]


def standing_for(stages: Iterable[Planned], store: Store, *, own_timings: bool = False) -> dict[str, list[str]]:
    """Returns, by planned stage, the results in the store that stand for it, found by name alone.

    Args:
        stages: of a plan.
        store: where they lie.
        own_timings: only timings of the machine that the plan names count.
    """
    names = store.finished()
    timings: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(name for name in names if what_is_timed(name) != name):
        timings[what_is_timed(name)].append(name)
    found = {}
    for fingerprint in (stage.fingerprint for stage in stages):
        timed = what_is_timed(fingerprint)
        if timed == fingerprint or own_timings:
            found[fingerprint] = [fingerprint] if fingerprint in names else []
        else:
            found[fingerprint] = timings.get(timed, [])
    return found


def take_stock(stages: Iterable[Planned], store: Store, *, own_timings: bool = False, thorough: bool = False) -> Stock:
    """Looks at every result that stands for a planned stage.

    Args:
        stages: of a plan.
        store: where they lie.
        own_timings: only timings of the machine that the plan names count.
        thorough: hash all files; else those that are newer than their record.
    """
    found = standing_for(stages, store, own_timings=own_timings)
    names = dict.fromkeys(name for results in found.values() for name in results)
    conditions = {name: store.condition(name, thorough=thorough) for name in names}
    damaged = {name: condition.damage for name, condition in conditions.items() if condition.damage is not None}
    done = {stage: [name for name in results if name not in damaged] for stage, results in found.items()}
    return Stock(
        {stage: results for stage, results in done.items() if results},
        damaged,
        frozenset(name for name, condition in conditions.items() if condition.bare),
        frozenset(name for name, condition in conditions.items() if condition.hashed) - damaged.keys(),
    )


def to_run(plan: Sequence[Job], stock: Stock) -> list[Job]:
    """Returns the stages that are not done, in the order of the plan.

    A stage is done when its record is there. Where another one is to be run that needs its files, and they are gone,
    it is to be run again.
    """
    wanted = {job.fingerprint for job in plan if job.fingerprint not in stock.done}
    for job in reversed(plan):  # parents come first in a plan: what is asked of them is known when they are reached
        if job.fingerprint in wanted:
            wanted.update(stock.bare.intersection(job.needs))
    return [job for job in plan if job.fingerprint in wanted]

"""What was run, on which data and machines, and what did not finish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from prunecast.records import Environment, Failure, Parity, RunRecord, Stage
from prunecast.report.format import runtime_name
from prunecast.report.material import Material
from prunecast.report.sheet import Cell, Head, Sheet, SheetRow
from prunecast.report.tables import Row
from prunecast.report.variants import Case


def what_was_run(material: Material, failures: Sequence[Failure]) -> Mapping[str, Any]:
    """Returns data, stages, machines and runtimes, and what did not finish."""
    records = list(material.study.by_fingerprint.values())
    stages = Counter(record.stage for record in records)
    return {
        "records": len(records),
        "failures": list(failures),
        "stages": [(stage, stages[stage]) for stage in get_args(Stage) if stages[stage]],
        "seeds": sorted({record.seed for record in records}),
        "hours": sum(record.timing.elapsed_s for record in records) / 3600,
        "data": sorted({r.data.sha256: r.data for r in records}.values(), key=lambda data: data.name),
        "scorings": sorted({_scoring(key.case, row) for key, row in material.rows.items()}),
        "environments": _environments(records),
        "unsupported": sorted({reason for record in records for reason in record.unsupported.items()}),
        "parity": _worst_parity(records),
    }


def _scoring(case: Case, row: Row) -> str:
    return f"{case.title}: {row['scoring']}, {row['windows']:.0f} windows"


def _environments(records: Sequence[RunRecord]) -> list[tuple[Environment, int]]:
    """Returns the different machines and versions, the most used first, and how many stages ran on each."""
    found = {_told_apart(record.environment): record.environment for record in records}
    counts = Counter(_told_apart(record.environment) for record in records)
    return [(found[key], number) for key, number in counts.most_common()]


def _told_apart(environment: Environment) -> tuple[Any, ...]:
    values = environment.model_dump()
    return tuple(sorted((key, repr(value)) for key, value in values.items()))


def _worst_parity(records: Sequence[RunRecord]) -> list[tuple[str, int, Parity]]:
    """Returns each runtime, how many models it was given, and the parity of the one that deviates most."""
    found: dict[str, dict[str | None, Parity]] = {}
    for record in records:
        for artefact in record.artefacts:
            if artefact.parity is not None:
                found.setdefault(artefact.runtime, {})[record.parent] = artefact.parity
    return [
        (runtime, len(models), max(models.values(), key=lambda parity: parity.max_deviation))
        for runtime, models in sorted(found.items())
    ]


def run_sheet(run: Mapping[str, Any]) -> Sheet:
    """Returns what was run as a table: of what, which property, its value."""
    heads = tuple(Head("", header, numeric=False) for header in ("of", "what", "value"))
    rows = tuple(SheetRow((Cell(of), Cell(what), Cell(str(value)))) for of, what, value in _facts(run))
    return Sheet("run", "What was run", heads, rows)


def _facts(run: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    for data in run["data"]:
        windows = ", ".join(f"{split} {number}" for split, number in data.windows.items())
        facts = {"rows": data.rows, "channels": len(data.channels), "windows": windows, "SHA-256": data.sha256}
        yield from ((f"data {data.name}", what, value) for what, value in facts.items())
    yield from (("stages", stage, number) for stage, number in run["stages"])
    yield "stages", "seeds", ", ".join(map(str, run["seeds"]))
    yield "stages", "hours", f"{run['hours']:.2f}"
    yield from (("scoring", "of all errors", scoring) for scoring in run["scorings"])
    for runtime, models, worst in run["parity"]:
        said = f"{worst.max_deviation:.1e} of a channel's standard deviation, tolerance {worst.tolerance:.0e}"
        yield runtime_name(runtime), f"largest deviation from PyTorch, {models} models, {worst.windows} windows", said
    yield from ((runtime_name(runtime), "cannot run some models", reason) for runtime, reason in run["unsupported"])
    for number, (environment, stages) in enumerate(run["environments"], start=1):
        facts = {"stages": stages, **environment.model_dump(exclude={"versions"}), **environment.versions}
        yield from ((f"environment {number}", what, value) for what, value in facts.items() if value is not None)


def failure_sheet(failures: Sequence[Failure]) -> Sheet:
    """Returns what did not finish, and why."""
    heads = tuple(Head("", header, numeric=False) for header in ("what", "stage", "reason", "fingerprint"))
    rows = tuple(SheetRow(tuple(map(Cell, (one.label, one.stage, one.reason, one.fingerprint)))) for one in failures)
    return Sheet("failures", f"{len(rows)} stage{'' if len(rows) == 1 else 's'} did not finish", heads, rows)

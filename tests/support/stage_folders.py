"""A finished stage that never ran: a small record and files beside it."""

from __future__ import annotations

from pathlib import Path

from tests.support.study_records import ENVIRONMENT

from prunecast.records import DataFacts, RunRecord, StageTiming
from prunecast.store import write_record

FILES = {"config.json": b'{"a": 1}\n', "model.safetensors": bytes(range(256)) * 8, "deep/er.bin": b"x"}


def made_up(fingerprint: str) -> RunRecord:
    """Returns a record without results; its label has to be escaped."""
    return RunRecord(
        stage="train",
        role="dense",
        label='a "label"\nwith },\n "files": { in it, and Ümlaut',
        fingerprint=fingerprint,
        seed=1,
        model="dlinear",
        recipe={"seed": 1, "model": {"name": "dlinear"}},
        data=DataFacts(name="a", sha256="0" * 64, rows=3, channels=("a",), windows={"test": 1}),
        timing=StageTiming(started_at="2026-01-01T00:00:00+00:00", elapsed_s=1.5),
        environment=ENVIRONMENT,
    )


def put_result(directory: Path, fingerprint: str | None = None) -> Path:
    """Fills a folder as a stage would and returns it; its name is the fingerprint when there is no other."""
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    write_record(made_up(fingerprint or directory.name), directory)
    return directory

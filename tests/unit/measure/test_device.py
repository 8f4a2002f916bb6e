"""Profiles of devices: models that are made here and timed without torch, and a file that says what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.compress import cost
from prunecast.errors import UserError
from prunecast.export.raw import raw_inputs
from prunecast.measure.device import DevicePoint, DeviceProfile
from prunecast.recipe import MeasureConfig

POINT = DevicePoint(keep={"encoder.width": 8}, latency_ms=0.5, bytes=9, memory_bytes=99)
PROFILE = DeviceProfile(machine="board", runtime="onnxruntime", threads=1, batch=1, points=[POINT])


def test_a_set_is_timed_by_a_process_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "models_to_measure", lambda groups, _: [{}, {groups[0].name: torch.arange(1)}])
    saved = saved_model(**TRANSFORMER)
    inputs = raw_inputs(saved.metadata, windows(saved))
    cost.write_profile(saved, "onnxruntime", inputs, MeasureConfig(), tmp_path / "set")
    code = (
        "import sys; sys.argv[0] = 'device'; from prunecast.measure.device import main; code = main(); "
        "assert not {'torch', 'onnx', 'pandas', 'pydantic', 'scipy'} & sys.modules.keys(); sys.exit(code)"
    )
    out = tmp_path / "device.json"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "set"), "--out", str(out)], check=True)
    profile = DeviceProfile.read(out)
    dense, small = profile.points
    assert (dense.keep, list(small.keep.values())) == ({}, [1])
    assert small.bytes < dense.bytes
    assert min(small.latency_ms, dense.latency_ms) > 0
    assert [point.costs.bytes for point in cost.points_of(profile)] == [dense.bytes, small.bytes]


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    PROFILE.write(tmp_path / "device.json")
    assert DeviceProfile.read(tmp_path / "device.json") == PROFILE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 9}, "expected a profile of version 1, found 9"),
        ({"points": []}, "expected times of models"),
        ({"points": [{"keep": {}, "latency_ms": "fast", "bytes": 1, "memory_bytes": 1}]}, "expected times of models"),
        ({"more": 1}, "expected times of models"),
    ],
)
def test_another_file_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    PROFILE.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        DeviceProfile.read(path)
    path.write_text("no profile")
    with pytest.raises(UserError, match="found something else"):
        DeviceProfile.read(path)

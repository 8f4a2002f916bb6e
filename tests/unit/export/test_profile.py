"""Where the time of a call goes: every runtime that has a clock for its operators, and agreement with the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.export.base import ProfilingRuntime
from prunecast.export.raw import raw_inputs
from prunecast.models.io import save_model
from prunecast.registry import RUNTIMES


@pytest.mark.parametrize(
    ("name", "product"), [("onnxruntime", "Gemm"), ("openvino", "FullyConnected"), ("eager", "aten::mm")]
)
def test_operators_account_for_a_call(name: str, product: str, tmp_path: Path) -> None:
    saved, runtime = saved_model(**TRANSFORMER), RUNTIMES.load(name)
    assert isinstance(runtime, ProfilingRuntime)
    path = tmp_path / f"model{runtime.suffix}" if runtime.suffix else tmp_path
    if runtime.suffix:
        runtime.export(saved, path)
    else:
        save_model(saved, path)
    profile = runtime.profile(path, 1, raw_inputs(saved.metadata, windows(saved, 64)), 20)
    assert profile.calls == 20
    assert 0.1 < profile.accounted < 1.25, profile
    assert product in {entry.operator for entry in profile.operators}, profile
    assert list(profile.operators) == sorted(profile.operators, key=lambda entry: -entry.ms)

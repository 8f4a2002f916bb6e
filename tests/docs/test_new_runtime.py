"""The runtime of docs/new-runtime.md runs, and docs/protocol.md says the tolerances that hold."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.errors import UserError
from prunecast.export.parity import EIGHT_BITS, RAW_ROUNDING, check_parity
from prunecast.registry import RUNTIMES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def _documented(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "new-runtime.md").read_text(encoding="utf-8")
    module = ModuleType("documented_runtime")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "new-runtime.md", "exec"), module.__dict__)
    entry = re.search(r'^    "(\w+)": "[\w.]+:(\w+)",$', text, re.MULTILINE)
    assert entry is not None
    monkeypatch.setitem(RUNTIMES.entries, entry[1], f"documented_runtime:{entry[2]}")


@pytest.mark.usefixtures("_documented")
@pytest.mark.parametrize("targets", [None, (2, 0)])
def test_the_documented_runtime_keeps_the_contract(targets: tuple[int, ...] | None, tmp_path: Path) -> None:
    runtime, saved = RUNTIMES.load("numpy"), saved_model(name="dlinear", targets=targets)
    path = runtime.export(saved, tmp_path / f"model{runtime.suffix}")
    assert check_parity(saved, "numpy", path, [windows(saved, 1), windows(saved, 7)]).max_deviation < 1e-5
    assert runtime.read(path).metadata == saved.metadata
    first = path.read_bytes()
    assert runtime.export(saved, path).read_bytes() == first
    with pytest.raises(UserError, match="only dlinear"):
        runtime.export(saved_model(**TRANSFORMER), tmp_path / "other.npz")
    path.write_bytes(first[:100])
    with pytest.raises(UserError, match="expected an archive"):
        runtime.load(path, 1)


def test_the_protocol_tells_the_tolerances() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", (DOCS / "protocol.md").read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: (value, cause) for name, value, cause in rows[1:] if name != "---"}
    raw = told.pop("every runtime, in addition")
    of_runtimes = {name: RUNTIMES.load(name).tolerance for name in RUNTIMES.names()}
    tolerances = {**of_runtimes, "every runtime in 8 bits, instead": EIGHT_BITS}
    assert told.keys() == tolerances.keys()
    for name, (value, cause) in told.items():
        assert (float(value), cause) == (tolerances[name].value, tolerances[name].cause)
    assert raw[0].startswith("16 * 2^-24")
    assert RAW_ROUNDING.value == 16 * 2**-24
    assert RAW_ROUNDING.cause.endswith(raw[1])

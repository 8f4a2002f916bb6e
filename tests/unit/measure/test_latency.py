"""Times: the statistics on made-up samples, the protocol on made-up models, and one real timed process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.saved_models import saved_model, windows

from prunecast.errors import UserError
from prunecast.export.raw import raw_inputs
from prunecast.measure import latency
from prunecast.measure import latency_worker as child
from prunecast.measure.counters import ProcessorClock, energy_counters, millijoules, peak_resident_bytes, resident_bytes
from prunecast.measure.latency import kept_samples, speedup, summary, time_against
from prunecast.models.io import save_model
from prunecast.recipe import MeasureConfig
from prunecast.registry import RUNTIMES

QUICK = MeasureConfig(min_count=20, min_time_s=0.02, warmup=5)


def samples(generator: np.random.Generator, median_ms: float, *, turns: int = 25) -> np.ndarray:
    """Times with what real ones have: a long tail, a level of each load's own, a drift over the turns."""
    shape = (child.LOADS, turns, 4)
    level = np.exp(generator.normal(0, 0.03, (child.LOADS, 1, 1)))
    drift = np.exp(np.cumsum(generator.normal(0, 0.01, (child.LOADS, turns, 1)), axis=1))
    return median_ms * level * drift * (1 + generator.exponential(0.05, shape))


def test_equal_models_are_rarely_called_different() -> None:
    generator = np.random.default_rng(7)
    ratios = [speedup(samples(generator, 2.0), samples(generator, 2.0), seed=seed) for seed in range(40)]
    assert sum(ratio.significant for ratio in ratios) <= 4
    assert all(ratio.low <= ratio.ratio <= ratio.high for ratio in ratios)


@pytest.mark.parametrize("factor", [2.0, 1.25, 0.5])
def test_a_true_difference_is_found_and_covered(factor: float) -> None:
    generator = np.random.default_rng(8)
    ratios = [speedup(samples(generator, 2.0 * factor), samples(generator, 2.0), seed=seed) for seed in range(12)]
    assert all(ratio.significant for ratio in ratios)
    assert sum(ratio.low <= factor <= ratio.high for ratio in ratios) >= 10


def test_the_interval_is_the_same_for_the_same_samples() -> None:
    generator = np.random.default_rng(9)
    ours, theirs = samples(generator, 1.0), samples(generator, 1.1)
    assert speedup(theirs, ours) == speedup(theirs, ours)


def test_kept_samples_are_cut_to_the_shortest_load_and_thinned_evenly() -> None:
    fast = [[[1_000_000 * turn + call for call in range(100)] for turn in range(turns)] for turns in (8, 6)]
    slow = [[[5_000_000] * 4 for _ in range(turns)] for turns in (8, 6)]
    kept = kept_samples([[fast[0], slow[0]], [fast[1], slow[1]]])
    assert kept[0].shape == (2, 6, 100)
    assert kept[1].shape == (2, 6, 4)
    assert kept[0][0, 0, 0] == 0.0
    assert kept[0][0, -1, 0] == 7.0
    many = [[[1000 + turn] * 4 for turn in range(3000)]]
    assert kept_samples([many])[0].size <= latency.KEPT_SAMPLES


def test_a_summary_is_what_its_samples_say() -> None:
    result = summary(np.arange(1, 101, dtype=float).reshape(5, 5, 4))
    assert (result.median, result.p95, result.n) == (50.5, 95.05, 100)
    assert result.samples == tuple(range(1, 101))


def test_models_take_turns_and_the_faster_one_makes_more_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own, which no other load of the machine moves."""
    called: list[str] = []
    now_ns = [0]
    monkeypatch.setattr(child.time, "perf_counter_ns", lambda: now_ns[0])

    def model(name: str, takes_ns: int):
        def predict(inputs):
            called.append(name)
            now_ns[0] += takes_ns
            return np.zeros(1)

        return predict

    predictors = [model("slow", 4_000_000), model("fast", 1_000_000)]
    assert child.calls_per_turn(predictors, {}) == [child.TURN, 4 * child.TURN]
    called.clear()
    turns = child.timed_in_turn(predictors, {}, [2, 3], min_count=8, min_time_ns=0)
    assert [len(model_turns) for model_turns in turns] == [4, 4]
    rounds = [called[start : start + 7] for start in range(0, len(called), 7)]  # one call of each is not timed
    assert {tuple(order) for order in rounds} == {("slow",) * 3 + ("fast",) * 4, ("fast",) * 4 + ("slow",) * 3}
    longer = child.timed_in_turn(predictors[1:], {}, [2], min_count=1, min_time_ns=20e6)
    assert sum(map(sum, longer[0])) == 20e6


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RUNTIMES.load("onnxruntime").export(saved_model(name="dlinear"), tmp_path_factory.mktemp("onnx") / "m.onnx")


def test_a_real_process_times_an_artefact_against_itself(artefact: Path) -> None:
    saved = saved_model(name="dlinear")
    before = os.times()
    timing = time_against("onnxruntime", artefact, artefact, raw_inputs(saved.metadata, windows(saved)), QUICK)
    assert os.times().children_user - before.children_user < 3
    assert timing.latency.n >= QUICK.min_count
    assert timing.reference is not None
    assert timing.speedup is not None
    assert 0.2 < timing.speedup.ratio < 5
    parts = (timing.start_ms, timing.load_ms, timing.first_forecast_ms)
    assert all(part is not None and part > 0 for part in parts)
    assert timing.cold_start_ms == sum(parts)
    assert timing.windows_per_s == pytest.approx(1e3 / timing.latency.median)
    assert timing.model_memory_bytes == timing.peak_memory_bytes - timing.baseline_memory_bytes
    assert timing.beside is not None
    assert 0 <= timing.beside.others_share <= 1
    assert timing.energy is not None
    assert (timing.energy.millijoules is None) != (timing.energy.absent is None)
    assert timing.peak_memory_bytes > timing.baseline_memory_bytes > 2**20
    assert timing.peak_memory_bytes < 2**30


def test_eager_runs_a_model_folder(tmp_path: Path) -> None:
    saved = saved_model(name="dlinear")
    save_model(saved, tmp_path)
    timing = time_against("eager", tmp_path, None, raw_inputs(saved.metadata, windows(saved)), QUICK)
    assert timing.reference is None
    assert timing.speedup is None
    assert timing.latency.median > 0


def test_a_wrong_artefact_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_text("not a model")
    with pytest.raises(UserError, match=r"wrong\.onnx"):
        time_against("onnxruntime", path, None, {"history": np.zeros((1, 2, 1), np.float32)}, QUICK)


def test_a_process_that_fails_says_why(artefact: Path) -> None:
    with pytest.raises(RuntimeError, match="history"):
        time_against("onnxruntime", artefact, None, {"x_mark": np.zeros((1, 2, 1), np.float32)}, QUICK)


def test_the_process_for_onnx_runtime_imports_no_torch() -> None:
    code = (
        "import sys, prunecast.measure.latency_worker, prunecast.export.onnxruntime; "
        "print(*{'torch', 'onnx', 'pandas', 'pydantic'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_peak_memory_rises_with_what_is_held_and_stays() -> None:
    code = (
        "from prunecast.measure.counters import *; before = peak_resident_bytes(); "
        "held = bytearray(b'x' * 2**26); assert peak_resident_bytes() - before > 2**25; "
        "del held; assert peak_resident_bytes() - before > 2**25; print(before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held = bytearray(os.urandom(2**20) * 100)
    assert int(done.stdout) < peak_resident_bytes(), "a child must not inherit the peak of this process"
    assert resident_bytes() > len(held)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no processes")
def test_who_else_ran_on_the_processor_is_seen() -> None:
    """A process that is pinned beside a busy one on the same processor gets a half."""
    code = """
import os, subprocess, sys, time
from prunecast.measure.counters import ProcessorClock
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if sys.argv[1:] else None
clock, end = ProcessorClock(), time.perf_counter() + 0.8
while time.perf_counter() < end:
    pass
print(*clock.shares())
if other:
    other.kill()
"""
    done = subprocess.run([sys.executable, "-c", code, "busy"], capture_output=True, text=True, check=True)
    others, steal = map(float, done.stdout.split())
    assert others + steal > 0.25


def test_a_clock_starts_from_nothing() -> None:
    assert all(0 <= share <= 1 for share in ProcessorClock().shares())


def package(folder: Path, number: int, used_uj: int) -> Path:
    """A processor package as the system shows it, with a part whose energy is in the whole's."""
    zone = folder / f"intel-rapl:{number}"
    for place, name in ((zone, f"package-{number}"), (folder / f"intel-rapl:{number}:0", "core")):
        place.mkdir(parents=True)
        (place / "name").write_text(f"{name}\n")
        (place / "energy_uj").write_text(f"{used_uj}\n")
        (place / "max_energy_range_uj").write_text("1000000\n")
    return zone / "energy_uj"


def test_energy_is_that_of_all_packages_and_counters_that_run_over_are_followed(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 990_000), package(tmp_path, 1, 5_000)
    counters = energy_counters(tmp_path)
    assert counters == [first, second]

    def work() -> None:
        first.write_text("10000")
        second.write_text("8000")

    assert millijoules(counters, work) == 23.0


def test_a_machine_without_energy_counters_says_so(tmp_path: Path) -> None:
    assert "offers no energy counters" in energy_counters(tmp_path / "powercap")
    if os.getuid():
        package(tmp_path, 0, 1).chmod(0)
        assert "may not be read" in energy_counters(tmp_path)

"""The environment's description, and what names a machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from prunecast import environment
from prunecast.registry import RUNTIMES


def test_it_describes_this_process() -> None:
    found = environment.describe()
    assert found.python == platform.python_version()
    assert found.versions["prunecast"]
    assert found.versions["torch"]
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert len(found.machine) == 12
    processor = f"{found.processor}|{environment._model_and_features()}"
    profile = (processor, found.cores, found.memory_bytes, found.system, found.accelerator)
    assert found.machine == environment._machine(*profile)
    assert environment.describe() is found


def test_versions_of_what_a_runtime_names_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIMES.load("openvino").__class__, "packages", ("pytest", "not-installed"))
    versions = environment._versions()
    assert versions["pytest"] == pytest.__version__
    assert "not-installed" not in versions
    assert {"pandas", "onnxruntime"} <= versions.keys()


def test_it_imports_no_torch() -> None:
    code = "import sys; from prunecast.environment import describe; describe(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_machine_is_named_by_processor_cores_memory_system_and_gpus() -> None:
    profile = ("cpu", 4, 8 * 2**30, "Linux x86_64", None)
    name = environment._machine(*profile)
    assert environment._machine("cpu", 4, 8 * 2**30 + 2**25, "Linux x86_64", None) == name, "memory counts in whole GiB"
    for index, other in enumerate(("other cpu", 8, 16 * 2**30, "Linux aarch64", "NVIDIA H200")):
        assert environment._machine(*profile[:index], other, *profile[index + 1 :]) != name


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux says it there")
def test_processors_of_one_name_are_told_apart_by_what_they_can_do() -> None:
    found = environment._model_and_features()
    flags = found.rpartition("|")[2].split()
    assert len(flags) > 5
    assert flags == sorted(flags), "the order in which a kernel lists them is nothing of the processor's"


def commit(folder: Path) -> str:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *identity, "-C", str(folder), *arguments], capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return git("rev-parse", "HEAD")


def test_commit_and_dirty_flag_are_the_sources_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src" / "prunecast").mkdir(parents=True)
    (tmp_path / "src" / "prunecast" / "a.py").write_text("")
    head = commit(tmp_path)
    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    assert environment._git("rev-parse", "HEAD") == head
    (tmp_path / "results.json").write_text("{}")
    assert environment._dirty() is False, "results beside the source do not make it dirty"
    (tmp_path / "src" / "prunecast" / "b.py").write_text("")
    assert environment._dirty() is True


def test_an_installed_package_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("")
    commit(tmp_path)
    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)
    assert environment._git("rev-parse", "HEAD") is None
    assert environment._dirty() is None

"""The wheel holds the whole package and runs from anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def python(*arguments: str, cwd: Path, site: Path | None = None) -> str:
    """Runs Python and returns what it prints."""
    environment = os.environ | ({} if site is None else {"PYTHONPATH": str(site)})
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The wheel, installed into a folder of its own."""
    target = wheel.parent / "site"
    quiet = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    python("-m", "pip", "install", *quiet, "--no-deps", "--target", str(target), str(wheel), cwd=wheel.parent)
    return target


def answer(site: Path, cwd: Path, *arguments: str) -> Any:
    return json.loads(python("-m", "prunecast", "--json", "--quiet", *arguments, cwd=cwd, site=site))


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    package = ROOT / "src"
    files = {str(path.relative_to(package)) for path in (package / "prunecast").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert names == {name for name in files if "__pycache__" not in name}
    assert licences
    assert any(name.endswith("page.html.j2") for name in names), "data goes in too"


def test_it_is_the_wheel_that_runs(site: Path, tmp_path: Path) -> None:
    where = python("-c", "import prunecast; print(prunecast.__file__)", cwd=tmp_path, site=site)
    assert Path(where.strip()).is_relative_to(site)


def test_it_runs_from_anywhere(site: Path, tmp_path: Path) -> None:
    names = {row["name"] for row in answer(site, tmp_path, "list", "datasets")["datasets"]}
    assert {"ETTh1", "synthetic-load"} <= names
    sizes = ["--lookback", "24", "--horizon", "6"]
    request = ["train", "--model", "repeat", "--data", "synthetic-load", *sizes, "--out", "model"]
    trained = answer(site, tmp_path, *request)
    assert trained["mse"] > 0
    metadata = json.loads((tmp_path / "model" / "config.json").read_text())
    assert metadata["model"]["name"] == "repeat"

"""What the pages tell people to type works: README's, CONTRIBUTING's and those in docs/; what they name is there.

In a page, a block fenced as bash is run line by line, one as python as a whole; console shows output and is not run.
Each page has a folder of its own; training and studies are cut to a few steps.
"""

from __future__ import annotations

import re
import shlex
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.support.foreign_checkpoints import transformer

from prunecast import api
from prunecast.cli.main import main
from prunecast.registry import EXECUTORS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES_RUN_ELSEWHERE = {
    "new-pruner.md": "tests/docs/test_new_pruner.py",
    "new-runtime.md": "tests/docs/test_new_runtime.py",
    "own-model.md": "tests/docs/test_own_model.py",
}

TRAINING = ["train.epochs=1", "train.max_steps=3"]
SHORTER = {
    "train": TRAINING,
    "import": ["train.threads=1"],
    "prune": ["finetune.max_steps=3"],
    "study run": [
        *TRAINING,
        "measure.runtimes=[]",
        "study.seeds=[1]",
        "study.finetune=[false]",
        "study.controls=[naive]",
        "study.models=[{model: {name: dlinear}}]",
        "study.prune=[{methods: [magnitude], sparsities: [0.5]}]",
    ],
}
"""Verb -> what makes it quick; the page's own options are read all the same."""

MADE = {
    "record.json",
    "module.json",
    "config.json",
    "recipe.yaml",
    "stages.json",
    "compress.json",
    "device.json",
    "model/",
    "search/",
    "damaged/",
    "report_files/",
    "build/results/",
}
"""What a run makes; the pages speak of it, and no clone has it."""

NOT_OURS = ("git", "cd", "pip", "source", "ls")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Returns the words of each line of a page's bash blocks, without comments and settings of variables."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [stripped for line in words if (stripped := without_variables(line))]


def without_variables(words: list[str]) -> list[str]:
    first = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return words[first:]


def shortened(words: list[str]) -> list[str]:
    """Returns the arguments of a command with what makes it quick behind them."""
    verb = next((verb for verb in SHORTER if words[1:][: len(verb.split())] == verb.split()), None)
    words = ["10s" if word == "1min" else word for word in words]  # a limit of time
    return ["--quiet", *words[1:], *(part for setting in SHORTER.get(verb or "", []) for part in ("--set", setting))]


@pytest.fixture
def workplace(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes and the files that the pages speak of: a load with gaps, new rows, a checkpoint."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    hours = np.arange(1200)
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=1200, freq="h")})
    table["load"] = 40 + 5 * np.sin(hours * np.pi / 12)
    table["temperature"] = 10 - 8 * np.cos(hours * np.pi / 12)
    table.iloc[-300:].to_csv(tmp_path / "new.csv", index=False)
    table.loc[[70, 71, 500], "load"] = None
    table.to_csv(tmp_path / "load.csv", index=False)
    torch.save(transformer(channels=7, width=16, d_ff=32), tmp_path / "checkpoint.pth")
    monkeypatch.setenv("PRUNECAST_DATA", str(data_dir.absolute()))
    monkeypatch.setitem(EXECUTORS.entries, "local", "prunecast.study.local:InProcess")
    monkeypatch.setattr(api, "study_run", partial(api.study_run, settings=SHORTER["study run"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(page: Path) -> str:
    return page.name


def examples(page: Path) -> list[str]:
    return [] if page.name in EXAMPLES_RUN_ELSEWHERE else blocks(page, "python")


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) or examples(page)], ids=named)
@pytest.mark.usefixtures("workplace")
def test_what_a_page_says_runs(page: Path) -> None:
    for words in commands(page):
        check(words)
    names = {"__name__": page.stem}
    for block in examples(page):
        exec(compile(block, str(page), "exec"), names)


def check(words: list[str]) -> None:
    """Runs a command of ours, and looks whether another one names what is there."""
    line = shlex.join(words)
    if words[0] == "prunecast":
        assert main(shortened(words)) == 0, line
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, line
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2]) is not None, line
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), line
    else:
        assert words[0] in NOT_OURS, f"{line}: neither run nor known to be right"


def test_the_other_examples_are_run_where_they_are_said_to_be() -> None:
    for name, place in EXAMPLES_RUN_ELSEWHERE.items():
        assert name in (ROOT / place).read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    recipes = set(re.findall(r"recipes/[\w-]+\.yaml", text))
    missing += [recipe for recipe in recipes if not (ROOT / recipe).is_file()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "architecture.svg"], ids=named)
def test_the_files_and_folders_that_a_page_names_are_there(page: Path) -> None:
    """A path stands in backticks (or alone in a picture), from the root, from the package or from its own folder."""
    text = page.read_text(encoding="utf-8")
    pattern = r">([\w/]+(?:\.py|/))<" if page.suffix == ".svg" else r"`([\w./-]+(?:\.py|\.yaml|\.json|/))`"
    named = {name for name in re.findall(pattern, text) if "NAME" not in name}
    places = (ROOT, ROOT / "src", ROOT / "src" / "prunecast", ROOT / "tests", ROOT / "recipes", page.parent)
    missing = sorted(name for name in named if not any((place / name).exists() for place in places))
    assert set(missing) <= MADE, missing

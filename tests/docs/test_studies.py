"""The page on studies: its keys, its settings and its extras are those of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from prunecast.recipe import load_recipe
from prunecast.registry import EXECUTORS, TRACKERS
from prunecast.study.study import PLACES, status

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


def test_status_answers_what_the_page_promises() -> None:
    table = PAGE[PAGE.index("| key | what |") :]
    promised = {key for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    found = status(ROOT / "results" / "etth1-small")
    assert promised == set(found.to_json())
    assert set(found.by_stage[0]) == {"stage", "planned", *PLACES}
    assert all(f"`{place}`" in table for place in PLACES)


def test_every_setting_of_the_page_is_one() -> None:
    settings = re.findall(r"`((?:train|finetune|study)\.\w+)(?:=[\w.]+)?`", PAGE)
    assert settings
    recipe = load_recipe(base={"study": {}})
    for setting in settings:
        section, key = setting.split(".")
        assert key in type(getattr(recipe, section)).model_fields, setting


def test_every_engine_and_tracker_is_told_of() -> None:
    assert all(f"--to {name} " in PAGE for name in TRACKERS.names())
    assert all(f"--engine {name}" in PAGE for name in EXECUTORS.names())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"prunecast\[(\w+)\]", PAGE))
    assert named == {"ray", "mlflow", "wandb"} <= set(extras)

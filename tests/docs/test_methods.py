"""The page of all methods is what the registry says, and each method is told of on its family's page."""

from __future__ import annotations

import re

import pytest
from tools import quoted_numbers as quoted

from prunecast.prune.methods import FAMILIES, Method
from prunecast.registry import DEFAULT_METHOD, METHODS, RECOVERIES

DOCS = quoted.ROOT / "docs"
PAGE = (DOCS / "methods.md").read_text(encoding="utf-8")
FAMILY_PAGES = {
    "structured": "methods-structured.md",
    "unstructured": "methods-unstructured.md",
    "blocks": "methods-unstructured.md",
    "training": "methods-training.md",
}


def test_the_tables_are_those_of_the_registry() -> None:
    assert quoted.renewed(PAGE) == PAGE, "run `make results`"
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(METHODS.names()), "each method once"
    assert all(f"<!-- numbers: registry methods {family} -->" in PAGE for family in FAMILIES)
    with pytest.raises(ValueError, match="expected a family of structured"):
        quoted.renewed("<!-- numbers: registry methods best --><!-- /numbers -->")


@pytest.mark.parametrize("name", METHODS.names())
def test_each_method_is_told_of_on_the_page_of_its_family(name: str) -> None:
    method: Method = METHODS.load(name)
    page = FAMILY_PAGES.get(method.family, "methods.md")
    assert f"`{name}`" in (DOCS / page).read_text(encoding="utf-8")
    assert f"]({page})" in PAGE or page == "methods.md"


def test_what_is_done_where_nothing_is_named_is_as_the_page_says() -> None:
    assert f"Where no method is named, `{DEFAULT_METHOD}` prunes" in PAGE
    assert all(f"`{recovery}`" in PAGE for recovery in ("none", *RECOVERIES.names()))

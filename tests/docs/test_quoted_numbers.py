"""Numbers in README, docs and published studies are those of the records: `make results` changes nothing."""

from __future__ import annotations

import pytest
from tools import quoted_numbers as quoted


def test_the_texts_have_the_numbers_of_the_records() -> None:
    stale = [str(path.relative_to(quoted.ROOT)) for path in quoted.renew(check=True)]
    assert stale == [], "run `make results`"


def test_a_wrong_number_is_put_right_and_what_stands_around_it_stays() -> None:
    marker = '<!-- numbers: etth1-small value test_mse Transformer "magnitude 80 %, fine-tuned" -->'
    text = f"The error is {marker}0.1<!-- /numbers -->, *no less*.\n"
    assert quoted.renewed(text) == f"The error is {marker}0.826<!-- /numbers -->, *no less*.\n"
    table = quoted.renewed("<!-- numbers: etth1-small errors ETTh1 96 -->\nold\n<!-- /numbers -->\n")
    assert "| Transformer | 0.962 | 0.936 |" in table
    assert quoted.renewed(table) == table
    phrase = quoted.renewed("<!-- numbers: paper-small no_loss structured-magnitude bare -->x<!-- /numbers -->")
    assert ">0 % (Crossformer, " in phrase, "where the lowest amount already loses, none is named"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("etth1-small nothing", "expected a block of"),
        ("etth1-small errors ETTh2 96", "no ETTh2 at 96"),
        ("etth1-small value test_mse Transformer typo", "no test_mse of Transformer, typo"),
    ],
)
def test_a_marker_that_asks_for_nothing_is_an_error(asked: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        quoted.renewed(f"<!-- numbers: {asked} --><!-- /numbers -->")

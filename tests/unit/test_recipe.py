"""Recipes: strict YAML, differences, one clear line for each mistake, and a stable fingerprint."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from prunecast.errors import UserError, one_line
from prunecast.recipe import Recipe, fingerprint, load_recipe, merged, parse_setting, write_recipe


def message(path: Path | None = None, settings: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_a_difference_over_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "train: {epochs: 3}\n"), ["train.batch_size=8", "data.targets=[OT]"])
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.learning_rate) == (3, 8, None)
    assert recipe.data.targets == ("OT",)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "")) == Recipe()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tran: {}", "unknown key 'tran'; did you mean 'train'?"),
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'epochs'?"),
        ("study: {prune: [{method: [a]}]}", "unknown key 'study.prune.0.method'; did you mean 'methods'?"),
        ("train: {epochs: many}", "train.epochs: input should be a valid integer"),
        ("train: {learning_rate: -1}", "train.learning_rate: input should be greater than 0, found -1"),
        ("prune: {sparsity: 1.0}", "prune.sparsity: input should be less than 1, found 1.0"),
        ("prune: {sparsity: half}", "prune.sparsity: input should be a valid number"),
        ("data: {split: [0.5, 0.2, 0.1]}", "expected three positive shares that add up to 1"),
        ("- 1", "expected a mapping of sections, found list"),
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("train: {}\ntrain: {}", "key 'train' stands twice"),
        ("train: [", "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("a: !!bool x", "a tag"),
        ("seed: !!int ''", "a tag"),
        ("!!timestamp x: 1", "a tag"),
        ("seed: ! 1", "a tag"),
        ("? [a]\n: 1", "not valid YAML"),
        ("seed: 0x" + "f" * 5000, "thousands of digits"),
        ("data: {time_column: []}", "data.time_column: expected at least one column"),
        ("data: {timezone: '+99:99'}", "no time zone '+99:99'"),
        ("a" * 1000 + ": 1", "unknown key"),
    ],
)
def test_mistakes_become_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message(written(tmp_path, text))


def test_a_missing_file_and_a_binary_file_are_named(tmp_path: Path) -> None:
    assert "cannot read" in message(tmp_path / "absent.yaml")
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in message(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "train.epochs=[", "x.y=1"])
def test_bad_settings_are_refused(setting: str) -> None:
    assert message(settings=(setting,))


def test_settings_nest_and_carry_yaml_values() -> None:
    assert parse_setting("study.seeds=[1,2,3]") == {"study": {"seeds": [1, 2, 3]}}
    assert parse_setting("a.b.c=x=y") == {"a": {"b": {"c": "x=y"}}}
    assert parse_setting("a.b=~") == {"a": {"b": None}}


@pytest.mark.parametrize("split", [["2024-01-05T00:00:00", "2024-02-07T12:00:00"], [0.5, 0.25, 0.25]])
def test_either_kind_of_split_is_written_as_it_is_read(split: list[object]) -> None:
    recipe = load_recipe(settings=[f"data.split={split}"])
    assert recipe.model_dump(mode="json")["data"]["split"] == split
    assert load_recipe(base=recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("text", ["%d/%m/%Y %H:%M", ",", ".", " ", "'", "|", ";", "\t"])
def test_marks_and_forms_need_no_quotes(text: str) -> None:
    assert parse_setting(f"a.b={text}") == {"a": {"b": text}}


@pytest.mark.parametrize("key", ["drop", "channels", "targets", "covariates"])
@pytest.mark.parametrize("value", ["load", "[load]"])
def test_one_column_needs_no_list(key: str, value: str) -> None:
    assert getattr(load_recipe(settings=[f"data.{key}={value}"]).data, key) == ("load",)
    assert getattr(load_recipe(settings=[f"data.{key}={value.replace('load', '0')}"]).data, key) == ("0",)


def test_merging_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1}}
    assert merged(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(settings=["study.seeds=[1,2]", "prune.method=random", "model.d_model=16"])
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_the_fingerprint_follows_content_and_not_order() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": 1}) == "015abd7f5cc57a2dd94b", "a changed fingerprint orphans every stored record"


def test_a_hundred_thousand_keys_are_refused_at_once(tmp_path: Path) -> None:
    started = time.perf_counter()
    assert "characters" in message(written(tmp_path, "".join(f"k{n}: {n}\n" for n in range(100_000))))
    keys = ", ".join(f"k{n}: {n}" for n in range(10_000))
    assert "unknown key" in message(settings=(f"train={{{keys}}}",))
    assert time.perf_counter() - started < 20


def test_what_a_message_quotes_steers_no_terminal_and_fills_no_screen() -> None:
    line = one_line("/some/file.csv: \x1b[2J\n" + "x" * 10_000 + "\ttake an intact copy")
    assert line.startswith("/some/file.csv: ?[2J xxx")
    assert line.endswith("take an intact copy")
    assert 290 < len(line) <= 300

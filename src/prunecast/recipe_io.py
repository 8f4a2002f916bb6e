"""Recipes from YAML files and `--set key=value`: strict, with one clear line for whatever is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from prunecast.errors import UserError, near
from prunecast.recipe import Recipe

Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a small file cannot grow large) and without duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise UserError(f"line {mark.line + 1}: YAML aliases are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"line {node.start_mark.line + 1}: key {key!r} stands twice")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """Returns the value of a YAML text; `source` names it in errors."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def load_recipe(
    path: Path | None = None, settings: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> Recipe:
    """Returns the recipe of a file (or of `base`) with `--set` differences on top.

    Args:
        path: a YAML file that holds differences from the defaults.
        settings: "section.key=value" texts; the value is YAML.
        base: differences from the defaults that the file and the settings override.

    Raises:
        UserError: on a file that cannot be read, an unknown key or a value that does not fit.
    """
    values: dict[str, Any] = dict(base or {})
    if path is not None:
        values = merged(values, read_mapping(path))
    for setting in settings:
        values = merged(values, parse_setting(setting))
    return checked(Recipe, values, "recipe")


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes a resolved recipe, every default spelled out, so that it can be run again as it is."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns the mapping that a YAML file holds."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a YAML text in UTF-8") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(values).__name__}")
    return values


def parse_setting(setting: str) -> dict[str, Any]:
    """Returns {"a": {"b": value}} for "a.b=value"."""
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {setting!r}: expected section.key=value")
    nested: Any = parse_yaml(value, f"--set {key}")
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return cast("dict[str, Any]", nested)


def merged(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the difference laid over it; mappings merge, all else replaces."""
    result = dict(base)
    for key, value in difference.items():
        old = result.get(key)
        both_maps = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(cast("Mapping[str, Any]", old), value) if both_maps else value
    return result


def checked(kind: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Returns the validated model; the first mistake becomes one clear line.

    Raises:
        UserError: naming the key, what was expected and what was found.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(_one_line(error, kind, source)) from None


def _one_line(error: ValidationError, kind: type[BaseModel], source: str) -> str:
    errors = error.errors()
    # A misspelt key is also a missing one: the spelling is what helps.
    first = next((mistake for mistake in errors if mistake["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"]]
    key = ".".join([source, *path]) if source != "recipe" else ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {near(path[-1], _known_keys(kind, path[:-1]))}"
    if first["type"] == "missing":
        return f"{key}: expected a value, found none"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower() + message[1:]}, found {first['input']!r}" if path else message


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part in kind.model_fields:
            kind = _model_in(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Returns the section class inside an annotation such as `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None

"""Holds the limits of the house style: sizes of functions and modules, docstrings of public names.

    python tools/house_style.py src

A function's body is counted without its signature and docstring: at most 60 lines. A module has at most 800 lines.
Every public module, class and function has a docstring, and no two public things have one name. No limit
rewards cutting what belongs together: the house has few rooms and few modules in each. `HOUSE` holds how many; lower a
number when there are fewer, do not raise it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

LONGEST_BODY, LONGEST_MODULE = 60, 800

HOUSE = {
    "modules": 150,
    "modules at the top": 12,
    "packages at the top": 12,
    "modules in report": 14,
    "modules in study": 9,
}
"""The most that there are, `__init__.py` and `__main__.py` not counted as modules. Lines are told, not limited: a
feature may need them, and a limit would reward dense code. A new room brings its modules: `compress` has six,
the C engine eight: program, lowering, plan, steps, kernels, text, files for a board, runtime."""

SHARED = {"main", "RUNTIME", "ORIGINAL", "TSLIB"}
"""Names that several modules may have: what is started, what a registry names in each."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function) -> int:
    """Returns the number of lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def complaints(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yields what is wrong in one module."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > LONGEST_MODULE:
        yield f"{path}: {lines} lines, at most {LONGEST_MODULE}"
    if ast.get_docstring(tree) is None:
        yield f"{path}: no docstring"
    for node in ast.walk(tree):
        if isinstance(node, Function) and body_lines(node) > LONGEST_BODY:
            yield f"{path}:{node.lineno}: {node.name} has {body_lines(node)} lines, at most {LONGEST_BODY}"
    for node in public(tree):
        if ast.get_docstring(node) is None:
            yield f"{path}:{node.lineno}: {node.name} has no docstring"


def public(node: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Yields the public functions, classes and methods of a module."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def named(tree: ast.Module) -> Iterator[str]:
    """Yields the public names that a module defines: functions, classes, constants, types."""
    for child in tree.body:
        targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if isinstance(child, Function | ast.ClassDef):
            names = [child.name]
        yield from (name for name in names if not name.startswith("_"))


def doubled(trees: Mapping[Path, ast.Module]) -> Iterator[str]:
    """Yields the public names that two modules define."""
    modules: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for name in sorted({*named(tree)} - SHARED):
            modules.setdefault(name, []).append(str(path))
    yield from (f"{name} is defined in {' and in '.join(paths)}" for name, paths in modules.items() if len(paths) > 1)


def counted(package: Path) -> dict[str, int]:
    """Returns what `HOUSE` limits, as it is in a package."""
    modules = [path for path in package.rglob("*.py") if not path.name.startswith("__")]
    of = {room: [path for path in modules if package / room in path.parents] for room in ("report", "study")}
    return {
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py")),
        "modules": len(modules),
        "modules at the top": sum(path.parent == package for path in modules),
        "packages at the top": sum(1 for path in package.iterdir() if (path / "__init__.py").is_file()),
        "modules in report": len(of["report"]),
        "modules in study": len(of["study"]),
    }


def main(folder: str) -> int:
    """Prints what breaks the limits; returns 1 if anything does."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).rglob("*.py"))}
    wrong = [line for path, tree in trees.items() for line in complaints(path, tree)]
    wrong += doubled(trees)
    found = counted(Path(folder) / "prunecast")
    wrong += [f"{found[what]} {what}, at most {most}" for what, most in HOUSE.items() if found[what] > most]
    bodies = [body_lines(node) for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)]
    print("\n".join(wrong) or ", ".join(f"{number} {what}" for what, number in found.items()))
    print(f"{len(bodies)} functions, the longest body {max(bodies)} lines")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

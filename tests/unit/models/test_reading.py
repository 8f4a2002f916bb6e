"""Reading a model takes few files.

Counted are the modules of `prunecast.models` that a model's module imports at module level, those that they import, and
so on, itself included. `prunecast.kernels` counts as one: what its functions say is what they compute, so that nobody
needs to open the files behind it. Not counted are packages without code of their own (`__init__.py` with a docstring),
imports that only type checkers see, and what lies outside: errors, records, the registry, libraries.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import prunecast

HOME = Path(prunecast.__file__).parents[1]
KERNELS = "prunecast.kernels"

MOST = {
    "prunecast.models.informer": 10,
    "prunecast.models.autoformer": 10,
    "prunecast.models.fedformer": 10,
    "prunecast.models.crossformer": 10,
    "prunecast.models.transformer": 8,
    "prunecast.models.patchtst": 8,
    "prunecast.models.itransformer": 8,
    "prunecast.models.lstm": 4,
    "prunecast.models.dlinear": 4,
}


def _path(module: str) -> Path | None:
    """Returns the file of a module; None where a name is none."""
    path = HOME.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(module: str) -> set[str]:
    """Returns the modules of ours that a module imports at module level."""
    path = _path(module)
    assert path is not None
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            below = (f"{node.module}.{name.name}" for name in node.names)
            found |= {node.module, *(name for name in below if _path(name) is not None)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {KERNELS if name.startswith(KERNELS) else name for name in found}


def files_to_read(module: str) -> set[str]:
    """Returns what is counted, see above."""
    read: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        ours = name == KERNELS or (name.startswith("prunecast.models.") and _path(name) is not None)
        if ours and name not in read:
            read.add(name)
            waiting += _imported(name) if name != KERNELS else ()
    return {name for name in read if name == KERNELS or _has_code(name)}


def _has_code(module: str) -> bool:
    path = _path(module)
    assert path is not None
    return len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


@pytest.mark.parametrize(("module", "most"), MOST.items())
def test_reading_a_model_takes_few_files(module: str, most: int) -> None:
    files = files_to_read(module)
    assert module in files
    assert len(files) <= most, sorted(files)


def test_kernels_import_nothing_of_ours() -> None:
    for path in (HOME / "prunecast" / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name.startswith("prunecast")]
            assert all(name.startswith(KERNELS) for name in ours), f"{path}: {ours}"

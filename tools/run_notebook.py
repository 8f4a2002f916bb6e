"""Runs a notebook's code cells in order, in a new folder, and writes what they show into it.

    python tools/run_notebook.py docs/from-file-to-forecast.ipynb

Plain Python does it, without a kernel: what a cell prints, and the value of its last line as a table, a picture or
a text. The cells are what Jupyter would run, and it shows the same.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run_cells(notebook: dict[str, Any], folder: Path) -> None:
    """Runs the code cells in a folder and lays what each shows into it; an error ends the run, naming the cell."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with contextlib.chdir(folder):
        for count, cell in enumerate(cells, start=1):
            cell["execution_count"] = count
            cell["outputs"] = list(_shown("".join(cell["source"]), names, count))


def _shown(source: str, names: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
    if value is not None:
        data = {kind: text.splitlines(keepends=True) for kind, text in _forms(value).items()}
        yield {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data}


def _forms(value: Any) -> dict[str, str]:
    """Returns a value in the forms that a page shows, by MIME type."""
    if hasattr(value, "_repr_mimebundle_"):
        bundle = value._repr_mimebundle_()
        bundle, _ = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {
            kind: base64.b64encode(content).decode() if isinstance(content, bytes) else content
            for kind, content in bundle.items()
        }
    forms = {"text/plain": repr(value)}
    return forms | ({"text/html": value._repr_html_()} if hasattr(value, "_repr_html_") else {})


def main() -> None:
    """Renews the outputs of the notebook that the first argument names."""
    path = Path(sys.argv[1])
    notebook = json.loads(path.read_text(encoding="utf-8"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        run_cells(notebook, Path(folder))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

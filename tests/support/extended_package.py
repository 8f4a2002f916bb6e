"""The package with parts that somebody added: one file each, and one line in the registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import prunecast

PACKAGE = Path(prunecast.__file__).parent


@dataclass(frozen=True)
class Extended:
    """A copy of the package in a folder of its own; what is run from it is run as a user would."""

    folder: Path

    def add(self, file: str, code: str) -> None:
        """Writes code at the end of a file of the package, or into a new one."""
        with (self.folder / "prunecast" / file).open("a", encoding="utf-8") as opened:
            opened.write(f"\n\n{code}")

    def register(self, table: str, entries: Mapping[str, str]) -> None:
        """Adds lines at the head of a table of the registry."""
        path = self.folder / "prunecast" / "registry.py"
        lines = "".join(f'\n        "{name}": "{target}",' for name, target in entries.items())
        head = rf"(^{table} = Registry\(\s*\"[\w ]+\",\s*\{{)"
        text, found = re.subn(head, rf"\g<1>{lines}", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found == 1, f"the registry has a table {table}"
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs Python with this package in the place of the one that is tested."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=self.folder)


def extended(folder: Path) -> Extended:
    """Copies the package."""
    shutil.copytree(PACKAGE, folder / "prunecast")
    return Extended(folder)

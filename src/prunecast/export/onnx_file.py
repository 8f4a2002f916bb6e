"""What runtimes that run ONNX files have in common: the files. Who runs them is each runtime's own.

Torch and onnx are imported only where a file is written or its model read back: not in a process that runs one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prunecast.errors import UserError
from prunecast.export.base import Inputs

if TYPE_CHECKING:
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel

FILE_LIMIT_BYTES = 2**31 - 2**24
"""One protobuf message holds 2 GB; the graph itself and the metadata need a little of it."""


class OnnxFiles:
    """Writes and reads ONNX files, in 32 bits or in 8; a runtime adds its name, its suffix and `load`."""

    name: str
    suffix: str

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why the model does not fit into one file, or None when it does."""
        needed = sum(tensor.nbytes for tensor in model.state_dict().values())
        if needed > FILE_LIMIT_BYTES:
            return f"its weights take {needed / 1e9:.1f} GB, and one ONNX file holds 2 GB"
        return None

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Writes the ONNX file, whole or not at all, and returns its path.

        Raises:
            UserError: when the model is not supported or the file cannot be written.
        """
        from prunecast.export.onnx_graph import onnx_bytes

        self._check(saved.model)
        return _written(onnx_bytes(saved), path)

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the ONNX file with matrix products in 8 bits, whole or not at all, and returns its path.

        Args:
            saved: the model.
            path: of the file.
            windows: real inputs in batches; what the products take in them sets the scale of their 8 bits.

        Raises:
            UserError: when the model is not supported, has no such product, or the file cannot be written.
        """
        from prunecast.export.int8 import int8_bytes

        self._check(saved.model)
        return _written(int8_bytes(saved, windows), path)

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a file that `export` or `export_int8` wrote.

        Raises:
            UserError: when it is not an ONNX file, or none that Prunecast wrote.
        """
        from prunecast.export.onnx_graph import read_model

        return read_model(path)

    def _check(self, model: ForecastModel) -> None:
        reason = self.unsupported(model)
        if reason is not None:
            raise UserError(f"runtime {self.name!r} cannot run this model: {reason}")


def _written(content: bytes, path: Path) -> Path:
    from prunecast.store import new_file

    with new_file(path, replace=True) as temporary:
        temporary.write_bytes(content)
    return path

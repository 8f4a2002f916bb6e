"""A record on disk: scalars of at most 4 KB and arrays beside them, and nothing is lost between."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.support.stage_folders import made_up
from tests.support.study_records import study

from prunecast.records import RECORD_BYTES, Artefact, Imported, RunRecord, put_together, taken_apart

RECORDS = study(models=("transformer", "dlinear"), seeds=(1,))
IMPORTED = Imported(
    source="tslib",
    checkpoint="a.pth",
    sha256="0" * 64,
    from_tensors={"d_model": 16, "modes": [[1, 2], [3]]},
    from_source={"marks": None},
    from_data={},
    from_user={"label_len": 3},
    defaults={"factor": 0.5},
    notes=("one",),
)


def lists_in(values: Any) -> list[Any]:
    """Returns the lists of numbers anywhere in nested values."""
    if isinstance(values, list) and values and isinstance(values[0], int | float):
        return [values]
    entries = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return [found for entry in entries for found in lists_in(entry)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.stage}-{record.role}")
def test_a_record_is_scalars_and_arrays_and_comes_back_whole(record: RunRecord) -> None:
    text, arrays = taken_apart(record)
    assert len(text) <= RECORD_BYTES
    assert not lists_in({key: value for key, value in json.loads(text).items() if key != "recipe"})
    assert all(array.ndim == 1 for array in arrays.values())
    assert put_together(text, arrays) == record
    assert text == taken_apart(put_together(text, arrays))[0]


def test_many_channels_do_not_make_it_longer() -> None:
    names = tuple(f"channel number {number}" for number in range(862))
    record = made_up("ab12")
    record = record.model_copy(
        update={
            "data": record.data.model_copy(update={"channels": names}),
            "recipe": record.recipe | {"data": {"targets": list(names)}},
            "imported": IMPORTED,
        }
    )
    text, arrays = taken_apart(record)
    assert len(text) <= RECORD_BYTES
    assert {"recipe", "data/channels", "imported"} <= arrays.keys()
    assert put_together(text, arrays) == record


def test_names_of_many_weights_do_not_make_it_longer() -> None:
    names = tuple(f"encoder.layers.{number}.feed_forward.up.weight" for number in range(200))
    sparse = Artefact(runtime="csr", bytes=1, zip_bytes=1, sparse=names)
    eager = Artefact(runtime="eager", bytes=1, zip_bytes=1)
    in_8_bits = Artefact(runtime="onnxruntime", name="model.onnx", bytes=1, zip_bytes=1, float32=names[:3])
    record = made_up("ab12").model_copy(update={"artefacts": (eager, sparse, in_8_bits)})
    text, arrays = taken_apart(record)
    assert len(text) <= RECORD_BYTES
    assert {"artefacts/1/sparse", "artefacts/2/float32"} <= arrays.keys()
    assert put_together(text, arrays) == record


def test_numbers_keep_every_digit() -> None:
    record = next(record for record in RECORDS if record.test is not None and record.test.blocks is not None)
    assert record.test is not None
    assert record.test.blocks is not None
    _, arrays = taken_apart(record)
    assert arrays["test/blocks/mse"].dtype == np.float64
    assert tuple(arrays["test/blocks/mse"].tolist()) == record.test.blocks.mse
    assert arrays["test/blocks/windows"].dtype == np.int64

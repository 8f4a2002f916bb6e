"""CSR weights: the same forecast from every model, where zeros are many and layers large; what compiling needs."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows

from prunecast.errors import UserError
from prunecast.export import eager
from prunecast.export.eager import COMPILE, CSR, LEAST_SIZE, _compiled, csr_predictor, predictor_of
from prunecast.export.raw import raw_inputs
from prunecast.inference import open_artifact
from prunecast.measure.latency import time_against
from prunecast.models.io import SavedModel, save_model
from prunecast.recipe import MeasureConfig
from prunecast.registry import MODELS

SMALL = {"d_model": 16, "n_heads": 4, "d_ff": 24, "encoder_layers": 1, "decoder_layers": 1}


def sparse(name: str, share: float, **values: int) -> SavedModel:
    """A model with this share of zeros in all prunable weights."""
    saved = saved_model(name=name, **values)
    generator = torch.Generator().manual_seed(1)
    for weight in map(saved.model.get_parameter, saved.model.prunable()):
        weight.data *= torch.rand(weight.shape, generator=generator) >= share
    return saved


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_forecasts_the_same(name: str) -> None:
    fields = MODELS.load(name).Config.model_fields
    saved = sparse(name, 0.9, **{key: value for key, value in SMALL.items() if key in fields})
    kept = copy.deepcopy(saved)
    dense, ours = predictor_of(kept, 1), csr_predictor(saved, 1, least_zeros=0.5, least_size=0)
    in_csr = sum(
        tensor.layout == torch.sparse_csr
        for layer in saved.model.modules()
        for tensor in vars(layer).values()
        if isinstance(tensor, torch.Tensor)
    )
    linear = [layer for layer in kept.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert in_csr >= 0.6 * len(linear), "most linear layers are called, so that their products can be others"
    for count in (1, 5, 40):  # the last takes the fast paths of batches, where the layers are dense
        inputs = raw_inputs(saved.metadata, windows(saved, count))
        np.testing.assert_allclose(ours(inputs), dense(inputs), rtol=1e-5, atol=1e-5)


def test_layers_become_csr_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"d_model": 64, "n_heads": 2, "d_ff": LEAST_SIZE // 64, "encoder_layers": 1, "decoder_layers": 1}
    few, many = sparse("transformer", 0.6, **sizes), sparse("transformer", 0.9, **sizes)
    assert CSR.sparse_weights(few.model) == (), "60 % zeros"
    found = CSR.sparse_weights(many.model)
    assert len(found) == 4, "the feed-forward layers, of which each is large enough; not the projections of 64 x 64"
    assert all(many.model.get_parameter(name).numel() == LEAST_SIZE for name in found)
    save_model(many, tmp_path)
    calls: list[str] = []
    monkeypatch.setattr(
        eager,
        "predictor_of",
        lambda saved, threads: calls.extend(
            name
            for name, layer in saved.model.named_modules()
            if not isinstance(layer, torch.nn.Linear) and isinstance(vars(layer).get("held"), torch.Tensor)
        ),
    )
    CSR.load(tmp_path, 1)
    assert [f"{name}.weight" for name in calls] == list(found)


def test_without_mkl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    save_model(saved_model(**TRANSFORMER), tmp_path)
    with pytest.raises(UserError, match="MKL"):
        open_artifact(tmp_path).shipped("csr", tmp_path / "new")


def test_without_a_compiler_every_use_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = saved_model(**TRANSFORMER)
    save_model(saved, tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (COMPILE.unsupported(saved.model) or "")
    for use in (
        COMPILE.start,
        lambda: COMPILE.load(tmp_path, 1),
        lambda: open_artifact(tmp_path).shipped("compile", tmp_path / "new"),
        lambda: time_against("compile", tmp_path, None, raw_inputs(saved.metadata, windows(saved)), MeasureConfig()),
    ):
        with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and found no no-such-compiler") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_process_may_compile_many_models(tmp_path: Path) -> None:
    saved = saved_model(name="repeat")
    save_model(saved, tmp_path)
    inputs = raw_inputs(saved.metadata, windows(saved, 1))
    for _ in range(10):
        np.testing.assert_allclose(COMPILE.load(tmp_path, 1)(inputs), predictor_of(saved, 1)(inputs), rtol=1e-6)


@pytest.mark.slow
def test_attention_of_five_dimensions_is_compiled() -> None:
    saved = saved_model(name="crossformer", d_model=16, n_heads=4, d_ff=24, encoder_layers=1)
    inputs = raw_inputs(saved.metadata, windows(saved, 1))
    found = predictor_of(saved, 1, _compiled)(inputs)
    np.testing.assert_allclose(found, predictor_of(saved, 1)(inputs), rtol=1e-4, atol=1e-4)

"""Compiled kernels: numbers at the edges, what is not a number, threads, where the compiled code is kept."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import Dropout, add_norm, compiled, takes_fast_path
from prunecast.kernels.base import run
from prunecast.kernels.dropout import dropped_positions
from prunecast.models.informer import Heads, ProbSparse, Sampling
from prunecast.models.layers.blocks import FeedForward

NOTHING = torch.empty(0, dtype=torch.int64)


def _activated(name: str, x: Tensor, bias: Tensor, dropped: Tensor = NOTHING) -> tuple[Tensor, Tensor]:
    y, slope = torch.empty_like(x), torch.empty_like(x)
    run(compiled.activate, x, bias, name == "gelu", dropped, y, slope)
    return y, slope


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_activations_and_their_slopes_are_those_of_torch(name: str) -> None:
    edges = [0.0, -0.0, 1e-30, -1e-30, 5.0, -5.0, 13.0, -13.0, 1e4, -1e4, 3e38, -3e38]
    x = torch.cat([torch.linspace(-12, 12, 20_004), torch.tensor(edges)]).view(-1, 8)
    y, slope = _activated(name, x, torch.zeros(8))
    exact = x.double().requires_grad_()
    expected = getattr(F, name)(exact)
    expected.sum().backward()
    torch.testing.assert_close(y.double(), expected.detach(), rtol=3e-7, atol=3e-7)
    torch.testing.assert_close(slope.double(), exact.grad, rtol=5e-7, atol=5e-7)


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_what_is_not_a_number_stays_so(name: str) -> None:
    x = torch.tensor([[math.nan, 1.0, math.inf, 0.5, -1.0, 2.0, 3.0, 4.0, -4.0]])
    y, _ = _activated(name, x, torch.zeros(9))
    assert y[0, 0].isnan()
    assert y[0, 2] == math.inf
    assert bool(y[0, [1, 3, 4, 5, 6, 7, 8]].isfinite().all())


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (700, 13), (2, 9000)])
def test_bias_and_dropped_positions_fall_where_they_belong(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    x, bias, dropped = torch.randn(shape), torch.randn(shape[1]), dropped_positions(shape[0] * shape[1], 0.3)
    expected = F.gelu(x + bias).view(-1).index_fill(0, dropped, 0).view(shape)
    y, slope = _activated("gelu", x, bias, dropped)
    torch.testing.assert_close(y, expected)
    assert bool((slope.view(-1)[dropped] == 0).all())


def test_positions_are_sums_of_geometric_distances() -> None:
    torch.manual_seed(2)
    for p in (0.001, 0.05, 0.5, 0.97):
        uniform = torch.rand(5000)
        uniform[7], uniform[8] = 0, 1 - 2**-24  # the nearest and the furthest next one
        found = torch.empty(5000, dtype=torch.int64)
        assert run(compiled.place, uniform, 1 / math.log1p(-p), 2**40, found) == -1
        ratio = (-uniform.double()).log1p() / math.log1p(-p)
        distances = found.diff(prepend=torch.tensor([-1])).double()
        torch.testing.assert_close(distances, ratio.floor() + 1, rtol=0, atol=1)
        sure = (ratio - ratio.round()).abs() > 1e-5 * ratio.clamp(min=1)
        assert bool((distances == ratio.floor() + 1)[sure].all())
        assert sure.double().mean() > 0.9


def test_positions_end_at_the_count() -> None:
    uniform, found = torch.zeros(10), torch.empty(10, dtype=torch.int64)
    assert run(compiled.place, uniform, -1.0, 4, found) == 4
    assert found[:4].tolist() == [0, 1, 2, 3]
    assert run(compiled.place, uniform, -1.0, 10, found) == -1


@pytest.mark.parametrize("shape", [(4, 6, 16), (1, 1, 1), (3, 7, 33), (2, 9000)])
def test_dropout_addition_and_norm_in_one_pass(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    norm, dropout, width = nn.LayerNorm(shape[-1]), Dropout(0.2).train(), shape[-1]
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, y, gradient = (torch.randn(*shape, dtype=torch.float64) for _ in range(3))
    found = []
    for numbers in (torch.float64, torch.float32):
        layer, own = norm.to(numbers), [tensor.to(numbers).requires_grad_() for tensor in (x, y)]
        torch.manual_seed(4)
        result = add_norm(layer, dropout, *own)
        gradients = torch.autograd.grad(result, [*own, layer.weight, layer.bias], gradient.to(numbers))
        found.append([tensor.double() for tensor in (result, *gradients)])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=2e-5 * max(1, width / 100))


def test_a_part_of_a_stream_is_taken_as_it_lies() -> None:
    torch.manual_seed(5)
    norm, dropout, x, y = (
        nn.LayerNorm(8),
        Dropout(0.5).train(),
        torch.randn(3, 9, 8),
        torch.randn(8, 4, 3).permute(2, 1, 0),
    )
    torch.manual_seed(6)
    found = add_norm(norm, dropout, x[:, 5:], y)
    torch.manual_seed(6)
    torch.testing.assert_close(found, norm(dropout.added(x[:, 5:], y)))


def test_parts_cover_all_rows() -> None:
    for rows, width in ((1, 1), (8192, 1), (8193, 1), (100, 9000), (3072, 64)):
        assert (compiled.parts(rows, width) - 1) * max(1, compiled.CHUNK // width) < rows


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_do_not_depend_on_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert _fingerprint() == _fingerprint_of_one_thread()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_first_kernel_leaves_torch_its_threads(threads: int) -> None:
    code = (
        "import torch; from prunecast.kernels.dropout import dropped_positions\n"
        f"torch.set_num_threads({threads})\n"
        "dropped_positions(100, 0.5)\n"
        f"assert torch.get_num_threads() == {threads}\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    _run_anew(code, environment)


def _run_anew(code: str, environment: dict[str, str] | None = None) -> None:
    """Runs code in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_threads_may_call_at_once() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(lambda _: _kernels_alone(), range(8)))) == 1


def _kernels_alone() -> float:
    x = torch.linspace(-3, 3, 60_000).view(-1, 60)
    return sum(part.double().sum().item() for part in _activated("gelu", x, torch.ones(60)))


def _fingerprint() -> list[float]:
    torch.manual_seed(7)
    x, y, norm = torch.randn(300, 60), torch.randn(300, 60), nn.LayerNorm(60)
    result = add_norm(norm, Dropout(0.1).train(), x, y)
    result.square().sum().backward()
    assert norm.weight.grad is not None
    return [_kernels_alone(), result.double().sum().item(), norm.weight.grad.double().sum().item()]


def _fingerprint_of_one_thread() -> list[float]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _fingerprint()
    finally:
        torch.set_num_threads(before)


def test_attention_of_what_is_not_a_number_is_none() -> None:
    torch.manual_seed(1)
    layer = ProbSparse(8, 8, Heads((0, 1), 2, 4, True, 12), Sampling(12, 12, 1)).train()
    x = torch.randn(3, 12, 8)
    x[1, 4, 2] = math.nan
    y = layer(x, x)
    assert y[1].isnan().any()
    assert bool(y[[0, 2]].isfinite().all())


def test_a_query_that_is_not_a_number_is_chosen_in_batches_too() -> None:
    torch.manual_seed(1)
    layer = ProbSparse(8, 8, Heads((0, 1), 2, 4, True, 12), Sampling(12, 12, 1)).eval()
    x, memory = torch.randn(16, 12, 8), torch.randn(16, 12, 8)
    x[3, 4, 2] = math.nan
    assert torch.equal(
        layer(x, memory).isnan(), torch.cat([layer(x[:8], memory[:8]), layer(x[8:], memory[8:])]).isnan()
    )
    assert bool(layer(x, memory).isnan().any())


@pytest.mark.parametrize("key", [12, 2**40, -1])
def test_keys_that_are_not_there_are_refused_in_batches_too(key: int) -> None:
    torch.manual_seed(1)
    layer = ProbSparse(8, 8, Heads((0, 1), 2, 4, True, 12), Sampling(12, 12, 1)).eval()
    layer.sampled[3, 1] = key
    x = torch.randn(16, 12, 8)
    for batch in (x[:2], x):
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            layer(batch, batch)


@pytest.mark.parametrize("options", [{"elementwise_affine": False}, {"bias": False}], ids=str)
def test_a_norm_of_another_kind_takes_the_plain_way(options: dict[str, bool]) -> None:
    torch.manual_seed(1)
    norm, dropout, x, y = nn.LayerNorm(8, **options), Dropout(0.5).train(), torch.randn(3, 8), torch.randn(3, 8)
    torch.manual_seed(9)
    found = add_norm(norm, dropout, x, y)
    torch.manual_seed(9)
    torch.testing.assert_close(found, norm(dropout.added(x, y)))


def test_who_listens_is_heard_in_training() -> None:
    torch.manual_seed(1)
    heard: list[str] = []
    layer, norm, dropout = FeedForward(8, 16, "gelu", 0.5).train(), nn.LayerNorm(8), Dropout(0.5).train()
    norm.register_forward_hook(lambda module, inputs, output: heard.append("norm"))
    layer.up.register_full_backward_hook(lambda module, d_input, d_output: heard.append("up"))
    x = torch.randn(2, 3, 8, requires_grad=True)
    add_norm(norm, dropout, x, layer(x)).sum().backward()
    assert heard == ["norm", "up"]


def test_dropout_that_is_frozen_drops_nothing() -> None:
    torch.manual_seed(1)
    layer, x = FeedForward(8, 16, "gelu", 0.5).train(), torch.randn(2, 3, 8)
    layer.dropout.eval()
    torch.testing.assert_close(layer(x), layer.down(F.gelu(layer.up(x))))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_takes_the_plain_way() -> None:
    code = (
        "import os, torch; from prunecast.models.layers.blocks import FeedForward\n"
        "layer, x = FeedForward(8, 16, 'gelu', 0.5).train(), torch.randn(2, 3, 8)\n"
        "torch.set_num_threads(1)\n"
        "layer(x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    layer(x)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    _run_anew(code)


def test_inference_without_informer_waits_for_no_compiler() -> None:
    code = (
        "import sys, torch; from prunecast.models.layers.blocks import Attention\n"
        "with torch.inference_mode():\n"
        "    Attention(8, 8, 2, 4, 0.1).eval()(*[torch.randn(32, 32, 8)] * 2)\n"
        "assert 'numba' not in sys.modules\n"
    )
    _run_anew(code)


def test_only_float32_on_the_processor_is_for_kernels() -> None:
    assert takes_fast_path(torch.empty(2), compiled=True)
    assert not takes_fast_path(torch.empty(2, dtype=torch.float64), compiled=True)
    assert not takes_fast_path(torch.empty(2, device="meta"), compiled=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not takes_fast_path(torch.empty(2), compiled=True)


def test_training_without_dropout_takes_the_kernel_too() -> None:
    torch.manual_seed(8)
    layer, x = FeedForward(5, 40, "gelu", 0.0), torch.randn(2, 3, 5)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x))


def test_compiled_code_is_kept_under_a_name_that_goes_with_its_source() -> None:
    assert f"-{compiled.SOURCE[:12]}" in compiled.place._cache._cache_file._index_name


@pytest.mark.parametrize("known", [True, False], ids=["folder", "no folder"])
def test_a_process_that_can_keep_nothing_compiles_for_itself(known: bool, tmp_path: Path) -> None:
    """Compiled code goes beside the source, to a cache folder of the user, or (here) nowhere."""
    code = (
        "import sys, numba.core.caching as c\n"
        "if sys.argv[1] == 'no folder':\n"
        "    c.CacheImpl._locator_classes = []\n"
        "from prunecast.kernels import compiled\n"
        "@compiled.compiled()\n"
        "def twice(x): return x + x\n"
        "assert twice(2) == 4\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script, "folder" if known else "no folder"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_exponential_of_a_number_up_to_zero() -> None:
    @compiled.compiled()
    def exponentials(x: np.ndarray, y: np.ndarray) -> None:
        for i in range(len(x)):
            y[i] = compiled.exponential(x[i])

    x = np.concatenate([np.linspace(-90, 0, 100_001), [-1e30, -np.inf]]).astype(np.float32)
    y = np.empty_like(x)
    exponentials(x, y)
    normal = x >= -87
    np.testing.assert_allclose(y[normal], np.exp(x[normal].astype(np.float64)), rtol=4e-7)
    assert (y[~normal] == 0).all()

"""The C engine: programs, their C under several compilers' flags, and the zip."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.support.saved_models import TRANSFORMER, saved_model, windows
from tests.support.small_models import SIZES, small_inputs, small_model

from prunecast.data.calendar import calendar_features
from prunecast.errors import UserError
from prunecast.export.c.kernels import MOST_COLUMNS, Kernel, dense_weight, sparse_weight
from prunecast.export.c.lower import lower_model
from prunecast.export.c.plan import PADDING, plan_of
from prunecast.export.c.program import Code, Operation, Program, interpret
from prunecast.export.c.runtime import FLAGS, RUNTIME, Compiled
from prunecast.export.c.source import source_of
from prunecast.export.eager import predictor_of
from prunecast.export.parity import check_parity
from prunecast.inference import open_artifact
from prunecast.models.base import ForecastModel, config_from
from prunecast.models.io import SavedModel

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

CPU = Path("/proc/cpuinfo")
AVX2 = "-mavx2 -mfma" if CPU.exists() and "avx2" in CPU.read_text() else "-DPC_W=8"
WIDTHS = ("-march=native", AVX2, "-DPC_W=4", "-DPC_W=1")
"""Vectors of this processor, and narrower ones: AVX2, and what the compiler makes of what there is."""


@pytest.fixture(autouse=True)
def cached(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNECAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def compiled(program: Program, *flags: str) -> Compiled:
    return Compiled(source_of(program), program, tuple(" ".join(flags).split()) or None)


def of_operations(shape: tuple[int, ...], *operations: dict[str, Any], **constants: Any) -> Program:
    """Returns a program on `history` whose last operation gives the forecast."""
    values = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    code = Code(inputs={"history": shape}, operations=tuple(Operation.model_validate(one) for one in operations))
    return Program(code, values)


def step(op: str, inputs: str, output: str = "forecast", *numbers: int, **more: Any) -> dict[str, Any]:
    return {"op": op, "inputs": tuple(inputs.split()), "output": output, "numbers": numbers} | more


def drawn(*shape: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sparse(*shape: int, zeros: float, seed: int = 2) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    found: np.ndarray[Any, Any] = drawn(*shape, seed=seed) * (generator.random(shape) >= zeros)
    return found.astype(np.float32)


def index(*shape: int, below: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, below, shape).astype(np.float32)


PROGRAMS: Mapping[str, Program] = {
    **{
        op: of_operations((2, 19, 5), step(op, "history"))
        for op in ("neg", "abs", "square", "exp", "tanh", "sigmoid", "relu", "elu", "gelu")
    },
    "sqrt": of_operations((40,), step("square", "history", "s"), step("sqrt", "s")),
    "rsqrt": of_operations((40,), step("exp", "history", "s"), step("rsqrt", "s")),
    "broadcast": of_operations((3, 1, 7), step("sub", "history c"), c=drawn(4, 1)),
    "where": of_operations((5, 4), step("greater", "history c", "m"), step("where", "m history c"), c=drawn(4)),
    "sum of a turned one": of_operations(
        (3, 5, 20), step("permute", "history", "p", 2, 0, 1), step("sum", "p", "s", 1), step("div", "p s")
    ),
    "mean of all": of_operations((3, 5, 2), step("mean", "history", "forecast", 0, 1, 2)),
    "max": of_operations((3, 37), step("max", "history", "forecast", 1)),
    "softmax over rows": of_operations((7, 33), step("softmax", "history", "forecast", 0)),
    "softmax over columns": of_operations((2, 7, 33), step("softmax", "history", "forecast", 2)),
    "cumsum": of_operations((7, 33), step("cumsum", "history", "forecast", 1)),
    "top": of_operations((2, 9, 3), step("top", "history", "forecast", 1, 4)),
    "gather": of_operations((2, 9, 3), step("gather", "history c", "forecast", 1), c=index(2, 4, 3, below=9)),
    "scatter": of_operations(
        (2, 9, 3), step("scatter", "history c s", "forecast", 1), c=[[[8.0, 1, 2]]], s=drawn(1, 1, 3)
    ),
    "take": of_operations((2, 9, 3), step("take", "history", "forecast", 1, 8, 0, 0, 3)),
    "backwards": of_operations(
        (4, 9), step("slice", "history", "s", 1, 8, 3, -3), step("concat", "s s", "forecast", 1)
    ),
    "rows that do not fit together": of_operations(
        (6, 5), step("permute", "history", "p", 1, 0), step("reshape", "p", "forecast", 3, 10)
    ),
    "layer_norm": of_operations(
        (19, 12), step("layer_norm", "history w b", value=1e-5), w=drawn(12), b=drawn(12, seed=5)
    ),
    "lstm": of_operations(
        (6, 5), step("linear", "history w", "g"), step("lstm", "g r"), w=drawn(28, 5), r=drawn(28, 7, seed=4)
    ),
    "matmul along rows": of_operations(
        (3, 6, 18), step("permute", "history", "p", 0, 2, 1), step("matmul", "p history")
    ),
    "matmul along columns": of_operations((3, 6, 6), step("matmul", "history history")),
    "matmul of copies": of_operations((3, 6, 5), step("permute", "history", "p", 0, 2, 1), step("matmul", "history p")),
}
"""One operator each, on shapes that fill no whole vector."""


def close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    return bool(np.allclose(found, expected, rtol=2e-6, atol=2e-6 * max(1.0, float(np.abs(expected).max()))))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_operator_is_what_numpy_says(name: str) -> None:
    program = PROGRAMS[name]
    history = drawn(*program.code.inputs["history"])
    found = compiled(program, "-O1", "-march=native")({"history": history})
    assert close(found, interpret(program, {"history": history}))


def network(zeros: float, tokens: int, *, outputs: int = 19) -> Program:
    """Two products with all that can follow one, the second over more inputs than one block has."""
    return of_operations(
        (tokens, 30),
        step("linear", "history w b", "v"),
        step("gelu", "v", "g"),
        step("linear", "g u", "h"),
        step("add", "h residual"),
        w=sparse(300, 30, zeros=zeros),
        b=drawn(300),
        u=sparse(outputs, 300, zeros=zeros),
        residual=drawn(tokens, outputs),
    )


@pytest.mark.parametrize("flag", WIDTHS)
@pytest.mark.parametrize("zeros", [0.0, 0.6, 0.9, 1.0])
def test_products_leave_zeros_out(zeros: float, flag: str) -> None:
    program = network(zeros, tokens=37)
    history = drawn(37, 30)
    built = compiled(program, "-O1", flag)
    assert close(built({"history": history}), interpret(program, {"history": history}))
    if zeros == 0.9:
        assert {*built.source.kernels} == {"rowwise"}
        assert built.source.flash_bytes < 0.2 * 4 * 330 * 300


def in_eight_bits(program: Program) -> Program:
    """Returns a program whose weights of linear operations are rounded to what 8 bits hold, row by row."""
    constants, scales = dict(program.constants), {}
    for operation in program.code.operations:
        if operation.op == "linear":
            name = operation.inputs[1]
            scale = np.abs(constants[name]).max(1) / 127 + np.float32(1e-6)
            constants[name] = np.rint(constants[name] / scale[:, None]) * scale[:, None]
            constants[f"{name} scale"], scales[name] = scale, f"{name} scale"
    return Program(program.code.model_copy(update={"scales": scales}), constants)


@pytest.mark.parametrize("flag", WIDTHS)
@pytest.mark.parametrize(
    ("zeros", "tokens", "outputs", "kernel"),
    [(0.0, 37, 19, "product8"), (0.6, 37, 19, "jammed8"), (0.9, 37, 19, "rowwise8"), (0.0, 3, 40, "columns8")],
)
def test_products_of_8_bits_are_those_of_the_numbers_that_these_stand_for(
    zeros: float, tokens: int, outputs: int, kernel: str, flag: str
) -> None:
    program = in_eight_bits(network(zeros, tokens, outputs=outputs))
    history = drawn(tokens, 30)
    built = compiled(program, "-O1", "-Wall", "-Wno-psabi", "-Werror", flag)
    assert close(built({"history": history}), interpret(program, {"history": history}))
    assert {*built.source.kernels} == {kernel}


def patterned(pattern: str, *shape: int, zeros: float = 0.8) -> np.ndarray[Any, Any]:
    """Returns a weight whose zeros come as a method leaves them: two of four, or in blocks of outputs x inputs."""
    weight, generator = drawn(*shape), np.random.default_rng(7)
    if pattern == "2:4":
        gone = np.argsort(np.abs(weight.reshape(-1, 4)), 1)[:, :2]
        np.put_along_axis(weight.reshape(-1, 4), gone, 0.0, 1)
        return weight
    rows, columns = (int(part) for part in pattern.split("x"))
    kept = generator.random((shape[0] // rows, shape[1] // columns)) >= zeros
    found: np.ndarray[Any, Any] = weight * np.kron(kept, np.ones((rows, columns), np.float32))
    return found


@pytest.mark.parametrize("flag", WIDTHS)
@pytest.mark.parametrize(
    ("pattern", "kernel"),
    [("2:4", "jammed"), ("16x1", "jammed"), ("1x4", "blocked"), ("1x16", "blocked"), ("1x1", "rowwise")],
)
def test_a_pattern_of_zeros_has_the_kernel_that_suits_it(pattern: str, kernel: str, flag: str) -> None:
    weight = patterned(pattern, 64, 304, zeros=0.85)
    program = of_operations((37, 304), step("linear", "history w b"), w=weight, b=drawn(64))
    for one in (program, in_eight_bits(program)):
        built = compiled(one, "-O1", flag)
        history = drawn(37, 304)
        assert close(built({"history": history}), interpret(one, {"history": history}))
        assert [*built.source.kernels] == [kernel if one is program else f"{kernel}8"]


def test_8_bits_take_a_quarter_of_the_flash() -> None:
    program = network(0.0, 37)
    assert source_of(in_eight_bits(program)).flash_bytes < 0.4 * source_of(program).flash_bytes
    rounded = in_eight_bits(program)
    wrong = rounded.constants | {"w": program.constants["w"]}
    with pytest.raises(UserError, match="'w' is not what 8 bits hold"):
        Program.read(rounded.text(), wrong)


@pytest.mark.parametrize("kernel", ["jammed", "rowwise", "blocked"])
@pytest.mark.parametrize("shape", [(5, 8), (8, MOST_COLUMNS + 1), (1, 600)])
def test_a_sparse_weight_holds_all_that_is_not_zero(shape: tuple[int, int], kernel: Kernel) -> None:
    weight = sparse(*shape, zeros=0.5)
    found = sparse_weight(weight, kernel, MOST_COLUMNS // 4 * 4)
    assert sorted(found.numbers[found.numbers != 0]) == sorted(weight[weight != 0])
    assert found.bytes < dense_weight(weight).bytes + found.codes.nbytes


def test_no_two_living_buffers_share_memory() -> None:
    plan = plan_of(network(0.0, tokens=37))
    first, last = {}, {}
    for at, one in enumerate(plan.steps):
        for view in (one.target, *one.sources):
            first.setdefault(view.buffer, at)
            last[view.buffer] = at
    last[plan.outcome.buffer] = len(plan.steps)
    buffers = [*plan.offsets]
    for one in buffers:
        for other in buffers:
            start, end = plan.offsets[one], plan.offsets[one] + plan.sizes[one]
            apart = end <= plan.offsets[other] or plan.offsets[other] + plan.sizes[other] <= start
            assert one == other or apart or last[one] < first[other] or last[other] < first[one]
    assert plan.arena % PADDING == 0


def attention(heads: int, tokens: int) -> Program:
    """Scores, a mask, softmax and sums, head by head."""
    parts = [step("permute", "history", "t", 0, 2, 1), step("matmul", "history t", "s"), step("add", "s mask", "m")]
    parts += [step("softmax", "m", "p", 2), step("matmul", "p history")]
    return of_operations((heads, tokens, 8), *parts, mask=drawn(tokens, tokens))


def test_attention_keeps_the_scores_of_one_head() -> None:
    few, many = attention(2, 40), attention(6, 40)
    built = compiled(many, "-O1", "-march=native")
    history = drawn(6, 40, 8)
    assert close(built({"history": history}), interpret(many, {"history": history}))
    assert [*built.source.plan.loops.values()] == [6]
    more = 4 * 2 * 4 * (40 * 8 + PADDING * 40)
    assert built.source.memory_bytes - source_of(few).memory_bytes <= more, "the history and the sums alone"


def test_what_is_not_finite_is_told() -> None:
    program = PROGRAMS["gelu"]
    built = compiled(program, "-O1")
    for bad in (np.nan, np.inf, -np.inf):
        history = drawn(*program.code.inputs["history"])
        history[1, 3, 2] = bad
        with pytest.raises(UserError, match="history: expected finite numbers"):
            built({"history": history})


def difference(model: ForecastModel, seed: int, *flags: str) -> float:
    """Returns how far the C of a small model is from eager, in units of its largest forecast."""
    built = compiled(lower_model(model), *flags)
    x, x_mark, y_mark = (value[:1].float() for value in small_inputs())
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model(x, x_mark, y_mark).numpy()
    found = built({"history": x.numpy(), "x_mark": x_mark.numpy(), "y_mark": y_mark.numpy()})
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "name",
    [
        *("dlinear", "itransformer", "sparsetsf"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("transformer", "informer", "autoformer", "fedformer")
        ),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("crossformer", "patchtst", "fits", "lstm", "repeat")),
    ],
)
def test_a_model_forecasts_what_it_does_in_pytorch(name: str) -> None:
    model = small_model(name).float()
    assert difference(model, 1) < 1e-4
    assert difference(model, 1, "-O1", AVX2) < 1e-4
    assert difference(model, 1, "-O1", "-DPC_W=1") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["2:4", "1x4", "1x16", "16x1"])
@pytest.mark.parametrize("name", ["transformer", "informer", "crossformer", "patchtst", "itransformer"])
def test_a_model_with_a_pattern_of_zeros_does_too(name: str, pattern: str) -> None:
    model = small_model(name, d_model=48, d_ff=64).float()
    changed = 0
    for weight in (model.get_parameter(name).data for name in model.prunable()):
        if weight.dim() == 2 and weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0:
            weight.mul_(torch.from_numpy(patterned(pattern, *weight.shape) != 0))
            changed += 1
    assert changed
    assert difference(model, 1) < 1e-4
    assert difference(model, 1, "-O1", "-DPC_W=1") < 1e-4


@pytest.mark.parametrize(
    "seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 1000))]
)
def test_random_models_do_too(seed: int) -> None:
    draw = Random(seed)
    name = draw.choice(("transformer", "informer", "crossformer", "patchtst", "itransformer", "dlinear", "lstm"))
    heads = draw.choice((1, 2, 3))
    values = {"d_model": heads * draw.randint(2, 9), "n_heads": heads, "d_ff": draw.randint(3, 40)}
    values |= {"encoder_layers": draw.randint(1, 2), "decoder_layers": 1}
    known = type(small_model(name).config).model_fields
    model = small_model(name, **{key: value for key, value in values.items() if key in known}).float()
    assert difference(model, seed, "-O1") < 1e-4


@pytest.mark.parametrize("sanitizer", ["undefined", pytest.param("address,undefined", marks=pytest.mark.slow)])
@pytest.mark.parametrize("eight", [False, True])
def test_sanitizers_find_nothing(eight: bool, sanitizer: str, tmp_path: Path) -> None:
    program = network(0.6, tokens=37)
    program = in_eight_bits(program) if eight else program
    source, history = source_of(program), drawn(37, 30)
    main = (
        '#include <stdio.h>\n#include <stdlib.h>\n#include "forecast.h"\nint main(void) {'
        "float *w = malloc(4 * PRUNECAST_WEIGHTS), *a = malloc(4 * PRUNECAST_ARENA);"
        "float *h = malloc(4 * PRUNECAST_HISTORY), *f = malloc(4 * PRUNECAST_FORECAST);"
        "unsigned char *q = malloc(PRUNECAST_CODES);"
        "size_t n = fread(w, 4, PRUNECAST_WEIGHTS, stdin) + fread(q, 1, PRUNECAST_CODES, stdin);"
        "n += fread(h, 4, PRUNECAST_HISTORY, stdin); int code = prunecast_run(w, q, a, h, NULL, NULL, f);"
        "fwrite(f, 4, PRUNECAST_FORECAST, stdout); free(w); free(a); free(h); free(f); free(q); return n ? code : 9; }"
    )
    for name, text in (("forecast.h", source.header), ("forecast.c", source.code), ("main.c", main)):
        (tmp_path / name).write_text(text)
    flags = [flag for flag in FLAGS if flag not in {"-shared", "-O3"}]
    # without optimisation: GCC takes half a minute for these checks at -O1
    flags += ["-O0", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-march=native", "-Wall", "-Werror"]
    built = subprocess.run(
        ["cc", *flags, "-o", "run", "main.c", "forecast.c"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert built.returncode == 0, built.stderr
    given = source.weights.tobytes() + source.codes.tobytes() + history.tobytes()
    done = subprocess.run([str(tmp_path / "run")], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.frombuffer(done.stdout, np.float32).reshape(37, -1)
    assert close(found, interpret(program, {"history": history}))


# The program as text, and the zip


def test_a_program_comes_back_from_its_text() -> None:
    program = network(0.5, tokens=3)
    again = Program.read(program.text(), program.constants)
    assert again.code == program.code


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"op": "system"}, "operations.0.op"),
        ({"inputs": ["history", "nothing"]}, "does not fit"),
        ({"numbers": [10**9, 0]}, "does not fit"),
        ({"more": 1}, "operations.0.more"),
    ],
)
def test_a_program_that_does_not_fit_is_refused(change: dict[str, Any], says: str) -> None:
    program = PROGRAMS["take"]
    values = json.loads(program.text())
    values["operations"][0] |= change
    with pytest.raises(UserError, match=says):
        Program.read(json.dumps(values), program.constants)


@pytest.mark.parametrize("name", ["dlinear", pytest.param("transformer", marks=pytest.mark.slow)])
def test_an_artefact_in_8_bits_forecasts_nearly_the_same(name: str, tmp_path: Path) -> None:
    saved = saved_model(**(TRANSFORMER if name == "transformer" else {"name": name}))
    made = RUNTIME.quantised(saved, [])
    path, plain = made.export(tmp_path / "eight.zip"), RUNTIME.export(saved, tmp_path / "plain.zip")
    assert 1e-5 < check_parity(saved, "c", path, [windows(saved, 3)], int8=True).max_deviation < 0.1
    flash, memory = RUNTIME.footprint(path)
    assert flash < RUNTIME.footprint(plain)[0]
    assert memory == RUNTIME.footprint(plain)[1]
    inside = RUNTIME.read(path)
    assert check_parity(inside, "c", path, [windows(saved, 3)]).max_deviation < 1e-4
    for weight in made.weights:  # the numbers that the 8 bits stand for
        change = (inside.model.get_parameter(weight) - saved.model.get_parameter(weight)).abs().max()
        assert 0 < change.item() < saved.model.get_parameter(weight).abs().max().item() / 100
    kept = RUNTIME.read(made.export(tmp_path / "kept.zip", made.weights[:1])).model
    assert torch.equal(kept.get_parameter(made.weights[0]), saved.model.get_parameter(made.weights[0]))


def test_a_changed_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("forecast.c", "int main;")
    with pytest.raises(UserError, match="expected a zip of the C engine"):
        RUNTIME.load(path, 1)


def test_one_thread_is_all_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on one thread, found 2; ask for 1"):
        RUNTIME.load(tmp_path / "model.zip", 2)


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    model = small_model("repeat").float()
    reason = RUNTIME.unsupported(model)
    assert reason == (
        "the runtime 'c' needs a C compiler, and found no no-such-compiler; install one, or name it in CC"
    )
    assert config_from(SIZES | {"name": "repeat"}) == model.config


@pytest.mark.parametrize(
    ("name", "freq", "binary"),
    [("dlinear", "15min", False), pytest.param("itransformer", "h", True, marks=pytest.mark.slow)],
)
def test_the_zip_makes_a_program_that_reads_a_csv(
    name: str, freq: str, binary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if binary:
        monkeypatch.setattr("prunecast.export.c.board.MOST_INSIDE_BYTES", 0)
    saved = saved_model(name=name)
    saved = SavedModel(saved.model, saved.metadata.model_copy(update={"frequency": freq}))
    path = RUNTIME.export(saved, tmp_path / "model.zip")
    assert RUNTIME.export(saved, tmp_path / "again.zip").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "c")
    flags = "CFLAGS=-O1 -Wall -Wextra -Werror"
    done = subprocess.run(["make", "-s", flags], cwd=tmp_path / "c", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config, rows = saved.model.config, 40
    times = pd.date_range("2023-12-28 21:00", periods=rows + config.horizon, freq=freq)
    table = pd.DataFrame(5 + drawn(rows, config.channels), columns=[*saved.metadata.channels])
    table.insert(0, "date", times[:rows])
    table.to_csv(tmp_path / "own.csv", index=False)
    done = subprocess.run(["./forecast", "../own.csv"], cwd=tmp_path / "c", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(io.StringIO(done.stdout), parse_dates=["date"])
    assert [*found["date"]] == [*times[rows:]]
    marks = calendar_features(times.to_numpy(), saved.metadata.freq)[None]
    lookback = config.lookback
    label = config.label_len
    history = table[[*saved.metadata.channels]].to_numpy(np.float32, copy=True)[None, -lookback:]
    inputs = {"history": history, "x_mark": marks[:, rows - lookback : rows], "y_mark": marks[:, rows - label :]}
    expected = predictor_of(saved, 1)(inputs)[0]
    assert np.allclose(found.drop(columns="date").to_numpy(), expected, atol=1e-3)
    table[:5].to_csv(tmp_path / "short.csv", index=False)
    short = ["./forecast", "../short.csv"]
    done = subprocess.run(short, cwd=tmp_path / "c", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"forecast: expected at least {lookback} rows, found 5\n")
    artefact = open_artifact(path)
    assert artefact.runtime == "c"
    assert all(
        torch.equal(a, b) for a, b in zip(artefact.saved.model.parameters(), saved.model.parameters(), strict=True)
    )
    flash, memory = RUNTIME.footprint(path)
    assert flash >= 4 * sum(parameter.numel() for parameter in saved.model.parameters())
    assert memory < 100_000

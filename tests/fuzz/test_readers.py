"""Every reader under seeded damage: one line for the user, or a sound answer; no hang, no flood, nothing half-written.

`PRUNECAST_FUZZ=3000 pytest tests/fuzz -m slow` tries so many inputs for each reader. A failure names reader and seed;
`PRUNECAST_FUZZ_SEED=seed PRUNECAST_FUZZ=1` tries that one again.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.support.foreign_checkpoints import dlinear, saved, transformer
from tests.support.mutations import altered_json, altered_yaml, damaged, setting
from tests.support.series_files import write_table

from prunecast import api
from prunecast.data.check import check_data
from prunecast.data.files import read_table
from prunecast.data.series import load_series
from prunecast.data.windows import prepare
from prunecast.errors import UserError, one_line
from prunecast.export.c.runtime import CONSTANTS, FACTS, MODEL, PROGRAM, RUNTIME, SEAL_BYTES
from prunecast.export.executorch import ENDING, HASH_BYTES, LENGTH_BYTES
from prunecast.inference import Artifact, Forecasts, forecast_table, open_artifact
from prunecast.models.convert.convert import ModeChoice
from prunecast.models.io import load_model
from prunecast.recipe import DataConfig, load_recipe
from prunecast.resolve import resolved, training_recipe
from prunecast.stages.import_checkpoint import plan_import
from prunecast.stages.model import TrainedModel
from prunecast.store import read_record, write_sums

FEW = 20
MANY = int(os.environ.get("PRUNECAST_FUZZ", "400"))
FIRST = int(os.environ.get("PRUNECAST_FUZZ_SEED", "1000"))
LONGEST_S, MOST_BYTES = 20, 2**30

Attempt = Callable[[Random, Path], object]
"""Writes a damaged input into a folder and reads it."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is damaged: a file of data, a model of it, an artefact, checkpoints of other code."""
    folder = tmp_path_factory.mktemp("sound")
    table = write_table(folder / "own.csv")
    frame = pd.read_csv(table, parse_dates=["date"])
    frame.to_parquet(folder / "own.parquet")
    frame.assign(note="x").to_csv(folder / "semicolon.csv", sep=";", decimal=",", index=False)
    settings = ("train.max_steps=2", "train.threads=1")
    api.train("dlinear", str(table), horizon=6, lookback=24, settings=settings, out=folder / "model")
    api.export(folder / "model", out=folder / "model.onnx", data=str(table))
    if shutil.which("cc") is not None:
        api.export(folder / "model", "c", out=folder / "model.zip", data=str(table), int8=True)
    if find_spec("executorch") is not None:
        api.export(folder / "model", "executorch", out=folder / "model.pte", data=str(table))
    saved(dlinear(), folder / "dlinear.pth")
    saved({"state_dict": transformer(), "epoch": 1}, folder / "transformer.pth")
    return folder


def data(name: str) -> Callable[[Path], Attempt]:
    def of(sound: Path) -> Attempt:
        content, opened = (sound / name).read_bytes(), open_artifact(sound / "model")

        def attempt(random: Random, folder: Path) -> None:
            path = folder / name
            path.write_bytes(damaged(content, random))
            check_data(path)
            fill = random.choice(("refuse", "ffill", "interpolate:3"))
            for use in (
                lambda: prepare(
                    load_series(config := DataConfig(name=str(path), fill=fill)),
                    config,
                    lookback=24,
                    horizon=6,
                    label_len=12,
                ),
                lambda: finite(forecast_table(opened.metadata, opened.predictor(), read_table(path), fill=fill)),
                lambda: backtested(
                    forecast_table(opened.metadata, opened.predictor(), read_table(path), fill=fill, origins=2)
                ),
            ):
                with suppress(UserError):
                    use()

        return attempt

    return of


def finite(forecasts: Forecasts) -> None:
    forecast = forecasts.written()
    assert np.isfinite(forecast.drop(columns=forecast.columns[0]).to_numpy()).all()
    assert len(forecast) == 6


def backtested(forecasts: Forecasts) -> None:
    assert np.isfinite(forecasts.raw_NHO).all()
    assert len(forecasts.written()) == 12
    assert len(forecasts.errors) == len(forecasts.targets)


def follow_up(opened: Artifact, sound: Path) -> None:
    finite(forecast_table(opened.metadata, opened.predictor(), read_table(sound / "own.csv")))


def recipe_file(sound: Path) -> Attempt:
    values: dict[str, Any] = yaml.safe_load(Path("recipes/quickstart.yaml").read_text())

    def attempt(random: Random, folder: Path) -> None:
        path = folder / "recipe.yaml"
        path.write_bytes(altered_yaml(values, yaml.safe_dump, random))
        load_recipe(path)

    return attempt


def settings(sound: Path) -> Attempt:
    series = load_series(DataConfig(name=str(sound / "own.csv")))
    recipe = training_recipe("transformer", "own.csv", horizon=6, lookback=24, seed=1, settings=())
    keys = [
        f"{section}.{key}" if isinstance(values, dict) else section
        for section, values in recipe.model_dump().items()
        for key in (values if isinstance(values, dict) else [""])
    ]

    def attempt(random: Random, folder: Path) -> None:
        given = tuple(setting(keys, random) for _ in range(random.choice((1, 1, 2))))
        resolved(training_recipe("transformer", "own.csv", horizon=6, lookback=24, seed=1, settings=given), series)

    return attempt


def model_file(name: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Path], Attempt]:
    def of(sound: Path) -> Attempt:
        content = (sound / "model" / name).read_bytes()

        def attempt(random: Random, folder: Path) -> None:
            model = folder / "model"
            shutil.copytree(sound / "model", model)
            (model / name).write_bytes(change(content, random))
            if random.random() < 0.7:
                (model / "SHA256SUMS").unlink()
            opened = open_artifact(model)
            with suppress(UserError):
                follow_up(opened, sound)
            load_model(model)

        return attempt

    return of


def record(sound: Path) -> Attempt:
    def attempt(random: Random, folder: Path) -> None:
        model = folder / "model"
        shutil.copytree(sound / "model", model)
        name = random.choice(("record.json", "arrays.safetensors", "SHA256SUMS", "recipe.yaml"))
        change = altered_json if name == "record.json" else damaged
        (model / name).write_bytes(change((model / name).read_bytes(), random))
        if random.random() < 0.7 and name != "SHA256SUMS":
            write_sums(model)
        read_record(model)
        TrainedModel.opened(model).summary()

    return attempt


def artefact(sound: Path) -> Attempt:
    content = (sound / "model.onnx").read_bytes()

    def attempt(random: Random, folder: Path) -> None:
        path = folder / random.choice(("model.onnx", "model"))
        path.write_bytes(damaged(content, random))
        follow_up(open_artifact(path), sound)

    return attempt


def program(sound: Path) -> Attempt:
    """A damaged file; or one that is whole, and says other things of its program."""
    if find_spec("executorch") is None:
        pytest.skip("executorch is not installed")
    content = (sound / "model.pte").read_bytes()
    whole, ending = content[: -HASH_BYTES - len(ENDING)], content[-len(ENDING) :]
    behind = whole[-int.from_bytes(whole[-LENGTH_BYTES:], "little") - LENGTH_BYTES : -LENGTH_BYTES]

    def attempt(random: Random, folder: Path) -> None:
        path = folder / random.choice(("model.pte", "model"))
        if random.random() < 0.5:
            path.write_bytes(damaged(content, random))
            follow_up(open_artifact(path), sound)
            return
        said = damaged(behind, random)
        hashed = whole[: -LENGTH_BYTES - len(behind)] + said + len(said).to_bytes(LENGTH_BYTES, "little")
        path.write_bytes(hashed + sha256(hashed).digest() + ending)
        open_artifact(path)

    return attempt


def zipped(sound: Path) -> Attempt:
    """A damaged zip of the C engine; or one that is whole, and has another thing in it: what is compiled is checked."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    content = (sound / "model.zip").read_bytes()
    with ZipFile(BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}

    def attempt(random: Random, folder: Path) -> None:
        path = folder / random.choice(("model.zip", "model"))
        if random.random() < 0.4:
            path.write_bytes(damaged(content, random))
            follow_up(open_artifact(path), sound)
            return
        name = random.choice((FACTS, PROGRAM, CONSTANTS, MODEL))
        change = altered_json if name in (FACTS, PROGRAM) and random.random() < 0.7 else damaged
        buffer = BytesIO()
        with ZipFile(buffer, "w") as file:
            for member, old in members.items():
                file.writestr(member, change(old, random) if member == name else old)
            file.comment = b"0" * SEAL_BYTES
        hashed = buffer.getvalue()[:-SEAL_BYTES]
        path.write_bytes(hashed + sha256(hashed).hexdigest().encode())
        with suppress(UserError):
            open_artifact(path)
        predict, shapes = RUNTIME.load(path, 1), {"history": (1, 24, 3), "x_mark": (1, 24, 4), "y_mark": (1, 18, 4)}
        predict({key: np.zeros(shape, np.float32) for key, shape in shapes.items()})

    return attempt


def checkpoint(name: str) -> Callable[[Path], Attempt]:
    def of(sound: Path) -> Attempt:
        content = (sound / f"{name}.pth").read_bytes()
        given = ("model.lookback=24", "model.horizon=6", "model.n_heads=2") if name == "transformer" else ()

        def attempt(random: Random, folder: Path) -> None:
            path = folder / "foreign.pth"
            path.write_bytes(damaged(content, random))
            more = () if name == "transformer" else ("model.channels=3",)
            job = plan_import(
                path, name, "tslib", data=None, modes=ModeChoice(), settings=(*given, *more, "train.threads=1")
            )
            TrainedModel.imported(job)

        return attempt

    return of


READERS: dict[str, Callable[[Path], Attempt]] = {
    "csv": data("own.csv"),
    "csv with semicolons": data("semicolon.csv"),
    "parquet": data("own.parquet"),
    "yaml": recipe_file,
    "set": settings,
    "config": model_file("config.json", altered_json),
    "safetensors": model_file("model.safetensors", damaged),
    "record": record,
    "onnx": artefact,
    "pte": program,
    "zip": zipped,
    "checkpoint of dlinear": checkpoint("dlinear"),
    "checkpoint of transformer": checkpoint("transformer"),
}


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resident_bytes(name: str) -> int:
    """Of this process: `VmRSS` now, `VmHWM` at its most since that was asked for anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@contextmanager
def within_memory(most_bytes: int) -> Iterator[None]:
    """What other tests of this process took at their most is not held against this one."""
    peak = Path("/proc/self/clear_refs")
    if not os.access(peak, os.W_OK):  # outside Linux time alone is watched
        yield
        return
    peak.write_text("5")
    before = resident_bytes("VmRSS")
    yield
    assert resident_bytes("VmHWM") - before < most_bytes


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("reader", READERS)
def test_damage_costs_the_user_one_line(reader: str, count: int, sound: Path, tmp_path: Path) -> None:
    attempt, failures = READERS[reader](sound), []
    with within_memory(MOST_BYTES):
        for seed in range(FIRST, FIRST + count):
            folder = tmp_path / "input"
            folder.mkdir()
            try:
                with within(LONGEST_S), suppress(UserError):
                    attempt(Random(f"{reader} {seed}"), folder)
            except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
                failures.append(f"{reader}, seed {seed}: {type(error).__name__}: {one_line(str(error))}")
            shutil.rmtree(folder)
    assert not failures, f"{len(failures)} of {count}\n" + "\n".join(failures[:20])
    assert list(tmp_path.iterdir()) == [], "something was written where nobody asked for it"

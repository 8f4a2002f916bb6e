"""The command line: one line and exit code 2 for each mistake, promised keys, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prunecast.cli.console import Output
from prunecast.cli.main import main
from prunecast.prune.methods import FAMILIES
from prunecast.records import Beside, Energy, Latency, Operations, Profile, Ratio, Timing
from prunecast.registry import DEFAULT_METHOD
from prunecast.results import Measurements, ModelMeasurement
from prunecast.store import read_record
from prunecast.train.checkpoint import RunState

SMALL = ["--lookback", "24", "--horizon", "6", "--set", "train.max_steps=3", "--set", "train.threads=1"]
NARROW = [part for key in ("d_model=8", "n_heads=2", "d_ff=8") for part in ("--set", f"model.{key}")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformer trained for three steps on generated data."""
    out = tmp_path_factory.mktemp("cli") / "model"
    assert (
        main(
            [
                "--quiet",
                "train",
                "--model",
                "transformer",
                "--data",
                "synthetic-load",
                *SMALL,
                *NARROW,
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


@pytest.fixture
def table() -> pd.DataFrame:
    """Hourly values of two channels."""
    times = pd.date_range("2024-01-01", periods=400, freq="h")
    return pd.DataFrame({"date": times, "a": range(400), "b": [hour % 24 for hour in range(400)]})


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["--quiet", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail by its user's mistake; returns its only line."""
    capsys.readouterr()
    assert main(["--quiet", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("prunecast: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# What is promised


def test_train_writes_a_model_folder(model: Path) -> None:
    assert sorted(path.name for path in model.iterdir()) == [
        "SHA256SUMS", "arrays.safetensors", "config.json", "model.safetensors", "recipe.yaml", "record.json",
    ]  # fmt: skip


def test_prune_gives_exactly_what_was_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = facts(capsys, "evaluate", str(model))
    pruned = facts(
        capsys, "prune", str(model), "--method", "magnitude", "--sparsity", "0.8", "--out", str(tmp_path / "p")
    )
    assert pruned["requested"] == pruned["realised"] == round(0.8 * pruned["total"])
    assert pruned["nonzero"] == dense["nonzero"] - pruned["realised"]
    assert pruned["sparsity"] == 1 - pruned["nonzero"] / dense["parameters"]
    again = facts(capsys, "evaluate", str(tmp_path / "p"))
    assert again.keys() - pruned.keys() == {"channels", "steps"}, "its errors in detail"
    assert {key: again[key] for key in again if key in pruned} == {key: pruned[key] for key in pruned if key in again}


def test_the_best_method_prunes_where_none_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = facts(capsys, "prune", str(model), "--sparsity", "0.5", "--out", str(tmp_path / "p"))
    assert pruned["method"] == DEFAULT_METHOD
    assert pruned["realised"] <= pruned["total"]
    assert main(["prune", "--help"]) == 0
    assert f"[default: {DEFAULT_METHOD}]" in capsys.readouterr().out


def test_what_stays_makes_good_what_went_where_that_is_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["prune", str(model), "--method", "magnitude", "--sparsity", "0.8"]
    plain, none, ridge = (
        facts(capsys, *common, *recovery, "--out", str(tmp_path / str(number)))
        for number, recovery in enumerate([[], ["--recovery", "none"], ["--recovery", "ridge"]])
    )
    assert plain["val_mse"] == none["val_mse"]
    dense = facts(capsys, "evaluate", str(model))["val_mse"]
    assert abs(ridge["val_mse"] - dense) < abs(plain["val_mse"] - dense), "nearer to what the whole model forecasts"
    assert ridge["nonzero"] == plain["nonzero"]


def test_methods_are_listed_by_family_on_a_small_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = facts(capsys, "list", "methods")["methods"]
    assert {row["family"] for row in rows} == set(FAMILIES)
    assert [line.split(" ")[0] for line in lines].count("name") == len(FAMILIES)
    for row in rows:
        [line] = [line for line in lines if line.split(" ")[0] == row["name"]]
        assert row["recovery"] in line.split()
        assert row["trains"] == (row["family"] == "training" or row["name"] == "compress")


def test_a_share_counts_from_the_given_model_and_says_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = ["--method", "structured-magnitude", "--sparsity", "0.5"]
    first = facts(capsys, "prune", str(model), *half, "--out", str(tmp_path / "1"))
    second = facts(capsys, "prune", str(tmp_path / "1"), *half, "--out", str(tmp_path / "2"))
    assert second["total"] == first["total"] - first["realised"], "what is cut out is no part of the given model"
    assert "given_nonzero" not in first
    assert second["given_nonzero"] == first["nonzero"]
    assert main(["--quiet", "prune", str(tmp_path / "1"), *half, "--out", str(tmp_path / "again")]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"{second['realised']:,} of the {second['total']:,} MACs of the given model" in words
    assert f"given a model that was pruned before, with {first['nonzero']:,} parameters" in words
    assert main(["prune", "--help"]) == 0
    assert "counted on the given model" in " ".join(capsys.readouterr().out.split())
    assert read_record(tmp_path / "2").pruning.given_nonzero == first["nonzero"]


def test_fine_tuning_holds_the_masks(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["prune", str(model), "--method", "magnitude", "--sparsity", "0.9"]
    bare = facts(capsys, *common, "--out", str(tmp_path / "bare"))
    steps = ["--finetune-epochs", "1", "--set", "finetune.max_steps=3"]
    tuned = facts(capsys, *common, *steps, "--out", str(tmp_path / "tuned"))
    assert tuned["nonzero"] == bare["nonzero"]
    assert tuned["val_mse"] != bare["val_mse"]


def test_a_method_that_prunes_in_training_needs_epochs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["prune", str(model), "--method", "gradual-magnitude", "--sparsity", "0.9", "--out", str(tmp_path / "p")]
    assert main(common) == 2
    message = "prunes in training, expected epochs of fine-tuning, found 0; give --finetune-epochs"
    assert f"prunecast: error: method 'gradual-magnitude' {message}" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
    pruned = facts(capsys, *common, "--finetune-epochs", "1", "--set", "finetune.max_steps=3")
    assert pruned["requested"] == pruned["realised"] == round(0.9 * pruned["total"])
    listed = {entry["name"]: entry["trains"] for entry in facts(capsys, "list", "methods")["methods"]}
    assert {name for name, trains in listed.items() if trains} >= {"gradual-magnitude", "movement", "rigl"}


def test_a_structured_model_is_smaller_and_goes_through_the_whole_chain(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # however long the paths of temporary files are
    out, artefact = tmp_path / "s", tmp_path / "s.onnx"
    facts(capsys, "prune", str(model), "--method", "structured-magnitude", "--sparsity", "0.5", "--out", str(out))
    exported = facts(capsys, "export", str(out), "--runtime", "onnxruntime", "--out", str(artefact))
    assert exported["bytes"] == artefact.stat().st_size
    assert exported["max_deviation"] < 1e-4
    folder, file = (facts(capsys, "evaluate", str(source)) for source in (out, artefact))
    assert file["mse"] == pytest.approx(folder["mse"], rel=1e-4)
    assert file["parameters"] == folder["parameters"]
    dense = tmp_path / "dense.onnx"
    facts(capsys, "export", str(model), "--out", str(dense))
    rows = facts(capsys, "measure", str(dense), str(artefact))["models"]
    assert rows[1]["macs"] < 0.6 * rows[0]["macs"]
    assert rows[1]["bytes"] < rows[0]["bytes"]
    assert set(rows[1]["speedup"]) == {"ratio", "low", "high"}
    assert rows[1]["latency_ms"]["n"] >= 100
    assert {type(row["machine_busy"]) for row in rows} == {bool}
    assert rows[1]["operation_cut"] == rows[0]["macs"] / rows[1]["effective_macs"]
    realised = rows[1]["realised_share"]
    assert realised["ratio"] == pytest.approx(rows[1]["speedup"]["ratio"] / rows[1]["operation_cut"])
    cold, once = rows[1]["cold_start_ms"], rows[1]["latency_ms"]["median"]
    assert cold["total"] == pytest.approx(cold["start"] + cold["load"] + cold["first_forecast"])
    assert rows[1]["windows_per_s"] == pytest.approx(1000 / once)
    assert 0 < rows[1]["model_memory_bytes"] < rows[1]["peak_memory_bytes"]
    assert rows[1]["energy"].keys() in ({"millijoules"}, {"absent"})


def test_the_table_of_times_has_all_of_its_head(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    latency = Latency(median=0.5, p95=0.7, n=2, samples=(0.4, 0.6))
    timing = Timing(
        runtime="onnxruntime",
        threads=1,
        batch=4,
        latency=latency,
        speedup=Ratio(ratio=2, low=1.5, high=2.25),
        operation_cut=4.0,
        beside=Beside(others_share=0.11, steal_share=0.02),
        energy=Energy(absent="nothing counts it"),
    )
    model = ModelMeasurement(
        path=Path("small.onnx"),
        parameters=9,
        dead=0,
        nonzero=9,
        bytes=99,
        operations=Operations(dense_macs=8, effective_macs=8, executed_macs=8),
        timing=timing,
        machine_busy=True,
        profile=Profile.of(
            [9.0, 10.0, 30.0], {("MatMul", "a"): [4, 5, 9], ("MatMul", "b"): [1, 1, 1], ("Add", "c"): [3, 3, 3]}
        ),
    )
    assert model.to_json()["profile"]["accounted"] == pytest.approx(0.9)
    Output().result(Measurements(models=(model,)))
    text = capsys.readouterr().out
    for shown in (
        "2.00 (1.50 to 2.25)",
        "50%",
        "8,000",
        "busy (13% by others)",
        "not known: nothing counts it",
        "90% of 0.01 ms",
    ):
        assert shown in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text, "all of the head is there"


def test_an_export_says_what_it_runs_on(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asked, runtime in ([], "1.17"), (["--opset", "19"], "1.15"), (["--opset", "18", "--int8"], "1.14"):
        out = tmp_path / f"{runtime}.onnx"
        assert (
            f"ONNX Runtime {runtime} or later"
            in facts(capsys, "export", str(model), *asked, "--out", str(out))["needs"]
        )
    line = complaint(capsys, "export", str(model), "--opset", "11", "--out", str(tmp_path / "x"))
    assert "export.opset: input should be 18, 19, 20 or 21, found 11" in line


def test_an_export_that_takes_more_than_it_may_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "model.onnx")
    line = complaint(capsys, "export", str(model), "--max-size", "1KB", "--out", out)
    assert "--max-size: expected at most 1,000 bytes, found" in line
    line = complaint(capsys, "export", str(model), "--max-memory", "1MB", "--out", out)
    assert "--max-memory: the files of runtime 'onnxruntime' do not say what they take" in line
    if shutil.which("cc"):
        asked = ["export", str(model), "--runtime", "c", "--max-size", "1MB", "--max-memory"]
        line = complaint(capsys, *asked, "10B", "--out", str(tmp_path / "model.zip"))
        assert "--max-memory: expected at most 10 bytes, found" in line
    assert [*tmp_path.iterdir()] == []


def test_forecast_continues_the_file_in_its_own_units(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "own.csv", index=False)
    facts(
        capsys,
        "train",
        "--model",
        "seasonal_naive",
        "--data",
        str(tmp_path / "own.csv"),
        *SMALL,
        "--out",
        str(tmp_path / "m"),
    )
    facts(
        capsys, "forecast", str(tmp_path / "m"), "--data", str(tmp_path / "own.csv"), "--out", str(tmp_path / "f.csv")
    )
    forecast = pd.read_csv(tmp_path / "f.csv", parse_dates=["date"])
    assert forecast["date"].tolist() == pd.date_range("2024-01-17 16:00", periods=6, freq="h").tolist()
    assert forecast["b"].round(3).tolist() == [16, 17, 18, 19, 20, 21]
    assert "own.csv" in (tmp_path / "m" / "config.json").read_text()
    assert (
        str(tmp_path) not in (tmp_path / "m" / "config.json").read_text() + (tmp_path / "m" / "record.json").read_text()
    )


def test_a_model_of_a_file_asks_for_the_file_again(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "own.csv", index=False)
    facts(
        capsys, "train", "--model", "repeat", "--data", str(tmp_path / "own.csv"), *SMALL, "--out", str(tmp_path / "m")
    )
    assert "--data" in complaint(capsys, "evaluate", str(tmp_path / "m"))
    assert facts(capsys, "evaluate", str(tmp_path / "m"), "--data", str(tmp_path / "own.csv"))["windows"] == 75


def test_data_check_says_what_a_file_holds(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.loc[5, "a"] = None
    table.to_csv(tmp_path / "gap.csv", index=False)
    found = facts(capsys, "data", "check", str(tmp_path / "gap.csv"))
    assert (found["rows"], found["frequency"], found["breaks"]) == (400, "h", [])
    assert [channel["missing"] for channel in found["channels"]] == [1, 0]
    assert len(found["problems"]) == 1


@pytest.mark.parametrize("kind", ["models", "methods", "runtimes", "datasets"])
def test_lists_have_names(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = facts(capsys, "list", kind)[kind]
    assert rows
    assert all(row["name"] for row in rows)


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--model", "transfomer", "--data", "synthetic-load"], "did you mean 'transformer'?"),
        (["--model", "dlinear", "--data", "ETTh7"], "did you mean 'ETTh"),
        (["--model", "dlinear", "--data", "no/such/file.csv"], "no/such/file.csv"),
        (["--model", "dlinear", "--data", "synthetic-load", "--set", "train.epoch=1"], "did you mean 'epochs'?"),
        (["--model", "dlinear", "--data", "synthetic-load", "--set", "model.d_mode=1"], "unknown key 'model.d_mode'"),
        (["--model", "dlinear", "--data", "synthetic-load", "--horizon", "0"], "model.horizon"),
        (["--model", "dlinear", "--data", "synthetic-load", "--horizon", "5000"], "too short"),
        (["--model", "transformer", "--data", "synthetic-load", "--set", "model.n_heads=5"], "n_heads"),
        (["--model", "seasonal_naive", "--data", "synthetic-load", "--lookback", "12"], "period"),
        (["--model", "dlinear"], "--data"),
    ],
)
def test_bad_training_requests(
    arguments: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in complaint(capsys, "train", *arguments, "--out", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\xff" * 50, "CSV"),
        (b"a,b\n1,2\n3,4\n5,6\n", "time"),
        (b"date,a\n2024-01-01,1\n2024-01-02,x\n2024-01-03,3\n", "'x'"),
        (b"date,a\n2024-01-01,1\n2024-01-02,\n2024-01-03,3\n", "missing"),
        (b"date,a\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n", "too short"),
    ],
)
def test_bad_files(content: bytes, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    line = complaint(
        capsys, "train", "--model", "dlinear", "--data", str(tmp_path / "bad.csv"), "--out", str(tmp_path / "out")
    )
    assert hint in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--method", "magnitude", "--sparsity", "1.0"], "less than 1"),
        (["--method", "magnitude", "--sparsity", "-0.1"], "greater than 0"),
        (["--method", "magnitude", "--sparsity", "half"], "'--sparsity': Input should be a valid number"),
        (["--method", "magnitud", "--sparsity", "0.5"], "did you mean 'magnitude'?"),
        (["--method", "magnitude", "--sparsity", "0.999", "--of", "model"], "cannot"),
        (["--method", "structured-magnitude", "--sparsity", "0.999"], "at most"),
        (["--method", "magnitude", "--sparsity", "0.5", "--of", "weights"], "prune.of"),
        (["--method", "magnitude"], "between 0 and 1, found none; give --sparsity"),
        (["--method", "magnitude", "--sparsity", "0.5", "--recovery", "rigde"], "did you mean 'ridge'?"),
        (
            ["--method", "movement", "--sparsity", "0.5", "--finetune-epochs", "1", "--recovery", "ridge"],
            "prunes in training, which makes good what goes: expected no recovery, found 'ridge'; leave it out",
        ),
        (["--method", "magnitude", "--sparsity", "0.5", "--set", "model.d_model=4"], "has no effect here"),
    ],
)
def test_bad_pruning_requests(
    arguments: list[str], hint: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in complaint(capsys, "prune", str(model), *arguments, "--out", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def damaged(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "damaged"))


def test_damaged_models_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = damaged(model, tmp_path)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in complaint(capsys, "evaluate", str(copy))
    weights.write_bytes(b"PK\x03\x04 not ours")
    assert "safetensors" in complaint(capsys, "evaluate", str(copy))
    weights.unlink()
    assert "model.safetensors" in complaint(capsys, "evaluate", str(copy))
    (copy / "config.json").unlink()
    assert "config.json" in complaint(capsys, "evaluate", str(copy))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"d_ff": 16}, "config.json says"),
        ({"channels": 7}, ""),
        ({"d_model": -8}, "d_model"),
        ({"name": "autotransformer"}, "unknown model"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(
    change: dict[str, Any], hint: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = damaged(model, tmp_path)
    metadata = json.loads((copy / "config.json").read_text())
    metadata["model"] |= change
    (copy / "config.json").write_text(json.dumps(metadata))
    assert hint in complaint(capsys, "evaluate", str(copy))


def test_what_is_no_model_is_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not onnx")
    assert "ONNX" in complaint(capsys, "evaluate", str(tmp_path / "x.onnx"))
    assert "does not exist" in complaint(capsys, "evaluate", str(tmp_path / "absent"))
    assert "config.json" in complaint(
        capsys, "prune", str(tmp_path), "--method", "random", "--sparsity", "0.5", "--out", "x"
    )
    assert "not a study" in complaint(capsys, "report", str(model))
    assert "not a study" in complaint(capsys, "study", "status", str(model))


def test_an_output_that_exists_is_kept(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("precious")
    request = ["--model", "repeat", "--data", "synthetic-load", "--out", str(tmp_path / "out")]
    assert "exists" in complaint(capsys, "train", *request)
    assert "exists" in complaint(capsys, "export", str(model), "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "precious"


def test_an_output_that_cannot_be_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for verb in (["train", "--model", "repeat", "--data", "synthetic-load"], ["export", str(model)]):
        assert "cannot write" in complaint(capsys, *verb, "--out", str(tmp_path / "file" / "out"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=16k tmpfs {small} 2>/dev/null") != 0:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        for verb in (
            ["prune", str(model), "--method", "magnitude", "--sparsity", "0.5"],
            ["export", str(model)],
        ):
            line = complaint(capsys, *verb, "--out", str(small / "out.onnx"))
            assert line.startswith(f"prunecast: error: cannot write {small}/out.onnx: ")
            assert "No space left" in line
            assert list(small.iterdir()) == []
    finally:
        os.system(f"umount {small}")


@pytest.mark.parametrize("arguments", [["tarin"], ["train", "--seed", "x"], ["list", "foo"], ["data"], ["--nope"]])
def test_usage_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *arguments)


def test_settings_behind_one_set_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    request = ["train", "--model", "dlinear", "--data", "synthetic-load", "--out", "x"]
    line = complaint(capsys, *request, "--set", "train.epochs=1", "seed=3")
    assert line.rstrip().endswith("give each setting its own --set seed=3")


def test_an_interrupted_training_goes_on_with_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(name: str) -> list[str]:
        steps = ["--set", "train.epochs=3", "--set", "train.max_steps=null", "--set", "train.batch_size=4096"]
        small = ["train", "--model", "dlinear", "--data", "synthetic-load", *SMALL, *steps]
        return [*small, "--out", str(tmp_path / name)]

    whole = facts(capsys, *request("whole"))
    save = RunState.save

    def save_and_stop(state: RunState, path: Path) -> None:
        save(state, path)
        if len(state.counters.epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunState, "save", save_and_stop)
    assert main(["--quiet", *request("broken")]) == 130
    assert not (tmp_path / "broken").exists()
    epochs: list[int] = []
    monkeypatch.setattr(RunState, "save", lambda state, path: epochs.append(len(state.counters.epochs)))
    again = facts(capsys, *request("broken"))
    assert epochs == [3], "only the last epoch was left to do"
    assert again | {"path": ""} == whole | {"path": ""}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


@pytest.mark.parametrize(
    "setting",
    ["seed=2020-13-45", "train.learning_rate=.inf", "data.split=[.nan,.1,.2]", "seed=1000000000000000"],
)
def test_odd_settings(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ["train", "--model", "repeat", "--data", "synthetic-load", "--set", setting]
    assert complaint(capsys, *request, "--out", str(tmp_path / "deep" / "out"))
    assert list(tmp_path.iterdir()) == []


def test_odd_outputs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune = ["prune", str(model), "--method", "magnitude", "--sparsity"]
    assert "cannot write" in complaint(capsys, *prune, "0.5", "--out", str(tmp_path / ("x" * 300)))
    assert complaint(capsys, *prune, "0.99999", "--out", str(tmp_path / "n1" / "n2" / "out"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "recipe.yaml").write_text("study: {}\n")
    assert "not a study's folder" in complaint(
        capsys, "study", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path)
    )
    assert (tmp_path / "recipe.yaml").read_text() == "study: {}\n"


def test_damaged_study_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"[1]", b'[{"a": 1}]', b"3", b"\xff", b"{}"):
        (tmp_path / "stages.json").write_bytes(content)
        assert "not a study's folder" in complaint(capsys, "study", "status", str(tmp_path))


def test_paper_scoring_needs_a_batch(table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.iloc[:200].to_csv(tmp_path / "own.csv", index=False)
    request = ["train", "--model", "repeat", "--data", str(tmp_path / "own.csv"), *SMALL]
    facts(capsys, *request, "--set", "data.split=[0.5,0.3,0.2]", "--out", str(tmp_path / "m"))
    scored = ["evaluate", str(tmp_path / "m"), "--data", str(tmp_path / "own.csv"), "--scoring", "paper"]
    table.iloc[:100].to_csv(tmp_path / "own.csv", index=False)
    assert "needs 32 windows" in complaint(capsys, *scored)


def test_names_from_files_are_shown_as_they_are(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.rename(columns={"a": "[/a]", "b": "=1+1"}).to_csv(tmp_path / "odd.csv", index=False)
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path / "odd.csv")]) == 0
    assert "[/a]" in capsys.readouterr().out
    data = ["--data", str(tmp_path / "odd.csv")]
    facts(capsys, "train", "--model", "repeat", *data, *SMALL, "--out", str(tmp_path / "m"))
    facts(capsys, "forecast", str(tmp_path / "m"), *data, "--out", str(tmp_path / "f.csv"))
    assert (tmp_path / "f.csv").read_text().splitlines()[0] == "date,[/a],'=1+1"


def test_another_step_than_the_models_is_refused(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "own.csv", index=False)
    own = ["--data", str(tmp_path / "own.csv")]
    facts(capsys, "train", "--model", "repeat", *own, *SMALL, "--out", str(tmp_path / "m"))
    table["date"] = pd.date_range("2024-01-01", periods=400, freq="15min")
    table.to_csv(tmp_path / "own.csv", index=False)
    assert "found '15min'" in complaint(capsys, "forecast", str(tmp_path / "m"), *own, "--out", str(tmp_path / "f.csv"))


def test_models_with_other_inputs_are_not_timed_in_turn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--lookback", "36", "--horizon", "6", "--out", str(tmp_path / "m")]
    facts(capsys, "train", "--model", "repeat", "--data", "synthetic-load", *other)
    assert "other inputs" in complaint(capsys, "measure", str(model), str(tmp_path / "m"))

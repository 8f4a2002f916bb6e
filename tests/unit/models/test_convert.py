"""The verb import: what comes from where, what is refused, and that every verb works on the folder, data or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.support.foreign_checkpoints import CHANNELS, HORIZON, LOOKBACK, dlinear, saved, transformer

import prunecast
from prunecast.cli.main import main
from prunecast.models.convert.convert import ModeChoice, published, read_modes, sources
from prunecast.models.io import load_metadata, load_model
from prunecast.recipe import load_recipe, read_mapping
from prunecast.registry import MODELS, PUBLISHED
from prunecast.store import read_record

ONE_THREAD = ["--set", "train.threads=1"]
SIZES = ["--set", f"model.lookback={LOOKBACK}", "--set", f"model.horizon={HORIZON}", "--set", "model.n_heads=2"]
DLINEAR = ["--from", "tslib", "--model", "dlinear", *ONE_THREAD]
TRANSFORMER = ["--from", "tslib", "--model", "transformer", *SIZES, *ONE_THREAD]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file of three channels in units far from standard ones."""
    generator, hours = np.random.default_rng(4), np.arange(500)
    values = {name: 10 * (n + 1) + (n + 1) * np.sin(hours / (3 + n)) for n, name in enumerate("abc")}
    columns = {name: column + 0.1 * generator.normal(size=500) for name, column in values.items()}
    path = tmp_path / "own.csv"
    pd.DataFrame({"date": pd.date_range("2024-01-01", periods=500, freq="h")} | columns).to_csv(path, index=False)
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return saved(dlinear(), tmp_path / "dlinear.pth")


@pytest.fixture
def attentive(tmp_path: Path) -> Path:
    return saved(transformer(), tmp_path / "transformer.pth")


def facts(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["--quiet", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main(["--quiet", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("prunecast: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# What comes from where


def test_each_value_says_where_it_comes_from(
    attentive: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(capsys, "import", attentive, *TRANSFORMER, "--data", table, "--out", tmp_path / "m")
    assert found["from_tensors"] == {
        "channels": 3, "marks": 4, "d_model": 8, "d_ff": 12, "encoder_layers": 2, "decoder_layers": 1,
    }  # fmt: skip
    assert found["from_user"] == {"lookback": 24, "horizon": 6, "n_heads": 2}
    assert found["defaults"] == {"label_len": 12, "activation": "gelu", "dropout": 0.05}
    assert (found["from_data"], found["from_source"]) == ({}, {})
    (warning,) = found["notes"]
    assert "label_len 12, activation gelu" in warning
    assert "n_heads" not in warning
    assert "dropout" not in warning
    assert (found["source"], found["checkpoint"], found["modes"]) == ("tslib", "transformer.pth", None)


def test_what_the_data_says_comes_from_it(
    linear: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(capsys, "import", linear, *DLINEAR, "--data", table, "--out", tmp_path / "m")
    assert found["from_data"] == {"channels": CHANNELS}
    assert found["defaults"] == {"label_len": 12, "marks": 4, "moving_avg": 25}
    assert found["from_tensors"] == {"lookback": LOOKBACK, "horizon": HORIZON}
    found = facts(
        capsys, "import", linear, "--from", "original", "--model", "dlinear", "--data", table, "--out", tmp_path / "o"
    )
    assert found["from_source"] == {"moving_avg": 25}
    assert found["notes"] == []


def test_terminal_output_names_the_defaults(linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    request = ["import", str(linear), *DLINEAR, "--set", "model.channels=3", "--out", str(tmp_path / "m")]
    assert main(request) == 0
    shown = capsys.readouterr().out
    assert "moving_avg 25" in shown
    assert "from_tensors" in shown


def test_the_record_says_what_was_imported(
    linear: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["import", linear, *DLINEAR, "--data", table, "--set", "data.split=[0.6,0.2,0.2]"]
    facts(capsys, *request, "--out", tmp_path / "a")
    facts(capsys, *request, "--out", tmp_path / "b")
    first, second = (read_record(tmp_path / name) for name in "ab")
    assert (first.stage, first.role, first.model) == ("import", "dense", "dlinear")
    assert first.imported is not None
    assert first.imported.checkpoint == "dlinear.pth"
    assert first.fingerprint == second.fingerprint
    assert str(tmp_path) not in first.model_dump_json()
    assert load_recipe(base=read_mapping(tmp_path / "a" / "recipe.yaml")).data.split == (0.6, 0.2, 0.2)
    facts(capsys, *request, "--set", "model.moving_avg=7", "--out", tmp_path / "c")
    assert read_record(tmp_path / "c").fingerprint != first.fingerprint


def test_numbers_of_other_kinds_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dtype in (torch.float64, torch.float16):
        path = saved({name: tensor.to(dtype) for name, tensor in dlinear().items()}, tmp_path / f"{dtype}.pth")
        out = tmp_path / f"{dtype}"
        found = facts(capsys, "import", path, *DLINEAR, "--set", "model.channels=3", "--out", out)
        assert f"numbers stored as {str(dtype).removeprefix('torch.')} became float32" in found["notes"]
        assert prunecast.load(out).state_dict()["trend.weight"].dtype == torch.float32


def test_the_calendar_features_follow_the_tensors(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(transformer(marks=5), tmp_path / "t.pth")
    for name, data in (("with", ["--data", table]), ("without", [])):
        found = facts(capsys, "import", path, *TRANSFORMER, *data, "--out", tmp_path / name)
        assert found["from_tensors"]["marks"] == 5
        assert load_metadata(tmp_path / name).freq == "t"
    hours = complaint(capsys, "import", path, *TRANSFORMER, "--set", "data.freq=h", "--out", tmp_path / "x")
    assert "model.marks: the tensors show 5, data.freq 'h' and the covariates make 4" in hours


def test_covariates_take_part_in_the_marks(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(transformer(channels=2, marks=5), tmp_path / "t.pth")
    request = ["import", path, *TRANSFORMER, "--data", table, "--set", "data.covariates=[c]"]
    found = facts(capsys, *request, "--out", tmp_path / "m")
    assert found["from_tensors"] | {"channels": 2, "marks": 5} == found["from_tensors"]
    assert load_metadata(tmp_path / "m").covariates == ("c",)
    assert load_metadata(tmp_path / "m").freq == "h"


def test_fewer_channels_may_come_out(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(transformer(outputs=1), tmp_path / "t.pth")
    assert "expected shape (3, 8)" in complaint(capsys, "import", path, *TRANSFORMER, "--out", tmp_path / "x")
    named = ["--data", table, "--set", "data.targets=[b]"]
    facts(capsys, "import", path, *TRANSFORMER, *named, "--out", tmp_path / "named")
    facts(capsys, "import", path, *TRANSFORMER, "--set", "model.targets=[1]", "--out", tmp_path / "counted")
    assert load_metadata(tmp_path / "named").targets == ("b",)
    assert load_metadata(tmp_path / "counted").targets == ("channel_2",)
    scores = [facts(capsys, "evaluate", tmp_path / name, "--data", table) for name in ("named", "counted")]
    assert scores[0] == scores[1]


# With and without data


def test_without_data_the_folder_learns_it_from_the_first_verb(
    attentive: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, unknown, data = tmp_path / "known", tmp_path / "unknown", ["--data", table]
    first = facts(capsys, "import", attentive, *TRANSFORMER, *data, "--out", known)
    second = facts(capsys, "import", attentive, *TRANSFORMER, "--out", unknown)
    assert (second["mse"], second["windows"]) == (None, None)
    assert "without data" in second["notes"][-1]
    assert facts(capsys, "evaluate", unknown, *data) == facts(capsys, "evaluate", known, *data)
    assert facts(capsys, "evaluate", known, *data)["mse"] == first["mse"]
    for verb in (["evaluate"], ["measure"], ["export", "--out", tmp_path / "x.onnx"]):
        assert "imported without data" in complaint(capsys, verb[0], unknown, *verb[1:])
    artefacts = [tmp_path / f"{folder.name}.onnx" for folder in (known, unknown)]
    for folder, artefact in zip((known, unknown), artefacts, strict=True):
        assert facts(capsys, "export", folder, *data, "--out", artefact)["max_deviation"] < 1e-4
    assert artefacts[0].read_bytes() == artefacts[1].read_bytes()


def test_pruning_and_fine_tuning_teach_a_folder_its_data(
    attentive: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, found = ["--data", table], {}
    steps = ["--finetune-epochs", "1", "--set", "finetune.max_steps=2", "--set", "finetune.threads=1"]
    for name, known in (("known", data), ("unknown", [])):
        facts(capsys, "import", attentive, *TRANSFORMER, *known, "--out", tmp_path / name)
        request = ["prune", tmp_path / name, "--method", "structured-magnitude", "--sparsity", "0.5", *data, *steps]
        found[name] = facts(capsys, *request, "--out", tmp_path / f"{name}-pruned") | {"path": ""}
    assert found["known"] == found["unknown"]
    metadata = [load_metadata(tmp_path / f"{name}-pruned") for name in found]
    assert metadata[0] == metadata[1]
    assert metadata[0].channels == ("a", "b", "c")
    assert read_record(tmp_path / "unknown-pruned").recipe["data"]["name"] == "own.csv"
    assert "imported without data" in complaint(
        capsys, "prune", tmp_path / "unknown", "--method", "random", "--sparsity", "0.5", "--out", tmp_path / "x"
    )


def test_forecasts_are_in_the_units_of_the_data(
    linear: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: torch.zeros_like(tensor) for name, tensor in dlinear().items()}
    path = saved(weights, tmp_path / "zeros.pth")  # standardised zeros are the means of the training part
    facts(capsys, "import", path, *DLINEAR, "--data", table, "--out", tmp_path / "m")
    facts(capsys, "forecast", tmp_path / "m", "--data", table, "--out", tmp_path / "f.csv")
    means = pd.read_csv(table)[["a", "b", "c"]].iloc[:350].mean()
    np.testing.assert_allclose(pd.read_csv(tmp_path / "f.csv")[["a", "b", "c"]].iloc[3], means, rtol=1e-5)
    facts(capsys, "import", path, *DLINEAR, "--set", "model.channels=3", "--out", tmp_path / "u")
    request = ["forecast", tmp_path / "u", "--data", table, "--out", tmp_path / "g.csv"]
    assert "its scaler is not known" in complaint(capsys, *request)


def test_the_notebooks_object_takes_the_folder(
    linear: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts(capsys, "import", linear, *DLINEAR, "--set", "model.channels=3", "--out", tmp_path / "m")
    model = prunecast.Forecaster.load(tmp_path / "m", data=table)
    assert model.numbers.mse is None
    pruned = model.prune("magnitude", 0.5)
    assert pruned.numbers.mse > 0
    assert list(pruned.predict(table).columns) == ["date", "a", "b", "c"]


def test_other_data_than_the_models_is_refused(
    linear: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts(capsys, "import", linear, *DLINEAR, "--set", "model.channels=2", "--out", tmp_path / "m")
    assert "expected 2 channels" in complaint(capsys, "evaluate", tmp_path / "m", "--data", table)
    two = saved(transformer(channels=2), tmp_path / "t.pth")
    line = complaint(capsys, "import", two, *TRANSFORMER, "--data", table, "--out", tmp_path / "x")
    assert "model.channels: the tensors show 2, own.csv has 3" in line


# What is refused


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--from", "tslb", "--model", "transformer"], "did you mean 'tslib'?"),
        (["--from", "tslib", "--model", "transfomer"], "did you mean 'transformer'?"),
        (["--from", "tslib", "--model", "repeat"], "no implementation of it can be imported"),
        (["--from", "tslib", "--model", "dlinear"], "not a checkpoint of tslib dlinear: expected"),
        ([*TRANSFORMER, "--set", "model.d_model=16"], "model.d_model: the tensors show 8, --set says 16"),
        ([*TRANSFORMER, "--set", "model.n_head=4"], "did you mean 'n_heads'?"),
        ([*TRANSFORMER, "--set", "model.n_heads=3"], "n_heads"),
        ([*TRANSFORMER, "--set", "model.horizon=0"], "model.horizon"),
        ([*TRANSFORMER, "--set", "model.horizon=1000000000000000000000"], "found larger ones"),
        ([*TRANSFORMER, "--set", "model.horizon=1000000000"], "tables fit into memory"),
        ([*TRANSFORMER, "--set", "model.name=dlinear"], "as --model"),
        ([*TRANSFORMER, "--set", "train.epochs=3"], "nothing is trained"),
        ([*TRANSFORMER, "--set", "prune.sparsity=0.5"], "has no effect here"),
        ([*TRANSFORMER, "--set", "data.fill=ffill"], "data.fill has no effect without data"),
        ([*TRANSFORMER, "--set", "model.head_size=3"], "expected shape (6, 8)"),
        ([*TRANSFORMER, "--modes-seed", "1"], "keeps no Fourier modes"),
        ([*TRANSFORMER, "--modes", "m.json"], "keeps no Fourier modes"),
        ([*TRANSFORMER, "--data", "ETTh7"], "did you mean 'ETTh"),
        ([*TRANSFORMER, "--data", "synthetic-load", "--set", "model.targets=[1]"], "data.targets"),
        (["--from", "tslib", "--model", "fedformer"], "found neither"),
        (["--from", "tslib", "--model", "fedformer", "--modes", "m.json", "--modes-seed", "1"], "found both"),
        (["--from", "tslib", "--model", "fedformer", "--modes-seed", "-1"], "a seed of NumPy"),
        (["--model", "transformer"], "--from"),
    ],
)
def test_bad_requests(
    arguments: list[str], hint: str, attentive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert hint in complaint(capsys, "import", attentive, *arguments, "--out", tmp_path / "deep" / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_channels_that_nobody_tells(linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "import", linear, *DLINEAR, "--out", tmp_path / "out")
    assert "--data NAME|FILE or --set model.channels=N" in line


def test_names_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = transformer()
    lacking = {name: tensor for name, tensor in state.items() if "norm2" not in name}
    line = complaint(capsys, "import", saved(lacking, tmp_path / "l.pth"), *TRANSFORMER, "--out", tmp_path / "x")
    assert "it lacks what the model calls decoder.layers.0.norm2.bias" in line
    assert "and 3 more" in line
    more = state | {"decoder.extra": torch.ones(2), "enc_embedding.position_embedding.pe": torch.ones(9)}
    line = complaint(capsys, "import", saved(more, tmp_path / "m.pth"), *TRANSFORMER, "--out", tmp_path / "x")
    assert "the model has no place for decoder.extra;" in line
    assert "no tensor shows lookback" in line


@pytest.mark.parametrize(
    "name", ["encoder.attn_layers.0.conv1.weight", "enc_embedding.value_embedding.tokenConv.weight"]
)
def test_tensors_of_other_kinds(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(transformer() | {name: torch.ones(3)}, tmp_path / "t.pth")
    assert "its tensors have other shapes" in complaint(capsys, "import", path, *TRANSFORMER, "--out", tmp_path / "x")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(HORIZON, LOOKBACK, dtype=torch.complex64), "found torch.complex64"),
        (torch.ones(HORIZON, LOOKBACK, dtype=torch.int64), "found torch.int64"),
        (torch.ones(HORIZON, LOOKBACK, dtype=torch.bool), "found torch.bool"),
        (torch.full((HORIZON, LOOKBACK), 1e300, dtype=torch.float64), "expected numbers that torch.float32 can hold"),
    ],
)
def test_numbers_of_other_kinds(
    tensor: torch.Tensor, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(dlinear() | {"Linear_Trend.weight": tensor}, tmp_path / "t.pth")
    arguments = (*DLINEAR, "--set", f"model.channels={CHANNELS}", "--out", tmp_path / "x")
    assert message in complaint(capsys, "import", path, *arguments)
    assert not (tmp_path / "x").exists()


def test_a_name_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(dlinear() | {"\x1b[31mred": torch.ones(2)}, tmp_path / "t.pth")
    line = complaint(capsys, "import", path, *DLINEAR, "--set", f"model.channels={CHANNELS}", "--out", tmp_path / "x")
    assert "?[31mred" in line
    assert "\x1b" not in line


def test_a_checkpoint_with_individual_channels_is_not_taken_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {name.replace(".", ".0.", 1): tensor for name, tensor in dlinear().items()}
    line = complaint(capsys, "import", saved(state, tmp_path / "d.pth"), *DLINEAR, "--out", tmp_path / "x")
    assert "'Linear_Seasonal.weight'" in line


def test_an_output_that_exists_is_kept(linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("precious")
    request = ["import", linear, *DLINEAR, "--set", "model.channels=3", "--out", tmp_path / "out"]
    assert "exists" in complaint(capsys, *request)
    assert (tmp_path / "out").read_text() == "precious"


# Fourier modes


def test_modes_may_be_written_in_several_ways(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    path.write_text(json.dumps({"a.self": [0, 1], "a.self.index_q": [2], "a.cross": {"index_q": [3], "index_kv": []}}))
    assert read_modes(path) == {
        "a.self.index": [0, 1], "a.self.index_q": [2], "a.cross.index_q": [3], "a.cross.index_kv": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"a": 1}', '{"a": [1.5]}', '{"a": [-1]}', '{"a": [true]}', '{"a": {"b": {}}}', "[" * 100_000],
)
def test_what_is_no_list_of_modes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    path.write_text(text)
    with pytest.raises(prunecast.errors.UserError, match="a list of whole numbers"):
        read_modes(path)
    with pytest.raises(prunecast.errors.UserError, match="cannot read"):
        read_modes(tmp_path / "absent.json")


# The table of what can be imported


def test_the_page_tells_what_can_be_imported() -> None:
    page = (Path(__file__).parents[3] / "docs" / "import.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): row[1:] for row in rows}
    models = {name for name in told if name in MODELS.names()}
    assert models == {name for name in MODELS.names() if sources(name)}
    for name in models:
        named = [source for source, cell in zip(("tslib", "original"), told[name], strict=True) if cell]
        assert set(named) == set(sources(name)), name


def test_list_says_what_can_be_imported(capsys: pytest.CaptureFixture[str]) -> None:
    rows = facts(capsys, "list", "models")["models"]
    assert {row["name"]: row["imports"] for row in rows} == {name: list(sources(name)) for name in MODELS.names()}
    assert {f"{row['name']}/{source}" for row in rows for source in row["imports"]} == set(PUBLISHED.names())


@pytest.mark.parametrize("name", PUBLISHED.names())
def test_every_implementation_is_described(name: str) -> None:
    model, _, source = name.partition("/")
    known, fields = published(model, source), set(MODELS.load(model).Config.model_fields)
    assert {*known.arguments, *known.unseen, *known.constants} <= fields
    assert not {*known.unseen} & {*known.constants} - {"stride"}
    assert (known.modes is None) == (known.drawn_modes is None)
    ModeChoice(seed=None if known.modes is None else 1).check(known, model)


# What others did with the model before they saved it


def test_masks_of_torch_are_held(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, masks = transformer(), {}
    for name in [name for name in state if name.endswith(("query_projection.weight", "conv1.weight"))]:
        masks[name] = (torch.arange(state[name].numel()) % 2).reshape(state[name].shape).float()
        state |= {f"{name}_orig": state.pop(name), f"{name}_mask": masks[name]}
    found = facts(
        capsys, "import", saved(state, tmp_path / "p.pth"), *TRANSFORMER, "--data", table, "--out", tmp_path / "m"
    )
    assert "7 weights multiplied by the masks" in " ".join(found["notes"])
    loaded = load_model(tmp_path / "m")
    assert len(loaded.masks) == len(masks) == 7
    name, theirs = "encoder.layers.0.feed_forward.up.weight", "encoder.attn_layers.0.conv1.weight"
    assert torch.equal(loaded.masks[name], masks[theirs].squeeze(2) != 0)
    whole = transformer()[theirs].squeeze(2)
    assert torch.equal(loaded.model.get_parameter(name), whole * loaded.masks[name])
    steps = ["--finetune-epochs", "1", "--set", "finetune.max_steps=2", "--set", "finetune.threads=1"]
    request = ["prune", tmp_path / "m", "--method", "random", "--sparsity", "0.7", "--data", table, *steps]
    facts(capsys, *request, "--out", tmp_path / "q")
    tuned = load_model(tmp_path / "q")
    assert not tuned.model.get_parameter(name)[~tuned.masks[name]].any()


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda state: {"state_dict": {f"model.{name}": t for name, t in state.items()}, "epoch": 3}, "'model.'"),
        (lambda state: {f"net.backbone.{name}": t for name, t in state.items()}, "'net.backbone.'"),
        (lambda state: {f"_forward_module.model.{n}": t for n, t in state.items()}, "'_forward_module.model.'"),
        (
            lambda state: {f"model.{n}": t for n, t in state.items()} | {"criterion.weight": torch.ones(2)},
            "left out, beside the model: criterion.weight",
        ),
    ],
)
def test_prefixes_of_wrappers_are_taken_off(
    wrap: Any, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = saved(transformer(), tmp_path / "plain.pth")
    facts(capsys, "import", plain, *TRANSFORMER, "--out", tmp_path / "plain")
    wrapped = saved(wrap(transformer()), tmp_path / "wrapped.ckpt")
    found = facts(capsys, "import", wrapped, *TRANSFORMER, "--out", tmp_path / "wrapped")
    assert note in " ".join(found["notes"])
    one, other = (prunecast.load(tmp_path / name).state_dict() for name in ("plain", "wrapped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "tensor", "hint"),
    [
        ("decoder.projection.weight_g", torch.ones(3, 1), "computed from others"),
        ("encoder.attn_layers.0.conv1.parametrizations.weight.original0", torch.ones(3), "computed from others"),
        ("enc_embedding.temporal_embedding.hour_embed.emb.weight", torch.ones(24, 8), "--embed timeF"),
        ("decoder.projection.bias_orig", torch.ones(3), "expected a mask"),
    ],
)
def test_what_cannot_be_taken_is_named(
    name: str, tensor: torch.Tensor, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(transformer() | {name: tensor}, tmp_path / "t.pth")
    assert hint in complaint(capsys, "import", path, *TRANSFORMER, "--out", tmp_path / "x")


@pytest.mark.parametrize("kind", ["fixed", "learned"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_embeddings_of_whole_numbers_are_refused_with_the_reason(
    kind: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a training with --embed fixed or learned saves them, in place of the linear map of timeF."""
    state = {name: tensor for name, tensor in transformer().items() if ".temporal_embedding." not in name}
    inner = "emb.weight" if kind == "fixed" else "weight"
    for side in ("enc", "dec"):
        for of, size in (("hour", 24), ("weekday", 7), ("day", 32), ("month", 13)):
            state[f"{side}_embedding.temporal_embedding.{of}_embed.{inner}"] = torch.ones(size, 8)
    path = saved({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "t.pth")
    said = complaint(capsys, "import", path, *TRANSFORMER, "--out", tmp_path / "x")
    assert "calendar embeddings of whole numbers (--embed fixed or learned)" in said
    assert "train it again with --embed timeF" in said
    assert not (tmp_path / "x").exists()


def test_fewer_outputs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(transformer(outputs=1), tmp_path / "t.pth")
    assert "--set data.targets=[NAME]" in complaint(capsys, "import", path, *TRANSFORMER, "--out", tmp_path / "x")

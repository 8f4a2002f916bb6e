"""The reference cases through `import`: a file as training scripts save it becomes a folder that forecasts the same."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.reference.test_published_models import BUFFERS, SINGLE, Published
from tests.reference.test_published_models import published as published  # noqa: PLC0414 - a fixture

from prunecast import api as facade
from prunecast.errors import UserError
from prunecast.models.convert.convert import _mapped, shown_values
from prunecast.models.convert.convert import published as published_model
from prunecast.models.io import load, load_metadata

DAMAGED = (torch.tensor(1.0), torch.empty(0), torch.empty(0, 4), torch.ones(3), torch.ones(1, 1, 2, 1, 1))


def case(reference_dir: Path, name: str) -> Published:
    with np.load(reference_dir / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return Published(json.loads(str(arrays.pop("config"))), arrays)


def settings(case: Published) -> list[str]:
    """What no tensor shows, as a user gives it who knows the arguments of the training."""
    known = published_model(case.name, case.source)
    values = known.config(case.config)
    return [f"model.{key}={json.dumps(values[key])}" for key in known.unseen if key in values] + ["train.threads=1"]


def imported(case: Published, folder: Path, out: str = "model", seed: int | None = None, wrap: str = "") -> Path:
    """Imports a case's weights; its modes come from a file where no seed is given."""
    state = {wrap + name: tensor for name, tensor in case.tensors("state").items()}
    torch.save(state, folder / "checkpoint.pth")
    kept = {
        name.removeprefix("modes/"): modes.tolist() for name, modes in case.tensors("aux").items() if "modes" in name
    }
    modes = folder / "modes.json" if kept and seed is None else None
    if modes is not None:
        modes.write_text(json.dumps(kept))
    facade.import_checkpoint(
        folder / "checkpoint.pth",
        case.name,
        source=case.source,
        settings=settings(case),
        modes=modes,
        modes_seed=seed,
        out=folder / out,
    )
    return folder / out


def take_drawn(folder: Path, case: Published) -> None:
    """Puts in the sampled keys of the reference run, which an import draws anew."""
    tensors = load_file(folder / "model.safetensors")
    buffers = BUFFERS[case.name](load(folder), case.tensors("aux"))
    assert buffers
    assert {name: tensor.shape for name, tensor in buffers.items()} == {name: tensors[name].shape for name in buffers}
    save_file(tensors | buffers, folder / "model.safetensors")
    (folder / "SHA256SUMS").unlink()  # of the tensors as they were


def forecast(folder: Path, case: Published) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load(folder)(*case.inputs(SINGLE))
    return found


def test_an_imported_case_forecasts_as_published(published: Published, tmp_path: Path) -> None:
    folder = imported(published, tmp_path)
    if published.name == "informer":
        take_drawn(folder, published)
    found, expected = forecast(folder, published), published.tensors("output")["eval"]
    assert found.dtype == SINGLE
    assert (found - expected).abs().max().item() <= 1e-4 * expected.abs().max().item()
    config = published.model(SINGLE).config.model_dump(mode="json")
    if "label_len" not in published.config:
        config["label_len"] = config["lookback"] // 2
    assert load_metadata(folder).model == config, "the tensors and what no tensor shows make the whole config"


def test_sampled_keys_that_do_not_matter_are_drawn_by_a_seed(reference_dir: Path, tmp_path: Path) -> None:
    published = case(reference_dir, "informer-24-16-full")
    folder, expected = imported(published, tmp_path), published.tensors("output")["eval"]
    assert (forecast(folder, published) - expected).abs().max() <= 1e-4 * expected.abs().max()
    sampled = case(reference_dir, "informer-24-16")
    first, second = (forecast(imported(sampled, tmp_path, out), sampled) for out in ("first", "second"))
    assert torch.equal(first, second)


def test_modes_are_those_of_numpys_seed(reference_dir: Path, tmp_path: Path) -> None:
    published = case(reference_dir, "fedformer-24-16")
    first, second, third = (
        imported(published, tmp_path, out, seed) for out, seed in (("a", 2021), ("b", 2021), ("c", 1))
    )
    tensors = [load_file(folder / "model.safetensors") for folder in (first, second, third)]
    name = "fourier.encoder.index"
    np.random.seed(2021)
    drawn = np.arange(published.config["seq_len"] // 2).tolist()
    np.random.shuffle(drawn)
    assert tensors[0][name].tolist() == tensors[1][name].tolist() == sorted(drawn[: published.config["modes"]])
    assert tensors[2][name].tolist() != tensors[0][name].tolist()


def test_modes_of_another_model_are_refused(reference_dir: Path, tmp_path: Path) -> None:
    published = case(reference_dir, "fedformer-24-16")
    torch.save(published.tensors("state"), tmp_path / "c.pth")
    (tmp_path / "modes.json").write_text('{"encoder.attn_layers.0.attention.inner_correlation": [0, 1]}')
    with pytest.raises(UserError, match="modes"):
        facade.import_checkpoint(
            tmp_path / "c.pth",
            "fedformer",
            source="tslib",
            settings=settings(published),
            modes=tmp_path / "modes.json",
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_layers_that_should_share_weights_and_do_not(reference_dir: Path, tmp_path: Path) -> None:
    published = case(reference_dir, "fedformer-24-16")
    name = "state/encoder.attn_layers.1.attention.inner_correlation.weights1"
    with pytest.raises(UserError, match="expected the weights that the first layer has"):
        imported(Published(published.config, published.arrays | {name: published.arrays[name] + 1}), tmp_path)


def test_statistics_of_batches_are_not_made_up(reference_dir: Path, tmp_path: Path) -> None:
    for name, lost in (("patchtst-24-16", "running_mean"), ("informer-24-16", "running_var")):
        published = case(reference_dir, name)
        arrays = {key: value for key, value in published.arrays.items() if lost not in key}
        with pytest.raises(UserError, match="it lacks what the model calls"):
            imported(Published(published.config, arrays), tmp_path)


def test_training_on_several_processors_leaves_a_prefix(reference_dir: Path, tmp_path: Path) -> None:
    published = case(reference_dir, "autoformer-24-16")
    plain, wrapped = imported(published, tmp_path, "plain"), imported(published, tmp_path, "wrapped", wrap="module.")
    assert torch.equal(forecast(plain, published), forecast(wrapped, published))


def test_the_autoformer_of_the_fedformer_repository_mixes_a_single_average(reference_dir: Path, tmp_path: Path) -> None:
    published = case(reference_dir, "autoformer-24-16")
    decompositions = ("encoder.attn_layers.0.decomp1", "encoder.attn_layers.1.decomp2", "decoder.layers.0.decomp3")
    mixtures = {f"state/{name}.layer.{part}": np.ones((1, 1)) for name in decompositions for part in ("weight", "bias")}
    original = {"source": "original FEDformer naming"}
    mixed = Published(published.config | original, published.arrays | mixtures)
    found, expected = forecast(imported(mixed, tmp_path), published), published.tensors("output")["eval"]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    with pytest.raises(UserError, match="the model has no place for"):
        imported(Published(published.config, mixed.arrays), tmp_path, "tslib")


def test_no_damaged_tensor_is_more_than_a_users_mistake(published: Published) -> None:
    known, tensors = published_model(published.name, published.source), published.tensors("state")
    for name in tensors:
        for tensor in DAMAGED:
            for read in (shown_values, _mapped):
                with suppress(UserError):
                    read(known, tensors | {name: tensor}, "this model")

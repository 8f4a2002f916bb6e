"""Where a training run stands, in one safetensors file that is replaced atomically after each epoch.

Tensors lie under `model/`, `best/`, `optimizer/` and `hook/`; counters are JSON in the file's metadata. Random
draws need no entry: each epoch seeds them from the run's seed and its own number.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunecast.models.base import TrainingHook
from prunecast.records import Epoch, Strict

NamedTensors = dict[str, Tensor]


class Counters(Strict):
    """The numbers of a run: epochs so far, steps so far, the best epoch's number and loss."""

    epochs: tuple[Epoch, ...] = ()
    steps: int = 0
    best_epoch: int = 0
    best_loss: float | None = None


@dataclass
class RunState:
    """All that a training run changes as it goes, and so all that a checkpoint keeps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    hooks: Sequence[TrainingHook]
    best: NamedTensors
    counters: Counters

    def save(self, path: Path) -> None:
        """Writes the checkpoint beside its place and moves it there, so that it is whole or absent."""
        tensors = _prefixed("model/", self.model.state_dict()) | _prefixed("best/", self.best)
        tensors |= _prefixed("optimizer/", self.optimizer_tensors())
        for number, hook in enumerate(self.hooks):
            tensors |= _prefixed(f"hook/{number}/", hook.state())
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(tensors, temporary, metadata={"counters": self.counters.model_dump_json()})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Puts the run back where it stood when `save` wrote the file."""
        with safe_open(path, framework="pt") as file:
            self.counters = Counters.model_validate_json(file.metadata()["counters"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        self.model.load_state_dict(_under("model/", tensors))
        self.best = _under("best/", tensors)
        parameters = dict(self.model.named_parameters())
        for name, value in _under("optimizer/", tensors).items():
            parameter, _, key = name.rpartition("/")
            self.optimizer.state[parameters[parameter]][key] = value.to(parameters[parameter].device)
        for number, hook in enumerate(self.hooks):
            hook.restore(_under(f"hook/{number}/", tensors))

    def optimizer_tensors(self) -> NamedTensors:
        """Returns the optimiser's tensors under "<parameter name>/<key>", for instance "head.weight/exp_avg"."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[parameter]}/{key}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }


class KeptStep(TrainingHook):
    """A training hook that keeps the weights as they are after so many steps; 0 is before the first.

    Attributes:
        tensors: the model's state dict at that time; None where training has not come so far.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._model: nn.Module | None = None
        self.tensors: NamedTensors | None = None

    def on_start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keeps the weights that training starts with, if those are wanted."""
        self._model = model
        if self.tensors is None and self._step == 0:
            self._keep()

    def after_step(self, step: int) -> None:
        """Keeps the weights when it is time."""
        if step + 1 == self._step:
            self._keep()

    def _keep(self) -> None:
        assert self._model is not None, "on_start comes first"
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in self._model.state_dict().items()}

    def state(self) -> NamedTensors:
        """Returns what is kept."""
        return self.tensors or {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes it back."""
        self.tensors = dict(state) or None


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> NamedTensors:
    # Clones: safetensors refuses tensors that share memory, as best and current weights may.
    return {prefix + name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> NamedTensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

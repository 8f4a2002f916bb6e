"""The only training loop: training and fine-tuning, on any device, resumable after each epoch."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.data.windows import Windows
from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, TrainingHook
from prunecast.recipe import FitConfig
from prunecast.records import Accuracy, Epoch, Fit
from prunecast.train.checkpoint import Counters, NamedTensors, RunState
from prunecast.train.evaluate import evaluate_model
from prunecast.train.progress import Reporter

CHECK_EVERY_STEPS = 50
"""How often the running loss is looked at: each look makes a GPU wait."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


MALLOPT = {-3: 2**25, -1: 2**30}
"""Numbers of mallopt(3)'s parameters and what they are set to: the size from which a block goes back to the system at
once (M_MMAP_THRESHOLD, the largest that glibc takes), and the free memory at the end of a heap from which some is given
back (M_TRIM_THRESHOLD), in bytes."""


class DivergedError(UserError):
    """The loss is not a number any more."""


def fit(
    model: ForecastModel,
    train: Windows,
    validation: Windows,
    config: FitConfig,
    *,
    seed: int,
    hooks: Sequence[TrainingHook] = (),
    checkpoint: Path | None = None,
    reporter: Reporter | None = None,
) -> Fit:
    """Trains a forecaster in place; it ends in eval mode with the weights of its best validation loss.

    The process keeps the memory that it frees from here on, see `keep_freed_memory`.
    For one seed and one thread count the result on a CPU is the same bit for bit, interrupted or not.

    Args:
        model: with its starting weights.
        train: windows to learn from, shuffled anew each epoch.
        validation: windows that choose the best epoch and stop the run.
        config: epochs, steps, rate, threads, device.
        seed: of shuffling and dropout.
        hooks: what takes part in the loop, in this order.
        checkpoint: file to go on from and to renew after each epoch; the caller removes it.
        reporter: hears of progress.

    Raises:
        DivergedError: when the loss is not finite.
        UserError: when the step is to be compiled and the machine has no compiler.
    """
    keep_freed_memory()
    device = choose_device(config)
    model.to(device)
    state = RunState(model, adam(model, config), hooks, _copy(model), Counters())
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    run = _Run(
        state=state,
        train=train.to(device),
        validation=validation.to(device),
        config=config,
        seed=seed,
        checkpoint=checkpoint,
        reporter=reporter or Reporter(),
        device=device,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        run.start()
        while not run.finished():
            run.epoch()
        return run.result()
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("InvalidCxxCompiler", "TritonMissing")):
            raise
        raise UserError(
            "compile: true needs a C++ compiler (on a GPU Triton too), found none; install it, or leave it out"
        ) from None
    finally:
        torch.set_num_threads(threads)
        run.reporter.stop()


@cache
def keep_freed_memory() -> None:
    """Makes this process keep freed memory, where the C library is glibc; elsewhere nothing happens.

    The next step asks for the same memory again. By default glibc hands what is free at the end of its heap back to the
    system, and a step of a small model then gets its tensors back page by page: on one machine 3,400 page faults and
    15 % of the time of an Informer's step at width 64.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        for parameter, size_bytes in MALLOPT.items():
            mallopt(parameter, size_bytes)


def total_steps(config: FitConfig, windows: int) -> int:
    """Returns how many steps a run on so many windows takes that does not stop early."""
    steps = config.epochs * math.ceil(windows / config.batch_size)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def learning_rate(config: FitConfig, epoch: int) -> float:
    """Returns the rate of an epoch, counted from 1.

    `halving` is the published schedule, which adjusts after each epoch by the number of the epoch that has
    passed: the first two epochs run at the full rate, then it halves with each one.
    """
    rate = config.learning_rate
    assert rate is not None, "resolving the recipe sets the rate"
    if config.schedule == "halving":
        return rate * 0.5 ** max(0, epoch - 2)
    if config.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / max(1, config.epochs)))
    return rate


def adam(model: nn.Module, config: FitConfig) -> torch.optim.Adam:
    """Returns the optimiser of the published runs, in its fused form: one pass over memory per step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=learning_rate(config, 1), weight_decay=config.weight_decay, fused=True)


def choose_device(config: FitConfig) -> torch.device:
    """Returns the device a run takes; `auto` is an accelerator when there is one.

    Raises:
        UserError: when the device that was asked for is not there, or cannot compute in the precision asked for.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = config.device
    if name == "auto":
        name = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[name]:
        raise UserError(f"device {name!r} is not available here; use device: auto or cpu")
    if name == "cpu" and config.precision == "fp16":
        raise UserError("precision 'fp16' needs an accelerator; on a processor use precision: no or bf16")
    return torch.device(name)


def _compiled(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """Returns the model's forecast compiled whole, for each size of batch by itself, on a GPU as one recorded graph."""
    torch.compiler.reset()  # else the graphs of the models before count as this one's, and they may be only so many
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    compiled: Callable[..., Tensor] = torch.compile(model, backend="inductor", mode=mode, fullgraph=True, dynamic=False)
    return compiled


def _copy(model: nn.Module) -> NamedTensors:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@dataclass(kw_only=True)
class _Run:
    state: RunState
    train: Windows
    validation: Windows
    config: FitConfig
    seed: int
    checkpoint: Path | None
    reporter: Reporter
    device: torch.device

    def __post_init__(self) -> None:
        model = self.state.model
        self.forecast: Callable[..., Tensor] = _compiled(model, self.device) if self.config.compile else model
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.precision == "fp16")
        self.loss = nn.MSELoss()
        self.best: Accuracy | None = None

    def autocast(self) -> AbstractContextManager[None]:
        """In it, a forecast is computed in the precision asked for; losses, gradients and weights are float32."""
        dtype = _HALF.get(self.config.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def start(self) -> None:
        for hook in self.state.hooks:
            hook.on_start(self.state.model, self.state.optimizer)
        self.reporter.start(self.total_steps(), self.state.counters.steps)

    def total_steps(self) -> int:
        return total_steps(self.config, len(self.train))

    def finished(self) -> bool:
        return self.state.counters.steps >= self.total_steps() or self.stopped_early()

    def stopped_early(self) -> bool:
        counters = self.state.counters
        return len(counters.epochs) - counters.best_epoch >= self.config.patience

    def epoch(self) -> None:
        number = len(self.state.counters.epochs) + 1
        rate = learning_rate(self.config, number)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        steps, train_loss = self.learn(number)
        with self.autocast():
            validation = evaluate_model(self.state.model, self.validation, "validation")
        loss = validation.mse
        self.check(loss, number)
        epoch = Epoch(epoch=number, steps=steps, learning_rate=rate, train_loss=train_loss, validation_loss=loss)
        self.note(epoch, validation)
        self.reporter.epoch(epoch)

    def learn(self, number: int) -> tuple[int, float]:
        """Runs the steps of one epoch; returns how many and their mean loss."""
        # Seeding by epoch makes a resumed run draw what an uninterrupted one draws, with no generator state on disk.
        seed = self.seed * 100_003 + number
        torch.manual_seed(seed)
        self.state.model.train()
        total, steps = torch.zeros((), device=self.device), 0
        for batch in self.train.batches(self.config.batch_size, shuffle_seed=seed):
            total += self.step(batch, self.state.counters.steps + steps)
            steps += 1
            if steps % CHECK_EVERY_STEPS == 0:
                self.check(total.item(), number)
            if self.state.counters.steps + steps >= self.total_steps():
                break
        self.check(total.item(), number)
        return steps, total.item() / steps

    def step(self, batch: Batch, number: int) -> Tensor:
        with self.autocast():
            forecast_BHC = self.forecast(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
        forecast_BHC = forecast_BHC.float()
        plain: Tensor = self.loss(forecast_BHC, batch.y_BHC)
        loss = plain
        for hook in self.state.hooks:
            loss = hook.loss(forecast_BHC, batch, loss)
        self.state.optimizer.zero_grad()
        torch.autograd.backward(self.scaler.scale(loss))
        if self.state.hooks:
            self.scaler.unscale_(self.state.optimizer)  # they look at gradients as these are
        for hook in self.state.hooks:
            hook.after_backward(number)
        self.scaler.step(self.state.optimizer)
        self.scaler.update()
        for hook in self.state.hooks:
            hook.after_step(number)
        self.reporter.step()
        return plain.detach()

    def check(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"training diverged: the loss is {loss} in epoch {epoch}; "
                f"try a learning rate below {learning_rate(self.config, 1):g}"
            )

    def note(self, epoch: Epoch, validation: Accuracy) -> None:
        old = self.state.counters
        steps = old.steps + epoch.steps
        settled = all(hook.settled(steps) for hook in self.state.hooks)
        better = not settled or old.best_loss is None or epoch.validation_loss < old.best_loss
        if better:
            self.state.best, self.best = _copy(self.state.model), validation
        self.state.counters = Counters(
            epochs=(*old.epochs, epoch),
            steps=steps,
            best_epoch=epoch.epoch if better else old.best_epoch,
            # without one, the first epoch that may be kept is the best so far
            best_loss=(epoch.validation_loss if better else old.best_loss) if settled else None,
        )
        if self.checkpoint is not None:
            self.state.save(self.checkpoint)

    def result(self) -> Fit:
        self.state.model.load_state_dict(self.state.best)
        self.state.model.to("cpu").eval()
        validation = None
        if self.device.type == "cpu" and self.config.precision == "no":  # scored as the saved model computes
            # the best epoch may have been before an interruption: it is scored again as it was then
            validation = self.best or evaluate_model(self.state.model, self.validation, "validation")
        return Fit(
            epochs=self.state.counters.epochs,
            best_epoch=self.state.counters.best_epoch,
            steps=self.state.counters.steps,
            stopped_early=self.stopped_early() and self.state.counters.steps < self.total_steps(),
            validation=validation,
        )

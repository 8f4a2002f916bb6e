"""Layer by layer through a pruned model: each linear map is solved anew from what it reads now.

What a map of the pruned model reads has changed by all that was pruned before it; what it should give is what the same
map of the dense model gives on the same windows, as far as it is kept. That is least squares in closed form, without a
gradient. Layers are walked in the order in which they are computed, so each one makes good what those before it lost;
after a map whose result is added to a stream and normalised, the scale and shift of that norm are fitted too.

The parts of this: layer-wise least squares on the pruned model's own inputs (SparseGPT, Frantar and Alistarh 2023; OBC,
Frantar et al. 2022; OSSCAR, Meng et al. 2024, the "back-solve" for structures), in sequence, for biases, norms and
widths too.

G maps side by side, N tokens (windows times steps), I inputs, O outputs, D width of a stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from threading import Event, Thread
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormOfTorch

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import Counted, ForecastModel, Keep, Layer, LinearMap
from prunecast.prune.methods import Masks, Pruned, Statistics, Task
from prunecast.prune.shrink import cut

RIDGE = 1e-3
"""What holds a solution to the weights it starts from, in shares of the mean variance of the inputs."""

LEVEL_RIDGE = 1e-4
"""The least of that, in shares of the mean square of the inputs' means. Inputs that hardly move around their level
would explain what they must by large weights; on later windows, of another level, such a forecast explodes."""

_ROUNDING = 1e-12
"""Of sums in float64, as a share of what is summed; generously."""

MapName = tuple[str, str]
"""The layer that is called, and the map's name in it: empty for a linear layer."""


@dataclass(frozen=True)
class Moments:
    """What a least-squares problem needs of all tokens, in float64; centred where the map has a bias.

    Attributes:
        tokens: N.
        mean_GI: of the inputs.
        target_mean_GO: of what the map should give.
        xx_GII: mean of x x^T.
        xy_GIO: mean of x y^T.
    """

    tokens: int
    mean_GI: Tensor
    target_mean_GO: Tensor
    xx_GII: Tensor
    xy_GIO: Tensor


@dataclass(frozen=True)
class Problem:
    """One map to be solved.

    Attributes:
        name: of the map in the pruned model.
        weight_GOI: what the pruned model has, float64.
        bias_O: likewise; None where the map has none, or has it as a column.
        support_GOI: True where a weight may be other than zero; None: everywhere.
        moments: of its inputs in the pruned model and of its targets.
    """

    name: str
    weight_GOI: Tensor
    bias_O: Tensor | None
    support_GOI: Tensor | None
    moments: Moments

    @property
    def level_G11(self) -> Tensor:
        """The ridge that holds the solution to where it starts: lambda of each map."""
        level_G = RIDGE * self.moments.xx_GII.diagonal(dim1=1, dim2=2).mean(1)
        level_G = level_G.maximum(LEVEL_RIDGE * self.moments.mean_GI.square().mean(1))
        return level_G.clamp_min(_ROUNDING).view(-1, 1, 1)

    @property
    def hessian_GII(self) -> Tensor:
        """The inputs' second moments and the ridge."""
        hessian_GII = self.moments.xx_GII.clone()
        hessian_GII.diagonal(dim1=1, dim2=2).add_(self.level_G11.squeeze(2))
        return hessian_GII

    @property
    def right_GIO(self) -> Tensor:
        """The right side of the normal equations, `hessian_GII @ weight.mT = right_GIO`."""
        own_GI = self.moments.xx_GII.diagonal(dim1=1, dim2=2)
        added_GI = own_GI + self.level_G11.squeeze(2) - own_GI  # what the Hessian has more, its rounding included
        return self.moments.xy_GIO + added_GI.unsqueeze(2) * self.weight_GOI.mT

    def solution(self, weight_GOI: Tensor, mask_GOI: Tensor | None = None) -> Solution:
        """Returns a matrix as a solution, with the bias that fits it."""
        if self.bias_O is None:
            return Solution(weight_GOI, None, mask_GOI)
        reached_GO = (weight_GOI @ self.moments.mean_GI.unsqueeze(2)).squeeze(2)
        return Solution(weight_GOI, (self.moments.target_mean_GO - reached_GO)[0], mask_GOI)


@dataclass(frozen=True)
class Solution:
    """A map solved: its weights, its bias where it has one, and which weights stay where that was chosen too."""

    weight_GOI: Tensor
    bias_O: Tensor | None
    mask_GOI: Tensor | None = None


Solve = Callable[[Problem], Solution]
"""A pure function; one that only repairs gives no mask."""


@dataclass(frozen=True)
class Solved:
    """A model whose maps were solved, and the masks of those whose weights were chosen, by parameter."""

    model: ForecastModel
    masks: Masks = field(repr=False)


def maps_of(model: ForecastModel) -> dict[MapName, LinearMap]:
    """Returns all linear maps of a model that reach its result, by the layer that is called and the map's name."""
    found: dict[MapName, LinearMap] = {}
    inside: set[str] = set()  # parameters that are solved as part of a larger map
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            for label, own in module.linear_maps().items():
                found[name, label] = own
                inside.update(full_name(name, parameter) for parameter in own.parameters)
    for name, module in model.named_modules():
        for label, own in model.maps_of_part(name, module).items():
            if not inside.intersection(full_name(name, parameter) for parameter in own.parameters):
                found[name, label] = own
    unused = set(model.unused_parameters())
    return {
        key: own
        for key, own in found.items()
        if not all(full_name(key[0], parameter) in unused for parameter in own.parameters)
    }


def repair(task: Task, pruned: Pruned, solve: Solve) -> Pruned:
    """Returns a pruned model whose maps were solved; what was removed stays removed."""
    solved = reconstruct(task.model, pruned.model, solve, task.statistics, keep=pruned.keep, masks=pruned.masks)
    return replace(pruned, model=solved.model)


def reconstruct(
    dense: ForecastModel,
    pruned: ForecastModel,
    solve: Solve,
    statistics: Statistics,
    *,
    keep: Keep | None = None,
    masks: Masks | None = None,
    fits_norms: bool = True,
) -> Solved:
    """Solves every linear map of a pruned model, in the order of computing, and fits its norms.

    Args:
        dense: the model that was pruned; is left as it is.
        pruned: what is left of it; is changed in place, and ends in eval mode.
        solve: solves one map.
        statistics: with windows of the training part.
        keep: which units of the dense model the pruned one has; all when None.
        masks: of the pruned model's parameters; weights outside of them stay zero.
        fits_norms: whether scale and shift of norms are fitted too.

    Raises:
        UserError: without data, or when the two models cannot be compared layer by layer.
    """
    walk = _Walk(Reference(dense, statistics), pruned.eval(), keep or {}, dict(masks or {}), solve, fits_norms)
    walk.run()
    return Solved(pruned, walk.masks)


def full_name(layer: str, name: str) -> str:
    """Returns the name from the model of what has a name from a layer."""
    return f"{layer}.{name}" if layer and name else layer or name


class Reference:
    """A dense model on some windows, and what is the same whichever pruned one is compared with it.

    Attributes:
        model: in eval mode.
        windows: of the training part.
        groups: of the model.
        maps: of the model.
    """

    def __init__(self, model: ForecastModel, statistics: Statistics, kept_bytes: int = 0) -> None:
        """Looks at a model.

        Args:
            model: is left as it is.
            statistics: with the windows.
            kept_bytes: what may be kept of its forecast of the windows: all calls of its layers, where they take no
                more. Otherwise it is computed anew for each comparison.
        """
        self.model = model.eval()
        self.windows = Batch(*(torch.cat(parts) for parts in zip(*statistics.batches, strict=True)))
        self.groups, self.maps = model.groups(), maps_of(model)
        self._parameters = dict(model.named_parameters())
        self._sources = {**self.maps, **_norms(model)}
        self._rows, self._row_numbers = self._numbered()
        self._calls = self._heard(kept_bytes) if kept_bytes else None

    def compare(self, pruned: ForecastModel, solve: Solve, keep: Keep) -> Solved:
        """Solves a pruned model in eval mode, of which `keep` is left, as `reconstruct` does.

        What the pruned model does as the dense one is left as it is: to solve it would change it by rounding alone.
        """
        walk = _Walk(self, pruned, keep, {}, solve, fits_norms=True, passes_by=True)
        walk.run()
        return Solved(pruned, walk.masks)

    def origins(self, pruned: Mapping[MapName, LinearMap], keep: Keep) -> dict[MapName, _Rows]:
        """Returns where each map and norm of a pruned model comes from."""
        left, sources = cut(self._row_numbers, self.groups, keep), list(self._sources)
        origins = {}
        for (layer, label), own in pruned.items():
            ids = own.matrix({name: left[full_name(layer, name)] for name in own.parameters})[:, :, 0].flatten()
            origins[layer, label] = _Rows(sources[int(ids[0]) // _STRIDE], ids % _STRIDE)
        return origins

    def calls(self, arguments_of: set[str], results_of: set[str]) -> _Calls:
        """Returns the calls of some layers, one after another."""
        if self._calls is not None:
            return _Kept(self._calls)
        return _Teacher(self.model, arguments_of, results_of, self.windows)

    def results(self, key: MapName, arguments: tuple[Tensor, ...]) -> Tensor:
        """Returns what a map makes of the arguments of its layer, (G, N, O)."""
        (layer, _), own = key, self.maps[key]
        matrix_GOI = own.matrix({name: self._parameters[full_name(layer, name)] for name in own.parameters})
        y_GNO = own.features(*arguments) @ matrix_GOI.mT
        return y_GNO if own.bias is None else y_GNO + self._parameters[full_name(layer, own.bias)]

    def rows_of(self, key: MapName) -> int:
        """Returns how many rows a map or norm has, those of all maps side by side."""
        return self._rows[key]

    def _numbered(self) -> tuple[dict[MapName, int], dict[str, Tensor]]:
        """Returns how many rows there are, and in place of every weight the number of its row.

        What a cut leaves of those numbers tells where it was.
        """
        numbers, rows = dict[str, Tensor](), dict[MapName, int]()
        for place, (key, own) in enumerate(self._sources.items()):
            names = {name: full_name(key[0], name) for name in own.parameters}
            shape = own.matrix({name: self._parameters[full] for name, full in names.items()}).shape
            rows[key] = shape[0] * shape[1]
            ids = torch.arange(rows[key]).view(shape[0], shape[1], 1) + place * _STRIDE
            numbers |= {names[name]: own_ids for name, own_ids in own.tensors(ids.expand(shape).clone()).items()}
        return rows, numbers

    @torch.no_grad()
    def _heard(self, most_bytes: int) -> list[_Heard] | None:
        """Returns all calls of layers with maps, with what these give, and of norms; None where they take more."""
        layers = {layer for layer, _ in self.maps}
        teacher = _Teacher(self.model, layers, {layer for layer, _ in self._sources} - layers, self.windows)
        calls, taken = [], dict[int, int]()
        while (heard := teacher.next_call()) is not None:
            if heard.layer in layers:
                keys = [key for key in self.maps if key[0] == heard.layer]
                heard = heard._replace(results={key: self.results(key, heard.tensors) for key in keys})
            else:
                heard = heard._replace(tensors=tuple(tensor.clone() for tensor in heard.tensors))  # it may be added to
            calls.append(heard)
            tensors = [given for given in (*heard.tensors, *heard.results.values()) if isinstance(given, Tensor)]
            storages = [tensor.untyped_storage() for tensor in tensors]
            taken |= {storage.data_ptr(): storage.nbytes() for storage in storages}
            if sum(taken.values()) > most_bytes:
                teacher.stop()
                return None
        return calls


_STRIDE = 1 << 32
"""Of the numbers of rows, from a map to the next."""


@dataclass(frozen=True)
class _Rows:
    """Where a map or norm of the pruned model comes from: the dense one's name, and which of its rows these are."""

    source: MapName
    rows: Tensor


def _norms(model: nn.Module) -> dict[MapName, LinearMap]:
    """Returns the layers that end in a scale and a shift of each unit, as maps of one column."""
    return {
        (name, "norm"): LinearMap(
            parameters=("weight",),
            bias="bias",
            features=lambda x: x,
            matrix=lambda tensors: tensors["weight"].view(1, -1, 1),
            tensors=lambda matrix_GOI: {"weight": matrix_GOI.flatten()},
        )
        for name, module in model.named_modules()
        if (isinstance(module, nn.LayerNorm) and module.bias is not None and len(module.normalized_shape) == 1)
        or (isinstance(module, Layer) and module.scales_units)
    }


def _count_anew(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    """Takes what a norm reads now for what it has counted in training; its scale and shift make up for that.

    It gives what it gave before, up to rounding. In training it goes by each batch's own statistics: where those are
    far from what was counted, the pruned model would be another one as soon as it is fine-tuned.
    """
    counted = _counted(norm)
    if counted is None or not arguments:  # called by keyword
        return
    mean_D, variance_D, epsilon = counted
    x = arguments[0].movedim(1, -1) if isinstance(norm, BatchNormOfTorch) else arguments[0]
    rows_ND = x.flatten(0, -2).double()
    if len(rows_ND) < 2:  # one row has no variance
        return
    mean_now_D, before_D, now_D = rows_ND.mean(0), variance_D + epsilon, rows_ND.var(0) + epsilon
    weight_D, bias_D = norm.get_parameter("weight"), norm.get_parameter("bias")
    bias_D.add_(weight_D * (mean_now_D - mean_D) / before_D.sqrt())
    weight_D.mul_((now_D / before_D).sqrt())
    mean_D.copy_(mean_now_D)
    variance_D.copy_(now_D - epsilon)


def _counted(norm: nn.Module) -> Counted | None:
    if isinstance(norm, Layer):
        return norm.counted()
    buffers = dict(norm.named_buffers(recurse=False))
    if not isinstance(norm, BatchNormOfTorch) or not norm.affine or "running_mean" not in buffers:
        return None
    return Counted(buffers["running_mean"], buffers["running_var"], norm.eps)


# The walk


class _Stop(Exception):
    """Nobody wants the rest of the dense model's forecast."""


class _Heard(NamedTuple):
    """A call of a layer of the dense model.

    Attributes:
        layer: that is called.
        tensors: its arguments, or its result where it is a norm.
        results: what its maps make of the arguments, (G, N, O), where that is known already.
    """

    layer: str
    tensors: tuple[Tensor, ...]
    results: Mapping[MapName, Tensor] = MappingProxyType({})


class _Calls(ABC):
    """The calls of the layers of the dense model, in their order."""

    @abstractmethod
    def next_call(self) -> _Heard | None:
        """Returns the next one; None where there is none."""

    def hear(self, layer: str) -> _Heard:
        """Returns the next call of a layer; calls of others before it are let go.

        Raises:
            UserError: when there is none.
        """
        while (heard := self.next_call()) is not None:
            if heard.layer == layer:
                return heard
        raise UserError(f"recovery ridge: the dense model does not call {layer} as the pruned one does")

    @abstractmethod
    def stop(self) -> None:
        """Says that no further one is wanted."""


class _Kept(_Calls):
    """Calls that were written down."""

    def __init__(self, calls: Iterable[_Heard]) -> None:
        self._calls = iter(calls)

    def next_call(self) -> _Heard | None:
        return next(self._calls, None)

    def stop(self) -> None:
        self._calls = iter(())


class _Teacher(_Calls):
    """The dense model's forecast of all windows, computed beside the pruned one's, call by call.

    A thread that waits after each call until it was heard: only one layer's numbers are held at a time, and no part of
    the forecast is computed twice.
    """

    def __init__(self, dense: ForecastModel, arguments_of: set[str], results_of: set[str], batch: Batch) -> None:
        self._queue: Queue[_Heard | BaseException | None] = Queue(maxsize=1)
        self._stopped = Event()
        threads = torch.get_num_threads()
        handles = [dense.get_submodule(name).register_forward_pre_hook(self._arguments(name)) for name in arguments_of]
        handles += [dense.get_submodule(name).register_forward_hook(self._results(name)) for name in results_of]

        def run() -> None:
            ended: BaseException | None = None
            try:
                torch.set_num_threads(threads)  # a thread of its own starts with another number
                with torch.no_grad():
                    _forecast(dense, batch)
            except _Stop:
                pass
            except RuntimeError as error:  # what torch raises; it is raised again where it is heard
                ended = error
            finally:
                for handle in handles:
                    handle.remove()
                self._queue.put(ended)

        self._thread = Thread(target=run, daemon=True)
        self._thread.start()

    def next_call(self) -> _Heard | None:
        heard = self._queue.get()
        if heard is None:
            self._queue.put(None)  # it stays so
        if isinstance(heard, BaseException):
            raise heard
        return heard

    def stop(self) -> None:
        """Ends the forecast where it is."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(Empty):
                self._queue.get(timeout=0.01)

    def _arguments(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, arguments: self._tell(name, arguments)

    def _results(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, arguments, result: self._tell(name, (result,))

    def _tell(self, name: str, tensors: tuple[Tensor, ...]) -> None:
        if self._stopped.is_set():
            raise _Stop
        self._queue.put(_Heard(name, tensors))
        if self._stopped.is_set():
            raise _Stop


@dataclass
class _Walk:
    """The pruned model's forecast of all windows, in which each map is solved just before it is called.

    A layer that is called several times is solved again at each call, from all its calls so far. One that is whole and
    reads what it does in the dense model is passed by, where that is wanted, until it reads something else.
    """

    reference: Reference
    pruned: ForecastModel
    keep: Keep
    masks: dict[str, Tensor]
    solve: Solve
    fits_norms: bool
    passes_by: bool = False
    sums: dict[MapName, _Sums] = field(default_factory=dict)
    passed: dict[MapName, list[_Heard]] = field(default_factory=dict)
    read: _Inputs | None = None
    start: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def run(self) -> None:
        """Solves all maps and fits all norms."""
        self.maps, norms = maps_of(self.pruned), _norms(self.pruned)
        self.parameters = dict(self.pruned.named_parameters())
        self.origins = self.reference.origins({**self.maps, **norms}, self.keep)
        norms = norms if self.fits_norms else {}
        groups = {group.name: group.kind for group in self.reference.groups}
        self.routers = {name: units for name, units in self.keep.items() if groups[name] == "router"}
        layers = dict.fromkeys(layer for layer, _ in self.maps)
        sources = {self.origins[key].source[0] for key in self.maps}
        self.calls = self.reference.calls(sources, {self.origins[key].source[0] for key in norms})
        handles = [self.pruned.get_submodule(layer).register_forward_pre_hook(self._before(layer)) for layer in layers]
        handles += [self.pruned.get_submodule(key[0]).register_forward_hook(self._after(key)) for key in norms]
        counting = [module for module in self.pruned.modules() if isinstance(module, BatchNormOfTorch)]
        if self.fits_norms and not self.passes_by:  # our own count anew where they are fitted
            handles += [module.register_forward_pre_hook(_count_anew) for module in counting]
        try:
            _forecast(self.pruned, self.reference.windows)
        finally:
            for handle in handles:
                handle.remove()
            self.calls.stop()

    def _before(self, layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        keys = [key for key in self.maps if key[0] == layer]

        def solve(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            source = self.origins[keys[0]].source[0]
            heard = self.calls.hear(source)
            pairs = zip(heard.tensors, arguments, strict=True)
            before, now = zip(*(self._aligned(source, *pair) for pair in pairs), strict=True)
            if any(ours is not whole for ours, whole in zip(before, heard.tensors, strict=True)):
                heard = _Heard(source, before)  # what is known of the whole is of no use
            same = self.passes_by and all(_equal(*pair) for pair in zip(before, now, strict=True))
            for key in keys:
                if same and key not in self.sums and self._is_whole(key):
                    self.passed.setdefault(key, []).append(heard)
                    continue
                for earlier in self.passed.pop(key, []):
                    self._add(key, earlier.tensors, earlier)
                self._solve(key, now, heard)

        return solve

    def _after(self, key: MapName) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def fit(module: nn.Module, arguments: tuple[Tensor, ...], result: Tensor) -> Tensor:
            origin = self.origins[key]
            source = origin.source[0]
            target, now = self._aligned(source, self.calls.hear(source).tensors[0], result)
            if self.passes_by and key not in self.sums and self._is_whole(key) and torch.equal(target, now):
                return result  # of norms no layer is called twice
            _count_anew(module, arguments)
            factor_D, shift_D = self._fit_norm(key, _rows_of(now), _rows_of(target)[:, origin.rows])
            return result * factor_D.to(result) + shift_D.to(result)

        return fit

    def _aligned(self, layer: str, dense: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what a layer reads or gives in the dense and in the pruned model, entries of one beside the other's.

        Routers that went are taken out of the dense stream, and the steps that the pruned model's last layer leaves
        out; where layers before it went, one entry may stand for all windows in the pruned model: it is repeated.
        """
        if self.pruned.last_layer_computes == "all":
            return dense, now
        if not isinstance(dense, Tensor) or dense.shape[:-1] == now.shape[:-1] or dense.ndim < 3:
            return dense, now
        now = now.expand(len(dense), *now.shape[1:])
        for group, units in self.routers.items():
            if layer.startswith(group.rpartition(".")[0]) and dense.shape[1] > now.shape[1] == len(units):
                dense = dense.index_select(1, units)
        if dense.shape[:-2] != now.shape[:-2]:
            return dense, now
        steps = now.shape[-2]
        return (dense[..., :steps, :] if self.pruned.last_layer_computes == "first" else dense[..., -steps:, :]), now

    def _is_whole(self, key: MapName) -> bool:
        """Returns whether a map or norm has all its rows: it is the dense model's where its inputs are."""
        origin = self.origins[key]
        return len(origin.rows) == self.reference.rows_of(origin.source)

    def _solve(self, key: MapName, arguments: tuple[Tensor, ...], heard: _Heard) -> None:
        (layer, _), own = key, self.maps[key]
        self._add(key, arguments, heard)
        weights = {name: self._start(full_name(layer, name)) for name in own.parameters}
        bias_O = None if own.bias is None else self._start(full_name(layer, own.bias))
        moments = self.sums[key].moments(centred=bias_O is not None)
        problem = Problem(full_name(*key), own.matrix(weights), bias_O, self._support(key), moments)
        self._write(key, self.solve(problem))

    def _start(self, name: str) -> Tensor:
        """Returns a parameter as it was at first, float64."""
        if name not in self.start:
            self.start[name] = self.parameters[name].detach().double().clone()
        return self.start[name]

    def _add(self, key: MapName, arguments: tuple[Tensor, ...], heard: _Heard) -> None:
        """Adds what a map reads and should give at a call to its sums."""
        x_GNI = self.maps[key].features(*arguments).double()
        y_GNO = self._target(self.origins[key], heard, len(x_GNI)).double()
        if x_GNI.shape[1] != y_GNO.shape[1]:
            raise UserError(
                f"recovery ridge: {full_name(*key)} reads {x_GNI.shape[1]} tokens, {y_GNO.shape[1]} in the dense model"
            )
        if self.read is None or not torch.equal(self.read.x_GNI, x_GNI):
            self.read = _Inputs(x_GNI, x_GNI.sum(1), _gram(x_GNI))  # query, key and value read the same
        x_GNI, *of_inputs = self.read
        sums = self.sums.setdefault(key, _Sums())
        sums.add(x_GNI.shape[1], *of_inputs, y_GNO.sum(1), x_GNI.mT @ y_GNO)

    def _target(self, origin: _Rows, heard: _Heard, groups: int) -> Tensor:
        """Returns what a map should give, (G, N, O): the rows of the dense map's result that are left."""
        y_GNO = heard.results.get(origin.source)
        y_GNO = self.reference.results(origin.source, heard.tensors) if y_GNO is None else y_GNO
        if len(origin.rows) == self.reference.rows_of(origin.source):
            return y_GNO
        rows, outputs = origin.rows.view(groups, -1), y_GNO.shape[2]
        return torch.stack([y_GNO[int(own[0]) // outputs][:, own % outputs] for own in rows])

    def _support(self, key: MapName) -> Tensor | None:
        (layer, _), own = key, self.maps[key]
        held = {name: self.masks.get(full_name(layer, name)) for name in own.parameters}
        if all(mask is None for mask in held.values()):
            return None
        ones = {name: torch.ones_like(self._start(full_name(layer, name))) for name in held}
        return own.matrix({name: ones[name] if mask is None else mask.double() for name, mask in held.items()}) > 0

    def _write(self, key: MapName, solution: Solution) -> None:
        (layer, _), own = key, self.maps[key]
        if solution.mask_GOI is not None:
            masks = own.tensors(solution.mask_GOI)
            self.masks |= {full_name(layer, name): mask.clone() for name, mask in masks.items()}
        for name, weight in own.tensors(solution.weight_GOI).items():
            self.parameters[full_name(layer, name)].copy_(weight)
        if own.bias is not None and solution.bias_O is not None:
            self.parameters[full_name(layer, own.bias)].copy_(solution.bias_O)

    def _fit_norm(self, key: MapName, result_ND: Tensor, target_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and shifts each unit of a norm so that it comes nearest to its target; returns by how much."""
        x_ND, y_ND = result_ND.double(), target_ND.double()
        sums = self.sums.setdefault(key, _Sums())
        parts = (x_ND, x_ND.square(), y_ND, x_ND * y_ND)  # D maps of one input and one output
        x_D1, xx_D1, y_D1, xy_D1 = (part.sum(0).unsqueeze(1) for part in parts)
        sums.add(len(x_ND), x_D1, xx_D1.unsqueeze(2), y_D1, xy_D1.unsqueeze(2))
        moments = sums.moments(centred=True)
        variance_D, covariance_D = moments.xx_GII.flatten(), moments.xy_GIO.flatten()
        least = torch.finfo(torch.float32).tiny
        factor_D = torch.where(variance_D > least, covariance_D / variance_D.clamp_min(least), 1.0)
        shift_D = moments.target_mean_GO.flatten() - factor_D * moments.mean_GI.flatten()
        weight, bias = (f"{key[0]}.{name}" for name in ("weight", "bias"))
        self.parameters[bias].copy_(self._start(bias) * factor_D + shift_D)
        self.parameters[weight].copy_(self._start(weight) * factor_D)
        return factor_D, shift_D


class _Inputs(NamedTuple):
    """What a map reads at a call, float64, and its sums over the tokens: of x and of x x^T."""

    x_GNI: Tensor
    x_GI: Tensor
    xx_GII: Tensor


@dataclass
class _Sums:
    """Adds up what `Moments` needs, call by call."""

    tokens: int = 0
    parts: list[Tensor] = field(default_factory=list)

    def add(self, tokens: int, *parts: Tensor) -> None:
        """Adds the sums of x, x x^T, y and x y^T over some tokens."""
        self.tokens += tokens
        self.parts = [old + new for old, new in zip(self.parts, parts, strict=True)] if self.parts else list(parts)

    def moments(self, *, centred: bool) -> Moments:
        x, xx, y, xy = (part / self.tokens for part in self.parts)
        if centred:
            xx, xy = xx - x.unsqueeze(2) * x.unsqueeze(1), xy - x.unsqueeze(2) * y.unsqueeze(1)
        return Moments(self.tokens, x, y, xx, xy)


def _gram(x_GNI: Tensor) -> Tensor:
    """Returns x x^T summed over the tokens, (G, I, I); of many inputs only what is above the diagonal is worked out."""
    size = x_GNI.shape[2]
    if size <= _BLOCK:
        return x_GNI.mT @ x_GNI
    xx_GII = x_GNI.new_empty(len(x_GNI), size, size)
    for first in range(0, size, _BLOCK):
        block = slice(first, first + _BLOCK)
        beyond_GKI = x_GNI[:, :, block].mT @ x_GNI[:, :, first:]
        xx_GII[:, block, first:], xx_GII[:, first:, block] = beyond_GKI, beyond_GKI.mT
    return xx_GII


_BLOCK = 256
"""So many inputs at a time: enough for products at full speed."""


def _equal(one: object, other: object) -> bool:
    """Returns whether two arguments are tensors of the same numbers."""
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


def _rows_of(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _forecast(model: nn.Module, batch: Batch) -> None:
    model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)

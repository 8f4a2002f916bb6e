"""Modules that are not ours: pruned by the same methods, saved without pickle, loaded into a fresh module of the class.

Single weights can be pruned in any module. Which units can be cut out, heads and feed-forward units, says `dependency`;
how layers of torch are repaired, `torch_maps`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from pydantic import Field
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig, ForecastModel, Group, Keep, LinearMap
from prunecast.models.io import MASK_PREFIX, WEIGHTS_FILE, pack_mask, unpack_mask
from prunecast.prune.apply import prune_model
from prunecast.prune.dependency import Structure, set_tensor, structure_of, tensors_in
from prunecast.prune.masks import check_masks
from prunecast.prune.methods import Masks
from prunecast.prune.regression import maps_of
from prunecast.prune.torch_maps import maps_of_layer
from prunecast.recipe import NO_RECOVERY, PruneConfig, checked
from prunecast.records import Pruning, Strict
from prunecast.registry import GRANULARITIES, METHODS
from prunecast.store import new_directory

ModuleInputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a module is called with: one tensor, positional arguments, or arguments by name."""

SIZES_FILE = "module.json"

_INSIDE = "module."
"""What names begin with inside `ForeignModel`."""

_HEARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
"""Layers whose weights may be pruned."""

_OF_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")

_DRAWS = frozenset(
    {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial}
    | {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_}
)

_DRAWS_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}


@dataclass(frozen=True, kw_only=True)
class PrunedModule:
    """A pruned module that is not ours.

    Attributes:
        module: a copy of the one that was given, in its mode.
        masks: parameter name -> boolean tensor, True where a weight stays; empty where units were cut out.
        sizes: module name -> attribute -> the whole number it has now, where cutting changed it.
        outcome: what was asked for and done.
        left_whole: name of a layer whose units could not be cut -> why; empty where no units were asked for.
        unrepaired: names of parameters that lost something and could not be repaired, where repair was asked for.
    """

    module: nn.Module
    masks: Masks = field(repr=False)
    sizes: Mapping[str, Mapping[str, int]]
    outcome: Pruning
    left_whole: Mapping[str, str] = field(default_factory=dict)
    unrepaired: tuple[str, ...] = ()

    def save(self, directory: str | Path) -> None:
        """Writes a new folder: the tensors, the masks and the changed sizes, without pickle.

        Raises:
            UserError: when it exists or cannot be written, or when the module's state is more than tensors.
        """
        state = _tensors(self.module)
        packed = {MASK_PREFIX + name: pack_mask(mask) for name, mask in self.masks.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        with new_directory(Path(directory)) as folder:
            save_file(tensors | packed, folder / WEIGHTS_FILE)
            sha256 = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
            facts = SavedSizes(kind=_kind_of(self.module), sizes=self.sizes, outcome=self.outcome, sha256=sha256)
            (folder / SIZES_FILE).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")


class SavedSizes(Strict):
    """What stands beside the tensors of a pruned module."""

    schema_version: Literal[1] = 1
    kind: str = Field(description="module and name of its class")
    sizes: Mapping[str, Mapping[str, int]]
    outcome: Pruning
    sha256: str = Field(description="of the file of tensors")


def prune_module(
    model: nn.Module,
    example_inputs: ModuleInputs,
    recipe: PruneConfig | Mapping[str, Any],
    *,
    data: Iterable[ModuleInputs] | None = None,
    output_layer: str | Sequence[str] | None = None,
    masks: Masks | None = None,
    seed: int = 1,
) -> PrunedModule:
    """Prunes any PyTorch module; the one that is given is left as it is.

    Args:
        model: with trained weights.
        example_inputs: what it can be called with. The layers that run are heard and the multiply-adds counted on it.
        recipe: a `PruneConfig`, or a mapping of keys of the recipe's prune section.
        data: more such inputs, for methods and repair that look at data; as many as `calibration_batches` are read.
        output_layer: names of layers, or of modules above them, that are left alone; when absent the layer that runs
            last. `candidates: all` prunes these too.
        masks: held from an earlier pruning; what they remove counts as gone already.
        seed: of whatever the method draws.

    Raises:
        UserError: on an unknown method or key, a budget that cannot be met, a method that needs what is not there
            (data, targets, units that can be cut), or a name that the module does not have.
        MissingExtra: when units are to be cut and Torch-Pruning is not installed.
    """
    config = recipe if isinstance(recipe, PruneConfig) else checked(PruneConfig, recipe, "prune")
    method = METHODS.load(config.method)
    if method.trains:
        raise UserError(f"method {method.name!r} prunes in training, which a module of your own does not get here")
    if method.needs_targets:
        what = "compares forecasts with what came true, which a module of your own is not told"
        raise UserError(f"method {method.name!r} {what}; use structured")
    repairs = (config.recovery or method.recovery) != NO_RECOVERY
    if data is None and (method.needs_data or repairs):
        raise UserError(f"method {method.name!r} looks at data, expected more inputs in data, found none")
    units = bool(GRANULARITIES.load(method.granularity).shrinks)
    if config.candidates == "study":
        raise UserError("prune.candidates: expected body or all for a module of your own, found study")
    if config.calibration_seed is not None:
        raise UserError("prune.calibration_seed: nothing is drawn, the data are taken as given; leave it out")
    if units and (config.of or method.default_of) != "operations":
        raise UserError(f"prune.of: expected operations for units of a module of your own, found {config.of}")
    check_masks(model, masks or {})
    with _heard():
        foreign = ForeignModel(model, example_inputs, output_layer)
        if units:
            foreign.find_structure()
        batches = None if data is None else [foreign.batch(one) for one in islice(data, config.calibration_batches)]
        try:
            pruned = prune_model(
                foreign,
                config,
                seed=seed,
                cost=foreign.macs,
                weight_cost=lambda _: foreign.macs_per_weight(),
                masks={_INSIDE + name: mask for name, mask in (masks or {}).items()},
                batches=batches,
            )
        except UserError as error:
            raise UserError(str(error).replace(f"'{_INSIDE}", "'")) from None
    after = cast("ForeignModel", pruned.model)
    touched = [name for name, removed in pruned.outcome.removed_weights.items() if removed]
    touched += [member.name for group in foreign.groups() if group.name in pruned.keep for member in group.members]
    lost = [name for name in dict.fromkeys(touched) if name in foreign.prunable() and name not in foreign.repairable()]
    outcome = pruned.outcome.model_copy(
        update={
            "removed_weights": _outside(pruned.outcome.removed_weights),
            "kept_units": _outside(pruned.outcome.kept_units),
        }
    )
    for given, smaller in zip(model.modules(), after.module.modules(), strict=True):
        smaller.training = given.training
    return PrunedModule(
        module=after.module,
        masks=_outside(pruned.masks),
        sizes=_changed(model, after.module),
        outcome=outcome,
        left_whole=_outside(foreign.structure.left_whole),
        unrepaired=tuple(_outside(dict.fromkeys(lost))) if repairs else (),
    )


def load_pruned(module: nn.Module, directory: str | Path) -> PrunedModule:
    """Returns a saved pruned module: a copy of a freshly built one of its class, with the sizes and tensors saved.

    Args:
        module: built as the one that was pruned; is left as it is.
        directory: what `PrunedModule.save` wrote.

    Raises:
        UserError: when the folder is not such a one, is damaged, or belongs to a module of other class or sizes.
    """
    folder = Path(directory)
    try:
        values, content = json.loads((folder / SIZES_FILE).read_bytes()), (folder / WEIGHTS_FILE).read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: expected a saved pruned module, found none that can be read: {error}") from None
    facts = checked(SavedSizes, values, str(folder / SIZES_FILE))
    if hashlib.sha256(content).hexdigest() != facts.sha256:
        raise UserError(f"{folder}: {WEIGHTS_FILE} is not what was saved; take an intact copy")
    tensors = load(content)
    if facts.kind != _kind_of(module):
        raise UserError(f"{folder}: expected a module of {facts.kind}, found {_kind_of(module)}; build that one")
    loaded = copy.deepcopy(module)
    layers = dict(loaded.named_modules())
    for name, attributes in facts.sizes.items():
        for attribute, size in attributes.items():
            if type(getattr(layers.get(name), attribute, None)) is not int:
                raise UserError(
                    f"{folder}: {name} has no size {attribute}; build the module as the one that was pruned"
                )
            setattr(layers[name], attribute, size)
    packed = {name: tensors.pop(name) for name in list(tensors) if name.startswith(MASK_PREFIX)}
    expected = _tensors(loaded)
    for name in sorted(expected.keys() ^ tensors.keys()):
        where = "the module" if name in tensors else WEIGHTS_FILE
        raise UserError(f"{folder}: {where} has no {name!r}; build the module as the one that was pruned")
    for name, tensor in sorted(tensors.items()):
        owner = name.rpartition(".")[0]
        if tensor.shape != expected[name].shape:
            if owner not in facts.sizes:
                found, says = tuple(expected[name].shape), tuple(tensor.shape)
                raise UserError(f"{folder}: {name}: expected shape {says}, found {found} in the module")
            set_tensor(loaded, name, tensor.to(expected[name]))
    loaded.load_state_dict(tensors, strict=False)  # shared tensors stand there once
    shapes = {name: parameter.shape for name, parameter in loaded.named_parameters()}
    masks = {}
    for key, bits in packed.items():
        name = key.removeprefix(MASK_PREFIX)
        if name not in shapes or bits.dtype != torch.uint8 or len(bits) != -(-shapes[name].numel() // 8):
            raise UserError(f"{folder}: {key} does not fit the module; take an intact copy")
        masks[name] = unpack_mask(bits, shapes[name])
    check_masks(loaded, masks)
    return PrunedModule(module=loaded, masks=masks, sizes=facts.sizes, outcome=facts.outcome)


class ForeignConfig(ForecasterConfig):
    """What stands for the sizes of a module that is not ours."""

    kept_units: Mapping[str, int] = Field(default_factory=dict, description="group -> units that stay, where some go")


class ForeignModel(ForecastModel):
    """Any module in the clothes of a model of the house: what methods ask for, found by listening to a call of it.

    Its `forward` takes what `batch` makes of inputs. Each call draws the same random numbers, so that modules that
    sample in their forward pass can be compared.
    """

    last_layer_computes = "all"

    def __init__(self, module: nn.Module, inputs: ModuleInputs, output_layer: str | Sequence[str] | None) -> None:
        super().__init__(ForeignConfig(name=type(module).__name__, channels=1))
        try:
            self.module = copy.deepcopy(module).eval()
        except (RuntimeError, TypeError) as error:  # what torch and pickle say of what they cannot copy
            raise UserError(f"model: expected a module that can be copied, found {error}") from None
        self.structure = Structure()
        self._inputs = _Whole(inputs)
        self._rows: dict[str, float] = {}
        self._maps: dict[str, frozenset[str]] = {}
        self._listen()
        every = Counter(map(id, self._all_parameters().values()))
        self._shared = frozenset(name for name, weight in self._all_parameters().items() if every[id(weight)] > 1)
        self._unused: tuple[str, ...] = ()
        self._unused = self._without_gradient()
        weights = [name for name in self._rows if name in self.prunable()]
        self._outputs = tuple(weights[-1:])
        if output_layer is not None:
            given = [output_layer] if isinstance(output_layer, str) else output_layer
            self._outputs = tuple(weight for name in given for weight in self._below(name))

    def find_structure(self) -> None:
        """Finds which units can be cut.

        Raises:
            MissingExtra: without Torch-Pruning.
        """
        precise = _Whole(_doubled(self._inputs.inputs))

        def call(model: nn.Module, double: bool) -> Any:
            return cast("ForeignModel", model).result(precise if double else self._inputs)

        self.structure = structure_of(self, call)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns all that the module gives for each entry of a batch, (B, N, 1): what methods compare."""
        found = [tensor for tensor in tensors_in(self.result(x_BLC)) if tensor.ndim and tensor.is_floating_point()]
        flat = [tensor.reshape(len(tensor), -1, 1) for tensor in found if len(tensor) == len(found[0])]
        return torch.cat(flat, dim=1)

    def batch(self, inputs: ModuleInputs) -> Batch:
        """Returns inputs as a batch; what the module itself gives stands in the place of what came true."""
        x_BLC, mark = cast("Tensor", _Whole(inputs)), torch.zeros(0)
        with torch.no_grad():
            return Batch(x_BLC, self(x_BLC), mark, mark)

    def result(self, inputs: object) -> Any:
        """Returns what the module gives, as it gives it."""
        assert isinstance(inputs, _Whole)
        given = inputs.inputs
        with _SameDraws():
            if isinstance(given, Mapping):
                return self.module(**given)
            return self.module(*given) if isinstance(given, tuple) else self.module(given)

    def prunable(self) -> tuple[str, ...]:
        """Names of the weights of linear layers, convolutions and attention that reach the result."""
        names = []
        for name, module in self.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                names += [f"{name}.{part}" for part in _OF_ATTENTION[:-1]]
            elif isinstance(module, _HEARD):
                names.append(f"{name}.weight")
        own = {name for name, parameter in self.named_parameters() if parameter.is_floating_point()}
        return tuple(name for name in names if name in own and name not in self._unused)

    def output_layer(self) -> tuple[str, ...]:
        """Names of the weights that are left alone."""
        return self._outputs

    def unused_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that got no gradient from the example inputs."""
        return self._unused

    def groups(self) -> tuple[Group, ...]:
        """What can be cut, none of it the output layer's."""
        return tuple(one.group for one in self.structure.groups if not self._is_output(one.group))

    def shrunk_config(self, keep: Keep) -> ForeignConfig:
        """Returns how many units stay, of the groups that lose some or have lost some."""
        kept = {**cast("ForeignConfig", self.config).kept_units, **{name: len(units) for name, units in keep.items()}}
        return ForeignConfig(name=self.config.name, channels=1, kept_units=kept)

    def emptied(self, keep: Keep) -> ForeignModel:
        """Returns the smaller model; its parameters have the values that are left."""
        module, structure = self.structure.cut(self, keep)
        smaller = cast("ForeignModel", module)
        smaller.structure, smaller.config = structure, self.shrunk_config(keep)
        return smaller

    def macs(self, config: ForecasterConfig) -> int:
        """Returns the multiply-adds of a call with the example inputs when so many units stay.

        Counted are matrix products, convolutions and attention, by PyTorch's own counter.
        """
        kept = cast("ForeignConfig", config).kept_units
        smaller = self.emptied({name: torch.arange(count) for name, count in kept.items()}) if kept else self
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            smaller.result(self._inputs)
        return int(counter.get_total_flops()) // 2

    def macs_per_weight(self) -> dict[str, float]:
        """Returns how often a call with the example inputs multiplies each number of a weight; by parameter name."""
        return {name: self._rows[name] for name in self.prunable() if name in self._rows}

    def maps_of_part(self, name: str, part: nn.Module) -> Mapping[str, LinearMap]:
        """Returns the linear maps of a layer of torch, as far as it was called so that they hold."""
        heard = self._maps.get(name, frozenset())
        own = {parameter for parameter, _ in part.named_parameters() if f"{name}.{parameter}" not in self._shared}
        found = maps_of_layer(part).items() if heard else ()
        return {label: one for label, one in found if label in heard and own.issuperset(one.parameters)}

    def repairable(self) -> set[str]:
        """Returns the names of the parameters that are in a linear map."""
        return {f"{layer}.{name}" for (layer, _), own in maps_of(self).items() for name in own.parameters}

    def _listen(self) -> None:
        """Calls the module once, and takes note which layers run, in which order, on how many rows, and how called."""

        def hear(name: str) -> Callable[..., None]:
            def note(layer: nn.Module, given: Any, named: Any, result: Any) -> None:
                parts: tuple[str, ...]
                called = signature(layer.forward).bind(*given, **named).arguments
                if isinstance(layer, nn.MultiheadAttention):
                    parts, rows = _OF_ATTENTION, called["query"].numel() // layer.embed_dim
                    masked = any(called.get(mask) is not None for mask in ("attn_mask", "key_padding_mask"))
                    labels = {"in"} if masked or called.get("is_causal") else {"in", "out"}
                    heard = len(given) >= 3 and given[0] is given[1] is given[2]
                else:
                    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
                    parts, labels, heard = ("weight",), {""}, bool(given)
                    rows = result.numel() // cast("int", outputs)
                self._maps[name] = self._maps.get(name, frozenset(labels)) & (labels if heard else set())
                for part in (f"{name}.{part}" for part in parts):
                    self._rows[part] = self._rows.pop(part, 0) + rows  # the last one called stands last

            return note

        layers = {name: layer for name, layer in self.named_modules() if isinstance(layer, _HEARD)}
        handles = [layer.register_forward_hook(hear(name), with_kwargs=True) for name, layer in layers.items()]
        try:
            with torch.no_grad():
                self.result(self._inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _below(self, name: str) -> list[str]:
        below = [weight for weight in self.prunable() if weight.startswith(f"{_INSIDE}{name}.")]
        if not below:
            raise UserError(f"output_layer: expected a layer of the module or one above it, found {name!r}")
        return below

    def _all_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters(remove_duplicate=False))

    def _without_gradient(self) -> tuple[str, ...]:
        """Returns the parameters that the result of the example inputs does not depend on."""
        parameters = {name: p for name, p in self.named_parameters() if p.is_floating_point()}
        before = {name: parameter.requires_grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            result = [one.sum() for one in tensors_in(self.result(self._inputs)) if one.requires_grad]
            if not result:
                raise UserError("example_inputs: expected a result that depends on the module's weights, found none")
            gradients = torch.autograd.grad(torch.stack(result).sum(), list(parameters.values()), allow_unused=True)
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
        return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)

    def _is_output(self, group: Group) -> bool:
        return any(member.name in self._outputs and member.dim == 0 for member in group.members)


class _Whole:
    """Inputs of a module in the place of a batch's tensor: several can be joined, a part of them are all of them."""

    def __init__(self, inputs: ModuleInputs) -> None:
        self.inputs = inputs

    def __getitem__(self, part: slice) -> _Whole:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Whole:
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> _Whole:
        if func is not torch.cat:
            raise UserError("the method looks into a batch, which the inputs of a module of your own are not")
        return cls(_joined([part.inputs for part in args[0]]))


def _joined(parts: Sequence[Any]) -> Any:
    """Returns inputs of several calls as those of one: tensors one after another, all else as in the first."""
    first = parts[0]
    if isinstance(first, Tensor) and first.ndim:
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list):
        return type(first)(_joined(values) for values in zip(*parts, strict=True))
    return first


def _doubled(inputs: Any) -> Any:
    """Returns inputs whose floating-point numbers have 64 bits."""
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {name: _doubled(value) for name, value in inputs.items()}
    return type(inputs)(map(_doubled, inputs)) if isinstance(inputs, tuple | list) else inputs


class _SameDraws(TorchFunctionMode):
    """Lets random numbers come from generators of its own; two threads draw without disturbing each other."""

    def __init__(self) -> None:
        super().__init__()
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS_LIKE:
            func, like = _DRAWS_LIKE[func], args[0]
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
            args = (like.shape,)
        if func in _DRAWS and kwargs.get("generator") is None:
            of = args[0].device if args and isinstance(args[0], Tensor) else torch.get_default_device()
            device = torch.device(kwargs.get("device") or of)
            generator = self._generators.setdefault(device, torch.Generator(device).manual_seed(0))
            kwargs = {**kwargs, "generator": generator}
        return func(*args, **kwargs)


@contextmanager
def _heard() -> Iterator[None]:
    """Lets layers of torch call each other as they are written: their fused ways are heard by no hook."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _outside(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_INSIDE): value for name, value in named.items()}


def _changed(before: nn.Module, after: nn.Module) -> dict[str, dict[str, int]]:
    """Returns the whole numbers of modules that are not what they were."""
    changed: dict[str, dict[str, int]] = {}
    for (name, old), new in zip(before.named_modules(), after.modules(), strict=True):
        sizes = {
            key: value
            for key, value in vars(new).items()
            if type(value) is int and type(vars(old).get(key)) is int and value != vars(old)[key]
        }
        if sizes:
            changed[name] = sizes
    return changed


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a module's state, those that are shared once.

    Raises:
        UserError: when its state is more than tensors.
    """
    state = module.state_dict()
    named = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{name}: expected a state of tensors alone, found {type(value).__name__}")
    return {name: tensor for name, tensor in state.items() if name in named}


def _kind_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"

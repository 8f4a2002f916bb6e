"""Modules that are not ours: pruned by the same methods, saved without pickle, loaded into a fresh module of the class.

Single weights can be pruned in any module. Which units can be cut out (heads, feed-forward units) is found with
Torch-Pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"): which layers write and
read the same units. It takes what it does not know for element-wise, and knows nothing of attributes such as a number
of heads. So a cut is believed only when it was tried: some of a group's units are removed, and the result has to be the
one of the whole module in which nobody reads those units. What does not pass stays whole, and the reason is told.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from pydantic import Field
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunecast.batch import Batch
from prunecast.errors import MissingExtra, UserError
from prunecast.models.base import ForecasterConfig, ForecastModel, Group, Keep, Member, unit_index
from prunecast.models.io import MASK_PREFIX, WEIGHTS_FILE, pack_mask, unpack_mask
from prunecast.prune.apply import prune_model
from prunecast.prune.masks import check_masks
from prunecast.prune.methods import Masks
from prunecast.prune.shrink import cut
from prunecast.recipe import PruneConfig, checked
from prunecast.records import GroupKind, Pruning, Strict
from prunecast.registry import GRANULARITIES, METHODS
from prunecast.store import new_directory

ModuleInputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a module is called with: one tensor, positional arguments, or arguments by name."""

SIZES_FILE = "module.json"

_INSIDE = "module."
"""What names begin with inside `ForeignModel`."""

_HEADS = ("num_heads", "n_heads", "nhead", "nheads", "heads", "num_attention_heads")
"""What attention modules call their number of heads."""

_TOLERANCE = 1e-3
"""Largest deviation of a cut from what it should give, in shares of the largest result: sums have another order."""

_Attribute = tuple[str, str]
"""Name of a module, and of a whole number that it holds."""

_Call = Callable[[nn.Module], Any]
"""Calls a module with the example inputs."""


# What users call


@dataclass(frozen=True, kw_only=True)
class PrunedModule:
    """A pruned module that is not ours.

    Attributes:
        module: a copy of the one that was given, in its mode.
        masks: parameter name -> boolean tensor, True where a weight stays; empty where units were cut out.
        sizes: module name -> attribute -> the whole number it has now, where cutting changed it.
        outcome: what was asked for and done.
        left_whole: name of a layer whose units could not be cut -> why; empty where no units were asked for.
    """

    module: nn.Module
    masks: Masks = field(repr=False)
    sizes: Mapping[str, Mapping[str, int]]
    outcome: Pruning
    left_whole: Mapping[str, str] = field(default_factory=dict)

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
    units = bool(GRANULARITIES.load(method.granularity).shrinks)
    if config.candidates == "study":
        raise UserError("prune.candidates: expected body or all for a module of your own, found study")
    if config.calibration_seed is not None:
        raise UserError("prune.calibration_seed: nothing is drawn, the data are taken as given; leave it out")
    if units and (config.of or method.default_of) != "operations":
        raise UserError(f"prune.of: expected operations for units of a module of your own, found {config.of}")
    batches = None
    if data is not None:
        batches = [_as_batch(inputs) for inputs in islice(data, config.calibration_batches)]
    check_masks(model, masks or {})
    foreign = ForeignModel.around(model, example_inputs, output_layer, units=units)
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
    outcome = pruned.outcome.model_copy(
        update={
            "removed_weights": _outside(pruned.outcome.removed_weights),
            "kept_units": _outside(pruned.outcome.kept_units),
        }
    )
    return PrunedModule(
        module=after.module.train(model.training),
        masks=_outside(pruned.masks),
        sizes=_changed(model, after.module),
        outcome=outcome,
        left_whole=_outside(foreign.structure.left_whole),
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
    except (OSError, ValueError) as error:
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
            _set_tensor(loaded, name, tensor.to(expected[name]))
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
    """Any module in the clothes of a model of the house: what methods ask for, found by looking at a call of it.

    Its `forward` takes what `_as_batch` makes of inputs. Each call draws the same random numbers, so that modules that
    sample in their forward pass can be compared.
    """

    def __init__(self, module: nn.Module, inputs: ModuleInputs, structure: _Structure) -> None:
        super().__init__(ForeignConfig(name=type(module).__name__, channels=1))
        self.module = module
        self.structure = structure
        self._inputs = _Whole(inputs)
        self._outputs: tuple[str, ...] = ()
        self._unused: tuple[str, ...] = ()

    @classmethod
    def around(
        cls, module: nn.Module, inputs: ModuleInputs, output_layer: str | Sequence[str] | None, *, units: bool
    ) -> ForeignModel:
        """Returns the model around a copy of a module, once it has been called and its structure is known."""
        model = cls(copy.deepcopy(module).eval(), inputs, _Structure())
        called = model._called()
        model._unused = model._without_gradient()
        weights = [name for name in called if name in model.prunable()]
        if output_layer is None:
            model._outputs = tuple(weights[-1:])
        else:
            for given in [output_layer] if isinstance(output_layer, str) else output_layer:
                below = [name for name in model.prunable() if name.startswith(f"{_INSIDE}{given}.")]
                if not below:
                    raise UserError(f"output_layer: expected a layer of the module or one above it, found {given!r}")
                model._outputs += tuple(below)
        if units:
            model.structure = _structure_of(model, lambda one: one(model._inputs))
        return model

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns what the module gives for inputs, whatever that is."""
        inputs = cast("_Whole", x_BLC).inputs
        devices = sorted({parameter.device.index for parameter in self.parameters() if parameter.is_cuda})
        with torch.random.fork_rng(devices=devices), _heard():
            torch.manual_seed(0)
            if isinstance(inputs, Mapping):
                return cast("Tensor", self.module(**inputs))
            return cast("Tensor", self.module(*inputs) if isinstance(inputs, tuple) else self.module(inputs))

    def prunable(self) -> tuple[str, ...]:
        """Names of the weights of linear layers, convolutions and attention that reach the result."""
        names = []
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                names.append(f"{name}.weight")
            elif isinstance(module, nn.MultiheadAttention):
                names += [
                    f"{name}.{part}" for part in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
                ]
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
            smaller(cast("Tensor", self._inputs))
        return int(counter.get_total_flops()) // 2

    def macs_per_weight(self) -> dict[str, float]:
        """Returns how often a call with the example inputs multiplies each number of a weight; by parameter name."""
        rows: dict[str, float] = {}

        def hear(name: str) -> Callable[..., None]:
            def count(layer: nn.Module, given: Any, result: Any) -> None:
                if isinstance(layer, nn.MultiheadAttention):
                    tokens = given[0].numel() // layer.embed_dim
                    for part in (
                        "in_proj_weight",
                        "q_proj_weight",
                        "k_proj_weight",
                        "v_proj_weight",
                        "out_proj.weight",
                    ):
                        rows[f"{name}.{part}"] = rows.get(f"{name}.{part}", 0) + tokens
                else:
                    channels = getattr(layer, "out_features", None) or layer.out_channels
                    rows[f"{name}.weight"] = rows.get(f"{name}.weight", 0) + result.numel() // cast("int", channels)

            return count

        self._hearing(hear)
        return {name: tokens for name, tokens in rows.items() if name in self.prunable()}

    def _called(self) -> list[str]:
        """Returns the weights of the layers that run, in the order of their last call."""
        order: dict[str, None] = {}

        def hear(name: str) -> Callable[..., None]:
            def note(layer: nn.Module, given: Any, result: Any) -> None:
                order.pop(f"{name}.weight", None)
                order[f"{name}.weight"] = None

            return note

        self._hearing(hear)
        return list(order)

    def _hearing(self, hook: Callable[[str], Callable[..., None]]) -> None:
        """Calls the module once, with a hook on every layer whose weights may be pruned."""
        kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.MultiheadAttention
        layers = {name: layer for name, layer in self.named_modules() if isinstance(layer, kinds)}
        handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
        try:
            with torch.no_grad():
                self(cast("Tensor", self._inputs))
        finally:
            for handle in handles:
                handle.remove()

    def _without_gradient(self) -> tuple[str, ...]:
        """Returns the parameters that the result of the example inputs does not depend on."""
        parameters = {name: p for name, p in self.named_parameters() if p.is_floating_point()}
        before = {name: parameter.requires_grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            result = [one.sum() for one in _tensors_in(self(cast("Tensor", self._inputs))) if one.requires_grad]
            if not result:
                raise UserError("example_inputs: expected a result that depends on the module's weights, found none")
            gradients = torch.autograd.grad(torch.stack(result).sum(), list(parameters.values()), allow_unused=True)
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
        return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)

    def _is_output(self, group: Group) -> bool:
        return any(member.name in self._outputs and member.dim == 0 for member in group.members)


class _Whole:
    """ModuleInputs of a module in the place of a batch's tensor; a part of them are all of them."""

    def __init__(self, inputs: ModuleInputs) -> None:
        self.inputs = inputs

    def __getitem__(self, part: slice) -> _Whole:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Whole:
        return self


class _NoTarget:
    """In the place of what is to be forecast: whoever computes with it is told that there is none."""

    def __getitem__(self, part: slice) -> _NoTarget:
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise UserError("the method compares forecasts to what came true, which a module of your own is not told here")


def _as_batch(inputs: ModuleInputs) -> Batch:
    absent = cast("Tensor", _NoTarget())
    return Batch(cast("Tensor", _Whole(inputs)), absent, absent, absent)


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


# What can be cut, and how


@dataclass(frozen=True)
class _Cuttable:
    """A group that can be cut, and the whole numbers that shrink with it: attribute -> how much of it one unit is."""

    group: Group
    attributes: Mapping[_Attribute, int]


@dataclass(frozen=True)
class _Structure:
    """What of a module can be cut, and why the rest cannot: name of a layer -> reason."""

    groups: tuple[_Cuttable, ...] = ()
    left_whole: Mapping[str, str] = field(default_factory=dict)

    def cut(self, module: nn.Module, keep: Keep) -> tuple[nn.Module, _Structure]:
        """Returns a copy of the module without the units that do not stay, and what of it can be cut further."""
        concerned = [one for one in self.groups if one.group.name in keep]
        smaller = copy.deepcopy(module)
        state = module.state_dict()
        for name, tensor in cut(state, [one.group for one in concerned], keep).items():
            if tensor.shape != state[name].shape:
                _set_tensor(smaller, name, tensor)
        for one in concerned:
            gone = one.group.size - len(keep[one.group.name])
            for (layer, attribute), share in one.attributes.items():
                owner = smaller.get_submodule(layer)
                setattr(owner, attribute, getattr(owner, attribute) - share * gone)
        _set_sizes(smaller)
        return smaller, replace(self, groups=tuple(self._left(one, keep) for one in self.groups))

    def _left(self, one: _Cuttable, keep: Keep) -> _Cuttable:
        """Returns what is left of a group: its members own other positions when a neighbour's were cut out."""
        if one.group.name not in keep:
            return one  # no two groups cut the same dimension of a tensor
        size = len(keep[one.group.name])
        members = tuple(replace(member, index=unit_index(size, member.index.shape[1])) for member in one.group.members)
        return replace(one, group=replace(one.group, size=size, members=members))


def _structure_of(module: nn.Module, run: _Call) -> _Structure:
    """Returns what of a module can be cut.

    Args:
        module: is left as it is.
        run: calls it, or a copy, with the example inputs; the same result each time.

    Raises:
        MissingExtra: without Torch-Pruning.
    """
    groups: list[_Cuttable] = []
    left_whole: dict[str, str] = {}
    for found in _coupled(module, run):
        reason = found.reason or _obstacle(module, found)
        passed = None
        if reason is None:
            passed = next(filter(lambda one: _holds(module, one, run), _guesses(module, found)), None)
            reason = "what is left does not give what it should" if passed is None else None
        if passed is None:
            left_whole |= dict.fromkeys(found.writers, reason or "")
        else:
            groups.append(passed)
    return _Structure(tuple(groups), left_whole)


@dataclass(frozen=True)
class _Coupled:
    """Layers that write and read the same units, by name; or why they are left whole."""

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]
    reason: str | None


def _coupled(module: nn.Module, run: _Call) -> Iterator[_Coupled]:
    """Yields what hangs together, from the linear layers and convolutions that write it."""
    try:
        import torch_pruning
    except ImportError:
        raise MissingExtra("torch-pruning", "foreign") from None
    traced = copy.deepcopy(module).eval()
    for parameter in traced.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # the graph is that of the gradients
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            traced,
            example_inputs=(),
            forward_fn=lambda model, _: run(model),
            output_transform=lambda result: [tensor for tensor in _tensors_in(result) if tensor.requires_grad],
            verbose=False,
        )
    names = {part: name for name, part in traced.named_modules()}
    done: set[str] = set()
    for root, name in names.items():
        if root not in graph.module2node or name in done or not isinstance(root, nn.Linear | nn.Conv1d | nn.Conv2d):
            continue
        # Layers alone are followed, not their single units: those multiply without end where an attention gathers.
        start = (graph.module2node[root], graph.get_pruner_of_module(root).prune_out_channels)
        reached, waiting = {start: None}, [start]
        while waiting:
            node, trigger = waiting.pop()
            for dependency in node.dependencies:
                step = (dependency.target, dependency.handler)
                if dependency.is_triggered_by(trigger) and step not in reached:
                    reached[step] = None
                    waiting.append(step)
        found = _sorted_out(((node.module, graph.is_out_channel_pruning_fn(fn)) for node, fn in reached), names)
        done.update(found.writers)
        yield found


def _sorted_out(reached: Iterable[tuple[Any, bool]], names: Mapping[nn.Module, str]) -> _Coupled:
    writers: list[str] = []
    readers: list[str] = []
    norms: list[str] = []
    reason = None
    for part, writes in reached:
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
            (writers if writes else readers).append(names[part])
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            norms.append(names[part])
        elif part in names:
            reason = reason or f"a {type(part).__name__} takes part, which cannot be cut"
        elif isinstance(part, Tensor):
            reason = reason or "a parameter outside of layers takes part"
        elif type(part).__name__ == "_OutputOp":
            reason = reason or "its units are the module's own results"
    place = {name: number for number, name in enumerate(names.values())}.__getitem__
    return _Coupled(
        writers=tuple(sorted(set(writers), key=place)),
        readers=tuple(sorted(set(readers), key=place)),
        norms=tuple(sorted(set(norms), key=place)),
        reason=reason,
    )


def _obstacle(module: nn.Module, found: _Coupled) -> str | None:
    """Returns why layers cannot be cut whatever their units are; None when nothing is known against it."""
    if not found.readers:
        return "no layer reads its units"
    layers = [module.get_submodule(name) for name in (*found.writers, *found.readers)]
    if any(getattr(layer, "groups", 1) != 1 for layer in layers):
        return "a convolution of several groups takes part"
    parameters = dict(module.named_parameters())
    if any(f"{name}.weight" not in parameters for name in (*found.writers, *found.readers)):
        return "a weight that is computed, or shared with another layer, takes part"
    sizes = {len(parameters[f"{name}.weight"]) for name in found.writers}
    sizes |= {parameters[f"{name}.weight"].shape[1] for name in found.readers}
    return None if len(sizes) == 1 else "its units are read in another number than they are written"


def _guesses(module: nn.Module, found: _Coupled) -> Iterator[_Cuttable]:
    """Yields what the units may be, and which attributes may have to shrink with them."""
    size = len(module.get_parameter(f"{found.writers[0]}.weight"))
    owners = sorted({name.rpartition(".")[0] for name in (*found.writers, *found.readers)})
    numbers = {
        (owner, name): value
        for owner in owners
        for name, value in vars(module.get_submodule(owner)).items()
        if type(value) is int
    }
    heads = {attribute: count for attribute, count in numbers.items() if attribute[1] in _HEADS}
    widths = [attribute for attribute, value in numbers.items() if value == size and attribute not in heads]
    kind: GroupKind = "ffn"
    units, ones = size, dict[_Attribute, int]()
    if heads and len(found.writers) > 1:  # queries, keys and values
        units = next(iter(heads.values()))
        if {units} != set(heads.values()) or units < 2 or size % units:
            return
        kind, ones = "head", dict.fromkeys(heads, 1)
    group = Group(
        _group_name(found, kind), kind, units, tuple(_members(module, found, unit_index(units, size // units)))
    )
    yield _Cuttable(group, ones)
    if widths:
        yield _Cuttable(group, ones | dict.fromkeys(widths, size // units))


def _group_name(found: _Coupled, kind: GroupKind) -> str:
    first = found.writers[0]
    return first.rpartition(".")[0] or first if kind == "head" else first


def _members(module: nn.Module, found: _Coupled, index: Tensor) -> Iterator[Member]:
    state = module.state_dict()
    for name in (*found.writers, *found.norms):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            if f"{name}.{tensor}" in state:
                yield Member(f"{name}.{tensor}", 0, index)
    for name in found.readers:
        yield Member(f"{name}.weight", 1, index)


def _holds(module: nn.Module, one: _Cuttable, call: _Call) -> bool:
    """Whether removing some of the units gives what the whole module does when nobody reads them: tried twice."""
    group, generator = one.group, torch.Generator().manual_seed(0)
    for share in (0.5, 0.3):
        order = torch.randperm(group.size, generator=generator)
        gone, kept = order.tensor_split([max(1, round(share * group.size))])
        unread = copy.deepcopy(module)
        with torch.no_grad():
            for member in group.members:
                if member.dim == 1:
                    unread.get_parameter(member.name)[:, member.index[gone].flatten()] = 0
            smaller, _ = _Structure((one,)).cut(module, {group.name: kept.sort().values})
            try:
                found = _tensors_in(call(smaller))
            except (RuntimeError, ValueError, AssertionError):  # what modules say of a shape that they did not expect
                return False
            if not _alike(found, _tensors_in(call(unread))):
                return False
    return True


def _alike(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        now.shape == then.shape and bool(((now - then).abs() <= _TOLERANCE * then.abs().max()).all())
        for now, then in zip(found, expected, strict=True)
        if then.is_floating_point() and then.numel()
    )


def _tensors_in(result: Any) -> list[Tensor]:
    """Returns the tensors of what a module gives: a tensor, or tuples, lists and mappings of such."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors_in(part)]


def _set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a parameter or buffer of another shape in the place of one."""
    owner, _, last = name.rpartition(".")
    layer = module.get_submodule(owner)
    old = getattr(layer, last)
    tensor = tensor.detach().clone()
    setattr(layer, last, nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor)


def _set_sizes(module: nn.Module) -> None:
    """Makes layers say the sizes that their tensors have."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.Conv1d | nn.Conv2d):
            layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
            layer.num_features = len(layer.running_mean)

"""Which units of a module that is not ours can be cut out, from Torch-Pruning's dependency graph.

The graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning") says which layers write and read the same
units. It takes what it does not know for element-wise, and knows nothing of attributes such as a number of heads. So a
cut is believed only when it was tried: some of a group's units are removed, and the result has to be the one of the
whole module in which nobody reads those units. What does not pass stays whole, and the reason is told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunecast.errors import MissingExtra
from prunecast.models.base import Group, Keep, Member, unit_index
from prunecast.prune.shrink import cut
from prunecast.records import GroupKind

_HEADS = ("num_heads", "n_heads", "nhead", "nheads", "heads", "num_attention_heads")
"""What attention modules call their number of heads."""

_ROUNDINGS = 32
"""Results of a cut may differ by so many units in the last place of the largest one: sums have another order."""

_TOLERANCE = 0.01
"""And by so much of what the removal of the units changes at all."""

_Attribute = tuple[str, str]
"""Name of a module, and of a whole number that it holds."""

_Run = Callable[[nn.Module, bool], Any]
"""Calls a module with the example inputs; with such of 64 bits when told so."""

_Call = Callable[[nn.Module], Any]
"""Calls a module with inputs of its type."""


@dataclass(frozen=True)
class _Cuttable:
    """A group that can be cut, and the whole numbers that shrink with it: attribute -> how much of it one unit is."""

    group: Group
    attributes: Mapping[_Attribute, int]


@dataclass(frozen=True)
class Structure:
    """What of a module can be cut, and why the rest cannot: name of a layer -> reason."""

    groups: tuple[_Cuttable, ...] = ()
    left_whole: Mapping[str, str] = field(default_factory=dict)

    def cut(self, module: nn.Module, keep: Keep) -> tuple[nn.Module, Structure]:
        """Returns a copy of the module without the units that do not stay, and what of it can be cut further."""
        concerned = [one for one in self.groups if one.group.name in keep]
        smaller = copy.deepcopy(module)
        state = module.state_dict()
        for name, tensor in cut(state, [one.group for one in concerned], keep).items():
            if tensor.shape != state[name].shape:
                set_tensor(smaller, name, tensor)
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


def structure_of(module: nn.Module, run: _Run) -> Structure:
    """Returns what of a module can be cut.

    Args:
        module: is left as it is.
        run: calls it, or a copy, with the example inputs; the same result each time.

    Raises:
        MissingExtra: without Torch-Pruning.
    """
    groups: list[_Cuttable] = []
    left_whole: dict[str, str] = {}
    precise, call, whole = _precisely(module, run)
    for found in _coupled(module, run):
        reason = found.reason or _obstacle(module, found)
        guesses = list(_guesses(module, found)) if reason is None else []
        if reason is None and not guesses:
            reason = "its heads are no equal parts that could go one by one"
        for one in guesses:
            reason = _objection(precise, one, call, whole)
            if reason is None:
                groups.append(one)
                break
        if reason is not None:
            left_whole |= dict.fromkeys(found.writers, reason)
    return Structure(tuple(groups), left_whole)


def _precisely(module: nn.Module, run: _Run) -> tuple[nn.Module, _Call, list[Tensor]]:
    """Returns the module with numbers of 64 bits where it can have such, how it is called, and what it gives then.

    With those of 32 bits, what a few units do drowns in the rounding of a large result.
    """
    tries: list[tuple[nn.Module, bool]] = [(copy.deepcopy(module).double(), True), (module, False)]
    for one, double in tries:

        def call(model: nn.Module, double: bool = double) -> Any:
            return run(model, double)

        try:
            with torch.no_grad():
                return one, call, tensors_in(call(one))
        except RuntimeError:  # of a type that is written down inside of it
            if not double:
                raise
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class _Coupled:
    """Layers that write and read the same units, by name; or why they are left whole."""

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]
    reason: str | None


def _coupled(module: nn.Module, run: _Run) -> Iterator[_Coupled]:
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
            forward_fn=lambda model, _: run(model, False),
            output_transform=lambda result: [tensor for tensor in tensors_in(result) if tensor.requires_grad],
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


def _objection(module: nn.Module, one: _Cuttable, call: _Call, whole: list[Tensor]) -> str | None:
    """Returns why a cut is not believed; None when it gives what the whole module does if nobody reads those units.

    It is tried twice, and has to come much nearer to that than the whole module is: otherwise it was no proof.
    """
    group, generator = one.group, torch.Generator().manual_seed(0)
    for share in (0.5, 0.3):
        order = torch.randperm(group.size, generator=generator)
        gone, kept = order.tensor_split([max(1, round(share * group.size))])
        unread = copy.deepcopy(module)
        with torch.no_grad():
            for member in group.members:
                if member.dim == 1:
                    unread.get_parameter(member.name)[:, member.index[gone].flatten()] = 0
            expected = tensors_in(call(unread))
            smaller, _ = Structure((one,)).cut(module, {group.name: kept.sort().values})
            try:
                found = tensors_in(call(smaller))
            except (RuntimeError, ValueError, AssertionError):  # what modules say of a shape that they did not expect
                return "what is left of it does not run"
        if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
            return "what is left gives results of another shape"
        numbers = [place for place, then in enumerate(expected) if then.is_floating_point() and then.numel()]
        effects = {place: float((whole[place] - expected[place]).abs().max()) for place in numbers}
        noises = {
            place: _ROUNDINGS * torch.finfo(expected[place].dtype).eps * float(expected[place].abs().max())
            for place in numbers
        }
        if not any(effects[place] > noises[place] / _TOLERANCE for place in numbers):
            return "its units change the result of the example inputs too little to tell; give others"
        for place in numbers:
            deviation = float((found[place] - expected[place]).abs().max())
            if not deviation <= noises[place] + _TOLERANCE * effects[place]:
                return "what is left does not give what it should"
    return None


def tensors_in(result: Any) -> list[Tensor]:
    """Returns the tensors of what a module gives: a tensor, or tuples, lists and mappings of such."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
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

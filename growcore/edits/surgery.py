"""The one place where networks change: edits are applied to weights, neighbours, norms and optimizer.

An edit is a value that carries what it applies. `apply` does all of a list of edits or, when one of them
fails, leaves model, optimizer and random state as they were.

Entries of an optimizer's state (momentum, second moments) follow their weights: those of old weights
stay, those of new, restarted and pruned ones are 0, those of removed ones are gone. An average of the
weights keeps its old entries too; for new and restarted weights it starts at the model's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from growcore.growth import Cut, GrowthProposal, MergeProposal, RemovedNeurons, remove_neurons
from growcore.networks.models import grow_pairs, resize, sparse_layers, width
from growcore.sparse import Progression, PruneMask
from growcore.sparse.connections import check_own_weight


class EditKind(StrEnum):
    """What an edit does to its layer."""

    grow = "grow"
    prune = "prune"
    remove = "remove"
    skip = "skip"  # nothing changes, and the reason says why


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One change to one layer, applied by `apply`."""

    layer: str  # whose neurons or connections they are, as `grow_pairs`, `sparse_layers` name it
    kind: EditKind
    # What is applied; None where nothing is.
    proposal: GrowthProposal | MergeProposal | PruneMask | RemovedNeurons | None
    reason: str  # for people: "largest first-order improvement (0.031) at epoch 4"
    measured: Mapping[str, float] = field(default_factory=dict)  # plain figures behind the decision


@dataclass(frozen=True, slots=True)
class Applied:
    """What one edit did."""

    edit: Edit
    number: int  # neurons gained or removed, or connections that are alive no more
    progress: Progression | None = None  # of a pruning

    @property
    def counts(self) -> dict[str, float]:
        """Plain counts of a pruning; empty for what concerns neurons."""
        if self.progress is None:
            return {}
        return {
            "kept": self.progress.kept,
            "reinitialised": self.progress.reinitialised,
            "pruned": self.progress.pruned,
            "survivors": self.progress.survivors,
            "density": self.progress.density,
            "explored": self.progress.explored,
        }


def apply(
    edits: Sequence[Edit],
    model: nn.Module,
    optimizer: Optimizer | None = None,
    generator: torch.Generator | None = None,
    average: AveragedModel | None = None,
) -> list[Applied]:
    """Apply edits in order; all of them, or none.

    Args:
        edits: what to change; an edit before which another one changed the same layers must have been
            proposed for the layers as they are then.
        model: changed in place; parameters of changed shape are new objects.
        optimizer: its groups and state follow the parameters; None where there is none.
        generator: draws restarted connections; None: torch's own.
        average: a running average of the model's weights, changed along; None where there is none.

    Raises:
        ValueError: an edit names a layer that the model does not have or does not fit it, or the average is
            of another model; model, optimizer, generator and average are then as before, to the last bit.
    """
    if average is not None:
        _check_average(average, model)
    networks = [model] if average is None else [model, average]
    memory = _Memory(networks, optimizer, generator)
    try:
        return [_apply_with_average(edit, model, optimizer, generator, average) for edit in edits]
    except BaseException:
        memory.restore()
        raise


def _apply_with_average(
    edit: Edit,
    model: nn.Module,
    optimizer: Optimizer | None,
    generator: torch.Generator | None,
    average: AveragedModel | None,
) -> Applied:
    if edit.proposal is None:
        return Applied(edit, 0)
    applied = _apply_one(edit, edit.proposal, model, optimizer, generator)
    if average is None:
        return applied
    if applied.progress is not None:
        _average_pruned(average.module, model, edit.layer, applied.progress.reset)
    elif isinstance(edit.proposal, RemovedNeurons):
        remove_neurons(grow_pairs(average.module)[edit.layer], edit.proposal.keep)
    else:
        _average_grown(average.module, model, edit.layer)
    return applied


def _check_average(average: AveragedModel, model: nn.Module) -> None:
    shapes, own = (
        {name: tuple(p.shape) for name, p in network.named_parameters()}
        for network in (average.module, model)
    )
    differing = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
    if differing:
        raise ValueError(
            f"an average has the parameters of its model; they differ in {', '.join(differing)}. Make it "
            f"from this model with AveragedModel(model), and pass it to every edit."
        )


@torch.no_grad()
def _average_grown(average: nn.Module, model: nn.Module, layer: str) -> None:
    """Give the average the shapes of the grown model; its old entries stay, new ones are the model's."""
    before = {name: tensor.clone() for name, tensor in _tensors(average).items()}
    resize(average, {layer: width(grow_pairs(model)[layer])})
    values = _tensors(model)
    for name, tensor in _tensors(average).items():
        old = before.get(name)
        tensor.copy_(values[name])
        if old is not None:
            tensor[tuple(slice(size) for size in old.shape)] = old


@torch.no_grad()
def _average_pruned(average: nn.Module, model: nn.Module, layer: str, reset: Tensor) -> None:
    """Give a layer of the average the connections of the model's; restarted weights are the model's."""
    source, target = sparse_layers(model)[layer], sparse_layers(average)[layer]
    for name, buffer in source.named_buffers():
        target.get_buffer(name).copy_(buffer)
    target.weight.copy_(torch.where(reset, source.weight, target.weight))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _apply_one(
    edit: Edit,
    proposal: GrowthProposal | MergeProposal | PruneMask | RemovedNeurons,
    model: nn.Module,
    optimizer: Optimizer | None,
    generator: torch.Generator | None,
) -> Applied:
    if isinstance(proposal, GrowthProposal | MergeProposal):
        return _grow(edit, proposal, model, optimizer)
    if isinstance(proposal, RemovedNeurons):
        return _remove(edit, proposal, model, optimizer)
    return _prune(edit, proposal, model, optimizer, generator)


def _grow(
    edit: Edit, proposal: GrowthProposal | MergeProposal, model: nn.Module, optimizer: Optimizer | None
) -> Applied:
    consumer = _named(grow_pairs(model), edit.layer, "grow")
    before = dict(model.named_parameters())
    consumer.load_proposal(proposal)
    consumer.apply_change()
    consumer.delete_update()
    if optimizer is not None:
        carry_optimizer(optimizer, before, dict(model.named_parameters()))
    return Applied(edit, proposal.num_neurons)


def _remove(edit: Edit, removed: RemovedNeurons, model: nn.Module, optimizer: Optimizer | None) -> Applied:
    consumer = _named(grow_pairs(model), edit.layer, "lose neurons")
    before = dict(model.named_parameters())
    cuts = remove_neurons(consumer, removed.keep)
    if optimizer is not None:
        carry_optimizer(optimizer, before, dict(model.named_parameters()), cuts)
    return Applied(edit, removed.num_removed)


def _prune(
    edit: Edit,
    mask: PruneMask,
    model: nn.Module,
    optimizer: Optimizer | None,
    generator: torch.Generator | None,
) -> Applied:
    layer = _named(sparse_layers(model), edit.layer, "prune")
    check_own_weight(layer, edit.layer)
    progress = layer.apply_prune_mask(mask, generator=generator)
    if optimizer is not None:
        for value in optimizer.state.get(layer.weight, {}).values():
            if torch.is_tensor(value) and value.shape == layer.weight.shape:
                value[progress.reset] = 0
    return Applied(edit, progress.pruned, progress)


def carry_optimizer(
    optimizer: Optimizer,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    cuts: Sequence[Cut] = (),
) -> None:
    """Move groups and state from the parameters before an edit to those of the same name after it.

    Args:
        optimizer: changed in place.
        before: every parameter by name, as it was.
        after: every parameter by name, as it is. New entries stand at the end of each dimension; their
            state is 0.
        cuts: what was taken from which parameter of `before`; its state loses the same entries.

    Raises:
        ValueError: a parameter has vanished, appeared, or shrunk by more than the cuts, or its state has a
            shape that does not follow from the parameter's; nothing has changed then.
    """
    if before.keys() != after.keys():
        raise ValueError(
            f"an edit may resize parameters, not add or remove them; before and after differ in "
            f"{sorted(before.keys() ^ after.keys())}. Replace the optimizer instead."
        )
    cut_from = {id(cut.parameter): cut for cut in cuts}
    # All of it before anything changes.
    carried = {
        name: {
            key: _carried(name, key, value, old, after[name], cut_from.get(id(old)))
            for key, value in optimizer.state[old].items()
        }
        for name, old in before.items()
        if old in optimizer.state and old is not after[name]
    }
    successors = {id(old): after[name] for name, old in before.items() if old is not after[name]}
    for group in optimizer.param_groups:
        group["params"] = [successors.get(id(p), p) for p in group["params"]]
    for name, state in carried.items():
        optimizer.state.pop(before[name])
        optimizer.state[after[name]] = state


def _carried(name: str, key: str, value: Any, old: Tensor, new: Tensor, cut: Cut | None) -> Any:
    """An entry of the optimizer's state; what is kept per weight loses and gains what the weight did.

    What is kept per row or column of the weight (its other dimensions 1, as in Adafactor's factors) does so
    along that dimension; there is no weight's own part of it, so new entries are the mean of the old ones
    and estimates for old weights stay.
    """
    if not torch.is_tensor(value):
        _check_holds_no_tensors(name, key, value)
        return value
    if value.dim() == 0:
        return value
    per_weight = value.shape == old.shape
    if not per_weight and not _is_factor(value, old, new, cut):
        raise ValueError(
            f"The optimizer's state {key!r} of {name} has shape {tuple(value.shape)}, the weight "
            f"{tuple(old.shape)}: how it follows a weight that becomes {tuple(new.shape)} is not known. Use "
            f"an optimizer that keeps its state per weight (SGD, Adam, AdamW, RMSprop), or begin with a new "
            f"optimizer after the edit."
        )
    left = value
    if cut is not None and value.shape[cut.dim] == old.shape[cut.dim]:
        left = cut.of(value)
    shape = new.shape if per_weight else _factor_shape(value, new)
    if any(after < before for before, after in zip(left.shape, shape, strict=True)):
        raise ValueError(f"{name} of shape {tuple(left.shape)} shrank to {tuple(shape)}.")
    fill = 0.0 if per_weight or not left.numel() else left.mean()
    padded = torch.zeros(shape, dtype=left.dtype, device=new.device) + fill
    padded[tuple(slice(0, size) for size in left.shape)] = left
    return padded


def _is_factor(value: Tensor, old: Tensor, new: Tensor, cut: Cut | None) -> bool:
    """Whether every dimension is the weight's own or 1, and which of the two can be told where it changes."""
    if value.dim() != old.dim():
        return False
    changed = [before != after for before, after in zip(old.shape, new.shape, strict=True)]
    if cut is not None:
        changed[cut.dim] = True
    sizes = zip(value.shape, old.shape, changed, strict=True)
    return all((size in (1, whole)) and not (moved and whole == 1) for size, whole, moved in sizes)


def _factor_shape(value: Tensor, new: Tensor) -> tuple[int, ...]:
    return tuple(1 if size == 1 else whole for size, whole in zip(value.shape, new.shape, strict=True))


def _check_holds_no_tensors(name: str, key: str, value: Any) -> None:
    """Raise a ValueError where an entry is a collection of tensors."""
    held = value.values() if isinstance(value, Mapping) else value
    if isinstance(held, str | bytes) or not isinstance(held, Iterable):
        return
    if any(torch.is_tensor(entry) and entry.dim() > 0 for entry in held):
        raise ValueError(
            f"The optimizer's state {key!r} of {name} is a {type(value).__name__} of tensors: how it follows "
            f"a weight of another shape is not known. Use an optimizer that keeps its state per weight (SGD, "
            f"Adam, AdamW, RMSprop), or begin with a new optimizer after the edit."
        )


def _named(layers: Mapping[str, Any], name: str, verb: str) -> Any:
    if name not in layers:
        raise ValueError(f"No layer {name!r} can {verb}. Layers that can: {', '.join(layers) or 'none'}.")
    return layers[name]


class _Memory:
    """Networks, optimizer and generator as they are now, to go back to."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        optimizer: Optimizer | None,
        generator: torch.Generator | None,
    ) -> None:
        self.modules = [(module, _shallow(module)) for net in networks for module in net.modules()]
        tensors = [tensor for net in networks for tensor in (*net.parameters(), *net.buffers())]
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self.gradients = [(p, p.grad) for net in networks for p in net.parameters()]
        self.optimizer = optimizer
        if optimizer is not None:
            self.groups = [dict(group, params=list(group["params"])) for group in optimizer.param_groups]
            self.state = [(p, _cloned(state)) for p, state in optimizer.state.items()]
        self.generator = generator
        self.random_state = torch.get_rng_state() if generator is None else generator.get_state()

    def restore(self) -> None:
        for module, attributes in self.modules:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        with torch.no_grad():
            for tensor, value in self.tensors:
                tensor.copy_(value)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        if self.optimizer is not None:
            for group, saved in zip(self.optimizer.param_groups, self.groups, strict=True):
                group.update(saved)
            self.optimizer.state.clear()
            self.optimizer.state.update(self.state)
        if self.generator is None:
            torch.set_rng_state(self.random_state)
        else:
            self.generator.set_state(self.random_state)


def _shallow(module: nn.Module) -> dict[str, Any]:
    """A module's attributes, with its own dictionaries of parameters, buffers and children copied."""
    return {key: value.copy() if isinstance(value, dict) else value for key, value in module.__dict__.items()}


def _cloned(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if torch.is_tensor(value) else value for key, value in state.items()}

"""Neurons: which of them are active, alive or dead over data, which to keep, and how a layer widens.

A *neuron* is an output feature of a linear layer or an output channel of a convolution. Activations are
shaped N x C x ... : samples, neurons, positions. A neuron is *active* where it gives anything but 0, if not
told otherwise. It is *alive* if it is active more often than at a given share of (sample, position) pairs,
else *dead*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from growcore.config import suggest_name
from growcore.growth import GrowingModule, MergeGrowingModule
from growcore.growth.normalization import check_growable, grow_function
from growcore.growth.resizing import replace_parameters
from growcore.sparse.observation import is_recomputing

RELATIONS = ("equal", "unequal", "greater", "between")
Bound = float | Tensor


def check_active(x: Tensor, y: Bound | tuple[Bound, Bound], relation: str = "equal") -> Tensor:
    """Which activations stand in a relation to a value.

    Args:
        x: activations of any shape.
        y: a number or a tensor that broadcasts to x; for `between` a pair (low, high) of them.
        relation: one of RELATIONS: x == y, x != y, x > y, or low <= x <= high.

    Returns:
        bool, shaped like x.

    Raises:
        ValueError: an unknown relation, or y a pair for another relation than `between` or the reverse.
    """
    if relation not in RELATIONS:
        raise ValueError(f"Unknown relation {relation!r}. {suggest_name(relation, RELATIONS)}")
    if isinstance(y, tuple) != (relation == "between"):
        raise ValueError(
            f"'between' compares with a pair (low, high), the other relations with one number or tensor; "
            f"got relation={relation!r} and y of type {type(y).__name__}. "
            "Use check_active(x, (low, high), 'between') or check_active(x, y, 'greater')."
        )
    if isinstance(y, tuple):
        return (x >= y[0]) & (x <= y[1])
    if relation == "greater":
        return x > y
    return x != y if relation == "unequal" else x == y


class NeuronActivity:
    """How often each neuron of a layer was active, summed over data.

    Args:
        y: what activations are compared with, as in `check_active`.
        relation: one of RELATIONS.
    """

    def __init__(self, y: Bound | tuple[Bound, Bound] = 0.0, relation: str = "unequal") -> None:
        check_active(torch.zeros(1), y, relation)
        self.y, self.relation = y, relation
        self.num_active: Tensor | None = None  # C, float64 counts
        self.num_seen = 0  # samples times positions

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Count a batch of activations, N x C x ...

        Raises:
            ValueError: no neuron dimension, or another number of neurons than before; nothing is counted.
        """
        if x.dim() < 2:
            raise ValueError(
                f"activations are shaped N x C x ... (samples, neurons, positions); got shape "
                f"{tuple(x.shape)}. Add the missing dimension with unsqueeze."
            )
        if self.num_active is not None and self.num_active.shape[0] != x.shape[1]:
            raise ValueError(
                f"a layer's activity is counted for a fixed number of neurons; it had "
                f"{self.num_active.shape[0]}, now {x.shape[1]}. Call reset() after the layer has changed."
            )
        counts = self._indicator(x).flatten(2).sum(-1) if x.dim() > 2 else self._indicator(x)
        total = counts.sum(0, dtype=torch.float64)
        self.num_active = total if self.num_active is None else self.num_active + total
        self.num_seen += x.numel() // x.shape[1]

    def _indicator(self, x: Tensor) -> Tensor:
        if self.relation in ("greater", "unequal") and not isinstance(self.y, tuple):
            # Comparing into floats, which sum fast, takes a fifth of the time of summing bools.
            out = torch.empty_like(x, dtype=torch.float32)
            compare = torch.gt if self.relation == "greater" else torch.ne
            return compare(x, torch.as_tensor(self.y, device=x.device), out=out)
        return check_active(x, self.y, self.relation).float()

    def frequencies(self) -> Tensor:
        """Share of (sample, position) pairs at which each neuron was active: C values in [0, 1].

        Raises:
            ValueError: nothing was counted.
        """
        if self.num_active is None or self.num_seen == 0:
            raise ValueError("no activations were counted; call update(x) on at least one batch first.")
        return self.num_active / self.num_seen

    def alive(self, min_frequency: float = 0.0) -> Tensor:
        """Bool for each neuron: active more often than `min_frequency`."""
        return self.frequencies() > min_frequency

    def dead_fraction(self, min_frequency: float = 0.0) -> float:
        """Share of neurons that are not alive."""
        return 1 - float(self.alive(min_frequency).float().mean())

    def reset(self) -> None:
        """Forget all counts."""
        self.num_active, self.num_seen = None, 0


def alive(
    activations: Tensor | Iterable[Tensor],
    y: Bound | tuple[Bound, Bound] = 0.0,
    relation: str = "unequal",
    min_frequency: float = 0.0,
) -> Tensor:
    """Which neurons are alive over data.

    Args:
        activations: N x C x ..., one batch or many.
        y: what they are compared with, as in `check_active`.
        relation: one of RELATIONS.
        min_frequency: alive means active more often than this share of (sample, position) pairs.

    Returns:
        bool, one for each of the C neurons.

    Raises:
        ValueError: no batch, or as `check_active`.
    """
    activity = NeuronActivity(y, relation)
    for batch in [activations] if isinstance(activations, Tensor) else activations:
        activity.update(batch)
    return activity.alive(min_frequency)


@contextmanager
def observe_activity(
    layers: Mapping[str, nn.Module],
    interval: int = 20,
    y: Bound | tuple[Bound, Bound] = 0.0,
    relation: str = "unequal",
) -> Iterator[dict[str, NeuronActivity]]:
    """Count the activity of layers' outputs while the block runs.

    Args:
        layers: name to module; its output is what is counted, so name the nonlinearity's module (or
            compare pre-activations with what makes the nonlinearity's output vanish).
        interval: of so many training forwards of a module the first is counted; evaluation is not, nor what
            activation checkpointing computes once more.
        y: what outputs are compared with, as in `check_active`.
        relation: one of RELATIONS.

    Yields:
        one NeuronActivity for each name, filled as the modules run.
    """
    if interval < 1:
        raise ValueError(
            f"interval counts training forwards and must be at least 1; got interval={interval}. "
            "Use 1 to count every forward."
        )
    activities = {name: NeuronActivity(y, relation) for name in layers}
    handles = [
        layer.register_forward_hook(_CountEvery(interval, activities[name])) for name, layer in layers.items()
    ]
    try:
        yield activities
    finally:
        for handle in handles:
            handle.remove()


class _CountEvery:
    def __init__(self, interval: int, activity: NeuronActivity) -> None:
        self.interval, self.activity, self.num_forwards = interval, activity, 0

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if module.training and not is_recomputing():
            if self.num_forwards % self.interval == 0:
                self.activity.update(output)
            self.num_forwards += 1


def neurons_to_keep(
    frequencies: Tensor, min_frequency: float = 0.0, max_removed: int | None = None, min_left: int = 1
) -> Tensor:
    """Decide which neurons stay: those active more often than `min_frequency`, within bounds.

    Args:
        frequencies: activity (or any strength) of each of C neurons; the weakest go first, of equals the
            one with the higher index.
        min_frequency: neurons at or below it go.
        max_removed: at most so many go; None: no bound.
        min_left: at least so many stay.

    Returns:
        bool, C; True stays.

    Raises:
        ValueError: bounds out of range.
    """
    num_neurons = frequencies.shape[0]
    if not 0 <= min_left <= num_neurons or (max_removed is not None and max_removed < 0):
        raise ValueError(
            f"need 0 <= min_left <= number of neurons and max_removed >= 0; got min_left={min_left}, "
            f"max_removed={max_removed} for {num_neurons} neurons. Use min_left=1, max_removed=None."
        )
    num_weak = int((frequencies <= min_frequency).sum())
    bounds = [num_weak, num_neurons - min_left, num_weak if max_removed is None else max_removed]
    strongest_first = frequencies.argsort(descending=True, stable=True)
    keep = torch.zeros(num_neurons, dtype=torch.bool, device=frequencies.device)
    keep[strongest_first[: num_neurons - min(bounds)]] = True
    return keep


@overload
def widen(x: Tensor, factor: float = 1.3, generator: torch.Generator | None = None) -> Tensor: ...


@overload
def widen(
    x: nn.Module,
    factor: float = 1.3,
    generator: torch.Generator | None = None,
    *,
    neighbour: nn.Module,
    between: nn.Module | None = None,
    preserve_function: bool = False,
) -> int: ...


def widen(
    x: Tensor | nn.Module,
    factor: float = 1.3,
    generator: torch.Generator | None = None,
    *,
    neighbour: nn.Module | None = None,
    between: nn.Module | None = None,
    preserve_function: bool = False,
) -> Tensor | int:
    """A tensor with noise on both ends of its last dimension, or a layer with more neurons, in place.

    The noise is normal, with mean 0 and the standard deviation of what is widened.

    Args:
        x: a tensor, ... x n: its entries stay, in the middle, and gradients reach them. Or a layer, linear,
            convolution or growing module: its neurons stay, first, and so do its pruned connections;
            parameters become new objects (`growcore.edits.surgery.carry_optimizer` tells an optimizer).
        factor: the new size is about factor * n; the number of new entries is even, of a tensor half before
            and half after (5 entries at factor 1.3 become 7).
        generator: draws the noise; None: torch's global one.
        neighbour: of a layer, the one that reads it and nothing else; it gains the inputs.
        between: what stands between the two, where it is neither part of the layer nor a merge that the
            neighbour names as its previous module: a BatchNorm, or an nn.Sequential that may hold a LayerNorm
            or GroupNorm too (those are replaced in it). It is widened along.
        preserve_function: of a layer, whether the two compute the same at first; see `widen_pair`.

    Returns:
        The widened tensor, or the number of new neurons.

    Raises:
        ValueError: factor below 1, fewer than 2 entries, which have no standard deviation, a neighbour that
            does not read the layer, or something between that cannot be widened; nothing has changed then.
    """
    if isinstance(x, nn.Module):
        return _widen_layer(x, neighbour, between, factor, preserve_function, generator)
    num_new = num_new_neurons(x.shape[-1], factor)
    half = (*x.shape[:-1], num_new // 2)
    return torch.cat([_noise(x, half, generator), x, _noise(x, half, generator)], dim=-1)


def num_new_neurons(size: int, factor: float) -> int:
    """Entries that `widen` adds to `size` of them: round(factor * size) - size, or one more where odd.

    Raises:
        ValueError: factor below 1.
    """
    if not factor >= 1:
        raise ValueError(f"widening needs factor >= 1; got factor={factor}. Use neurons_to_keep to narrow.")
    num_new = round(size * factor) - size
    return num_new + num_new % 2


@dataclass(frozen=True, slots=True)
class Widened:
    """Tensors of a layer and of the one that reads it, with new neurons after the old ones."""

    weight: Tensor  # (old + new) x ...
    bias: Tensor | None  # old + new
    next_weight: Tensor  # O x (old + new) * columns x ...
    num_new: int


def widen_pair(
    weight: Tensor,
    bias: Tensor | None,
    next_weight: Tensor,
    factor: float = 1.3,
    *,
    preserve_function: bool = False,
    generator: torch.Generator | None = None,
) -> Widened:
    """Give a layer more neurons, with noise of the layers' own standard deviations.

    To preserve the function new neurons come in pairs: equal incoming weights, opposite outgoing ones. So
    they cancel whatever stands between the layers, and still gradients reach every new weight (outgoing
    weights of zero would keep them from the incoming ones).

    Args:
        weight: of the layer, C x ...; its first dimension grows.
        bias: C, or None. New entries copy its spread, or are 0 where it has none.
        next_weight: of the layer that reads it, O x C * columns x ...: several columns for each neuron
            where a convolution is flattened into a linear layer.
        factor: as in `widen`.
        preserve_function: whether the pair of layers computes the same at first.
        generator: draws the noise; None: torch's global one.

    Raises:
        ValueError: factor below 1, or next_weight does not read C neurons.
    """
    num_old = weight.shape[0]
    if num_old == 0 or next_weight.shape[1] == 0 or next_weight.shape[1] % num_old:
        raise ValueError(
            f"the next layer must read the {num_old} neurons of this one, each with as many columns; got "
            f"weights of shape {tuple(weight.shape)} and {tuple(next_weight.shape)}. Pass neighbours."
        )
    num_new = num_new_neurons(num_old, factor)
    columns = num_new * (next_weight.shape[1] // num_old)
    num_drawn, drawn_columns = (num_new // 2, columns // 2) if preserve_function else (num_new, columns)
    incoming = _noise(weight, (num_drawn, *weight.shape[1:]), generator)
    outgoing = _noise(next_weight, (next_weight.shape[0], drawn_columns, *next_weight.shape[2:]), generator)
    new_bias = None
    if bias is not None:
        new_bias = _noise(bias, (num_drawn,), generator) if num_old > 1 else bias.new_zeros(num_drawn)
    if preserve_function:
        incoming, outgoing = torch.cat([incoming, incoming]), torch.cat([outgoing, -outgoing], dim=1)
        new_bias = None if new_bias is None else torch.cat([new_bias, new_bias])
    return Widened(
        weight=torch.cat([weight, incoming]),
        bias=None if bias is None or new_bias is None else torch.cat([bias, new_bias]),
        next_weight=torch.cat([next_weight, outgoing], dim=1),
        num_new=num_new,
    )


def _widen_layer(
    layer: nn.Module,
    neighbour: nn.Module | None,
    between: nn.Module | None,
    factor: float,
    preserve_function: bool,
    generator: torch.Generator | None,
) -> int:
    inner, reader = _weighted(layer), _weighted(neighbour)
    function = layer.post_layer_function if isinstance(layer, GrowingModule) else nn.Identity()
    merge = neighbour.previous_module if isinstance(neighbour, GrowingModule) else None
    for part in (
        function,
        between,
        merge.post_merge_function if isinstance(merge, MergeGrowingModule) else None,
    ):
        if part is not None:
            check_growable(part)
    _check_stays_in_place(between)
    new = widen_pair(
        inner.weight.detach(),
        None if inner.bias is None else inner.bias.detach(),
        reader.weight.detach(),
        factor,
        preserve_function=preserve_function,
        generator=generator,
    )
    replace_parameters(inner, new.weight, new.bias)
    replace_parameters(reader, new.next_weight, reader.bias)
    if isinstance(layer, GrowingModule):
        layer.post_layer_function = grow_function(function, new.num_new)
    if between is not None:
        grow_function(between, new.num_new)
    if isinstance(merge, MergeGrowingModule):
        merge.post_merge_function = grow_function(merge.post_merge_function, new.num_new)
    return new.num_new


def _check_stays_in_place(between: nn.Module | None) -> None:
    """Raise a ValueError for a normalisation that another module would have to take the place of."""
    if type(between) in (nn.LayerNorm, nn.GroupNorm):
        raise ValueError(
            f"a {type(between).__name__} is replaced by one that grows when it is widened, so it must stand "
            f"in an nn.Sequential; got it alone as between. Call widen(..., between=nn.Sequential(norm))."
        )


def _weighted(module: nn.Module | None) -> nn.Linear | nn.Conv2d:
    """The linear layer or convolution that a module is or holds."""
    layer = module.layer if isinstance(module, GrowingModule) else module
    if not isinstance(layer, nn.Linear | nn.Conv2d) or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
        raise ValueError(
            f"widening takes an ungrouped linear or convolution layer and, as neighbour, the one that reads "
            f"it; got {layer}. Call widen(layer, factor, neighbour=next_layer)."
        )
    return layer


def _noise(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    if like.numel() < 2:
        raise ValueError(
            f"a standard deviation needs at least 2 entries; got a tensor of shape {tuple(like.shape)}. "
            "Widen a layer with more weights, or draw the new entries with an initialiser."
        )
    device = generator.device if generator is not None else like.device
    noise = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device) * like.detach().std()

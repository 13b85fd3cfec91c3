"""What a layer knows of its connections: a mask, strengths, and how both change.

Strengths accumulate during training forwards; at a progression a pure function shares out the
connections (`propose_progression`) and the layer acts on it (`apply_prune_mask`). Mask, strengths and
counters are part of the `state_dict`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, TypedDict

import torch
from torch import Tensor, nn

from growcore.sparse import selection
from growcore.sparse.geometry import ConvGeometry, Geometry
from growcore.sparse.observation import (
    add_measured,
    is_first_with_gradient,
    is_recomputing,
    observe,
    pack,
)
from growcore.sparse.ranks import same_on_every_rank
from growcore.sparse.selection import PruneMask
from growcore.sparse.strength import check_threshold, find_strength, random, widen
from growcore.sparse.units import Units

# Draws a weight tensor in place, as torch.nn.init's functions do: called as init(tensor, generator=...).
WeightInit = Callable[..., object]
torch_default_init: WeightInit = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))


@dataclass(frozen=True, slots=True)
class Progression:
    """What one progression did to a layer's connections."""

    kept: int  # kept the weight they had
    reinitialised: int  # got a new weight: the K2 - K1 and the pruned ones among the strongest K1
    pruned: int  # are dead afterwards; kept + reinitialised + pruned is all connections
    survivors: int  # were re-initialised last time and keep that weight now
    density: float  # share of connections alive afterwards
    explored: float  # share of connections ever alive
    reset: Tensor  # bool, shaped like the weight: re-drawn or zeroed, so optimizer state there is void


class SparseSettings(TypedDict, total=False):
    """How a layer judges its connections; defaults in `SparseConnections._start_connections`."""

    strength: str  # a name in growcore.sparse.strength.STRENGTHS
    activity_threshold: float  # active means sigmoid(value) > threshold, in [0.5, 1)
    k1: float  # fraction of a scope's connections that stays
    k2: float  # fraction that is alive afterwards; the k2 - k1 between restart
    prune_dims: Sequence[int]  # dimensions of which every index is a scope of its own
    update_interval: int  # training forwards between two measurements of strength
    weight_init: WeightInit  # draws weights in place; default: torch's own


class SparseConnections(nn.Module):
    """What DSConv2d and DSLinear share: the mask and how it changes. Not for use alone.

    Attributes:
        mask: bool, shaped like the weight; True is alive. Pruned weights act as zero whatever they hold.
        connections_tensor: strengths accumulated since the last progression, at least float32.
        explored: bool; connections ever alive.
        restarted: bool; connections re-initialised at the last progression.

    Copies of a model keep them, and so does an average of it; one made with `use_buffers=True` would average
    masks, so let `growcore.edits.surgery` apply what changes them: it gives the average the model's own.
    """

    weight: Tensor
    mask: Tensor
    connections_tensor: Tensor
    explored: Tensor
    restarted: Tensor
    reads_units = True  # whether its inputs are units of a network; the first layer's are pixels

    def _start_connections(
        self,
        *,
        strength: str = "coactivation",
        activity_threshold: float = 0.5,
        k1: float = 0.1,
        k2: float = 0.15,
        prune_dims: Sequence[int] = (),
        update_interval: int = 20,
        weight_init: WeightInit = torch_default_init,
    ) -> None:
        _check_settings(self.weight, strength, activity_threshold, k1, k2, prune_dims, update_interval)
        self.strength = strength
        self.activity_threshold = activity_threshold
        self.k1, self.k2 = k1, k2
        self.prune_dims = tuple(prune_dims)
        self.update_interval = update_interval
        self.weight_init = weight_init
        self._num_forwards = torch.tensor(
            0, device="cpu"
        )  # stays there, where the layer reads it at every forward
        self._warned_of_small_scopes = False
        if weight_init is not torch_default_init:
            self._draw_into(self.weight)
        alive = torch.ones_like(self.weight, dtype=torch.bool)
        self.register_buffer("mask", alive)
        self.register_buffer("connections_tensor", torch.zeros_like(widen(self.weight.detach())))
        self.register_buffer("explored", alive.clone())
        self.register_buffer("restarted", torch.zeros_like(alive))

    @property
    def geometry(self) -> Geometry:
        """How this layer joins inputs to outputs."""
        raise NotImplementedError

    @property
    def units(self) -> Units:
        """What its connections join; each unit keeps one of them."""
        groups = self.geometry.groups if isinstance(self.geometry, ConvGeometry) else 1
        return Units(groups, self.reads_units)

    @property
    def num_measurements(self) -> int:
        """How many batches strengths were measured on so far; each cost one weight gradient."""
        if find_strength(self.strength).measure is None:
            return 0
        return -(-self.learning_iterations // self.update_interval)

    @property
    def density(self) -> float:
        """Share of connections alive."""
        return int(self.mask.sum()) / self.mask.numel()

    def masked_weight(self) -> Tensor:
        """The weight in effect: pruned entries, and their gradients, are exactly zero."""
        return torch.where(self.mask, self.weight, 0)

    @property
    def learning_iterations(self) -> int:
        """Training forwards so far."""
        return int(self._num_forwards)

    @learning_iterations.setter
    def learning_iterations(self, count: int) -> None:
        self._num_forwards = torch.tensor(count, device="cpu")

    def _observe(self, input_tensor: Tensor, output_tensor: Tensor) -> None:
        """Count a training forward and measure strengths when it is time.

        A forward that activation checkpointing computes once more, within the backward pass, is counted once.
        """
        kind = find_strength(self.strength)
        if kind.observes_gradient:
            self._observe_gradient(input_tensor, output_tensor)
        elif kind.measure is not None and torch.compiler.is_compiling():
            settings = (self.strength, self.activity_threshold, self.update_interval)
            x, y = input_tensor.detach(), output_tensor.detach()
            observe(x, y, self.connections_tensor, self._num_forwards, *settings, *pack(self.geometry))
        elif torch.compiler.is_compiling():
            self._num_forwards += 1
        elif not is_recomputing():
            if kind.measure is not None and self.learning_iterations % self.update_interval == 0:
                self.update_connections_tensor(input_tensor, output_tensor)
            self._num_forwards += 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _observe_gradient(self, input_tensor: Tensor, output_tensor: Tensor) -> None:
        # Such strengths learn from training steps only: a forward without gradient is none.
        if not output_tensor.requires_grad or not is_first_with_gradient():
            return
        if self.learning_iterations % self.update_interval == 0:
            x = input_tensor.detach()
            output_tensor.register_hook(lambda gradient: self.update_connections_tensor(x, gradient))
        self._num_forwards += 1

    @torch.no_grad()
    def update_connections_tensor(self, input_tensor: Tensor, output_tensor: Tensor) -> None:
        """Measure every connection's strength on one batch and add it to what has accumulated.

        Args:
            input_tensor: input of the layer, before padding.
            output_tensor: its output; for strengths made of gradients, the gradient of its output.

        Raises:
            ValueError: the strength is not measured on batches (magnitude, random).
        """
        add_measured(
            input_tensor,
            output_tensor,
            self.connections_tensor,
            self.strength,
            self.activity_threshold,
            self.geometry,
        )

    @torch.no_grad()
    def strengths(self, generator: torch.Generator | None = None) -> Tensor:
        """What connections are ranked by now, shaped like the weight; only `random` draws anything."""
        kind = find_strength(self.strength)
        return kind.rank(self.connections_tensor, self.masked_weight(), generator)

    def propose_progression(self, generator: torch.Generator | None = None) -> PruneMask:
        """Share out the connections by `k1`, `k2`, `prune_dims` and the strengths; changes nothing.

        Strengths that were never measured are all equal, so that index alone ranks them.

        Args:
            generator: of `strength="random"`; None: torch's global one.

        Raises:
            ValueError: k1, k2 or prune_dims out of range, strengths that are not finite.
        """
        return self._share_out(self.strengths(generator))

    def _share_out(self, strengths: Tensor) -> PruneMask:
        mask = selection.rank_within_scopes(strengths, self.k1, self.k2, self.prune_dims, self.units)
        self._warn_of_small_scopes()
        return mask

    @torch.no_grad()
    def apply_prune_mask(self, mask: PruneMask, generator: torch.Generator | None = None) -> Progression:
        """Keep, restart and prune as told; then strengths start again from zero.

        The weight stays the same Parameter. An optimizer's state where `Progression.reset` is True belongs
        to weights that are gone: set it to zero.

        Args:
            mask: bool tensors shaped like the weight.
            generator: draws the new weights; None: torch's global one.

        Raises:
            ValueError: a mask of another shape, or a weight that is computed from other parameters; the
                layer is then unchanged.
        """
        check_own_weight(self)
        if mask.keep.shape != self.weight.shape:
            raise ValueError(
                f"a prune mask must have the shape of the layer's weight {tuple(self.weight.shape)}; "
                f"got {tuple(mask.keep.shape)}. Propose it anew after the layer has grown."
            )
        keep, alive = mask.keep.to(self.mask.device), mask.alive.to(self.mask.device)
        kept = keep & self.mask
        redrawn = alive & ~kept
        progress = self._count(kept, redrawn, alive)
        fresh = torch.zeros_like(self.weight) if mask.restart_at_zero else self.draw_weights(generator)
        self.weight.copy_(torch.where(kept, self.weight, torch.where(redrawn, fresh, 0)))
        self.mask.copy_(alive)
        self.explored |= alive
        self.restarted.copy_(redrawn)
        self.connections_tensor.zero_()
        return progress

    def _count(self, kept: Tensor, redrawn: Tensor, alive: Tensor) -> Progression:
        total = alive.numel()
        num_alive = int(alive.sum())
        return Progression(
            kept=int(kept.sum()),
            reinitialised=int(redrawn.sum()),
            pruned=total - num_alive,
            survivors=int((self.restarted & kept).sum()),
            density=num_alive / total,
            explored=int((self.explored | alive).sum()) / total,
            reset=~kept,
        )

    def progress_connections(self, generator: torch.Generator | None = None) -> Progression:
        """Keep the strongest connections of each scope, restart the next, prune the rest.

        Args:
            generator: draws new weights (and random strengths); None: torch's global one.

        Raises:
            ValueError: as `propose_progression`; the layer is then unchanged.
        """
        return self.apply_prune_mask(self.propose_progression(generator), generator)

    def prune_randomly(self, generator: torch.Generator | None = None) -> Progression:
        """As `progress_connections` with random strengths: the control at equal scopes and counts."""
        mask = self._share_out(random(self.weight, generator))
        return self.apply_prune_mask(mask, generator)

    @torch.no_grad()
    def start_sparse(self, alive: Tensor) -> None:
        """Begin with these connections only; what was explored counts from here.

        Args:
            alive: bool, shaped like the weight.

        Raises:
            ValueError: another shape or type, or a weight that is computed from other parameters; the layer
                is then unchanged.
        """
        check_own_weight(self)
        if alive.shape != self.weight.shape or alive.dtype != torch.bool:
            raise ValueError(
                f"start_sparse needs a bool tensor of shape {tuple(self.weight.shape)}; got {alive.dtype} of "
                f"shape {tuple(alive.shape)}. Build it with growcore.sparse.allocation.random_mask."
            )
        self.mask.copy_(alive)
        self.explored.copy_(alive)
        self.restarted.zero_()
        self.connections_tensor.zero_()
        self.weight.masked_fill_(~self.mask, 0)

    @torch.no_grad()
    def draw_weights(self, generator: torch.Generator | None = None) -> Tensor:
        """New weights for the whole layer, drawn as its own were; the same on every rank.

        Drawing all of them makes the random numbers used independent of which connections restart.
        """
        fresh = torch.empty_like(self.weight, device=generator.device if generator else None)
        self._draw_into(fresh, generator)
        return same_on_every_rank(fresh.to(self.weight.device))

    @torch.no_grad()
    def _draw_into(self, weight: Tensor, generator: torch.Generator | None = None) -> None:
        self.weight_init(weight, generator=generator)

    @torch.no_grad()
    def connections_grown(self) -> None:
        """Follow a weight that was replaced by a larger one: new connections start alive.

        Old entries come first in every dimension. Pruned connections stay pruned, with weight zero.

        Raises:
            ValueError: a dimension has shrunk; the layer is then unchanged.
        """
        old, new = self.mask.shape, self.weight.shape
        if len(old) != len(new) or any(n < o for o, n in zip(old, new, strict=True)):
            raise ValueError(
                f"a layer grows by new entries at the end of its weight's dimensions; it went from "
                f"{tuple(old)} to {tuple(new)}. Build a new layer with from_conv or from_linear to shrink."
            )
        self.mask = _extended(self.mask, new, True)
        self.explored = _extended(self.explored, new, True)
        self.restarted = _extended(self.restarted, new, False)
        self.connections_tensor = _extended(self.connections_tensor, new, 0.0)
        # Growth may have moved every weight; a pruned one must not come back with a later restart.
        self.weight.masked_fill_(~self.mask, 0)

    @torch.no_grad()
    def connections_removed(self, dim: int, keep: Tensor) -> None:
        """Follow a weight that lost inputs or outputs.

        Args:
            dim: the dimension of the weight that shrank: 0 outputs, 1 inputs.
            keep: bool, for each of its old indices.

        Raises:
            ValueError: the weight now is not what `keep` leaves; the layer is then unchanged.
        """
        left = list(self.mask.shape)
        left[dim] = int(keep.sum())
        if keep.shape != (self.mask.shape[dim],) or tuple(left) != tuple(self.weight.shape):
            raise ValueError(
                f"connections are cut as the weight was; it is {tuple(self.weight.shape)} now, but the "
                f"mask of shape {tuple(self.mask.shape)} would become {tuple(left)}. Cut the weight first."
            )
        indices = keep.nonzero().flatten().to(self.mask.device)
        for name in ("mask", "explored", "restarted", "connections_tensor"):
            setattr(self, name, getattr(self, name).index_select(dim, indices))

    def get_extra_state(self) -> Tensor:
        """The counter of training forwards, for the `state_dict`."""
        return self._num_forwards.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Continue counting from a `state_dict`."""
        self.learning_iterations = int(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Sums of many frequencies need float32 also in a half-precision network.
        self.connections_tensor = widen(self.connections_tensor)
        return self

    def _warn_of_small_scopes(self) -> None:
        n = selection.scope_size(self.weight.shape, self.prune_dims)
        num_kept, num_alive = selection.scope_counts(n, self.k1, self.k2)
        if self.k1 < self.k2 and num_kept == num_alive and not self._warned_of_small_scopes:
            self._warned_of_small_scopes = True
            warnings.warn(
                f"k1={self.k1} and k2={self.k2} both keep {num_kept} of the {n} connections of a scope, so "
                f"none restarts: prune_dims={self.prune_dims} makes scopes too small. Use (0,) or ().",
                stacklevel=3,
            )


def check_own_weight(layer: nn.Module, name: str = "") -> None:
    """Raise ValueError for a layer whose weight or bias is computed from other parameters.

    Args:
        layer: linear or convolution layer.
        name: of the layer in its network, for the message.
    """
    computed = [part for part in ("weight", "bias") if part not in layer._parameters]
    if computed:
        what = f"{type(layer).__name__}({layer.extra_repr()})"
        raise ValueError(
            "connections are pruned and restarted by writing to the weight, but the "
            f"{' and '.join(computed)} of {name or 'the layer'} {what} is computed from {_sources(layer)}, "
            "so that what is written would be lost. Take weight norm, spectral norm or what else computes it "
            "off the layer first (torch.nn.utils.parametrize.remove_parametrizations), or leave it dense."
        )


def _sources(layer: nn.Module) -> str:
    return ", ".join(name for name, _ in layer.named_parameters()) or "something else"


def _check_settings(
    weight: Tensor,
    name: str,
    activity_threshold: float,
    k1: float,
    k2: float,
    prune_dims: Sequence[int],
    update_interval: int,
) -> None:
    find_strength(name)
    check_threshold(activity_threshold)
    selection.check_fractions(k1, k2)
    selection.scope_size(weight.shape, prune_dims)
    if update_interval < 1:
        raise ValueError(
            f"update_interval counts training forwards between two measurements and must be at least 1; "
            f"got update_interval={update_interval}. Use 1 to measure at every forward."
        )


def _extended(old: Tensor, shape: torch.Size, fill: float | bool) -> Tensor:
    new = old.new_full(shape, fill)
    new[tuple(slice(size) for size in old.shape)] = old
    return new

"""How the weights of new neurons are drawn when they are not solved for.

Each initialiser fills `tensor` in place from the weights it stands beside (`reference`) and the number of
inputs a neuron of the layer has (`fan_in`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Initializer = Callable[[Tensor, Tensor, int], None]


@torch.no_grad()
def copy_uniform(tensor: Tensor, reference: Tensor, fan_in: int) -> None:
    """Uniform on +-sqrt(3) times the standard deviation of the reference, so that the deviations match."""
    bound = 3**0.5 * reference_std(reference, fan_in)
    tensor.uniform_(-bound, bound)


@torch.no_grad()
def copy_normal(tensor: Tensor, reference: Tensor, fan_in: int) -> None:
    """Normal with mean 0 and the standard deviation of the reference."""
    tensor.normal_(0.0, reference_std(reference, fan_in))


@torch.no_grad()
def kaiming(tensor: Tensor, reference: Tensor, fan_in: int) -> None:
    """Normal with variance 2 / fan_in, whatever the reference holds; He et al. 2015, arXiv:1502.01852."""
    tensor.normal_(0.0, (2 / max(fan_in, 1)) ** 0.5)


@torch.no_grad()
def zeros(tensor: Tensor, reference: Tensor, fan_in: int) -> None:
    """All zero."""
    tensor.zero_()


known_inits: dict[str, Initializer] = {
    "copy_uniform": copy_uniform,
    "copy_normal": copy_normal,
    "kaiming": kaiming,
    "zeros": zeros,
}


def initializer(name: str) -> Initializer:
    """The initialiser of that name.

    Raises:
        ValueError: no initialiser has that name.
    """
    if name not in known_inits:
        raise ValueError(f"Unknown initialization {name!r}. Known: {', '.join(known_inits)}.")
    return known_inits[name]


def reference_std(reference: Tensor, fan_in: int) -> float:
    """Standard deviation of the reference, or fan_in^(-1/2) where it has none above 0."""
    deviation = float(reference.detach().std()) if reference.numel() >= 2 else 0.0
    return deviation if deviation > 0 else max(fan_in, 1) ** -0.5

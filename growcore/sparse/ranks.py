"""The processes that train one model together, and what they must agree on."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Processes that train one model together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def same_on_every_rank(drawn: Tensor) -> Tensor:
    """What rank 0 has drawn, on every rank; the tensor is overwritten in place, so it must be one's own.

    Ranks draw different numbers where they are seeded apart, as for dropout; connections must not follow.
    """
    if num_ranks() > 1:
        dist.broadcast(drawn, src=0)
    return drawn

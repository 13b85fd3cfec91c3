"""An epoch under way: all it takes to pause within it and to go on bit for bit.

Order and augmentation are not kept. The generator is set back to where the epoch began, and the batches
already trained on are drawn again and left out: a state stays small whatever the data set's size is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from growcore.networks.cost import Cost

Batch = tuple[Tensor, Tensor]  # images and labels


@dataclass(slots=True, eq=False)
class Epoch:
    """How an epoch began and what has been trained of it."""

    order: Tensor  # uint8: state of the generator of order and augmentation, where the epoch began
    noise: list[Tensor]  # uint8: states of torch's own generators, the CPU's and the GPU's, where it stands
    training_flops: int  # of one image, by the network's size where the epoch began
    sparse_training_flops: int
    total_loss: Tensor  # float32 scalar on the device: sum over the images trained on
    num_images: int = 0  # trained on so far

    @classmethod
    def begin(cls, size: Cost, generator: torch.Generator, seed: int, device: torch.device) -> Epoch:
        """An epoch before its first step.

        Args:
            size: of the network, edits of the epoch included.
            generator: will draw order and augmentation.
            seed: of dropout and its like; torch's own generators stay as they are.
            device: of the training.
        """
        with torch.random.fork_rng(devices=_gpus(device)):
            torch.manual_seed(seed)
            noise = _noise(device)
        total_loss = torch.zeros((), device=device)
        return cls(generator.get_state(), noise, size.training_flops, size.sparse_training_flops, total_loss)

    def remaining(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Those of an epoch's batches that are not trained yet; the others are drawn all the same."""
        num_left_out = self.num_images
        for x_NCHW, y_N in batches:
            if num_left_out > 0:
                num_left_out -= len(y_N)
            else:
                yield x_NCHW, y_N

    @contextmanager
    def own_noise(self) -> Iterator[None]:
        """Dropout and its like draw from torch's own generators: here from where the epoch stands."""
        device = self.total_loss.device
        with torch.random.fork_rng(devices=_gpus(device)):
            torch.set_rng_state(self.noise[0])
            for gpu, state in zip(_gpus(device), self.noise[1:], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            yield
            self.noise = _noise(device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers; `load` reads them back."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def load(cls, state: Mapping[str, Any], device: torch.device) -> Epoch:
        """The epoch of `state_dict()`, on a device; training it on leaves the state as it is."""
        # Generators read their states on the CPU, also those of a GPU.
        own = {
            "order": state["order"].cpu(),
            "noise": [noise.cpu() for noise in state["noise"]],
            "total_loss": state["total_loss"].to(device, copy=True),
        }
        return cls(**{**state, **own})


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _noise(device: torch.device) -> list[Tensor]:
    """States of torch's own generators: the CPU's, then the GPU's that a device is."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in _gpus(device))]

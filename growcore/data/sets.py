"""Where images and labels come from: the built-in data sets, as they are before any split.

Shapes: N images, C channels, H x W pixels. Labels are int64.

A data set of one's own is a function that takes a `DataConfig` and returns a `RawData`. It is found by
an entry point of the group `growcore.data`, or in the mapping `DATA_SETS = {"name": function}` of a
module that the configuration's `imports` names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names of data sets are read where torch is not wanted
    from torch import Tensor

    from growcore.config import DataConfig

NUM_SYNTHETIC = 2000  # images of the synthetic data set


@dataclass(frozen=True, slots=True, eq=False)
class RawData:
    """Images and labels as they come, before any split.

    `x_test` and `y_test` are None where the source has no test part; one is then split off by seed.
    """

    x_train_NCHW: Tensor  # uint8
    y_train_N: Tensor  # int64, 0 .. num_classes - 1
    x_test_NCHW: Tensor | None
    y_test_N: Tensor | None
    class_names: tuple[str, ...]


Loader = Callable[["DataConfig"], RawData]


def digits(config: DataConfig) -> RawData:
    """1,797 grey 8 x 8 images of handwritten digits, shipped with scikit-learn; needs no download."""
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Pixels are 0 .. 16; spread them over the bytes that every other data set uses.
    x_NCHW = torch.from_numpy(bunch.images).mul(255 / 16).round_().to(torch.uint8)[:, None]
    return RawData(x_NCHW, torch.from_numpy(bunch.target).long(), None, None, tuple("0123456789"))


def synthetic(config: DataConfig) -> RawData:
    """Ten random 8 x 8 patterns under noise, made from `split_seed`: for trying things out."""
    import torch

    generator = torch.Generator().manual_seed(config.split_seed)
    y_N = torch.arange(NUM_SYNTHETIC) % 10
    patterns_KCHW = torch.rand(10, 1, 8, 8, generator=generator)
    noise_NCHW = torch.randn(NUM_SYNTHETIC, 1, 8, 8, generator=generator) * 0.25
    x_NCHW = ((patterns_KCHW[y_N] + noise_NCHW).clamp(0, 1) * 255).round().to(torch.uint8)
    return RawData(x_NCHW, y_N, None, None, tuple("0123456789"))


def _torchvision(config: DataConfig, class_name: str) -> RawData:
    import torch
    from torchvision import datasets  # imported late: it takes a second that digits need not pay

    source = getattr(datasets, class_name)
    try:
        train, test = (source(config.root, train=t, download=config.download) for t in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"data.name={config.name} was looked for in {Path(config.root).resolve()} and not found whole "
            f"({str(error).splitlines()[0]}). Set data.root to the folder that holds it, or allow the "
            f"download by data.download=true."
        ) from error
    x_train_NCHW, x_test_NCHW = (_channels_first(torch.as_tensor(part.data)) for part in (train, test))
    return RawData(
        x_train_NCHW,
        torch.as_tensor(train.targets).long(),
        x_test_NCHW,
        torch.as_tensor(test.targets).long(),
        tuple(train.classes),
    )


DATA_SETS: Mapping[str, Loader] = {
    "digits": digits,
    "fashion_mnist": functools.partial(_torchvision, class_name="FashionMNIST"),
    "mnist": functools.partial(_torchvision, class_name="MNIST"),
    "cifar10": functools.partial(_torchvision, class_name="CIFAR10"),
    "cifar100": functools.partial(_torchvision, class_name="CIFAR100"),
    "synthetic": synthetic,
}


def _channels_first(x: Tensor) -> Tensor:
    """Grey N x H x W or coloured N x H x W x C to N x C x H x W."""
    return x[:, None].contiguous() if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()

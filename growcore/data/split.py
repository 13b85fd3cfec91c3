"""A data set divided into training, validation and test, kept on the device as uint8.

Shapes: N images, C channels, H x W pixels. Labels are int64.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growcore.config import DataConfig, registry
from growcore.data.sets import RawData

TEST_FRACTION = 0.2  # of a data set that comes without a test part of its own


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a split: uint8 images and int64 labels on one device."""

    x_NCHW: Tensor
    y_N: Tensor

    def __len__(self) -> int:
        return len(self.y_N)


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A split data set on one device; mean and deviation are those of the training part, per channel."""

    train: Part
    val: Part
    test: Part
    class_names: tuple[str, ...]
    mean_C11: Tensor
    std_C11: Tensor

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.train.x_NCHW.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def normalise(self, x_NCHW: Tensor) -> Tensor:
        """float32 images with mean 0 and deviation 1 per channel over the training part."""
        return (x_NCHW.float() - self.mean_C11).div_(self.std_C11)


def load(config: DataConfig, device: str | torch.device = "cpu", imports: Sequence[str] = ()) -> DataSet:
    """The data set of a configuration, split and on the device; a process loads each one once.

    Args:
        config: which data set and how it is split.
        device: where images and labels are kept.
        imports: modules whose `DATA_SETS` are known beside the built-in ones.

    Raises:
        FileNotFoundError: the files are not under `data.root` and may not be downloaded.
        ValueError: no loader has the name, or the split leaves a part empty.
    """
    return _load(
        config.name,
        config.root,
        config.download,
        config.num_train,
        config.val_fraction,
        config.split_seed,
        torch.device(device),
        tuple(imports),
    )


@functools.lru_cache(maxsize=4)  # a worker process keeps the data of its trials
def _load(
    name: str,
    root: str,
    download: bool,
    num_train: int | None,
    val_fraction: float,
    split_seed: int,
    device: torch.device,
    imports: tuple[str, ...],
) -> DataSet:
    config = DataConfig(
        name=name,
        root=root,
        download=download,
        num_train=num_train,
        val_fraction=val_fraction,
        split_seed=split_seed,
    )
    return split(registry.find(registry.DATA_SETS, name, imports)(config), config, device)


def split(raw: RawData, config: DataConfig, device: str | torch.device = "cpu") -> DataSet:
    """Divide into train, validation and test by `split_seed`; the same images whatever `num_train` is.

    Raises:
        ValueError: a part would be empty, or fewer than `num_train` images are left to train on.
    """
    generator = torch.Generator().manual_seed(config.split_seed)
    order_N = torch.randperm(len(raw.y_train_N), generator=generator)
    x_NCHW, y_N = raw.x_train_NCHW, raw.y_train_N
    if raw.x_test_NCHW is None or raw.y_test_N is None:
        num_test = round(TEST_FRACTION * len(order_N))
        test = Part(x_NCHW[order_N[:num_test]].to(device), y_N[order_N[:num_test]].to(device))
        order_N = order_N[num_test:]
    else:
        test = Part(raw.x_test_NCHW.to(device), raw.y_test_N.to(device))
    val_N, train_N = _divide(order_N, config)
    mean_C11, std_C11 = _channel_moments(x_NCHW[train_N])
    return DataSet(
        train=Part(x_NCHW[train_N].to(device), y_N[train_N].to(device)),
        val=Part(x_NCHW[val_N].to(device), y_N[val_N].to(device)),
        test=test,
        class_names=raw.class_names,
        mean_C11=mean_C11.to(device),
        std_C11=std_C11.to(device),
    )


def _divide(order_N: Tensor, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Indices of the validation and of the training images."""
    num_val = round(config.val_fraction * len(order_N))
    num_train = len(order_N) - num_val
    if num_val == 0 or num_train == 0:
        raise ValueError(
            f"data.val_fraction={config.val_fraction} of {len(order_N)} images leaves a part empty. "
            f"Choose a fraction that gives validation and training an image each."
        )
    if config.num_train is not None and config.num_train > num_train:
        raise ValueError(
            f"data.num_train={config.num_train} exceeds the {num_train} images that "
            f"data.val_fraction={config.val_fraction} leaves for training. Set data.num_train={num_train} "
            f"or less, or null for all."
        )
    return order_N[:num_val], order_N[num_val:][: config.num_train]


def _channel_moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel, C x 1 x 1; a constant channel has deviation 1."""
    counts_CV = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in x_NCHW.transpose(0, 1)]
    ).double()
    values_V = torch.arange(256, dtype=torch.float64)
    weights_CV = counts_CV / counts_CV.sum(1, keepdim=True)
    mean_C = weights_CV @ values_V
    variance_C = weights_CV @ values_V.square() - mean_C.square()
    std_C = variance_C.clamp_min(0).sqrt()
    std_C[std_C < 1e-6] = 1.0
    return mean_C.float()[:, None, None], std_C.float()[:, None, None]

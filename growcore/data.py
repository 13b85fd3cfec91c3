"""Data sets, kept on the device as uint8, normalised and augmented there in batches.

Shapes: N images, C channels, H x W pixels. Labels are int64.

A data set of one's own is a function that takes a `DataConfig` and returns a `RawData`. It is found by
an entry point of the group `growcore.data`, or in the mapping `DATA_SETS = {"name": function}` of a
module that the configuration's `imports` names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from growcore.config import DataConfig
from growcore.registry import find

TEST_FRACTION = 0.2  # of a data set that comes without a test part of its own
SMALLEST_BATCH = 3  # images of a training batch
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
        return x_NCHW.float().sub_(self.mean_C11).div_(self.std_C11)


Loader = Callable[[DataConfig], RawData]


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
    return split(find(name, BUILT_IN, "DATA_SETS", "growcore.data", imports)(config), config, device)


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


def augment(
    x_NCHW: Tensor, crop_padding: int, flip: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Random crops of the zero-padded images and random left-right flips, drawn for each image.

    Args:
        x_NCHW: images of any dtype.
        crop_padding: pixels of zeros added on each side before an H x W window is drawn; 0: no crop.
        flip: whether each image is mirrored with probability 1/2.
        generator: on the device of the images; None: torch's own.

    Returns:
        Images of the same shape and dtype.
    """
    N, _, H, W = x_NCHW.shape
    device = x_NCHW.device
    rows_NH = torch.arange(H, device=device).expand(N, H)
    columns_NW = torch.arange(W, device=device).expand(N, W)
    if flip:
        flipped_N1 = torch.randint(0, 2, (N, 1), generator=generator, device=device, dtype=torch.bool)
        columns_NW = torch.where(flipped_N1, W - 1 - columns_NW, columns_NW)
    if crop_padding:
        shift_2N1 = torch.randint(0, 2 * crop_padding + 1, (2, N, 1), generator=generator, device=device)
        rows_NH, columns_NW = rows_NH + shift_2N1[0], columns_NW + shift_2N1[1]
        x_NCHW = functional.pad(x_NCHW, (crop_padding,) * 4)
    if not flip and not crop_padding:
        return x_NCHW
    images_N = torch.arange(N, device=device)[:, None, None]
    # Advanced indices around a slice put the channels last: N x H x W x C.
    x_NHWC = x_NCHW[images_N, :, rows_NH[:, :, None], columns_NW[:, None, :]]
    return x_NHWC.permute(0, 3, 1, 2).contiguous()


def training_batches(
    data: DataSet, config: DataConfig, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled, augmented, normalised batches (float32 images, labels).

    The last batch may be smaller; one of fewer than `SMALLEST_BATCH` images is left out unless it is the
    only one, because it gives no batch statistics or correlations.
    """
    order_N = torch.randperm(len(data.train), generator=generator, device=generator.device)
    for indices_B in torch.split(order_N, batch_size):
        if len(indices_B) < min(SMALLEST_BATCH, len(order_N)):
            continue
        x_BCHW = augment(data.train.x_NCHW[indices_B], config.crop_padding, config.flip, generator)
        yield data.normalise(x_BCHW), data.train.y_N[indices_B]


def evaluation_batches(data: DataSet, part: Part, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches of a part in its own order, without augmentation."""
    for start in range(0, len(part), batch_size):
        batch = slice(start, start + batch_size)
        yield data.normalise(part.x_NCHW[batch]), part.y_N[batch]


def digits(config: DataConfig) -> RawData:
    """1,797 grey 8 x 8 images of handwritten digits, shipped with scikit-learn; needs no download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Pixels are 0 .. 16; spread them over the bytes that every other data set uses.
    x_NCHW = torch.from_numpy(bunch.images).mul_(255 / 16).round_().to(torch.uint8)[:, None]
    return RawData(x_NCHW, torch.from_numpy(bunch.target).long(), None, None, tuple("0123456789"))


def synthetic(config: DataConfig) -> RawData:
    """Ten random 8 x 8 patterns under noise, made from `split_seed`: for trying things out."""
    generator = torch.Generator().manual_seed(config.split_seed)
    y_N = torch.arange(NUM_SYNTHETIC) % 10
    patterns_KCHW = torch.rand(10, 1, 8, 8, generator=generator)
    noise_NCHW = torch.randn(NUM_SYNTHETIC, 1, 8, 8, generator=generator) * 0.25
    x_NCHW = ((patterns_KCHW[y_N] + noise_NCHW).clamp(0, 1) * 255).round().to(torch.uint8)
    return RawData(x_NCHW, y_N, None, None, tuple("0123456789"))


def _torchvision(config: DataConfig, class_name: str) -> RawData:
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


BUILT_IN: Mapping[str, Loader] = {
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

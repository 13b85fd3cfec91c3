"""Batches of a data set: shuffled, augmented and normalised on the device that holds it.

Shapes: N or B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from growcore.config import DataConfig
from growcore.data.split import DataSet, Part

Batch = tuple[Tensor, Tensor]  # normalised float32 images and int64 labels
SMALLEST_BATCH = 3  # images of a training batch


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
) -> Iterator[Batch]:
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


def evaluation_batches(data: DataSet, part: Part, batch_size: int) -> Iterator[Batch]:
    """Normalised batches of a part in its own order, without augmentation."""
    for start in range(0, len(part), batch_size):
        batch = slice(start, start + batch_size)
        yield data.normalise(part.x_NCHW[batch]), part.y_N[batch]

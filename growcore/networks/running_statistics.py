"""Running statistics of normalisations: estimated anew, so that evaluation sees the network as training does.

In training a BatchNorm divides by what it sees; in evaluation by a running mean and variance that lag behind
the weights. After an edit that may be fatal: a channel that lost its last input is a constant, its variance
decays to 0, and evaluation multiplies what the mean lags behind by 1/sqrt(eps), once in every such layer on
the way. It lasts as long as weights move, so once after the edit is not enough.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from growcore.networks.modes import evaluating


def normalisations(model: nn.Module) -> list[_NormBase]:
    """The parts of a model that keep running statistics: batch norms, and instance norms that track them."""
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]


def reestimate(model: nn.Module, x_NCHW: Tensor) -> None:
    """Give every normalisation the statistics of these images, for the weights as they are now.

    All else is as in eval mode: dropout leaves everything, pruning strengths count nothing. The model draws
    nothing and stays in the mode it was in; momentum and the number of batches seen stay as they are. Fewer
    than two images say nothing of a variance, and change nothing.

    Args:
        model: gives an output for normalised images.
        x_NCHW: one batch, run at once: each layer is then normalised by the very
            statistics that it keeps, so that evaluation repeats what was run here.
    """
    norms = normalisations(model)
    if not norms or len(x_NCHW) < 2:
        return
    momenta, counts = [norm.momentum for norm in norms], [norm.num_batches_tracked for norm in norms]
    with evaluating(model), torch.no_grad():
        for norm in norms:
            # Without a momentum torch averages from the first call on; of a layer that is called twice, both.
            norm.train()
            norm.momentum, norm.num_batches_tracked = None, torch.zeros((), dtype=torch.long)
        try:
            model(x_NCHW)
        finally:
            for norm, momentum, count in zip(norms, momenta, counts, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count

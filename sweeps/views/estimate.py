"""What a sweep will cost, before it starts: sampled trials planned, and three of them timed for some steps.

Planned growth is taken as full and accepted, so a trial that grows less costs less. Seconds are those of
this machine as busy as it is now: a few real training steps and a growth, with its statistics and line
search, at the width a trial starts with and at the width it ends with. In between, the time of a step is
taken to be linear in its FLOPs, and that of a growth to lie in the middle.

Replicates of a configuration are trained in turns by one worker: each has a network and an optimizer of its
own, while the data and the activations of the one that trains are there once.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from growcore.config import TrialConfig
from sweeps.cluster.slots import num_local_slots
from sweeps.config.settings import SweepConfig
from sweeps.space.search_space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

    from growcore.edits.planning import PlannedCost
    from growcore.training import Training

NUM_SAMPLES = 16  # trials that are planned
_TIMED_SECONDS = 0.25  # of training steps at each width
_MAX_STEPS = 30
_EVALUATION = 1 / 3  # of an image, beside training on it: the forward pass alone


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialEstimate:
    """One sampled trial that runs to its end, with all its replicates."""

    values: dict[str, Any]  # dotted trial key -> value
    parameters: int  # of one network, at the end
    train_flops: int
    memory_bytes: (
        int  # weights, gradients, optimizer, activations of a batch, data; torch itself is not in it
    )
    seconds: float | None  # None where this machine lacks the device


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Cost of a sweep."""

    num_samples: int
    smallest: TrialEstimate  # by train FLOPs
    median: TrialEstimate
    largest: TrialEstimate
    mean_train_flops: float  # of the sampled trials
    mean_seconds: float | None
    device: str
    num_slots: int | None  # None: only the cluster knows
    sweep_seconds: (
        float | None
    )  # of all trials on all slots, none stopped early; None where something is unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    values: dict[str, Any]
    config: TrialConfig
    cost: PlannedCost


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    seconds: float  # a training step
    growth_seconds: float  # a growth; 0 where the trial has none
    flops: float  # a training step
    own_bytes: int  # what every replicate has: weights, gradients, optimizer
    shared_bytes: int  # what replicates need one at a time, or together: activations, data


def estimate(config: SweepConfig, space: SearchSpace) -> Estimate:
    """Plan 16 sampled trials, and time the smallest, the median and the largest of them.

    Nothing is downloaded. Imports torch.

    Raises:
        ValueError, FileNotFoundError: a trial cannot be built here, mostly for want of its data set.
    """
    import torch

    torch.set_num_threads(config.trial.training.num_threads)  # more than a trial gets would not be its time
    device = "cuda" if config.cluster.gpus_per_trial else "cpu"
    num = config.sweep.replicates
    planned = sorted(_plan(space), key=lambda each: each.cost.training_flops)
    chosen = [_estimate(planned[i], device, num) for i in (0, len(planned) // 2, len(planned) - 1)]
    flops = [num * each.cost.training_flops for each in planned]
    seconds = _mean_seconds(chosen, flops)
    slots = _slots(config)
    return Estimate(
        num_samples=len(planned),
        smallest=chosen[0],
        median=chosen[1],
        largest=chosen[2],
        mean_train_flops=statistics.mean(flops),
        mean_seconds=seconds,
        device=device,
        num_slots=slots,
        sweep_seconds=_sweep_seconds(seconds, slots, config.sweep.num_trials),
    )


def _plan(space: SearchSpace) -> Iterator[_Planned]:
    from growcore.edits.planning import planned_cost

    for values in space.sample(NUM_SAMPLES):
        config = space.apply(values)
        config = replace(config, data=replace(config.data, download=False))
        yield _Planned(values=values, config=config, cost=planned_cost(config))


def _estimate(planned: _Planned, device: str, num_replicates: int) -> TrialEstimate:
    import torch

    timed = device == "cpu" or torch.cuda.is_available()
    start, end = _probes(planned, device if timed else "cpu")
    return TrialEstimate(
        values=planned.values,
        parameters=planned.cost.parameters,
        train_flops=num_replicates * planned.cost.training_flops,
        memory_bytes=num_replicates * end.own_bytes + end.shared_bytes,
        seconds=num_replicates * _trial_seconds(planned, start, end) if timed else None,
    )


def _probes(planned: _Planned, device: str) -> tuple[_Probe, _Probe]:
    """At the width a trial starts with, and at the width it ends with."""
    from growcore.networks import models
    from growcore.training import Training
    from growcore.training.optimizer import make_optimizer

    start = Training(planned.config, device)
    if models.widths(start.model) == planned.cost.widths:
        only = _probe(start, planned.cost.growth_epochs)
        return only, only
    end = Training(planned.config, device)
    models.resize(end.model, planned.cost.widths)
    # New neurons come as zeros, which would make statistics singular.
    models.initialize_weights(end.model, planned.config.model, end.generator)
    end.model.to(device)
    end.optimizer = make_optimizer(end.model, planned.config.optimizer)
    return _probe(start, planned.cost.growth_epochs), _probe(end, planned.cost.growth_epochs)


def _probe(training: Training, growth_epochs: tuple[int, ...]) -> _Probe:
    from growcore.networks import cost

    batches = _batches(training)
    activations = _train_counting(training, *next(batches))  # also allocates the optimizer's state
    steps, began = 0, time.perf_counter()
    while steps < _MAX_STEPS and (steps == 0 or time.perf_counter() - began < _TIMED_SECONDS):
        _train(training, *next(batches))
        steps += 1
    seconds = (time.perf_counter() - began) / steps
    per_image = cost.measure(training.model, training.data.image_shape).training_flops
    return _Probe(
        seconds=seconds,
        growth_seconds=_growth_seconds(training, growth_epochs),
        flops=per_image * min(training.config.training.batch_size, len(training.data.train)),
        own_bytes=_own_bytes(training),
        shared_bytes=activations + _data_bytes(training),
    )


def _growth_seconds(training: Training, growth_epochs: tuple[int, ...]) -> float:
    """The faster of two growths, as the first one loads what later ones find loaded."""
    seconds = []
    for epoch in growth_epochs[:1] * 2:
        began = time.perf_counter()
        training.editor.edit(training.model, training.optimizer, epoch, training.step)
        seconds.append(time.perf_counter() - began)
    return min(seconds, default=0.0)


def _batches(training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """Full training batches without end."""
    from growcore import data

    batch_size = min(training.config.training.batch_size, len(training.data.train))
    while True:
        for x_NCHW, y_N in data.training_batches(
            training.data, training.config.data, batch_size, training.generator
        ):
            if len(y_N) == batch_size:
                yield x_NCHW, y_N


def _train(training: Training, x_NCHW: Tensor, y_N: Tensor) -> None:
    """A step as the training loop takes it; returns when the device is done."""
    from torch.nn import functional

    training.model.train()
    loss = functional.cross_entropy(training.model(x_NCHW), y_N)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    training.optimizer.step()
    loss.item()


def _train_counting(training: Training, x_NCHW: Tensor, y_N: Tensor) -> int:
    """A step that counts the bytes autograd keeps for its backward pass, each storage once."""
    from torch.autograd.graph import saved_tensors_hooks

    kept = {p.untyped_storage().data_ptr(): 0 for p in training.model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _train(training, x_NCHW, y_N)
    return sum(kept.values())


def _own_bytes(training: Training) -> int:
    """Weights and buffers, gradients and optimizer state."""
    model: nn.Module = training.model
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    tensors += [v for state in training.optimizer.state.values() for v in _tensors(state)]
    return _bytes(tensors)


def _data_bytes(training: Training) -> int:
    parts = (training.data.train, training.data.val, training.data.test)
    return _bytes([tensor for part in parts for tensor in (part.x_NCHW, part.y_N)])


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    from torch import Tensor

    return [value for value in state.values() if isinstance(value, Tensor)]


def _trial_seconds(planned: _Planned, start: _Probe, end: _Probe) -> float:
    from growcore import data

    config = planned.config
    images = data.load(config.data, "cpu", config.imports)
    batch_size = min(config.training.batch_size, len(images.train))
    steps = config.training.num_epochs * len(images.train) / batch_size
    mean_flops = planned.cost.training_flops / steps
    share = (mean_flops - start.flops) / (end.flops - start.flops) if end.flops > start.flops else 0.0
    training = steps * (start.seconds + share * (end.seconds - start.seconds))
    growing = len(planned.cost.growth_epochs) * (start.growth_seconds + end.growth_seconds) / 2
    evaluated = len(images.val) / len(images.train) / config.training.report_every_epochs
    return growing + training * (1 + _EVALUATION * evaluated)


def _mean_seconds(chosen: list[TrialEstimate], flops: list[int]) -> float | None:
    """Over all sampled trials; those not timed lie between their timed neighbours by FLOPs."""
    import numpy as np

    seconds = [each.seconds for each in chosen if each.seconds is not None]
    if len(seconds) < len(chosen):
        return None
    return float(np.mean(np.interp(flops, [each.train_flops for each in chosen], seconds)))


def _slots(config: SweepConfig) -> int | None:
    if config.cluster.address is not None:
        return config.cluster.num_concurrent
    import torch

    return num_local_slots(config.cluster, len(os.sched_getaffinity(0)), torch.cuda.device_count())


def _sweep_seconds(seconds: float | None, slots: int | None, num_trials: int | None) -> float | None:
    if seconds is None or not slots or num_trials is None:
        return None
    return seconds * num_trials / min(slots, num_trials)

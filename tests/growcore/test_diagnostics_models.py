"""Preflight and ensembles of the models that trials train."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from growcore.config import (
    Activation,
    DataConfig,
    Initialization,
    ModelConfig,
    Normalization,
    PruningConfig,
    TrialConfig,
)
from growcore.diagnostics import (
    Severity,
    layer_statistics,
    measure_signal,
    preflight,
    sample_model_preactivations,
)
from growcore.networks.initialization import critical_point
from growcore.networks.models import build
from growcore.sparse.methods import PRUNING_METHODS

SHAPES = {"mlp": (1, 8, 8), "conv": (3, 12, 12)}


def model_of(name: str, *, seed: int = 0, pruning: str = "none", **settings) -> nn.Module:
    config = TrialConfig(
        data=DataConfig(name="synthetic"),
        model=ModelConfig(name=name, widths=[24] * 5, **settings),
        pruning=PruningConfig(method=pruning),
        seed=seed,
    )
    return build(config, SHAPES[name], 10)


def batch(name: str) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(32, *SHAPES[name], generator=g), torch.randint(0, 10, (32,), generator=g)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("pruning", PRUNING_METHODS)
def test_a_model_as_configured_by_default_gives_no_finding(name, normalization, pruning) -> None:
    assert preflight(model_of(name, normalization=normalization, pruning=pruning), *batch(name)) == []


@pytest.mark.parametrize("activation", [Activation.gelu, Activation.sigmoid])
@pytest.mark.parametrize("pruning", ["none", "random"])
def test_a_critical_model_puts_the_variance_at_its_fixed_point_from_the_first_layer(activation, pruning):
    K = critical_point(activation).K
    law = {"pruning": pruning, "activation": activation, "init": Initialization.critical}
    layers = [measure_signal(model_of("mlp", seed=seed, **law), *batch("mlp")) for seed in range(40)]
    first = [signals[0] for signals in layers]
    mean_square = sum(s.output_square for s in first) / len(first)
    assert mean_square == pytest.approx(K * first[0].input_square, rel=0.1)
    for index in range(1, 5):
        deeper = sum(signals[index].output_square for signals in layers) / len(layers)
        assert deeper == pytest.approx(K, rel=0.25)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("init_gain", [0.02, 50.0])
def test_a_hopeless_gain_fails_before_training(name: str, init_gain: float) -> None:
    severities = {f.severity for f in preflight(model_of(name, init_gain=init_gain), *batch(name))}
    assert Severity.fail in severities


def test_measuring_a_sparse_model_leaves_its_strengths_alone() -> None:
    model = model_of("conv", pruning="hebbian")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_signal(model, *batch("conv"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "last"), [("mlp", "out"), ("conv", "conv5")])
def test_models_keep_the_variance_of_their_preactivations(name: str, last: str) -> None:
    seeds = iter(range(150))
    x = torch.ones(1, *SHAPES[name])
    layers = sample_model_preactivations(
        lambda: model_of(name, seed=next(seeds), activation=Activation.leaky_relu), x, 150
    )
    (z,) = [z for layer, z in layers.items() if layer.removesuffix(".layer").endswith(last)]
    measured = layer_statistics(z).K
    # Borders of a small map see fewer inputs, so only the perceptron keeps K = 1 exactly.
    borders = 1.0 if name == "mlp" else 2.0
    assert 1 / borders - 3 * measured.standard_error < measured.value < 1 + 3 * measured.standard_error
    assert math.isfinite(measured.standard_error)

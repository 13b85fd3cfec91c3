"""Baking whole networks: plain modules that compute the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.config import TrialConfig
from growcore.growth import LinearGrowingModule
from growcore.networks import models
from growcore.sparse import DSConv2d, DSLinear, bake
from growcore.sparse.tracing import trace

SHAPE = (1, 8, 8)


def built(name: str, norm: str = "batch", **changes: object) -> nn.Module:
    blocks = [2, 1, 1] if name in ("resnet", "vgg") else []
    values = {
        "data": {"name": "digits"},
        "model": {"name": name, "widths": [5, 6, 4], "blocks": blocks, "normalization": norm, **changes},
        "pruning": {"method": "hebbian"},
    }
    model = models.build(TrialConfig.from_dict(values), SHAPE, 10)
    model.train()
    model(images())  # running statistics of their own
    return model.eval()


def images() -> torch.Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(3))


def silence_half(model: nn.Module) -> None:
    """Prune every connection into every second neuron of the growable layers."""
    for consumer in models.grow_pairs(model).values():
        (producer,) = consumer.producers
        layer = producer.layer
        alive = torch.ones_like(layer.weight, dtype=torch.bool)
        alive[1::2] = False
        layer.start_sparse(alive)
        with torch.no_grad():
            layer.bias[1::2] = 0
        for norm in producer.post_layer_function.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                with torch.no_grad():  # what a neuron without input becomes while it trains
                    norm.running_mean[1::2] = 0
                    norm.bias[1::2] = 0


@pytest.mark.parametrize("name", ["mlp", "conv", "vgg"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_network_that_is_a_chain_becomes_a_sequential_of_torch_s_own_layers(name, norm):
    model = built(name, norm)
    silence_half(model)
    before = model(images())
    baked = bake(model)
    assert type(baked) is nn.Sequential
    assert all(type(module).__module__.startswith("torch.nn") for module in baked.modules())
    torch.testing.assert_close(baked(images()), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(images()), before)


def test_neurons_without_connections_are_gone_after_baking():
    for name, wanted in (("mlp", [3, 3, 2, 10]), ("conv", [3, 3, 2, 10])):
        model = built(name)
        silence_half(model)
        layers = [m for m in bake(model) if isinstance(m, nn.Linear | nn.Conv2d)]
        assert [layer.weight.shape[0] for layer in layers] == wanted
    model = built("resnet")
    silence_half(model)
    baked = bake(model)
    torch.testing.assert_close(baked(images()), model(images()), atol=1e-5, rtol=1e-5)
    assert baked.layers["stage1block1"].conv1[0].out_channels == 3
    assert baked.layers["stage1block1"].conv2[0].out_channels == 5  # the shortcut is added to all of them
    assert not [m for m in baked.modules() if isinstance(m, DSConv2d | DSLinear | LinearGrowingModule)]


@settings(max_examples=10)
@given(seed=st.integers(0, 999), share=st.floats(0.0, 1.0), name=st.sampled_from(["mlp", "conv", "resnet"]))
def test_baking_a_network_never_changes_its_function_whatever_the_masks(seed, share, name):
    model = built(name)
    generator = torch.Generator().manual_seed(seed)
    for layer in models.sparse_layers(model).values():
        alive = torch.rand(layer.weight.shape, generator=generator) < share
        alive[torch.rand(alive.shape[0], generator=generator) < 0.4] = False
        layer.start_sparse(alive)
    torch.testing.assert_close(bake(model)(images()), model(images()), atol=1e-5, rtol=1e-5)


def test_a_grown_network_bakes_at_the_widths_it_has():
    model = built("conv")
    models.resize(model, {"conv1": 8, "conv2": 7})
    model.eval()
    baked = bake(model)
    torch.testing.assert_close(baked(images()), model(images()), atol=1e-5, rtol=1e-5)


def test_a_layer_without_neurons_is_refused():
    with pytest.raises(ValueError, match=r"a layer without neurons has no plain counterpart"):
        bake(
            models.build(
                TrialConfig.from_dict(
                    {
                        "data": {"name": "digits"},
                        "model": {"name": "resnet", "widths": [4], "blocks": [1], "hidden_fraction": 0.0},
                    }
                ),
                SHAPE,
                10,
            )
        )


class Twice(nn.Module):
    """A layer that is called twice, between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = DSLinear(4, 4), DSLinear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(torch.relu(self.shared(self.first(x)))))


def test_a_layer_that_is_called_twice_keeps_its_neurons():
    model = Twice().eval()
    alive = torch.ones(4, 4, dtype=torch.bool)
    alive[1] = False
    model.shared.start_sparse(alive)
    model.first.start_sparse(alive)
    x = torch.randn(3, 4)
    baked = bake(model)
    assert baked.shared.weight.shape == (4, 4)
    torch.testing.assert_close(baked(x), model(x))


class Judging(nn.Module):
    """Its path depends on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(DSLinear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x if x.sum() > 0 else -x)


def test_where_the_path_depends_on_the_input_channels_go_within_sequentials_alone():
    model = Judging().eval()
    alive = torch.ones(4, 4, dtype=torch.bool)
    alive[1] = False
    model.body[0].start_sparse(alive)
    assert trace(model) is None
    baked = bake(model)
    assert type(baked) is Judging
    assert baked.body[0].out_features == 3
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        torch.testing.assert_close(baked(x), model(x))

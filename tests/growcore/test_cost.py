import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from growcore.networks import cost


def network(width: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 2 * width, 3, padding=1, stride=stride),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4, 3, groups=groups),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


@given(width=st.integers(1, 4), stride=st.sampled_from([1, 2]), groups=st.sampled_from([1, 2]))
def test_flops_are_those_that_torch_counts_while_running(width, stride, groups):
    model = network(width, stride, groups)
    x_NCHW = torch.randn(1, 2, 9, 9)
    model(x_NCHW)
    with FlopCounterMode(display=False) as forward:
        loss = model(x_NCHW).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    measured = cost.measure(model, (2, 9, 9))
    assert measured.forward_flops == forward.get_total_flops()
    if groups == 1:  # torch counts the backward pass of a grouped convolution as if it had no groups
        assert measured.training_flops == forward.get_total_flops() + backward.get_total_flops()


def test_zero_weights_count_as_parameters_but_not_as_nonzero_ones():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    nn.init.ones_(model[1].weight)
    with torch.no_grad():
        model[1].weight[0] = 0
    measured = cost.measure(model, (1, 2, 2))
    assert (measured.parameters, measured.nonzero_parameters) == (12, 8)
    assert (measured.forward_flops, measured.sparse_forward_flops) == (24, 16)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_mode_statistics_and_gradients_alone(training):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 1, 5, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(training)
    cost.measure(model, (1, 5, 5))
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_executed_flops_are_those_of_the_products_inside_the_call():
    model = network(2, 1, 1)
    x_NCHW = torch.randn(3, 2, 9, 9)
    model(x_NCHW)
    _, flops = cost.executed_flops(lambda: model(x_NCHW).sum().backward())
    assert flops == 3 * cost.measure(model, (2, 9, 9)).training_flops

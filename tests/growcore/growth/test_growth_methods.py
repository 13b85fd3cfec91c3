import pytest
import torch
from growth_networks import chain, chain_extended, conv_pair, gather, linear_pair
from torch import nn

from growcore.growth import FullConv2dGrowingModule, GrowingGroupNorm, GrowingLayerNorm, LinearGrowingModule
from growcore.growth.initialization import known_inits


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [("copy_uniform", 3.0), ("copy_normal", 3.0), ("kaiming", (2 / 50) ** 0.5), ("zeros", 0.0)],
)
def test_every_initialisation_has_its_standard_deviation(name, deviation):
    tensor, reference = torch.full((200, 100), 7.0), torch.randn(400)
    reference = 3 * (reference - reference.mean()) / reference.std()
    known_inits[name](tensor, reference, 50)
    assert tensor.std().item() == pytest.approx(deviation, rel=0.02)
    assert tensor.mean().item() == pytest.approx(0.0, abs=0.1)


def test_neurons_without_outgoing_weights_leave_the_function_unchanged():
    first, second = linear_pair(function=nn.ReLU())
    modules, x = [first, second], torch.randn(9, 5)
    before = chain(modules, x)
    second.create_layer_extensions(3, input_extension_init="zeros")
    second.apply_change(scaling_factor=1.0)
    torch.testing.assert_close(chain(modules, x), before)


@pytest.mark.parametrize("kind", ["linear", "restricted", "full"])
def test_gradmax_changes_nothing_and_has_the_largest_gradient_of_its_incoming_weights(kind):
    if kind == "linear":
        first, second = linear_pair((6, 3, 5), nn.Tanh())
        x = torch.randn(40, 6)
    else:
        types = {"kind": FullConv2dGrowingModule} if kind == "full" else {}
        first, second = conv_pair((2, 3, 4), nn.Tanh(), **types)
        x = torch.randn(10, 2, 6, 6)
    modules = [first, second]
    gather(modules, [second], [x])
    second.compute_gradmax_updates(2)
    second.set_scaling_factor(1.0)
    torch.testing.assert_close(chain_extended(modules, x), chain(modules, x))

    def incoming_gradient():
        alpha = first.extended_output_layer
        loss = (chain_extended(modules, x).square() - 1).square().sum() / 4 / len(x)
        grads = torch.autograd.grad(loss, [alpha.weight, alpha.bias])
        return sum(g.square().sum() for g in grads).item()

    best = incoming_gradient()
    assert best == pytest.approx(second.eigenvalues_extension.square().sum().item(), rel=1e-3)
    assert second.first_order_improvement.item() == pytest.approx(best, rel=1e-3)
    for _ in range(20):
        weight = second.extended_input_layer.weight.data
        taps = weight.abs().sum((0, 1), keepdim=True) > 0 if kind == "restricted" else 1.0
        q, _ = torch.linalg.qr(torch.randn(second.tensor_m_prev().shape[1], 2))
        weight.copy_(second.omega_kernel(q) * taps)
        assert incoming_gradient() < best


def test_variance_transfer_keeps_the_variance_of_the_pre_activations():
    first, second = linear_pair((50, 400, 300), nn.ReLU())
    x = torch.randn(200, 50)
    before = (chain([first, second], x) - second.bias).std().item()
    second.create_layer_extensions(400, variance_transfer=True)
    second.set_scaling_factor(1.0)
    expected = chain_extended([first, second], x)
    second.apply_change()
    after = chain([first, second], x)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    assert (after - second.bias).std().item() == pytest.approx(before, rel=0.05)


def test_scaling_the_loss_keeps_the_same_neurons_under_relative_thresholds():
    def grown(scale):
        torch.manual_seed(3)
        modules = linear_pair((8, 3, 6), nn.Tanh())
        gather(list(modules), [modules[1]], [torch.randn(60, 8)], lambda y: scale * (y**3 + y).sum())
        modules[1].compute_optimal_updates(1e-6, 1e-2, relative_thresholds=True)
        return modules[1].proposal()

    large, small = grown(1.0), grown(1e-3)
    assert large.num_neurons == small.num_neurons
    torch.testing.assert_close(small.eigenvalues, 1e-3 * large.eigenvalues, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        small.omega @ small.alpha_weight, 1e-3 * large.omega @ large.alpha_weight, rtol=1e-2, atol=1e-7
    )


@pytest.mark.parametrize(
    "norm",
    [lambda: nn.LayerNorm(4), lambda: GrowingLayerNorm(4), lambda: nn.LayerNorm(4, elementwise_affine=False)],
)
def test_a_layer_norm_keeps_its_old_features_and_passes_new_ones(norm):
    first, second = linear_pair((8, 4, 3), nn.Sequential(norm(), nn.ReLU()))
    modules, x = [first, second], torch.randn(30, 8)
    for _ in range(2):
        gather(modules, [second], [x])
        second.compute_optimal_updates(maximum_added_neurons=2)
        second.set_scaling_factor(0.3)
        before, expected = first(x), chain_extended(modules, x)
        second.apply_change()
        second.delete_update()
        second.reset_computation()
        torch.testing.assert_close(chain(modules, x), expected)
        torch.testing.assert_close(first(x)[:, : before.shape[1]], before)
    assert isinstance(first.post_layer_function[0], GrowingLayerNorm)
    assert first.post_layer_function[0].normalized_shape == (8,)


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(2, 4), lambda: GrowingGroupNorm(1, 4)])
def test_a_group_norm_keeps_its_old_channels_and_passes_new_ones(norm):
    first, second = conv_pair((2, 4, 3), nn.Sequential(norm(), nn.ReLU(), nn.Dropout2d(0.5)))
    modules, x = [first.eval(), second], torch.randn(6, 2, 7, 7)
    gather(modules, [second], [x])
    second.compute_optimal_updates(maximum_added_neurons=2)
    second.set_scaling_factor(0.3)
    before, expected = first(x), chain_extended(modules, x)
    second.apply_change()
    torch.testing.assert_close(chain(modules, x), expected)
    torch.testing.assert_close(first(x)[:, :4], before)
    assert not first.post_layer_function[0].training
    assert first.post_layer_function[0].num_channels == 6


def test_growing_norms_start_as_the_plain_ones():
    x, maps = torch.randn(3, 5), torch.randn(3, 4, 2, 2)
    torch.testing.assert_close(GrowingLayerNorm(5)(x), nn.LayerNorm(5)(x))
    torch.testing.assert_close(GrowingGroupNorm(2, 4)(maps), nn.GroupNorm(2, 4)(maps))


@pytest.mark.parametrize("function", [nn.LayerNorm((4, 5, 5)), nn.InstanceNorm2d(4, affine=True)])
def test_norms_that_cannot_grow_are_refused(function):
    _, second = conv_pair((2, 4, 3), function)
    with pytest.raises(ValueError, match=r"grows over features alone|is not known to"):
        second.create_layer_extensions(1)


@pytest.mark.parametrize("bias", [True, False])
def test_gradmax_neurons_before_a_relu_get_a_gradient(bias):
    """At exactly 0 the gradient of ReLU is 0, and neurons of zero weights would stay dead for ever."""
    first, second = linear_pair((6, 3, 5), nn.ReLU(), previous_bias=bias)
    x = torch.randn(40, 6)
    gather([first, second], [second], [x])
    second.compute_gradmax_updates(2)
    second.set_scaling_factor(1.0)
    before = chain([first, second], x)
    second.apply_change()
    after = chain([first, second], x)
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.05 * before.abs().mean().item())
    after.square().sum().backward()
    assert (first.weight.grad[3:].abs().sum(1) > 0).all()


def test_a_linear_layer_behind_a_flattened_convolution_gains_one_input_per_position():
    first = FullConv2dGrowingModule(
        2, 3, 3, padding=1, post_layer_function=nn.Sequential(nn.ReLU(), nn.Flatten())
    )
    second = LinearGrowingModule(3 * 16, 5, previous_module=first)
    x = torch.randn(4, 2, 4, 4)
    second.create_layer_extensions(2, input_extension_size=32)
    second.set_scaling_factor(0.5)
    expected = chain_extended([first, second], x)
    second.apply_change()
    torch.testing.assert_close(chain([first, second], x), expected)
    assert (first.out_channels, second.in_features) == (5, 80)
    with pytest.raises(ValueError, match=r"must be 16 times output_extension_size; got .*=2, .*=31"):
        second.create_layer_extensions(2, input_extension_size=31)
    with pytest.raises(ValueError, match=r"is one new input of it; got output_extension_size=1"):
        linear_pair()[1].create_layer_extensions(2, output_extension_size=1)

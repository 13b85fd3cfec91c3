"""What a sweep does with a network beside growing it: save, load, copy, cast, compile, spread over ranks."""

import io
import socket

import pytest
import torch
import torch.multiprocessing
from growth_networks import chain, chain_extended, conv_pair, gather, linear_pair
from torch import nn

from growcore.growth import GrowingModule


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grown_pair() -> tuple[nn.Sequential, torch.Tensor]:
    function = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    one, two = conv_pair(function=function)
    x = torch.randn(8, 2, 6, 6)
    gather([one, two], [two], [x])
    two.compute_optimal_updates(maximum_added_neurons=2)
    two.apply_change(scaling_factor=0.5)
    two.delete_update()
    two.reset_computation()
    return nn.Sequential(one, two), x


def test_a_grown_model_loads_into_one_rebuilt_from_its_widths_without_pickled_code():
    net, x = grown_pair()
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    rebuilt = nn.Sequential(*conv_pair((2, 5, 4), nn.Sequential(nn.BatchNorm2d(5), nn.ReLU())))
    rebuilt.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(rebuilt.eval()(x), net.eval()(x), rtol=0, atol=0)


def test_an_optimizer_over_the_grown_parameters_trains_old_and_new_weights():
    net, x = grown_pair()
    old = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().sum().backward()
    optimizer.step()
    for before, after in zip(old, net.parameters(), strict=True):
        assert (before != after).any(dim=tuple(range(1, before.ndim)) if before.ndim > 1 else 0).all()


@pytest.mark.parametrize("pair", [linear_pair, conv_pair])
def test_statistics_under_bfloat16_autocast_are_float32_and_close_to_those_without(pair):
    first, second = pair(function=nn.ReLU())
    x = torch.randn(64, 5) if pair is linear_pair else torch.randn(16, 2, 6, 6)

    def collected(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gather([first, second], [second], [x])
            second.compute_optimal_updates(maximum_added_neurons=1)
        return [s() for s in second.statistics()], second.parameter_update_decrease

    half, half_decrease = collected(True)
    whole, decrease = collected(False)
    for ours, expected in zip(half, whole, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - expected).norm() < 0.05 * expected.norm()
    torch.testing.assert_close(half_decrease, decrease, rtol=0.1, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        second.set_scaling_factor(0.5)
        assert chain_extended([first, second], x).dtype == torch.bfloat16


def test_a_float64_model_grows_in_float64():
    first, second = (m.double() for m in linear_pair((8, 4, 3), nn.Tanh()))
    modules, x = [first, second], torch.randn(30, 8, dtype=torch.float64)
    gather(modules, [second], [x])
    second.compute_optimal_updates(maximum_added_neurons=2, dtype=torch.float64)
    second.set_scaling_factor(0.5)
    expected = chain_extended(modules, x)
    assert second.tensor_s().dtype == expected.dtype == torch.float64
    second.apply_change()
    torch.testing.assert_close(chain(modules, x), expected, rtol=1e-12, atol=1e-12)


def test_evaluation_between_forward_and_update_is_noticed_and_after_it_does_no_harm():
    first, second = linear_pair()
    gather([first, second], [second], [torch.randn(20, 5)])
    counted = second.tensor_m.samples
    with torch.no_grad():
        chain([first, second], torch.randn(7, 5))
    with pytest.raises(ValueError, match=r"ran under no_grad"):
        second.update_computation()
    assert second.tensor_m.samples == counted == 20


def test_batch_norm_in_train_mode_moves_the_output_no_more_than_the_extension_does():
    one, two = conv_pair((2, 6, 4), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()))
    modules, x = [one, two], torch.randn(128, 2, 8, 8)
    gather(modules, [two], [x])
    two.compute_optimal_updates(maximum_added_neurons=2)
    two.normalize_optimal_updates()
    two.set_scaling_factor(0.3)
    before, expected = chain(modules, x), chain_extended(modules, x)
    two.apply_change()
    after = chain(modules, x)
    assert (after - expected).norm() < 0.01 * (expected - before).norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_grown_model_compiles():
    net, x = grown_pair()
    torch.testing.assert_close(torch.compile(net, backend="eager")(x), net(x))


def _worker(rank: int, port: int, state: dict, x: torch.Tensor, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    net = nn.Sequential(*linear_pair((6, 3, 4), nn.Tanh()))
    net.load_state_dict(state)
    gather(list(net), [net[1]], [x[rank::2]])
    net[1].reduce_computation()
    net[1].compute_optimal_updates(maximum_added_neurons=2)
    results.put((rank, [s().tolist() for s in net[1].statistics()], net[1].first_order_improvement.item()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_on_half_the_data_each_have_the_statistics_of_one_on_all_of_it():
    net = nn.Sequential(*linear_pair((6, 3, 4), nn.Tanh()))
    x = torch.randn(30, 6)
    gather(list(net), [net[1]], [x])
    net[1].compute_optimal_updates(maximum_added_neurons=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_worker, args=(rank, port, net.state_dict(), x, results)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for _, statistics, improvement in found:
        for ours, alone in zip(statistics, net[1].statistics(), strict=True):
            torch.testing.assert_close(torch.tensor(ours), alone(), rtol=1e-4, atol=1e-5)
        assert improvement == pytest.approx(net[1].first_order_improvement.item(), rel=1e-3)


def test_a_module_of_another_base_is_not_a_partner():
    with pytest.raises(ValueError, match=r"previous_module=Linear. Pass previous_module"):
        GrowingModule(nn.Linear(2, 2), previous_module=nn.Linear(2, 2))

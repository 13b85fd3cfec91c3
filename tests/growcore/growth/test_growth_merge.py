import copy
import socket

import pytest
import torch
from growth_networks import double_well
from torch import nn

from growcore.growth import (
    Conv2dMergeGrowingModule,
    FullConv2dGrowingModule,
    LinearGrowingModule,
    LinearMergeGrowingModule,
    RestrictedConv2dGrowingModule,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Joined(nn.Module):
    """Modules side by side, added, the function of the merge, and its readers side by side."""

    def __init__(self, before, merge, behind):
        super().__init__()
        self.before, self.merge, self.behind = nn.ModuleList(before), merge, nn.ModuleList(behind)
        merge.set_previous_modules(list(before))
        merge.set_next_modules(list(behind))

    def forward(self, x):
        y = self.merge(sum(module(x) for module in self.before))
        return [module(y) for module in self.behind]

    def extended_forward(self, x):
        outputs = [module.extended_forward(x) for module in self.before]
        y, y_ext = self.merge.extended_forward(sum(o[0] for o in outputs), sum(o[1] for o in outputs))
        return [module.extended_forward(y, y_ext)[0] for module in self.behind]

    def gather(self, batches):
        self.merge.init_computation()
        for x in batches:
            loss(self(x)).backward()
            self.merge.update_computation()


def loss(outputs):
    return sum(double_well(y) for y in outputs)


def linear_join(function=None):
    before = [LinearGrowingModule(5, 3), LinearGrowingModule(5, 3, use_bias=False)]
    behind = [LinearGrowingModule(3, 4), LinearGrowingModule(3, 2, use_bias=False)]
    return Joined(before, LinearMergeGrowingModule(function), behind), torch.randn(30, 5)


def conv_join(function=None):
    before = [RestrictedConv2dGrowingModule(2, 3, 3, padding=1), RestrictedConv2dGrowingModule(2, 3, 1)]
    behind = [
        RestrictedConv2dGrowingModule(3, 4, 3, padding=1, stride=2),
        FullConv2dGrowingModule(3, 2, 3, padding=1, use_bias=False),
    ]
    return Joined(before, Conv2dMergeGrowingModule(function), behind), torch.randn(10, 2, 6, 6)


def flat_join(function=None):
    before = [FullConv2dGrowingModule(2, 3, 3, padding=1, stride=2)]
    behind = [LinearGrowingModule(3 * 3 * 3, 4)]
    return Joined(
        before, Conv2dMergeGrowingModule(nn.Sequential(function or nn.Identity(), nn.Flatten())), behind
    ), (torch.randn(60, 2, 6, 6))


def pooled_join(function=None):
    before = [RestrictedConv2dGrowingModule(2, 3, 3, padding=1)]
    pool = nn.Sequential(function or nn.Identity(), nn.AvgPool2d(3), nn.Flatten())
    return Joined(before, Conv2dMergeGrowingModule(pool), [LinearGrowingModule(12, 4)]), torch.randn(
        40, 2, 6, 6
    )


JOINS = [linear_join, conv_join, flat_join, pooled_join]


@pytest.mark.parametrize("join", JOINS)
def test_the_loss_falls_at_the_predicted_rate(join):
    """Identity functions, no projection: then the prediction is the derivative by gamma^2 itself."""
    net, x = join()
    net, x = net.double(), x.double()
    net.gather([x])
    net.merge.compute_optimal_updates(
        maximum_added_neurons=2, dtype=torch.float64, use_projected_gradient=False
    )
    net.merge.set_scaling_factor(1e-4)
    slope = (loss(net(x)) - loss(net.extended_forward(x))).item() / len(x) / 1e-8
    assert slope == pytest.approx(net.merge.first_order_improvement.item(), rel=1e-4)


@pytest.mark.parametrize("join", JOINS)
def test_repeated_growths_bake_in_exactly_the_extended_forward(join):
    net, x = join(nn.ReLU())
    for num_growths in (1, 2):
        net.gather([x, x + 0.1])
        net.merge.compute_optimal_updates(maximum_added_neurons=2, relative_thresholds=True)
        net.merge.set_scaling_factor(0.5)
        expected = net.extended_forward(x)
        net.merge.apply_change()
        net.merge.delete_update()
        net.merge.reset_computation()
        for ours, wanted in zip(net(x), expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
        assert {module.out_neurons for module in net.before} == {3 + 2 * num_growths}


@pytest.mark.parametrize("join", JOINS)
def test_new_neurons_have_the_norms_of_their_singular_values(join):
    net, x = join()
    net, x = net.double(), x.double()
    net.gather([x])
    net.merge.compute_optimal_updates(maximum_added_neurons=2, dtype=torch.float64)
    alpha = torch.cat(
        [
            torch.cat([w.flatten(1), b[:, None]], dim=1) if b is not None else w.flatten(1)
            for w, b in ((m.extended_output_layer.weight, m.extended_output_layer.bias) for m in net.before)
        ],
        dim=1,
    )
    Lambda = torch.diag(net.merge.eigenvalues_extension)
    S = net.merge.tensor_s_growth()
    torch.testing.assert_close(alpha @ S @ alpha.T, Lambda, rtol=1e-6, atol=1e-9)


def test_a_merge_of_one_module_and_one_reader_solves_what_the_pair_solves():
    net, x = linear_join()
    single = Joined(net.before[:1], LinearMergeGrowingModule(), net.behind[:1])
    single.gather([x])
    single.merge.compute_optimal_updates(maximum_added_neurons=2)
    first = LinearGrowingModule(5, 3)
    second = LinearGrowingModule(3, 4, previous_module=first)
    first.load_state_dict(single.before[0].state_dict())
    second.load_state_dict(single.behind[0].state_dict())
    second.init_computation()
    loss([second(first(x))]).backward()
    second.update_computation()
    second.compute_optimal_updates(maximum_added_neurons=2)
    torch.testing.assert_close(single.merge.eigenvalues_extension, second.eigenvalues_extension)
    torch.testing.assert_close(single.merge.first_order_improvement, second.first_order_improvement)


def test_a_copied_merge_gathers_for_the_copy():
    net, x = conv_join()
    net.gather([x])
    net.merge.reset_computation()
    twin = copy.deepcopy(net)
    assert set(twin.state_dict()) == set(net.state_dict())
    assert twin.merge.previous_modules[0] is twin.before[0]
    twin.gather([x])
    twin.merge.compute_optimal_updates()
    twin.merge.apply_change(1.0)
    assert net.before[0].out_channels == 3
    assert all(module.gathered.stored_input is None for module in [*net.before, *net.behind])


def test_modules_that_a_merge_cannot_join_are_refused():
    with pytest.raises(ValueError, match=r"adds outputs of one width; got \[3, 4\]"):
        LinearMergeGrowingModule(previous_modules=[LinearGrowingModule(2, 3), LinearGrowingModule(2, 4)])
    with pytest.raises(ValueError, match=r"A skip without weights cannot gain channels"):
        Conv2dMergeGrowingModule(previous_modules=[nn.Identity()])
    with pytest.raises(ValueError, match=r"is read by linear growing modules"):
        LinearMergeGrowingModule(next_modules=[RestrictedConv2dGrowingModule(2, 3, 3)])
    with pytest.raises(ValueError, match=r"set previous and next modules first"):
        LinearMergeGrowingModule().init_computation()
    net, x = flat_join(nn.MaxPool2d(1))
    with pytest.raises(ValueError, match=r"linear pooling only; got MaxPool2d"):
        net.gather([x])


def _worker(rank: int, port: int, state: dict, x: torch.Tensor, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    net, _ = linear_join(nn.ReLU())
    net.load_state_dict(state)
    net.gather([x[rank::2]])
    net.merge.reduce_computation()
    net.merge.compute_optimal_updates(maximum_added_neurons=2)
    results.put((net.merge.first_order_improvement.item(), net.merge.eigenvalues_extension.tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_on_half_the_data_each_solve_the_growth_of_a_merge_as_one_on_all_of_it():
    net, x = linear_join(nn.ReLU())
    net.gather([x])
    net.merge.compute_optimal_updates(maximum_added_neurons=2)
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
    for improvement, eigenvalues in found:
        assert improvement == pytest.approx(net.merge.first_order_improvement.item(), rel=1e-3)
        assert eigenvalues == pytest.approx(net.merge.eigenvalues_extension.tolist(), rel=1e-3)

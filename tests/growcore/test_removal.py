"""Removing hidden neurons: weights, norms, masks and the optimizer's state lose the same entries."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from growcore.config import TrialConfig
from growcore.config.timing import Progress
from growcore.edits import decide as policies
from growcore.edits import surgery
from growcore.edits.decide import ActivityObservation
from growcore.edits.observe import observe_activity
from growcore.edits.surgery import Edit, EditKind
from growcore.growth import (
    LinearGrowingModule,
    RemovedNeurons,
    removable_neurons,
    remove_neurons,
)
from growcore.networks import models
from growcore.networks.neurons import alive
from growcore.training import Training, checkpoint
from growcore.training.evaluation import evaluate

SHAPE = (1, 8, 8)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def built(name: str = "conv", norm: str = "batch", widths: tuple[int, ...] = (5, 6, 4)) -> nn.Module:
    values = {
        "data": {"name": "digits"},
        "model": {"name": name, "widths": list(widths), "normalization": norm},
        "pruning": {"method": "hebbian", "k1": 0.4, "k2": 0.7},
    }
    return models.build(TrialConfig.from_dict(values), SHAPE, 10)


def images() -> torch.Tensor:
    return torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, num: int = 3) -> None:
    model.train()
    for _ in range(num):
        optimizer.zero_grad()
        functional.cross_entropy(model(images()), torch.arange(16) % 10).backward()
        optimizer.step()


def silence(model: nn.Module, layer: str, dead: torch.Tensor) -> None:
    """Make neurons of a layer give exactly 0 after their ReLU, whatever comes."""
    (producer,) = models.grow_pairs(model)[layer].producers
    norm = next((m for m in producer.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)), None)
    with torch.no_grad():
        producer.layer.weight[dead] = 0
        (producer.layer.bias if norm is None else norm.bias)[dead] = -10  # also where restarted weights vary
        if norm is not None:
            producer.layer.bias[dead] = 0
            norm.running_mean[dead] = 0


def removal(layer: str, keep: torch.Tensor) -> Edit:
    return Edit(layer, EditKind.remove, RemovedNeurons(keep), "test")


@pytest.mark.parametrize("name", ["conv", "mlp"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@given(kept=st.lists(st.booleans(), min_size=6, max_size=6).filter(any))
def test_removing_dead_neurons_leaves_the_function_unchanged(name, norm, kept):
    model = built(name, norm)
    step(model, torch.optim.SGD(model.parameters(), lr=0.05))
    layer = "conv2" if name == "conv" else "fc2"
    keep = torch.tensor(kept)
    silence(model, layer, ~keep)
    model.eval()
    before = model(images())
    (applied,) = surgery.apply([removal(layer, keep)], model)
    assert models.widths(model)[layer] == int(keep.sum())
    assert applied.number == int((~keep).sum())
    torch.testing.assert_close(model(images()), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("optimizer_name", list(OPTIMIZERS))
@pytest.mark.parametrize("name", ["conv", "mlp"])
def test_what_belongs_to_neurons_that_stay_is_carried_by_their_index(optimizer_name, name):
    model = built(name)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    step(model, optimizer)
    consumer = models.grow_pairs(model)["conv2" if name == "conv" else "fc2"]
    producer = consumer.previous_module
    keep = torch.tensor([False, True, True, False, False, True])
    sparse = producer.layer
    sparse.mask[:, 0] = False
    norm = producer.post_layer_function[0]
    kept_of = {
        "weight": (sparse, lambda t: t[keep]),
        "bias": (sparse, lambda t: t[keep]),
        "norm": (norm, lambda t: t[keep]),
        "reads": (consumer.layer, lambda t: t[:, keep]),
    }
    wanted = {}
    for key, (module, part) in kept_of.items():
        p = module.bias if key == "bias" else module.weight
        state = {k: part(v) for k, v in optimizer.state[p].items() if torch.is_tensor(v) and v.dim()}
        wanted[key] = (part(p.detach().clone()), {k: v.clone() for k, v in state.items()})
    mask, mean, variance = sparse.mask[keep], norm.running_mean[keep], norm.running_var[keep]
    surgery.apply([removal("conv2" if name == "conv" else "fc2", keep)], model, optimizer)
    for key, (module, _) in kept_of.items():
        p = module.bias if key == "bias" else module.weight
        assert torch.equal(p, wanted[key][0]), key
        for k, v in wanted[key][1].items():
            assert torch.equal(optimizer.state[p][k], v), (key, k)
    assert torch.equal(sparse.mask, mask)
    assert sparse.connections_tensor.shape == sparse.explored.shape == sparse.weight.shape
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)
    held = optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert set(optimizer.state) == set(model.parameters())
    step(model, optimizer)


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_hidden_neurons_of_blocks_and_stages_can_be_removed(name):
    values = {
        "data": {"name": "digits"},
        "model": {"name": name, "widths": [4, 4], "blocks": [2, 2], "normalization": "batch"},
    }
    model = models.build(TrialConfig.from_dict(values), SHAPE, 10).eval()
    for layer in models.widths(model):
        dead = torch.tensor([False, True, False, True])
        silence(model, layer, dead)
        before = model(images())
        surgery.apply([removal(layer, ~dead)], model)
        torch.testing.assert_close(model(images()), before, atol=1e-5, rtol=1e-5)
    assert set(models.widths(model).values()) == {2}


@given(at=st.integers(0, 2))
def test_a_failing_edit_puts_removed_neurons_back(at):
    model = built()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    step(model, optimizer)
    before = [v.clone() for v in (*model.parameters(), *model.buffers())]
    moments = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    identities = [id(p) for p in model.parameters()]
    edits = [
        removal("conv1", torch.tensor([True, False, True, True, False])),
        removal("conv2", torch.tensor([True, False, True, True, False, True])),
    ]
    edits.insert(at, removal("conv9", torch.ones(3, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"No layer 'conv9' can lose neurons. Layers that can: conv1, conv2"):
        surgery.apply(edits, model, optimizer)
    after = [*model.parameters(), *model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert [id(p) for p in model.parameters()] == identities
    assert all(
        torch.equal(optimizer.state[p]["momentum_buffer"], m)
        for p, m in zip(model.parameters(), moments, strict=True)
    )
    step(model, optimizer)


@pytest.mark.parametrize(
    "keep", [torch.zeros(6, dtype=torch.bool), torch.ones(5, dtype=torch.bool), torch.ones(6)]
)
def test_one_neuron_at_least_stays_and_the_choice_must_fit_the_layer(keep):
    model = built()
    with pytest.raises(ValueError, match=r"each of the 6 neurons of conv2 whether it stays"):
        surgery.apply([removal("conv2", keep)], model)
    assert models.widths(model) == {"conv1": 5, "conv2": 6, "conv3": 4}


def pair(norm: nn.Module) -> LinearGrowingModule:
    first = LinearGrowingModule(3, 6, post_layer_function=nn.Sequential(norm, nn.ReLU()), name="first")
    return LinearGrowingModule(6, 2, previous_module=first, name="second")


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.LayerNorm(6, elementwise_affine=False), nn.PReLU(6)])
def test_neurons_that_are_normalised_together_or_hold_values_of_their_own_stay(norm):
    consumer = pair(norm)
    assert not removable_neurons(consumer).any()
    with pytest.raises(ValueError, match=r"1 of the neurons to remove from first cannot go"):
        remove_neurons(consumer, torch.arange(6) != 2)
    assert consumer.weight.shape == (2, 6)


def test_neurons_that_passed_a_norm_by_since_they_grew_can_go():
    consumer = pair(nn.LayerNorm(6))
    consumer.create_layer_extensions(3)
    consumer.apply_change(scaling_factor=1.0)
    consumer.delete_update()
    assert removable_neurons(consumer).tolist() == [False] * 6 + [True] * 3
    first = consumer.previous_module
    x = torch.randn(4, 3)
    with torch.no_grad():
        first.weight[7] = 0
        first.bias[7] = -1
    before = consumer(first(x))
    remove_neurons(consumer, torch.arange(9) != 7)
    torch.testing.assert_close(consumer(first(x)), before)
    assert first(x).shape == (4, 8)


def test_a_model_takes_recorded_widths_below_and_above_its_own():
    narrowed = built()
    surgery.apply([removal("conv1", torch.tensor([False, True, False, True, True]))], narrowed)
    models.resize(narrowed, {"conv1": 3, "conv2": 9})
    rebuilt = built()
    models.resize(rebuilt, models.widths(narrowed))
    rebuilt.load_state_dict(narrowed.state_dict())
    assert models.widths(rebuilt) == {"conv1": 3, "conv2": 9, "conv3": 4}
    assert torch.equal(rebuilt.eval()(images()), narrowed.eval()(images()))


def test_a_copy_of_a_narrowed_model_shares_nothing():
    model = built()
    surgery.apply([removal("conv1", torch.tensor([False, True, False, True, True]))], model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(twin.parameters())).add_(1)
    assert not torch.equal(next(iter(twin.parameters())), next(iter(model.parameters())))


def observed(frequencies: list[float], removable: list[bool] | None = None) -> ActivityObservation:
    held = torch.tensor(removable or [True] * len(frequencies))
    return ActivityObservation("conv1", torch.tensor(frequencies), held, num_images=32)


@pytest.mark.parametrize(
    ("frequencies", "removable", "keep"),
    [
        ([0.5, 0.0, 0.1], None, [True, False, True]),
        ([0.0, 0.0, 0.0], None, [True, False, False]),
        ([0.0, 0.0, 0.0], [False, True, True], [True, False, False]),
        ([0.0, 0.0, 0.0], [True, False, True], [False, True, False]),
    ],
)
def test_neurons_that_were_never_active_go_and_one_stays(frequencies, removable, keep):
    (edit,) = policies.decide_removal([observed(frequencies, removable)], Progress(3, 9, 0))
    assert edit.kind == EditKind.remove
    assert edit.proposal.keep.tolist() == keep
    assert edit.reason == f"{keep.count(False)} of 3 neurons gave 0 on 32 images at epoch 3"


def test_where_every_neuron_was_active_nothing_is_removed():
    assert policies.decide_removal([observed([0.5, 1e-6])], Progress(3, 9, 0)) == []


def test_activity_is_any_output_but_zero_on_any_batch():
    model = built("mlp", "none")
    silence(model, "fc2", torch.tensor([True, False, False, True, False, False]))
    batches = [(x, torch.arange(8) % 10) for x in images().split(8)]
    seen = {o.layer: o for o in observe_activity(model, models.grow_pairs(model), batches)}
    outputs = torch.cat([model.layers["fc2"](model.layers["fc1"](x.flatten(1))) for x, _ in batches])
    torch.testing.assert_close(seen["fc2"].frequencies, (outputs != 0).double().mean(0))
    assert (seen["fc2"].frequencies[[0, 3]] == 0).all()
    assert seen["fc2"].num_images == 16
    assert model.training


def test_a_negative_output_is_activity_too():
    consumer = pair(nn.Tanh())
    producer = consumer.previous_module
    with torch.no_grad():
        producer.bias.fill_(-100)
    batch = (torch.ones(2, 3), torch.zeros(2))
    (seen,) = observe_activity(nn.Sequential(producer, consumer), {"first": consumer}, [batch])
    assert seen.frequencies.tolist() == [0.0] * 6  # the ReLU behind the tanh silences them
    producer.post_layer_function = nn.Tanh()
    (seen,) = observe_activity(nn.Sequential(producer, consumer), {"first": consumer}, [batch])
    assert seen.frequencies.tolist() == [1.0] * 6


def trial(**pruning: object) -> TrialConfig:
    return TrialConfig.from_dict(
        {
            "data": {"name": "digits", "num_train": 256},
            "model": {"name": "conv", "widths": [6, 6, 4], "normalization": "batch"},
            "pruning": {"remove_dead": True, **pruning},
            "growth": {"method": "random", "start_epoch": 2, "every_epochs": 2, "num_neurons": 1},
            "training": {"num_epochs": 6, "batch_size": 64},
        }
    )


def killed(config: TrialConfig) -> Training:
    """A training in which two neurons of each growable layer are dead from the start."""
    training = Training(config)
    dead = torch.tensor([False, True, False, False, False, True])
    for layer in ("conv1", "conv2"):
        silence(training.model, layer, dead)
        for p in models.grow_pairs(training.model)[layer].previous_module.layer.parameters():
            p.grad = None
    return training


def untimed(report: object) -> dict:
    values = report.to_dict()
    values["metrics"].pop("cost/wall_seconds")
    return values


@pytest.mark.parametrize("pruning", [{"method": "none"}, {"method": "hebbian", "k1": 0.6, "k2": 0.9}])
def test_dead_neurons_leave_a_training_which_resumes_bit_for_bit(tmp_path, pruning):
    whole = list(killed(trial(**pruning)))
    removed = [edit for report in whole for edit in report.edits if edit.kind == "remove"]
    assert {edit.layer for edit in removed} >= {"conv1", "conv2"}
    first = removed[0]
    assert first.epoch == 1
    assert first.number == first.before.width - first.after.width >= 2
    assert first.after.parameters < first.before.parameters
    assert "gave 0 on 256 images at epoch 1" in first.reason

    interrupted = killed(trial(**pruning))
    iterator = iter(interrupted)
    for _ in range(2):
        next(iterator)
    assert models.widths(interrupted.model)["conv1"] < 6
    path = checkpoint.save(tmp_path, interrupted)
    resumed = Training(trial(**pruning))
    checkpoint.load(path, resumed)
    assert [untimed(r) for r in resumed] == [untimed(r) for r in whole[2:]]


def test_what_is_dead_has_one_answer_in_reports_in_removal_and_over_data():
    values = {
        "data": {"name": "synthetic", "num_train": 64},
        "model": {"name": "mlp", "widths": [3, 3], "activation": "tanh"},
        "training": {"num_epochs": 1, "batch_size": 32},
        "preflight": "off",
    }
    training = Training(TrialConfig.from_dict(values))
    first = training.model.layers["fc1"]
    with torch.no_grad():
        first.weight[:2] = 0
        first.bias[0], first.bias[1] = -40.0, 0.0  # tanh holds one at -1, which is missed, and one at 0
    reported = evaluate(training.model, training.data, training.data.val, "val")
    assert reported["activity/dead_fraction/fc1"] == pytest.approx(1 / 3)
    batch = (training.data.normalise(training.data.val.x_NCHW), training.data.val.y_N)
    pairs = models.grow_pairs(training.model)
    seen = {o.layer: o for o in observe_activity(training.model, pairs, [batch])}
    dead = [False, True, False]
    assert (seen["fc1"].frequencies == 0).tolist() == dead
    assert (~alive(first(batch[0].flatten(1)))).tolist() == dead

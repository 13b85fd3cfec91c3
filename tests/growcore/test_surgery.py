import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from growcore.config import TrialConfig
from growcore.edits import surgery
from growcore.edits.line_search import scale
from growcore.edits.observe import observe_growth
from growcore.edits.surgery import Edit, EditKind
from growcore.growth import RemovedNeurons
from growcore.networks import models

SHAPE = (1, 8, 8)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def setting(name: str = "conv", method: str = "tiny", norm: str = "none") -> TrialConfig:
    return TrialConfig.from_dict(
        {
            "data": {"name": "digits"},
            "model": {"name": name, "widths": [3, 4, 4], "normalization": norm},
            "growth": {"method": method, "num_neurons": 2},
            "pruning": {"method": "hebbian", "k1": 0.3, "k2": 0.6, "update_interval": 1},
        }
    )


def batches(num: int = 3) -> list:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(32, *SHAPE, generator=generator), torch.randint(0, 10, (32,), generator=generator))
        for _ in range(num)
    ]


def trained(config: TrialConfig, optimizer_name: str = "sgd") -> tuple[nn.Module, torch.optim.Optimizer]:
    model = models.build(config, SHAPE, 10)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    steps(model, optimizer, batches())
    return model, optimizer


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, data: list) -> None:
    model.train()
    for x, y in data:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def growths(model: nn.Module, config: TrialConfig, gamma: float = 0.5) -> list[Edit]:
    observed = observe_growth(
        model, models.grow_pairs(model), batches(), config.growth, torch.Generator().manual_seed(2)
    )
    return [scale(Edit(o.layer, EditKind.grow, o.proposal, "test"), gamma) for o in observed]


def prunings(model: nn.Module) -> list[Edit]:
    return [
        Edit(name, EditKind.prune, layer.propose_progression(), "test")
        for name, layer in models.sparse_layers(model).items()
    ]


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list:
    state = [(name, value.clone()) for name, value in model.state_dict().items()]
    moments = [
        (key, value.clone() if torch.is_tensor(value) else value)
        for p in model.parameters()
        for key, value in optimizer.state[p].items()
    ]
    return [*state, *moments]


def assert_same(first: list, second: list) -> None:
    assert [name for name, _ in first] == [name for name, _ in second]
    for (name, a), (_, b) in zip(first, second, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), name


@pytest.mark.parametrize("name", ["conv", "mlp"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("method", ["tiny", "random"])
def test_an_applied_growth_widens_the_layer_and_its_reader(name, norm, method):
    config = setting(name, method, norm)
    model, optimizer = trained(config)
    before = models.widths(model)
    edits = growths(model, config)
    applied = surgery.apply(edits, model, optimizer)
    gained = {done.edit.layer: done.number for done in applied}
    assert models.widths(model) == {layer: width + gained[layer] for layer, width in before.items()}
    assert all(number >= 1 for number in gained.values())
    assert model(batches()[0][0]).shape == (32, 10)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_growth_with_scaling_factor_0_leaves_the_function_unchanged(norm):
    config = setting(norm=norm)
    model, optimizer = trained(config)
    model.eval()
    x = batches()[0][0]
    before = model(x)
    surgery.apply(growths(model, config, gamma=0.0), model, optimizer)
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("optimizer_name", list(OPTIMIZERS))
def test_optimizer_state_of_old_weights_stays_and_that_of_new_ones_is_zero(optimizer_name):
    config = setting()
    model, optimizer = trained(config, optimizer_name)
    old = {
        name: {key: value.clone() for key, value in optimizer.state[p].items() if torch.is_tensor(value)}
        for name, p in model.named_parameters()
    }
    surgery.apply(growths(model, config), model, optimizer)
    resized = 0
    for name, p in model.named_parameters():
        for key, value in old[name].items():
            now = optimizer.state[p][key]
            if value.dim() == 0:
                assert torch.equal(now, value)
                continue
            assert now.shape == p.shape
            corner = tuple(slice(size) for size in value.shape)
            assert torch.equal(now[corner], value)
            rest = now.clone()
            rest[corner] = 0
            assert not rest.any()
            resized += now.shape != value.shape
    assert resized > 0


def test_the_optimizer_holds_exactly_the_model_s_parameters_in_their_order_after_a_growth():
    config = setting(norm="batch")
    model, optimizer = trained(config)
    surgery.apply(growths(model, config), model, optimizer)
    held = optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert set(optimizer.state) == set(model.parameters())
    before = {name: p.clone() for name, p in model.named_parameters()}
    steps(model, optimizer, batches(1))
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("optimizer_name", list(OPTIMIZERS))
def test_pruned_connections_stay_exactly_zero_through_optimizer_steps(optimizer_name):
    model, optimizer = trained(setting(), optimizer_name)
    applied = surgery.apply(prunings(model), model, optimizer, torch.Generator().manual_seed(0))
    assert all(done.progress is not None and done.number > 0 for done in applied)
    steps(model, optimizer, batches(5))
    for layer in models.sparse_layers(model).values():
        assert not layer.weight[~layer.mask].any()
        assert layer.weight[layer.mask].all()


def test_restarted_connections_start_without_momentum():
    model, optimizer = trained(setting())
    applied = surgery.apply(prunings(model), model, optimizer)
    for done in applied:
        layer = models.sparse_layers(model)[done.edit.layer]
        assert done.progress is not None
        assert done.progress.reset.any()
        assert not optimizer.state[layer.weight]["momentum_buffer"][done.progress.reset].any()
        assert optimizer.state[layer.weight]["momentum_buffer"][~done.progress.reset].any()


def test_a_grown_layer_keeps_its_mask_and_its_new_connections_are_alive():
    config = setting()
    model, optimizer = trained(config)
    surgery.apply(prunings(model), model, optimizer)
    masks = {name: layer.mask.clone() for name, layer in models.sparse_layers(model).items()}
    surgery.apply(growths(model, config), model, optimizer)
    for name, layer in models.sparse_layers(model).items():
        corner = tuple(slice(size) for size in masks[name].shape)
        assert torch.equal(layer.mask[corner], masks[name])
        new = layer.mask.clone()
        new[corner] = True
        assert new.all()
        assert layer.mask.shape == layer.weight.shape
        assert not layer.weight[~layer.mask].any()


@pytest.mark.parametrize("optimizer_name", list(OPTIMIZERS))
@pytest.mark.parametrize("norm", ["none", "batch"])
@given(position=st.integers(0, 4))
def test_a_failing_edit_leaves_model_optimizer_and_randomness_as_they_were(optimizer_name, norm, position):
    config = setting(norm=norm)
    model, optimizer = trained(config, optimizer_name)
    edits = [*prunings(model), *growths(model, config)]
    edits.insert(position, Edit("conv9", EditKind.grow, edits[-1].proposal, "no such layer"))
    generator = torch.Generator().manual_seed(4)
    before, random_before = everything(model, optimizer), generator.get_state()
    parameters = [id(p) for p in model.parameters()]
    with pytest.raises(ValueError, match=r"No layer 'conv9' can grow. Layers that can: conv1, conv2, conv3"):
        surgery.apply(edits, model, optimizer, generator)
    assert_same(everything(model, optimizer), before)
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(generator.get_state(), random_before)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(batches()[0][0]), model(batches()[0][0]))


def test_a_proposal_for_another_layer_is_refused_before_anything_changes():
    config = setting()
    model, optimizer = trained(config)
    first, second, *_ = growths(model, config)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=r"must fit the layers"):
        surgery.apply([Edit(first.layer, EditKind.grow, second.proposal, "mixed up")], model, optimizer)
    assert_same(everything(model, optimizer), before)


def test_a_vanished_parameter_is_refused():
    model, optimizer = trained(setting())
    before = dict(model.named_parameters())
    after = dict(list(before.items())[1:])
    with pytest.raises(ValueError, match=r"may resize parameters, not add or remove them"):
        surgery.carry_optimizer(optimizer, before, after)


class Preconditioned(torch.optim.SGD):
    """An optimizer that keeps a matrix per weight, as Shampoo does."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                rows = p.detach().flatten(1) if p.dim() > 1 else p.detach()[:, None]
                self.state[p]["left"] = rows @ rows.T
        return super().step(closure)


class Remembering(torch.optim.SGD):
    """An optimizer that keeps a list of past gradients per weight."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("past", []).append(p.grad.clone())
        return super().step(closure)


def edited(config: TrialConfig, model: nn.Module, what: str) -> list[Edit]:
    if what == "growth":
        return growths(model, config)
    keep = torch.tensor([True, False, True, True])
    return [Edit("conv2", EditKind.remove, RemovedNeurons(keep), "test")]


@pytest.mark.parametrize("what", ["growth", "removal"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_factored_state_follows_the_weight_and_training_goes_on(what, norm):
    """Adafactor keeps one number per row and one per column of a weight."""
    config = setting(norm=norm)
    model = models.build(config, SHAPE, 10)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    steps(model, optimizer, batches())
    old = {name: dict(optimizer.state[p]) for name, p in model.named_parameters()}
    surgery.apply(edited(config, model, what), model, optimizer)
    assert set(optimizer.state) == set(model.parameters())
    resized = 0
    for name, p in model.named_parameters():
        for key in ("row_var", "col_var"):
            if key not in old[name]:
                continue
            before, now = old[name][key], optimizer.state[p][key]
            assert all(size in (1, whole) for size, whole in zip(now.shape, p.shape, strict=True))
            if what == "growth":
                corner = tuple(slice(size) for size in before.shape)
                assert torch.equal(now[corner], before)
                torch.testing.assert_close(now.mean(), before.mean())
            resized += now.shape != before.shape
    assert resized > 0
    steps(model, optimizer, batches())
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("what", ["growth", "removal"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [(Preconditioned, r"state 'left' of .* has shape"), (Remembering, r"state 'past' of .* is a list of")],
)
def test_state_that_cannot_follow_is_refused_and_nothing_changes(kind, message, what):
    config = setting()
    model = models.build(config, SHAPE, 10)
    optimizer = kind(model.parameters(), lr=0.01, momentum=0.9)
    steps(model, optimizer, batches())
    before = [(name, value.clone()) for name, value in model.state_dict().items()]
    held = [id(p) for p in optimizer.param_groups[0]["params"]]
    with pytest.raises(ValueError, match=message):
        surgery.apply(edited(config, model, what), model, optimizer)
    assert_same(list(model.state_dict().items()), before)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == held
    steps(model, optimizer, batches(1))


def test_state_of_a_flat_weight_in_which_rows_and_columns_cannot_be_told_is_refused():
    old, new = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.ones(4, 3))
    optimizer = torch.optim.Adafactor([old], lr=0.01)
    old.grad = torch.ones(4, 1)
    optimizer.step()
    with pytest.raises(ValueError, match=r"state 'col_var' of w has shape \(1, 1\), the weight \(4, 1\)"):
        surgery.carry_optimizer(optimizer, {"w": old}, {"w": new})
    assert optimizer.param_groups[0]["params"] == [old]


def test_an_edit_of_kind_skip_changes_nothing():
    model, optimizer = trained(setting())
    before = everything(model, optimizer)
    (done,) = surgery.apply([Edit("conv1", EditKind.skip, None, "of no use")], model, optimizer)
    assert (done.number, done.counts) == (0, {})
    assert_same(everything(model, optimizer), before)

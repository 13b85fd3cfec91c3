import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from growcore.config import TrialConfig
from growcore.edits import surgery
from growcore.edits.line_search import scale
from growcore.edits.observe import observe_growth
from growcore.edits.surgery import Edit, EditKind
from growcore.growth import RemovedNeurons
from growcore.networks import models

SHAPE = (1, 8, 8)
CONFIG = TrialConfig.from_dict(
    {
        "data": {"name": "digits"},
        "model": {"name": "conv", "widths": [3, 4, 4], "normalization": "batch"},
        "growth": {"method": "tiny", "num_neurons": 2},
        "pruning": {"method": "hebbian", "k1": 0.3, "k2": 0.6, "update_interval": 1},
    }
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(32, *SHAPE), torch.randint(0, 10, (32,))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    x_NCHW, y_N = batch()
    optimizer.zero_grad()
    functional.cross_entropy(model(x_NCHW), y_N).backward()
    optimizer.step()


def averaged() -> tuple[nn.Module, torch.optim.Optimizer, AveragedModel]:
    model = models.build(CONFIG, SHAPE, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        step(model, optimizer)
        average.update_parameters(model)
    return model, optimizer, average


def growths(model: nn.Module) -> list[Edit]:
    observed = observe_growth(model, models.grow_pairs(model), [batch()], CONFIG.growth)
    return [scale(Edit(o.layer, EditKind.grow, o.proposal, "test"), 0.5) for o in observed]


def prunings(model: nn.Module) -> list[Edit]:
    return [
        Edit(name, EditKind.prune, layer.propose_progression(), "test")
        for name, layer in models.sparse_layers(model).items()
    ]


def removal(layer: str, num_neurons: int, gone: int) -> Edit:
    keep = torch.arange(num_neurons) != gone
    return Edit(layer, EditKind.remove, RemovedNeurons(keep), "test")


def entries(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_after_a_growth_the_average_keeps_its_old_entries_and_has_the_models_new_ones():
    model, optimizer, average = averaged()
    before = entries(average.module)
    surgery.apply(growths(model), model, optimizer, average=average)
    after, own = entries(average.module), entries(model)
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in own.items()}
    for name, value in after.items():
        corner = tuple(slice(size) for size in before[name].shape)
        assert torch.equal(value[corner], before[name]), name
        fresh = torch.ones_like(value, dtype=torch.bool)
        fresh[corner] = False
        assert torch.equal(value[fresh], own[name][fresh]), name
    assert average(batch()[0]).shape == (32, 10)


def test_an_average_loses_the_neurons_and_connections_that_its_model_loses():
    model, optimizer, average = averaged()
    before = entries(average.module)
    surgery.apply([*prunings(model), removal("conv3", 4, gone=1)], model, optimizer, average=average)
    kept = before["layers.conv3.layer.bias"][torch.tensor([0, 2, 3])]
    assert torch.equal(average.module.layers["conv3"].layer.bias, kept)
    assert models.widths(average.module) == models.widths(model) == {"conv1": 3, "conv2": 4, "conv3": 3}
    for name, layer in models.sparse_layers(model).items():
        mask = models.sparse_layers(average.module)[name].mask
        assert torch.equal(mask, layer.mask)
        assert not mask.all()


def test_training_and_averaging_go_on_after_edits():
    model, optimizer, average = averaged()
    surgery.apply([*prunings(model), *growths(model)], model, optimizer, average=average)
    before = entries(average.module)
    step(model, optimizer)
    average.update_parameters(model)
    weight = "out.layer.weight"
    expected = 0.9 * before[weight] + 0.1 * model.state_dict()[weight]
    torch.testing.assert_close(average.module.state_dict()[weight], expected)


def test_a_failing_edit_leaves_the_average_as_it_was():
    model, optimizer, average = averaged()
    edits = growths(model)
    edits.append(Edit("conv9", EditKind.grow, edits[0].proposal, "no such layer"))
    before, tensors = entries(average), [id(p) for p in average.parameters()]
    with pytest.raises(ValueError, match=r"No layer 'conv9' can grow"):
        surgery.apply(edits, model, optimizer, average=average)
    after = entries(average)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert after.keys() == before.keys()
    assert [id(p) for p in average.parameters()] == tensors


def test_an_average_of_another_model_is_refused():
    model, optimizer, average = averaged()
    surgery.apply(growths(model), model, optimizer)
    with pytest.raises(ValueError, match=r"they differ in layers.conv1.layer.bias, .*AveragedModel\(model\)"):
        surgery.apply([removal("conv3", 6, gone=0)], model, optimizer, average=average)
    assert models.widths(model)["conv3"] == 6


@pytest.mark.parametrize(
    "schedule",
    [lambda o: CosineAnnealingLR(o, T_max=6), lambda o: LambdaLR(o, lambda step: 1 / (1 + step))],
    ids=["cosine", "lambda"],
)
def test_a_learning_rate_schedule_goes_on_over_an_edit(schedule):
    rates = {}
    for edited in (False, True):
        model, optimizer, _ = averaged()
        scheduler = schedule(optimizer)
        rates[edited] = []
        for number in range(6):
            step(model, optimizer)
            scheduler.step()
            rates[edited].append(optimizer.param_groups[0]["lr"])
            if edited and number == 2:
                surgery.apply(growths(model), model, optimizer)
    assert rates[True] == rates[False]
    assert len(set(rates[True])) == 6

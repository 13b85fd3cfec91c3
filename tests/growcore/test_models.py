import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from growcore.config import TrialConfig
from growcore.edits import surgery
from growcore.edits.decide import Progress, decide_growth
from growcore.edits.observe import observe_growth
from growcore.growth import LinearGrowingModule
from growcore.networks import cost, models
from growcore.networks.families import MODELS
from growcore.sparse import DSConv2d, DSLinear


def config(name: str = "conv", widths: tuple[int, ...] = (4, 6, 8), **groups: dict) -> TrialConfig:
    model = {"name": name, "widths": list(widths), **groups.pop("model", {})}
    return TrialConfig.from_dict({"data": {"name": "digits"}, "model": model, **groups})


@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    side=st.integers(3, 12),
    name=st.sampled_from(["conv", "mlp"]),
    norm=st.sampled_from(["none", "batch"]),
)
def test_a_model_gives_one_logit_for_each_class_at_any_width_and_image_size(widths, side, name, norm):
    model = models.build(config(name, tuple(widths), model={"normalization": norm}), (2, side, side), 5)
    assert model(torch.randn(3, 2, side, side)).shape == (3, 5)


def stages(name: str, hidden_fraction: float = 0.5, **groups: dict) -> TrialConfig:
    model = {"blocks": [2, 1], "hidden_fraction": hidden_fraction, **groups.pop("model", {})}
    return config(name, (4, 6), model=model, **groups)


@given(
    name=st.sampled_from(["resnet", "vgg"]),
    hidden=st.sampled_from([0.0, 0.25, 1.0]),
    norm=st.sampled_from(["none", "batch"]),
    side=st.integers(4, 12),
)
def test_networks_of_stages_give_one_logit_for_each_class(name, hidden, norm, side):
    model = models.build(stages(name, hidden, model={"normalization": norm}), (2, side, side), 5)
    assert model(torch.randn(3, 2, side, side)).shape == (3, 5)


def test_inside_every_block_of_a_resnet_and_between_the_convolutions_of_a_vgg_stage_layers_can_grow():
    resnet, vgg = (models.build(stages(name), (1, 8, 8), 10) for name in ("resnet", "vgg"))
    assert models.widths(resnet) == {
        "stage1block1.conv1": 2,
        "stage1block2.conv1": 2,
        "stage2block1.conv1": 3,
    }
    # stage1conv2 stands before a max pooling.
    assert models.widths(vgg) == {"stage1conv1": 4, "stage2conv1": 6}


@pytest.mark.parametrize("pruned", [{}, {"pruning": {"method": "hebbian"}}])
def test_blocks_may_start_with_nothing_inside_and_grow(pruned):
    model = models.build(stages("resnet", 0.0, **pruned), (1, 8, 8), 10)
    assert set(models.widths(model).values()) == {0}
    models.resize(model, {"stage1block1.conv1": 3})
    assert models.widths(model)["stage1block1.conv1"] == 3
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_every_stage_needs_its_number_of_blocks():
    with pytest.raises(ValueError, match=r"model.blocks=\[2, 1\], model.widths=\[4, 6, 8\]"):
        models.build(config("vgg", (4, 6, 8), model={"blocks": [2, 1]}), (1, 8, 8), 10)


def test_equal_seeds_give_equal_weights_and_others_do_not():
    first, second, other = (
        models.build(TrialConfig.from_dict({**config().to_dict(), "seed": seed}), (1, 8, 8), 10).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    models.build(config(), (1, 8, 8), 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_hidden_layer_of_an_mlp_and_every_convolution_can_gain_neurons():
    mlp, conv = (models.build(config(name), (1, 8, 8), 10) for name in ("mlp", "conv"))
    assert models.widths(mlp) == {"fc1": 4, "fc2": 6, "fc3": 8}
    assert models.widths(conv) == {"conv1": 4, "conv2": 6, "conv3": 8}


def test_a_model_without_growing_neighbours_says_what_is_missing():
    with pytest.raises(ValueError, match=r"no pair of layers that can grow.*or set growth=none"):
        models.grow_pairs(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_hidden_layers_are_sparse_when_pruning_is_on_and_the_classifier_never_is():
    pruned = {"pruning": {"method": "hebbian", "scope": "channel", "k1": 0.2, "k2": 0.4}}
    conv = models.build(config(**pruned), (1, 8, 8), 10)
    mlp = models.build(config("mlp", **pruned), (1, 8, 8), 10)
    assert list(models.sparse_layers(conv)) == ["conv1", "conv2", "conv3"]
    assert list(models.sparse_layers(mlp)) == ["fc1", "fc2", "fc3"]
    layer = models.sparse_layers(conv)["conv2"]
    assert isinstance(layer, DSConv2d)
    assert (layer.k1, layer.k2, layer.prune_dims, layer.strength) == (0.2, 0.4, (0,), "coactivation")
    assert isinstance(models.sparse_layers(mlp)["fc1"], DSLinear)


def test_sparse_and_plain_models_start_with_the_same_function():
    x_NCHW = torch.randn(2, 1, 8, 8)
    dense, sparse = (
        models.build(config(pruning={"method": method}), (1, 8, 8), 10) for method in ("none", "hebbian")
    )
    assert torch.equal(dense(x_NCHW), sparse(x_NCHW))


def test_restarted_connections_are_drawn_as_the_layer_was():
    model = models.build(
        config(
            widths=(16, 64), model={"init": "kaiming_normal", "init_gain": 3.0}, pruning={"method": "random"}
        ),
        (1, 8, 8),
        10,
    )
    layer = models.sparse_layers(model)["conv2"]
    fresh = layer.draw_weights(torch.Generator().manual_seed(1))
    expected = 3.0 * (2 / (16 * 9)) ** 0.5
    assert float(fresh.std()) == pytest.approx(expected, rel=0.03)
    assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_a_network_that_starts_sparse_carries_the_signal_of_a_dense_one(density):
    x_NCHW = torch.randn(256, 1, 16, 16)
    dense, sparse = (
        models.build(
            config(widths=(64, 64, 64), pruning={"method": method, "density": density}), (1, 16, 16), 10
        )
        for method in ("none", "static")
    )
    scales = [float(signal(model, x_NCHW).std()) for model in (dense, sparse)]
    assert scales[1] == pytest.approx(scales[0], rel=0.2)
    fresh = models.sparse_layers(sparse)["conv2"].draw_weights(torch.Generator().manual_seed(0))
    assert float(fresh.std()) > 1.2 * float(models.sparse_layers(sparse)["conv2"].weight.detach().std())


@torch.no_grad()
def signal(model: nn.Module, x_NCHW: torch.Tensor) -> torch.Tensor:
    return model.layers["conv3"].layer(model.layers["conv2"](model.layers["conv1"](x_NCHW)))


@given(new=st.lists(st.integers(0, 5), min_size=3, max_size=3), norm=st.sampled_from(["none", "batch"]))
def test_a_resized_model_takes_the_weights_of_a_grown_one(new, norm):
    setting = config(model={"normalization": norm}, pruning={"method": "hebbian"})
    wanted = {"conv1": 4 + new[0], "conv2": 6 + new[1], "conv3": 8 + new[2]}
    grown, rebuilt = (models.build(setting, (1, 8, 8), 10) for _ in range(2))
    models.resize(grown, wanted)
    models.resize(rebuilt, wanted)
    with torch.no_grad():
        for p in grown.parameters():
            p.normal_()
    rebuilt.load_state_dict(grown.state_dict())
    x_NCHW = torch.randn(2, 1, 8, 8)
    assert models.widths(rebuilt) == wanted
    assert torch.equal(rebuilt(x_NCHW), grown(x_NCHW))


def test_resizing_refuses_unknown_layers_and_widths_without_neurons():
    model = models.build(config(), (1, 8, 8), 10)
    with pytest.raises(ValueError, match=r"cannot take layer 'conv9' to width 8"):
        models.resize(model, {"conv9": 8})
    with pytest.raises(ValueError, match=r"cannot take layer 'conv1' to width 0"):
        models.resize(model, {"conv1": 0})


def test_a_model_of_ones_own_comes_from_a_module_named_in_imports(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "from growcore.growth import LinearGrowingModule\n"
        "class Tower(nn.Module):\n"
        "    def __init__(self, config, image_shape, num_classes):\n"
        "        super().__init__()\n"
        "        self.body = LinearGrowingModule(image_shape[1] * image_shape[2], config.widths[0],\n"
        "            post_layer_function=nn.ReLU(), allow_growing=False)\n"
        "        self.top = LinearGrowingModule(config.widths[0], num_classes, previous_module=self.body)\n"
        "    def forward(self, x):\n"
        "        return self.top(self.body(x.flatten(1)))\n"
        "MODELS = {'tower': Tower}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    values = {**config("tower", (5,), imports=["my_networks"]).to_dict()}
    model = models.build(TrialConfig.from_dict(values), (1, 8, 8), 3)
    assert models.widths(model) == {"body": 5}
    models.resize(model, {"body": 7})
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_more_convolutions_of_stride_2_cost_less():
    costs = [
        cost.measure(models.build(config(model={"downsample_every": every}), (1, 8, 8), 10), (1, 8, 8))
        for every in (0, 2, 1)
    ]
    assert costs[0].forward_flops > costs[1].forward_flops > costs[2].forward_flops


def test_the_classifier_of_an_mlp_is_a_growing_module_so_that_the_last_hidden_layer_can_gain():
    model = models.build(config("mlp"), (1, 8, 8), 10)
    assert isinstance(models.grow_pairs(model)["fc3"], LinearGrowingModule)
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name", ["mlp", "conv", "resnet", "vgg"])
def test_complete_growth_takes_every_layer_to_the_largest_width_with_neurons_that_are_not_all_zero(
    name, norm
):
    growth = {"growth": {"method": "random", "max_width": 9}}
    setting = {"blocks": [2, 2], "hidden_fraction": 0.5, "normalization": norm}
    model = models.build(config(name, (4, 6), model=setting, **growth), (1, 8, 8), 10)
    for consumer in models.grow_pairs(model).values():
        before = models.width(consumer)
        assert consumer.missing_neurons() == 9 - before
        assert consumer.number_of_neurons_to_add(number_of_growth_steps=2) == (9 - before) // 2
        consumer.complete_growth({})
        for producer in consumer.producers:
            assert (
                producer.weight[before:].abs().amax(dim=(1, 2, 3) if producer.weight.dim() == 4 else 1).all()
            )
        for reader in consumer.readers:
            new = reader.weight[:, before * consumer.columns_per_neuron(reader) :]
            assert new.numel() > 0
            assert new.abs().sum() > 0
    assert set(models.widths(model).values()) == {9}
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@given(
    name=st.sampled_from(["mlp", "conv", "resnet", "vgg"]),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=3),
    hidden=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_configuration_knows_the_widths_of_the_layers_that_can_grow(name, sizes, hidden):
    widths, blocks = map(list, zip(*sizes, strict=True))
    setting = config(name, tuple(widths), model={"blocks": blocks, "hidden_fraction": hidden})
    model = models.build(setting, (1, 8, 8), 3)
    assert MODELS[setting.model.name].growable_widths(setting.model) == list(models.widths(model).values())


def test_a_limit_per_layer_is_the_target_of_its_consumer_and_must_be_given_for_each():
    setting = config(growth={"method": "tiny", "max_width": [5, None, 9]})
    model = models.build(setting, (1, 8, 8), 10)
    assert models.max_widths(model, setting.growth) == {"conv1": 5, "conv2": None, "conv3": 9}
    assert [c.target_in_neurons for c in models.grow_pairs(model).values()] == [5, None, 9]
    mismatched = config(growth={"method": "none", "max_width": [5, 9]})
    with pytest.raises(ValueError, match=r"got 2, \[5, 9\], for the 3 layers conv1, conv2, conv3\. Give one"):
        models.build(mismatched, (1, 8, 8), 10)


def test_without_a_largest_width_there_is_no_target():
    consumer = models.grow_pairs(models.build(config(), (1, 8, 8), 10))["conv3"]
    with pytest.raises(ValueError, match=r"has no target width"):
        consumer.missing_neurons()


@pytest.mark.parametrize("name", ["mlp", "conv", "resnet", "vgg"])
@pytest.mark.parametrize("method", ["tiny", "gradmax", "random", "zeros", "variance_transfer"])
def test_every_layer_of_every_network_grows_by_every_method(name, method):
    torch.manual_seed(0)
    setting = {"blocks": [2, 2], "hidden_fraction": 0.5, "normalization": "batch"}
    given_growth = {"method": method, "num_neurons": 2, "normalization": "equalize_second_layer"}
    built = config(name, (4, 6), model=setting, growth=given_growth)
    model = models.build(built, (1, 8, 8), 10).eval()
    x_NCHW, y_N = torch.randn(24, 1, 8, 8), torch.arange(24) % 10
    before, widths = model(x_NCHW), models.widths(model)
    observed = observe_growth(model, models.grow_pairs(model), [(x_NCHW, y_N)], built.growth)
    assert [o.layer for o in observed] == list(widths)
    progress = Progress(epoch=1, num_epochs=2, num_growths=0)
    surgery.apply(decide_growth(observed, built.growth, progress), model)
    gained = {o.layer: o.proposal.num_neurons for o in observed}
    assert models.widths(model) == {layer: width + gained[layer] for layer, width in widths.items()}
    assert model(x_NCHW).isfinite().all()
    if method == "zeros":
        torch.testing.assert_close(model(x_NCHW), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name", ["conv", "vgg"])
def test_what_the_last_convolution_gains_lowers_the_loss_as_predicted(name, norm):
    """With an identity nonlinearity and no projection the prediction is the derivative by gamma^2 itself."""
    setting = {"blocks": [1, 1], "normalization": norm, "activation": "identity"}
    model = models.build(config(name, (4, 6), model=setting), (1, 8, 8), 10).double().eval()
    x_NCHW, y_N = torch.randn(30, 1, 8, 8, dtype=torch.float64), torch.arange(30) % 10
    consumer = list(models.grow_pairs(model).values())[-1]

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x_NCHW), y_N, reduction="sum") / len(y_N)

    consumer.init_computation()
    (loss() * len(y_N)).backward()
    consumer.update_computation()
    consumer.compute_optimal_updates(
        maximum_added_neurons=3, dtype=torch.float64, use_projected_gradient=False, relative_thresholds=True
    )
    predicted, before = float(consumer.first_order_improvement), loss().item()
    consumer.apply_change(1e-3)
    assert (before - loss().item()) / 1e-6 == pytest.approx(predicted, rel=1e-2)

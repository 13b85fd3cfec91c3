"""What sparse layers compute with stays whole: inputs, masks of copies, equal ranks, counted forwards."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from growcore.config import DataConfig
from growcore.data import load
from growcore.data.batches import augment
from growcore.data.sets import RawData
from growcore.data.split import split
from growcore.edits import surgery
from growcore.networks.neurons import observe_activity
from growcore.sparse import (
    DSConv2d,
    DSLinear,
    bake,
    rank_globally,
    rank_within_scopes,
    two_of_four,
)
from growcore.sparse.geometry import ConvGeometry, LinearGeometry
from growcore.sparse.regrowth import gradual_magnitude, hebbian_exchange, ranks_by_lot, rigl, set_evolution
from growcore.sparse.strength import STRENGTHS, magnitude, pooled_correlation, random

torch.set_num_threads(1)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYERS = {
    "linear": (LinearGeometry(), (6, 5), (6, 3), (3, 5)),
    "sequence": (LinearGeometry(), (6, 4, 5), (6, 4, 3), (3, 5)),
    "conv": (ConvGeometry((3, 3)), (6, 2, 5, 5), (6, 4, 3, 3), (4, 2, 3, 3)),
    "padded": (ConvGeometry((3, 3), padding=(1, 1)), (6, 2, 4, 4), (6, 4, 4, 4), (4, 2, 3, 3)),
    "pointwise": (ConvGeometry((1, 1)), (6, 2, 4, 4), (6, 4, 4, 4), (4, 2, 1, 1)),
}


def content(tensor):
    return tensor.detach().clone().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("layer", LAYERS)
def test_no_strength_changes_what_it_is_given(layer, name, dtype):
    geometry, x_shape, y_shape, w_shape = LAYERS[layer]
    generator = torch.Generator().manual_seed(0)
    given_tensors = [
        torch.randn(shape, generator=generator).to(dtype) for shape in (x_shape, y_shape, w_shape)
    ]
    accumulated = torch.rand(w_shape, generator=generator)
    before = [content(tensor) for tensor in (*given_tensors, accumulated)]
    x, y, weight = given_tensors
    kind = STRENGTHS[name]
    if kind.measure is not None:
        assert kind.measure(geometry, x, y, 0.5).shape == torch.Size(w_shape)
    kind.rank(accumulated, weight, generator)
    assert [content(tensor) for tensor in (*given_tensors, accumulated)] == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rule_changes_what_it_is_given(dtype):
    generator = torch.Generator().manual_seed(0)
    weight, strengths = (torch.randn(4, 6, generator=generator).to(dtype) for _ in range(2))
    alive = torch.rand(4, 6, generator=generator) < 0.5
    before = [content(tensor) for tensor in (weight, strengths, alive)]
    rank_within_scopes(strengths, 0.2, 0.3, ())
    rank_within_scopes(strengths, 0.2, 0.3, (0,))
    rank_globally([strengths, weight], 0.1, 0.2)
    set_evolution(weight, alive, 0.3, generator)
    rigl(weight, alive, strengths, 0.3)
    hebbian_exchange(strengths, alive, 0.3)
    gradual_magnitude(weight, alive, 0.2)
    two_of_four(torch.randn(2, 4))
    magnitude(weight), random(weight, generator), ranks_by_lot(strengths, generator)
    assert [content(tensor) for tensor in (weight, strengths, alive)] == before


@pytest.mark.parametrize("dtype", [torch.uint8, *DTYPES])
def test_the_data_of_a_caller_stay_as_they_are(dtype):
    data = load(DataConfig(name="digits", num_train=100))
    x_NCHW = data.train.x_NCHW[:5].to(dtype)
    before = content(x_NCHW)
    normalised = data.normalise(x_NCHW)
    assert content(x_NCHW) == before
    torch.testing.assert_close(normalised, data.normalise(data.train.x_NCHW[:5]))
    augment(x_NCHW, 1, True, torch.Generator().manual_seed(0))
    assert content(x_NCHW) == before
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(40) % 3
    raw = RawData(images, labels, None, None, ("a", "b", "c"))
    kept = content(images), content(labels)
    split(raw, DataConfig(name="digits", num_train=10))
    assert (content(images), content(labels)) == kept


@given(seed=st.integers(0, 99), layer=st.sampled_from(list(LAYERS)))
def test_pooled_correlation_of_doubles_is_the_correlation_that_numpy_finds(seed, layer):
    geometry, x_shape, y_shape, _ = LAYERS[layer]
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (x_shape, y_shape))
    found = pooled_correlation(geometry, x, y)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, pooled_correlation(geometry, x, y), rtol=0, atol=0)  # a second time too
    if layer in ("linear", "sequence"):
        rows = torch.cat([x.flatten(0, -2), y.flatten(0, -2)], dim=1).T.numpy()
        expected = torch.from_numpy(np.abs(np.corrcoef(rows)))[5:, :5]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    else:
        torch.testing.assert_close(
            found.float(), pooled_correlation(geometry, x.float(), y.float()), rtol=1e-3, atol=1e-4
        )


def network(strength="coactivation"):
    torch.manual_seed(0)
    settings = {"k1": 0.3, "k2": 0.5, "update_interval": 1, "strength": strength}
    return nn.Sequential(DSLinear(6, 5, **settings), nn.ReLU(), DSLinear(5, 3, **settings))


def pruned(seed=0):
    model = network()
    model(torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)))
    for layer in sparse(model):
        layer.progress_connections()
    model(torch.randn(4, 6, generator=torch.Generator().manual_seed(seed + 1)))
    return model


def sparse(model):
    return [layer for layer in model.modules() if isinstance(layer, DSLinear)]


def through_bytes(model):
    memory = io.BytesIO()
    torch.save(model, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


def loaded(model, **how):
    fresh = network()
    fresh.load_state_dict(model.state_dict(), **how)
    return fresh


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "saved": through_bytes,
    "loaded": loaded,
    "loaded and assigned": lambda model: loaded(copy.deepcopy(model), assign=True),
    "moved": lambda model: copy.deepcopy(model).to("cpu", torch.float64),
    "halved": lambda model: copy.deepcopy(model).half(),
    "swa": lambda model: AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn()).module,
    "ema": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)).module,
}


@pytest.mark.parametrize("how", COPIES)
def test_what_copies_averages_or_moves_a_model_keeps_its_masks(how):
    model = pruned()
    copied = COPIES[how](model)
    for layer, other in zip(sparse(model), sparse(copied), strict=True):
        for name in ("mask", "explored", "restarted"):
            assert getattr(other, name).dtype == torch.bool
            assert getattr(other, name).equal(getattr(layer, name))
            assert getattr(other, name).data_ptr() != getattr(layer, name).data_ptr()
        assert (other.masked_weight()[~layer.mask] == 0).all()
        assert other.learning_iterations == layer.learning_iterations == 2
        assert (other.k1, other.k2, other.units) == (layer.k1, layer.k2, layer.units)
        assert other.connections_tensor.dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("multi_avg_fn", [None, get_swa_multi_avg_fn(), get_ema_multi_avg_fn(0.9)])
def test_an_average_follows_the_masks_of_its_model(multi_avg_fn):
    model = pruned()
    average = AveragedModel(model, multi_avg_fn=multi_avg_fn)
    for _ in range(3):
        for layer in sparse(model):
            layer.connections_tensor.copy_(torch.rand_like(layer.weight))
            layer.progress_connections()
        average.update_parameters(model)
        for layer, other in zip(sparse(model), sparse(average.module), strict=True):
            assert other.mask.equal(layer.mask)
            assert (other.masked_weight()[~layer.mask] == 0).all()


def test_surgery_gives_an_average_of_buffers_too_the_masks_of_its_model():
    model = nn.ModuleDict({"fc": DSLinear(6, 5, k1=0.3, k2=0.5)})
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        model["fc"].connections_tensor.copy_(torch.rand(5, 6))
        edit = surgery.Edit("fc", surgery.EditKind.prune, model["fc"].propose_progression(), "")
        surgery.apply([edit], model, average=average)
        average.update_parameters(model)
        assert average.module["fc"].mask.equal(model["fc"].mask)


def quietly(wrap, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older kinds are deprecated
        return wrap(layer)


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "older weight_norm": nn.utils.weight_norm,
    "older spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "bias": lambda layer: parametrizations.weight_norm(layer, "bias", dim=None),
}


@pytest.mark.parametrize("how", COMPUTED)
def test_a_layer_whose_weight_is_computed_is_refused_by_name_before_anything_changes(how):
    wrap = COMPUTED[how]
    with pytest.raises(
        ValueError, match=r"of the layer .*Linear\(in_features=4, out_features=3, bias=True\) is comp"
    ):
        DSLinear.from_linear(quietly(wrap, nn.Linear(4, 3)))
    with pytest.raises(
        ValueError, match=r"Conv2d\(2, 3, kernel_size=\(3, 3\), stride=\(1, 1\)\) is computed from"
    ):
        DSConv2d.from_conv(quietly(wrap, nn.Conv2d(2, 3, 3)))
    layer = quietly(wrap, DSLinear(4, 3, k1=0.3, k2=0.5))
    layer.eval()  # in training spectral norm goes on iterating whenever the weight is read
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"what is written would be lost"):
        layer.progress_connections()
    with pytest.raises(ValueError, match=r"what is written would be lost"):
        layer.start_sparse(torch.rand(3, 4) < 0.5)
    edit = surgery.Edit("fc", surgery.EditKind.prune, layer.propose_progression(), "")
    with pytest.raises(ValueError, match=r"of fc .*DSLinear\(in_features=4"):
        surgery.apply([edit], nn.ModuleDict({"fc": layer}))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("strength", ["coactivation", "pooled_correlation", "gradient", "magnitude"])
def test_activation_checkpointing_counts_every_forward_once(strength, reentrant):
    plain, checked = network(strength), network(strength)
    checked.load_state_dict(plain.state_dict())
    with (
        observe_activity({"a": plain[1]}, interval=1) as seen,
        observe_activity({"a": checked[1]}, interval=1) as again,
    ):
        for seed in range(3):
            x = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), requires_grad=True)
            plain(x).square().sum().backward()
            checkpoint(checked, x, use_reentrant=reentrant).square().sum().backward()
    assert seen["a"].num_seen == again["a"].num_seen
    for layer, other in zip(sparse(plain), sparse(checked), strict=True):
        assert layer.learning_iterations == other.learning_iterations == 3
        torch.testing.assert_close(layer.connections_tensor, other.connections_tensor)
        torch.testing.assert_close(layer.weight.grad, other.weight.grad)


def test_a_baked_network_and_a_copy_leave_the_masks_of_the_model():
    model = pruned()
    masks = [layer.mask.clone() for layer in sparse(model)]
    bake(model)
    assert all(layer.mask.equal(mask) for layer, mask in zip(sparse(model), masks, strict=True))


def prune_on_one_rank(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    layers = [DSLinear(12, 7, k1=0.3, k2=0.5, strength=name) for name in ("random", "magnitude", "magnitude")]
    torch.manual_seed(1 + rank)  # ranks are seeded apart, as for dropout
    found = [random(layers[0].weight), layers[0].strengths(), ranks_by_lot(torch.zeros(7, 12)).float()]
    layers[0].progress_connections()
    layers[1].prune_randomly()
    layers[2].apply_prune_mask(set_evolution(layers[2].weight.detach(), layers[2].mask, 0.0))
    layers[2].start_sparse(torch.arange(84).reshape(7, 12) % 2 == 0)
    layers[2].apply_prune_mask(set_evolution(layers[2].weight.detach(), layers[2].mask, 0.4))
    found += [tensor for layer in layers for tensor in (layer.mask.float(), layer.weight.detach())]
    torch.save(found, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_that_are_seeded_apart_draw_the_same_connections(tmp_path):
    torch.multiprocessing.spawn(prune_on_one_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert len(ranks[0]) == 9
    assert all(a.equal(b) for a, b in zip(*ranks, strict=True))

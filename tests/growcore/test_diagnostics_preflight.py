"""Laws of preflight: sound networks give no finding, networks broken on purpose give the right one."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from growcore.config import Activation
from growcore.diagnostics import (
    Finding,
    FindingKind,
    Limits,
    Severity,
    drift,
    measure_signal,
    preflight,
    signal_changes,
    signal_metrics,
)
from growcore.networks.initialization import activation_function, activation_gain, initialize, weight_std


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Nonlinearity(nn.Module):
    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.function = activation_function(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mlp(depth: int, activation=Activation.relu, scheme="kaiming_normal", gain=1.0, width=64) -> nn.Sequential:
    modules: list[nn.Module] = []
    g = generator()
    for index in range(depth):
        layer = nn.Linear(width, 10 if index == depth - 1 else width)
        initialize(layer, scheme, activation if index else Activation.identity, gain, g)
        modules += [layer, Nonlinearity(activation)]
    return nn.Sequential(*modules[:-1])


def convnet(depth: int = 6, normalize: bool = False) -> nn.Sequential:
    modules: list[nn.Module] = []
    g = generator()
    for index in range(depth):
        layer = nn.Conv2d(16 if index else 3, 16, 3, padding=1)
        initialize(layer, "kaiming_normal", Activation.relu if index else Activation.identity, 1.0, g)
        modules += [layer, *([nn.BatchNorm2d(16)] if normalize else []), nn.ReLU()]
    head = nn.Linear(16 * 4, 10)
    initialize(head, "kaiming_normal", Activation.relu, 1.0, g)
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(2), nn.Flatten(), head)


def batch(size: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    g = generator(1)
    return torch.randn(size, width, generator=g), torch.randint(0, 10, (size,), generator=g)


def images(size: int = 32) -> tuple[Tensor, Tensor]:
    g = generator(1)
    return torch.randn(size, 3, 8, 8, generator=g), torch.randint(0, 10, (size,), generator=g)


def kinds(findings: list[Finding]) -> set[FindingKind]:
    return {finding.kind for finding in findings}


@pytest.mark.parametrize("scheme", ["kaiming_normal", "kaiming_uniform", "orthogonal", "critical"])
@pytest.mark.parametrize("activation", [a for a in Activation if a != Activation.sigmoid])
@pytest.mark.parametrize("depth", [2, 16])
def test_a_sound_perceptron_gives_no_finding(scheme: str, activation: Activation, depth: int) -> None:
    assert preflight(mlp(depth, activation, scheme), *batch()) == []


@pytest.mark.parametrize(("scheme", "depth"), [("kaiming_normal", 4), ("critical", 4), ("critical", 16)])
def test_a_sound_sigmoid_perceptron_gives_no_finding(scheme: str, depth: int) -> None:
    assert preflight(mlp(depth, Activation.sigmoid, scheme), *batch()) == []


@pytest.mark.parametrize("activation", [Activation.relu, Activation.leaky_relu, Activation.tanh])
def test_a_deep_critical_perceptron_gives_no_finding(activation: Activation) -> None:
    assert preflight(mlp(32, activation, "critical"), *batch()) == []


@pytest.mark.parametrize("normalize", [False, True])
def test_a_sound_convolution_network_gives_no_finding(normalize: bool) -> None:
    assert preflight(convnet(normalize=normalize), *images()) == []


def test_halved_variance_is_found_named_and_healed_by_the_proposed_gain() -> None:
    broken = mlp(32, gain=math.sqrt(0.5))
    findings = preflight(broken, *batch())
    assert kinds(findings) == {FindingKind.vanishing_signal, FindingKind.vanishing_gradient}
    forward = findings[0]
    assert forward.severity == Severity.fail
    assert forward.layer == "62"
    assert re.search(r"changes by a factor 0\.[45]\d* at each of 32 layers", forward.reason)
    gain = float(re.search(r"Multiply the gain by about ([\d.]+)", forward.fix).group(1))
    assert gain == pytest.approx(math.sqrt(2), rel=0.1)
    assert preflight(mlp(32, gain=math.sqrt(0.5) * gain), *batch()) == []


@pytest.mark.parametrize(
    ("gain", "depth", "kind", "severity"),
    [
        (3.0, 6, FindingKind.exploding_signal, Severity.warn),
        (10.0, 6, FindingKind.exploding_signal, Severity.fail),
        (0.4, 6, FindingKind.vanishing_signal, Severity.warn),
        (0.1, 6, FindingKind.vanishing_signal, Severity.fail),
        (100.0, 1, FindingKind.exploding_signal, Severity.warn),
    ],
)
def test_a_wrong_gain_is_found(gain: float, depth: int, kind: FindingKind, severity: Severity) -> None:
    findings = {f.kind: f for f in preflight(mlp(depth, gain=gain), *batch())}
    assert findings[kind].severity == severity
    proposed = float(re.search(r"Multiply the gain by about ([\d.]+)", findings[kind].fix).group(1))
    assert proposed == pytest.approx(1 / gain, rel=0.15)


@pytest.mark.parametrize("index", [0, 3, 5])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_zeroed_layer_is_found_and_found_alone(index: int, bias: float) -> None:
    model = mlp(6)
    nn.init.zeros_(model[2 * index].weight)
    nn.init.constant_(model[2 * index].bias, bias)
    (finding,) = preflight(model, *batch())
    assert (finding.severity, finding.kind) == (Severity.fail, FindingKind.zero_weights)
    assert finding.layer == str(2 * index)


@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_dead_relu_block_is_found_at_its_own_layer(index: int) -> None:
    model = mlp(6)
    nn.init.constant_(model[2 * index].bias, -1e3)
    (finding,) = preflight(model, *batch())
    assert (finding.severity, finding.kind, finding.layer) == ("fail", "blocked_units", str(2 * index))


def test_a_dead_convolution_block_is_found() -> None:
    model = convnet()
    nn.init.constant_(model[4].bias, -1e3)
    (finding,) = preflight(model, *images())
    assert (finding.kind, finding.layer) == ("blocked_units", "4")


def test_mostly_blocked_units_are_a_warning_with_their_share() -> None:
    model = mlp(4)
    with torch.no_grad():
        model[2].bias[:58] = -1e3
    findings = preflight(model, *batch())
    dead = next(f for f in findings if f.kind == FindingKind.blocked_units)
    assert (dead.severity, dead.layer) == (Severity.warn, "2")
    assert "91% of the units" in dead.reason


@pytest.mark.parametrize("activation", [Activation.sigmoid, Activation.tanh])
def test_a_saturated_layer_is_found(activation: Activation) -> None:
    model = mlp(3, activation)
    with torch.no_grad():
        model[2].weight *= 60
    findings = preflight(model, *batch())
    saturated = [f for f in findings if f.kind == FindingKind.saturated]
    assert [f.layer for f in saturated] == ["2"]
    assert "where the activation is flat" in saturated[0].reason


@pytest.mark.parametrize(
    "squash", [nn.Sigmoid(), torch.sigmoid, Tensor.sigmoid, nn.Tanh(), torch.tanh, Tensor.tanh]
)
def test_saturation_is_seen_whichever_way_an_activation_is_called(squash) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(squash(self.first(x)))

    model = Model()
    nn.init.normal_(model.first.weight, 0, 100, generator=generator())
    first, second = measure_signal(model, *batch())
    assert first.saturated_fraction > 0.9
    assert second.saturated_fraction == 0


def test_gradients_that_vanish_though_the_signal_does_not_are_found() -> None:
    findings = {f.kind: f for f in preflight(mlp(16, Activation.sigmoid), *batch())}
    assert set(findings) == {FindingKind.vanishing_gradient, FindingKind.collapse}
    assert findings[FindingKind.vanishing_gradient].severity == Severity.fail
    assert "No gain helps both ways" in findings[FindingKind.vanishing_gradient].fix


def test_inputs_that_all_come_out_alike_are_found() -> None:
    (finding,) = preflight(mlp(48, Activation.sigmoid, "uniform"), *batch())
    assert (finding.severity, finding.kind) == ("fail", "collapse")
    assert "every input of the batch gives the same preactivations" in finding.reason


def test_a_layer_that_passes_one_direction_is_found() -> None:
    model = mlp(4, Activation.identity)
    with torch.no_grad():
        model[2].weight.copy_(torch.outer(torch.randn(64, generator=generator()), torch.ones(64)) / 8)
    (finding,) = preflight(model, *batch())
    assert (finding.severity, finding.kind, finding.layer) == ("warn", "low_rank", "2")
    assert "64 units vary along 1.00 directions" in finding.reason


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_detached_signal_is_found_where_the_gradient_stops() -> None:
    model = mlp(4)
    (finding,) = preflight(nn.Sequential(*model[:3], Detached(), *model[3:]), *batch())
    assert (finding.severity, finding.kind, finding.layer) == ("fail", "no_gradient", "2")
    assert "though 5 gets one" in finding.reason


def test_a_layer_run_without_gradients_is_found() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = self.first(x)
            return self.second(hidden)

    (finding,) = preflight(Model(), *batch())
    assert (finding.kind, finding.layer) == ("no_gradient", "first")


def test_a_loss_that_ignores_the_model_is_found() -> None:
    (finding,) = preflight(mlp(3), *batch(), loss_fn=lambda output, _: (0 * output).sum())
    assert (finding.kind, finding.layer) == ("no_gradient", "4")
    assert "the loss sends no gradient back" in finding.reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_found_where_they_begin(value: float) -> None:
    model = mlp(5)
    with torch.no_grad():
        model[4].weight[0, 0] = value
    (finding,) = preflight(model, *batch())
    assert (finding.severity, finding.kind, finding.layer) == ("fail", "not_finite", "4")


def test_a_loss_that_is_not_finite_is_found_at_the_last_layer() -> None:
    (finding,) = preflight(mlp(3), *batch(), loss_fn=lambda output, _: output.sum() * math.nan)
    assert (finding.kind, finding.layer) == ("not_finite", "4")
    assert "the gradient is not finite" in finding.reason


def test_a_batch_of_zeros_is_found() -> None:
    x, targets = batch()
    (finding,) = preflight(mlp(3), torch.zeros_like(x), targets)
    assert (finding.kind, finding.layer) == ("zero_input", "0")


def test_limits_decide_what_is_a_finding() -> None:
    model = mlp(8, gain=0.7)
    assert preflight(model, *batch()) == []
    strict = preflight(model, *batch(), limits=Limits(warn_factor=10, fail_factor=100))
    assert {f.severity for f in strict} == {Severity.fail}
    with pytest.raises(
        ValueError, match=r"1 < warn_factor <= fail_factor; got warn_factor=9.0, fail_factor=2.0"
    ):
        Limits(warn_factor=9.0, fail_factor=2.0)


def test_a_finding_reads_as_one_line() -> None:
    finding = Finding(Severity.warn, FindingKind.low_rank, "conv2", "it varies little.", "Use fewer layers.")
    assert str(finding) == "warn: conv2: it varies little. Use fewer layers."


def test_preflight_leaves_the_model_and_the_random_state_as_they_were() -> None:
    model = nn.Sequential(*convnet(normalize=True), nn.Dropout(0.5))
    model[0].weight.requires_grad_(False)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    preflight(model, *images())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model[0].weight.requires_grad
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(rng, torch.get_rng_state())


def test_an_activation_that_works_in_place_changes_no_measurement() -> None:
    plain = mlp(3, Activation.identity)
    model, in_place = (nn.Sequential(plain[0], nn.ReLU(flag), plain[2]) for flag in (False, True))
    assert measure_signal(model, *batch()) == measure_signal(in_place, *batch())


@given(depth=st.integers(2, 5), num_samples=st.integers(2, 9), seed=st.integers(0, 99))
def test_measurements_equal_their_definitions(depth: int, num_samples: int, seed: int) -> None:
    model = mlp(depth, width=12).double()
    x = torch.randn(num_samples, 12, generator=generator(seed), dtype=torch.float64)
    targets = torch.zeros(num_samples, dtype=torch.long)
    z, zs = x, []
    for module in model:
        z = module(z)
        if isinstance(module, nn.Linear):
            z.retain_grad()
            zs.append(z)
    nn.functional.cross_entropy(z, targets).backward()
    last = zs[-1].grad.square().sum()
    for signal, z in zip(measure_signal(model, x, targets), zs, strict=True):
        assert signal.output_square == pytest.approx(z.square().mean().item())
        assert signal.output_variance == pytest.approx(((z - z.mean(0)) ** 2).mean().item())
        assert signal.gradient_square == pytest.approx((z.grad.square().sum() / last).item())
        assert signal.blocked_fraction == pytest.approx((z.grad == 0).all(0).double().mean().item())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equally_strong_directions(rank: int) -> None:
    layer = nn.Linear(8, 8, bias=False)
    nn.init.eye_(layer.weight)
    x = torch.zeros(2 * rank, 8)
    x[:rank, :rank], x[rank:, :rank] = torch.eye(rank), -torch.eye(rank)
    (signal,) = measure_signal(layer, x, torch.zeros(2 * rank, dtype=torch.long))
    assert signal.effective_rank == pytest.approx(rank)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_effective_rank_does_not_depend_on_the_scale_of_the_signal(scale: float) -> None:
    layer = mlp(1)
    x, targets = batch()
    (reference,) = measure_signal(layer, x, targets)
    (scaled,) = measure_signal(layer, scale * x, targets, loss_fn=lambda y, _: (y / scale).square().sum())
    assert scaled.effective_rank == pytest.approx(reference.effective_rank, rel=1e-3)


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("gain", [0.8, 1.0, 1.2])
def test_rates_per_layer_are_the_susceptibilities_of_the_ensemble(width: int, gain: float) -> None:
    measured = drift(
        measure_signal(mlp(12, Activation.leaky_relu, gain=gain, width=width), *batch(64, width))
    )
    # One network scatters by about 5 / width a layer.
    assert measured.signal == pytest.approx(gain**2, rel=8 / width)
    assert measured.gradient == pytest.approx(gain**2, rel=8 / width)


def test_the_predicted_depth_is_where_a_deeper_network_is_lost() -> None:
    depth = drift(measure_signal(mlp(8, gain=0.5), *batch())).lost_depth(1e10)
    assert depth == pytest.approx(math.log(1e10) / math.log(4), rel=0.15)
    for deeper, severity in ((math.ceil(depth * 1.15), Severity.fail), (int(depth * 0.85), Severity.warn)):
        findings = {f.kind: f for f in preflight(mlp(deeper, gain=0.5), *batch())}
        assert findings[FindingKind.vanishing_signal].severity == severity


def test_a_network_that_changes_nothing_is_never_lost() -> None:
    layer = nn.Linear(4, 4)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    model = nn.Sequential(layer, copy.deepcopy(layer))
    signals = measure_signal(
        model, torch.randn(5, 4, generator=generator()), torch.zeros(5, dtype=torch.long)
    )
    assert drift(signals).lost_depth(1e10) == math.inf


def test_a_blocked_signal_has_no_rate() -> None:
    model = mlp(3)
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[4].bias)
    with pytest.raises(ValueError, match=r"needs positive finite variances .* Call judge\(\) first"):
        drift(measure_signal(model, *batch()))


def test_metrics_are_finite_numbers_by_layer() -> None:
    metrics = signal_metrics(measure_signal(mlp(2), *batch()))
    assert set(metrics) == {
        f"preflight/{what}/{layer}"
        for what in ("output_rms", "gradient_rms", "blocked_fraction", "effective_rank")
        for layer in ("0", "2")
    }
    assert metrics["preflight/gradient_rms/2"] == 1
    assert all(math.isfinite(value) for value in metrics.values())


def test_an_edit_shows_as_the_change_it_makes() -> None:
    model = mlp(3, Activation.identity, width=256)
    before = measure_signal(model, *batch(64, 256))
    unchanged = signal_changes(before, before)
    assert {(c.output_factor, c.gradient_factor, c.blocked_change, c.rank_change) for c in unchanged} == {
        (1, 1, 0, 0)
    }
    with torch.no_grad():
        model[2].weight[:, ::2] = 0
    first, second, third = signal_changes(before, measure_signal(model, *batch(64, 256)))
    assert first.output_factor == 1
    assert second.output_factor == pytest.approx(0.5, rel=0.1)
    assert third.output_factor == pytest.approx(0.5, rel=0.1)
    assert first.gradient_factor == pytest.approx(0.5, rel=0.1)
    assert first.blocked_change == 0.5
    with pytest.raises(ValueError, match=r"got \['0'\] before and \['0', '2'\] after"):
        signal_changes(before[:1], before[:2])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2; got a batch of 1"):
        preflight(mlp(2), *batch(1))
    with pytest.raises(ValueError, match=r"called no linear or convolution layer"):
        preflight(nn.Identity(), torch.randn(4, 10, requires_grad=True), torch.zeros(4, dtype=torch.long))


def test_gains_of_the_tests_are_those_of_the_schemes() -> None:
    layer = mlp(2, Activation.gelu)[2]
    std = weight_std(64, "kaiming_normal", Activation.gelu)
    assert std == pytest.approx(activation_gain(Activation.gelu) / 8)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.1)


def _accuracy(model: nn.Module, x: Tensor, y: Tensor, learning_rate: float) -> float:
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    g = generator(2)
    for _ in range(250):
        index = torch.randint(1_400, (64,), generator=g)
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return (model(x[1_400:]).argmax(1) == y[1_400:]).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "depth", "gain"),
    [("relu", 16, 0.3), ("relu", 16, 2.5), ("sigmoid", 12, 0.7), ("relu", 16, 1.0), ("tanh", 8, 1.0)],
)
def test_what_preflight_fails_does_not_learn_digits_and_what_it_passes_does(activation, depth, gain) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator())
    x = torch.tensor(digits.data, dtype=torch.float32)[order]
    x, y = (x - x.mean()) / x.std(), torch.tensor(digits.target)[order]
    model = mlp(depth, Activation(activation), gain=gain)
    findings = preflight(model, x[:128], y[:128])
    assert (gain == 1.0) == (findings == [])
    accuracy = _accuracy(model, x, y, 1e-3)
    if gain == 1.0:
        assert accuracy > 0.85
    else:
        assert Severity.fail in {f.severity for f in findings}
        assert accuracy < 0.6

"""Will this model carry a signal? Findings about one batch before training or after an edit.

The limits were chosen on perceptrons of width 64 and 4 to 32 layers, trained for 250 steps on 8 x 8
digits at 62 combinations of activation, gain and depth. Without a finding the best of three optimizers
reached 92% or more (82% at 32 layers); none of those that fail here passed 51%; those warned of lie
between, from 18% to 97%. A factor 1e3 is also the six depth scales within which [Schoenholz2017] trains.

[Schoenholz2017] Deep Information Propagation, ICLR 2017, arXiv:1611.01232.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from torch import Tensor, nn

from growcore.diagnostics.signal import LayerSignal, LossFunction, measure_signal


class Severity(StrEnum):
    """How bad a finding is."""

    warn = "warn"  # trains worse or slower than it could
    fail = "fail"  # hopeless: the trial may as well end


class FindingKind(StrEnum):
    """What is wrong."""

    not_finite = "not_finite"
    zero_input = "zero_input"
    zero_weights = "zero_weights"
    blocked_units = "blocked_units"
    saturated = "saturated"
    no_gradient = "no_gradient"
    vanishing_signal = "vanishing_signal"
    exploding_signal = "exploding_signal"
    vanishing_gradient = "vanishing_gradient"
    exploding_gradient = "exploding_gradient"
    collapse = "collapse"  # all inputs look alike
    low_rank = "low_rank"  # inputs differ along one direction only
    no_path = "no_path"  # pruned connections cut outputs from the input


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a model before it trains."""

    severity: Severity
    kind: FindingKind
    layer: str  # where it shows first
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.layer}: {self.reason} {self.fix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """From where on a measurement is a finding."""

    warn_factor: float = 1e3  # a variance may change this much over the depth, either way
    fail_factor: float = 1e10
    blocked_warn: float = 0.8  # fraction of a layer's units; sound ReLU networks of 48 layers reach 0.6
    saturated_warn: float = 0.6  # fraction of values; sigmoid at its gradient-preserving scale: 0.5
    saturated_fail: float = 0.99
    rank_warn: float = 1.05  # effective directions, of layers with at least 4 units

    def __post_init__(self) -> None:
        if not 1 < self.warn_factor <= self.fail_factor:
            raise ValueError(
                "a change of variance is judged by 1 < warn_factor <= fail_factor; got "
                f"warn_factor={self.warn_factor}, fail_factor={self.fail_factor}. Use 1e3 and 1e10."
            )


def preflight(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    loss_fn: LossFunction = nn.functional.cross_entropy,
    limits: Limits | None = None,
) -> list[Finding]:
    """What is wrong with a model on a batch; empty if nothing is. The model stays as it is.

    Args:
        model: any module with linear or convolution layers.
        x: a batch of at least 2 inputs.
        targets: what `loss_fn` compares the output with.
        loss_fn: gives a scalar, mean or sum over the batch.
        limits: from where on a measurement is a finding; None: the defaults.

    Raises:
        ValueError: as `measure_signal`.
    """
    return judge(measure_signal(model, x, targets, loss_fn), limits or Limits())


def judge(signals: Sequence[LayerSignal], limits: Limits) -> list[Finding]:
    """Findings in measured signals. A blocked signal hides what comes after, so it is reported alone."""
    blocked = _not_finite(signals) or _blocked_forward(signals) or _blocked_backward(signals)
    if blocked is not None:
        return [blocked]
    units = [*_blocked(signals, limits), *_saturated(signals, limits), *_low_rank(signals, limits)]
    return [*_drift(signals, limits), *units]


@dataclass(frozen=True, slots=True)
class Drift:
    """How three variances change per layer, geometric means over the depth; 1 is sound."""

    signal: float  # second moment of what flows forward, from the input on
    gradient: float  # squared gradient, from a layer to the one before it
    contrast: float  # share of the second moment that differs between inputs

    def lost_depth(self, factor: float) -> float:
        """Layers after which at these rates the first of the three has changed by `factor`."""
        rates = [abs(math.log(rate)) for rate in (self.signal, self.gradient)]
        # Only a loss of contrast is harm.
        fastest = max(*rates, -math.log(self.contrast))
        return math.log(factor) / fastest if fastest > 1e-9 else math.inf


def drift(signals: Sequence[LayerSignal]) -> Drift:
    """Rates of change per layer of a model whose signal and gradient are blocked nowhere.

    Raises:
        ValueError: a variance is zero or not finite, so it has no rate.
    """
    first, last = signals[0], signals[-1]
    signal = _ratio(last.output_square, first.input_square) ** (1 / len(signals))
    steps = max(len(signals) - 1, 1)
    gradient = _ratio(first.gradient_square, last.gradient_square) ** (1 / steps)
    contrast = _ratio(_contrast(last), _contrast(first)) ** (1 / steps)
    return Drift(signal, gradient, contrast)


def signal_metrics(signals: Sequence[LayerSignal]) -> dict[str, float]:
    """Plain numbers to log, by metric key `preflight/<what>/<layer>`."""
    values: dict[str, float] = {}
    for s in signals:
        values[f"preflight/output_rms/{s.layer}"] = math.sqrt(s.output_square)
        values[f"preflight/gradient_rms/{s.layer}"] = math.sqrt(s.gradient_square)
        values[f"preflight/blocked_fraction/{s.layer}"] = s.blocked_fraction
        values[f"preflight/effective_rank/{s.layer}"] = s.effective_rank
    return values


@dataclass(frozen=True, slots=True)
class SignalChange:
    """What an edit did to the signal at one layer, measured on one batch before and after."""

    layer: str
    output_factor: float  # second moment of z, after over before; infinite from 0, 1 if both are 0
    gradient_factor: float  # the same of the squared gradient relative to the last layer's
    blocked_change: float  # fraction of blocked units, after minus before
    rank_change: float  # effective rank, after minus before


def signal_changes(before: Sequence[LayerSignal], after: Sequence[LayerSignal]) -> list[SignalChange]:
    """Compare a model with itself after a growth or pruning.

    Raises:
        ValueError: the layers are not the same, which no edit causes.
    """
    names = [s.layer for s in before], [s.layer for s in after]
    if names[0] != names[1]:
        raise ValueError(
            f"signals are compared layer by layer; got {names[0]} before and {names[1]} after. "
            "Measure one model before and after its edit."
        )
    return [
        SignalChange(
            b.layer,
            _factor(b.output_square, a.output_square),
            _factor(b.gradient_square, a.gradient_square),
            a.blocked_fraction - b.blocked_fraction,
            a.effective_rank - b.effective_rank,
        )
        for b, a in zip(before, after, strict=True)
    ]


def _factor(before: float, after: float) -> float:
    if before == 0:
        return 1.0 if after == 0 else math.inf
    return after / before


def _ratio(over: float, under: float) -> float:
    if not (over > 0 and under > 0 and math.isfinite(over / under)):
        raise ValueError(
            f"a rate per layer needs positive finite variances at both ends; got {over} and {under}. "
            "Call judge() first: it names the layer that blocks the signal."
        )
    return over / under


def _contrast(s: LayerSignal) -> float:
    return s.output_variance / s.output_square


def _not_finite(signals: Sequence[LayerSignal]) -> Finding | None:
    forward = next((s for s in signals if not math.isfinite(s.output_square)), None)
    if forward is not None:
        reason = f"preactivations are not finite (weights have C_W = {forward.weight_variance:.3g})."
        return _fail(FindingKind.not_finite, forward, reason, "Lower the gain, or look for infinite inputs.")
    backward = next((s for s in reversed(signals) if not math.isfinite(s.gradient_square)), None)
    if backward is not None:
        reason = f"the gradient is not finite (weights have C_W = {backward.weight_variance:.3g})."
        return _fail(FindingKind.not_finite, backward, reason, "Lower the gain, or check the loss.")
    return None


def _blocked_forward(signals: Sequence[LayerSignal]) -> Finding | None:
    index = next((i for i, s in enumerate(signals) if s.output_variance == 0), None)
    if index is None:
        return None
    s = signals[index]
    if s.weight_variance == 0:
        return _fail(
            FindingKind.zero_weights, s, "all weights are 0, so every input looks alike.", "Initialise them."
        )
    if s.input_square == 0 and index == 0:
        return _fail(FindingKind.zero_input, s, "every input is 0.", "Check how the data are normalised.")
    if s.input_square == 0:
        reason = f"no unit passes anything on for any input; {s.layer} sees only zeros."
        fix = "Raise its biases or draw its weights anew; leaky_relu or gelu cannot die."
        return _fail(FindingKind.blocked_units, signals[index - 1], reason, fix)
    reason = "every input of the batch gives the same preactivations."
    return _fail(FindingKind.collapse, s, reason, _CONTRAST_FIX)


def _blocked_backward(signals: Sequence[LayerSignal]) -> Finding | None:
    if signals[-1].gradient_square == 0:
        reason = "the loss sends no gradient back."
        return _fail(FindingKind.no_gradient, signals[-1], reason, "Check that the loss uses the output.")
    for s, following in reversed(list(pairwise(signals))):
        if s.gradient_square == 0:
            reason = f"no gradient arrives, though {following.layer} gets one."
            fix = "Look for a detached tensor or saturated activations between the two."
            return _fail(FindingKind.no_gradient, s, reason, fix)
    return None


def _fail(kind: FindingKind, s: LayerSignal, reason: str, fix: str) -> Finding:
    return Finding(Severity.fail, kind, s.layer, reason, fix)


_GRADIENT_FIX = (
    "No gain helps both ways: use relu or gelu with init=critical, normalization=batch, or fewer layers."
)
_CONTRAST_FIX = "Use relu or gelu with init=critical, a larger gain, normalization=batch, or fewer layers."


@dataclass(frozen=True, slots=True)
class _Course:
    """One variance over the depth, relative to where its way starts."""

    what: str
    factors: list[float]  # by layer
    steps: list[int]  # layers passed on the way there
    vanishing: FindingKind
    exploding: FindingKind | None  # None where a growth is no harm

    def extreme(self) -> int:
        return max(range(len(self.factors)), key=lambda i: abs(math.log(self.factors[i])))

    def kind(self) -> FindingKind | None:
        return self.vanishing if self.factors[self.extreme()] < 1 else self.exploding


def _courses(signals: Sequence[LayerSignal]) -> tuple[_Course, ...]:
    start, top, steps = signals[0], signals[-1], list(range(len(signals)))
    return (
        _Course(
            "variance of preactivations",
            [s.output_square / start.input_square for s in signals],
            [step + 1 for step in steps],
            FindingKind.vanishing_signal,
            FindingKind.exploding_signal,
        ),
        _Course(
            "squared gradient",
            [s.gradient_square / top.gradient_square for s in signals],
            steps[::-1],
            FindingKind.vanishing_gradient,
            FindingKind.exploding_gradient,
        ),
        _Course(
            "part of the variance that tells inputs apart",
            [_contrast(s) / _contrast(start) for s in signals],
            steps,
            FindingKind.collapse,
            None,
        ),
    )


def _drift(signals: Sequence[LayerSignal], limits: Limits) -> list[Finding]:
    """Variances that change too much over the depth, each at the layer where it has changed most."""
    lost = drift(signals).lost_depth(limits.fail_factor)
    findings: list[Finding] = []
    for course in _courses(signals):
        index, kind = course.extreme(), course.kind()
        factor = course.factors[index]
        size = max(factor, 1 / factor)
        if kind is None or size < limits.warn_factor:
            continue
        rate = factor ** (1 / course.steps[index])
        reason = (
            f"the {course.what} changes by a factor {rate:.3g} at each of {course.steps[index]} layers, "
            f"{factor:.2g} in all (weights have C_W = {_mean_weight_variance(signals):.3g}); at the rates "
            f"of this model its signal is lost at a depth of {lost:.0f}."
        )
        severity = Severity.fail if size >= limits.fail_factor else Severity.warn
        fix = _fix(kind, rate, {f.kind for f in findings})
        findings.append(Finding(severity, kind, signals[index].layer, reason, fix))
    return findings


def _fix(kind: FindingKind, rate: float, found: set[FindingKind]) -> str:
    same_way = {
        FindingKind.vanishing_gradient: FindingKind.vanishing_signal,
        FindingKind.exploding_gradient: FindingKind.exploding_signal,
    }
    if kind == FindingKind.collapse:
        return _CONTRAST_FIX
    if kind in same_way and same_way[kind] not in found:
        return _GRADIENT_FIX
    return f"Multiply the gain by about {rate**-0.5:.3g}, or use init=critical with init_gain=1."


def _mean_weight_variance(signals: Sequence[LayerSignal]) -> float:
    return math.exp(sum(math.log(s.weight_variance) for s in signals) / len(signals))


def _blocked(signals: Sequence[LayerSignal], limits: Limits) -> list[Finding]:
    return [
        Finding(
            Severity.warn,
            FindingKind.blocked_units,
            s.layer,
            f"{s.blocked_fraction:.0%} of the units get no gradient from any input of the batch.",
            "Raise its biases, use leaky_relu or gelu, or lower the depth.",
        )
        for s in signals
        if s.blocked_fraction >= limits.blocked_warn
    ]


def _saturated(signals: Sequence[LayerSignal], limits: Limits) -> list[Finding]:
    return [
        Finding(
            Severity.fail if s.saturated_fraction >= limits.saturated_fail else Severity.warn,
            FindingKind.saturated,
            s.layer,
            f"{s.saturated_fraction:.0%} of the values lie where the activation is flat "
            f"(root mean square {math.sqrt(s.output_square):.3g}).",
            "Lower the gain: up to a root mean square of about 2 most values keep a slope.",
        )
        for s in signals
        if s.saturated_fraction >= limits.saturated_warn
    ]


def _low_rank(signals: Sequence[LayerSignal], limits: Limits) -> list[Finding]:
    if signals[0].effective_rank < 2:
        return []  # the data themselves vary in one direction
    for s in signals:
        if s.num_units >= 4 and s.effective_rank < limits.rank_warn:
            return [
                Finding(
                    Severity.warn,
                    FindingKind.low_rank,
                    s.layer,
                    f"over the batch its {s.num_units} units vary along {s.effective_rank:.2f} directions.",
                    "Use fewer layers, normalization=batch or init=orthogonal.",
                )
            ]
    return []

"""Two sweeps, or two trials, at the same train FLOPs: a paired test, a table and a figure.

Where both trials were trained with several seeds in common, the seeds are the pairs and the test is the
paired t-test: differences of final metrics between seeds are close to normal, and with the handful of seeds
people run, Wilcoxon's test could not reach a small p (two-sided at least 2 / 2^n). Otherwise the pairs are
checkpoints of the two curves and the test is Wilcoxon's signed-rank test, as differences along a curve are
not normal; they are not independent either, which is said beside the p-value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from growcore.metrics import label
from sweeps.config.errors import ConfigError
from sweeps.views.curves import Subject, Values, read_subject
from sweeps.views.tables import columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_ROWS = 12  # of the table
_GIGA = 1e9
_T_TEST = "paired t-test over seeds"
_WILCOXON = "Wilcoxon signed-rank test over checkpoints"
_ONE_CURVE_EACH = (
    "One run of each: checkpoints of one curve depend on each other, so p describes these two runs and says "
    "nothing certain of others. Train both with several seeds (sweep.replicates=5, or a space with "
    "`seed: [0, 1, 2, 3, 4]`, the rest fixed) for a test that does."
)
_ONE_SWEEP_EACH = (
    "One run of each sweep: checkpoints of one search depend on each other, so p describes these two runs "
    "and says nothing certain of the methods. Repeat both with several search.seed before you conclude."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The metric of both at the same train FLOPs."""

    seed: int | None  # None where the pair is a checkpoint
    flops: float
    a: float
    b: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """Whether the paired differences a - b lie around zero."""

    name: str
    num_pairs: int
    mean_difference: float  # a - b
    standard_error: float | None  # of the mean over seeds; None over checkpoints, which depend on each other
    p: float | None  # two-sided; None where there are too few pairs for any test
    caveat: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two subjects at matched train FLOPs."""

    a: str
    b: str
    metric: str
    maximize: bool
    flops: float  # the most that every curve compared reached
    final: Pair  # both there; means where there are several seeds
    checkpoints: list[Pair]
    seeds: list[Pair]  # empty where fewer than two seeds are shared
    test: PairedTest

    @property
    def ahead(self) -> str | None:
        """The name of the better one at matched train FLOPs, None where they are equal."""
        difference = self.final.a - self.final.b
        if difference == 0:
            return None
        return self.a if (difference > 0) == self.maximize else self.b


def read(root: Path, a: str, b: str) -> tuple[Subject, Subject]:
    """Both subjects, checked to be comparable.

    Raises:
        ConfigError: one does not exist or reported nothing, or they are of different kinds or metrics.
    """
    first, second = read_subject(root, a), read_subject(root, b)
    if first.is_sweep != second.is_sweep:
        raise ConfigError(
            f"{a} and {b} differ in kind: a sweep spends the train FLOPs of all its trials, a trial its own. "
            f"Compare two sweeps, SWEEP SWEEP, or two trials, SWEEP/NUMBER SWEEP/NUMBER."
        )
    if (first.metric, first.maximize) != (second.metric, second.maximize):
        raise ConfigError(
            f"{a} was ranked by {first.metric} and {b} by {second.metric}, or in another direction. Compare "
            f"sweeps with the same search.metric and search.direction."
        )
    return first, second


def compare(a: Subject, b: Subject) -> Comparison:
    """Both at matched train FLOPs.

    Raises:
        ConfigError: no train FLOPs were reached by both.
    """
    shared = sorted(a.curves.keys() & b.curves.keys())
    seeds = shared if len(shared) > 1 else None
    low, high = _range(a, b, seeds)
    fewer = min(a, b, key=lambda subject: len(subject.checkpoints))
    at = np.array([flops for flops in fewer.checkpoints if low <= flops <= high])
    checkpoints = [
        Pair(seed=None, flops=float(f), a=float(x), b=float(y))
        for f, x, y in zip(at, _mean(a, seeds, at), _mean(b, seeds, at), strict=True)
    ]
    end = np.array([high])
    by_seed = [
        Pair(seed=seed, flops=high, a=float(a.curves[seed].at(end)[0]), b=float(b.curves[seed].at(end)[0]))
        for seed in seeds or ()
    ]
    final = Pair(seed=None, flops=high, a=float(_mean(a, seeds, end)[0]), b=float(_mean(b, seeds, end)[0]))
    test = _t_test(by_seed) if by_seed else _wilcoxon(checkpoints, a.is_sweep)
    return Comparison(
        a=a.name,
        b=b.name,
        metric=a.metric,
        maximize=a.maximize,
        flops=high,
        final=final,
        checkpoints=checkpoints,
        seeds=by_seed,
        test=test,
    )


def _range(a: Subject, b: Subject, seeds: list[int] | None) -> tuple[float, float]:
    """The train FLOPs that every curve compared has passed."""
    curves = [subject.curves[seed] for subject in (a, b) for seed in seeds or (subject.seed,)]
    low = max(float(curve.flops_N[0]) for curve in curves)
    high = min(float(curve.flops_N[-1]) for curve in curves)
    if low > high:
        spans = [
            f"{s.name} from {s.curves[s.seed].flops_N[0] / _GIGA:.4g} to "
            f"{s.curves[s.seed].flops_N[-1] / _GIGA:.4g} GFLOP"
            for s in (a, b)
        ]
        raise ConfigError(
            f"No train FLOPs were reached by both: {spans[0]}, {spans[1]}. Train the shorter one longer "
            f"(training.num_epochs), or report more often (training.report_every_epochs)."
        )
    return low, high


def _mean(subject: Subject, seeds: list[int] | None, flops: Values) -> Values:
    curves = [subject.curves[seed].at(flops) for seed in seeds or (subject.seed,)]
    return np.asarray(np.mean(curves, axis=0), dtype=np.float64)


def _t_test(pairs: list[Pair]) -> PairedTest:
    differences = np.array([pair.a - pair.b for pair in pairs])
    error = float(stats.sem(differences))
    # Equal differences have no spread: no doubt is left where they are not zero.
    p = float(np.all(differences == 0)) if error == 0 else float(stats.ttest_1samp(differences, 0.0).pvalue)
    caveat = None if len(pairs) >= 5 else "Few seeds: only a large difference could be told from chance."
    return PairedTest(
        name=_T_TEST,
        num_pairs=len(pairs),
        mean_difference=float(differences.mean()),
        standard_error=error,
        p=p,
        caveat=caveat,
    )


def _wilcoxon(pairs: list[Pair], is_sweep: bool) -> PairedTest:
    differences = np.array([pair.a - pair.b for pair in pairs])
    p = None
    if len(pairs) > 1:
        p = float(stats.wilcoxon(differences).pvalue) if np.any(differences) else 1.0
    return PairedTest(
        name=_WILCOXON,
        num_pairs=len(pairs),
        mean_difference=float(differences.mean()) if len(pairs) else 0.0,
        standard_error=None,
        p=p,
        caveat=_ONE_SWEEP_EACH if is_sweep else _ONE_CURVE_EACH,
    )


def table(found: Comparison) -> list[str]:
    """The comparison for people."""
    heads = ["train GFLOP", f"A {label(found.metric)}", "B", "A - B"]
    shown = _spread(found.checkpoints)
    rows = [[f"{p.flops / _GIGA:.4g}", *_cells(p)] for p in shown]
    lines = [f"A = {found.a}", f"B = {found.b}", *columns([heads, *rows, _final_row(found)])]
    if len(shown) < len(found.checkpoints):
        lines.append(f"  {len(shown)} of {len(found.checkpoints)} checkpoints; --json has them all")
    if found.seeds:
        by_seed = [[str(p.seed), *_cells(p)] for p in found.seeds]
        lines += ["", *columns([["seed", *heads[1:]], *by_seed])]
    return [*lines, "", *_verdict(found)]


def _final_row(found: Comparison) -> list[str]:
    return [f"all of {found.flops / _GIGA:.4g}", *_cells(found.final)]


def _verdict(found: Comparison) -> list[str]:
    test, difference = found.test, found.final.a - found.final.b
    ahead = "they are equal" if found.ahead is None else f"{found.ahead} is ahead by {abs(difference):.4g}"
    spread = "" if test.standard_error is None else f" ± {test.standard_error:.2g} (standard error)"
    said = "too few pairs for a test" if test.p is None else f"p = {test.p:.2g}"
    lines = [
        f"at {found.flops / _GIGA:.4g} GFLOP {ahead}",
        f"{test.name}, {test.num_pairs} pairs: mean A - B {test.mean_difference:+.4g}{spread}, {said}",
    ]
    return lines if test.caveat is None else [*lines, test.caveat]


def _cells(pair: Pair) -> list[str]:
    return [f"{pair.a:.4f}", f"{pair.b:.4f}", f"{pair.a - pair.b:+.4f}"]


def _spread(pairs: list[Pair]) -> list[Pair]:
    """At most so many, evenly chosen, the last among them."""
    if len(pairs) <= _MAX_ROWS:
        return pairs
    return [pairs[round(i)] for i in np.linspace(0, len(pairs) - 1, _MAX_ROWS)]


def figure(a: Subject, b: Subject, found: Comparison, path: Path) -> Path:
    """Draw both curves, and their difference below, as a PNG file."""
    from matplotlib.figure import Figure  # without pyplot: no global state and no display

    drawing = Figure(figsize=(7, 5.5), dpi=150, layout="constrained")
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for name, subject, colour, final in (("A", a, "C0", found.final.a), ("B", b, "C1", found.final.b)):
        _draw(upper, subject, [pair.seed for pair in found.seeds], colour)
        upper.plot([], [], color=colour, label=f"{name}: {subject.name}, {final:.4f} at matched train FLOPs")
    so_far = "best so far, " if a.is_sweep else ""
    upper.set_ylabel(f"{so_far}{label(found.metric)}")
    upper.legend(frameon=False, loc="lower right" if found.maximize else "upper right")
    points = [*found.checkpoints, found.final]
    flops_N, differences_N = [p.flops / _GIGA for p in points], [p.a - p.b for p in points]
    lower.plot(flops_N, differences_N, "o-", color="0.3", markersize=3)
    lower.axhline(0, color="0.7", linewidth=0.8)
    lower.set_ylabel("A - B")
    lower.set_xlabel("train GFLOP" + (", all trials together" if a.is_sweep else ""))
    for axes in (upper, lower):
        axes.axvline(found.flops / _GIGA, color="0.7", linestyle="--", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, format="png")
    return path


def _draw(axes: Axes, subject: Subject, seeds: list[int | None], colour: str) -> None:
    """Every seed's curve thin and their mean thick, or the one curve."""
    curves = [subject.curves[seed] for seed in seeds if seed is not None] or [subject.curves[subject.seed]]
    style = "steps-post" if subject.is_sweep else "default"
    for curve in curves:
        thin = {"linewidth": 0.8, "alpha": 0.5} if len(curves) > 1 else {"linewidth": 1.6, "alpha": 1.0}
        axes.plot(curve.flops_N / _GIGA, curve.values_N, color=colour, drawstyle=style, **thin)  # type: ignore[arg-type]
    if len(curves) > 1:
        low, high = max(c.flops_N[0] for c in curves), min(c.flops_N[-1] for c in curves)
        at_N = np.linspace(low, high, 200)
        mean_N = np.mean([curve.at(at_N) for curve in curves], axis=0)
        axes.plot(at_N / _GIGA, mean_N, color=colour, linewidth=1.8)

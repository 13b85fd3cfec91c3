"""What a new search starts from: complete trials of earlier sweeps, and trials to try first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.config.errors import ConfigError
from sweeps.config.settings import TRIAL_GROUPS, SweepConfig
from sweeps.kept.trials import TrialRow, TrialState
from sweeps.records.disk import EarlierSweep
from sweeps.search import Goals, Study
from sweeps.space.encoding import Params, first, of_trial
from sweeps.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """What of an earlier sweep a sampler is told."""

    trials: list[tuple[Params, TrialRow]]
    note: str  # what was kept and what was not, for people


def warm_start(space: SearchSpace, goals: Goals, earlier: EarlierSweep) -> WarmStart:
    """The complete trials of an earlier sweep that lie in this space.

    A key that only one of the two sweeps searches has one value in the other; trials whose values lie in
    this space are kept, and keys that are set otherwise here are named.

    Raises:
        ConfigError: the sweeps do not train on the same data, or none of its trials is of use.
    """
    trials: list[tuple[Params, TrialRow]] = []
    reasons: list[str] = []
    differ: set[str] = set()
    for row in (row for row in earlier.rows if row.state is TrialState.complete):
        options = {g: str(row.params.get(g, earlier.config.choices.get(g))) for g in TRIAL_GROUPS}
        try:
            params = of_trial(space, row.config, options)
            here = space.apply(space.decode(params)).to_dict()
        except ConfigError as error:
            reasons.append(str(error))
            continue
        if why := goals.missing(row.outcome.metrics):
            reasons.append(why)
            continue
        differ |= _different(row.config, here)
        trials.append((params, row))
    _check_usable(earlier, trials, reasons, differ)
    left_out = f"; {len(reasons)} left out: {reasons[0]}" if reasons else ""
    otherwise = f"; not the same here: {', '.join(sorted(differ))}" if differ else ""
    num = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    note = f"from {earlier.name}: the sampler knows {num}{left_out}{otherwise}"
    return WarmStart(trials=trials, note=note)


def _check_usable(
    earlier: EarlierSweep, trials: Sequence[Any], reasons: Sequence[str], differ: set[str]
) -> None:
    where = f"search.warm_start: {earlier.name}"
    if not trials:
        why = reasons[0] if reasons else "none of its trials is complete."
        raise ConfigError(f"{where} has no trial that this search can use: {why}")
    if data := sorted(key for key in differ if key.startswith("data.")):
        raise ConfigError(
            f"{where} trained on other data ({', '.join(data)} differ), so its values cannot be compared. "
            "Leave it out, or choose the same data."
        )


def _different(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys whose values differ, beyond rounding."""
    found: set[str] = set()
    for key in [*there, *(k for k in here if k not in there)]:
        a, b = there.get(key), here.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= _different(a, b, f"{prefix}{key}.")
        elif isinstance(a, float) and isinstance(b, float):
            found |= {prefix + key} if abs(a - b) > 1e-9 * max(abs(a), abs(b)) else set()
        elif a != b:
            found.add(prefix + key)
    return found


def prepare(
    study: Study, config: SweepConfig, space: SearchSpace, earlier: Sequence[EarlierSweep]
) -> list[str]:
    """Put into a new study what its search starts from, once; returns what people should know of it."""
    if study.is_prepared:
        return []
    notes = []
    for each in earlier:
        found = warm_start(space, study.goals, each)
        for params, row in found.trials:
            study.add_earlier(f"{each.name}/{row.number}", space, params, row)
        notes.append(found.note)
    for params in first(config, space):
        study.enqueue(params)
    study.prepared()
    return notes

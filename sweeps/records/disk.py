"""Sweeps that are there: the folder of each under a storage root, and its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from growcore.metrics import METRICS, Metric, from_plain
from sweeps.config.errors import ConfigError
from sweeps.config.settings import SweepConfig
from sweeps.kept.events import FORMAT
from sweeps.kept.trials import TrialRow
from sweeps.search import SamplerSettings, Study, study_url

PLAN = "plan.yaml"  # what a sweep was launched with
LOG = "driver.log"  # what its drivers said


def read_plan(root: Path, name: str) -> dict[str, Any]:
    """What a sweep was launched with; ConfigError where there is no such sweep."""
    path = root / name / PLAN
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in root.glob(f"*/{PLAN}"))) or "none yet"
        raise ConfigError(f"No sweep '{name}' under {root}. Known sweeps: {known}.")
    plan: dict[str, Any] = yaml.safe_load(path.read_text())
    if plan.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {plan.get('format')}; this version reads format {FORMAT}.")
    return plan


def open_study(root: Path, name: str) -> Study:
    """A sweep's study, to read it; ConfigError where there is none."""
    if not (root / "optuna.db").is_file():
        raise ConfigError(f"No sweeps under {root}. Start one with `sweeps launch`, or name the folder.")
    try:
        return Study.load(study_url(root), name, SamplerSettings(name="random"))  # it is only read
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from None


def read_config(root: Path, name: str) -> SweepConfig:
    """What a sweep was asked to do; ConfigError where there is no such sweep."""
    return SweepConfig.from_dict(read_plan(root, name)["config"])


def metrics_of(plan: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that trials of a sweep report, those of its user as they were recorded with its plan."""
    return {**METRICS, **from_plain(plan.get("metrics", {}))}


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierSweep:
    """A sweep that another one starts from."""

    name: str
    config: SweepConfig
    rows: Sequence[TrialRow]


def read_earlier(root: Path, name: str) -> EarlierSweep:
    """A sweep for another one to start from; ConfigError where there is no such sweep."""
    return EarlierSweep(name=name, config=read_config(root, name), rows=open_study(root, name).rows())

"""What an untrained network does to a signal: a table of its layers, then what is wrong with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from growcore.config import TrialConfig
from sweeps.config.errors import ConfigError
from sweeps.views.tables import table

if TYPE_CHECKING:
    from growcore.diagnostics.checks import Check
    from growcore.diagnostics.preflight import Finding

_STYLES = {"warn": "yellow", "fail": "bold red"}


def check(config: TrialConfig) -> Check:
    """Build the network of a trial and look at it as the trial would before its first step, on the CPU.

    Raises:
        ConfigError: there is no such data set or network, or too little of it to be measured.
    """
    import torch

    from growcore import data
    from growcore.diagnostics import checks
    from growcore.networks import models

    torch.set_num_threads(config.training.num_threads)
    try:
        images = data.load(config.data, imports=config.imports)
        model = models.build(config, images.image_shape, images.num_classes)
        return checks.inspect(model, images)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


def render(found: Check) -> RenderableType:
    """The layers in order of the forward pass, then each finding with its reason and its fix."""
    if not found.findings:
        return Group(_layers(found), "", "nothing found: this network carries a signal and its gradient")
    findings = ((_severity(f), f"{f.layer}: {f.reason}\n{f.fix}") for f in found.findings)
    return Group(_layers(found), "", table(findings, indent=0))


def _severity(finding: Finding) -> Text:
    return Text(finding.severity.value, style=_STYLES[finding.severity.value])


def _layers(found: Check) -> Table:
    heads = ("layer", "units", "forward scale", "backward scale", "blocked", "effective rank")
    rows = (
        (
            s.layer,
            str(s.num_units),
            f"{math.sqrt(s.output_square):.3g}",
            f"{math.sqrt(s.gradient_square):.3g}",
            f"{s.blocked_fraction:.0%}",
            f"{s.effective_rank:.1f}",
        )
        for s in found.signals
    )
    return table(rows, *heads, indent=0, is_numbers=True)

"""Sharing out connections by rank, which hebbian and its control, random, have in common.

Of each scope the strongest k1 stay, those up to k2 restart, the rest go. All connections are ranked each
time, those that have grown since too: a network that grows is back at k2 at the next progression, and what
grows after the last one stays alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from growcore import sparse
from growcore.config.acting import acting
from growcore.config.choices import PruningScope
from growcore.sparse.methods.method import TIMES, Decision, PruneObservation
from growcore.sparse.methods.schedule import share_left

if TYPE_CHECKING:
    from growcore.config import PruningConfig
    from growcore.config.timing import Progress

KEYS = acting("scope", "k1", "k2", "schedule") | TIMES


def rank(
    observations: Sequence[PruneObservation], config: PruningConfig, progress: Progress, judged: str
) -> Decision:
    """The strongest k1 stay, those up to k2 restart, the rest go; with a schedule, fewer go at first.

    Args:
        observations: all sparse layers.
        config: scope, k1, k2 and schedule.
        progress: where on the schedule training is.
        judged: what the strengths are, for the rule.
    """
    share = 1 - share_left(config, progress)  # of the way from a dense layer to k1 and k2
    k1, k2 = (1 - (1 - k) * share for k in (config.k1, config.k2))
    strengths, units = [o.strengths for o in observations], [o.units for o in observations]
    if config.scope == PruningScope.all_layers:
        masks = sparse.rank_globally(strengths, k1, k2, units)
        scope = "over all layers"
    else:
        dims = sparse.PRUNE_DIMS[config.scope]
        masks = [sparse.rank_within_scopes(s, k1, k2, dims, u) for s, u in zip(strengths, units, strict=True)]
        scope = f"within each {config.scope}"
    rule = f"{judged} strength {scope}: the strongest {k1:.3g} stay, up to {k2:.3g} restart,"
    return Decision(masks, rule)

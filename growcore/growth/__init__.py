"""Layers that gain neurons where the loss asks for them."""

from growcore.growth.conv import Conv2dGrowingModule, FullConv2dGrowingModule, RestrictedConv2dGrowingModule
from growcore.growth.initialization import known_inits
from growcore.growth.linear import LinearGrowingModule
from growcore.growth.merge import (
    Conv2dMergeGrowingModule,
    LinearMergeGrowingModule,
    MergeGrowingModule,
)
from growcore.growth.module import ConnectionState, GrowingModule
from growcore.growth.normalization import GrowingGroupNorm, GrowingLayerNorm
from growcore.growth.proposal import GrowthProposal
from growcore.growth.removing import Cut, RemovedNeurons, removable_neurons, remove_neurons
from growcore.growth.statistic import TensorStatistic

__all__ = [
    "ConnectionState",
    "Conv2dGrowingModule",
    "Conv2dMergeGrowingModule",
    "Cut",
    "FullConv2dGrowingModule",
    "GrowingGroupNorm",
    "GrowingLayerNorm",
    "GrowingModule",
    "GrowthProposal",
    "LinearGrowingModule",
    "LinearMergeGrowingModule",
    "MergeGrowingModule",
    "RemovedNeurons",
    "RestrictedConv2dGrowingModule",
    "TensorStatistic",
    "known_inits",
    "removable_neurons",
    "remove_neurons",
]

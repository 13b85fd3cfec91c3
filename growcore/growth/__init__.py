"""Layers that gain neurons where the loss asks for them."""

from growcore.growth.conv import Conv2dGrowingModule, FullConv2dGrowingModule, RestrictedConv2dGrowingModule
from growcore.growth.initialization import known_inits
from growcore.growth.linear import LinearGrowingModule
from growcore.growth.merge import MergeGrowingModule
from growcore.growth.merge_kinds import Conv2dMergeGrowingModule, LinearMergeGrowingModule
from growcore.growth.module import ConnectionState, GrowingModule
from growcore.growth.normalization import GrowingGroupNorm, GrowingLayerNorm
from growcore.growth.proposal import GrowthProposal, MergeProposal, NewInputs, NewOutputs
from growcore.growth.removing import Cut, RemovedNeurons, removable_neurons, remove_neurons
from growcore.growth.statistic import TensorStatistic

Consumer = (
    GrowingModule | MergeGrowingModule
)  # what gains neurons: a layer before which they stand, or a merge

__all__ = [
    "ConnectionState",
    "Consumer",
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
    "MergeProposal",
    "NewInputs",
    "NewOutputs",
    "RemovedNeurons",
    "RestrictedConv2dGrowingModule",
    "TensorStatistic",
    "known_inits",
    "removable_neurons",
    "remove_neurons",
]

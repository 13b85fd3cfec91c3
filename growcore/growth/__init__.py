"""Layers that gain neurons where the loss asks for them."""

from growcore.growth.conv import Conv2dGrowingModule, FullConv2dGrowingModule, RestrictedConv2dGrowingModule
from growcore.growth.initialization import known_inits
from growcore.growth.linear import LinearGrowingModule
from growcore.growth.module import ConnectionState, GrowingModule
from growcore.growth.proposal import GrowthProposal
from growcore.growth.statistic import TensorStatistic

__all__ = [
    "ConnectionState",
    "Conv2dGrowingModule",
    "FullConv2dGrowingModule",
    "GrowingModule",
    "GrowthProposal",
    "LinearGrowingModule",
    "RestrictedConv2dGrowingModule",
    "TensorStatistic",
    "known_inits",
]

"""Layers that gain neurons where the loss asks for them."""

from .conv import Conv2dGrowingModule as Conv2dGrowingModule
from .conv import FullConv2dGrowingModule as FullConv2dGrowingModule
from .conv import RestrictedConv2dGrowingModule as RestrictedConv2dGrowingModule
from .extension import NewInputs as NewInputs
from .extension import NewOutputs as NewOutputs
from .initialization import known_inits as known_inits
from .linear import LinearGrowingModule as LinearGrowingModule
from .merge import Consumer as Consumer
from .merge import Conv2dMergeGrowingModule as Conv2dMergeGrowingModule
from .merge import LinearMergeGrowingModule as LinearMergeGrowingModule
from .merge import MergeGrowingModule as MergeGrowingModule
from .module import GrowingModule as GrowingModule
from .normalization import GrowingGroupNorm as GrowingGroupNorm
from .normalization import GrowingLayerNorm as GrowingLayerNorm
from .proposal import GrowthProposal as GrowthProposal
from .proposal import MergeProposal as MergeProposal
from .removing import Cut as Cut
from .removing import RemovedNeurons as RemovedNeurons
from .removing import removable_neurons as removable_neurons
from .removing import remove_neurons as remove_neurons
from .resizing import ConnectionState as ConnectionState
from .statistics.statistic import TensorStatistic as TensorStatistic

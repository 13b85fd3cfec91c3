"""Data sets, kept on the device as uint8, normalised and augmented there in batches."""

from .batches import SMALLEST_BATCH as SMALLEST_BATCH
from .batches import Batch as Batch
from .batches import augment as augment
from .batches import evaluation_batches as evaluation_batches
from .batches import training_batches as training_batches
from .sets import DATA_SETS as DATA_SETS
from .sets import Loader as Loader
from .sets import RawData as RawData
from .split import DataSet as DataSet
from .split import Part as Part
from .split import load as load
from .split import split as split

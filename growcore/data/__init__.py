"""Data sets, kept on the device as uint8, normalised and augmented there in batches."""

from growcore.data.batches import SMALLEST_BATCH, Batch, augment, evaluation_batches, training_batches
from growcore.data.sets import BUILT_IN, Loader, RawData
from growcore.data.split import DataSet, Part, load, split

__all__ = [
    "BUILT_IN",
    "SMALLEST_BATCH",
    "Batch",
    "DataSet",
    "Loader",
    "Part",
    "RawData",
    "augment",
    "evaluation_batches",
    "load",
    "split",
    "training_batches",
]

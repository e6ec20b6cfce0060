"""The data sets of the paper (sec. 4 and appendix), as uint8 tensors, and a batch iterator for them."""

from skreg.data.batching import batches, split_validation
from skreg.data.files import DatasetFormatError, DatasetNotFoundError
from skreg.data.info import DATASETS, DatasetInfo
from skreg.data.loading import load
from skreg.data.parts import Part, parts

__all__ = [
    "DATASETS",
    "DatasetFormatError",
    "DatasetInfo",
    "DatasetNotFoundError",
    "Part",
    "batches",
    "load",
    "parts",
    "split_validation",
]

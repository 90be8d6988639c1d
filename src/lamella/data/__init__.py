"""Data: a source gives samples, which are split and served in batches."""

from lamella.data.batches import Augment, Batches
from lamella.data.samples import Samples, Splits
from lamella.data.serve import Data
from lamella.data.sources import digits, image_folder, tensors, torchvision_dataset

__all__ = [
    "Augment",
    "Batches",
    "Data",
    "Samples",
    "Splits",
    "digits",
    "image_folder",
    "tensors",
    "torchvision_dataset",
]

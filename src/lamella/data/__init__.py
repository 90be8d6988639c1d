"""Read samples, split them, and serve them in batches."""

from lamella.data.augment import Augment
from lamella.data.datamodule import Data
from lamella.data.loader import Batches
from lamella.data.masks import masks
from lamella.data.samples import NamedInputs, Samples, Splits
from lamella.data.shapes import shapes
from lamella.data.sources import digit_labels, digits, image_folder, tensors, torchvision_dataset
from lamella.data.table_encoder import TableEncoder
from lamella.data.tables import bundled_table, csv

__all__ = [
    "Augment",
    "Batches",
    "Data",
    "NamedInputs",
    "Samples",
    "Splits",
    "TableEncoder",
    "bundled_table",
    "csv",
    "digit_labels",
    "digits",
    "image_folder",
    "masks",
    "shapes",
    "tensors",
    "torchvision_dataset",
]

"""Read samples, split them, and serve them in batches."""

from lamella.data.augment import Augment
from lamella.data.augmentation import Augmentation
from lamella.data.color import Color
from lamella.data.datamodule import Data
from lamella.data.datasets import Datasets
from lamella.data.external import External
from lamella.data.loader import Batches
from lamella.data.masks import masks
from lamella.data.mixing import Cutmix, Mixup
from lamella.data.own_data import OwnData, RunData
from lamella.data.policies import RandAugment, TrivialAugment
from lamella.data.samples import NamedInputs, Samples, Splits
from lamella.data.shapes import shapes
from lamella.data.sources import digit_labels, digits, image_folder, tensors, torchvision_dataset
from lamella.data.streams import Streams
from lamella.data.table_encoder import TableEncoder
from lamella.data.tables import bundled_table, csv
from lamella.data.text_encoder import TextEncoder
from lamella.data.text_windows import NextByte, characters
from lamella.data.texts import docstrings, text, text_csv
from lamella.data.transforms import Crop, Erase, Flip, Rotate
from lamella.data.windows import series, waves

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "Color",
    "Crop",
    "Cutmix",
    "Data",
    "Datasets",
    "Erase",
    "External",
    "Flip",
    "Mixup",
    "NamedInputs",
    "NextByte",
    "OwnData",
    "RandAugment",
    "Rotate",
    "RunData",
    "Samples",
    "Splits",
    "Streams",
    "TableEncoder",
    "TextEncoder",
    "TrivialAugment",
    "bundled_table",
    "characters",
    "csv",
    "digit_labels",
    "digits",
    "docstrings",
    "image_folder",
    "masks",
    "series",
    "shapes",
    "tensors",
    "text",
    "text_csv",
    "torchvision_dataset",
    "waves",
]

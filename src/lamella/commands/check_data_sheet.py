"""The contact sheet of `lamella check-data`: some images of each class, and pairs of images that look alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lamella.data import Data, RunData
from lamella.data.survey import Survey, pictures
from lamella.errors import RequestError

COLUMNS, CLASSES, PAIRS = 10, 25, 20  # images of a class, classes and pairs at most
TILE, LABEL, GAP = 64, 14, 4  # pixels: of a tile, of the line of text above a row, and between tiles


def draw(path: Path, data: RunData, surveys: Mapping[str, Survey], alike: Sequence[tuple[str, str, float]]) -> bool:
    """Write the sheet as a PNG, and return whether there are images to draw. alike: as in `Findings`.

    Raises RequestError where the file cannot be written.
    """
    if not isinstance(data, Data) or not data.images or isinstance(data.shape, dict) or data.shape[0] not in (1, 3):
        return False
    rows = _class_rows(data, surveys["train"])
    for one, other, correlation in alike[:PAIRS]:
        tiles = [tile for name in (one, other) for tile in pictures(data, *_parted(name))]
        rows.append((f"alike ({correlation:.3f})  {one}  {other}", tiles))
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, len(rows) * (TILE + LABEL + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (label, tiles) in enumerate(rows):
        top = number * (TILE + LABEL + GAP) + GAP
        pen.text((GAP, top), label.encode("latin-1", "replace").decode("latin-1"), fill="black")
        for column, tile in enumerate(tiles):
            sheet.paste(_scaled(tile), (GAP + column * (TILE + GAP), top + LABEL))
    try:
        sheet.save(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot write there ({error.strerror}); --sheet FILE writes elsewhere") from error
    return True


def _class_rows(data: Data, train: Survey) -> list[tuple[str, list[Tensor]]]:
    """Return the label and the images of each row: of each class its first ones, or the first ones of all samples."""
    if not data.has_classes:
        return [("train", pictures(data, "train", train.names[:COLUMNS]))]
    rows = []
    for number, name in enumerate(data.classes[:CLASSES]):
        chosen = torch.nonzero(train.targets == number)[:COLUMNS, 0].tolist()
        rows.append((name, pictures(data, "train", [train.names[index] for index in chosen])))
    return rows


def _parted(name: str) -> tuple[str, list[str]]:
    """Return the split of a sample, and its name in that."""
    split, _, own = name.partition(": ")
    return split, [own]


def _scaled(tile: Tensor) -> Image.Image:
    """Return an image that fills a tile, without blurring small ones. tile: uint8 (channels, height, width)."""
    array = tile.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((TILE, TILE))
    factor = max(1, TILE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).convert("RGB")

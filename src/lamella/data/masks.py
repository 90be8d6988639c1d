"""Read images with masks: pictures of the same size that hold a class index for each pixel."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lamella.data.decoder import Decoder, open_image, turn_of, upright_size
from lamella.data.folders import find_images, left_out_text
from lamella.data.images import ImageFiles, progress
from lamella.data.samples import Samples, Splits
from lamella.errors import RequestError, first_line

COLOURS = ("RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "HSV", "PA")  # modes of pictures that hold no indices


def masks(
    root: str,
    shape: Sequence[int],
    classes: Sequence[str],
    ignored: int = 255,
    values: Sequence[int] | None = None,
    background: str = "white",
    draft: bool = False,
) -> Splits:
    """Return the images in `root/images/` with the masks of the same names in `root/masks/`.

    Where there is `root/train/images/`, the splits are read from `root/train/`, `root/val/` and `root/test/` instead.
    A mask is a PNG or another picture without loss, of the size of its image and with one channel, that holds the index
    of a class for each pixel. The images are resized to `shape` as `Decoder` describes, the masks by nearest neighbour.

    shape: (channels, height, width). classes: their names. ignored: the index of pixels that do not count, and their
    value in a mask. values: the values of the pixels of each class, None for 0, 1, 2, …. background, draft: as of
    `Decoder`. The targets are uint8 (N, height, width), or int32 where values do not fit. Raises RequestError that
    names the file and the pixel.
    """
    folder = Path(root).expanduser()
    decoder, reader = Decoder(tuple(shape), background, draft), _MaskReader(shape, classes, ignored, values)
    if not folder.is_dir():
        raise RequestError(f"data.root is {root!r}: there is no folder {folder.absolute()}", "data.root")
    places = {name: folder / name for name in ("train", "val", "test") if (folder / name / "images").is_dir()}
    if "train" not in places:
        places = {"train": folder}
    left_out, notes = Counter[str](), list[str]()
    parts = {name: _part(place, decoder, reader, left_out, notes) for name, place in places.items()}
    notes += reader.missing_classes(parts["train"].targets)
    return Splits(parts["train"], parts.get("val"), parts.get("test"), left_out_text(left_out), notes)


def _part(folder: Path, decoder: Decoder, reader: "_MaskReader", left_out: Counter[str], notes: list[str]) -> Samples:
    """Return the samples of one split. left_out: counts what is left out. notes: gets a note on unused masks."""
    images, masks = (_by_stem(folder / name, left_out) for name in ("images", "masks"))
    unused = [path for stem, path in masks.items() if stem not in images]
    for stem, path in images.items():
        if stem not in masks:
            others = f"; masks without an image: {', '.join(unused[:3])}{', …' * (len(unused) > 3)}" if unused else ""
            raise RequestError(
                f"data.root: {path} has no mask: there is no {folder / 'masks' / stem} with the ending of a picture, "
                f"as .png{others}",
                "data.root",
            )
    if unused:
        more = f" and {len(unused) - 1:,} more" * (len(unused) > 1)
        notes.append(f"there is no image for the mask {unused[0]}{more}")
    pairs = [(path, masks[stem]) for stem, path in images.items()]
    targets = torch.empty(len(pairs), *decoder.shape[1:], dtype=reader.dtype)
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda pair: reader.file(*pair), pairs)
        for number, mask in enumerate(progress(read, len(pairs), "reading masks")):
            targets[number] = mask
    return Samples(ImageFiles([path for path, _ in pairs], decoder), targets)


def _by_stem(folder: Path, left_out: Counter[str]) -> dict[str, str]:
    """Return the pictures below a folder by their paths in it, without the ending. Raises RequestError."""
    if not folder.is_dir():
        raise RequestError(
            f"data.root: there is no folder {folder}; put pictures into images/, and masks of the same names into "
            "masks/ beside it",
            "data.root",
        )
    paths, others = find_images(folder)
    left_out += others
    if not paths:
        found = f" ({left_out_text(others)})" if others else ""
        raise RequestError(f"data.root: there are no pictures in {folder}{found}", "data.root")
    found_paths: dict[str, str] = {}
    for path in paths:
        stem = str(Path(path).relative_to(folder).with_suffix(""))
        if (first := found_paths.setdefault(stem, path)) != path:
            raise RequestError(
                f"data.root: {first} and {path} have the same name but for the ending; remove one", "data.root"
            )
    return found_paths


def class_colours(count: int) -> Tensor:
    """Return the colours in which masks are shown, uint8 (count, 3), which are those of the PASCAL VOC data sets.

    Each group of three bits of an index decides the next lower bit of red, green and blue: 0 is black, 1 dark red.
    """
    index, shifts = torch.arange(count)[:, None, None], torch.arange(8)
    bits = (index >> (3 * shifts + torch.arange(3)[:, None])) & 1
    return (bits << (7 - shifts)).sum(2).to(torch.uint8)


def mask_picture(mask: Tensor) -> Image.Image:
    """Return a mask (height, width) of class indices as a picture whose pixels are the indices, shown in colours.

    Above 255, there is no palette, and the picture is grey, with 16 bits.
    """
    indices = mask.cpu().numpy()
    if indices.max() > 255:
        return Image.fromarray(indices.astype(np.uint16))
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette(class_colours(256).flatten().tolist())
    return picture


class _MaskReader:
    """Reads masks as class indices (height, width). The arguments are those of `masks`."""

    def __init__(
        self, shape: Sequence[int], classes: Sequence[str], ignored: int, values: Sequence[int] | None
    ) -> None:
        self.size = (shape[2], shape[1]) if len(shape) == 3 else (0, 0)  # of any other shape, Decoder says more
        self.classes, self.ignored = list(map(str, classes)), ignored
        self.values = list(range(len(self.classes)) if values is None else values)
        if len(set(self.values)) != len(self.classes):
            raise RequestError(
                f"data.values is {self.values}; it takes one value for each of the {len(self.classes)} data.classes",
                "data.values",
            )
        if ignored in range(len(self.classes)):
            raise RequestError(
                f"data.ignored is {ignored}, which is also the class {self.classes[ignored]}; take 255, or a number "
                f"above {len(self.classes) - 1}",
                "data.ignored",
            )
        self.dtype = torch.uint8 if 0 <= ignored <= 255 and len(self.classes) <= 256 else torch.int32

    def file(self, image: str, path: str) -> Tensor:
        """Return the class indices in a mask, resized. image: the path of its image. Raises RequestError."""
        try:
            with open_image(path) as picture:
                picture.load()
                turn = turn_of(picture)
                picture = picture if turn is None else picture.transpose(turn)
        except Exception as error:
            raise RequestError(f"data.root: {path} is no readable mask ({first_line(error)})", "data.root") from error
        if picture.mode in COLOURS:
            raise RequestError(
                f"data.root: {path} has colours ({picture.mode}), and a mask holds the index of a class for each "
                "pixel; save it with one channel, as Image.fromarray(indices.astype('uint8')) of Pillow does",
                "data.root",
            )
        size = picture.size
        with suppress(Exception), open_image(image) as header:  # where the image is read, more is said of it
            size = upright_size(header)
        if picture.size != size:
            raise RequestError(
                f"data.root: {path} is {picture.width}×{picture.height}, but its image {image} is {size[0]}×{size[1]}; "
                "a mask has one pixel for each pixel of its image",
                "data.root",
            )
        indices = self._indices(np.asarray(picture).astype(np.int64), path)
        # Pillow's nearest neighbour takes the pixel in the middle of each area, for integers of 32 bits too.
        resized = Image.fromarray(indices.astype(np.int32)).resize(self.size, Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(resized)).to(self.dtype)

    def _indices(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Return the class index of each pixel. Raises RequestError that names a pixel of another value."""
        order = np.argsort(self.values)
        ordered = np.asarray(self.values)[order]
        places = np.searchsorted(ordered, pixels).clip(max=len(ordered) - 1)
        known = ordered[places] == pixels
        if len(wrong := np.argwhere(~known & (pixels != self.ignored))):
            row, column = wrong[0]
            named = ", ".join(f"{value} {name}" for value, name in zip(self.values[:9], self.classes, strict=False))
            lossy = path.lower().endswith((".jpg", ".jpeg"))
            advice = (
                "JPEG changes values, so save masks as PNG"
                if lossy
                else "name more data.classes, or the values of the pixels as data.values"
            )
            raise RequestError(
                f"data.root: {path} has the value {pixels[row, column]} at row {row}, column {column}; the classes are "
                f"{named}{', …' * (len(self.values) > 9)}, and {self.ignored} (data.ignored) does not count; {advice}",
                "data.root",
            )
        return np.where(known, order[places], self.ignored)

    def missing_classes(self, targets: Tensor) -> list[str]:
        """Return a note on the classes that do not occur, if there are some.

        targets: of the training. Raises RequestError if at most one class occurs, beside pixels that do not count.
        """
        found: list[int] = torch.unique(targets).tolist()
        present = [self.classes[value] for value in found if value != self.ignored]
        if len(self.classes) > 1 and len(present) < 2:
            only = f"but {present[0]}" if present else "that counts"
            hint = f", and {self.ignored} does not count; if it is a class, write data.values=[0,{self.ignored}]"
            raise RequestError(
                f"data.root: the training masks hold nothing {only}{hint * (self.ignored in found)}", "data.root"
            )
        missing = [name for name in self.classes if name not in present]
        return [f"no training mask holds {', '.join(missing[:5])}{', …' * (len(missing) > 5)}"] if missing else []

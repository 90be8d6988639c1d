"""Decode images of any size and mode: the one way in which an image becomes the pixels that a network takes."""

import os
import stat
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageColor
from PIL.ExifTags import Base
from torch import Tensor

from lamella.errors import RequestError, first_line

# How an image is turned for each value of the EXIF tag Orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = [TURNS[number] for number in (5, 6, 7, 8)]  # they exchange width and height
# The last bytes of a complete file, by its format, of which some cameras add a few.
ENDINGS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "GIF": b";"}
ENDING_BYTES = 64
EDGE = 8192  # bytes at the start and at the end of a file that its checksum covers
SHOWN = 20  # unreadable files that an error names


class UnreadableImages(RequestError):
    """The error for files that are no images. problems: for each file its path and the reason."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        if len(problems) == 1:
            message = f"data: {problems[0]}; repair or remove it, or set data.skip_unreadable=true"
        else:
            lines = [*problems[:SHOWN], *([f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else [])]
            message = (
                f"data: {len(problems):,} files are no readable images; repair or remove them, or set "
                "data.skip_unreadable=true:" + "".join(f"\n  {line}" for line in lines)
            )
        super().__init__(message, "data.root")


@dataclass(frozen=True)
class Decoder:
    """Decodes images to uint8 tensors of one shape.

    An image is turned upright by its EXIF orientation, laid over the background where it is transparent, converted to
    8 bits for each channel, and resized (bilinear, antialiased). Of an animation or a file of several pages, the first
    one is taken.

    shape: (channels, height, width), with 1 channel for grey and 3 for RGB. background: a colour as Pillow names it,
    such as "white" or "#808080". draft: decode a JPEG at the smallest of 1/8, 1/4 and 1/2 of its size that is not
    below `shape`, which is faster and gives slightly different pixels. Raises RequestError for any other shape or
    background.
    """

    shape: tuple[int, ...]
    background: str = "white"
    draft: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or self.shape[0] not in (1, 3) or min(self.shape) < 1:
            raise RequestError(
                f"data.shape is {list(self.shape)}; images take [channels, height, width] with 1 or 3 channels",
                "data.shape",
            )
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"data.background is {self.background!r}; it takes a colour, as white or '#808080'", "data.background"
            ) from error

    def file(self, path: str) -> Tensor:
        """Return the image in a file, uint8 of `shape`. Raises UnreadableImages if that fails."""
        try:
            with open_image(path) as image:
                return self.image(image)
        except Exception as error:
            raise _unreadable(path, error) from error

    def size(self, path: str) -> tuple[int, int]:
        """Return the height and the width of an upright image by its header. Raises UnreadableImages."""
        try:
            with open_image(path) as image:
                width, height = upright_size(image)
                return height, width
        except Exception as error:
            raise _unreadable(path, error) from error

    def check(self, path: str) -> int:
        """Return a CRC-32 of the size, the first and the last bytes of a file, which is all of a file below 16 kB.

        Raises UnreadableImages if it is no image. No more is read if the end of an image is there.
        """
        try:
            with open_image(path) as image, open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = file.read(EDGE)
                file.seek(max(EDGE, size - EDGE))
                end = file.read()
                if ENDINGS.get(image.format or "", b"") not in (start + end)[-ENDING_BYTES:]:
                    image.load()
                return zlib.crc32(start + end, size % 2**32)
        except Exception as error:
            raise _unreadable(path, error) from error

    def image(self, image: Image.Image) -> Tensor:
        """Return an image, uint8 of `shape`. Raises ValueError for pixels whose range is unknown."""
        channels, height, width = self.shape
        if self.draft:
            image.draft(None, (max(height, width),) * 2)  # the image may be turned
        image.load()
        turn = turn_of(image)
        image = self._opaque(_eight_bits(image)).convert("L" if channels == 1 else "RGB")
        if turn is not None:
            image = image.transpose(turn)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1).contiguous()

    def _opaque(self, image: Image.Image) -> Image.Image:
        """Return an image without transparency, laid over the background where it has some."""
        if image.has_transparency_data:
            ground = Image.new("RGBA", image.size, ImageColor.getrgb(self.background)[:3])
            image = Image.alpha_composite(ground, image.convert("RGBA"))
        return image if image.mode in ("1", "L", "YCbCr") else image.convert("RGB")  # LAB has no other way to grey


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how an image is turned upright, None if it is upright."""
    with suppress(Exception):  # many files have a damaged EXIF block, and every viewer shows them
        return TURNS.get(image.getexif().get(Base.Orientation, 1))
    return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and the height that an image has when it is turned upright."""
    width, height = image.size
    return (height, width) if turn_of(image) in QUARTER_TURNS else (width, height)


def _unreadable(path: str, error: Exception) -> UnreadableImages:
    reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
    return UnreadableImages(f"{path} is no readable image ({reason})")


def open_image(path: str) -> Image.Image:
    """Return the image in a file, of which the header is read. Raises OSError for a file that may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")
    return Image.open(path, formats=_formats())


@cache
def _formats() -> list[str]:
    """Return the formats that Pillow reads by itself; EPS is left out, because Pillow starts Ghostscript for it."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits for each channel where Pillow's own conversion would clip values or warn.

    Raises ValueError for signed and 32-bit integers, which have no usual range, and for floats outside of 0 to 1.
    """
    if image.mode == "P":
        return image.convert("RGBA")
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails
            raise ValueError(f"its floats go from {values.min():g} to {values.max():g}; they have to be from 0 to 1")
        return Image.fromarray((values * 255).round().astype(np.uint8))
    if not image.mode.startswith("I"):
        return image
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # where Pillow returns 16 bits in this mode
        raise ValueError("signed and 32-bit integers have no usual range; save it with 8 or 16 bits")
    values = np.asarray(image)
    bits = getattr(image, "tag_v2", {}).get(Base.BitsPerSample, (16,))[0]  # a TIFF may have 12
    grey = Image.fromarray((values / (2**bits - 1) * 255).clip(0, 255).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey

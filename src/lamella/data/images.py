"""Image files that are decoded to uint8 tensors."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lamella.errors import RequestError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class ImageFiles:
    """Image files that are decoded when they are indexed, to uint8 (B, *shape).

    shape: (channels, height, width), with 1 channel for grey and 3 for RGB. Images of another size are resized
    (bilinear, antialiased). Raises RequestError for any other shape.
    """

    def __init__(self, paths: Sequence[str], shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
            raise RequestError(
                f"data.shape is {list(shape)}; images take [channels, height, width] with 1 or 3 channels", "data.shape"
            )
        self.paths = np.array(paths)  # one block of memory, which forked workers share
        self.shape = tuple(shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images with these indices, decoded."""
        return torch.stack([self.decode(str(path)) for path in self.paths[indices.numpy()]])

    def take(self, indices: Tensor) -> "ImageFiles":
        """Return a selection of the files."""
        return ImageFiles(self.paths[indices.numpy()], self.shape)

    def decode(self, path: str) -> Tensor:
        """Return one image, uint8 (channels, height, width). Raises RequestError with the path if that fails."""
        try:
            with Image.open(path, formats=_formats()) as file:
                return image_pixels(file, self.shape)
        except Exception as error:
            raise RequestError(
                f"data: {path} is no readable image ({error}); mend or remove it", "data.root"
            ) from error

    def load(self, out: Tensor | None = None) -> Tensor:
        """Return all images, uint8 (N, *shape). out: a uint8 tensor of as many numbers that they are written to."""
        out = torch.empty(len(self), *self.shape, dtype=torch.uint8) if out is None else out.view(-1, *self.shape)
        with ThreadPoolExecutor() as pool:
            for number, image in enumerate(pool.map(self.decode, map(str, self.paths))):
                out[number] = image
        return out

    def check(self) -> None:
        """Raise RequestError if one of the images cannot be decoded."""
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(self.decode, map(str, self.paths)):
                pass


def image_pixels(image: Image.Image, shape: Sequence[int]) -> Tensor:
    """Return an image of any size and mode as uint8 of `shape`: (channels, height, width) with 1 channel or 3."""
    channels, height, width = shape
    image = _eight_bits(image).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1).contiguous()


@cache
def _formats() -> list[str]:
    """Return the formats that Pillow reads by itself; EPS is left out, because Pillow starts Ghostscript for it."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits for each channel where Pillow's own conversion would clip values or warn."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        return Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGBA") if image.mode == "P" else image

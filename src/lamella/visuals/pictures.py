"""Draw pictures: samples with captions, a confusion matrix, and the weights of a layer."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LARGE = 84  # pixels; smaller images are enlarged to this size, so that a caption fits below, or to half of it without
LINE = 14  # the height of a line of text in pixels
CELL = 34  # the side of a named cell of a confusion matrix in pixels
NAMED = 30  # the largest number of classes for which names and counts are readable
WHOLE = 900  # the side of a confusion matrix without names in pixels
MOST = 64  # the largest number of weights that are drawn as images
RIGHT, WRONG = (23, 92, 50), (178, 34, 34)  # the darkest colours of the cells: green on the diagonal, red elsewhere


def image_grid(images: Tensor, captions: Sequence[str] = (), title: str = "", columns: int = 8) -> Image.Image:
    """Draw images side by side, each with its caption.

    images: (N, channels, height, width) with values from 0 to 1.
    """
    count, channels, height, width = images.shape
    scale = max(1, -(-(LARGE if captions else LARGE // 2) // max(height, width)))
    pixels = (images.clamp(0, 1) * 255).to(torch.uint8).cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    columns = min(columns, count)
    cell_width, cell_height = width * scale + 4, height * scale + 4 + (LINE if captions else 0)
    top = LINE + 4 if title else 0
    mode = "L" if channels == 1 else "RGB"
    canvas = Image.new(mode, (columns * cell_width, top + -(-count // columns) * cell_height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    pen.text((2, 2), title, "black", font)
    for number, image in enumerate(pixels):
        x, y = number % columns * cell_width, top + number // columns * cell_height
        canvas.paste(Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()), (x + 2, y + 2))
        if captions:
            pen.text((x + 2, y + height * scale + 3), captions[number], "black", font)
    return canvas


def confusion_picture(matrix: Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw a confusion matrix, in which a cell is the darker the larger its share of the row is.

    Up to NAMED classes, the picture shows the names and the counts. matrix: counts (K, K); rows are true, columns
    predicted.
    """
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    if len(classes) > NAMED:
        side = max(2, WHOLE // len(classes))
        canvas, left, top = _matrix_canvas(len(classes) * side, margin=6)
        cells = _colours(shares).repeat_interleave(side, 0).repeat_interleave(side, 1)
        canvas.paste(Image.fromarray(cells.numpy()), (left, top))
        return canvas
    font = ImageFont.load_default(11)
    canvas, left, top = _matrix_canvas(
        len(classes) * CELL, margin=int(max(font.getlength(name) for name in classes)) + 10
    )
    pen = ImageDraw.Draw(canvas)
    for number, name in enumerate(classes):
        pen.text((left - 4, top + (number + 0.5) * CELL), name, "black", font, anchor="rm")
        _draw_upright(canvas, name, int(left + (number + 0.5) * CELL), top - 4, font)
    for row, colours in enumerate(_colours(shares).tolist()):
        for column, colour in enumerate(colours):
            x, y = left + column * CELL, top + row * CELL
            pen.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=tuple(colour), outline="#dddddd")
            if count := int(matrix[row, column]):
                ink = "white" if shares[row, column] > 0.5 else "black"
                pen.text((x + CELL / 2, y + CELL / 2), str(count), ink, font, anchor="mm")
    return canvas


def _matrix_canvas(side: int, margin: int) -> tuple[Image.Image, int, int]:
    """Return a canvas with a heading, and the left and the top of the square on it where a matrix goes.

    side: of the square. margin: the room for the names of the classes, at the left and above.
    """
    left, top = margin + LINE, margin + LINE * 2
    canvas = Image.new("RGB", (left + side + 4, top + side + 4), "white")
    ImageDraw.Draw(canvas).text((2, 2), "true (down), predicted (across)", "black", ImageFont.load_default(11))
    return canvas, left, top


def _colours(shares: Tensor) -> Tensor:
    """Return the colours of cells, uint8 (K, K, 3), for their shares (K, K): white for 0, dark for 1."""
    count = len(shares)
    darkest = torch.tensor(WRONG).repeat(count, count, 1)
    darkest[range(count), range(count)] = torch.tensor(RIGHT)
    return (255 - shares.cpu().double()[..., None] * (255 - darkest)).to(torch.uint8)


def weight_picture(weight: Tensor, shape: Sequence[int]) -> Image.Image | None:
    """Draw the weights of a first layer as images, and return None where they cannot be seen as images.

    The smallest of all weights is black, the largest white. weight: of a convolution (out, channels, height, width), or
    of a Linear layer (out, features) over images of `shape` (channels, height, width).
    """
    if weight.dim() == 2 and len(shape) == 3 and weight.shape[1] == np.prod(shape):
        weight = weight.view(-1, *shape)
    if weight.dim() != 4 or weight.shape[1] not in (1, 3):
        return None
    weight = weight[:MOST].detach().float()
    low, high = weight.aminmax()
    return image_grid((weight - low) / (high - low).clamp(min=1e-12), title=f"weights from {low:.3f} to {high:.3f}")


def _draw_upright(
    canvas: Image.Image, text: str, x: int, bottom: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    """Draw text that reads upwards, centred at `x` and ending at `bottom`."""
    length = int(font.getlength(text)) + 1
    label = Image.new("RGB", (length, LINE), "white")
    ImageDraw.Draw(label).text((0, 0), text, "black", font)
    canvas.paste(label.rotate(90, expand=True), (x - LINE // 2, bottom - length))

"""Pictures: samples with captions, a confusion matrix, the weights of a layer."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LARGE = 84  # pixels; smaller images are enlarged to it, so that a caption fits below, or to half of it without
LINE = 14  # pixels of a line of text
CELL = 34
NAMED = 30  # classes; beyond, names and counts would not be readable
MOST = 64  # images of weights


def image_grid(images: Tensor, captions: Sequence[str] = (), title: str = "", columns: int = 8) -> Image.Image:
    """Images (N, channels, height, width) with values from 0 to 1, side by side, each with its caption."""
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
    """Counts (K, K), a row for each true class and a column for each predicted one; the darker the larger its share."""
    count = len(classes)
    named = count <= NAMED
    cell = CELL if named else max(2, 900 // count)
    font = ImageFont.load_default(11)
    margin = int(max(font.getlength(name) for name in classes)) + 10 if named else 6
    top = LINE * 2 + margin
    canvas = Image.new("RGB", (margin + LINE + count * cell + 4, top + count * cell + 4), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((2, 2), "true (down), predicted (across)", "black", font)
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    left = margin + LINE
    if not named:
        # Too many cells to draw one by one.
        high = torch.tensor([178, 34, 34]).repeat(count, count, 1)
        high[range(count), range(count)] = torch.tensor([23, 92, 50])
        colours = (255 - shares.cpu()[..., None] * (255 - high)).to(torch.uint8)
        cells = colours.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        canvas.paste(Image.fromarray(cells.numpy()), (left, top))
        return canvas
    for row in range(count):
        if named:
            pen.text((left - 4, top + (row + 0.5) * cell), classes[row], "black", font, anchor="rm")
            _upright(canvas, classes[row], int(left + (row + 0.5) * cell), top - 4, font)
        for column in range(count):
            share = float(shares[row, column])
            colour = tuple(
                int(255 - share * (255 - shade)) for shade in ((23, 92, 50) if row == column else (178, 34, 34))
            )
            x, y = left + column * cell, top + row * cell
            pen.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour, outline="#dddddd" if named else None)
            number = int(matrix[row, column])
            if named and number:
                pen.text(
                    (x + cell / 2, y + cell / 2), str(number), "white" if share > 0.5 else "black", font, anchor="mm"
                )
    return canvas


def weight_picture(weight: Tensor, shape: Sequence[int]) -> Image.Image | None:
    """The weights of a first layer as images, None where they are none.

    weight: of a convolution (out, channels, height, width), or of a Linear (out, features) over images of `shape`
    (channels, height, width). One scale for all: black is the smallest weight, white the largest.
    """
    if weight.dim() == 2 and len(shape) == 3 and weight.shape[1] == np.prod(shape):
        weight = weight.view(-1, *shape)
    if weight.dim() != 4 or weight.shape[1] not in (1, 3):
        return None
    weight = weight[:MOST].detach().float()
    low, high = weight.aminmax()
    return image_grid((weight - low) / (high - low).clamp(min=1e-12), title=f"weights from {low:.3f} to {high:.3f}")


def _upright(
    canvas: Image.Image, text: str, x: int, bottom: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    length = int(font.getlength(text)) + 1
    label = Image.new("RGB", (length, LINE), "white")
    ImageDraw.Draw(label).text((0, 0), text, "black", font)
    canvas.paste(label.rotate(90, expand=True), (x - LINE // 2, bottom - length))

"""Draw pictures: samples with captions, a confusion matrix, and the weights of a layer."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lamella.data.masks import class_colours

CARD = 350  # pixels; the width at which TensorBoard shows a picture, so that text is readable in pictures of this width
LARGE = 84  # pixels; smaller images are enlarged to this size, so that a caption fits below, or to half of it without
FONT = 11  # the height of letters in pixels
CELL = 24  # the smallest side of a named cell of a confusion matrix in pixels
LARGEST_CELL = 60
NAMED = 30  # the largest number of classes for which names and counts are readable
WHOLE = 900  # the side of a confusion matrix without names in pixels
MOST = 64  # the largest number of weights that are drawn as images
RIGHT, WRONG = (23, 92, 50), (178, 34, 34)  # the darkest colours of the cells: green on the diagonal, red elsewhere
HEADING = "true (down), predicted (across)"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def image_grid(images: Tensor, captions: Sequence[Sequence[str]] = (), title: str = "", panels: int = 1) -> Image.Image:
    """Draw images side by side, four in a row with captions below, or eight without.

    images: (N, channels, height, width) with values from 0 to 1. captions: the lines below each image, each of which is
    shortened to the width of the image. panels: how many pictures each image consists of, side by side; so many fewer
    images are in a row.
    """
    count, channels, height, width = images.shape
    scale = max(1, -(-(LARGE if captions else LARGE // 2) // max(height, width // panels)))
    across = max(1, (4 if captions else 8) // panels)
    pixels = (images.clamp(0, 1) * 255).to(torch.uint8).cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    columns, lines = min(across, count), max(map(len, captions), default=0)
    # TensorBoard shrinks a wide picture, and the letters with it.
    cell_width = max(width * scale, LARGE if captions else 0) + 4
    size = max(FONT, cell_width * across * FONT // CARD) if captions else FONT
    font, line = ImageFont.load_default(size), size + 3
    cell_height = height * scale + 4 + lines * line
    top = line + 4 if title else 0
    canvas_width = max(columns * cell_width, int(font.getlength(title)) + 4)
    mode = "L" if channels == 1 else "RGB"
    canvas = Image.new(mode, (canvas_width, top + -(-count // columns) * cell_height), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((2, 2), title, "black", font)
    for number, image in enumerate(pixels):
        x, y = number % columns * cell_width + 2, top + number // columns * cell_height + 2
        canvas.paste(Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()), (x, y))
        for place, text in enumerate(captions[number] if captions else ()):
            pen.text((x, y + height * scale + place * line), _shortened(text, cell_width - 4, font), "black", font)
    return canvas


def mask_images(masks: Tensor, ignored: int) -> Tensor:
    """Return masks (N, height, width) of class indices in colours (N, 3, height, width), with values from 0 to 1.

    ignored: the index of pixels that do not count, which get the colour of 255.
    """
    masks = torch.where(masks == ignored, 255, masks.long()).cpu()
    return class_colours(max(256, int(masks.max()) + 1))[masks].movedim(-1, 1) / 255


def with_legend(picture: Image.Image, classes: Sequence[str]) -> Image.Image:
    """Draw the colours and the names of the classes of masks above a picture, as many as fit into its width."""
    font, line = ImageFont.load_default(FONT), FONT + 6
    canvas = Image.new("RGB", (picture.width, picture.height + line), "white")
    canvas.paste(picture, (0, line))
    pen, x = ImageDraw.Draw(canvas), 2
    for name, colour in zip(drawable_names(classes), class_colours(len(classes)).tolist(), strict=True):
        width = FONT + 4 + int(font.getlength(name))
        if x + width > picture.width:
            break
        pen.rectangle((x, 3, x + FONT - 1, FONT + 2), fill=tuple(colour))
        pen.text((x + FONT + 3, 2), name, "black", font)
        x += width + 8
    return canvas


def confusion_picture(matrix: Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw a confusion matrix, in which a cell is the darker the larger its share of the row is.

    Up to NAMED classes, the picture shows the names and the counts. matrix: counts (K, K); rows are true, columns
    predicted.
    """
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    count = len(classes)
    if count > NAMED:
        side = max(2, WHOLE // count)
        canvas, left, top = _matrix_canvas(count * side, margin=6)
        cells = _colours(shares).repeat_interleave(side, 0).repeat_interleave(side, 1)
        canvas.paste(Image.fromarray(cells.numpy()), (left, top))
        return canvas
    font = ImageFont.load_default(FONT)
    names = [_shortened(name, CARD // 4, font) for name in drawable_names(classes)]
    margin = int(max(map(font.getlength, names))) + 10
    cell = max(CELL, min(LARGEST_CELL, (CARD - margin - 4) // count))
    canvas, left, top = _matrix_canvas(count * cell, margin)
    pen = ImageDraw.Draw(canvas)
    for number, name in enumerate(names):
        pen.text((left - 4, top + (number + 0.5) * cell), name, "black", font, anchor="rm")
        _draw_upright(canvas, name, int(left + (number + 0.5) * cell), top - 4, font)
    for row, colours in enumerate(_colours(shares).tolist()):
        for column, colour in enumerate(colours):
            x, y = left + column * cell, top + row * cell
            pen.rectangle((x, y, x + cell - 1, y + cell - 1), fill=tuple(colour), outline="#dddddd")
            if samples := int(matrix[row, column]):
                ink = "white" if shares[row, column] > 0.5 else "black"
                text = str(samples) if samples < 1000 else f"{samples / 1000:.0f}k"
                pen.text((x + cell / 2, y + cell / 2), text, ink, font, anchor="mm")
    return canvas


def drawable_names(classes: Sequence[str]) -> list[str]:
    """Return for each class a name that the font of the pictures can show: "cafe" for "café", "class 3" for "運動"."""
    plain = [unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip() for name in classes]
    counts = Counter(plain)
    # A name that lost its letters, and names that have become equal, are told apart by the number of the class.
    return [
        f"class {number}" if not any(map(str.isalnum, name)) else name if counts[name] == 1 else f"{name} ({number})"
        for number, name in enumerate(plain)
    ]


def _shortened(text: str, width: float, font: Font) -> str:
    """Return a text that is at most `width` pixels wide, with dots in place of its end if it is longer."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _matrix_canvas(side: int, margin: int) -> tuple[Image.Image, int, int]:
    """Return a canvas with a heading, and the left and the top of the square on it where a matrix goes.

    side: of the square. margin: the room for the names of the classes, at the left and above.
    """
    font, left, top = ImageFont.load_default(FONT), margin, margin + FONT + 6
    width = max(left + side, int(font.getlength(HEADING)) + 2)
    canvas = Image.new("RGB", (width + 4, top + side + 4), "white")
    ImageDraw.Draw(canvas).text((2, 2), HEADING, "black", font)
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


def _draw_upright(canvas: Image.Image, text: str, x: int, bottom: int, font: Font) -> None:
    """Draw text that reads upwards, centred at `x` and ending at `bottom`."""
    length, height = int(font.getlength(text)) + 1, FONT + 3
    label = Image.new("RGB", (length, height), "white")
    ImageDraw.Draw(label).text((0, 0), text, "black", font)
    canvas.paste(label.rotate(90, expand=True), (x - height // 2, bottom - length))

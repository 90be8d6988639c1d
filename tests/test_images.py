"""Image files: that each kind of file gives the pixels that a viewer shows, or is refused by its name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from conftest import Lamella
from PIL import Image
from torch import Tensor

from lamella.data.decoder import Decoder, UnreadableImages
from lamella.errors import RequestError

SIZE = 24
# A picture without symmetry: bright above on the left, darker to the right and below.
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE]
GREY = (255 - 4 * ROWS - 5 * COLUMNS).clip(0, 255).astype(np.uint8)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], -1)
INSIDE = (abs(ROWS - 12) < 6) & (abs(COLUMNS - 12) < 6)  # where a transparent picture is opaque
ALPHA = np.where(INSIDE, 255, 0).astype(np.uint8)
ON_WHITE = np.where(INSIDE[..., None], COLOUR, 255).astype(np.uint8)
GREY_ON_WHITE = np.where(INSIDE, GREY, 255).astype(np.uint8)
BLACK_ON_WHITE = np.where(INSIDE, 0, 255).astype(np.uint8)


def grey(values: np.ndarray = GREY) -> Image.Image:
    return Image.fromarray(values)


def colour(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(COLOUR).convert(mode)


def with_alpha(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putalpha(Image.fromarray(ALPHA))
    return image


def palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(BLACK_ON_WHITE).convert("P")
    if transparent:  # the colour that is white becomes transparent, and is red underneath
        index = image.getpixel((0, 0))
        image.putpalette([255, 0, 0] * 255 + [255, 0, 0])
        image.putpalette([*([0, 0, 0] * 255), 255, 0, 0] if index == 255 else [255, 0, 0] + [0, 0, 0] * 255)
        image.info["transparency"] = index
    return image


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The picture as a camera stores it that was held another way, with the tag that says how."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = colour()
    return (image.transpose(back[orientation]) if orientation in back else image), exif


def lab() -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    image = ImageCms.applyTransform(colour(), transform)
    assert image is not None
    return image


def save_animation(path: Path, **options: Any) -> None:
    colour().save(path, save_all=True, append_images=[Image.new("RGB", (SIZE, SIZE))], **options)


def save_turned(path: Path, orientation: int) -> None:
    image, exif = turned(orientation)
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    image.save(path, exif=exif, **options)


def save_cut(path: Path) -> None:
    colour().save(path)
    path.write_bytes(path.read_bytes()[:-200])


SIXTEEN = GREY.astype(np.uint16) * 257
LOSSY = 12  # the largest difference that a lossy format may make
# By the name of the file: how it is written, the picture that it shows, and the largest difference.
FILES: dict[str, tuple[Callable[[Path], object], np.ndarray, int]] = {
    "1.png": (lambda path: grey(BLACK_ON_WHITE).convert("1").save(path), BLACK_ON_WHITE, 0),
    "L.png": (lambda path: grey().save(path), GREY, 0),
    "L.bmp": (lambda path: grey().save(path), GREY, 0),
    "L.pgm": (lambda path: grey().save(path), GREY, 0),
    "L.gif": (lambda path: grey().save(path), GREY, 0),
    "L.jpg": (lambda path: grey().save(path, quality=100), GREY, LOSSY),
    "L-transparent.png": (lambda path: grey(BLACK_ON_WHITE).save(path, transparency=0), np.full_like(GREY, 255), 0),
    "LA.png": (lambda path: with_alpha(GREY).save(path), GREY_ON_WHITE, 0),
    "LA.tif": (lambda path: with_alpha(GREY).save(path), GREY_ON_WHITE, 0),
    "P.png": (lambda path: palette(False).save(path), BLACK_ON_WHITE, 0),
    "P-transparent.png": (lambda path: palette(True).save(path), BLACK_ON_WHITE, 0),
    "P-transparent.gif": (lambda path: palette(True).save(path), BLACK_ON_WHITE, 0),
    "RGB.png": (lambda path: colour().save(path), COLOUR, 0),
    "RGB.ppm": (lambda path: colour().save(path), COLOUR, 0),
    "RGB.bmp": (lambda path: colour().save(path), COLOUR, 0),
    "RGB.tif": (lambda path: colour().save(path, compression="tiff_lzw"), COLOUR, 0),
    "RGB.jpg": (lambda path: colour().save(path, quality=100, subsampling=0), COLOUR, LOSSY),
    "RGB.webp": (lambda path: colour().save(path, lossless=True), COLOUR, 0),
    "RGB-transparent.png": (
        lambda path: grey(BLACK_ON_WHITE).convert("RGB").save(path, transparency=(0, 0, 0)),
        np.full_like(GREY, 255),
        0,
    ),
    "RGBA.png": (lambda path: with_alpha(COLOUR).save(path), ON_WHITE, 0),
    "RGBA.tif": (lambda path: with_alpha(COLOUR).save(path), ON_WHITE, 0),
    "RGBA.webp": (lambda path: with_alpha(COLOUR).save(path, lossless=True), ON_WHITE, 0),
    "black-on-nothing.png": (lambda path: with_alpha(np.zeros_like(COLOUR)).save(path), BLACK_ON_WHITE, 0),
    "CMYK.jpg": (lambda path: colour("CMYK").save(path, quality=100), COLOUR, LOSSY),
    "CMYK.tif": (lambda path: colour("CMYK").save(path), COLOUR, 0),
    "YCbCr.tif": (lambda path: colour("YCbCr").save(path), COLOUR, 3),
    "LAB.tif": (lambda path: lab().save(path), COLOUR, 12),
    "I;16.png": (lambda path: grey(SIXTEEN).save(path), GREY, 0),
    "I;16.tif": (lambda path: grey(SIXTEEN).save(path), GREY, 0),
    "I;16B.tif": (lambda path: grey(SIXTEEN.astype(">u2")).save(path), GREY, 0),
    "I;16-transparent.png": (
        lambda path: grey(BLACK_ON_WHITE.astype(np.uint16) * 257).save(path, transparency=0),
        np.full_like(GREY, 255),
        0,
    ),
    "16-bits.pgm": (
        lambda path: path.write_bytes(b"P5 24 24 65535\n" + SIXTEEN.astype(">u2").tobytes()),
        GREY,
        0,
    ),
    "10-bits.pgm": (
        lambda path: path.write_bytes(b"P5 24 24 1023\n" + (GREY.astype(np.uint16) * 4).astype(">u2").tobytes()),
        GREY,
        1,
    ),
    "F.tif": (lambda path: grey(GREY.astype(np.float32) / 255).save(path), GREY, 0),
    "animated.gif": (save_animation, COLOUR, 60),  # of at most 256 colours
    "animated.png": (save_animation, COLOUR, 0),
    "animated.webp": (lambda path: save_animation(path, lossless=True), COLOUR, 0),
    "pages.tif": (save_animation, COLOUR, 0),
    **{f"turned-{n}.jpg": (lambda path, n=n: save_turned(path, n), COLOUR, LOSSY) for n in range(1, 9)},  # type: ignore[misc]
    "turned-6.png": (lambda path: save_turned(path, 6), COLOUR, 0),
    "turned-6.tif": (lambda path: save_turned(path, 6), COLOUR, 0),
    "turned-8.webp": (lambda path: save_turned(path, 8), COLOUR, LOSSY * 3),
}
if int(PIL.__version__.partition(".")[0]) < 13:  # it cannot read the file that it writes
    del FILES["YCbCr.tif"]
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "I.tif": (lambda path: Image.fromarray(GREY.astype(np.int32)).save(path), "signed and 32-bit integers have no"),
    "F-255.tif": (lambda path: grey(GREY.astype(np.float32)).save(path), "its floats go from 48 to 255"),
    "F-nan.tif": (lambda path: grey(np.full((4, 4), np.nan, np.float32)).save(path), "its floats go from nan"),
    "text.png": (lambda path: path.write_text("no picture"), "cannot identify image file"),
    "cut.jpg": (lambda path: save_cut(path), "runcated"),
    "empty.png": (lambda path: path.touch(), "cannot identify image file"),
    "pipe.png": (lambda path: os.mkfifo(path), "it is no regular file"),
    "nowhere.png": (lambda path: path.symlink_to("gone"), "No such file or directory"),
}


def decoded(path: Path, channels: int = 3, **options: object) -> np.ndarray:
    pixels: Tensor = Decoder((channels, SIZE, SIZE), **options).file(str(path))  # type: ignore[arg-type]
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_what_viewers_show(tmp_path: Path, name: str) -> None:
    write, shown, tolerance = FILES[name]
    write(tmp_path / name)
    Decoder((3, SIZE, SIZE)).check(str(tmp_path / name))
    rgb = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, -1)
    for channels, picture in ((3, Image.fromarray(rgb)), (1, Image.fromarray(rgb).convert("L"))):
        expected = np.asarray(picture).reshape(SIZE, SIZE, channels).astype(int)
        assert abs(decoded(tmp_path / name, channels) - expected).max() <= tolerance + (tolerance > 0)


def test_files_that_cannot_be_read_are_named(lamella: Lamella, run: Path) -> None:
    """By `predict` too, which goes on with the others; nothing waits for a pipe."""
    Path("pictures").mkdir()
    for name, (write, reason) in REFUSED.items():
        path = Path("pictures", name)
        write(path)
        with pytest.raises(UnreadableImages) as caught:
            decoded(path)
        assert str(path) in str(caught.value)
        assert reason in str(caught.value)
    for name, (write, *_) in FILES.items():
        write(Path("pictures", name))
    files = list(Path("pictures").iterdir())
    result = lamella("predict", str(run), "pictures", "pictures/pipe.png", "--out", "out.csv")
    assert result.status == 1
    skipped = [line for line in result.err.splitlines() if line.startswith("skipped: ")]
    assert sorted(line.split()[1] for line in skipped) == sorted(f"pictures/{name}" for name in REFUSED)
    assert f"error: {len(REFUSED)} of {len(files)} files cannot be read as images" in result.err
    assert len(Path("out.csv").read_text().splitlines()) == 1 + len(FILES)


def test_the_background_shows_through(tmp_path: Path) -> None:
    with_alpha(COLOUR).save(tmp_path / "x.png")
    for name, value in (("black", (0, 0, 0)), ("#ff8000", (255, 128, 0))):
        expected = np.where(INSIDE[..., None], COLOUR, np.array(value))
        assert np.array_equal(decoded(tmp_path / "x.png", background=name), expected)
    with pytest.raises(RequestError, match=r"data\.background is 'blak'; it takes a colour"):
        Decoder((3, 8, 8), background="blak")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_passed_over(tmp_path: Path) -> None:
    colour().save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=100, subsampling=0)
    assert abs(decoded(tmp_path / "x.jpg") - COLOUR.astype(int)).max() <= LOSSY


def test_a_draft_is_smaller_and_much_the_same(tmp_path: Path) -> None:
    large = Image.fromarray(COLOUR).resize((40 * SIZE, 30 * SIZE), Image.Resampling.BICUBIC)
    large.save(tmp_path / "x.jpg", quality=95)
    whole, draft = (decoded(tmp_path / "x.jpg", draft=draft).astype(int) for draft in (False, True))
    assert 0 < abs(whole - draft).max() <= LOSSY
    with Image.open(tmp_path / "x.jpg") as image:
        Decoder((3, SIZE, SIZE), draft=True).image(image)
        assert image.size == (5 * SIZE, 30 * SIZE // 8)


def test_images_given_in_python_are_decoded_alike(tmp_path: Path) -> None:
    for name in ("turned-6.jpg", "RGBA.png", "I;16.png"):
        FILES[name][0](tmp_path / name)
        decoder = Decoder((3, SIZE, SIZE))
        with Image.open(tmp_path / name) as image:
            assert torch.equal(decoder.image(image), decoder.file(str(tmp_path / name)))

"""Networks that give pictures or several labels: masks of files and made ones, autoencoders, labels."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Lamella, Shared
from killed import kill_and_resume
from PIL import Image
from programs import run as run_program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

import lamella as package
from lamella.data import (
    Augment,
    Crop,
    Data,
    Erase,
    External,
    Flip,
    Rotate,
    Samples,
    Splits,
    digit_labels,
    digits,
    masks,
    shapes,
)
from lamella.data.augmentation import Listed
from lamella.data.masks import class_colours
from lamella.errors import RequestError

CLASSES = ["ground", "disc", "square", "triangle"]
FILES = ("data=masks", "data.root=town", "data.classes=[ground,disc,square,triangle]", "data.shape=[3,16,16]")
SMALL = ("network=unet", "network.width=4", "trainer.max_epochs=2", "device.threads=1", "data.batch_size=8")


def write_masks(root: Path, count: int = 24, size: int = 16) -> None:
    """Write made pictures and their masks: root/images/<number>.png and root/masks/<number>.png."""
    samples = shapes(count, size).train
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    assert isinstance(samples.inputs, Tensor)
    for number, (image, mask) in enumerate(zip(samples.inputs, samples.targets, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / f"images/{number:02}.png")
        Image.fromarray(mask.numpy()).save(root / f"masks/{number:02}.png")


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """24 pictures with their masks, in town/ in the working directory."""
    write_masks(tmp_path / "town")
    return tmp_path / "town"


def read(root: Path, shape: tuple[int, ...] = (3, 16, 16), **options: Any) -> Splits:
    return masks(str(root), shape, CLASSES, **options)


def test_masks_are_read_as_the_indices_that_were_written(town: Path) -> None:
    expected = shapes(24, 16).train
    found = read(town).train
    assert found.targets.dtype == torch.uint8
    assert torch.equal(found.targets, expected.targets)
    assert torch.equal(found.inputs[torch.arange(24)], expected.inputs)  # type: ignore[index, arg-type]
    half = read(town, (3, 8, 8)).train.targets
    assert torch.equal(half, expected.targets[:, 1::2, 1::2])


@pytest.mark.parametrize("mode", ["P", "I;16", "1"])
def test_masks_of_each_mode_are_read(town: Path, mode: str) -> None:
    expected = read(town).train.targets
    if mode == "1":
        expected = (expected > 0).byte()
    for number, mask in enumerate(expected.numpy()):
        picture = Image.fromarray(mask.astype(bool) if mode == "1" else mask.astype(np.uint16))
        if mode == "P":
            picture = Image.fromarray(mask)
            picture.putpalette(class_colours(256).flatten().tolist())
        assert picture.mode == mode
        picture.save(town / f"masks/{number:02}.png")
    assert torch.equal(read(town).train.targets, expected)


def test_splits_have_folders_of_their_own(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("val", 3), ("test", 2)):
        write_masks(tmp_path / "town" / name, count)
    found = read(tmp_path / "town")
    assert [len(part) for part in (found.train, found.val, found.test) if part] == [5, 3, 2]


def test_values_of_pixels_stand_for_classes(town: Path) -> None:
    for path in (town / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(RequestError, match=r"nothing but ground, and 255 does not count.*data.values=\[0,255\]"):
        masks(str(town), (3, 16, 16), ["ground", "thing"])
    targets = masks(str(town), (3, 16, 16), ["ground", "thing"], values=[0, 255]).train.targets
    assert torch.equal(targets, (shapes(24, 16).train.targets > 0).byte())


def test_classes_without_a_pixel_are_named(town: Path) -> None:
    assert masks(str(town), (3, 16, 16), [*CLASSES, "tree"]).notes == ["no training mask holds tree"]
    assert read(town).notes == []


def test_a_photo_that_is_turned_has_an_upright_mask(town: Path) -> None:
    """Cameras save a photo as it lay in the camera, and say in the file how it is turned."""
    image = Image.open(town / "images/00.png").crop((0, 0, 16, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(town / "images/00.png", exif=exif)
    Image.open(town / "masks/00.png").crop((0, 0, 10, 16)).save(town / "masks/00.png")
    assert len(read(town).train) == 24


def rewrite(name: str, change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    return lambda root: change(Image.open(root / name)).save(root / name)


def spoilt(mask: Image.Image) -> Image.Image:
    mask.putpixel((5, 3), 7)
    return mask


def as_jpeg(root: Path) -> None:
    Image.new("L", (16, 16), 9).save(root / "masks/03.jpg")
    (root / "masks/03.png").unlink()


def blacken(root: Path) -> None:
    """Make all masks nothing but ground."""
    for path in (root / "masks").iterdir():
        Image.new("L", (16, 16)).save(path)


MISTAKES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no mask": (
        lambda root: (root / "masks/03.png").rename(root / "masks/03_mask.png"),
        (),
        "town/images/03.png has no mask: there is no town/masks/03 with the ending of a picture, as .png; "
        "masks without an image: town/masks/03_mask.png\n",
    ),
    "no folder": (lambda root: (root / "masks").rename(root / "labels"), (), "there is no folder town/masks; put"),
    "another size": (
        rewrite("masks/03.png", lambda mask: mask.resize((8, 16))),
        (),
        "town/masks/03.png is 8×16, but its image town/images/03.png is 16×16; a mask has one pixel for each",
    ),
    "an unknown class": (
        rewrite("masks/03.png", spoilt),
        (),
        "town/masks/03.png has the value 7 at row 3, column 5; the classes are 0 ground, 1 disc, 2 square, 3 triangle, "
        "and 255 (data.ignored) does not count; name more data.classes",
    ),
    "colours": (
        rewrite("masks/03.png", lambda mask: mask.convert("RGB")),
        (),
        "town/masks/03.png has colours (RGB), and a mask holds the index of a class for each pixel; save it with one",
    ),
    "JPEG": (as_jpeg, (), "town/masks/03.jpg has the value 9 at row 0, column 0; "),
    "no picture": (lambda root: (root / "masks/03.png").write_text("x"), (), "town/masks/03.png is no readable mask ("),
    "two of one name": (
        lambda root: (root / "masks/03.bmp").write_bytes((root / "masks/03.png").read_bytes()),
        (),
        "town/masks/03.bmp and town/masks/03.png have the same name but for the ending; remove one",
    ),
    "too few values": (
        lambda root: None,
        ("data.values=[0,255]",),
        "it takes one value for each of the 4 data.classes",
    ),
    "an ignored class": (lambda root: None, ("data.ignored=2",), "data.ignored is 2, which is also the class square;"),
    "a loss of every pixel": (
        lambda root: None,
        ("loss=bce_with_logits",),
        "BCEWithLogitsLoss takes every target for a class, and 255 (data.ignored) is none; take loss=cross_entropy",
    ),
    "a network for samples": (
        lambda root: None,
        ("network=linear",),
        "network: it gives (4,) for a sample, where 4 classes for each of (16, 16) positions take (4, 16, 16)",
    ),
    "one class": (
        blacken,
        (),
        "data.root: the training masks hold nothing but ground",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused(lamella: Lamella, town: Path, name: str) -> None:
    spoil, options, message = MISTAKES[name]
    spoil(town)
    network = () if "network=linear" in options else SMALL
    result = lamella("train", *FILES, *network, *options)
    assert result.status == 2
    assert message in result.err
    assert len(result.err.splitlines()) <= 10
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.ignored=254", "data.source.size=8"], "data.source.size is 8; it takes 16 or more"),
        (["data.ignored=-100"], "data.ignored is -100; it takes a number from 4 to 255"),
    ],
)
def test_made_shapes_say_what_they_take(lamella: Lamella, options: list[str], message: str) -> None:
    result = lamella("train", "data=shapes", *SMALL, *options)
    assert (result.status, message in result.err) == (2, True), result.err


def test_made_shapes_depend_on_their_seed_alone() -> None:
    first, again, other = shapes(5).train, shapes(5).train, shapes(5, seed=1).train
    for part in ("inputs", "targets"):
        assert torch.equal(getattr(first, part), getattr(again, part))
        assert not torch.equal(getattr(first, part), getattr(other, part))
    assert set(shapes().train.targets.flatten().tolist()) == {0, 1, 2, 3, 255}


def served(augment: Sequence[Listed] | Augment, **options: Any) -> tuple[Tensor, Tensor]:
    """Images whose pixels are 60 times the class of the pixel, and the masks, as they are served together."""
    targets = shapes(60).train.targets
    targets[targets == 255] = 0
    data = Data(
        Splits(Samples((targets * 60)[:, None].expand(-1, 3, -1, -1).contiguous(), targets)),
        (3, 32, 32), 10, 4, val_size=10, test_size=10, augment=augment, ignored=255, std=1 / 255, **options,
    )  # fmt: skip
    data.check_keys()
    parts = [(batch[0], batch[1]) for batch in data.train_dataloader() if isinstance(batch, tuple)]
    inputs, masks = (torch.cat(one) for one in zip(*parts, strict=True))
    return inputs[:, 0], masks


def shifted(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A transform of one's own for images and masks."""
    by = int(torch.randint(9, ()))
    return image.roll(by, -1), mask.roll(by, -1)


@pytest.mark.parametrize(
    ("augment", "fills"),
    [
        ([Flip()], False),
        ([Crop(6)], True),
        ([Crop(6, reflect=True)], False),
        ([Crop(3), Flip(), Erase(1)], True),
        (Augment(crop=3, flip=True), True),
        ([External(v2.RandomCrop(32, padding=6))], True),
        ([External(v2.Compose([v2.RandomVerticalFlip(), v2.RandomHorizontalFlip()]))], False),
        ([External(shifted)], False),
        ([External(shifted, "batch")], False),
    ],
)
def test_images_and_masks_move_together(augment: Sequence[Listed] | Augment, fills: bool) -> None:
    plain, images, moved = served([])[1], *served(augment)
    assert not torch.equal(plain, moved)
    changed = images.round().long() != 60 * torch.where(moved == 255, 0, moved)
    assert changed.flatten(1).sum(1).max() <= ("Erase" in str(augment))
    assert bool((moved == 255).any()) == fills


@pytest.mark.parametrize(
    "augment",
    [
        [Rotate(30), Flip(), Crop(2)],
        Augment(rotation=30, flip=True, crop=2),
        [External(v2.RandomAffine(30, interpolation=InterpolationMode.BILINEAR))],
    ],
)
def test_images_and_masks_rotate_together(augment: Sequence[Listed] | Augment) -> None:
    images, moved = served(augment)
    near = (images / 60 - torch.where(moved == 255, 0, moved)).abs() < 0.6  # the images are interpolated
    assert near.float().mean() > 0.97
    assert 0.01 < (moved == 255).float().mean() < 0.3
    assert set(moved.flatten().tolist()) == {0, 1, 2, 3, 255}


class Brighter(Augment):
    """Changes images in a way of its own."""

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        return images + 1


class Greyer(Brighter):
    """Leaves masks as they are."""

    def masks(self, masks: Tensor, drawn: Tensor, ignored: int) -> Tensor:
        return masks


def test_an_augmentation_of_ones_own_says_what_becomes_of_masks() -> None:
    with pytest.raises(RequestError, match=r"a Brighter, which changes images.*masks\(masks, drawn, ignored\)"):
        served(Brighter())
    images, masks = served(Greyer())
    assert torch.equal(images.round().long(), 60 * masks + 1)


def test_pixels_that_come_into_a_mask_need_an_index(lamella: Lamella, town: Path) -> None:
    for path in (town / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 255, 0, mask)).save(path)
    result = lamella("train", *FILES, *SMALL, "data.ignored=-100", "data.augment=[{crop: 2}]")
    assert result.status == 2
    assert "data.augment brings pixels without a class into the masks, and data.ignored is -100" in result.err


@pytest.fixture(scope="session")
def segmented(shared: Shared) -> Path:
    """A finished run of a small U-Net on mask files, two epochs; not to be changed."""

    def fill(path: Path) -> None:
        write_masks(path / "town")
        run_program(path, "train", *FILES, *SMALL, "data.augment=[flip]")

    return next(shared("segmented", fill).glob("outputs/default/*"))


@pytest.mark.slow
def test_predicted_masks_are_pictures_of_the_size_of_their_images(
    lamella: Lamella, segmented: Path, tmp_path: Path
) -> None:
    photo = Image.open(segmented.parents[2] / "town/images/05.png").resize((40, 24))
    photo.save("photo.png")
    result = lamella("predict", str(segmented), "photo.png", "--out", "drawn")
    assert result.status == 0, result.err
    probabilities = package.load(segmented).predict(["photo.png"])
    assert probabilities.shape == (1, 4, 16, 16)
    assert torch.allclose(probabilities.sum(1), torch.ones(1, 16, 16))
    mask = Image.open("drawn/photo.png")
    assert (mask.mode, mask.size) == ("P", (40, 24))
    expected = Image.fromarray(probabilities[0].argmax(0).byte().numpy()).resize((40, 24), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(mask), np.asarray(expected))
    head, row = (line.split() for line in result.out.splitlines()[:2])
    assert head == ["file", *CLASSES]
    shares = [f"{float((probabilities.argmax(1) == index).float().mean()):.1%}" for index in range(4)]
    assert row == ["photo.png", *shares]
    assert package.load(segmented).predict([]).shape == (0, 4, 16, 16)


@pytest.mark.slow
def test_predicted_pictures_replace_nothing(lamella: Lamella, segmented: Path) -> None:
    Path("a").mkdir()
    for path in ("x.png", "a/x.jpg"):
        Image.new("RGB", (16, 16)).save(path)
    Path("full").write_text("")
    for files, out, message in (
        (["x.png", "a/x.jpg"], "drawn", "error: --out drawn: x.png and a/x.jpg would both give drawn/x.png; predict"),
        (["x.png"], ".", "error: --out .: x.png would be replaced; take another folder"),
        (["x.png"], "full", "error: --out full: its network gives pictures, and this is no folder for them"),
    ):
        result = lamella("predict", str(segmented), *files, "--out", out)
        assert result.status == 2
        assert result.err.startswith(message)


@pytest.mark.slow
def test_eval_inspect_and_export_know_masks(lamella: Lamella, segmented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(segmented.parents[2])  # where the data is
    out = Path("eval.json").absolute()
    result = lamella("eval", str(segmented), "--out", str(out))
    assert result.status == 0, result.err
    found = json.loads(out.read_text())
    matrix = np.array(found["confusion"])
    right = matrix.diagonal()
    iou = right / np.maximum(matrix.sum(0) + matrix.sum(1) - right, 1)
    expected = [value if count else None for value, count in zip(iou.tolist(), matrix.sum(1), strict=True)]
    assert [row["iou"] for row in found["classes"]] == pytest.approx(expected)
    assert "class     precision  recall  f1      iou     support" in result.out
    assert lamella("inspect", str(segmented)).status == 0
    result = lamella("export", str(segmented), "--format", "onnx", "--out", "net.onnx")
    assert result.status == 0, result.err
    session = onnxruntime.InferenceSession("net.onnx")
    inputs = torch.rand(3, 3, 16, 16)
    [answer] = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    assert answer.shape == (3, 4, 16, 16)


def drawn(run: Path, tag: str) -> Image.Image:
    found = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    return Image.open(io.BytesIO(found.Images(tag)[-1].encoded_image_string))


@pytest.mark.slow
def test_masks_are_drawn_beside_their_images(segmented: Path) -> None:
    for tag in ("samples", "mistakes"):
        picture = np.asarray(drawn(segmented, tag)).reshape(-1, 3)
        for colour in class_colours(3).tolist():  # of the ground, discs and squares
            assert (picture == colour).all(1).sum() > 100, (tag, colour)


@pytest.mark.slow
def test_a_killed_run_with_moving_masks_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = (
        "experiment=unet_shapes", "data.source.count=60", "data.source.size=16", "network.width=4", "device=cpu",
        "device.threads=1", "trainer.max_epochs=2", "trainer.checkpoint_every=1steps", "trainer.chunk=1",
        "visuals=none", "data.augment=[{crop: 2},flip,{rotate: 10},trivialaugment]",
    )  # fmt: skip
    kill_and_resume(tmp_path / "reference", tmp_path / "killed", *options, shares=(0.5, 0.3))


@pytest.mark.slow(40)
def test_a_u_net_finds_the_shapes(lamella: Lamella) -> None:
    result = lamella("train", "experiment=unet_shapes")
    assert result.status == 0, result.err
    [run] = Path("outputs/unet_shapes").iterdir()
    assert lamella("eval", str(run)).status == 0
    classes = json.loads((run / "eval.json").read_text())["classes"]
    assert sum(row["iou"] for row in classes) / len(classes) >= 0.9


@pytest.mark.slow
def test_an_autoencoder_beats_the_mean_image(lamella: Lamella, tmp_path: Path) -> None:
    result = lamella("train", "experiment=autoencoder", "trainer.max_epochs=5")
    assert result.status == 0, result.err
    [run] = Path("outputs/autoencoder").iterdir()
    images = digits().train.inputs
    assert isinstance(images, Tensor)
    spread = (images.float() / 255 / 0.3248).var(0, unbiased=False).mean()  # the loss of the mean image
    assert json.loads((run / "run.json").read_text())["metrics"]["test/loss"] < 0.7 * spread
    assert drawn(run, "mistakes").width > drawn(run, "samples").width / 2
    Image.fromarray(images[7, 0].numpy()).save("seven.png")
    result = lamella("predict", str(run), "seven.png", "--out", "again")
    assert result.status == 0, result.err
    [before, after] = (np.asarray(Image.open(path)) / 255 for path in ("seven.png", "again/seven.png"))
    assert before.shape == after.shape == (28, 28)
    assert np.square(before - after).mean() < 0.05
    assert float(result.out.split()[3]) == pytest.approx(np.square((before - after) / 0.3248).mean(), rel=0.05)


@pytest.mark.slow
def test_labels_beat_their_frequencies(lamella: Lamella) -> None:
    result = lamella("train", "experiment=multilabel", "trainer.max_epochs=3")
    assert result.status == 0, result.err
    [run] = Path("outputs/multilabel").iterdir()
    share = digit_labels().train.targets.mean(0)
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    assert json.loads((run / "run.json").read_text())["metrics"]["test/loss"] < 0.5 * entropy
    result = lamella("eval", str(run))
    names = [line.split()[0] for line in result.out.splitlines() if line.strip()]
    assert names[-6:-1] == ["class", "even", "prime", "large", "round"]

"""`lamella check-data`: what it finds in pictures, tables and texts, and what training says of copies."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Lamella, Project
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch import Tensor

from lamella.commands.check_data_findings import find
from lamella.commands.check_data_sections import tables
from lamella.data import Data, Samples, Splits
from lamella.data.decoder import Decoder
from lamella.data.folders import find_images
from lamella.data.images import ImageFiles
from lamella.data.near_duplicates import DISTANCE, close_pairs, difference_hashes, similar_pairs, standardized
from lamella.data.survey import Survey, survey

PHOTOS = Path(__file__).parents[2] / "shared/data/cifar10_small"
GREY = ("data=image_folder", "data.shape=[1,28,28]", "data.mean=[0.3]", "data.std=[0.3]")


def test_what_is_planted_in_pictures_is_found(lamella: Lamella, image_root: Path) -> None:
    shutil.copytree(image_root / "train/zero", image_root / "test/zero")
    shutil.copytree(image_root / "train/two", image_root / "test/two")
    for name in ("zero", "two"):
        for file in sorted((image_root / "test" / name).iterdir())[2:]:
            file.unlink()
    first = sorted((image_root / "train/one").iterdir())[0]
    shutil.copy(first, image_root / "train/two/copy.png")  # two classes for one picture
    Image.new("L", (28, 28), 7).save(image_root / "train/one/black.png")
    Image.new("L", (60, 40), 9).save(image_root / "train/one/large.png")
    (image_root / "train/one/broken.png").write_bytes(first.read_bytes()[:200])
    result = lamella("check-data", *GREY, f"data.root={image_root}")
    assert result.status == 0, result.err
    assert "largest height × width   40 × 60" in result.out
    warnings = [line for line in result.out.splitlines() if line.startswith("warning: ")]
    assert warnings[0].startswith(f"warning: 1 file cannot be read: {image_root}/train/one/broken.png is no readable")
    text = "\n".join(warnings)
    assert "test samples have the input of a training sample: test: " in text or "validation sample" in text
    assert f"{image_root}/train/two/copy.png" in text
    assert "of these samples has another target than the first with this input: " in text
    assert "2 inputs have one value alone: " in text
    assert "no test sample is of class one" in text
    assert "data.mean and data.std are far from" not in text
    with Image.open("check-data.png") as sheet:
        assert sheet.width > 600
    plain = json.loads(lamella("check-data", *GREY, f"data.root={image_root}", "--json").out)
    assert len(plain["unreadable"]) == 1
    assert len(plain["constant"]) == 2
    assert {len(group) for group in plain["equal"]} == {2}
    assert plain["samples"][-1]["test"] == "4"
    assert plain["sheet"] is None
    far = lamella("check-data", *GREY[:2], f"data.root={image_root}", "data.mean=[0.9]", "data.std=[0.3]", "--json")
    assert "far from the pixels of the training; measured: data.mean=[0.3" in json.loads(far.out)["warnings"][-1]


def damage(files: Path) -> int:
    """Cut off the end of each image file in a folder, and return how many there are."""
    paths = list(files.rglob("*.png"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    return len(paths)


def test_a_split_of_damaged_images_is_named(lamella: Lamella, image_root: Path) -> None:
    shutil.copytree(image_root / "train", image_root / "test")
    count = damage(image_root / "test")
    result = lamella("check-data", *GREY, f"data.root={image_root}")
    assert result.status == 0, result.err
    assert f"warning: {count} files cannot be read: {image_root}/test/" in result.out
    assert "channel  mean (train)  std (train)  mean (val)  std (val)  data.mean" in result.out
    count += damage(image_root / "train")
    plain = json.loads(lamella("check-data", *GREY, f"data.root={image_root}", "--json").out)
    assert (len(plain["unreadable"]), len(plain["warnings"])) == (count, 1)
    assert {row["test"] for row in plain["samples"]} == {"0"}


def test_a_split_of_damaged_images_has_no_range_of_targets(image_root: Path) -> None:
    files = ImageFiles(find_images(image_root / "train")[0], Decoder((1, 28, 28)))
    train = Samples(files, torch.arange(len(files), dtype=torch.float32))
    data = Data(Splits(train, train, train.take(torch.arange(4))), [1, 28, 28], 4, mean=0.3, std=0.3)
    surveys = {name: survey(data, name) for name in ("train", "val")} | {"test": Survey(unreadable=["1.png", "2.png"])}
    [_, smallest, *_, number] = dict(tables(data, surveys))["samples"]
    assert (smallest[0], smallest[1], smallest[3], number[3]) == ("smallest target", "0", "", "0")
    assert find(data, surveys).warnings[0] == "2 files cannot be read: 1.png, 2.png"


def photos() -> list[Image.Image]:
    if not PHOTOS.is_dir():
        pytest.skip("there are no photographs here")
    return [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("test/*/*.jpg"))]


def as_tensor(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_copies_of_photographs_are_found_and_others_are_not() -> None:
    originals = photos()
    chosen = originals[::20]
    copies = [
        *(saved_again(image, 75) for image in chosen),
        *(ImageEnhance.Contrast(image).enhance(0.8) for image in chosen),
        *(image.resize((48, 48)).resize((32, 32)) for image in chosen),
        *(ImageEnhance.Brightness(image).enhance(1.1) for image in chosen),
    ]
    images = as_tensor(originals + copies)
    pairs, _ = similar_pairs(difference_hashes(images), standardized(images))
    planted = {(20 * (number % len(chosen)), len(originals) + number) for number in range(len(copies))}
    found = {(int(one), int(other)) for one, other in pairs}
    assert len(planted & found) >= 0.95 * len(planted)
    assert not [pair for pair in found if max(pair) < len(originals)]  # of 499,500 pairs of different photographs


@settings(deadline=None, max_examples=30)
@given(bits=st.sets(st.integers(0, 63), max_size=5), seed=st.integers(0, 1000))
def test_hashes_that_differ_in_few_bits_are_paired(bits: set[int], seed: int) -> None:
    hashes = np.random.default_rng(seed).integers(0, 2**64, 200, dtype=np.uint64)
    hashes[150] = hashes[20] ^ np.uint64(sum(1 << bit for bit in bits))
    assert ([20, 150] in close_pairs(hashes).tolist()) == (len(bits) <= DISTANCE)


def test_digits_are_no_false_alarm(lamella: Lamella) -> None:
    result = lamella("check-data", "--sheet", "sheets.png")
    assert "\nno warnings\nnote: " in result.out
    assert "where that many are alike, as drawings of digits are, most of them are not copies" in result.out
    assert Path("sheets.png").is_file()


def test_tables_and_texts(lamella: Lamella) -> None:
    rows = [f"{number},{'' if number == 3 else number % 7},same,{'ab'[number % 2]}" for number in range(40)]
    Path("rows.csv").write_text("\n".join(["a,b,c,kind", *rows, rows[5], rows[5]]) + "\n")
    result = lamella("check-data", "data=csv", "data.path=rows.csv", "data.target=kind")
    assert result.status == 0, result.err
    assert "column  holds " in result.out
    assert "b       numbers " in result.out
    assert "warning: 1 column has one value in all training samples: c" in result.out
    assert " the input of " in result.out
    plain = json.loads(lamella("check-data", "data=csv", "data.path=rows.csv", "data.target=kind", "--json").out)
    [column] = [row for row in plain["columns"] if row["column"] == "b"]
    assert (column["missing"], column["different"], column["smallest"], column["largest"]) == ("1", "7", "0", "6")
    result = lamella("check-data", "data=characters")
    assert "training samples repeat the input of an earlier one" in result.out


def test_a_project_of_ones_own(lamella: Lamella, project: Project) -> None:
    project(mine=OWN)
    own = ("data=dataset", "data.train={_target_: mine.Points}", "data.num_classes=2", "data.batch_size=4")
    result = lamella("check-data", *own)
    assert result.status == 0, result.err
    assert "have the input of" in result.out or "repeat the input" in result.out or "repeats the input" in result.out
    stream = ("data=iterable", "data.train={_target_: mine.Stream}", "data.num_classes=2", "data.batch_size=4")
    result = lamella("check-data", *stream)
    assert result.status == 0, result.err
    assert "so that no sample is looked at" in result.out


OWN = """
import torch
class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        return torch.tensor([float(index // 2), 1.0]), index % 2
class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return ((torch.tensor([float(index), 1.0]), index % 2) for index in range(40))
"""


def test_wrong_requests(lamella: Lamella) -> None:
    lamella("check-data", "--sheet", "sheet.jpg").check_refusal("--sheet sheet.jpg: the sheet is a PNG")
    lamella("check-data", "-m", "seed=1,2").check_refusal("check-data looks at one set of data; leave -m out")
    lamella("check-data", "--sheet", "gone/x.png").check_refusal("gone/x.png: cannot write there")


def leaky(**options: object) -> Data:
    inputs = torch.arange(120, dtype=torch.float32).view(30, 4)
    train, test = Samples(inputs, torch.arange(30) % 2), Samples(inputs[:3].clone(), torch.zeros(3, dtype=torch.int64))
    return Data(Splits(train, None, test), [4], 4, 2, val_size=0, **options)  # type: ignore[arg-type]


def test_training_says_in_one_line_that_splits_share_samples(lamella: Lamella) -> None:
    said = "3 of 3 test samples have the input of a training sample; `lamella check-data` shows more"
    assert said in leaky().notes()
    Path("rows.csv").write_text("\n".join(["a,kind", *(f"{n % 9},{'ab'[n % 2]}" for n in range(60))]) + "\n")
    table = ("data=csv", "data.path=rows.csv", "data.target=kind", "trainer.max_epochs=1", "visuals=none")
    result = lamella("train", *table)
    assert result.status == 0, result.err
    assert result.err.count("have the input of a training sample; `lamella check-data` shows more") == 1
    [log] = Path("outputs").rglob("log.txt")
    assert "have the input of a training sample" in log.read_text()


def test_training_on_digits_says_nothing_of_copies(lamella: Lamella) -> None:
    from lamella.data import digits

    assert not [note for note in Data(digits(8), [1, 8, 8], 64, 10).notes() if "input of a training sample" in note]
    tensors = Samples(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert Data(Splits(tensors, tensors, tensors), [2], 2, 2).notes() == [
        "no training or validation or test sample is of class 1"
    ]

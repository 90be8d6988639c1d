"""Folders of images: which files count, what is said of them, and what a command decodes."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Lamella, Project, Result
from PIL import Image
from torch import Tensor

from lamella.data.cache import SHARED, load_images, map_images
from lamella.data.decoder import Decoder
from lamella.data.folders import find_images, find_matches
from lamella.data.images import ImageFiles

Train = Callable[..., Result]


@pytest.fixture
def pictures(tmp_path: Path, digit_images: tuple[Tensor, Tensor]) -> Path:
    """Twenty digits each of two classes, pictures/train/cat/<number>.png and dog."""
    for number, image in enumerate(digit_images[0][:40]):
        folder = tmp_path / "pictures/train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{number:02}.png")
    return Path("pictures")


@pytest.fixture
def train(lamella: Lamella, pictures: Path) -> Train:
    """Train one epoch on the pictures."""
    options = ("data=image_folder", "data.root=pictures", "data.shape=[1,8,8]", "data.mean=0.5", "data.std=0.5")
    short = ("network=linear", "device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=1")

    def call(*overrides: str, command: str = "train") -> Result:
        return lamella(command, *options, *(short if command == "train" else ()), *overrides)

    return call


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by each file that is decoded."""
    paths: list[str] = []
    decode = Decoder.file

    def counted(self: Decoder, path: str) -> Tensor:
        paths.append(path)
        return decode(self, path)

    monkeypatch.setattr(Decoder, "file", counted)
    return paths


@pytest.mark.slow
def test_what_is_read_and_what_is_left_out_is_said(train: Train, pictures: Path) -> None:
    hidden = pictures / "train/cat/.thumbnails"
    hidden.mkdir()
    for path in sorted((pictures / "train/cat").glob("*.png"))[:12]:
        shutil.copy(path, hidden)
    (pictures / "train/dog/._01.png").write_bytes(b"Mac OS X")
    (pictures / "train/dog/photo.heic").touch()
    (pictures / "train/loose.png").touch()
    os.mkfifo(pictures / "train/dog/pipe.png")
    (pictures / "Val/cat").mkdir(parents=True)
    (pictures / "train/cat/loop").symlink_to("..")
    elsewhere = Path("elsewhere/deeper")
    elsewhere.mkdir(parents=True)
    for number in range(1600):
        os.link(pictures / "train/dog/01.png", elsewhere / f"{number}.png")
    (pictures / "train/dog/more").symlink_to(Path("elsewhere").absolute())
    result = train()
    assert result.status == 0, result.err
    assert result.out.splitlines()[1] == (
        "1,328 images in 2 classes (train), 148 set aside for validation, 164 set aside for test; "
        "left out: 13 hidden files, 1 .heic, 1 outside of the class folders, 1 special file"
    )
    assert "note: only train/, val/ and test/ are read, and not pictures/Val/\n" in result.err
    assert "note: the classes are unbalanced in training: dog 1,31" in result.err


def test_own_splits_are_counted(train: Train, pictures: Path) -> None:
    shutil.copytree(pictures / "train", pictures / "val")
    shutil.rmtree(pictures / "val/dog")
    (pictures / "test").symlink_to("val")
    result = train()
    assert result.status == 0, result.err
    assert result.out.splitlines()[1] == "40 images in 2 classes (train), 20 (val), 20 (test)"
    assert result.err.splitlines() == [
        "note: pictures/val/cat and pictures/test/cat are one folder, so that its images are read more than once",
        "note: no validation or test sample is of class dog",
        "note: 20 of 20 validation samples and 20 of 20 test samples have the input of a training sample; "
        "`lamella check-data` shows more",
    ]


def test_pointless_data_get_a_note(train: Train, pictures: Path) -> None:
    shutil.rmtree(pictures / "train/dog")
    result = train("data.val_size=2", "data.test_size=2", "data.num_workers=2")
    assert result.status == 0
    assert result.err.splitlines() == [
        "note: there is one class, cat, so that nothing can be told apart",
        "note: data.num_workers is 2, but data.in_memory is true, so that no worker reads anything",
    ]


def test_classes_may_be_in_the_root(train: Train, pictures: Path) -> None:
    folder = pictures / "train"
    folder.rename("flat")
    result = train("data.root=flat")
    assert result.status == 0, result.err
    assert result.out.splitlines()[1].startswith("32 images in 2 classes (train)")
    Path("flat").rename(pictures / "Train")
    result = train()
    assert result.status == 2
    assert "pictures has the folder Train/, but none with the name train/; rename the folders to" in result.err


@pytest.mark.slow
def test_training_without_validation(train: Train) -> None:
    result = train("data.val_size=0")
    assert result.status == 2
    assert "monitor is 'val/accuracy'; this loss and data give train/loss, train/accuracy;\n" in result.err
    assert (
        "without validation samples (data.val_size is 0) nothing is validated; write monitor=train/loss" in result.err
    )
    result = train("data.val_size=0", "monitor=train/loss", "scheduler=cosine")
    assert result.status == 0, result.err
    assert "36 images in 2 classes (train), none for validation, 4 set aside for test" in result.out
    assert "val" not in result.out.split("best epoch")[1].split("\n")[0]
    result = train("data.val_size=0", "monitor=train/loss", "scheduler=plateau")
    assert result.status == 2
    assert "plateau follows val/loss" in result.err


@pytest.mark.slow
def test_every_unreadable_file_is_named_or_skipped(train: Train, pictures: Path) -> None:
    whole = (pictures / "train/cat/00.png").read_bytes()
    (pictures / "train/cat/00.png").write_text("no picture")
    (pictures / "train/dog/01.png").write_bytes(whole[:100])
    (pictures / "train/dog/03.png").write_bytes(whole.replace(b"IDAT", b"IDAT\1", 1))
    for options in ([], ["data.in_memory=false"], ["-m", "seed=0,1"]):
        result = train(*options)
        assert result.status == 2
        assert "error: data: 3 files are no readable images; repair or remove them, or set" in result.err
        assert all(f"\n  pictures/train/{name} is no readable" in result.err for name in ("cat/00.png", "dog/03.png"))
        assert not Path("outputs/default").exists() or not any(Path("outputs/default").iterdir())
    for options in (["data.cache=memmap"], ["data.in_memory=false"]):
        result = train("data.skip_unreadable=true", *options)
        assert result.status == 0, result.err
        counts = "30 images in 2 classes (train), 3 set aside for validation, 4 set aside for test; left out: 3 unread"
        assert counts in result.out


def test_a_file_that_is_damaged_inside_is_named_in_the_epoch(train: Train, pictures: Path) -> None:
    """Its header and its end are right, so that only a worker process that decodes it notices."""
    path = pictures / "train/cat/00.png"
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAT\1", 1))
    result = train("data.in_memory=false", "data.num_workers=1", "data.val_size=2", "data.test_size=2")
    assert result.status in (1, 2)  # 2 where the trial before the run has decoded the file
    assert f"data: {path} is no readable image (" in result.err


@pytest.mark.slow
def test_a_command_decodes_what_it_needs(train: Train, lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = decodes(monkeypatch)
    assert train("data.test_size=4").status == 0
    [run] = Path("outputs/default").iterdir()
    assert len(set(paths)) == 40
    assert len(paths) <= 3 * 40  # the trial before the run has decoded its batches too
    paths.clear()
    assert train("data.test_size=4", "trainer.test=false", "name=untested").status == 0
    assert len(set(paths)) == 36  # and no image of the test
    needed = {"eval": 4, "inspect": 36 - 4, "export": 2 * 4}
    for command, count in needed.items():
        paths.clear()
        options = ["--format", "safetensors"] if command == "export" else []
        assert lamella(command, str(run), *options).status == 0
        assert len(paths) <= count, command
    paths.clear()
    assert train("data.batch_size=8", command="inspect").status == 0
    assert len(paths) == 8


@pytest.mark.slow
def test_testing_on_training_samples_is_said(train: Train, lamella: Lamella) -> None:
    assert train("data.test_size=4").status == 0
    [run] = Path("outputs/default").iterdir()
    for overrides, count in (
        (["data.test_size=20"], 13),
        (["data.split_seed=3"], 2),
        (["data.test_size=2"], 0),
        ([], 0),
    ):
        result = lamella("eval", str(run), *overrides)
        assert result.status == 0
        notes = [line for line in result.err.splitlines() if "training samples of the run" in line]
        assert bool(notes) == bool(count), overrides
    assert (
        "of the 20 test samples were training samples of the run" in lamella("eval", str(run), "data.test_size=20").err
    )


@pytest.mark.slow
def test_a_test_that_is_cut_off_from_other_data_is_said(train: Train, lamella: Lamella, pictures: Path) -> None:
    assert train().status == 0
    [run] = Path("outputs/default").iterdir()
    shutil.copytree(pictures, "others")
    said = "note: the test samples are cut off from the training samples of another source than the run's; "

    def notes() -> int:
        result = lamella("eval", str(run), "data.root=others")
        assert result.status == 0, result.err
        return result.err.count(said)

    assert notes() == 0  # the folder has only moved
    next(Path("others/train/cat").iterdir()).unlink()
    assert notes() == 1
    shutil.copytree("others/train", "others/test")
    assert notes() == 0


def test_several_threads_decode_a_batch(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = ImageFiles(find_images(tmp_path / pictures)[0], Decoder((1, 8, 8)))
    decode, both = Decoder.file, threading.Barrier(2, timeout=60)
    expected = torch.stack([files.decoder.file(str(path)) for path in files.paths[:2]])

    def together(self: Decoder, path: str) -> Tensor:
        both.wait()  # it ends when a second thread is here
        return decode(self, path)

    monkeypatch.setattr(Decoder, "file", together)
    assert torch.equal(files[torch.arange(2)], expected)


def test_the_jobs_of_a_sweep_decode_once(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = ImageFiles(find_images(pictures)[0], Decoder((1, 8, 8)))
    expected, paths = files.load(), decodes(monkeypatch)
    monkeypatch.setenv(SHARED, str(tmp_path / "shared"))
    for rows in (torch.arange(40), torch.tensor([3, 1])):
        assert torch.equal(load_images(files.take(rows)), expected[rows])
    assert len(paths) == 40
    (tmp_path / "file").touch()
    monkeypatch.setenv(SHARED, str(tmp_path / "file"))  # nothing can be written there
    assert torch.equal(load_images(files), expected)


def test_a_cache_with_other_bytes_is_not_used(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = ImageFiles(find_images(pictures)[0], Decoder((1, 8, 8)))
    mapped = map_images(files)
    expected = mapped.pixels.clone()
    [file] = Path("outputs/.cache").glob("*.uint8")
    times = file.stat()
    file.write_bytes(bytes(times.st_size))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = map_images(files)
    assert torch.equal(again.pixels, expected)
    paths = decodes(monkeypatch)
    file.write_bytes(file.read_bytes())  # touched, but with the same bytes
    os.chmod("outputs/.cache", 0o500)
    [lock] = Path("outputs/.cache").glob("*.lock")
    lock.chmod(0o400)
    map_images(files)
    os.chmod("outputs/.cache", 0o700)
    assert paths == []


@pytest.mark.slow
def test_a_sweep_leaves_no_decoded_images_behind(train: Train, pictures: Path) -> None:
    alone = train("seed=1", "name=alone", "visuals=default")
    result = train("-m", "seed=1,2", "name=swept", "data.val_size=6")
    assert result.status == 0, result.err
    assert alone.status == 0, alone.err
    assert not list(Path("outputs").rglob(".images*"))


def test_patterns_end_at_loops(pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    every = sorted(map(str, pictures.rglob("*.png")))
    for name in ("one", "two"):
        (pictures / "train" / name).symlink_to(".")
        (pictures / "train/cat" / name).symlink_to("../..")
    (pictures / "train/cat/.hidden.png").touch()
    os.mkfifo(pictures / "train/cat/pipe.png")
    for pattern in ("pictures/**/*.png", "**/*.png", "**", "pict*/**/train/**/*.png", f"{tmp_path}/pictures/**"):
        assert [os.path.relpath(path) for path in find_matches(pattern)] == every, pattern
    assert find_matches("pictures/*/dog/0*.png") == [path for path in every if "dog/0" in path]
    assert find_matches("pictures/**/dog") == []
    assert find_matches("pictures/**/.h*.png") == ["pictures/train/cat/.hidden.png"]


OWN = """
import random
import numpy as np
import torch
from lamella.data import Augment, Samples, Splits, digits

class Noise(Augment):
    def __call__(self, images, drawn):
        return images + torch.randn(images.shape) * random.random() + float(np.random.rand())

class Drawn:
    def __init__(self, images):
        self.images = images
    def __len__(self):
        return len(self.images)
    def __getitem__(self, indices):
        return self.images[indices].float() / 255 + torch.rand(1)

def floats(lazy: bool = False, target: str = "class", random_source: bool = False) -> Splits:
    samples = digits(8).train
    images, labels = samples.inputs[:200], samples.targets[:200]
    inputs = Drawn(images) if lazy else images if random_source else images.float() / 255
    if target == "tuple":
        return images, labels
    if target == "array":
        return Splits(Samples(images.numpy(), labels))
    if random_source:
        inputs = (inputs.float() * torch.rand(inputs.shape)).byte()
    return Splits(Samples(inputs, images.float() if target == "image" else labels))
"""


@pytest.fixture
def own(lamella: Lamella, project: Project, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train on 200 digits of 8×8 from a source of one's own."""
    project(own=OWN)

    def call(*overrides: str) -> Result:
        options = ("data.shape=[1,8,8]", "network=linear", "device=cpu", "device.threads=1", "visuals=none")
        return lamella("train", *options, "trainer.max_epochs=2", *overrides)

    return call


def epochs(result: Result) -> list[str]:
    assert result.status == 0, result.err
    return [line.rpartition("  ")[0] for line in result.out.splitlines() if line.startswith("epoch")]


@pytest.mark.slow
def test_an_augmentation_of_ones_own_depends_on_counters_alone(own: Train) -> None:
    plain = ("+data.source.size=8", "data.val_size=100", "data.batch_size=100")
    noise = (*plain, "data.augment={_target_: own.Noise}")
    first = epochs(own(*noise, "trainer.chunk=1"))
    assert epochs(own(*noise, "trainer.chunk=5")) == first
    assert epochs(own(*plain)) != first


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_sources_and_inputs_of_ones_own_depend_on_counters_alone(own: Train) -> None:
    source = ("data.source._target_=own.floats", "+data.source.lazy=true", "data.mean=null", "data.std=null")
    first = epochs(own(*source))
    assert epochs(own(*source, "data.in_memory=false", "data.num_workers=1")) == first
    random_source = ("data.source._target_=own.floats", "+data.source.random_source=true")
    first = epochs(own(*random_source))
    assert epochs(own(*random_source)) == first


IMAGES = ("+data.source.target=image", "+data.source.random_source=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.source._target_=own.floats"], "data.mean is [0.3057]; it normalises pixels, and these samples are"),
        (
            ["data.source._target_=own.floats", "+data.source.lazy=true", "data.mean=null"],
            "data.std is [0.3248]; it normalises",
        ),
        (
            ["data.source._target_=own.floats", *IMAGES, "data.augment=[flip]"],
            "data.augment would move the pixels of the inputs, but not those of the targets, which are [1, 8, 8]",
        ),
        (
            ["data.source._target_=own.floats", "+data.source.target=tuple"],
            "data.source returns a tuple; it returns lamella.data.Splits",
        ),
        (
            ["data.source._target_=own.floats", "+data.source.target=array"],
            "data.source: its inputs are a ndarray, which gives no tensor (B, …) for a tensor",
        ),
        (["+data.skip_unreadable=true"], "data.skip_unreadable leaves out image files, and these samples are none"),
        (["data.cache=memmap"], "data.cache keeps decoded image files, and these samples are none"),
    ],
    ids=str,
)
def test_keys_that_would_do_nothing_are_refused(own: Train, overrides: list[str], message: str) -> None:
    shape = [] if "source" in overrides[0] else ["data.shape=[1,28,28]"]
    loss = ["loss=mse", "monitor=val/loss"] if IMAGES[0] in overrides else []
    result = own(*shape, *overrides, *loss)
    assert result.status == 2
    assert message in result.err
    assert not Path("outputs").exists()


def test_readers_of_a_run_download_nothing(lamella: Lamella, mnist_root: Path) -> None:
    options = ("data=mnist", f"data.root={mnist_root}", "data.val_size=20", "network=linear", "visuals=none")
    assert lamella("train", *options, "trainer.max_epochs=1").status == 0
    [run] = Path("outputs/default").iterdir()
    assert lamella("eval", str(run)).status == 0
    for command, more in (("eval", ["data.root=none"]), ("eval", ["data=mnist", "data.root=none"])):
        result = lamella(command, str(run), *more)
        assert result.status == 2
        assert "there is no intact MNIST in" in result.err
        assert "data.download is false" in result.err

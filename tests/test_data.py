"""Data: what the sources read, how it is split, and that what is served is a pure function of the config."""

import gc
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from programs import Program
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

from lamella.data import (
    Batches,
    Crop,
    Data,
    Flip,
    NamedInputs,
    Rotate,
    Samples,
    Splits,
    digits,
    image_folder,
    torchvision_dataset,
)
from lamella.data.cifar import LAYOUTS
from lamella.data.samples import split_samples
from lamella.data.sources import class_folders
from lamella.errors import RequestError

GREY = [1, 28, 28]
CLASSES = ["one", "two", "zero"]  # of image_root
EVERYTHING = [Crop(2), Flip(), Rotate(20)]


@contextmanager
def rejected(key: str, message: str) -> Iterator[None]:
    with pytest.raises(RequestError) as caught:
        yield
    assert message in str(caught.value)
    assert caught.value.key == key


def pixels(samples: Samples | None) -> Tensor:
    assert samples is not None
    assert not isinstance(samples.inputs, NamedInputs)
    return samples.inputs[torch.arange(len(samples))]


def numbered(count: int) -> Samples:
    return Samples(torch.arange(count).float(), torch.arange(count))


def noise(*shape: int) -> Tensor:
    """Images without two equal windows and without black."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ready(data: Data) -> Data:
    """Read what a training reads, as its Trainer does."""
    data.setup("fit")
    return data


def order(batches: Batches) -> list[list[int]]:
    return [targets.tolist() for _, targets in batches]


def joined(batches: Batches) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_digits_are_the_ones_of_scikit_learn() -> None:
    original = load_digits()
    splits, small, triple = digits(), digits(size=8).train, digits(size=24).train
    assert (splits.val, splits.test) == (None, None)
    images = pixels(splits.train)
    assert (images.dtype, images.shape, int(images.max())) == (torch.uint8, (1797, 1, 28, 28), 255)
    assert torch.equal(splits.train.targets, torch.from_numpy(original.target).long())
    assert torch.equal(pixels(small)[:, 0], torch.from_numpy(original.images * 255 / 16).round().byte())
    assert torch.equal(pixels(triple)[:, :, 1::3, 1::3], pixels(small))
    means = torch.stack([images[splits.train.targets == label].float().mean(0).flatten() for label in range(10)])
    assert torch.pdist(means).min() > 500


def test_mnist_has_its_own_test_set(mnist_root: Path, digit_images: tuple[Tensor, Tensor]) -> None:
    images, labels = digit_images
    splits = torchvision_dataset("MNIST", str(mnist_root), download=False)
    assert splits.val is None
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (200, 100)
    assert torch.equal(torch.cat([pixels(splits.train), pixels(splits.test)]), images)
    assert torch.equal(torch.cat([splits.train.targets, splits.test.targets]), labels)


def test_cifar_is_served_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, folder = noise(6, 3, 32, 32), tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]):
        content = {"data": images[number].reshape(1, -1).numpy(), "labels": [9 - number]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # The checksums are of the 60,000 real pictures.
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    splits = torchvision_dataset("CIFAR10", str(tmp_path), download=False)
    assert torch.equal(torch.cat([pixels(splits.train), pixels(splits.test)]), images)
    assert splits.train.targets.tolist() == [9, 8, 7, 6, 5]


@pytest.mark.parametrize(("name", "numbers"), [("CIFAR10", 1), ("CIFAR100", 2)])
def test_the_binary_version_of_cifar_is_read(tmp_path: Path, name: str, numbers: int) -> None:
    folder, train, test, _ = LAYOUTS[name]
    images, labels = noise(6, 3, 32, 32), torch.arange(9, 3, -1, dtype=torch.uint8)
    rows = torch.cat([*[torch.zeros(6, 1, dtype=torch.uint8)] * (numbers - 1), labels[:, None], images.flatten(1)], 1)
    write_rows(tmp_path / folder, dict(zip([*train, *test], torch.split(rows, 1 if numbers == 1 else 3), strict=True)))
    splits = torchvision_dataset(name, str(tmp_path), download=False)
    assert torch.equal(torch.cat([pixels(splits.train), pixels(splits.test)]), images)
    assert splits.test is not None
    assert torch.cat([splits.train.targets, splits.test.targets]).tolist() == [9, 8, 7, 6, 5, 4]
    file = tmp_path / folder / test[0]
    file.write_bytes(file.read_bytes()[:-1])
    with rejected("data.root", f"{file} is damaged: it has "):
        torchvision_dataset(name, str(tmp_path), download=False)
    file.unlink()
    with rejected("data.root", f"{file} cannot be read (No such file or directory)"):
        torchvision_dataset(name, str(tmp_path), download=False)


def write_rows(folder: Path, rows: dict[str, Tensor]) -> None:
    folder.mkdir()
    for name, values in rows.items():
        (folder / name).write_bytes(values.numpy().tobytes())


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("kept", [0, 20], ids=["empty", "truncated"])
def test_damaged_files_are_reported(mnist_root: Path, tmp_path: Path, name: str, kept: int) -> None:
    root = shutil.copytree(mnist_root, tmp_path / "copy")
    file = root / "MNIST" / "raw" / name
    file.write_bytes(file.read_bytes()[:kept])
    with rejected("data.root", f"the MNIST files in {root} are damaged"):
        torchvision_dataset("MNIST", str(root), download=False)


@pytest.mark.parametrize(("name", "hint"), [("FashonMNIST", "did you mean FashionMNIST"), ("x", "known: CIFAR10, ")])
def test_an_unknown_data_set_gets_its_nearest(tmp_path: Path, name: str, hint: str) -> None:
    with rejected("data.source.dataset", f"data.source.dataset is '{name}'; {hint}"):
        torchvision_dataset(name, str(tmp_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision leaves the connection of the 404 open
def test_missing_files_are_asked_for_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    missing = f"data.root is '{tmp_path}': there is no intact MNIST in {tmp_path}, and"
    with rejected("data.root", f"{missing} data.download is false"):
        torchvision_dataset("MNIST", str(tmp_path), download=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Mirror) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        with rejected("data.root", f"{missing} it could not be downloaded"):
            torchvision_dataset("MNIST", str(tmp_path), download=True)
        server.shutdown()
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert asked == ["/train-images-idx3-ubyte.gz"]


def test_grey_images_are_decoded_as_they_were(image_root: Path, digit_images: tuple[Tensor, Tensor]) -> None:
    groups = [digit_images[0][digit_images[1] == label] for label in (1, 2, 0)]
    train = image_folder(str(image_root), GREY, CLASSES).train
    assert torch.equal(pixels(train), torch.cat(groups))
    assert train.targets.tolist() == [number for number, group in enumerate(groups) for _ in group]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
@pytest.mark.parametrize(("shape", "target"), [([3, 20, 24], "RGB"), ([1, 37, 50], "L")], ids=["resized", "grey"])
def test_images_are_converted_and_resized_as_pillow_does(
    tmp_path: Path, mode: str, shape: list[int], target: str
) -> None:
    path = tmp_path / "train" / "a" / "deeper" / ("1.JPG" if mode == "RGB" else "1.png")
    path.parent.mkdir(parents=True)
    Image.fromarray(noise(37, 50, 3).numpy()).convert(mode).save(path)
    decoded = pixels(image_folder(str(tmp_path), shape, ["a"]).train)[0]
    with Image.open(path) as file:
        expected = np.asarray(file.convert(target).resize((shape[2], shape[1]), Image.Resampling.BILINEAR))
    assert np.array_equal(decoded.permute(1, 2, 0).squeeze(2), expected)


def test_sixteen_bits_a_pixel_keep_their_shades_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    Image.fromarray(ramp).save(tmp_path / "train" / "a" / "1.png")
    assert class_folders(str(tmp_path)) == ["a"]
    decoded = pixels(image_folder(str(tmp_path), [1, 8, 8], ["a"]).train)[0, 0]
    assert np.array_equal(decoded, (ramp / 257).astype(np.uint8))


@pytest.mark.parametrize("shape", [[2, 8, 8], [8, 8], [3, 0, 8]], ids=str)
def test_images_have_one_or_three_channels(image_root: Path, shape: list[int]) -> None:
    with rejected("data.shape", "images take [channels, height, width] with 1 or 3 channels"):
        image_folder(str(image_root), shape, CLASSES)


@pytest.mark.parametrize("in_memory", [True, False], ids=["in_memory", "files"])
def test_a_folder_of_training_images_is_split(image_root: Path, in_memory: bool) -> None:
    source = image_folder(str(image_root), GREY, CLASSES)
    options: dict[str, Any] = {"val_size": 10, "test_size": 0.2, "in_memory": in_memory}
    first, again, other = (Data(source, GREY, 8, 3, split_seed=seed, **options) for seed in (0, 0, 1))
    assert (len(first.val), len(first.test)) == (10, round(0.2 * len(source.train)))
    parts = torch.cat([pixels(part) for part in (first.train, first.val, first.test)])
    assert sorted(parts.flatten(1).tolist()) == sorted(pixels(source.train).flatten(1).tolist())
    for part in ("val", "test"):
        assert torch.equal(pixels(getattr(first, part)), pixels(getattr(again, part)))
        assert not torch.equal(pixels(getattr(first, part)), pixels(getattr(other, part)))


def test_folders_val_and_test_are_used(image_root: Path) -> None:
    shutil.copytree(image_root / "train" / "two", image_root / "val" / "two")
    shutil.copytree(image_root / "train" / "zero", image_root / "test" / "zero")
    data = Data(image_folder(str(image_root), GREY, CLASSES), GREY, 8, 3)
    assert set(data.train.targets.tolist()) == {0, 1, 2}
    for part, label in ((data.val, 1), (data.test, 2)):
        assert torch.equal(pixels(part), pixels(data.train)[data.train.targets == label])
        assert set(part.targets.tolist()) == {label}


@pytest.mark.parametrize("in_memory", [True, False], ids=["in_memory", "files"])
@pytest.mark.parametrize("content", ["truncated", "text"])
def test_a_corrupt_image_is_named(image_root: Path, in_memory: bool, content: str) -> None:
    broken = sorted((image_root / "train" / "two").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:100] if content == "truncated" else b"no picture")
    with rejected("data.root", f"{broken} is no readable image"):
        ready(Data(image_folder(str(image_root), GREY, CLASSES), GREY, 8, 3, in_memory=in_memory))


def test_a_class_without_images_is_reported(image_root: Path) -> None:
    (image_root / "train" / "three").mkdir()
    empty = image_root / "train" / "three"
    with rejected("data.root", f"data.root: there are no images in {empty}; put some there, or remove the folder"):
        image_folder(str(image_root), [1, 28, 28], class_folders(str(image_root)))


def test_a_root_may_begin_at_home(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(image_root.parent))
    assert class_folders(f"~/{image_root.name}") == ["one", "two", "zero"]
    assert image_folder(f"~/{image_root.name}", [1, 28, 28], ["one", "two", "zero"]).train


def test_an_incomplete_image_folder_is_reported(tmp_path: Path, image_root: Path) -> None:
    root = tmp_path / "empty"
    with rejected("data.root", f"data.root is '{root}': there is no folder {root}"):
        image_folder(str(root), GREY, ["a"])
    for state in (f"there is no folder {root}", f"{root} has no folders", f"{root / 'train'} holds no folders"):
        with rejected("data.root", f"data.root is '{root}': {state}"):
            class_folders(str(root))
        (root if "no folder " in state else root / "train").mkdir(exist_ok=True)
    (root / "train" / "notes.txt").write_text("no class")
    for name in "lkjihgfedcba":
        (root / "train" / name).mkdir()
        (root / "train" / name / "notes.txt").write_text("no picture")
    assert class_folders(str(root)) == list("abcdefghijkl")
    with rejected("data.root", f"there are no images in {root / 'train'}"):
        image_folder(str(root), GREY, class_folders(str(root)))
    (image_root / "val" / "zeros").mkdir(parents=True)
    with rejected("data.classes", f"no 'zeros', a folder in {image_root / 'val'}; did you mean zero?"):
        image_folder(str(image_root), GREY, CLASSES)


@given(total=st.integers(2, 200), size=st.integers(0, 210) | st.floats(0, 0.999), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_split_cuts_its_size_off(total: int, size: int | float, seed: int) -> None:
    count = round(size * total) if isinstance(size, float) else size
    if not 0 < count < total:
        with rejected("data.val_size", f"data.val_size is {size}; of {total} samples"):
            split_samples(numbered(total), size, seed, "data.val_size")
        return
    rest, cut = split_samples(numbered(total), size, seed, "data.val_size")
    assert len(cut) == count
    assert sorted(rest.targets.tolist() + cut.targets.tolist()) == list(range(total))
    assert torch.equal(pixels(cut), cut.targets.float())
    assert torch.equal(cut.targets, split_samples(numbered(total), size, seed, "data.val_size")[1].targets)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def epochs(seed: int, *numbers: int) -> list[list[list[int]]]:
        coming = iter(numbers)
        batches = Batches(numbered(50), 8, shuffle=True, seed=seed, epoch=lambda: next(coming))
        return [order(batches) for _ in numbers]

    first = epochs(0, 0, 1, 2)
    torch.manual_seed(1)
    assert epochs(0, 2, 0, 1, 0) == [first[2], first[0], first[1], first[0]]
    assert len(set(map(str, chain(*(epochs(seed, 0, 1, 2, 3) for seed in range(4)))))) == 16


@given(st.data(), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.booleans())
@settings(deadline=None)
def test_ranks_share_batches(data: st.DataObject, world: int, share: int, shuffle: bool, drop_last: bool) -> None:
    size = world * share
    count = data.draw(st.integers(1, 60), label="count")
    options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last, "seed": 5}
    loaders = [Batches(numbered(count), size, rank=rank, world=world, **options) for rank in range(world)]
    whole, ranks = order(Batches(numbered(count), size, **options)), [order(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(rank) for rank in ranks]
    assert len({len(loader) for loader in loaders}) == 1
    if count >= 2 * world and (shuffle or share > 1):
        assert all(batch for rank in ranks for batch in rank)
    served = sorted(chain(*chain(*ranks)))
    assert len(set(served)) == len(served)
    if not shuffle:
        assert served == list(chain(*whole)) == list(range(count))
        return
    assert len({str([len(batch) for batch in rank]) for rank in ranks}) == 1
    together = [set(chain(*parts)) for parts in zip(*ranks, strict=True)]
    if drop_last:
        assert together == [set(batch) for batch in whole]
        assert len(served) == count - count % size
    else:
        assert all(part <= set(batch) for part, batch in zip(together, whole, strict=False))
        assert len(served) == count - count % world
        assert sorted(chain(*whole)) == list(range(count))


def cached(root: Path, **options: Any) -> Data:
    source = image_folder(str(root), GREY, CLASSES)
    return ready(Data(source, GREY, 16, 3, mean=[0.3], std=[0.3], cache="memmap", **options))


def kept() -> list[Path]:
    return sorted(path for path in Path("outputs/.cache").iterdir() if path.suffix == ".uint8")


def test_images_are_decoded_once(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_root.parent)
    options: dict[str, Any] = {"val_size": 10, "augment": EVERYTHING}
    memory = ready(Data(image_folder(str(image_root), GREY, CLASSES), GREY, 16, 3, mean=[0.3], std=[0.3], **options))
    first = cached(image_root, **options)
    for path in image_root.rglob("*.png"):  # what a file holds is not looked at again
        times = path.stat()
        path.write_bytes(bytes(times.st_size))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = cached(image_root, in_memory=False, num_workers=2, **options)
    passes = [
        [*chain(*d.train_dataloader(), *d.val_dataloader(), *d.test_dataloader())] for d in (memory, first, again)
    ]
    for other in passes[1:]:
        assert all(torch.equal(one, same) for one, same in zip(passes[0], other, strict=True))
    [file] = kept()
    assert file.stat().st_size == sum(map(len, (memory.train, memory.val, memory.test))) * 28 * 28
    cached(image_root, val_size=20, split_seed=3)  # another split reads the same file
    assert kept() == [file]


def test_changed_images_and_shapes_are_decoded_anew(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_root.parent)
    before = pixels(cached(image_root, split_seed=1).train)
    for path in image_root.rglob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert torch.equal(pixels(cached(image_root, split_seed=1).train), before.flip(3))
    assert len(kept()) == 2
    ready(Data(image_folder(str(image_root), [3, 8, 8], CLASSES), [3, 8, 8], 16, 3, cache="memmap"))
    assert len(kept()) == 3
    kept()[0].write_bytes(b"cut off")
    assert torch.equal(pixels(cached(image_root, split_seed=1).train), before.flip(3))


def test_a_corrupt_image_leaves_no_cache(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_root.parent)
    broken = sorted((image_root / "train" / "two").iterdir())[3]
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    with rejected("data.root", f"{broken} is no readable image"):
        cached(image_root)
    assert kept() == []
    broken.unlink()
    broken.symlink_to("gone")
    with rejected("data.root", f"{broken} is no readable image (No such file or directory); repair or remove it"):
        cached(image_root)
    broken.unlink()
    broken.write_bytes(content)
    assert len(cached(image_root).train)


def test_a_cache_that_cannot_be_written_is_reported(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_root.parent)
    Path("outputs").write_text("in the way")
    with rejected("data.cache", "; make room there, or leave data.cache null and set data.in_memory=false"):
        cached(image_root)


@pytest.mark.slow
def test_several_processes_decode_once(image_root: Path) -> None:
    script = image_root.parent / "decode.py"
    script.write_text(
        "from lamella.data import image_folder\nfrom lamella.data.cache import map_images\n"
        f"images = image_folder({str(image_root)!r}, {GREY}, {CLASSES}).train.inputs\n"
        "from lamella.data.decoder import Decoder\n"
        "decode = Decoder.file\n"
        "Decoder.file = lambda self, path: print('decoded') or decode(self, path)\n"
        "print('sum', int(map_images(images).pixels.sum()))"
    )
    started = [Program(image_root.parent, str(script)) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    printed = [process.out for process in started]
    decoded = sorted(text.count("decoded") for text in printed)  # by several threads: lines may run together
    assert decoded == [0, 0, len(list(image_root.rglob("*.png")))]
    assert len({text[text.index("sum") :] for text in printed}) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("kind", ["tensor", "files"])
def test_the_way_of_reading_changes_nothing(image_root: Path, kind: str) -> None:
    train = image_folder(str(image_root), GREY, CLASSES).train
    splits = Splits(Samples(pixels(train), train.targets) if kind == "tensor" else train)
    state = torch.get_rng_state()
    passes = []
    ways: list[dict[str, Any]] = [{"in_memory": False, "num_workers": number} for number in (0, 1, 2)]
    for options in ({"in_memory": True}, *ways):
        data = Data(splits, GREY, 16, 3, mean=[0.3], std=[0.3], augment=EVERYTHING, **options)
        passes.append([*chain(*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader())])
    assert torch.equal(torch.get_rng_state(), state)
    for other in passes[1:]:
        assert all(torch.equal(first, same) for first, same in zip(passes[0], other, strict=True))


def serve(splits: Splits | None = None, **options: Any) -> Data:
    source = splits or Splits(Samples(noise(40, 3, 4, 5), torch.arange(40) % 3))
    return Data(source, **{"shape": [3, 4, 5], "batch_size": 8, "num_classes": 3, **options})


@pytest.mark.parametrize("in_memory", [True, False], ids=["in_memory", "read"])
@pytest.mark.parametrize(("mean", "std"), [([0.1, 0.5, 0.9], [0.2, 0.3, 0.4]), (None, None)], ids=["given", "default"])
def test_images_are_normalised(in_memory: bool, mean: list[float] | None, std: list[float] | None) -> None:
    data = serve(mean=mean, std=std, in_memory=in_memory)
    inputs, targets = joined(data.test_dataloader())
    centre, spread = (torch.tensor(values).double().view(3, 1, 1) for values in (mean or [0] * 3, std or [1] * 3))
    expected = (pixels(data.test).double() / 255 - centre) / spread
    assert torch.allclose(inputs, expected.float(), rtol=0, atol=1e-6)
    assert torch.equal(targets, data.test.targets)


def test_floats_are_served_as_they_are() -> None:
    table = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    part = Samples(table, table[:, :2] * 3)
    data = serve(Splits(part, part, part), shape=[6])
    for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        inputs, targets = joined(batches)
        assert sorted(inputs.tolist()) == sorted(table.tolist())
        assert torch.equal(targets, inputs[:, :2] * 3)


def test_only_training_images_are_augmented() -> None:
    plain, changed = serve(), serve(augment=EVERYTHING)
    for name, same in (("val_dataloader", True), ("test_dataloader", True), ("train_dataloader", False)):
        (images, labels), (others, targets) = (joined(getattr(data, name)()) for data in (plain, changed))
        assert torch.equal(labels, targets)
        assert torch.equal(images, others) == same


def test_the_seed_orders_but_does_not_split() -> None:
    first, second = (serve(seed=seed, test_size=10, val_size=0.5) for seed in (0, 1))
    for name, size in (("train", 15), ("val", 15), ("test", 10)):
        assert len(getattr(first, name)) == size
        assert torch.equal(pixels(getattr(first, name)), pixels(getattr(second, name)))
    assert order(first.train_dataloader()) != order(second.train_dataloader())


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"batch_size": 0}, "batch_size", "is 0; it takes 1 or more"),
        ({"batch_size": 33, "drop_last": True}, "batch_size", "is 33, more than the 32 training samples"),
        ({"batch_size": 9}, "batch_size", "is 9, which 2 devices cannot share equally; take a multiple of 2"),
        ({"num_classes": 2}, "num_classes", "is 2, but a training label is 2; labels go from 0 to 1"),
        ({"classes": ["a", "b"]}, "num_classes", "is 3, but data.classes names 2"),
        ({"shape": [3, 5, 4]}, "shape", "is [3, 5, 4], but the training samples are [3, 4, 5]"),
        ({"mean": [0.5]}, "mean", "is [0.5]; data.shape has 3 channels"),
        ({"std": [0.5, 0.0, 0.5]}, "std", "is [0.5, 0.0, 0.5]; it takes numbers above 0"),
        ({"val_size": 36}, "val_size", "is 36; of 36 samples it must leave some on either side"),
        ({"test_size": 40}, "test_size", "is 40; of 40 samples it must leave some on either side"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_reported(options: dict[str, Any], key: str, message: str) -> None:
    serve().check_world(2)
    with rejected(f"data.{key}", f"data.{key} {message}"):
        serve(**options).check_world(2)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_a_label_outside_the_classes_is_reported(label: int, part: str) -> None:
    good, bad = (Samples(noise(3, 3, 4, 5), torch.tensor([0, 1, last])) for last in (2, label))
    with rejected("data.num_classes", f"is 3, but a {part} label is {label}; labels go from 0 to 2"):
        train, val, test = (bad if name == part else good for name in ("training", "validation", "test"))
        serve(Splits(train, val, test))

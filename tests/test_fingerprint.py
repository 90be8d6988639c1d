"""The checksums of the samples in a checkpoint: a run goes on, and is compared, with the same samples alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Lamella
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lamella.data import Data, Datasets, NamedInputs, OwnData, Samples, Splits, digits, image_folder
from lamella.data.cache import MappedImages
from lamella.data.fingerprint import other_rounding
from lamella.runs.checkpoints import VerifiedCheckpointIO, read_checkpoint

CLASSES = ["zero", "one", "two"]
TINY = ("network=mlp", "trainer.max_epochs=1", "visuals=none", "device=cpu")


def change_pixel(file: Path) -> None:
    """Change one pixel of a picture, and nothing of when it was written."""
    picture = Image.open(file)
    value = picture.getpixel((14, 14))
    assert isinstance(value, int)
    picture.putpixel((14, 14), value ^ 1)
    picture.save(file)


def without_inputs(checkpoint: Path) -> None:
    """Make a checkpoint one of an earlier version, which had no checksum of the inputs."""
    saved = read_checkpoint(checkpoint)
    del saved["Data"]["inputs"]
    VerifiedCheckpointIO().save_checkpoint(saved, checkpoint)


@pytest.mark.slow(6)
def test_a_changed_pixel_is_refused_and_said(lamella: Lamella, image_root: Path) -> None:
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=[0.3]", "data.std=[0.3]")
    assert lamella("train", *data, *TINY).status == 0
    [run] = (path.parent for path in Path("outputs").rglob("run.json"))
    shutil.copytree(image_root, "kept")
    before = [(run / name).read_bytes() for name in ("run.json", "metrics.jsonl", "checkpoints/last.ckpt")]
    for file in sorted(image_root.glob("train/*/*.png")):
        change_pixel(file)
    result = lamella("resume", str(run), "trainer.max_epochs=2")
    assert result.status == 2
    assert result.err.endswith(
        f"error: data: the samples are not those with which {run}/checkpoints/last.ckpt was trained;\n"
        "  changed since then: the training inputs, the validation inputs, the test inputs; put the data back as they "
        "were, or train a new run\n"
    )
    assert before == [(run / name).read_bytes() for name in ("run.json", "metrics.jsonl", "checkpoints/last.ckpt")]
    said = "note: these are not the samples that the run was trained and tested with; changed since then: the test in"
    assert said in lamella("eval", str(run)).err
    result = lamella("reproduce", str(run))
    assert result.status == 1
    assert f"note: the data are not those of {run}; changed since then: the training inputs, the val" in result.err
    assert "differences between the two environments:\n  data: the training inputs\n" in result.out
    result = lamella("resume", str(run), "trainer.max_epochs=2", "data.root=kept")  # a copy is the same data
    assert result.status == 0, result.err
    assert "compared" not in result.err


def change_saved(run: Path, **environment: str) -> None:
    """Change the environment that the last checkpoint of a run was made in, and the checksum of its training inputs."""
    checkpoint = run / "checkpoints/last.ckpt"
    saved = read_checkpoint(checkpoint)
    saved["Data"]["inputs"]["train"] = "values 0"
    saved["Data"]["environment"] |= environment
    checkpoint.unlink()
    VerifiedCheckpointIO().save_checkpoint(saved, checkpoint)


@pytest.mark.slow(3)
def test_inputs_that_another_machine_computes_otherwise_are_said(lamella: Lamella, run: Path) -> None:
    more = f"trainer.max_epochs={len((run / 'metrics.jsonl').read_text().splitlines()) + 1}"
    change_saved(run)
    result = lamella("resume", str(run), more)
    assert (result.status, "\n  changed since then: the training inputs; put the data" in result.err) == (2, True)
    change_saved(run, torch="2.0.0", processor="Intel Pentium")
    result = lamella("resume", str(run), more)
    assert result.status == 0, result.err
    assert (
        f"note: the training inputs: not bit for bit as in {run}/checkpoints/last.ckpt, because they were computed "
        f"with torch {torch.__version__} instead of 2.0.0, processor "
    ) in result.err


@pytest.mark.parametrize("what", ["targets", "inputs", "files", "encoder"])
def test_another_environment_explains_computed_values_alone(what: str) -> None:
    saved = Data(digits(8), [1, 8, 8], 64, 10).state_dict()
    now = {**saved, "environment": {"pillow": "12"}, "encoder": 1}
    now |= {"inputs": {"train": f"{'files' if what == 'files' else 'values'} 1"}} if what != "encoder" else {}
    words = {"targets": "the training targets", "encoder": "what is learned from the training samples"}
    found = other_rounding([words.get(what, "the training inputs")], {"environment": {"pillow": "11"}}, now)
    assert found == (["pillow 12 instead of 11"] if what in ("inputs", "encoder") else [])


@pytest.mark.slow(3)
def test_images_that_no_test_has_read_are_not_compared(lamella: Lamella, image_root: Path) -> None:
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=[0.3]", "data.std=[0.3]")
    assert lamella("train", *data, *TINY, "trainer.test=false").status == 0
    [run] = (path.parent for path in Path("outputs").rglob("run.json"))
    said = "note: the test inputs are read in another way than before, and are not compared\n"
    assert said in lamella("eval", str(run)).err


@pytest.mark.slow(3)
def test_a_checkpoint_of_an_earlier_version(lamella: Lamella, run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        without_inputs(checkpoint)
    result = lamella(
        "resume", str(run), f"trainer.max_epochs={len((run / 'metrics.jsonl').read_text().splitlines()) + 1}"
    )
    assert result.status == 0
    assert f"note: {run}/checkpoints/last.ckpt is of an earlier version, which kept no checksum of" in result.err
    assert read_checkpoint(run / "checkpoints/last.ckpt")["Data"]["inputs"].keys() == {"train", "val", "test"}


def folder_data(root: Path, **options: object) -> Data:
    data = Data(image_folder(str(root), [1, 28, 28], CLASSES), [1, 28, 28], 16, 3, mean=0.3, std=0.3, **options)  # type: ignore[arg-type]
    data.setup("fit")
    return data


@pytest.mark.parametrize("options", [{}, {"cache": "memmap"}, {"in_memory": False}])
def test_image_files_are_covered_however_they_are_read(
    lamella: Lamella, image_root: Path, options: dict[str, object]
) -> None:
    saved = folder_data(image_root, **options).state_dict()
    assert folder_data(image_root, **options).differences(saved, "fit") == []
    change_pixel(sorted(image_root.glob("train/*/*.png"))[0])
    [said] = folder_data(image_root, **options).differences(saved, "fit")
    assert said in ("the training inputs", "the validation inputs", "the test inputs")


@pytest.mark.parametrize(("stage", "said"), [("validate", "the validation inputs"), ("test", "the test inputs")])
def test_changed_images_of_a_cache_are_found_by_each_stage(
    lamella: Lamella, image_root: Path, stage: str, said: str
) -> None:
    saved = folder_data(image_root, cache="memmap").state_dict()
    for file in image_root.glob("train/*/*.png"):
        change_pixel(file)
    data = Data(image_folder(str(image_root), [1, 28, 28], CLASSES), [1, 28, 28], 16, 3, mean=0.3, cache="memmap")
    assert data.differences(saved, stage) == [said]


def test_a_cache_has_the_checksums_of_decoded_images(lamella: Lamella, image_root: Path) -> None:
    saved = folder_data(image_root).state_dict()
    data = folder_data(image_root, cache="memmap")
    assert data.differences(saved, "fit") == []
    [file] = Path("outputs/.cache").glob("*.crc32")  # from the making of the cache
    inputs = data.train.inputs
    assert isinstance(inputs, MappedImages)
    inputs.pixels = torch.zeros_like(inputs.pixels)  # no pixel is read again
    assert data.differences(saved, "fit") == []
    file.unlink()  # as in a cache of an earlier version
    assert folder_data(image_root, cache="memmap").differences(saved, "fit") == []
    assert file.is_file()


def small(inputs: Tensor | NamedInputs) -> Splits:
    return Splits(Samples(inputs, torch.arange(20) % 2))


@settings(deadline=None, max_examples=30)
@given(row=st.integers(0, 19), column=st.integers(0, 3), named=st.booleans())
def test_a_changed_number_is_found(row: int, column: int, named: bool) -> None:
    def data(values: Tensor) -> Data:
        inputs = NamedInputs({"a": values[:, :2].clone(), "b": values[:, 2:].clone()}) if named else values
        shape = {"a": [2], "b": [2]} if named else [4]
        dtype: str | dict[str, str] = {"a": "float32", "b": "float32"} if named else "float32"
        return Data(small(inputs), shape, 4, 2, dtype=dtype)

    values = torch.arange(80.0).view(20, 4)
    saved = data(values).state_dict()
    assert data(values.clone()).differences(saved, "fit") == []
    values[row, column] += 0.5
    assert len(data(values).differences(saved, "fit")) == 1
    assert "number of" in data(values).differences({**saved, "targets": [[3, 1]]}, "fit")[0]


class Numbers(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Samples of a project's own. of: makes the input of a sample."""

    def __init__(self, of: Callable[[int], Tensor]) -> None:
        self.of = of

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.of(index), index % 2


def test_the_first_samples_of_a_dataset_are_covered_unless_they_are_random() -> None:
    def data(of: Callable[[int], Tensor]) -> OwnData:
        return OwnData(Datasets(Numbers(of), batch_size=4), 2)

    saved = data(lambda index: torch.full((3,), float(index))).state_dict()
    assert data(lambda index: torch.full((3,), float(index))).differences(saved, "fit") == []
    assert data(lambda index: torch.full((3,), index + 0.5)).differences(saved, "fit") == [
        f"the first {word} inputs" for word in ("training", "validation", "test")
    ]
    unseeded = torch.Generator()
    unseeded.seed()
    noise = data(lambda index: torch.rand(3, generator=unseeded))
    assert noise.differences(noise.state_dict(), "fit") == []
    assert data(lambda index: torch.rand(3, generator=unseeded)).differences(noise.state_dict(), "fit") == []


def test_runs_of_one_program_compute_the_checksums_once() -> None:
    data = Data(digits(8), [1, 8, 8], 64, 10)
    data.state_dict()
    other = data.with_seed(1)
    assert other.checksums.of(other.splits)["train"] is data.checksums.of(data.splits)["train"]

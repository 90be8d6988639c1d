"""What a dataset, a stream or a datamodule of the project's own cannot be: refused before a run has a directory."""

from pathlib import Path

import pytest
from conftest import Lamella, Project

MINE = """
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Items(Dataset):
    def __init__(self, kind="right", bad=3, length=100):
        self.kind, self.bad, self.length = kind, bad, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        x = torch.randn(4)
        if index != self.bad and self.kind not in ("mapping", "named", "pixels"):
            return x, index % 3
        match self.kind:
            case "right":
                return x, index % 3
            case "none":
                return None
            case "single":
                return x
            case "three":
                return x, x, 1
            case "text":
                return "a text", 1
            case "picture":
                return Image.new("L", (4, 4)), 1
            case "ragged":
                return torch.randn(5), 1
            case "label":
                return x, 7
            case "pixels":
                return torch.zeros(4, dtype=torch.uint8), 1
            case "error":
                return {}["missing"]
            case "mapping":
                return {"x": x, "label": index % 3}
            case "named":
                return {"x": x, "path": "a.png", "target": index % 3}


class Stream(IterableDataset):
    def __init__(self, kind="right"):
        self.kind = kind

    def __iter__(self):
        if self.kind == "error":
            raise OSError("the stream is closed")
        for index in range(0 if self.kind == "empty" else 80):
            yield torch.randn(4), torch.randn(2) if self.kind == "numbers" else index % 3


class Module(pl.LightningDataModule):
    def __init__(self, kind="right", batch_size=16):
        super().__init__()
        self.kind, self.batch_size = kind, batch_size

    def setup(self, stage):
        if self.kind == "setup":
            open("missing.csv")

    def train_dataloader(self):
        loader = DataLoader(Items(), self.batch_size, shuffle=True)
        return [loader, loader] if self.kind == "two" else loader

    def val_dataloader(self):
        return DataLoader(Items(), self.batch_size) if self.kind != "no val" else []


class NoTest(Module):
    pass


class Tested(Module):
    def test_dataloader(self):
        return DataLoader(Items(), self.batch_size)


def pad(items):
    return torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])


def wrong(items):
    return items[0][0].missing


def number():
    return 7
"""
BASE = ("device=cpu", "device.threads=1", "visuals=none", "data.num_classes=3", "trainer.max_epochs=1")


@pytest.fixture
def own(project: Project) -> None:
    project({}, mine=MINE)


def dataset(kind: str = "right", bad: int = 3) -> list[str]:
    return ["data=dataset", f"data.train={{_target_: mine.Items, kind: {kind}, bad: {bad}}}"]


def stream(kind: str = "right") -> list[str]:
    return [
        "data=iterable",
        f"data.train={{_target_: mine.Stream, kind: {kind}}}",
        "monitor=train/loss",
        "trainer.test=false",
    ]


def module(name: str = "Tested", kind: str = "right") -> list[str]:
    return ["data=module", f"data._target_=mine.{name}", f"+data.kind={kind}"]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dataset("none", bad=0), "data: item 0 of data.train is None; it takes a pair (input, target), or a map"),
        (dataset("single", bad=0), "data: item 0 of data.train is a tensor [1, 4]; it takes a pair (input, "),
        (dataset("three"), "data: item 3 of data.train is a list of 3: Tensor; it takes a pair"),
        (dataset("text"), "data: item 3 of data.train has as its input text; it takes a tensor, an array or a "),
        (dataset("picture"), "data: item 3 of data.train holds a picture of PIL; give the dataset a transform "),
        (dataset("ragged"), "data: item 6 of data.train has the shape [4], and item 3 of data.train [5]; name a fun"),
        (dataset("pixels"), "data: item 0 of data.train has as its input uint8, the type of pixels; a dataset "),
        (dataset("error"), "data: item 3 of data.train cannot be read: KeyError: 'missing'\n  mine.py, line "),
        (dataset("label"), "data.num_classes is 3, but a target of item 3 of data.train is 7; whole numbers are "),
        ([*dataset(), "data.num_classes=null"], "data.num_classes is null, but the target of item 0 of data.train is "),
        ([*stream("numbers"), "data.num_classes=null"], "data.num_classes is null, and the network reads it; a ta"),
        (dataset("error", bad=70), "data: item 70 of data.train cannot be read: KeyError: "),
        (dataset("mapping"), "data.target is 'target', and item 0 of data.train has the keys x, label; known: "),
        (
            dataset("named"),
            "data: item 0 of data.train has as its input 'path' text; it takes a tensor, an array or a number; "
            "choose the inputs by data.input=[x]\n",
        ),
        ([*dataset("named"), "data.input=[y]"], "data.input is 'y', and item 0 of data.train has the inputs x, "),
        ([*dataset(), "data.input=x"], "data.input is 'x', and item 0 of data.train has as its input a tensor [1"),
        ([*dataset(), "data.collate=mine.wrong"], "data.collate fails on item 0 of data.train: AttributeError: "),
        ([*dataset(), "data.collate=mine.missing"], "data.collate._target_ is 'mine.missing', which cannot be impor"),
        ([*dataset(), "data.collate=torch.stack"], "data.collate._target_ is 'torch.stack'; a config may build from "),
        ([*dataset(), "data.shape=[5]"], "data.shape is [5], but the first samples are [4]; leave it null"),
        ([*dataset(), "data.dtype=int64"], "data.dtype is int64, but the first samples are float32; leave it null"),
        ([*dataset(), "data.batch_size=0"], "data.batch_size is 0; it takes 1 or more"),
        ([*dataset(), "data.classes=[a,b]"], "data.num_classes is 3, but data.classes names 2"),
        ([*dataset(), "+data.in_memory=false"], "data.in_memory: Datasets has no such argument; "),
        (["data=dataset", "data.train={_target_: mine.Stream}"], "data.train is a Stream, an IterableDataset, whose "),
        (["data=dataset", "data.train={_target_: torch.nn.ReLU}"], "data.train is a ReLU; it takes a dataset with "),
        (["data=dataset", "data.train={_target_: torchvision.datasets.LSUN, root: x}"], "data.train._target_ is 'to"),
        (
            ["data=dataset", "data.train={_target_: mine.Items, kind: {_target_: torchvision.transforms.ToTensor}}"],
            "data.train.kind._target_ is 'torchvision.transforms.ToTensor'; it takes a subclass of Dataset or Module; "
            "take torchvision.transforms.v2.ToImage and then torchvision.transforms.v2.ConvertImageDtype\n",
        ),
        (["data=iterable", "data.train={_target_: mine.Items}"], "data.train is a Items, which is no IterableDatase"),
        ([*stream(), "data.num_workers=2"], "data.num_workers is 2; it takes 0 or 1, because each of several process"),
        ([*stream(), "data.drop_last=true", "data.batch_size=null"], "data.drop_last is true, but data.batch_size is "),
        (stream("error"), "data: mine.Stream cannot make batch 0 of an epoch: OSError: the stream is closed\n  mine"),
        (stream("empty"), "data: mine.Stream gives no training batch"),
        ([*stream(), "trainer.test=true"], "data: mine.Stream has no test samples; write trainer.test=false"),
        ([*stream(), "monitor=val/loss"], "monitor is 'val/loss'; this loss and data give train/loss, train/accuracy;"),
        ([*stream(), "trainer=ddp", "trainer.devices=2"], "trainer.devices: each of 2 devices would train all batch"),
        (module(kind="setup"), "data: mine.Tested.setup fails: FileNotFoundError: [Errno 2] No such file or directo"),
        (module(kind="two"), "data: mine.Tested.train_dataloader returns a list; it takes one loader of batches"),
        (module("NoTest"), "data: mine.NoTest has no test samples; write trainer.test=false"),
        ([*module(), "+data.batch_sise=3"], "data.batch_sise: Tested has no such argument; did you mean batch_size?"),
        (["data=module", "data._target_=mine.number"], "data: its target gives a int; it takes a LightningDataModule"),
        (["data=module", "data._target_=mine.Items"], "data._target_ is 'mine.Items'; it takes a subclass of Lightn"),
        (["data=module", "data._target_=torch.nn.ReLU"], "data._target_ is 'torch.nn.ReLU'; it takes a subclass of "),
        (
            ["data=module", "data._target_=pytorch_lightning.demos.boring_classes.BoringDataModule"],
            "data._target_ is 'pytorch_lightning.demos.boring_classes.BoringDataModule'; data comes from "
        ),
    ],
)  # fmt: skip
def test_what_is_refused(lamella: Lamella, options: list[str], message: str) -> None:
    result = lamella("train", *BASE, *options)
    assert result.status == 2, result.out + result.err
    assert f"error: {message}" in result.err
    assert not Path("outputs").exists()

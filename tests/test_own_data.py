"""Datasets, streams and datamodules of the project's own: the examples, what is promised, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kill
import pytest
import pytorch_lightning as pl
import torch
from conftest import Lamella, Project
from killed import kill_and_resume
from test_examples import example
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lamella import load, seeds
from lamella.config.targets import resolve_target
from lamella.data import Samples, Splits
from lamella.data.loaded import LoadedBatches
from lamella.data.samples import cut_splits
from lamella.errors import RequestError

CPU = torch.device("cpu")
SHORT = ("device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=2")
Batches = Iterator[tuple[Tensor, Tensor]]


class Plain(pl.LightningModule):
    """A classifier as Lightning's documentation has it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.losses = network, [[0.0, 0]]

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        if number == 0:
            self.losses.append([0.0, 0])
        self.losses[-1] = [self.losses[-1][0] + loss.item() * len(batch[1]), self.losses[-1][1] + len(batch[1])]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3, fused=True)


class Epochs:
    """A loader whose batches are another iterator in each epoch."""

    def __init__(self, batches: Callable[[int], Batches]) -> None:
        self.batches, self.epoch = batches, 0

    def __iter__(self) -> Batches:
        yield from self.batches(self.epoch)
        self.epoch += 1


def seeded_batches(loader: DataLoader[Any], epoch: int) -> Batches:
    """The batches of a loader as Lamella seeds them."""
    iterator, number = iter(()), 0
    while True:
        with seeds.seeded(CPU, 0, epoch, seeds.READ, number):
            iterator = iter(loader) if number == 0 else iterator
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch[0], batch[1]
        number += 1


def own(path: str) -> Any:
    """What a dotted path in the working directory names."""
    return resolve_target(path, "test", object)


def strokes() -> tuple[nn.Module, Callable[[int], Batches]]:
    dataset, pad = own("strokes.Strokes")(), own("strokes.pad")
    numbers = torch.arange(len(dataset))
    train, *_ = cut_splits(Splits(Samples(numbers, numbers)), 0.1, 0.1, 0)

    def batches(epoch: int) -> Batches:
        order = torch.randperm(len(train), generator=seeds.generator(0, epoch, seeds.ORDER))
        for indices in torch.split(order, 64):
            items = []
            for index in indices.tolist():
                number = int(train.targets[index])
                seeds.reseed(seeds.mixed(0, epoch, seeds.READ, number), CPU)
                items.append(dataset[number])
            batch = pad(items)
            yield batch["places"], batch["digit"]

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(65, 64)
            self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        def forward(self, places: Tensor) -> Tensor:
            kept = (places != 0).float()[:, :, None]
            mean: Tensor = self.head((self.embedding(places) * kept).sum(1) / kept.sum(1))
            return mean

    torch.manual_seed(0)
    return Bag(), batches


def mlp() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for size in (64, 128):
        layers += [nn.Linear(size, 128), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def digits_module() -> tuple[nn.Module, Callable[[int], Batches]]:
    module = own("digits_module.DigitsModule")()
    module.setup("fit")
    return mlp(), lambda epoch: seeded_batches(module.train_dataloader(), epoch)


def stream() -> tuple[nn.Module, Callable[[int], Batches]]:
    loader: DataLoader[Any] = DataLoader(own("stream.Stream")(0, 1400, 200), 64)
    return mlp(), lambda epoch: seeded_batches(loader, epoch)


def losses(run: Path) -> list[float]:
    """The training loss of each epoch of a run."""
    return [json.loads(line)["train/loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow(30)
@pytest.mark.parametrize(
    ("name", "plain"), [("own_dataset", strokes), ("own_datamodule", digits_module), ("iterable", stream)]
)
def test_an_example(
    lamella: Lamella, tmp_path: Path, name: str, plain: Callable[[], tuple[nn.Module, Callable[[int], Batches]]]
) -> None:
    """It gives the losses of a plain Trainer and, after a kill in an epoch, the same bits."""
    example(name, tmp_path)
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    for directory in (reference, killed):
        example(name, directory)
    options = (f"experiment={name}", *SHORT, "trainer.checkpoint_every=1steps")
    whole, printed = kill_and_resume(reference, killed, *options, shares=(1 / 4, 1 / 2))
    assert ", batch " in printed

    network, batches = plain()
    module = Plain(network)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, Epochs(batches))
    assert losses(whole) == pytest.approx([total / count for total, count in module.losses[1:]], rel=1e-4)

    tested = lamella("eval", str(whole))
    assert tested.status == 0, tested.err
    assert f"{json.loads((whole / 'run.json').read_text())['metrics']['test/accuracy']:.4f}" in tested.out
    again = lamella("reproduce", str(whole))
    assert again.status == 0, again.out + again.err
    shown = lamella("inspect", str(whole))
    assert shown.status == 0, shown.err
    if name == "own_dataset":
        with pytest.raises(RequestError, match="takes places by name"):
            load(whole).predict({"places": torch.ones(1, 5)})  # type: ignore[arg-type]
    refused = lamella("predict", str(whole), "digit.png")
    assert refused.status == 2
    assert "was not trained on images or tables" in refused.err


@pytest.mark.slow(10)
def test_workers_change_nothing(lamella: Lamella, tmp_path: Path) -> None:
    example("own_dataset", tmp_path)
    runs = []
    for workers in (0, 2):
        result = lamella(
            "train",
            "experiment=own_dataset",
            *SHORT[:-1],
            "trainer.max_epochs=1",
            f"data.num_workers={workers}",
            f"name=w{workers}",
        )
        assert result.status == 0, result.err
        assert result.out.splitlines()[1] == (
            "1,455 samples in 10 classes (train), 162 set aside for validation, 180 set aside for test"
        )
        runs.append(next(Path("outputs", f"w{workers}").glob("*/checkpoints/last.ckpt")))
    states = [torch.load(path, weights_only=True)["state_dict"] for path in runs]
    assert kill.unequal(*states) == []


@pytest.mark.slow(10)
def test_a_sweep_over_a_datamodule(lamella: Lamella, tmp_path: Path) -> None:
    example("own_datamodule", tmp_path)
    result = lamella(
        "train", "-m", "experiment=own_datamodule", *SHORT[:-1], "trainer.max_epochs=1", "data.noise=0,0.1"
    )
    assert result.status == 0, result.err
    assert result.err.count("note: digits_module.DigitsModule makes the batches.") == 1
    assert len(list(Path("outputs/own_datamodule").glob("*/*/run.json"))) == 2
    fused = lamella(
        "train", "-m", "hydra/launcher=fused", "experiment=own_datamodule", *SHORT, "seed=0,1", "sweep.name=f"
    )
    assert fused.status == 0, fused.err
    assert "2 of 2 jobs run alone: data: digits_module.DigitsModule makes batches of its own" in fused.out


MINE = """
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import lamella


class Tagged(Dataset):
    '''A class for each position of a sequence; the length varies with the index.'''

    def __len__(self):
        return 90

    def __getitem__(self, index):
        words = torch.arange(4 if index < 20 else 4 + index % 3) % 5
        return {"words": words, "other": 1.0}, words % 2


def pad(items):
    pad = torch.nn.utils.rnn.pad_sequence
    words, targets = [item["words"] for item, _ in items], [target for _, target in items]
    other = torch.tensor([item["other"] for item, _ in items])
    return {"words": pad(words, True, 0), "other": other}, pad(targets, True, -100)


class Module(pl.LightningDataModule):
    '''Has a sampler with a generator of its own, batches that are dicts, and a hook.'''

    def __init__(self):
        super().__init__()
        self.samples = TensorDataset(torch.arange(40.0)[:, None], torch.arange(40) % 2)
        self.generator = torch.Generator().manual_seed(3)
        self.stages = []

    def setup(self, stage):
        self.stages.append(stage)

    def train_dataloader(self):
        sampler = RandomSampler(self.samples, generator=self.generator)
        return DataLoader(self.samples, 8, sampler=sampler, collate_fn=self.collate)

    def test_dataloader(self):
        return DataLoader(self.samples, 8, collate_fn=self.collate)

    def collate(self, items):
        numbers, labels = torch.utils.data.default_collate(items)
        return {"numbers": numbers, "label": labels, "name": ["a"] * len(items)}

    def on_after_batch_transfer(self, batch, index):
        assert self.trainer is None or self.trainer.global_rank == 0
        return batch | {"numbers": batch["numbers"] + 0.01 * torch.randn(1)}


class Looks(lamella.Task):
    def step(self, batch):
        inputs, targets = batch
        assert sorted(inputs) == ["other", "words"] and targets.dtype == torch.int64
        output = self.network(inputs)
        length = torch.tensor(float(targets.shape[1]))
        return {"loss": self.objective(output, targets), "output": output, "length": length}
"""
TAGGER = "layers: [{Select: words}, {Embedding: [5, 8]}, {Linear: '${data.num_classes}'}]"
WHOLE = """

class Whole(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 2)

    def forward(self, batch):
        return self.linear(batch["numbers"])

    def training_step(self, batch):
        loss = torch.nn.functional.cross_entropy(self(batch), batch["label"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())
"""


@pytest.mark.slow
def test_a_class_for_each_position_of_padded_sequences(lamella: Lamella, project: Project) -> None:
    """The padding of later batches does not count, although the first batch has none."""
    project({"network/tagger.yaml": TAGGER}, mine=MINE)
    data = ("data=dataset", "data.train={_target_: mine.Tagged}", "data.collate=mine.pad", "data.num_classes=2")
    result = lamella("train", *SHORT, *data, "network=tagger", "task._target_=mine.Looks", "optimizer.lr=0.1")
    assert result.status == 0, result.err
    [path] = Path("outputs/default").glob("*/metrics.jsonl")
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["val/accuracy"] == 1.0
    assert last["train/length"] > 4


MODULE = (
    "data=module",
    "data._target_=mine.Module",
    "data.num_classes=2",
    "data.target=label",
    "data.input=numbers",
)


@pytest.mark.slow
def test_a_datamodule_keeps_its_sampler_its_dicts_and_its_hooks(lamella: Lamella, project: Project) -> None:
    project({}, mine=MINE)
    runs = [lamella("train", *SHORT, *MODULE, "network=linear", "monitor=train/loss", f"name={name}") for name in "ab"]
    assert [run.status for run in runs] == [0, 0], runs[0].err
    assert "mine.Module: 5 training batches" in runs[0].out
    a, b = (losses(next(Path("outputs", name).glob("*"))) for name in "ab")
    assert a == b


@pytest.mark.slow
def test_a_network_that_takes_the_dicts_of_a_datamodule_has_no_file(lamella: Lamella, project: Project) -> None:
    project({}, mine=MINE + WHOLE)
    result = lamella("train", *SHORT, *MODULE, "task._target_=mine.Whole", "monitor=train/loss")
    assert result.status == 0, result.err
    exported = lamella("export", str(next(Path("outputs/default").iterdir())), "--format", "safetensors")
    assert (exported.status, exported.err.splitlines()[-1]) == (
        1,
        "error: this network cannot be exported as safetensors: its network takes several inputs by name, and a file "
        "has one input",
    )


def test_the_generator_of_a_sampler_and_set_epoch_depend_on_the_epoch(tmp_path: Path) -> None:
    epochs: list[int] = []

    class Sampler(torch.utils.data.RandomSampler):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    generator = torch.Generator()
    loader: DataLoader[Any] = DataLoader(range(30), 10, sampler=Sampler(range(30), generator=generator))  # type: ignore[arg-type]

    def pair(batch: object) -> tuple[Tensor, Tensor]:
        assert isinstance(batch, Tensor)
        return batch, batch

    def batches(epoch: int, start: int = 0) -> list[list[int]]:
        loaded = LoadedBatches(loader, pair, "mine.Loader", 7, CPU, lambda: epoch)
        loaded.start = lambda: start
        return [inputs.tolist() for inputs, _ in loaded if isinstance(inputs, Tensor)]

    first, second = batches(0), batches(1)
    torch.rand(3)
    assert first != second
    assert (batches(0), batches(1, start=2)) == (first, second[2:])
    assert epochs == [0, 1, 0, 1]


LABELS = """
import torch
from torch.utils.data import Dataset


class Labels(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, index):
        x = torch.randn(4)
        return x, (x[:3] > 0).float()
"""


def test_targets_that_are_floats_need_no_number_of_classes(lamella: Lamella, project: Project) -> None:
    project({"network/three.yaml": "layers: [Linear: 3]"}, mine=LABELS)
    data = ("data=dataset", "data.train={_target_: mine.Labels}", "loss=bce_with_logits")
    result = lamella("train", *SHORT, *data, "network=three", "name=labels")
    assert result.status == 0, result.err
    [run] = Path("outputs/labels").iterdir()
    assert load(run).classes == ["0", "1", "2"]
    assert lamella("eval", str(run)).status == 0


@pytest.mark.parametrize("floats", ["ConvertImageDtype", "ToDtype, dtype: torch.float32, scale: true"])
def test_a_dataset_of_torchvision_with_a_transform(lamella: Lamella, mnist_root: Path, floats: str) -> None:
    parts = [f"{{_target_: torchvision.transforms.v2.{name}}}" for name in ("ToImage", floats)]
    transform = f"{{_target_: torchvision.transforms.v2.Compose, transforms: [{', '.join(parts)}]}}"
    options = [
        f"data.{name}={{_target_: torchvision.datasets.MNIST, root: {mnist_root}, train: {train}, "
        f"transform: {transform}}}"
        for name, train in (("train", True), ("test", False))
    ]
    result = lamella("train", "data=dataset", *options, "data.num_classes=10", *SHORT, "network=linear")
    assert result.status == 0, result.err
    assert "180 samples in 10 classes (train), 20 set aside for validation, 100 (test)" in result.out

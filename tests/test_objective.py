"""What a network may predict: classes of samples and of positions, labels, numbers and the input itself."""

import json
import re
from pathlib import Path

import programs
import pytest
import torch
from conftest import Lamella, Project, Result
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from lamella.data import NamedInputs, Samples
from lamella.errors import RequestError
from lamella.training.objective import Objective

SOURCES = """
import torch
from lamella.data import NamedInputs, Samples, Splits

def drawn(*shape, high):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(0))

def characters(length=12):
    text = drawn(400, length + 1, high=3).cumsum(1) % 7
    targets = text[:, 1:].to(torch.int16)
    targets[::3, 5:] = -100
    return Splits(Samples(text[:, :-1].to(torch.int16), targets))

def masks(high=256):
    images = drawn(300, 1, 8, 8, high=high).to(torch.uint8)
    targets = (images[:, 0] > 127).to(torch.uint8)
    targets[:, 0] = 255
    return Splits(Samples(images, targets))

def pairs():
    tokens, numbers = drawn(300, 6, high=5).to(torch.int32), drawn(300, 2, high=9).float()
    return Splits(Samples(NamedInputs({"tokens": tokens, "numbers": numbers}), tokens[:, 0].long()))

def pixels_by_name():
    return Splits(Samples(NamedInputs({"image": torch.zeros(9, 4, dtype=torch.uint8)}), torch.arange(9) % 2))
"""
DATA = "defaults: [default, _self_]\n"
CHARACTERS = DATA + "source: {_target_: mine.characters}\nshape: [12]\ndtype: int64\nnum_classes: 7\nclasses: null\n"
MASKS = DATA + "source: {_target_: mine.masks}\nshape: [1, 8, 8]\nnum_classes: 2\nignored: 255\n"
NAMED = DATA + "source: {_target_: mine.pairs}\nnum_classes: 5\n"
PAIRS = NAMED + "shape: {tokens: [6], numbers: [2]}\ndtype: {tokens: int64, numbers: float32}\n"
LAST = "layers: [{Embedding: [7, 16]}, {Dropout: 0.1}, {Linear: 32}, ReLU, {Linear: '${data.num_classes}'}]\n"
PIXELS = DATA + "source: {_target_: mine.pixels_by_name}\nnum_classes: 2\nshape: {image: [4]}\n"
JOINED = """
layers:
  - Concat:
      - [{Select: tokens}, {Embedding: [5, 8]}, {Pool: 1}]
      - [{Select: numbers}, {Linear: 8}]
  - Linear: ${data.num_classes}
"""
CONF = {
    "data/characters.yaml": CHARACTERS,
    "data/masks.yaml": MASKS,
    "data/pairs.yaml": PAIRS,
    "data/pixels.yaml": PIXELS,
    "network/last.yaml": LAST,
    "network/pixel.yaml": "layers: [{Conv2d: [8, 3, 1, 1]}, ReLU, {Conv2d: ['${data.num_classes}', 1]}]\n",
    "network/joined.yaml": JOINED,
}
KINDS = {
    "characters": ("data=characters", "network=last"),
    "masks": ("data=masks", "network=pixel"),
    "pairs": ("data=pairs", "network=joined"),
    "reconstruction": (
        "+data.reconstruct=true", "network.layers=[Flatten,{Linear: 784},{Unflatten: [1,[1,28,28]]}]", "loss=mse",
        "monitor=val/loss",
    ),
}  # fmt: skip
SHORT = ("device=cpu", "device.threads=1", "trainer.max_epochs=2")


@pytest.fixture
def kinds(project: Project, lamella: Lamella) -> Lamella:
    project(CONF, mine=SOURCES)
    return lamella


def done(result: Result) -> Result:
    assert result.status == 0, result.err
    return result


def only_run() -> Path:
    [record] = Path("outputs").rglob("run.json")
    return record.parent


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_every_kind(kinds: Lamella, kind: str) -> None:
    done(kinds("inspect", *KINDS[kind], *SHORT))
    done(kinds("train", *KINDS[kind], *SHORT))
    run = only_run()
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    done(kinds("eval", str(run)))
    tested = json.loads((run / "eval.json").read_text())["metrics"]
    assert tested == {name: value for name, value in metrics.items() if name.startswith("test/")}
    done(kinds("inspect", str(run), "--gradients"))
    assert "bit for bit" in done(kinds("reproduce", str(run))).out
    exported = kinds("export", str(run), "--format", "pt2")
    if kind == "pairs":
        assert exported.status == 1
        assert "its network takes several inputs by name" in exported.err
    else:
        done(exported)


@pytest.mark.slow(15)
@pytest.mark.parametrize("kind", ["characters", "masks"])
def test_two_processes_leave_out_what_one_does(project: Project, tmp_path: Path, kind: str) -> None:
    project(CONF, mine=SOURCES)
    options = [*KINDS[kind], "device=cpu", "optimizer=sgd", "trainer.max_epochs=1", "data.drop_last=true"]
    options += ["network.layers.1.Dropout=0.0"] * (kind == "characters")
    options += ["data.batch_size=16"]
    programs.run(tmp_path, "train", *options, "trainer=ddp", "trainer.devices=2")
    programs.run(tmp_path, "train", *options)
    records = sorted(tmp_path.rglob("run.json"), key=lambda path: "ddp" in str(path))
    single, double = (json.loads(path.read_text())["metrics"] for path in records)
    assert double == pytest.approx(single, rel=1e-4)


REFUSED = {
    "data=characters network=last data.num_classes=6": "data.num_classes is 6, but a training label is 6",
    "data=masks network=pixel data.ignored=7": "data.num_classes is 2, but a training label is 255",
    "data=masks network=pixel network.layers.2.Conv2d=[3,1]": "it gives (3, 8, 8) for a sample, where 2 classes for "
    "each of (8, 8) positions take (2, 8, 8) or (8, 8, 2)",
    "data=characters network=last data.num_classes=12 network.layers.0.Embedding=[12,16]": "in which the 12 "
    "classes may be the first or the last dimension; write network.class_dim=1",
    "data=characters network=last +network.class_dim=2": "network.class_dim is 2; it takes 1 or -1",
    "data=characters network=last +network.class_dim=1": "it gives (12, 7) for a sample",
    "data=characters network=last data.dtype=float32": "data.dtype is float32, but the training samples are int64",
    "data=characters network=last data.dtype=int": "data.dtype is 'int'; it takes float32, int64, bool",
    "data=masks network=pixel +data.dtype=int64": "data.dtype is int64, but the training samples are float32",
    "data=pairs network=joined data.shape.numbers=[3]": "data.shape is {'tokens': [6], 'numbers': [3]}, but the "
    "training samples are {'tokens': [6], 'numbers': [2]}",
    "data=pixels network=joined": "the named input image has the type uint8, which is for pixels",
    "+data.reconstruct=true loss=mse monitor=val/loss": "it gives (10,) for a sample, but a target is (1, 28, 28)",
    "data=tensors network=linear loss=mse monitor=val/loss +network.class_dim=1": "network.class_dim is for targets "
    "that are classes",
}


@pytest.mark.parametrize("request_", REFUSED)
def test_what_does_not_fit_is_refused(kinds: Lamella, request_: str) -> None:
    result = kinds("train", *re.findall(r"\S+=\[[^ ]*\]|\S+", request_), "device=cpu")
    assert result.status == 2, result.err
    assert REFUSED[request_] in " ".join(result.err.split())
    assert len(result.err.splitlines()) <= 10
    assert not Path("outputs").exists()


def made(shape: tuple[int, ...], classes: int, ignored: int | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, classes, (4, *shape), generator=generator)
    if ignored is not None:
        targets[0] = ignored
    return torch.randn(4, classes, *shape, generator=generator), targets


@pytest.mark.parametrize("ignored", [None, -100, 2, 255])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
@pytest.mark.parametrize("class_dim", [1, -1])
def test_classes_are_judged_alike_wherever_they_are(
    shape: tuple[int, ...], class_dim: int, ignored: int | None
) -> None:
    output, targets = made(shape, 4, ignored)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    given = output if class_dim == 1 else output.movedim(1, -1)
    expected = cross_entropy(output, targets, weight, ignore_index=-100 if ignored is None else ignored)
    loss = nn.CrossEntropyLoss(weight, ignore_index=-100 if ignored is None else ignored)
    objective = Objective.of(loss, [targets], tuple(given.shape[1:]), 4)
    assert objective.class_dim == (class_dim if shape else 1)
    torch.testing.assert_close(objective(given, targets), expected)
    counted = targets != (-100 if ignored is None else ignored)
    right = (output.argmax(1) == targets) & counted
    assert int(objective.metric_sum(given, targets)) == int(right.sum())
    assert int(objective.answers(targets)) == int(counted.sum())
    assert float(objective.weight(targets)) == float(weight[targets[counted]].sum())
    confusion = objective.confusion(given, targets)
    assert int(confusion.sum()) == int(counted.sum())
    assert int(confusion.diagonal().sum()) == int(right.sum())
    torch.testing.assert_close(objective.probabilities(given), output.softmax(1))


@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
@pytest.mark.parametrize("class_dim", [1, -1])
def test_other_losses_get_one_hot_rows(shape: tuple[int, ...], class_dim: int) -> None:
    output, targets = made(shape, 4, None)
    given = output if class_dim == 1 else output.movedim(1, -1)
    objective = Objective.of(nn.MSELoss(), [targets], tuple(given.shape[1:]), 4)
    rows = one_hot(targets, 4).movedim(-1, 1).float()
    torch.testing.assert_close(objective(given, targets), nn.MSELoss()(output, rows))


class Indices(nn.Module):
    """A loss of one's own that takes class indices."""

    reads = "classes"

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        assert targets.dtype == torch.int64
        return cross_entropy(output, targets)


def test_a_loss_may_say_that_it_reads_indices() -> None:
    output, targets = made((), 4, None)
    objective = Objective.of(Indices(), [targets], (4,), 4)
    assert torch.equal(objective(output, targets), cross_entropy(output, targets))


def test_named_inputs_are_taken_together() -> None:
    inputs = NamedInputs({"a": torch.arange(6), "b": torch.arange(6.0)})
    taken = Samples(inputs, torch.arange(6)).take(torch.tensor([4, 1])).inputs
    assert isinstance(taken, NamedInputs)
    assert {name: values.tolist() for name, values in taken.tensors.items()} == {"a": [4, 1], "b": [4.0, 1.0]}


def test_a_shape_that_is_no_shape_of_an_input_is_refused() -> None:
    with pytest.raises(RequestError, match="network: it gives"):
        Objective.of(nn.CrossEntropyLoss(), [torch.zeros(3, 5, dtype=torch.int64)], (7,), 4)

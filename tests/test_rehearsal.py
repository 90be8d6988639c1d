"""What a run would fail at is found before it has a directory, and the trial leaves no trace in the run."""

import json
import random
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import Lamella, Project
from programs import Program
from torch import nn

from lamella import load
from lamella.config.compose import compose_one
from lamella.experiment.build import build_experiment
from lamella.experiment.rehearsal import rehearse

SMALL = ("network=linear", "device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=1")
OWN = """
import time
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import Strategy
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, x):
        return self.shaped(self.linear(x.flatten(1)))

    def shaped(self, x):
        return x


class Fixed(Net):
    def shaped(self, x):
        return x if x.device.type == "meta" else x.view(64, 10)


class Detached(Net):
    def shaped(self, x):
        return x.detach()


class Slow(Net):
    def shaped(self, x):
        time.sleep(0.0 if x.device.type == "meta" else 0.2)
        return x


class Each(nn.CrossEntropyLoss):
    def forward(self, output, targets):
        return nn.functional.cross_entropy(output, targets, reduction="none")


class Learned(nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Ends(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        if self.last_epoch == 5:
            raise ValueError("no more")
        return self.base_lrs


class Logs(Callback):
    def on_train_epoch_end(self, trainer, module):
        module.log("mine", 1.0)


class Divided(Strategy):
    pass


def logs() -> Callback:
    print("made by a function")
    return Logs()


def net(width: int, **options: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, options["classes"]))
"""


def callback(name: str, **arguments: object) -> str:
    settings = "".join(f", {key}: {value}" for key, value in arguments.items())
    return f"trainer.callbacks=[{{_target_: pytorch_lightning.callbacks.{name}{settings}}}]"


def strategy(name: str, **arguments: object) -> str:
    settings = "".join(f", {key}: {value}" for key, value in arguments.items())
    return f"trainer.strategy={{_target_: pytorch_lightning.strategies.{name}{settings}}}"


CASES = {
    ("network=mlp", "data.batch_size=1293"): [
        "data.batch_size is 1293: BatchNorm1d at ",
        " fails on a training batch of 1 sample: Expected more than 1 value per channel",
        "with another size or data.drop_last=true there is no such batch",
        "the command line: data.batch_size=1293",
    ],
    ("network=mlp", "data.batch_size=1"): ["data.batch_size is 1: BatchNorm1d at "],
    ("network=own", "network._target_=mine.Fixed"): [
        "data.batch_size is 64: Fixed fails on a training batch of 14 samples: shape '[64, 10]' is invalid",
        "mine.py, line 23, in shaped: return x if",
    ],
    ("network=own", "network._target_=mine.Detached"): ["network: the backward pass fails on a training batch of 64"],
    ("loss=own", "loss._target_=torch.nn.BCELoss"): ["loss: BCELoss fails on a training batch of 64 samples: all elem"],
    ("loss=own", "loss._target_=mine.Each"): ["loss: Each gives a tensor of shape (1,); a step takes one number"],
    ("loss=own", "loss._target_=mine.Learned"): ["loss: Learned has parameters"],
    ("loss=own", "loss._target_=torch.nn.SoftMarginLoss"): ["loss: SoftMarginLoss takes targets of 1 and -1"],
    ("loss=own", "loss._target_=torch.nn.HingeEmbeddingLoss"): ["loss=cross_entropy or loss=bce_with_logits"],
    ("optimizer=own", "optimizer._target_=torch.optim.SparseAdam"): [
        "optimizer: SparseAdam fails on a training batch of 64 samples: SparseAdam does not support dense gradients",
    ],
    ("+optimizer.params=[1]",): ["optimizer.params: Lamella gives this argument itself"],
    ("scheduler=one_cycle", "scheduler.total_steps=20"): [
        "scheduler.total_steps: the schedule has 20 steps, and the run has 21 (optimizer steps)",
        "the command line: scheduler.total_steps=20",
    ],
    ("scheduler=one_cycle", "scheduler.pct_start=0.1", "+trainer.max_steps=10"): ["scheduler: float division by zero"],
    ("scheduler=own", "scheduler._target_=mine.Ends"): [
        "scheduler: Ends cannot take all the steps of the run: no more\n  mine.py, line 51, in get_lr: raise Val",
    ],
    ("+trainer.limit_val_batches=0.2",): ["trainer.limit_val_batches is 0.2: You requested to check 0.2 of the"],
    ("+trainer.limit_test_batches=0.1",): ["trainer.limit_test_batches is 0.1: You requested to check 0.1 of the"],
    ("+trainer.limit_test_batches=0",): ["trainer.limit_test_batches is 0", "trainer.test=false trains without a test"],
    ("trainer.test=maybe",): ["trainer.test is 'maybe'; it takes true or false"],
    ("+trainer.val_check_interval=22",): ["trainer.val_check_interval is 22: `val_check_interval` (22) must be less"],
    ("trainer.strategy=ddp_spawn",): ["trainer.strategy is 'ddp_spawn'", "use trainer=ddp"],
    (strategy("DDPStrategy", start_method="spawn"),): ["trainer.strategy.start_method is 'spawn'", "use trainer=ddp"],
    (strategy("FSDPStrategy"),): ["trainer.strategy is 'FSDPStrategy', which needs CUDA; use trainer=ddp"],
    (strategy("DDPStrategy"), "network=mlp", "data.batch_size=1293"): ["data.batch_size is 1293: BatchNorm1d at "],
    ("trainer.strategy=dp",): ["trainer.strategy is 'dp'; did you mean ddp"],
    ("+trainer.precision=bf16-true",): ["trainer.precision: Lamella sets this argument", "write device.precision"],
    ("+trainer.accelerator=cpu",): ["write device.accelerator"],
    ("+trainer.log_every_n_steps=1",): ["trainer.log_every_n_steps: Lamella sets this argument"],
    (callback("EarlyStopping", monitor="val_loss"),): [
        "trainer.callbacks.0.monitor is 'val_loss', which is not logged when EarlyStopping looks for it; ",
        "did you mean val/loss?",
    ],
    (callback("EarlyStopping", monitor="val/loss"), "+trainer.limit_val_batches=0"): [
        "trainer.callbacks.0.monitor is 'val/loss'"
    ],
    (callback("EarlyStopping", monitor="val/loss"), "data.val_size=0", "monitor=train/loss"): [
        "trainer.callbacks.0.monitor is 'val/loss', which is not logged when EarlyStopping looks for it; "
    ],
    (callback("EarlyStopping", monitor="train/loss"), "+trainer.val_check_interval=0.5"): [
        "trainer.callbacks.0.monitor is 'train/loss'"
    ],
    (callback("ModelCheckpoint", monitor="accuracy"),): ["trainer.callbacks.0.monitor is 'accuracy'"],
    (callback("BatchSizeFinder"),): ["trainer.callbacks.0: BatchSizeFinder", "lamella train -m data.batch_size="],
    (callback("LearningRateFinder"),): ["trainer.callbacks.0: LearningRateFinder", "lamella find lr finds a rate"],
    (callback("StochasticWeightAveraging", swa_lrs=0.1),): ["EMAWeightAveraging"],
    ("trainer.devices=0",): ["trainer.devices is 0; it takes 1 or more"],
    ("trainer=ddp", "+trainer.sync_batchnorm=true"): ["trainer.sync_batchnorm is true, which torch supports on a GPU"],
    ("trainer=ddp", "network=mlp", "data.batch_size=1292"): [
        "data.batch_size is 1292: BatchNorm1d at ",
        " fails on a training batch of 1 sample: ",
    ],
}


@pytest.fixture
def own(lamella: Lamella, project: Project) -> Lamella:
    """`lamella` in a project with a network, losses and a callback of its own."""
    project(mine=OWN)
    for group in ("network", "loss", "optimizer", "scheduler"):
        Path("conf", group).mkdir(parents=True)
        interval = "interval: step\n" * (group == "scheduler")
        Path("conf", group, "own.yaml").write_text(f"_target_: ???\n{interval}")
    return lamella


@pytest.mark.parametrize("given", CASES, ids=" ".join)
@pytest.mark.slow
def test_what_a_run_would_fail_at_leaves_nothing(own: Lamella, given: tuple[str, ...]) -> None:
    result = own("train", *SMALL, *given)
    assert result.status == 2, result.out
    position = 0
    for part in CASES[given]:
        assert part in result.err[position:], result.err
        position = result.err.index(part, position)
    assert "Traceback" not in result.err
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_sweep_is_refused_as_a_whole(lamella: Lamella) -> None:
    result = lamella("train", "-m", *SMALL, "network=mlp", "data.batch_size=64,1293", "seed=0,1")
    assert result.status == 2
    assert result.err.count("error: data.batch_size is 1293: BatchNorm1d at ") == 1
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("network=mlp", "data.batch_size=1293", "data.drop_last=true"),
        ("network=mlp", "data.batch_size=1293", "+trainer.limit_train_batches=1"),
        ("network=mlp", "data.batch_size=1293", "+trainer.max_steps=1"),
        (callback("EarlyStopping", monitor="none", strict="false"),),
        (callback("EarlyStopping", monitor="mine").replace("[{", "[{_target_: mine.Logs},{"),),
    ],
    ids=" ".join,
)
def test_what_does_not_happen_is_not_refused(own: Lamella, given: tuple[str, ...]) -> None:
    result = own("train", *SMALL, *given)
    assert result.status == 0, result.err


def test_a_function_that_makes_a_callback_is_called_by_the_run_alone(own: Lamella) -> None:
    stops = callback("EarlyStopping", monitor="mine").replace("[{", "[{_target_: mine.logs},{")
    result = own("train", *SMALL, stops)
    assert result.status == 0, result.err
    assert result.out.count("made by a function") == 1


@pytest.mark.slow
def test_a_strategy_that_cannot_be_tried_is_named(own: Lamella) -> None:
    result = own("train", *SMALL, "trainer.strategy={_target_: mine.Divided}")
    assert result.out.startswith("not tried before the run starts: trainer.strategy is Divided, and only auto and DDP")
    assert (result.status, "Divided" in result.err) == (2, True)  # it lacks what a strategy needs


def test_a_strategy_of_one_device_is_tried(lamella: Lamella) -> None:
    result = lamella("train", *SMALL, strategy("SingleDeviceStrategy", device="cpu"))
    assert result.status == 0, result.err
    assert "not tried" not in result.out


def test_a_recorded_network_keeps_the_keys_that_its_builder_hands_on(own: Lamella) -> None:
    result = own("train", *SMALL, "network=own", "network._target_=mine.net", "+network={width: 4, classes: 10}")
    assert result.status == 0, result.err
    [record] = Path("outputs").rglob("run.json")
    assert own("eval", str(record.parent)).status == 0


def test_a_recorded_loss_may_give_a_tensor_of_one_number(own: Lamella) -> None:
    job = compose_one([*SMALL, "loss=own", "loss._target_=mine.Each"])
    assert type(build_experiment(job.config).objective.loss).__name__ == "Each"


def test_outputs_that_are_probabilities_are_predicted_as_they_are(own: Lamella) -> None:
    Path("conf/network/ends.yaml").write_text("layers: [Flatten, {Linear: 10}, Sigmoid]\n")
    bce = ("loss=own", "loss._target_=torch.nn.BCELoss", "network=ends")
    result = own("train", *SMALL, *bce)
    assert result.status == 0, result.err
    [record] = Path("outputs").rglob("run.json")
    model, images = load(record.parent), torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(model.predict(images), model.network(model.preprocess(images)))
    inspected = own("inspect", *SMALL, *bce)
    assert inspected.status == 0, inspected.err
    assert "those that the network gives" in inspected.out


def test_a_run_without_a_test(lamella: Lamella) -> None:
    result = lamella("train", *SMALL, "trainer.test=false")
    assert result.status == 0, result.err
    assert "\ntest " not in result.out
    [record] = Path("outputs").rglob("run.json")
    assert sorted(json.loads(record.read_text())["metrics"]) == [
        "train/accuracy", "train/loss", "val/accuracy", "val/loss",
    ]  # fmt: skip
    assert lamella("eval", str(record.parent)).status == 0


class Counting(nn.CrossEntropyLoss):
    """A loss with a buffer that changes with each batch."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return super().forward(output, targets)


def test_nothing_of_the_trial_is_left() -> None:
    job = compose_one([*SMALL[1:], "network=mlp", "network.dropout=0.5", "data.augment=[{crop: 1}]", "optimizer=sgd"])
    experiment = build_experiment(job.config, job.references)
    object.__setattr__(experiment, "loss", Counting())
    before = {name: value.clone() for name, value in experiment.task.state_dict().items()}
    chunk = experiment.data.chunk
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    rehearse(experiment, job.config)
    numbers = random.random(), np.random.rand(), torch.rand(())
    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    assert numbers == (random.random(), np.random.rand(), torch.rand(()))
    after = experiment.task.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert experiment.task.training
    assert experiment.data.trainer is None
    assert experiment.data.chunk is chunk


@pytest.mark.slow
def test_a_long_step_ends_the_trial(own: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamella.experiment.rehearsal.LONG", 0.1)
    limits = ("+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1")
    result = own("train", *SMALL, "network=own", "network._target_=mine.Slow", *limits)
    assert result.status == 0, result.err
    assert result.out.startswith("a step takes 0 s, so nothing more is tried before the run starts\n")


class SlowLoss(nn.CrossEntropyLoss):
    """A loss that takes long, and keeps the sizes of the training batches."""

    sizes: ClassVar[list[int]] = []

    def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.sizes.append(len(output))
            time.sleep(0.2)
        return super().forward(output, targets)


def test_a_long_step_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamella.experiment.rehearsal.LONG", 0.1)
    job = compose_one(list(SMALL))
    experiment = build_experiment(job.config, job.references)
    object.__setattr__(experiment.objective, "loss", SlowLoss())
    rehearse(experiment, job.config)
    assert SlowLoss.sizes == [64]


@pytest.mark.parametrize(("monitor", "mode"), [("val/accuracy", "min"), ("val/loss", "max"), ("train/accuracy", "min")])
def test_a_mode_that_takes_the_worst_for_the_best_is_noted(lamella: Lamella, monitor: str, mode: str) -> None:
    result = lamella("train", *SMALL, callback("EarlyStopping", monitor=monitor, mode=mode))
    assert result.status == 0
    other = "max" if mode == "min" else "min"
    assert f"note: trainer.callbacks.0.mode is '{mode}', so that EarlyStopping takes a " in result.err
    assert result.err.rstrip().endswith(f"write mode: {other}")


@pytest.mark.slow
def test_a_failure_in_ones_own_code_names_its_place(tmp_path: Path, project: Project) -> None:
    project(
        mine=(
            "from pytorch_lightning import Callback\n\n\nclass Fails(Callback):\n"
            "    def on_train_epoch_end(self, trainer, module):\n        self.half(0)\n\n"
            "    def half(self, number):\n        return 1 / number\n"
        )
    )
    program = Program(tmp_path, "train", *SMALL, "trainer.callbacks=[{_target_: mine.Fails}]")
    assert program.wait() == 1
    lines = program.err.splitlines()
    assert lines[0] == "error: ZeroDivisionError: division by zero"
    assert lines[1:3] == [
        "  mine.py, line 6, in on_train_epoch_end: self.half(0)",
        "  mine.py, line 9, in half: return 1 / number",
    ]
    assert lines[-1].startswith("  to go on once that is fixed: lamella resume outputs/")

"""Jobs that differ in numbers alone as one program: the same results, each run as if it were alone."""

import copy
import json
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Lamella, Project
from programs import Program, wait_until
from torch import nn

from lamella.network.structure import network_signature
from lamella.sweeps.fused.flat_parameter import FlatParameter
from lamella.sweeps.fused.grouping import ELEMENTWISE
from lamella.sweeps.fused.stack import NetworkStack
from lamella.training.objective import Objective

FUSED = ("hydra/launcher=fused", "hydra.launcher.slots=1")
STOPPING = (
    "+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss, patience: 1,"
    " min_delta: 1e-3}]"
)


def sweep(name: str) -> Path:
    return Path("outputs/default", name)


def metrics(run: Path) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def records(directory: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(directory.glob("*/run.json"))}


def close(one: Path, other: Path, loss: float = 1e-4) -> None:
    """The members of two sweeps have the same results, within the rounding of floats."""
    assert sorted(records(one)) == sorted(records(other))
    for name, fields in records(one).items():
        expected = records(other)[name]
        assert (fields["status"], fields["epochs"], fields["steps"]) == tuple(
            expected[key] for key in ("status", "epochs", "steps")
        )
        for line, then in zip(metrics(one / name), metrics(other / name), strict=True):
            assert line.keys() == then.keys()
            assert line["lr"] == then["lr"]
            # What a batch's own statistics cancel, a bias before BatchNorm say, the running ones do not.
            for key, within in (("train/loss", loss), ("val/loss", 10 * loss)):
                assert line[key] == pytest.approx(then[key], rel=within * 10 ** (line["epoch"] - 1))
        for key, found in fields["metrics"].items():
            if key.endswith("accuracy"):
                assert found == pytest.approx(expected["metrics"][key], abs=0.002)


def together(directory: Path) -> list[int]:
    """How many networks were computed at once, as each member's log says."""
    logs = [path.read_text() for path in directory.glob("*/log.txt")]
    return [int(size) for log in logs for size in re.findall(r"^(\d+) networks? at once", log, re.M)]


# Before BatchNorm, a bias has no gradient but rounding errors, of which Adam would make steps of full size.
ADAM = "+optimizer.eps=1e-4"


@pytest.mark.slow(10)
@pytest.mark.parametrize(
    "options",
    [
        ["network=linear", "optimizer=sgd,adam,adamw", "optimizer.lr=1e-3,1e-2"],
        ["network=mlp", "optimizer=adam,adamw", ADAM, "seed=0,1", "scheduler=one_cycle", "trainer.max_epochs=2"],
        ["network=mlp", "optimizer=sgd", "optimizer.momentum=0,0.9", "loss.label_smoothing=0.0,0.1"],
        [
            "network=mlp",
            "optimizer=sgd",
            "trainer.gradient_clip_val=0.1,1.0",
            "seed=0,1",
            "data.augment=[{crop: 1},{mixup: 0.4}]",
        ],
        [
            "network=cnn",
            "network.widths=[4,8]",
            "network.dropout=0",
            "+optimizer.eps=1e-2",
            "optimizer.lr=5e-4,2e-4",
            "optimizer.weight_decay=0,1e-2",
        ],
        ["network=mlp", "optimizer=sgd", "trainer.accumulate_grad_batches=3", "scheduler.warmup_steps=0,5"],
    ],
    ids=["linear", "mlp", "numbers", "augmented", "cnn", "accumulated"],
)
def test_a_member_is_what_it_is_alone(lamella: Lamella, options: list[str]) -> None:
    line = ["train", "-m", "trainer.max_epochs=1", *options, "device.threads=1"]
    result = lamella(*line, *FUSED, "sweep.name=fused")
    assert result.status == 0, result.err
    assert "alone:" not in result.out
    assert lamella(*line, "sweep.name=local").status == 0
    close(sweep("fused"), sweep("local"))
    assert not [path for path in sweep("fused").glob("*/log.txt") if "cannot be computed" in path.read_text()]
    for name, fields in records(sweep("fused")).items():
        assert fields["inexact"] == ["others of its sweep as one program"]
        files = [{path.name.split(".")[0] for path in (sweep(one) / name).iterdir()} for one in ("fused", "local")]
        assert files[0] == files[1]
        for file in (sweep("local") / name / "checkpoints").iterdir():
            assert (sweep("fused") / name / "checkpoints" / file.name).stat().st_size == pytest.approx(
                file.stat().st_size, rel=0.05
            )


@pytest.mark.slow(12)
def test_dropout_differs_in_its_draws_alone(lamella: Lamella) -> None:
    line = ["train", "-m", "network=mlp", "network.dropout=0.0,0.1,0.5", ADAM, "seed=0,1", "trainer.max_epochs=3"]
    assert lamella(*line, *FUSED, "sweep.name=fused").status == 0
    assert lamella(*line, "sweep.name=local").status == 0
    for name, fields in records(sweep("fused")).items():
        own, alone = metrics(sweep("fused") / name), metrics(sweep("local") / name)
        exact = "dropout=0.0" in name
        assert own[0]["train/loss"] == pytest.approx(alone[0]["train/loss"], rel=1e-4 if exact else 0.1)
        assert fields["metrics"]["val/accuracy"] > 0.9


@pytest.mark.slow
def test_one_that_cannot_go_on_ends_alone(lamella: Lamella) -> None:
    line = ["train", "-m", "network=linear", "optimizer=sgd", "optimizer.lr=1e-2,1e38,1e-3", "trainer.max_epochs=2"]
    result = lamella(*line, *FUSED, "sweep.name=fused")
    assert result.status == 1
    assert re.search(r"optimizer\.lr=1e\+38  failed: NonFiniteLoss: the loss is (nan|inf) at step \d+", result.out)
    assert lamella(*line, "sweep.name=local").status == 1
    close(sweep("fused"), sweep("local"))
    causes = [
        [fields["error"] for fields in records(sweep(one)).values() if fields["status"] == "failed"]
        for one in ("fused", "local")
    ]
    assert causes[0] == causes[1]


@pytest.mark.slow
def test_those_that_stop_leave_the_others(lamella: Lamella) -> None:
    line = ["train", "-m", "network=linear", "optimizer.lr=1e-12,1e-3,1e-11", "trainer.max_epochs=4", STOPPING]
    assert lamella(*line, *FUSED, "sweep.name=fused").status == 0
    assert lamella(*line, "sweep.name=local").status == 0
    close(sweep("fused"), sweep("local"))
    assert sorted(fields["epochs"] for fields in records(sweep("fused")).values()) == [2, 2, 4]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """The weights in the checkpoints of all members."""
    return {
        f"{file.parent.parent.name} {file.name} {name}": value
        for file in sorted(directory.glob("*/checkpoints/[bl]*.ckpt"))
        for name, value in torch.load(file, weights_only=True)["state_dict"].items()
    }


def timeless(directory: Path) -> dict[str, list[dict[str, float]]]:
    """The metrics of all members without the times."""
    return {
        path.name: [
            {name: value for name, value in line.items() if name not in ("seconds", "samples_per_second")}
            for line in metrics(path)
        ]
        for path in directory.iterdir()
        if path.is_dir()
    }


@pytest.mark.slow(25)
@pytest.mark.parametrize("options", [["trainer.checkpoint_every=5steps"], ["trainer.accumulate_grad_batches=2"]])
def test_a_sweep_that_was_killed_has_the_same_bits(tmp_path: Path, lamella: Lamella, options: list[str]) -> None:
    line = ["train", "-m", "network=mlp", "network.width=8", "network.dropout=0.2,0.3", "seed=0,1", "visuals=none"]
    line += ["sweep.zip=[network.dropout,seed]", "trainer.max_epochs=4,6", "trainer.gradient_clip_val=1.0"]
    line += ["sweep.name=s", *options, *FUSED]
    # The width is given, because two sweeps may measure different ones.
    width = {"parameters": 6474, "width": 4}
    for _ in range(2):
        sweep("s").mkdir(parents=True)
        (sweep("s") / ".widths.jsonl").write_text(json.dumps(width) + "\n")
        if not sweep("whole").exists():
            assert lamella(*line).status == 0
            assert set(together(sweep("s"))) == {4}
            shutil.move(sweep("s"), sweep("whole"))
    for number, epochs in ((signal.SIGKILL, 1), (signal.SIGINT, 2), (signal.SIGKILL, 4)):
        process = Program(tmp_path, *line)

        def advanced(epochs: int = epochs) -> bool:
            trained = [len(metrics(path.parent)) for path in sweep("s").glob("*/run.json")]
            return len(trained) == 4 and min(trained) >= epochs

        wait_until(advanced, 60, process)
        process.kill_group(number)
        process.wait()
    result = lamella(*line)
    assert result.status == 0, result.err
    assert timeless(sweep("s")) == timeless(sweep("whole"))
    before, now = weights(sweep("whole")), weights(sweep("s"))
    assert before.keys() == now.keys()
    assert [name for name, value in before.items() if not torch.equal(value, now[name])] == []


@pytest.mark.slow(15)
@pytest.mark.parametrize("launcher", ["fused", "local"])
def test_killed_and_gone_on_with(tmp_path: Path, lamella: Lamella, launcher: str) -> None:
    line = ["train", "-m", "network=linear", "seed=0,1,2", "trainer.max_epochs=12", "sweep.name=s"]
    line += ["trainer.checkpoint_every=5steps", "visuals=none"]
    assert lamella(*line).status == 0
    shutil.move(sweep("s"), sweep("whole"))

    def trained() -> list[int]:
        """The epochs of each member that has been begun."""
        return [len(metrics(path.parent)) for path in sweep("s").glob("*/metrics.jsonl")]

    for number in (signal.SIGKILL, signal.SIGINT):
        before = min(trained(), default=0)
        process = Program(tmp_path, *line, *FUSED)

        def advanced(before: int = before) -> bool:
            return len(trained()) == 3 and min(trained()) > before

        wait_until(advanced, 60, process)
        process.kill_group(number)
        status = process.wait()
        if number == signal.SIGINT:
            assert status == 130, process.out
            assert "interrupted; to go on: lamella resume outputs/default/s" in process.out
    result = lamella(*line, *(FUSED if launcher == "fused" else ()))
    assert result.status == 0, result.err
    close(sweep("s"), sweep("whole"), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["network=mlp", "network.width=16,32"], "2 of 2 jobs run alone: no other job has the same network and data"),
        (["network=linear,mlp", "seed=0"], "2 of 2 jobs run alone: no other job has the same network and data"),
        (["data.in_memory=false", "seed=0,1"], "2 of 2 jobs run alone: data.in_memory is false"),
        (["device.compile=true", "seed=0,1"], "2 of 2 jobs run alone: device.compile compiles the steps of a single"),
        (["trainer.chunk=1", "seed=0,1"], "2 of 2 jobs run alone: trainer.chunk is 1"),
        (["device.precision=32,bf16-mixed"], "1 of 2 jobs runs alone: device.precision is bf16-mixed"),
        (["device.channels_last=false,auto"], "1 of 2 jobs runs alone: device.channels_last is auto"),
        (["optimizer=lbfgs", "optimizer.max_iter=1", "seed=0,1"], "2 of 2 jobs run alone: optimizer: LBFGS may look"),
        (["optimizer=muon", "seed=0,1"], "2 of 2 jobs run alone: optimizer.groups gives parameters different options"),
        (["optimizer.layer_decay=0.5", "seed=0,1"], "2 of 2 jobs run alone: optimizer.layer_decay gives parameters"),
        (["+trainer.max_time={hours: 1}", "seed=0,1"], "2 of 2 jobs run alone: trainer.max_time is for one run"),
        (["+trainer.detect_anomaly=true", "seed=0,1"], "2 of 2 jobs run alone: trainer.detect_anomaly is for one run"),
        (["+trainer.profiler=simple", "seed=0,1"], "2 of 2 jobs run alone: trainer.profiler is for one run"),
    ],
)  # fmt: skip
def test_what_is_trained_by_itself_is_said(lamella: Lamella, options: list[str], reason: str) -> None:
    result = lamella("train", "-m", "network=linear", *options, "trainer.max_epochs=1", *FUSED, "sweep.name=s")
    assert reason in result.out
    assert result.status == 0, result.err


OWN = """
import pytorch_lightning as pl
import torch
from torch import nn


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, inputs):
        return self.head(self.lstm(inputs.squeeze(1))[0][:, -1])


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, inputs):
        self.count = self.count + 1
        return self.head(inputs)


class Looking(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert len(batch) == 2


class Own(torch.optim.SGD):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("network={_target_: mine.Recurrent}", "network: not all are alike in lstm"),
        ("network={_target_: mine.Counting}", "network: Counting may replace a buffer"),
        ("+trainer.callbacks=[{_target_: mine.Looking}]", "trainer.callbacks.0: Looking looks at each batch"),
        (
            "optimizer={_target_: mine.Own, lr: 1e-2}",
            "optimizer: Own may look at more than each number and its gradient",
        ),
    ],
)
def test_code_of_the_project(lamella: Lamella, project: Project, override: str, reason: str) -> None:
    project(mine=OWN)
    key, _, node = override.partition("=")
    folder, group = Path("conf", key.strip("+").partition(".")[0]), key.strip("+").partition(".")[0]
    if "." not in key:
        folder.mkdir(parents=True)
        lines = node.strip("{}").split(", ")
        (folder / "mine.yaml").write_text("\n".join(lines) + "\n")
        override = f"{group}=mine"
    line = ["train", "-m", override, "seed=0,1", "trainer.max_epochs=1"]
    result = lamella(*line, *FUSED, "sweep.name=fused")
    assert f"2 of 2 jobs run alone: {reason}" in result.out
    assert result.status == 0, result.err


@pytest.mark.slow
def test_with_a_core_for_each_nothing_is_put_together(lamella: Lamella) -> None:
    line = ["train", "-m", "network=linear", "seed=0,1", "trainer.max_epochs=1", "hydra/launcher=fused"]
    result = lamella(*line, "hydra.launcher.slots=2", "sweep.name=s")
    assert "2 of 2 jobs run alone: all of them fit at the same time" in result.out
    result = lamella(*line, "hydra.launcher.slots=1", "hydra.launcher.width=1", "sweep.name=narrow")
    assert "2 of 2 jobs run alone: hydra.launcher.width is 1" in result.out


@pytest.mark.slow
def test_a_search(lamella: Lamella) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3"]
    line = ["train", "-m", *search, "optimizer.lr=tag(log, interval(1e-4, 1e-1))", "network=linear"]
    result = lamella(*line, "trainer.max_epochs=2", "hydra.sweeper.pruner=median", *FUSED, "sweep.name=s")
    assert result.status == 0, result.err
    assert len(records(sweep("s"))) == 6
    assert "by itself" not in result.out
    assert all(fields["inexact"] for fields in records(sweep("s")).values())


@pytest.mark.slow
@pytest.mark.parametrize("width", ["0", "wide", "true"])
def test_a_width_that_is_none(lamella: Lamella, width: str) -> None:
    result = lamella("train", "-m", "seed=0,1", "hydra/launcher=fused", f"hydra.launcher.width={width}")
    assert result.status == 2
    assert re.match(r"error: hydra\.launcher\.width is .*; it takes 1 or more", result.err)


@pytest.mark.slow
def test_the_width_is_measured(lamella: Lamella) -> None:
    line = ["train", "-m", "network=linear", "seed=range(6)", "trainer.max_epochs=4", "hydra.launcher.width=4"]
    result = lamella(*line, *FUSED, "sweep.name=s")
    assert result.status == 0, result.err
    assert ", 1 program at a time\n" in result.out
    sizes = together(sweep("s"))
    assert len(sizes) == 6
    assert set(sizes) <= {1, 3}  # the groups are balanced
    for path in sweep("s").glob("*/log.txt"):
        [said] = re.findall(r"^\d networks? at once: (.*)", path.read_text(), re.M)
        if said == "as at the start of the sweep":
            continue
        assert re.fullmatch(r"\d+\.\d\d ms for a step of one; (by itself|with 3 at once) \d+\.\d\d ms", said)


def block(rate: float = 0.0) -> nn.Sequential:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(rate), nn.Flatten(), nn.Linear(2704, 10)]
    return nn.Sequential(*layers)


def dense(rate: float = 0.0) -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, 10)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("smoothing", [(0.0, 0.1, 0.2), (0.1, 0.1, 0.1)])
@pytest.mark.parametrize("make", [block, dense])
def test_a_stack_is_its_networks(
    digit_images: tuple[torch.Tensor, torch.Tensor],
    make: Callable[[], nn.Sequential],
    smoothing: Sequence[float],
) -> None:
    networks, alone = [make() for _ in range(3)], [make() for _ in range(3)]
    for network, other in zip(networks, alone, strict=True):
        other.load_state_dict(network.state_dict())
    objectives = [Objective(nn.CrossEntropyLoss(label_smoothing=rate), "classes") for rate in smoothing]
    stack = NetworkStack(networks, make(), objectives)
    assert stack.is_direct is (make is dense)
    inputs = torch.stack([digit_images[0][start : start + 16] / 255 for start in (0, 16, 32)])
    targets = torch.stack([digit_images[1][start : start + 16] for start in (0, 16, 32)])
    outputs = stack(inputs)
    found, scores = stack.losses(outputs, targets), stack.scores(outputs, targets)
    for number, gradient in enumerate(stack.gradients(found)):
        output = alone[number](inputs[number])
        loss = objectives[number](output, targets[number])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found[number], loss)
        assert scores[number] in (None, objectives[number].metric_sum(output, targets[number]))
        gradients = [one.grad.flatten() for one in alone[number].parameters() if one.grad is not None]
        torch.testing.assert_close(gradient, torch.cat(gradients))
        torch.testing.assert_close(dict(networks[number].named_buffers()), dict(alone[number].named_buffers()))
    # What an optimizer changes is the stack's.
    with torch.no_grad():
        networks[1].get_parameter("5.bias").add_(1)
        stack.rows[1] *= 2
    torch.testing.assert_close(stack(inputs)[1], networks[1](inputs[1]))
    stack.release()
    assert all(one.untyped_storage().nbytes() == 4 * one.numel() for one in networks[0].parameters())


@pytest.mark.parametrize("make", [block, dense])
def test_a_network_has_the_same_bits_in_every_stack(
    digit_images: tuple[torch.Tensor, torch.Tensor], make: Callable[[float], nn.Sequential]
) -> None:
    networks = [make(0.2) for _ in range(5)]
    batches = [(digit_images[0][start : start + 24] / 255, digit_images[1][start : start + 24]) for start in range(5)]

    def gradients(numbers: Sequence[int]) -> dict[int, torch.Tensor]:
        stacked = [copy.deepcopy(networks[number]) for number in numbers]
        stack = NetworkStack(stacked, make(0.2), [Objective(nn.CrossEntropyLoss(), "classes")] * len(numbers))
        inputs, targets = (
            torch.stack(tensors) for tensors in zip(*[batches[number] for number in numbers], strict=True)
        )
        found = stack.gradients(stack.losses(stack(inputs, numbers), targets))
        values = [torch.cat([one.flatten() for one in network.buffers()]) for network in stacked]
        return {number: torch.cat(parts) for number, *parts in zip(numbers, found, values, strict=True)}

    whole = gradients(range(5))
    for numbers in ((0, 1), (4, 2), (3, 2, 1)):
        for number, found in gradients(numbers).items():
            assert torch.equal(found, whole[number])


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_an_optimizer_of_one_row_is_what_it_is_of_several(kind: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    several, alone = [nn.Linear(5, 3, dtype=torch.float64) for _ in range(2)]
    alone.load_state_dict(several.state_dict())
    optimizers = [kind(network.parameters(), lr=1e-2) for network in (several, alone)]

    def step(number: int) -> None:
        inputs = torch.randn(7, 5, dtype=torch.float64)
        for network, optimizer in ((several, optimizers[0]), (alone, optimizers[1])):
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            if network is several and number % 3:
                values = torch.cat([one.detach().flatten() for one in several.parameters()])
                row = FlatParameter(optimizer, values)
                optimizer.step()
                row.part()
                parts = torch.split(row.whole.detach(), [one.numel() for one in several.parameters()])
                with torch.no_grad():
                    for one, part in zip(several.parameters(), parts, strict=True):
                        one.copy_(part.view(one.shape))
            else:
                optimizer.step()

    for number in range(7):
        step(number)
    torch.testing.assert_close(several.state_dict(), alone.state_dict())
    torch.testing.assert_close(optimizers[0].state_dict()["state"], optimizers[1].state_dict()["state"])


def test_what_changes_a_network_by_then_is_seen(digit_images: tuple[torch.Tensor, torch.Tensor]) -> None:
    networks = [block(0.1), block(0.2)]
    for network in networks:
        dropout = network[3]
        assert isinstance(dropout, nn.Dropout)
        dropout.p = 1.0
    stack = NetworkStack(networks, block())
    outputs = stack(torch.stack([digit_images[0][:8] / 255] * 2))
    assert torch.equal(outputs, torch.stack([network.get_parameter("5.bias").expand(8, 10) for network in networks]))
    assert stack.gradients(outputs.sum((1, 2))).isfinite().all()
    norm = networks[1][1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 0.5
    with pytest.raises(RuntimeError, match="not all are alike in 1"):
        NetworkStack(networks, block())


def test_what_is_alike() -> None:
    assert network_signature(block(0.1)) == network_signature(block(0.2))
    assert network_signature(block()) != network_signature(nn.Sequential(*block(), nn.ReLU()))
    assert network_signature(nn.LeakyReLU(0.1)) != network_signature(nn.LeakyReLU(0.2))
    assert network_signature(nn.Dropout2d(0.1)) != network_signature(nn.Dropout2d(0.2))
    assert network_signature(nn.Linear(2, 2)) != network_signature(nn.Linear(2, 2, dtype=torch.float64))
    modules: list[Any] = [nn.Identity(), nn.Identity()]  # of type Any, because the class has no attribute `scale`
    one, other = modules
    one.scale, other.scale = (lambda value: value), (lambda value: 2 * value)
    assert network_signature(one) != network_signature(other)

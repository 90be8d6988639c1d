"""`lamella train`: what a run leaves behind, and what it does when it cannot go on."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
import yaml
from conftest import Lamella
from programs import Program, RealProgram, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lamella.experiment.build import build_experiment

DDP = ("trainer=ddp", "trainer.devices=2", "device=cpu")
QUICK = ("trainer.max_epochs=2", "device=cpu", "device.threads=1")


def record(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((path / "run.json").read_text())
    return fields


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path, name: str = "last") -> dict[str, torch.Tensor]:
    content = torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


def run_directories() -> list[Path]:
    return sorted(path.parent for path in Path("outputs").rglob("run.json"))


@pytest.mark.slow
def test_run_directory_holds_everything(lamella: Lamella) -> None:
    result = lamella("train", *QUICK)
    assert result.status == 0, result.err
    assert result.out.startswith("Using cpu device\n")
    [path] = run_directories()
    assert path.parent == Path("outputs/default")
    assert f"directory   {path}" in result.out
    assert "lamella board outputs" in result.out

    run = record(path)
    assert run["status"] == "finished"
    assert run["overrides"] == list(QUICK)
    assert (run["name"], run["seed"], run["device"], run["error"]) == ("default", 0, "cpu", None)
    assert (run["epochs"], run["steps"]) == (2, 42)
    assert run["seconds"] > 0
    assert run["started"] < run["finished"]
    assert run["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(run["metrics"]) == {f"{s}/{m}" for s in ("train", "val", "test") for m in ("loss", "accuracy")}

    epochs = lines(path)
    assert [line["epoch"] for line in epochs] == [1, 2]
    best = max(epochs, key=lambda line: line["val/accuracy"])
    assert run["best_epoch"] == best["epoch"]
    assert run["metrics"]["val/accuracy"] == best["val/accuracy"]

    for name in ("last", "best"):
        checkpoint = torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert (
            sum(v.numel() for k, v in checkpoint["state_dict"].items() if "running" not in k and "num_" not in k)
            == (run["parameters"])
        )
    assert (path / "log.txt").read_text() == result.out
    assert len(list(path.glob("events.out.tfevents.*"))) == 1
    assert not list(path.rglob(".*"))
    assert not [thread for thread in threading.enumerate() if "Event" in type(thread).__name__]


@pytest.mark.slow
def test_run_can_be_rebuilt_from_its_config_alone(lamella: Lamella) -> None:
    lamella("train", *QUICK, "network=cnn", "network.widths=[4,8]", "optimizer=sgd", "scheduler=cosine")
    [path] = run_directories()
    config = yaml.safe_load((path / "config.yaml").read_text())
    experiment = build_experiment(config)
    experiment.task.load_state_dict(weights(path, "best"))
    network = experiment.task.network.eval()
    batches = list(experiment.data.test_dataloader())
    with torch.no_grad():
        right = sum(int((network(inputs).argmax(1) == targets).sum()) for inputs, targets in batches)
    assert right / experiment.data.sizes["test"] == record(path)["metrics"]["test/accuracy"]


@pytest.mark.slow
def test_a_network_that_takes_any_keyword_can_be_rebuilt(lamella: Lamella, image_root: Path) -> None:
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[3,32,32]")
    result = lamella("train", *data, "network=resnet18", "trainer=debug")
    assert result.status == 0, result.err
    [path] = run_directories()
    experiment = build_experiment(yaml.safe_load((path / "config.yaml").read_text()))
    experiment.task.load_state_dict(weights(path, "best"))


@pytest.mark.slow
def test_metrics_are_those_of_a_loop_written_by_hand(lamella: Lamella) -> None:
    """The same seed, data and order, trained with plain PyTorch: equal to the last bit."""
    lamella("train", *QUICK, "network=neural_network", "data.drop_last=true")
    [path] = run_directories()
    experiment = build_experiment(yaml.safe_load((path / "config.yaml").read_text()))
    network, data = experiment.task.network, experiment.data
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    loss_function = torch.nn.CrossEntropyLoss()
    batches = data.train_dataloader()
    torch.set_num_threads(1)
    for epoch in range(2):
        batches.epoch = partial(int, epoch)
        losses = []
        for inputs, targets in batches:
            loss = loss_function(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert lines(path)[epoch]["train/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    for ours, by_hand in zip(weights(path).values(), network.state_dict().values(), strict=True):
        assert torch.equal(ours, by_hand)


@pytest.mark.slow
def test_same_seed_same_weights_and_zero_is_a_seed(lamella: Lamella) -> None:
    for seed in (0, 0, 1):
        assert lamella("train", *QUICK, f"seed={seed}", "network.dropout=0.2").status == 0
    first, second, other = run_directories()
    assert all(torch.equal(weights(first)[name], weights(second)[name]) for name in weights(first))
    assert not torch.equal(weights(first)["network.2.weight"], weights(other)["network.2.weight"])
    assert record(first)["seed"] == 0


@pytest.mark.slow
def test_tensorboard_shows_epochs_with_train_and_val_in_one_chart(lamella: Lamella) -> None:
    lamella("train", *QUICK)
    [path] = run_directories()
    events = EventAccumulator(str(path)).Reload()
    expected = {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    expected |= {f"while_training/{name}" for name in ("lr", "seconds", "samples_per_second")}
    assert expected <= set(events.Tags()["scalars"])
    points = events.Scalars("val/loss")
    assert [point.step for point in points] == [1, 2]
    assert [point.value for point in points] == pytest.approx([line["val/loss"] for line in lines(path)])
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"train/loss" in layout
    assert b"val/loss" in layout


@pytest.mark.slow
def test_sweep_gives_each_member_a_directory_and_ends_with_a_leaderboard(lamella: Lamella) -> None:
    swept = ("optimizer.lr=1e-2,1e-3", "network=mlp,linear")
    result = lamella("train", "-m", *swept, "trainer.max_epochs=1", "device.threads=1")
    assert result.status == 0, result.err
    members = run_directories()
    assert len(members) == 4
    assert len({path.parent for path in members}) == 1
    assert members[0].parent.parent == Path("outputs/default")
    name = "lr=0.01,network=linear"
    assert name in {path.name for path in members}
    table = result.out[result.out.index("optimizer.lr  network") :].splitlines()
    scores = [float(row.split()[2]) for row in table[1:5]]
    assert scores == sorted(scores, reverse=True)
    # Each member is what it is alone.
    lamella("train", "optimizer.lr=0.001", "network=linear", "trainer.max_epochs=1", "device.threads=1")
    [alone] = set(run_directories()) - set(members)
    twin = next(path for path in members if "lr=0.001,network=linear" in path.name)
    assert lines(twin)[0]["val/loss"] == lines(alone)[0]["val/loss"]


@pytest.mark.slow
def test_a_sweep_with_a_member_that_cannot_run_is_refused_as_a_whole(lamella: Lamella) -> None:
    result = lamella("train", "-m", "optimizer.lr=1e-3,-1", "seed=1,2", "network=linear,cnn", "data.batch_size=1e3,64")
    assert result.status == 2
    assert result.err == (
        "error: data.batch_size is 1000.0; Data takes int\n  from the command line: data.batch_size=1000.0\n"
        "  in the job optimizer.lr=0.001 seed=1 network=linear data.batch_size=1000.0\n"
        "error: optimizer.lr: Invalid learning rate: -1\n  from the command line: optimizer.lr=-1\n"
        "  in the job optimizer.lr=-1 seed=1 network=linear data.batch_size=64\n"
    )
    assert not list(Path("outputs").rglob("*=*"))


@pytest.mark.slow
def test_a_sweep_stands_in_one_directory_whatever_its_members_are_called(lamella: Lamella) -> None:
    Path("conf/experiment").mkdir(parents=True)
    for name in ("one", "two"):
        text = f"# @package _global_\nname: {name}\ntrainer:\n  max_epochs: 1\n"
        Path(f"conf/experiment/{name}.yaml").write_text(text)
    result = lamella("train", "-m", "experiment=one,two", "network=linear")
    assert result.status == 0, result.err
    assert len(run_directories()) == 2
    assert len({path.parent for path in run_directories()}) == 1


@pytest.mark.slow
def test_own_conf_comes_first_and_own_code_is_allowed_by_name(lamella: Lamella) -> None:
    Path("conf/network").mkdir(parents=True)
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/network/mine.yaml").write_text("_target_: mine.Net\nclasses: ${data.num_classes}\nwidth: 8\n")
    Path("conf/network/mlp.yaml").write_text("layers: [Flatten, {Linear: '${data.num_classes}'}]\n")
    Path("conf/experiment/short.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /network: mine\n  - _self_\nname: short\nnetwork:\n  width: 5\n"
        "trainer:\n  max_epochs: 1\n"
    )
    Path("mine.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self, classes: int, width: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, classes))\n"
    )
    refused = lamella("train", "network=mine")
    assert refused.status == 2
    assert 'write into pyproject.toml:\n  [tool.lamella]\n  targets = ["mine"]\n' in refused.err
    Path("pyproject.toml").write_text('[tool.lamella]\ntargets = ["mine"]\n')
    result = lamella("train", "experiment=short", "seed=3")
    assert result.status == 0, result.err
    [path] = run_directories()
    assert path.parent == Path("outputs/short")
    assert record(path)["parameters"] == 784 * 5 + 5 + 5 * 10 + 10
    result = lamella("train", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    assert max(record(path)["parameters"] for path in run_directories()) == 7850


@pytest.mark.slow
def test_arguments_by_position_are_those_of_the_signature(lamella: Lamella) -> None:
    Path("conf/network").mkdir(parents=True)
    text = "layers:\n  - Flatten\n  - {_target_: torch.nn.Linear, _args_: [784, %s]}\n"
    Path("conf/network/own.yaml").write_text(text % 10)
    result = lamella("train", "network=own", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    Path("conf/network/own.yaml").write_text(text % "ten")
    assert "error: network.layers.1.out_features is 'ten'; Linear takes int" in lamella("train", "network=own").err


def test_scalars_of_a_network_may_read_each_other(lamella: Lamella) -> None:
    Path("conf/network").mkdir(parents=True)
    Path("conf/network/mine.yaml").write_text(
        "width: 8\nother-width: ${.width}\nlayers:\n  - Flatten\n  - Linear: ${network.other-width}\n"
        "  - Linear: ${data.num_classes}\n"
    )
    result = lamella("train", "network=mine", "network.width=3", "trainer.max_epochs=1")
    assert result.status == 0, result.err
    [path] = run_directories()
    assert record(path)["parameters"] == 784 * 3 + 3 + 3 * 10 + 10


@pytest.mark.slow
def test_uncommitted_changes_are_kept(lamella: Lamella) -> None:
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org")
    Path("notes.txt").write_text("one\n")
    Path(".gitignore").write_text("outputs/\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run([*git, *command], check=True)
    lamella("train", "trainer.max_epochs=1", "seed=1")
    Path("notes.txt").write_text("two\n")
    lamella("train", "trainer.max_epochs=1", "seed=2")
    clean, dirty = run_directories()
    assert record(clean)["git"]["dirty"] is False
    assert len(record(clean)["git"]["commit"]) == 40
    assert not (clean / "git.patch").exists()
    assert record(dirty)["git"]["dirty"] is True
    assert "+two" in (dirty / "git.patch").read_text()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(lamella: Lamella) -> None:
    result = lamella("train", "optimizer=sgd", "optimizer.lr=1e25", "network=linear", "loss=mse", "scheduler=step")
    assert result.status == 1
    [path] = run_directories()
    run = record(path)
    assert run["status"] == "failed"
    assert run["error"].startswith("NonFiniteLoss: the loss is inf at step 2 (epoch 1), with learning rate 1e+25;")
    assert run["error"].split(": ", 1)[1] in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in (path / "log.txt").read_text()

    result = lamella(
        "train", "network=linear", "optimizer=sgd", "optimizer.lr=1e-3", "scheduler=step", "scheduler.step_size=1",
        "scheduler.gamma=1e40", "loss=mse",
    )  # fmt: skip
    assert result.status == 1
    path = max(run_directories(), key=lambda path: path.stat().st_mtime)
    assert record(path)["epochs"] == 1
    assert "at step 2" in record(path)["error"]
    assert torch.load(path / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert all(value.isfinite().all() for value in weights(path).values())


@pytest.mark.slow(10)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_signals_end_a_run_that_says_so(tmp_path: Path, number: signal.Signals, status: int) -> None:
    # Ctrl-C in a real program, because Python has a handler of its own for it.
    kind = RealProgram if number == signal.SIGINT else Program
    process = kind(tmp_path, "train", "trainer.max_epochs=100000", "network=linear")
    wait_until(lambda: "epoch" in process.out, 60, process)
    process.send_signal(number)
    assert process.wait(60) == status
    assert "Traceback" not in process.err
    [path] = (path.parent for path in tmp_path.rglob("run.json"))
    run, epochs = record(path), lines(path)
    assert run["status"] == "interrupted"
    assert run["epochs"] == len(epochs) >= 1
    assert 21 * len(epochs) <= run["steps"] < 21 * (len(epochs) + 1)
    assert torch.load(path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == run["steps"]
    best = epochs[run["best_epoch"] - 1]
    assert run["metrics"] == {name: value for name, value in best.items() if name.startswith(("train/", "val/"))}
    assert weights(path)


@pytest.mark.slow(30)
def test_two_processes_share_one_run(tmp_path: Path) -> None:
    """Data parallel: the order of one process, each rank its share, metrics over both, one run directory."""
    options = ["network=linear", "device=cpu", "trainer.max_epochs=2"]
    program = RealProgram(tmp_path, "train", *options, "trainer=ddp", "trainer.devices=2")
    assert program.wait() == 0, program.err
    assert not re.search(r"loading|\x1b", program.out + program.err)  # they are for terminals
    programs.run(tmp_path, "train", *options)
    single, double = sorted((path.parent for path in tmp_path.rglob("run.json")), key=lambda path: "ddp" in path.name)
    for ours, other in zip(lines(double), lines(single), strict=True):
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            assert ours[name] == pytest.approx(other[name], rel=1e-4)
    assert record(double)["metrics"]["test/accuracy"] == pytest.approx(record(single)["metrics"]["test/accuracy"])
    assert record(double)["steps"] == record(single)["steps"]
    for name, value in weights(double).items():
        torch.testing.assert_close(value, weights(single)[name], rtol=1e-4, atol=1e-5)
    assert len(list(double.glob("events.out.tfevents.*"))) == 1


@pytest.mark.slow(10)
def test_processes_with_uneven_shares_of_a_network_with_buffers(tmp_path: Path) -> None:
    """261 test samples in two batches on one process and, without care, one on the other."""
    sizes = ["data.test_size=261", "data.batch_size=32", "data.val_size=129", "trainer.max_epochs=1"]
    programs.run(tmp_path, "train", *DDP, *sizes)
    [path] = (path.parent for path in tmp_path.rglob("run.json"))
    [batches] = {round(record(path)["metrics"]["test/accuracy"] * 261, 6)}
    assert batches == round(batches)


@pytest.mark.slow(15)
def test_a_process_whose_loss_is_not_finite_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    done = Program(tmp_path, "train", *DDP, "optimizer=sgd", "optimizer.lr=1e25", "network=linear", "loss=mse")
    assert done.wait() == 1
    [path] = (path.parent for path in tmp_path.rglob("run.json"))
    assert re.match(r"NonFiniteLoss: the loss is (inf|nan) at step 2 \(epoch 1\)", record(path)["error"])
    assert "Traceback" not in done.err


@pytest.mark.slow(20)
def test_a_reader_that_leaves_does_not_end_the_run(tmp_path: Path) -> None:
    line = ("train", "trainer.max_epochs=3", "network=linear")
    reader, writer = os.pipe()
    os.close(reader)
    closed = RealProgram(tmp_path, *line, stdout=writer)
    os.close(writer)
    full = Program(tmp_path, *line, stdout=os.open("/dev/full", os.O_WRONLY))
    for program in (closed, full):
        assert (program.wait(), program.err) == (0, "")
    for path in (path.parent for path in tmp_path.rglob("run.json")):
        assert record(path)["status"] == "finished"
        assert len((path / "log.txt").read_text().splitlines()) == 10


def test_the_learning_rate_in_the_record_is_that_of_the_last_step(lamella: Lamella) -> None:
    lamella("train", "network=linear", "trainer.max_epochs=2", "scheduler.warmup_steps=84", "optimizer.lr=0.1")
    [path] = run_directories()
    assert [line["lr"] for line in lines(path)] == pytest.approx([0.1 * (0.001 + 0.999 * n / 84) for n in (20, 41)])


@pytest.mark.slow
def test_plateau_waits_for_validations(lamella: Lamella) -> None:
    options = ("scheduler=plateau", "scheduler.patience=1", "+scheduler.threshold=0.0", "trainer.max_epochs=7")
    lamella("train", "network=linear", *options, "+trainer.check_val_every_n_epoch=4")
    [path] = run_directories()
    assert {line["lr"] for line in lines(path)} == {1e-3}


@pytest.mark.slow(15)
def test_several_processes_weigh_classes_as_one_does(tmp_path: Path) -> None:
    weights_of_classes = "loss.ignore_index=3 loss.weight=[1,2,3,40,5,6,7,80,9,10]"
    options = [
        *weights_of_classes.split(),
        "network=linear",
        "device=cpu",
        "optimizer=sgd",
        "optimizer.lr=0.001",
        "data.batch_size=16",
    ]
    options += ["trainer.max_epochs=1", "data.drop_last=true"]
    programs.run(tmp_path, "train", *options, "trainer=ddp", "trainer.devices=2")
    programs.run(tmp_path, "train", *options)
    single, double = sorted((path.parent for path in tmp_path.rglob("run.json")), key=lambda path: "ddp" in str(path))
    for name in ("train/loss", "val/loss", "test/loss"):
        assert record(double)["metrics"][name] == pytest.approx(record(single)["metrics"][name], rel=1e-4)


@pytest.mark.slow(10)
def test_what_several_processes_refuse_leaves_nothing(tmp_path: Path) -> None:
    options = ["scheduler=plateau", "+trainer.limit_val_batches=0", "network=linear"]
    done = Program(tmp_path, "train", *DDP, *options)
    assert done.wait() == 2
    assert done.err.startswith("error: scheduler: plateau follows val/loss")
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
def test_ctrl_c_while_a_sweep_is_planned_leaves_nothing(tmp_path: Path) -> None:
    process = Program(tmp_path, "train", "-m", "seed=range(1,4000)")
    assert not process.ended(3)
    process.kill_group(signal.SIGINT)
    assert process.wait(60) in (130, -signal.SIGINT)
    assert "Traceback" not in process.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_runs_started_at_once_do_not_collide(tmp_path: Path) -> None:
    processes = [Program(tmp_path, "train", "trainer.max_epochs=1", "network=linear") for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    names = sorted(path.parent.name for path in tmp_path.rglob("run.json"))
    start = "network=linear,trainer.max_epochs=1"
    assert names == [start, f"{start}_2", f"{start}_3"]


@pytest.mark.slow
def test_a_run_from_image_files(lamella: Lamella, image_root: Path) -> None:
    result = lamella("train", "data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=[0.3]",
                     "data.std=[0.3]", "trainer.max_epochs=8", "data.batch_size=16")  # fmt: skip
    assert result.status == 0, result.err
    [path] = run_directories()
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["data"]["classes"] == ["one", "two", "zero"]
    assert config["data"]["num_classes"] == 3
    assert record(path)["metrics"]["val/accuracy"] > 0.8


@pytest.mark.slow(10)
def test_the_bar_and_the_log_are_readable_in_a_file(tmp_path: Path) -> None:
    program = Program(tmp_path, "train", "trainer.max_epochs=2")
    assert program.wait() == 0
    text = program.out + program.err
    assert "\x1b" not in text
    assert len(text.splitlines()) == 9


@pytest.mark.slow(12)
def test_the_bar_is_drawn_on_a_terminal_and_kept_out_of_the_log(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = RealProgram(tmp_path, "train", "network=resnet", "trainer.max_epochs=1", stderr=slave)
    os.close(slave)
    drawn = b""
    with contextlib.suppress(OSError):  # the other side has closed
        while part := os.read(master, 65536):
            drawn += part
    os.close(master)
    assert process.wait() == 0
    assert re.search(rb"epoch 1 .*/21", drawn)
    [log] = tmp_path.rglob("log.txt")
    assert "\x1b" not in log.read_text()


def test_a_monitor_that_was_never_measured_is_said(lamella: Lamella) -> None:
    short = ("network=linear", "visuals=none", "device=cpu", "device.threads=1", "+trainer.max_steps=2")
    note = "note: val/accuracy was never measured, so the last epoch counts as the best; with +trainer.limit_train_ba"
    assert note in lamella("train", *short).err
    assert note not in lamella("train", *short, "+trainer.limit_train_batches=2", "name=other").err

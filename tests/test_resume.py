"""Killed at any moment and resumed, a run ends with the bits that it would have had."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kill
import programs
import pytest
import torch
from conftest import Lamella, Project
from programs import Program, wait_until

from lamella.data.environment import processor
from lamella.runs.checkpoints import newest_checkpoint

SMALL = ("device=cpu", "device.threads=1", "data.batch_size=512", "network.dropout=0.2", "visuals=none")


def run_in(directory: Path) -> Path:
    run = kill.run_of(directory)
    assert run
    return run


def trained(directory: Path, *arguments: str) -> Path:
    """A run that is finished, in a directory of its own."""
    assert kill.lamella(directory, "train", *arguments) == 0, kill.beside(directory, "output").read_text()
    return run_in(directory)


def resume(directory: Path, *arguments: str) -> str:
    """Finish the run in a directory; returns all that was printed there."""
    status = kill.lamella(directory, "resume", str(run_in(directory).relative_to(directory)), *arguments)
    printed = kill.beside(directory, "output").read_text()
    assert status == 0, printed
    return printed


def record(run: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((run / "run.json").read_text())
    return fields


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of three steps, saved at each of them."""
    options = (*SMALL, "trainer.max_epochs=2", "trainer.checkpoint_every=1steps")
    return trained(tmp_path_factory.mktemp("finished"), *options)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A directory with a copy of the run, which a test may damage."""
    shutil.copytree(finished.parents[2], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.slow(25)
def test_killed_at_every_hook_and_every_write(tmp_path: Path) -> None:
    """What a kill would leave is copied at each moment at which it has changed, and each copy is resumed."""
    options = (*SMALL, "data.batch_size=1024", "trainer.max_epochs=2", "trainer.checkpoint_every=1steps")
    reference, states = tmp_path / "reference", tmp_path / "states"
    states.mkdir()
    assert kill.lamella(reference, "train", *options, moment=0, states=states) == 0
    assert int(kill.beside(reference, "ended").read_text().split()[1]) > 100
    begun = [state for state in states.iterdir() if kill.run_of(state)]  # a run that has no record has not begun
    assert len(begun) > 30
    for state in begun:
        resume(state)
        assert kill.differences(run_in(reference), run_in(state)) == [], f"killed at moment {state.name}"


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", [name for name in kill.CONFIGS if name != "ddp"])
def test_killed_at_random(tmp_path: Path, name: str) -> None:
    start = time.perf_counter()
    reference = trained(tmp_path / "reference", *kill.BASE, *kill.CONFIGS[name])
    seconds = time.perf_counter() - start
    chance = random.Random(name)
    _, found = kill.trial(tmp_path / "killed", name, reference, seconds, chance)
    assert found == []


@pytest.mark.slow(40)
def test_two_processes_are_stopped_and_killed(tmp_path: Path) -> None:
    """One signal, to the first of them alone, stops both at the same batch; a kill is one of either."""
    options = (*kill.BASE, *kill.CONFIGS["ddp"], "trainer.max_epochs=8")
    reference, directory = tmp_path / "reference", tmp_path / "killed"
    programs.run(reference, "train", *options)
    process = Program(directory, "train", *options)
    wait_until(lambda: "epoch 1" in process.out, 60, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, process.err
    assert "Traceback" not in process.err
    run = run_in(directory)
    assert record(run)["status"] == "interrupted"
    again = Program(directory, "resume", str(run.relative_to(directory)))
    wait_until(lambda: "going on after" in again.out, 60, again)
    again.ended(1)
    again.kill_group()
    again.wait()
    programs.run(directory, "resume", str(run.relative_to(directory)))
    assert kill.differences(run_in(reference), run) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_ends_a_run_that_can_go_on(tmp_path: Path, number: signal.Signals) -> None:
    options = [*SMALL, "trainer.max_epochs=40"]
    reference = trained(tmp_path / "reference", *options)
    directory = tmp_path / "stopped"
    process = Program(directory, "train", *options)
    wait_until(lambda: "epoch  2" in process.out, 60, process)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    run = run_in(directory)
    notice = "the run ends after this step or the running validation; press Ctrl-C again to end it at once\n"
    assert process.err == f"{notice}interrupted; to go on: lamella resume {run.relative_to(directory)}\n"
    assert record(run)["status"] == "interrupted"
    resume(directory)
    assert kill.differences(reference, run) == []


@pytest.mark.slow
def test_a_second_signal_ends_a_run_at_once(tmp_path: Path, project: Project) -> None:
    """In the middle of a step that would take a minute."""
    project(
        mine=(
            "import time\nfrom pathlib import Path\nfrom torch import nn\n\n\nclass Slow(nn.Module):\n    steps = 0\n"
            "    def forward(self, x):\n        Slow.steps += self.training and x.device.type == 'cpu'\n"
            "        if Slow.steps == 3 and not Path('fast').exists():\n            Path('slow').touch()\n"
            "            time.sleep(60)\n        return x\n"
        ),
        conf={"network/mine.yaml": "layers: [Flatten, {_target_: mine.Slow}, Linear: 10]\n"},
    )
    options = ("train", "network=mine", "trainer.checkpoint_every=1steps", "trainer.max_epochs=1", "device=cpu")
    process = Program(tmp_path, *options)
    wait_until(lambda: (tmp_path / "slow").exists(), 60, process)
    process.send_signal(signal.SIGINT)
    assert not process.ended(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    run = run_in(tmp_path)
    assert record(run)["status"] == "interrupted"
    (tmp_path / "fast").touch()
    resume(tmp_path)
    assert (record(run)["status"], record(run)["steps"]) == ("finished", 21)


@pytest.mark.slow
def test_a_finished_run_says_so_and_can_be_made_longer(finished: Path, copied: Path, tmp_path: Path) -> None:
    run = run_in(copied)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    printed = resume(copied)
    assert f"{run.relative_to(copied)} is finished: 2 epochs, the best one " in printed
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert "going on after epoch 2\n" in resume(copied, "trainer.max_epochs=4")
    options = (*SMALL, "trainer.checkpoint_every=1steps", "trainer.max_epochs=4")
    assert kill.differences(trained(tmp_path / "longer", *options), run) == []
    assert record(run)["overrides"] == [*SMALL, "trainer.checkpoint_every=1steps", "trainer.max_epochs=4"]
    assert "max_epochs: 4" in (run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.lr=0.1",
            "optimizer.lr cannot change when a run is resumed, because the run keeps its recorded config",
        ),
        ("network=cnn", "network cannot change when a run is resumed"),
        ("data.batch_size=3", "data.batch_size cannot change when a run is resumed"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("trainer.max_epochs", "trainer.max_epochs: an override is KEY=VALUE"),
        ("trainer.max_epochs=1", "trainer.max_epochs is 1, but 2 epochs are over"),
        ("trainer.max_epochs=[", "trainer.max_epochs=[: a bracket is not closed"),
        ("trainer.max_epochs=many", "trainer.max_epochs is 'many'"),
        ("trainer.max_epochs=", "trainer.max_epochs is ''; a run goes on to a number of epochs"),
        ("trainer.max_epochs=null", "trainer.max_epochs is None; a run goes on to a number of epochs"),
        ("device.threads=0", "device.threads is 0; it takes 1 or more"),
        ("trainer.checkpoint_every=often", "it takes a number with its unit"),
        ("trainer.max_epochs=5 device.accelerator=gpu", "device.accelerator is 'gpu'"),
    ],
)
@pytest.mark.slow
def test_what_cannot_change(lamella: Lamella, copied: Path, override: str, message: str) -> None:
    run = run_in(copied)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = lamella("resume", str(run), *override.split())
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert message in result.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_schedule_for_the_whole_run_cannot_be_made_longer(lamella: Lamella) -> None:
    lamella("train", "scheduler=cosine", "trainer.max_epochs=1", "network=linear")
    [run] = (path.parent for path in Path("outputs").rglob("run.json"))
    result = lamella("resume", str(run), "trainer.max_epochs=2")
    assert result.status == 2
    assert "error: trainer.max_epochs cannot change: scheduler.T_max is null, so the learning rates" in result.err


def test_a_run_without_its_checkpoints_is_left_as_it_is(lamella: Lamella, copied: Path) -> None:
    run = run_in(copied)
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = lamella("resume", str(run), "trainer.max_epochs=3")
    assert (result.status, result.err) == (
        2, f"error: {run}: its checkpoints are gone, it cannot go on; `lamella train` begins a new run\n"
    )  # fmt: skip
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_is_no_run_is_named(lamella: Lamella) -> None:
    result = lamella("resume", "outputs/nothing")
    assert (result.status, result.err) == (
        2, "error: outputs/nothing is not there; a run is a directory that `lamella train` has made\n"
    )  # fmt: skip


@pytest.mark.slow
def test_other_samples_are_refused(lamella: Lamella, image_root: Path) -> None:
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=[0.3]", "data.std=[0.3]")
    lamella("train", *data, "trainer.max_epochs=1")
    [run] = (path.parent for path in Path("outputs").rglob("run.json"))
    next(image_root.glob("train/one/*.png")).unlink()
    before = [(run / name).read_bytes() for name in ("run.json", "config.yaml", "metrics.jsonl")]
    result = lamella("resume", str(run), "trainer.max_epochs=2")
    assert result.status == 2
    assert result.err.startswith("error: data: the samples are not those with which outputs/")
    assert before == [(run / name).read_bytes() for name in ("run.json", "config.yaml", "metrics.jsonl")]


@pytest.mark.slow
def test_a_file_that_is_gone_in_the_middle_fails_the_run(tmp_path: Path, image_root: Path) -> None:
    data = ("data=image_folder", f"data.root={image_root}", "data.shape=[1,28,28]", "data.mean=[0.3]", "data.std=[0.3]")
    reader = ("data.in_memory=false", "trainer.max_epochs=2000", "network=linear")
    process = Program(tmp_path, "train", *data, *reader)
    wait_until(lambda: "epoch    2" in process.out, 60, process)
    gone = next(image_root.glob("train/one/*.png"))
    gone.rename(gone.with_suffix(".away"))
    assert process.wait(60) == 1
    assert f"{gone} is no readable image" in process.err
    run = run_in(tmp_path)
    assert record(run)["status"] == "failed"
    gone.with_suffix(".away").rename(gone)
    again = Program(tmp_path, "resume", str(run))
    wait_until(lambda: "going on after epoch" in again.out, 60, again)
    again.kill()


def test_another_machine_is_allowed_and_said(copied: Path) -> None:
    run = run_in(copied)
    fields = record(run)
    fields["environment"] |= {"torch": "2.14.0", "cpu": "SSE", "processor": "Intel Pentium"}
    (run / "run.json").write_text(json.dumps(fields))
    printed = resume(copied, "trainer.max_epochs=3", "device.threads=2", "device.graph=false")
    changes = [f"torch {torch.__version__} instead of 2.14.0", "threads 2 instead of 1"]
    changes.append(f"cpu {torch.backends.cpu.get_cpu_capability()} instead of SSE")
    changes.append(f"processor {processor()} instead of Intel Pentium")
    line = f"with {', '.join(changes)}: the result will not equal, bit for bit, that of a run without interruption\n"
    assert line in printed
    assert line in (run / "log.txt").read_text()
    assert record(run)["inexact"] == changes


@pytest.mark.slow
def test_a_run_in_the_middle_of_an_epoch_is_not_cut_short(lamella: Lamella) -> None:
    options = ("network=linear", "trainer.max_epochs=3", "trainer.checkpoint_every=1steps")
    assert kill.lamella(Path.cwd(), "train", *options, moment=500) == -signal.SIGKILL
    run = run_in(Path())
    epochs = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["Checkpoints"]["epochs"]
    result = lamella("resume", str(run), f"trainer.max_epochs={epochs}")
    assert result.status == 2
    assert f"trainer.max_epochs is {epochs}, but the run is in the middle of epoch {epochs + 1}\n" in result.err


@pytest.mark.slow
def test_the_record_counts_and_not_the_config_files(lamella: Lamella) -> None:
    Path("conf/network").mkdir(parents=True)
    Path("conf/network/mine.yaml").write_text("layers: [Flatten, Linear: 7, Linear: 10]\n")
    lamella("train", "network=mine", "trainer.max_epochs=1")
    [run] = (path.parent for path in Path("outputs").rglob("run.json"))
    Path("conf/network/mine.yaml").write_text("layers: [Flatten, Linear: 8, Linear: 10]\n")
    result = lamella("resume", str(run), "trainer.max_epochs=2")
    assert result.status == 0, result.err
    assert record(run)["parameters"] == 784 * 7 + 7 + 7 * 10 + 10


@pytest.mark.slow
def test_a_run_has_one_writer(tmp_path: Path, lamella: Lamella) -> None:
    options = ("train", "trainer.max_epochs=9999", "data.in_memory=false", "data.num_workers=2", "network=linear")
    process = Program(tmp_path, *options)
    wait_until(lambda: "epoch" in process.out, 60, process)
    run = run_in(tmp_path)
    result = lamella("resume", str(run))
    assert result.status == 2
    assert result.err == f"error: {run}: another process is at work on this run\n"
    process.kill()
    process.wait()
    # At once, though the workers that it leaves behind may live on for seconds.
    kill.lamella(tmp_path, "resume", str(run.relative_to(tmp_path)), seconds=4)
    assert "another process" not in kill.beside(tmp_path, "output").read_text()


@pytest.mark.slow(20)
def test_how_the_samples_are_read_makes_no_difference(tmp_path: Path) -> None:
    options = (*SMALL, "trainer.max_epochs=2", "data.augment=[{crop: 2}]")
    memory = trained(tmp_path / "memory", *options)
    for workers in range(3):
        reader = ("data.in_memory=false", f"data.num_workers={workers}")
        assert kill.differences(memory, trained(tmp_path / str(workers), *options, *reader)) == []


@pytest.mark.slow
def test_every_flipped_bit_is_found(copied: Path) -> None:
    directory = run_in(copied) / "checkpoints"
    last, previous = directory / "last.ckpt", directory / "previous.ckpt"
    content = bytearray(last.read_bytes())
    last.unlink()  # it may be best.ckpt as well
    chance = random.Random(0)
    for _ in range(300):
        bit = chance.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        last.write_bytes(content)
        assert newest_checkpoint(directory) == (previous, [last])
        content[bit // 8] ^= 1 << bit % 8
    last.write_bytes(content)
    assert newest_checkpoint(directory) == (last, [])
    for length in (0, 1, len(content) // 2, len(content) - 1):
        last.write_bytes(content[:length])
        assert newest_checkpoint(directory) == (previous, [last])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(finished: Path, copied: Path, lamella: Lamella) -> None:
    run = run_in(copied)
    last, previous = run / "checkpoints/last.ckpt", run / "checkpoints/previous.ckpt"
    record_now = record(run)
    record_now["status"] = "running"
    (run / "run.json").write_text(json.dumps(record_now))
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 16
    last.unlink()
    last.write_bytes(content)
    printed = resume(copied)
    place = run.relative_to(copied) / "checkpoints"
    assert f"{place}/last.ckpt is damaged, its checksum does not match its content; {place}/previous.ckpt" in printed
    assert kill.differences(finished, run) == []
    best = run / "checkpoints/best.ckpt"
    best.unlink()
    (run / "run.json").write_text(json.dumps(record_now))
    resume(copied)  # the best epoch is the last one
    assert kill.differences(finished, run) == []
    for path in (last, previous):
        path.unlink()
        path.write_bytes(content)
    (run / "run.json").write_text(json.dumps(record_now))
    resume(copied)  # from the best one
    assert kill.differences(finished, run) == []
    for path in (last, previous, best):
        path.unlink()
        path.write_bytes(content)
    result = lamella("resume", str(run), "trainer.max_epochs=3")
    assert result.status == 2
    assert result.err.startswith(f"error: {last}, {previous}, {best}: damaged, the checksums do not match")


@contextlib.contextmanager
def disk(directory: Path, kilobytes: int) -> Iterator[None]:
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [8, 64, 800, 1300, *range(1450, 6200, 300)])
def test_a_full_disk_loses_nothing(tmp_path: Path, finished: Path, kilobytes: int) -> None:
    directory = tmp_path / "disk"
    with disk(directory, kilobytes):
        status = kill.lamella(directory, "train", *SMALL, "trainer.max_epochs=2", "trainer.checkpoint_every=1steps")
        printed = kill.beside(directory, "output").read_text()
        run = kill.run_of(directory)
        subprocess.run(["mount", "-o", "remount,size=100m", str(directory)], check=True)
        if status == 0:
            assert run
        elif run is None:
            assert status in (1, 2)
        else:
            assert status == 1
            assert record(run)["status"] in ("running", "failed")
            assert printed.count("error:") <= 1
            assert not list(run.rglob(".*"))
            newest_checkpoint(run / "checkpoints")
            resume(directory)
        if run:
            assert kill.differences(finished, run) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kilobytes", "visuals"), [(900, "none"), (1500, "default"), (1600, "full")])
def test_a_full_disk_is_said(tmp_path: Path, kilobytes: int, visuals: str) -> None:
    directory = tmp_path / "disk"
    with disk(directory, kilobytes):
        done = Program(directory, "train", *SMALL, f"visuals={visuals}")
        assert done.wait() == 1
    assert done.err.startswith("error: OSError: [Errno 28] No space left on device")
    assert "Traceback" not in done.err
    assert "to go on once that is fixed: lamella resume outputs/" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("value", ["5", "0steps", "1.5steps", "often", "-1min"])
def test_how_often_is_checked(lamella: Lamella, value: str) -> None:
    result = lamella("train", f"trainer.checkpoint_every={value}")
    assert result.status == 2
    assert "it takes a number with its unit, as 500steps or 5min, or null\n" in result.err
    assert f"from the command line: trainer.checkpoint_every={value}" in result.err


def test_the_last_two_checkpoints_are_kept(finished: Path) -> None:
    steps = {}
    for path in finished.glob("checkpoints/*"):
        steps[path.name] = torch.load(path, weights_only=True)["global_step"]
    assert (steps["last.ckpt"], steps["previous.ckpt"]) == (6, 5)
    assert set(steps) == {"last.ckpt", "previous.ckpt", "best.ckpt"}


@pytest.mark.slow
def test_a_network_that_draws_in_other_ways_is_exact_too(tmp_path: Path, project: Project) -> None:
    """Layers that use Python's and NumPy's random numbers, in training and in evaluation."""
    for name in ("reference", "killed"):
        directory = tmp_path / name
        project(
            mine=(
                "import random\nimport numpy as np\nimport torch\nfrom torch import nn\n\n\nclass Noise(nn.Module):\n"
                "    def forward(self, x):\n"
                "        return x * random.random() + np.random.rand() + torch.rand(x.shape, device=x.device)\n"
            ),
            conf={"network/mine.yaml": "layers: [Flatten, {_target_: mine.Noise}, Linear: 10]\n"},
            directory=directory,
        )
    options = (*SMALL[:3], "visuals=none", "network=mine", "trainer.checkpoint_every=1steps", "trainer.max_epochs=2")
    reference = tmp_path / "reference"
    assert kill.lamella(reference, "train", *options, moment=0) == 0
    moments = int(kill.beside(reference, "ended").read_text().split()[1])
    for moment in (moments // 3, moments // 2, moments - 6):
        directory = tmp_path / f"killed-{moment}"
        shutil.copytree(tmp_path / "killed", directory)
        assert kill.lamella(directory, "train", *options, moment=moment) == -signal.SIGKILL
        resume(directory)
        assert kill.differences(run_in(reference), run_in(directory)) == []


@pytest.mark.slow
def test_double_precision_is_exact_too(tmp_path: Path) -> None:
    options = (*SMALL, "device.precision=64-true")
    whole = trained(tmp_path / "whole", *options, "trainer.max_epochs=4")
    run = trained(tmp_path / "longer", *options, "trainer.max_epochs=2")
    resume(tmp_path / "longer", "trainer.max_epochs=4")
    assert kill.differences(whole, run) == []


@pytest.mark.slow
def test_parameters_that_a_callback_has_thawed_stay_so(tmp_path: Path, project: Project) -> None:
    for name in ("whole", "killed"):
        directory = tmp_path / name
        directory.mkdir()
        project(
            mine=(
                "from pytorch_lightning import Callback\n\n\nclass Thaw(Callback):\n"
                "    def on_train_start(self, trainer, module):\n        module.network.requires_grad_(False)\n"
                "        module.network[-1].requires_grad_(True)\n\n"
                "    def on_train_epoch_start(self, trainer, module):\n"
                "        if trainer.current_epoch == 1:\n            module.network.requires_grad_(True)\n"
            ),
            directory=directory,
        )
    options = (*SMALL, "trainer.checkpoint_every=1steps", "trainer.callbacks=[{_target_: mine.Thaw}]")
    reference = tmp_path / "whole"
    assert kill.lamella(reference, "train", *options, "trainer.max_epochs=3", moment=0) == 0
    moments = int(kill.beside(reference, "ended").read_text().split()[1])
    moment = moments * 3 // 4  # in the third epoch
    killed = tmp_path / "killed"
    assert kill.lamella(killed, "train", *options, "trainer.max_epochs=3", moment=moment) == -signal.SIGKILL
    printed = resume(killed)
    assert "note: a callback had frozen or thawed " in printed
    assert kill.differences(run_in(reference), run_in(killed)) == []


def test_the_seconds_of_a_killed_process_are_counted(copied: Path) -> None:
    run = run_in(copied)
    fields = record(run)
    (run / "run.json").write_text(json.dumps({**fields, "status": "running"}))
    written = (run / "run.json").stat().st_mtime
    for path in (run / "checkpoints/last.ckpt", run / "eval.json"):
        path.touch()
    os.utime(run / "checkpoints/last.ckpt", (written, written + 1000))
    os.utime(run / "eval.json", (written, written + 5000))  # by another command, later
    resume(copied, "trainer.max_epochs=3")
    assert 1000 < record(run)["seconds"] - fields["seconds"] < 2000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "step"), [("1steps", 2), ("2steps", 2), ("0.00001min", 2), ("9steps", 0), ("null", 0)]
)
def test_how_often_a_run_is_saved_within_an_epoch(tmp_path: Path, every: str, step: int) -> None:
    run = trained(tmp_path, *SMALL, "trainer.max_epochs=1", f"trainer.checkpoint_every={every}")
    previous = run / "checkpoints/previous.ckpt"
    assert (torch.load(previous, weights_only=True)["global_step"] if previous.exists() else 0) == step

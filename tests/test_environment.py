"""Runs on machines of all kinds: file systems, standard streams, locales, Slurm's variables, signals and processes."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import programs
import pytest
import torch
from conftest import Lamella, Project
from programs import Program, RealProgram, wait_until

from lamella.runs.checkpoints import VerifiedCheckpointIO

SMALL = ("train", "network=linear", "device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=1")
LONG = (*SMALL[:-1], "trainer.max_epochs=9999")
# A program that prepares its process and then runs the command line that it is given.
SCRIPT = """
import sys

from lamella.__main__ import main

sys.argv = ["lamella", *sys.argv[1:]]
sys.exit(main())
"""


def script(directory: Path, preparation: str, *arguments: str) -> Program:
    """Start a program that runs `preparation`, and then `lamella` with these arguments, in a directory."""
    directory.mkdir(exist_ok=True)
    (directory / "script.py").write_text(f"{preparation}\n{SCRIPT}")
    return Program(directory, "script.py", *arguments)


def only_run(directory: Path = Path()) -> Path:
    """Return the one run below a directory."""
    [record] = directory.glob("outputs/*/*/run.json")
    return record.parent


def status(run: Path) -> object:
    return json.loads((run / "run.json").read_text())["status"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS])
def test_a_file_system_without_hard_links(lamella: Lamella, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    result = lamella(*SMALL)
    assert result.status == 0, result.err
    run = only_run()
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert lamella("resume", str(run), "trainer.max_epochs=3").status == 0
    names = {file.name for file in (run / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    for name in names:
        assert torch.load(run / "checkpoints" / name, weights_only=True)["callbacks"]["Checkpoints"]["epochs"] >= 1


def test_a_file_system_that_cannot_sync_a_directory(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert lamella(*SMALL).status == 0


@pytest.mark.slow
def test_closed_standard_streams(tmp_path: Path) -> None:
    """The files of the run do not take the places of the streams, which would fill them with what is printed."""
    close = "import os, sys\nos.closerange(0, 3)\nsys.stdin = sys.stdout = sys.stderr = None"
    assert script(tmp_path, close, *SMALL).wait() == 0
    run = only_run(tmp_path)
    assert status(run) == "finished"
    assert "Using cpu device" in (run / "log.txt").read_text()
    assert all(json.loads(line)["epoch"] == 1 for line in (run / "metrics.jsonl").read_text().splitlines())
    assert script(tmp_path, close, "runs", "nowhere").wait() == 2


@pytest.mark.slow
def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    """What the terminal lacks is replaced; the options that the command line shows are no error."""
    strict = "import sys\nsys.stdout.reconfigure(encoding='ascii', errors='strict')"
    program = script(tmp_path, strict, "--help")
    assert program.wait() == 0, program.err
    assert "usage: lamella COMMAND ?" in program.out


@pytest.mark.slow(12)
def test_a_locale_without_unicode(tmp_path: Path, image_root: Path) -> None:
    """A run that was trained in UTF-8 is tested: its config and the folders of its data have names beyond ASCII."""
    (image_root / "train" / "two").rename(image_root / "train" / "größe")
    data = ("data=image_folder", "data.root=pictures", "data.shape=[3,28,28]", "data.val_size=9", "data.test_size=9")
    programs.run(tmp_path, *SMALL, *data)
    run = str(only_run(tmp_path).relative_to(tmp_path))
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = RealProgram(tmp_path, "eval", run, env=environment)
    assert program.wait() == 0, program.err
    assert "gr??e" in program.out
    assert json.loads((tmp_path / run / "eval.json").read_text())["classes"][0]["class"] == "größe"


@pytest.mark.parametrize("number", ["0", "3"])
def test_an_allocation_of_several_tasks(lamella: Lamella, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """One process trains, whichever task of the job it is."""
    job = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "4", "PROCID": number, "LOCALID": number, "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("WORLD_SIZE", "4")
    result = lamella(*SMALL)
    assert result.status == 0, result.err
    run = only_run()
    assert list(run.glob("events.out.tfevents.*"))
    assert lamella("eval", str(run)).status == 0


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run_unless_nohup_keeps_it(tmp_path: Path) -> None:
    default = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)"  # `nohup make test` has it ignored
    program = script(tmp_path / "closed", default, *LONG)
    wait_until(lambda: "epoch" in program.out, 60, program)
    program.send_signal(signal.SIGHUP)
    assert program.wait(60) == 128 + signal.SIGHUP
    assert status(only_run(tmp_path / "closed")) == "interrupted"
    ignore = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)"
    program = script(tmp_path / "nohup", ignore, *LONG)
    wait_until(lambda: "epoch" in program.out, 60, program)
    program.send_signal(signal.SIGHUP)
    printed = len(program.out)
    wait_until(lambda: len(program.out) > printed + 500, 60, program)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_run_whose_readers_cannot_start_ends(tmp_path: Path) -> None:
    """A first worker runs when the second one cannot be started, and Python would wait for it."""
    once = """
import multiprocessing, os

multiprocessing.set_start_method("fork", force=True)
fork, started = os.fork, []
def fork_once():
    if started:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    started.append(fork())
    return started[0]
os.fork = fork_once
"""
    program = script(tmp_path, once, *LONG, "data.in_memory=false", "data.num_workers=2")
    assert program.wait(90) == 1
    assert status(only_run(tmp_path)) == "failed"
    assert "Resource temporarily unavailable" in program.err


@pytest.mark.slow
def test_nothing_is_waited_for_after_a_failure(tmp_path: Path, project: Project) -> None:
    """A thread of the user's own that never ends keeps no failed run alive."""
    project(
        mine=(
            "import threading, time\n"
            "import pytorch_lightning as pl\n\n"
            "class Broken(pl.Callback):\n"
            "    def on_train_epoch_end(self, trainer, pl_module):\n"
            "        threading.Thread(target=time.sleep, args=(9999,)).start()\n"
            "        raise OSError('broken')\n"
        )
    )
    soon = "from lamella import interrupts\ninterrupts.EXIT_SECONDS = 1.0"
    program = script(tmp_path, soon, *LONG, "+trainer.callbacks=[{_target_: mine.Broken}]")
    assert program.wait(60) == 1
    assert status(only_run(tmp_path)) == "failed"


@pytest.mark.slow
def test_a_rank_ends_after_rank_0(tmp_path: Path, trained: Path) -> None:
    """It may wait for an answer of rank 0 that never comes."""
    shutil.copytree(trained, tmp_path / "run")
    start = """
import fcntl, os, time
from pathlib import Path

from lamella import interrupts
from lamella.experiment import session

if os.fork():  # rank 0
    while not Path("begun").exists():
        time.sleep(0.02)
    os._exit(0)

def wait_for_rank_0(*arguments):
    Path("begun").touch()
    time.sleep(9999)

session.fit, interrupts.EXIT_SECONDS = wait_for_rank_0, 1.0
os.environ |= {"LOCAL_RANK": "1", "LAMELLA_RUN": "run"}
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
"""
    assert script(tmp_path, start, "train").wait() == 0
    with (tmp_path / "lock").open() as lock:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the rank has ended
                return
            time.sleep(0.05)
    raise AssertionError("the rank still runs")


def processes_in(directory: Path) -> list[str]:
    """Return the ids of the processes whose working directory this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if (process / "cwd").readlink() == directory:
                found.append(process.name)
    return found


@pytest.mark.slow
def test_the_workers_of_a_killed_run_end(tmp_path: Path) -> None:
    """Like a job of a sweep, this run has workers that a fork server of its own has started."""
    program = Program(tmp_path, *LONG, "data.in_memory=false", "data.num_workers=1")
    wait_until(lambda: "epoch" in program.out, 60, program)
    assert len(processes_in(tmp_path)) > 1
    program.kill()
    program.wait()
    wait_until(lambda: not processes_in(tmp_path), 60)


def test_workers_end_at_a_second_sigterm() -> None:
    """The first one may have been sent to the whole group, while the training process finishes its step."""
    from lamella.data.loader import prepare_worker

    reader, writer = os.pipe()
    if not (worker := os.fork()):
        try:
            prepare_worker(0)
            os.write(writer, b"x")
            while True:
                time.sleep(0.01)
        finally:
            os._exit(0)
    os.read(reader, 1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker, number)
    time.sleep(0.3)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM


@pytest.mark.slow(10)
def test_a_long_path_for_temporary_files(tmp_path: Path) -> None:
    """Sockets have paths of at most 107 bytes; the jobs of a sweep and the readers of data use them."""
    temporary = tmp_path / ("t" * 100)
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    options = ("-m", "seed=0,1", "sweep.name=s", "data.in_memory=false", "data.num_workers=1")
    program = RealProgram(tmp_path, *SMALL, *options, env=environment)
    assert program.wait() == 0, program.out + program.err


def test_a_run_directory_that_is_moved_while_a_checkpoint_is_written_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        VerifiedCheckpointIO().save_checkpoint({}, tmp_path / "moved" / "checkpoints" / "last.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_directory_that_is_moved_while_the_run_trains(tmp_path: Path) -> None:
    program = Program(tmp_path, *LONG)
    wait_until(lambda: "\nepoch    3/" in program.out, 60, program)
    run = only_run(tmp_path)
    run.rename(tmp_path / "moved")
    assert program.wait(60) == 1
    place = run.relative_to(tmp_path)
    assert program.err == (
        f"error: {place}: this directory was moved or deleted while the run trained\n"
        "  to go on: lamella resume, with the directory where it is now\n"
    )
    assert not run.exists()
    assert status(tmp_path / "moved") == "running"
    program = Program(tmp_path, "resume", "moved")
    wait_until(lambda: "epoch" in program.out, 60, program)
    assert "going on after epoch" in program.out

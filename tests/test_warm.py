"""`lamella warm`: a command in a fork of the server is the command as it is without one, or runs without one."""

import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import Lamella, Project
from programs import Program, RealProgram, wait_until

from lamella.runs.checkpoints import read_weights
from lamella.runs.reader import read_record
from lamella.warm import address, client, connection, server
from lamella.warm.identity import VARIABLES, identity

pytestmark = pytest.mark.xdist_group("warm")  # the tests share a server

TRAIN = ("train", "device.threads=1", "visuals=none")
LONG = (*TRAIN, "trainer.max_epochs=500")
# A network that writes down what its process has inherited, and which numbers are drawn first.
FACTS = """
import gc, json, locale, multiprocessing, os, random, resource, signal, sys, tempfile, threading, warnings
import numpy, torch
from torch import nn

def open_files():
    found = {}
    for number in os.listdir("/dev/fd"):
        try:
            found[number] = os.readlink(f"/dev/fd/{number}")
        except OSError:  # the directory itself
            pass
    return {number: path for number, path in found.items() if path.startswith("/") and not number == "0"}

def stream(file):
    return [file.encoding, file.errors, file.newlines, file.line_buffering, file.write_through, file.name, file.mode,
            type(file.buffer).__name__, file.isatty()]

main, umask = sys.modules["__main__"], os.umask(0)
os.umask(umask)
facts = {
    "program": [sys.argv, sys.orig_argv, sys.path, sys.executable, main.__file__, main.__spec__ and main.__spec__.name],
    "directory": [os.getcwd(), umask, tempfile.gettempdir()],
    "environ": {name: value for name, value in os.environ.items() if not name.startswith("KMP_")},
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:6] == "RLIMIT"},
    "nice": os.nice(0),
    "signals": {int(number): str(signal.getsignal(number)) for number in signal.valid_signals()},
    "blocked": [*signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "files": open_files(),
    "streams": [stream(sys.stdin), stream(sys.stdout), stream(sys.stderr), sys.stdout is sys.__stdout__],
    "stdin": sys.stdin.readline(),
    "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count(),
                threading.current_thread() is threading.main_thread()],
    "python": [gc.isenabled(), gc.get_threshold(), locale.getlocale(), multiprocessing.get_start_method(),
               multiprocessing.parent_process(), [str(item) for item in warnings.filters]],
}
drawn = [random.random(), numpy.random.rand(), multiprocessing.current_process().authkey.hex()]
with open(os.environ["FACTS"], "w") as file:
    json.dump([facts, drawn, os.getppid()], file)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
"""

# `lamella warm` with other times, in a process that has imported everything, and a module whose file may change.
SERVER = """
import sys
sys.path.insert(0, DIRECTORY)
import changing
sys.argv[0], sys.orig_argv = "lamella", [sys.executable, "-m", "lamella", *sys.argv[1:]]
from lamella.__main__ import main
from lamella.warm import server
server.IDLE_SECONDS, server.LOOK_SECONDS = IDLE, LOOK
sys.exit(main())
"""


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    """Start a server, and return the value of XDG_RUNTIME_DIR with which commands find it."""
    directory = Path(tempfile.mkdtemp(prefix="warm"))
    out = run_cold(directory, directory, "warm")
    assert " is ready (process " in out
    assert "to end it: lamella warm --stop" in out
    yield directory
    assert run_cold(directory, directory, "warm", "--stop") == "the server has ended\n"
    assert [path.suffix for path in (directory / "lamella").iterdir()] == [".lock"]
    shutil.rmtree(directory)


def run_cold(directory: Path, runtime: Path, *arguments: str) -> str:
    """Run a command to its end, and return what it printed."""
    program = start(directory, runtime, *arguments)
    assert program.wait() == 0, program.out + program.err
    return program.out


def start(directory: Path, runtime: Path, *arguments: str) -> RealProgram:
    """Start `python -m lamella`, which finds the server of `runtime`."""
    return RealProgram(directory, *arguments, env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)})


def server_process(runtime: Path) -> int:
    [lock] = (runtime / "lamella").glob("*.lock")
    return int(lock.read_text())


def forks(runtime: Path) -> list[int]:
    """Return the processes that the server has forked and that have not ended."""
    number = server_process(runtime)
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def trained_a_while(program: Program) -> bool:
    return " 2/" in program.out


@pytest.mark.slow(seconds=6)
def test_a_fork_has_what_a_process_of_the_shell_has(runtime: Path, tmp_path: Path, project: Project) -> None:
    project({"network/own.yaml": "_target_: mine.Net\n"}, mine=FACTS)
    script = (
        'ulimit -n 300; ulimit -c 0; umask 027; trap "" HUP USR2; '
        f"exec nice -n 3 {sys.executable} -m lamella inspect network=own 7<pyproject.toml"
    )
    found = []
    for place in (tmp_path, runtime, runtime):
        environ = os.environ | {"XDG_RUNTIME_DIR": str(place), "FACTS": "facts.json"}
        command = ["bash", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env=environ, input="a\nb\n", capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        facts, drawn, parent = json.loads((tmp_path / "facts.json").read_text())
        del facts["environ"]["XDG_RUNTIME_DIR"]
        found.append((facts, drawn, done.stdout))
        assert (parent == server_process(runtime)) == (place == runtime)
    (cold, _, cold_out), (warm, drawn, out), (again, drawn_again, _) = found
    assert warm == cold == again
    assert out == cold_out
    assert cold["stdin"] == "a\n"
    assert "7" in cold["files"]
    assert not {*drawn} & {*drawn_again}


def test_a_run_has_the_bits_of_a_cold_one(runtime: Path, tmp_path: Path, trained: Path) -> None:
    arguments = ("train", "trainer.max_epochs=2", "device.threads=1")
    out = run_cold(tmp_path, runtime, *arguments)
    [path] = tmp_path.glob("outputs/default/*")
    weights, expected = (dict(read_weights(at / "checkpoints" / "last.ckpt")) for at in (path, trained))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert read_record(path)["overrides"] == read_record(trained)["overrides"]
    assert "loading torch" not in out


def test_a_wrong_request_has_its_status_and_error(runtime: Path, tmp_path: Path, lamella: Lamella) -> None:
    program = start(tmp_path, runtime, *TRAIN, "optimizer.lr=abc")
    assert program.wait() == 2
    assert program.err == lamella(*TRAIN, "optimizer.lr=abc").err


def test_two_commands_run_at_once_and_a_pipe_may_be_closed(runtime: Path, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m lamella inspect device.threads=1"
    environ = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}
    script = f"({command}; echo status $? >&2) | head -1"
    both = [
        subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=environ, text=True, stdout=-1, stderr=-1)
        for _ in range(2)
    ]
    wait_until(lambda: len(forks(runtime)) == 2, 20)
    for one in both:
        out, err = one.communicate()
        assert out.count("\n") == 1
        assert err == ""


@pytest.mark.slow(seconds=5)
def test_a_terminal_stops_continues_and_ends_a_run(runtime: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = f"{sys.executable} -m lamella {' '.join(LONG)}"
    script = f"set -m; {command}; echo stopped $?; read line; fg; echo ended $?"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime), "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    os.set_blocking(master, False)
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        with suppress(BlockingIOError):
            shown += os.read(master, 1 << 16)
        return text in shown

    wait_until(lambda: shows(b"epoch   2/"), 60)
    [fork] = forks(runtime)
    os.write(master, b"\x1a")  # Ctrl-Z
    wait_until(lambda: shows(b"stopped 148"), 20)
    assert Path(f"/proc/{fork}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    shown = b""
    os.write(master, b"\n")
    wait_until(lambda: shows(b"epoch"), 20)
    os.write(master, b"\x03")  # Ctrl-C
    wait_until(lambda: shows(b"ended 130"), 20)
    assert b"interrupted; to go on: lamella resume" in shown
    shell.wait()
    os.close(master)


@pytest.mark.slow(seconds=6)
def test_a_signal_to_either_process_ends_both_and_the_run_is_saved(runtime: Path, tmp_path: Path) -> None:
    programs = [start(tmp_path, runtime, *LONG, f"name=run{number}") for number in range(3)]
    for program in programs:
        wait_until(lambda program=program: trained_a_while(program), 60, program)  # type: ignore[misc]
    programs[0].send_signal(signal.SIGTERM)
    assert programs[0].wait() == 128 + signal.SIGTERM
    programs[1].kill()
    assert programs[1].wait() == -signal.SIGKILL
    wait_until(lambda: len(forks(runtime)) == 1, 20)
    for number in range(2):
        [path] = tmp_path.glob(f"outputs/run{number}/*")
        assert read_record(path)["status"] == "interrupted"
    [fork] = forks(runtime)
    os.kill(fork, signal.SIGKILL)
    assert programs[2].wait() == -signal.SIGKILL


@pytest.mark.slow(seconds=4)
def test_a_sweep_forks_its_jobs_from_the_fork(runtime: Path, tmp_path: Path) -> None:
    out = run_cold(tmp_path, runtime, *TRAIN, "-m", "seed=0,1", "trainer.max_epochs=1", "hydra.launcher.slots=2")
    assert "[2/2]" in out
    assert {read_record(path.parent)["status"] for path in tmp_path.glob("outputs/*/*/*/run.json")} == {"finished"}


@pytest.mark.slow(seconds=8)
def test_a_run_of_two_processes_starts_the_second_one(runtime: Path, tmp_path: Path) -> None:
    run_cold(tmp_path, runtime, *TRAIN, "trainer=ddp", "device=cpu", "trainer.max_epochs=1", "trainer.devices=2")
    [path] = tmp_path.glob("outputs/default/*")
    assert read_record(path)["status"] == "finished"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process look like `python -m lamella train`, because the server compares how Python was called."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setattr(sys, "argv", ["lamella", "train"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "lamella", "train"])


@pytest.fixture
def own_runtime(command: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a value of XDG_RUNTIME_DIR with a directory for a server, which this process finds too."""
    directory = Path(tempfile.mkdtemp(prefix="warm"))
    (directory / "lamella").mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    yield directory
    connection.ask("stop", identity())
    shutil.rmtree(directory)


def serve(directory: Path, idle: float = 60, look: float = 60, name: str = "script") -> Program:
    """Start `lamella warm` for $XDG_RUNTIME_DIR, in a fork of the process that has imported everything."""
    script = directory / f"{name}.py"
    (directory / "changing.py").touch()
    text = SERVER.replace("DIRECTORY", repr(str(directory)))
    script.write_text(text.replace("IDLE, LOOK", f"{idle}, {look}"))
    return Program(directory, str(script), "warm")


def test_after_its_server_was_killed_a_run_ends_well_and_a_new_server_starts(own_runtime: Path, tmp_path: Path) -> None:
    assert serve(tmp_path).wait() == 0
    program = start(tmp_path, own_runtime, *TRAIN, "trainer.max_epochs=30")
    wait_until(lambda: trained_a_while(program), 60, program)
    os.kill(server_process(own_runtime), signal.SIGKILL)
    assert program.wait() == 1
    assert program.err == "error: the server of `lamella warm` was killed; the exit status is not known\n"
    [path] = tmp_path.glob("outputs/default/*")
    assert read_record(path)["status"] == "finished"
    assert Path(address.socket_path()).is_socket()
    wait_until(lambda: connection.connect() is None, 10)  # the system may still be taking the server apart
    again = serve(tmp_path)
    assert again.wait() == 0
    assert "is ready" in again.out


def test_two_at_once_are_one_server(own_runtime: Path, tmp_path: Path) -> None:
    both = [serve(tmp_path, name=name) for name in ("one", "other")]
    assert [program.wait() for program in both] == [0, 0]
    assert sorted("is ready" in program.out for program in both) == [False, True]
    assert all(f"(process {server_process(own_runtime)})" in program.out for program in both)


def test_a_server_of_another_version_is_not_used_and_replaced(own_runtime: Path, tmp_path: Path) -> None:
    assert serve(tmp_path).wait() == 0
    state = connection.ask("state", identity())
    assert state
    assert state["difference"] is None
    os.utime(tmp_path / "changing.py", (0, 0))
    state = connection.ask("state", identity())
    assert state
    assert state["difference"] == server.VERSION
    other = serve(tmp_path)
    assert other.wait() == 0
    assert "a new server takes the place of the one that was running: a file of Lamella or of a library" in other.out
    os.utime(tmp_path / "changing.py", (1, 1))
    assert client.run_warm() is None
    wait_until(lambda: not Path(address.socket_path()).exists(), 10)


def test_a_server_ends_where_nothing_is_asked(own_runtime: Path, tmp_path: Path) -> None:
    assert serve(tmp_path, idle=0.5, look=0.2).wait() == 0
    wait_until(lambda: not Path(address.socket_path()).exists(), 10)


def test_a_server_ends_where_its_environment_is_deleted(own_runtime: Path, tmp_path: Path) -> None:
    assert serve(tmp_path, look=0.2).wait() == 0
    number = server_process(own_runtime)
    (tmp_path / "changing.py").unlink()
    wait_until(lambda: not Path(f"/proc/{number}/exe").exists(), 10)


@pytest.mark.usefixtures("command")
def test_what_differs_is_named(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))

    def found() -> object:
        state = connection.ask("state", identity())
        assert state
        return state["difference"]

    assert found() is None
    for name in ("OMP_NUM_THREADS", "MKL_DYNAMIC", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "LD_PRELOAD", "WORLD_SIZE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "7")
            assert found() == f"the variable {name}"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version", "4.0")
        assert found() == "the version of Python"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "orig_argv", [sys.executable, "-m", "cProfile", "-m", "lamella", "train"])
        assert found() == "the options of Python"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", "/another")
        assert connection.connect() is None


@pytest.mark.slow(seconds=5)
def test_variables_that_are_read_at_import_are_compared() -> None:
    program = """
import os, sys, threading
read = {}
class Environ(type(os.environ)):
    def __getitem__(self, name):
        frame = sys._getframe(1)
        while "<frozen" in frame.f_code.co_filename or frame.f_code.co_filename.endswith("/os.py"):
            frame = frame.f_back
        read[name] = frame.f_code.co_filename
        return super().__getitem__(name)
os.environ.__class__ = Environ
from lamella.warm.preloaded import import_all
import_all()
print(*(f"{name}={place}" for name, place in read.items()), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # The first two look through all variables for those that begin with TQDM_ and FSSPEC_.
    others = "/tqdm/", "/fsspec/", "/sysconfig.py"
    read = {line for line in done.stdout.splitlines() if not any(other in line for other in others)}
    assert len(read) > 50
    assert [line for line in read if not line.startswith(VARIABLES)] == []


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen()
    return listener


def test_a_socket_that_others_may_use_is_not_trusted(own_runtime: Path) -> None:
    path = Path(address.socket_path())
    assert connection.connect() is None  # there is none
    with listen(path):
        found = connection.connect()
        assert found
        found.close()
        path.chmod(0o666)
        assert connection.connect() is None
        path.chmod(0o600)
        path.parent.chmod(0o755)
        assert connection.connect() is None
        path.parent.chmod(0o700)
        if os.getuid() == 0:
            for place in (path, path.parent):
                os.chown(place, 65534, -1)
                assert connection.connect() is None
                os.chown(place, 0, -1)
        path.parent.rename(own_runtime / "other")
        path.parent.symlink_to(own_runtime / "other")
        assert connection.connect() is None
        path.parent.unlink()
        (own_runtime / "other").rename(path.parent)
        path.rename(path.with_name("other"))
        path.symlink_to("other")
        assert connection.connect() is None
        path.unlink()
        path.write_text("")
        path.chmod(0o600)
        assert connection.connect() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@pytest.mark.usefixtures("own_runtime")
def test_a_server_of_another_user_is_not_trusted() -> None:
    path = Path(address.socket_path())
    ready, done = os.pipe(), os.pipe()
    if not (child := os.fork()):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        os.setuid(65534)
        listener.listen()
        os.write(ready[1], b"1")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert address.is_private(str(path))
    assert connection.connect() is None
    os.write(done[1], b"1")
    os.waitpid(child, 0)


@pytest.mark.parametrize("answer", [b"", b"garbage", b"\0\0\0\2{}", b"\0\0\0\4null"])
@pytest.mark.usefixtures("own_runtime")
def test_a_server_that_does_not_answer_well_is_not_used(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SECONDS", 0.2)
    with listen(Path(address.socket_path())) as listener:
        if answer:
            child = os.fork()
            if not child:
                other, _ = listener.accept()
                other.recv(1 << 16)
                other.sendall(answer)
                other.shutdown(socket.SHUT_WR)
                other.recv(1 << 16)
                os._exit(0)
        assert client.run_warm() is None
        if answer:
            os.waitpid(child, 0)


def test_a_server_that_cannot_be_started_is_refused(
    lamella: Lamella, own_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lamella("warm", "--stop").out == "no server is running\n"
    monkeypatch.setenv("LOCAL_RANK", "0")
    lamella("warm").check_refusal("LOCAL_RANK is set")
    monkeypatch.delenv("LOCAL_RANK")
    (own_runtime / "lamella").chmod(0o755)
    lamella("warm").check_refusal(f"{own_runtime}/lamella is not a directory that you alone may use")
    long = own_runtime / ("long" * 25)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    lamella("warm").check_refusal("XDG_RUNTIME_DIR", "too long for a socket")

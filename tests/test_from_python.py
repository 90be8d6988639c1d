"""lamella.train and lamella.sweep: in a Jupyter kernel, in a script, and as functions of this process."""

import json
import logging
import os
import random
import signal
import sys
import threading
from pathlib import Path

import nbformat
import programs
import pytest
import torch
from conftest import Lamella, Project
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from nbclient import NotebookClient
from omegaconf import OmegaConf

import lamella as api
from lamella.errors import RequestError, RunFailed
from lamella.interrupts import set_handler
from lamella.runs import Record
from lamella.training.trainer import LIGHTNING, MESSENGERS

SHORT = ["trainer.max_epochs=2", "device.threads=1"]

# Each cell, and what its outputs hold; an error is its name and its message.
INTERRUPTED = """
import os, signal, threading, time
from pathlib import Path

def press_stop():
    while not list(Path("outputs/long").glob("*/metrics.jsonl")):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=press_stop).start()
lamella.train(["name=long", "trainer.max_epochs=100000", "device.threads=1"])
"""
CELLS = {
    "import lamella": [],
    f"run = lamella.train({SHORT})": ["Using cpu device", "epoch 2/2 ━", "best epoch  2 of 2"],
    "list(run.history['epoch']), bool(run.history['val/accuracy'].max() == run.metrics['val/accuracy'])": [
        "([1, 2], True)"
    ],
    "run.model.classes[:3]": ["['0', '1', '2']"],
    "lamella.train(['netwrk=cnn'])": ["RequestError netwrk: there is no such key; did you mean network?"],
    INTERRUPTED: ["epoch ", "to go on: lamella resume outputs/long/", "KeyboardInterrupt "],
    "[one['status'] for one in lamella.runs('outputs/long')]": ["['interrupted']"],
    f"runs = lamella.sweep(['optimizer.lr=1e-9,1e-2', *{SHORT[1:]}, 'trainer.max_epochs=1'])": [
        "2 jobs",
        "2/2",
        "directory",
    ],
    "[one['optimizer.lr'] for one in runs]": ["[0.01, 1e-09]"],
}


@pytest.mark.slow(20)
def test_in_a_notebook(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    for cell, expected in zip(notebook.cells, CELLS.values(), strict=True):
        shown = [
            output.get("text") or output.get("data", {}).get("text/plain") or f"{output.ename} {output.evalue}"
            for output in cell.outputs
        ]
        text = "\n".join(shown)
        for part in expected:
            assert part in text, f"{cell.source}\n{text}"
        # However many epochs and jobs there are, the progress is one text of a few lines.
        displayed = [output.data["text/plain"] for output in cell.outputs if output.output_type == "display_data"]
        assert len(displayed) <= 1
        assert all(len(lines.splitlines()) <= 4 for lines in displayed)
        assert text.count("train loss") <= 1


SCRIPT = """
import lamella

lamella.sweep(["optimizer.lr=1e-2,1e30", "trainer.max_epochs=1", "device.threads=1", "sweep.name=lr"])
"""


@pytest.mark.slow(4)
def test_a_script_without_a_main_function_sweeps(tmp_path: Path) -> None:
    """Its jobs do not run the script again."""
    (tmp_path / "search.py").write_text(SCRIPT)
    program = programs.Program(tmp_path, str(tmp_path / "search.py"))
    assert program.wait() == 1
    assert program.out.count("outputs/default/lr: 2 jobs") == 1
    assert "RunFailed: outputs/default/lr: 1 of 2 jobs failed\n  lr=1e+30: NonFiniteLoss: the loss is" in program.err
    assert sorted(run["status"] for run in api.runs(tmp_path / "outputs")) == ["failed", "finished"]


@pytest.mark.slow(4)
def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path, project: Project) -> None:
    project(slow=SLOW)
    (tmp_path / "script.py").write_text(INTERRUPTED_TWICE)
    program = programs.Program(tmp_path, str(tmp_path / "script.py"))
    programs.wait_until(lambda: "waiting" in program.out, 60, program)
    program.send_signal(signal.SIGINT)
    programs.wait_until(lambda: "press Ctrl-C again" in program.err, 30, program)
    programs.wait_until(lambda: "later" in program.out, 30, program)
    program.send_signal(signal.SIGINT)
    assert program.wait() == 0, program.err
    assert program.out.endswith("KeyboardInterrupt interrupted\n")


SLOW = """
import time
import pytorch_lightning as pl

class Slow(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            print("waiting", flush=True)
            for second in range(100):
                time.sleep(0.7)
                print("later" if second else "", flush=True)
"""
INTERRUPTED_TWICE = """
import lamella

try:
    lamella.train(["name=slow", "trainer.max_epochs=2", "+trainer.callbacks=[{_target_: slow.Slow}]"])
except KeyboardInterrupt:
    print("KeyboardInterrupt", lamella.runs()[0]["status"])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_has_the_bits_of_the_command(here: Path, trained: Path) -> None:
    """Also the second run of a process, in a thread that can set no signal handlers."""
    found: list[Record] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(api.train(SHORT)))
        thread.start()
        thread.join()
    fields = json.loads((trained / "run.json").read_text())
    assert [run.metrics for run in found] == [fields["metrics"]] * 2
    assert [run.path.name for run in found] == [trained.name, f"{trained.name}_2"]
    saved = [torch.load(path / "checkpoints/best.ckpt", weights_only=True) for path in (trained, found[1].path)]
    assert all(value.equal(saved[1]["state_dict"][name]) for name, value in saved[0]["state_dict"].items())


def test_the_process_is_left_as_it_was(
    here: Path, project: Project, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def state() -> list[object]:
        generators = random.getstate(), torch.get_rng_state().tolist()
        python = sys.argv[:], sys.path[:], dict(os.environ), generators, GlobalHydra.instance().is_initialized()
        return [*python, of_torch(), signals(), loggers()]

    def of_torch() -> object:
        deterministic = torch.are_deterministic_algorithms_enabled()
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.get_num_threads(), torch.backends.cudnn.benchmark, deterministic, warns

    def signals() -> object:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def loggers() -> object:
        named = map(logging.getLogger, ("root", *LIGHTNING, *MESSENGERS))
        return [(one.name, one.level, one.handlers[:], one.propagate) for one in named]

    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    torch.use_deterministic_algorithms(True, warn_only=True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    project(idle="import pytorch_lightning as pl\n\n\nclass Idle(pl.Callback):\n    pass\n")
    short = ["trainer.max_epochs=1", "device.threads=1", "+trainer.limit_train_batches=1", "device.deterministic=true"]
    OmegaConf.register_new_resolver("length", lambda text: "the project's own", replace=True)
    with initialize(None, version_base="1.3"):
        before = state()
        api.train([*short, "+trainer.callbacks=[{_target_: idle.Idle}]"])
        assert state() == before
        with pytest.raises(RequestError):
            api.train(["optimizer.lr=abc"])
        assert state() == before
        assert compose(overrides=["+a=1"]) == {"a": 1}
    assert OmegaConf.create({"a": "${length:b}"}).a == "the project's own"
    OmegaConf.clear_resolver("length")


def test_a_handler_that_python_has_not_set_is_kept() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    set_handler(signal.SIGUSR1, None)  # what getsignal returns for one of a program in C
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    "overrides",
    [
        ["netwrk=cnn"],
        ["network=cnnn"],
        ["optimizer.lr=abc"],
        ["optimizer.lr=1,2"],
        ["data.batch_size=0"],
        ["network=linear", "network.layers=[{Linear: 3}, {Conv2d: 3}]"],
    ],
)
def test_a_refusal_is_the_text_of_the_command(lamella: Lamella, overrides: list[str]) -> None:
    with pytest.raises(RequestError) as raised:
        api.train(overrides)
    assert not Path("outputs").exists()
    assert lamella("train", *overrides).err == f"error: {raised.value}\n"


def test_a_refused_sweep_names_all_jobs_that_are_wrong(lamella: Lamella) -> None:
    overrides = ["optimizer.lr=1e-3,-1", "data.batch_size=0,8"]
    with pytest.raises(RequestError) as raised:
        api.sweep(overrides)
    assert str(raised.value).count("in the job") == 2
    refused = lamella("train", "-m", *overrides)
    refused.check_refusal()
    assert refused.err == f"error: {raised.value}\n"


def test_what_is_no_list_of_overrides_is_refused(here: Path) -> None:
    for given in ("network=cnn", [1]):
        with pytest.raises(RequestError, match=r"`lamella.train` takes a list of overrides, as in \[\"network=cnn\""):
            api.train(given)  # type: ignore[arg-type]
    for call, option in ((api.train, "-m"), (api.train, "hydra.mode=MULTIRUN"), (api.sweep, "--cfg")):
        with pytest.raises(RequestError, match=f"^{option}: lamella.{call.__name__} takes overrides and no options"):
            call([option, "seed=1,2"])
    with pytest.raises(
        RequestError, match=r"devices is 2, which needs a program of its own; in a terminal:\n  lamella"
    ):
        api.train(["trainer.devices=2", "device=cpu"])
    with pytest.raises(RequestError, match="strategy is 'ddp', which needs a program of its own"):
        api.train(["trainer=ddp", "device=cpu"])


def test_a_run_that_fails_raises(here: Path) -> None:
    with pytest.raises(RunFailed, match=r"(?s)NonFiniteLoss: the loss is .*the full traceback: .*/log.txt$") as raised:
        api.train(["optimizer.lr=1e30", *SHORT])
    [run] = api.runs()
    assert (run["status"], raised.value.path) == ("failed", run.path)


def test_a_history_needs_pandas(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RequestError, match="a table in Python needs pandas: pip install pandas"):
        _ = api.runs()[0].history

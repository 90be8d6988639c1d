"""Commands in a directory of somebody who means harm: nothing there is run, and nothing is written elsewhere."""

import csv
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import torch
import yaml
from conftest import Lamella, contents
from PIL import Image
from programs import Program, RealProgram, wait_until

from lamella.runs import provenance
from lamella.tables import format_csv

TINY = ("network=linear", "device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=1")
# A file with the name of each module that Python or Lamella may import.
LIBRARIES = ("lamella", "torch", "torchvision", "numpy", "PIL", "yaml", "hydra", "omegaconf", "tensorboard", "sklearn")
MODULES = sorted({*sys.stdlib_module_names, *LIBRARIES, "sitecustomize", "usercustomize", "mine"})
SCRIPT = """
import json, os, sys
os.environ["HYDRA_FULL_ERROR"] = "0"
from lamella.__main__ import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["lamella", *line]
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    print("STATUS", line[0], status, flush=True)
"""


class Installed(RealProgram):
    """A script that calls `lamella` once for each of several lines, started as the installed script is."""

    def start(self, directory: Path, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        script = self.options["script"]
        script.write_text(SCRIPT)
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=directory,
            stdout=self.files[0],
            stderr=self.files[1],
            start_new_session=True,
            env=environ,
        )


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Path]:
    """A directory in which each trap that runs leaves a file; there must be none in the end."""
    directory = tmp_path.with_name(f"{tmp_path.name}-marks")
    directory.mkdir()
    yield directory
    assert [path.name for path in directory.iterdir()] == []


def set_traps(directory: Path, marks: Path) -> None:
    """Write a module that leaves a mark for each name in MODULES, and a configuration that lets LaTeX run a text."""
    for name in MODULES:
        (directory / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'w').close()\n")
    (directory / "matplotlibrc").write_text("text.usetex: True\nbackend: module://mine\n")
    (directory / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["mine"]\nwrite = ["/"]\n')
    (directory / "conf/network").mkdir(parents=True)
    (directory / "conf/network/own.yaml").write_text("_target_: mine.Net\n")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two; not to be changed."""
    directory = tmp_path_factory.mktemp("sweep")
    programs.run(directory, "train", "-m", "seed=0,1", *TINY, "sweep.name=s")
    return directory / "outputs/default/s"


@pytest.mark.slow(20)
def test_no_command_imports_what_lies_in_a_run_or_in_a_project(trained: Path, tmp_path: Path, marks: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    set_traps(run, marks)
    Image.new("L", (28, 28)).save(run / "x.png")
    lines = [
        ["predict", ".", "x.png"],
        ["eval", "."],
        ["inspect", ".", "--gradients", "--graph", "graph.dot"],
        ["export", ".", "--format", "safetensors"],
        ["compare", ".", ".", "--plot", "curves.png"],
        ["runs", "."],
        ["resume", ".", "trainer.max_epochs=3"],
        ["train", *TINY],
        ["inspect"],
    ]
    refused = ["train", "network=own"]
    program = Installed(run, json.dumps([*lines, refused]), script=tmp_path / "lamella")
    assert program.wait(300) == 0
    ends = [line for line in program.out.splitlines() if line.startswith("STATUS")]
    assert ends == [*(f"STATUS {line[0]} 0" for line in lines), "STATUS train 2"], program.err
    assert "what pyproject.toml allows does not count inside of a run directory" in program.err


@pytest.mark.slow(30)
def test_no_process_of_a_sweep_imports_what_lies_there(sweep: Path, tmp_path: Path, marks: Path) -> None:
    """Neither the processes of the jobs, nor the programs that jobs with two processes are."""
    copy = Path(shutil.copytree(sweep, tmp_path / "s"))
    one, two = sorted(path.name for path in copy.iterdir() if path.is_dir())
    plan = [json.loads(line) for line in (copy / "plan.jsonl").read_text().splitlines()]
    for member in plan:
        member["config"]["trainer"]["devices"] = 2 if member["name"] == two else 1
        shutil.rmtree(copy / member["name"])
    (copy / "plan.jsonl").write_text("".join(json.dumps(member) + "\n" for member in plan))
    set_traps(copy, marks)
    program = Installed(copy, json.dumps([["resume", "."]]), script=tmp_path / "lamella")
    assert program.wait(300) == 0
    assert "STATUS resume 0" in program.out, program.out + program.err
    assert all(json.loads((copy / name / "run.json").read_text())["status"] == "finished" for name in (one, two))


@pytest.mark.slow
def test_tensorboard_imports_nothing_that_lies_there(sweep: Path, tmp_path: Path, marks: Path) -> None:
    copy = Path(shutil.copytree(sweep, tmp_path / "s"))
    set_traps(copy, marks)
    program = Installed(copy, json.dumps([["board", ".", "--port", "0"]]), script=tmp_path / "lamella")
    wait_until(lambda: "http://127.0.0.1" in program.err, 120, program)
    program.kill_group()
    program.wait()


@pytest.mark.slow
def test_ray_is_refused_where_it_would_import_what_lies_there(
    lamella: Lamella, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(sweep, "s"))
    record = json.loads((copy / "sweep.json").read_text())
    record["launcher"] = {"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"}
    (copy / "sweep.json").write_text(json.dumps(record))
    monkeypatch.chdir(copy)
    result = lamella("resume", ".")
    assert (result.status, "start the command outside of the sweep's directory" in result.err) == (2, True)


# Each key of git's configuration that names a program, by the value that it takes.
GIT_PROGRAMS = {
    "core.fsmonitor": "touch {}; false",
    "core.pager": "touch {}; cat",
    "core.editor": "touch {}",
    "core.sshCommand": "touch {}",
    "core.gitProxy": "touch {}",
    "core.askPass": "touch {}",
    "core.alternateRefsCommand": "touch {}",
    "pager.diff": "touch {}; cat",
    "pager.status": "touch {}; cat",
    "diff.external": "touch {}",
    "diff.trap.command": "touch {}",
    "diff.trap.textconv": "touch {}; cat",
    "filter.trap.clean": "touch {}; cat",
    "filter.trap.smudge": "touch {}; cat",
    "merge.trap.driver": "touch {}",
    "interactive.diffFilter": "touch {}; cat",
    "sequence.editor": "touch {}",
    "gpg.program": "touch {}",
    "credential.helper": "!touch {}",
    "alias.rev-parse": "!touch {}",
    "alias.diff": "!touch {}",
    "remote.origin.uploadpack": "touch {}; git-upload-pack",
    "uploadpack.packObjectsHook": "touch {}",
    "trailer.trap.command": "touch {}",
    "diff.tool": "trap",
    "difftool.trap.cmd": "touch {}",
}
HOOKS = (
    "post-index-change",
    "fsmonitor-watchman",
    "pre-commit",
    "post-checkout",
    "pre-auto-gc",
    "reference-transaction",
)


def git(*arguments: str, where: str = ".") -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=where, check=True, capture_output=True, text=True
    ).stdout.strip()


def add_git_traps(repository: str, marks: Path) -> None:
    folder = Path(git("rev-parse", "--absolute-git-dir", where=repository))
    lines = []
    for number, (key, value) in enumerate(GIT_PROGRAMS.items()):
        if number % 2:  # one half of the keys is in the file itself, and the other in one that it includes
            git("config", key, value.format(marks / key), where=repository)
        else:
            section, _, name = key.rpartition(".")
            section = f'{section.partition(".")[0]} "{section.partition(".")[2]}"' if "." in section else section
            lines.append(f"[{section}]\n\t{name} = {json.dumps(value.format(marks / key))}\n")
    (folder / "more").write_text("".join(lines))
    for key, value in {"include.path": "more", "filter.trap.required": "true", "core.hooksPath": "traps"}.items():
        git("config", key, value, where=repository)
    for hooks in (folder / "hooks", Path(repository, "traps")):
        hooks.mkdir(exist_ok=True)
        for name in HOOKS:
            (hooks / name).write_text(f"#!/bin/sh\ntouch '{marks}/{name}'\n")
            (hooks / name).chmod(0o755)
    (folder / "info").mkdir(exist_ok=True)
    (folder / "info/attributes").write_text("* filter=trap diff=trap merge=trap\n")


@pytest.fixture
def repository(lamella: Lamella) -> str:
    """A repository with a submodule, in which everything has changed since its commit."""
    for name in ("library", "project"):
        git("init", "-q", name)
        Path(name, "code.py").write_text("one\n")
        Path(name, ".gitattributes").write_text("* filter=trap diff=trap merge=trap\n")
        git("add", "-A", where=name)
        git("commit", "-qm", "one", where=name)
    git("submodule", "--quiet", "add", str(Path("library").absolute()), "inner", where="project")
    git("commit", "-qm", "two", where="project")
    for file in ("code.py", "inner/code.py"):
        Path("project", file).write_text("two\n")
    return "project"


@pytest.mark.slow
def test_git_starts_no_program_of_a_repository(
    lamella: Lamella, repository: str, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git("rev-parse", "HEAD", where=repository)
    for where in (repository, f"{repository}/inner"):
        add_git_traps(where, marks)
    monkeypatch.chdir(repository)
    assert lamella("train", *TINY).status == 0
    assert list(marks.iterdir()) == []
    [record] = Path("outputs/default").glob("*/run.json")
    state = json.loads(record.read_text())["git"]
    assert state == {"commit": commit, "dirty": True}
    assert "-one\n+two\n" in (record.parent / "git.patch").read_text()
    # The traps work: an ordinary git falls into some of them.
    subprocess.run(["git", "-c", "safe.directory=*", "status"], capture_output=True)
    subprocess.run(["git", "diff", "HEAD"], capture_output=True)
    found = {path.name for path in marks.iterdir()}
    for path in marks.iterdir():
        path.unlink()
    assert {"core.fsmonitor", "filter.trap.clean"} <= found


@pytest.mark.slow
def test_git_downloads_nothing(lamella: Lamella, marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial clone lacks files, which git would ask a program of the repository for."""
    git("init", "-q", "whole")
    Path("whole/code.py").write_text("one\n")
    git("add", "-A", where="whole")
    git("commit", "-qm", "one", where="whole")
    git("config", "uploadpack.allowFilter", "true", where="whole")
    git("clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{Path('whole').absolute()}", "part")
    git("read-tree", "HEAD", where="part")
    Path("part/code.py").write_text("two\n")
    git("config", "remote.origin.uploadpack", f"touch {marks}/uploadpack; git-upload-pack", where="part")
    monkeypatch.chdir("part")
    state = provenance.git_state(Path("git.patch").absolute())
    assert state == {"commit": git("rev-parse", "HEAD"), "dirty": True, "left_out": ["code.py (not in this clone)"]}


def test_a_worktree_and_ignored_files(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    git("init", "-q", "main")
    Path("main/code.py").write_text("one\n")
    git("add", "-A", where="main")
    git("commit", "-qm", "one", where="main")
    git("worktree", "add", "-q", "../other", where="main")
    Path("main/.git/info/exclude").write_text("scratch\n")
    monkeypatch.chdir("other")
    commit, patch = git("rev-parse", "HEAD"), Path("../git.patch").absolute()
    Path("scratch").touch()
    assert provenance.git_state(patch) == {"commit": commit, "dirty": False}
    Path("folder").mkdir()
    Path("folder/new.py").touch()
    monkeypatch.chdir("folder")
    assert provenance.git_state(patch) == {"commit": commit, "dirty": True}
    assert not patch.exists()
    Path("../code.py").write_text("two\n")
    assert provenance.git_state(patch) == {"commit": commit, "dirty": True}
    git("apply", "-R", str(patch), where="..")
    assert Path("../code.py").read_text() == "one\n"


@pytest.mark.slow
def test_a_patch_is_small_and_shared_by_a_sweep(lamella: Lamella) -> None:
    git("init", "-q")
    Path(".gitignore").write_text("outputs\n")
    for name in ("code.py", "old.bin"):
        Path(name).write_text("one\n")
    Path("weights.bin").write_bytes(os.urandom(3_000_000))
    Path("deleted.bin").write_bytes(os.urandom(2_000_000))
    for number in range(8):
        Path(f"part{number}.bin").write_text("one\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    Path("code.py").write_text("two\n")
    Path("weights.bin").write_bytes(os.urandom(3_000_000))
    Path("deleted.bin").unlink()
    for number in range(8):
        Path(f"part{number}.bin").write_bytes(os.urandom(300_000))
    programs.run(Path(), "train", "-m", "seed=0,1", *TINY, "sweep.name=s")
    one, two = Path("outputs/default/s").glob("*/git.patch")
    assert one.stat().st_ino == two.stat().st_ino
    assert one.stat().st_size < 1_100_000
    assert b"+two" in one.read_bytes()
    left_out = json.loads(one.with_name("run.json").read_text())["git"]["left_out"]
    assert {"weights.bin (3 MB)", "deleted.bin (2 MB)"} < set(left_out)
    assert one.read_text().splitlines()[0].startswith("A patch has at most 1 MB. Left out: ")
    git("stash", "-q")
    git("apply", str(one))
    assert Path("code.py").read_text() == "two\n"


def test_many_files_are_left_out_in_one_line(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LARGEST_PATCH", 10)
    git("init", "-q")
    for number in range(30):
        Path(f"\x1b[2J{number}").write_text("one\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    for number in range(30):
        Path(f"\x1b[2J{number}").write_text("two, and more than ten letters\n")
    state = provenance.git_state(Path("git.patch").absolute())
    assert state is not None
    left_out = state["left_out"]
    assert isinstance(left_out, list)
    assert (len(left_out), left_out[-1]) == (21, "and 10 more")
    assert "\x1b" not in Path("git.patch").read_text()


@pytest.mark.slow
def test_a_repository_with_a_fifo_is_left(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamella.runs import repository

    monkeypatch.setattr(repository, "SECONDS", 1)
    git("init", "-q")
    Path("code.py").write_text("one\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    os.mkfifo(".gitignore")
    assert provenance.git_state(Path("git.patch").absolute()) is None


ESCAPE = "\x1b]0;owned\x07\x9b2J"


@pytest.mark.slow
def test_nothing_that_is_printed_holds_codes_for_the_terminal(lamella: Lamella, run: Path) -> None:
    """Codes of a record, of a config and of the names of files, also where these are given on the command line."""
    record = json.loads((run / "run.json").read_text())
    record["name"] = record["error"] = ESCAPE
    record["overrides"] = [f"optimizer.lr={ESCAPE}"]
    record["versions"] = dict.fromkeys(record["versions"], ESCAPE)
    record["environment"] = dict.fromkeys(record["environment"], ESCAPE)
    record["git"] = {"commit": ESCAPE, "dirty": ESCAPE}
    record["choices"] = dict.fromkeys(record["choices"], ESCAPE)
    record["inexact"] = [ESCAPE]
    (run / "run.json").write_text(json.dumps(record))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["classes"] = [f"{ESCAPE}{number}" for number in range(10)]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "git.patch").write_text(ESCAPE)
    other = Path(shutil.copytree(run, run.with_name(f"other{ESCAPE}")))
    (other / "git.patch").write_text(f"{ESCAPE}, too")
    broken = Path(shutil.copytree(run, run.with_name("broken")))
    (broken / "run.json").write_text(json.dumps({**record, "format": 99, "versions": {"lamella": ESCAPE}}))
    Image.new("L", (28, 28)).save(f"x{ESCAPE}.png")
    Path(f"y{ESCAPE}.png").write_text("no image")
    for arguments in (
        ["runs"],
        ["runs", "--csv"],
        ["runs", "--json"],
        ["runs", "--columns", "name,overrides,choices", "--csv"],
        ["runs", "--sort", ESCAPE],
        ["compare", str(run), str(other)],
        ["inspect", str(run), "--gradients"],
        ["eval", str(other)],
        ["predict", str(other), f"x{ESCAPE}.png", f"y{ESCAPE}.png"],
        ["predict", str(run), f"z{ESCAPE}.png"],
        ["eval", str(broken)],
        ["export", str(other), "--format", "safetensors"],
        ["resume", str(other), "trainer.max_epochs=3"],
        ["reproduce", str(run)],
        ["eval", str(run), f"-{ESCAPE}"],
        ["train", f"optimizer.lr={ESCAPE}"],
        [f"{ESCAPE}"],
    ):
        result = lamella(*arguments)
        for printed in (result.out, result.err):
            assert not set(printed) & {"\x1b", "\x07", "\x9b"}, arguments
    for log in Path().rglob("log.txt"):
        assert not set(log.read_text()) & {"\x1b", "\x9b"}, log


def test_a_cell_of_csv_is_no_formula() -> None:
    cells = ["=1+1", "+a", "-a", "@a", " =1", "-1.5", "+3", "-inf", "a=b", -2.5, None, True, 'it\'s, "so"']
    [row] = csv.reader(io.StringIO(format_csv([cells])))
    assert row == ["'=1+1", "'+a", "'-a", "'@a", "' =1", "-1.5", "+3", "-inf", "a=b", "-2.5", "", "True", 'it\'s, "so"']


@pytest.mark.slow
def test_runs_as_csv_hold_no_formula(lamella: Lamella, run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "name": "=HYPERLINK(1)"}))
    assert lamella("runs", "--csv", "--columns", "name").out == "name\n'=HYPERLINK(1)\n"


CSV = "pytorch_lightning.loggers.CSVLogger"
CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
PROFILER = "pytorch_lightning.profilers.SimpleProfiler"


@pytest.mark.slow
def test_loggers_callbacks_and_profilers_write_into_the_run(lamella: Lamella) -> None:
    done = lamella(
        "train",
        *TINY,
        f"+trainer.logger=[{{_target_: {CSV}, save_dir: logs, name: x, version: y}}]",
        f"trainer.callbacks=[{{_target_: {CHECKPOINT}, dirpath: kept, filename: a}}]",
        f"+trainer.profiler={{_target_: {PROFILER}, dirpath: profile, filename: z}}",
    )
    assert done.status == 0, done.err
    [run] = Path("outputs/default").iterdir()
    assert (run / "logs/x/y/metrics.csv").is_file()
    assert (run / "kept/a.ckpt").is_file()
    assert (run / "profile/fit-z.txt").is_file()
    assert [path.name for path in Path().iterdir()] == ["outputs"]


@pytest.mark.slow
def test_folders_that_the_project_allows_are_written_to(lamella: Lamella) -> None:
    Path("pyproject.toml").write_text('[tool.lamella]\nwrite = ["logs", "../elsewhere"]\n')
    elsewhere = Path("..").resolve() / "elsewhere"
    done = lamella(
        "train",
        *TINY,
        f"+trainer.logger=[{{_target_: {CSV}, save_dir: logs/a, name: x, version: y}}]",
        f"trainer.callbacks=[{{_target_: {CHECKPOINT}, dirpath: {elsewhere}, filename: a}}]",
    )
    assert done.status == 0, done.err
    assert Path("logs/a/x/y/metrics.csv").is_file()
    assert (elsewhere / "a.ckpt").is_file()
    shutil.rmtree(elsewhere)
    Path("pyproject.toml").write_text("[tool.lamella]\nwrite = 3\n")
    err = lamella("train", *TINY, f"trainer.callbacks=[{{_target_: {CHECKPOINT}, dirpath: /a}}]").err
    assert 'pyproject.toml: [tool.lamella] write is 3; it takes folders, ["logs"]' in err


@pytest.mark.parametrize(
    ("key", "node", "place"),
    [
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: /tmp/x}}]", "trainer.logger.0.save_dir is '/tmp/x'"),
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: ../x}}]", "trainer.logger.0.save_dir is '../x'"),
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: '~/x'}}]", "trainer.logger.0.save_dir is '~/x'"),
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: 'file:///x'}}]", "save_dir is 'file:///x'"),
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: 's3://x'}}]", "save_dir is 's3://x'"),
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: a, name: /x}}]", "trainer.logger.0.name is '/x'"),
        ("+trainer.logger", f"[{{_target_: {CSV}, save_dir: a, version: ../../x}}]", "version is '../../x'"),
        ("trainer.callbacks", f"[{{_target_: {CHECKPOINT}, dirpath: /x}}]", "trainer.callbacks.0.dirpath is '/x'"),
        ("trainer.callbacks", f"[{{_target_: {CHECKPOINT}, filename: ../x}}]", "filename is '../x'"),
        ("+visuals.mine", f"{{_target_: {CHECKPOINT}, dirpath: /x}}", "visuals.mine.dirpath is '/x'"),
        ("+trainer.profiler", f"{{_target_: {PROFILER}, dirpath: /x}}", "trainer.profiler.dirpath is '/x'"),
    ],
)
def test_paths_out_of_the_run_are_refused(lamella: Lamella, key: str, node: str, place: str) -> None:
    result = lamella("train", f"{key}={node}")
    assert result.status == 2
    assert f"{place}, which is not in the run directory; write a folder of the run" in result.err
    assert "[tool.lamella]\n  write = [" in result.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torchmetrics.multimodal.CLIPScore", "which cannot be imported"),
        ("torchmetrics.text.BERTScore", "which cannot be imported"),
        (
            "torchmetrics.image.LearnedPerceptualImagePatchSimilarity",
            "a layer or a loss comes from torch.nn, torchvision, lamella",
        ),
        ("pytorch_lightning.demos.Transformer", "a layer or a loss comes from torch.nn, torchvision, lamella"),
        ("torchvision.models.detection.fasterrcnn_resnet50_fpn", "a network turns one tensor into one"),
        ("torchvision.models.optical_flow.raft_large", "a network turns one tensor into one"),
    ],
)
@pytest.mark.parametrize("place", ["network", "network.layers.0"])
def test_modules_that_load_something_are_no_layers(lamella: Lamella, target: str, message: str, place: str) -> None:
    Path("conf/network").mkdir(parents=True)
    node = {"_target_": target}
    Path("conf/network/own.yaml").write_text(yaml.safe_dump(node if place == "network" else {"layers": [node]}))
    result = lamella("train", "network=own")
    assert result.status == 2
    assert result.err.startswith(f"error: {place}._target_ is ")
    if message.startswith("a config") or place == "network" or "layer" in message:
        assert message in result.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_readers_of_a_run_download_no_weights(lamella: Lamella, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("conf/network").mkdir(parents=True)
    network = {"_target_": "torchvision.models.squeezenet1_1"}
    layers = [{"Conv2d": {"out_channels": 3, "kernel_size": 1}}, network, {"Linear": 10}]
    Path("conf/network/own.yaml").write_text(yaml.safe_dump({"layers": layers}))
    assert lamella("train", *TINY[1:], "network=own", "+trainer.limit_train_batches=2", "name=n").status == 0
    [path] = Path("outputs/n").iterdir()
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("squeezenet1_1\n", "squeezenet1_1\n    pretrained: true\n"))
    Image.new("L", (28, 28)).save("x.png")
    monkeypatch.setenv("TORCH_HOME", str(Path("cache").absolute()))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *given, **more: pytest.fail("a download"))
    for line in (
        ["eval", str(path)],
        ["inspect", str(path)],
        ["predict", str(path), "x.png"],
        ["export", str(path), "--format", "safetensors"],
    ):
        result = lamella(*line)
        assert result.status == 0, result.err
    assert not list(Path("cache").rglob("*.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [".lock", "member", "study.db", "git.patch", "plan.jsonl", "leaderboard.csv"])
def test_links_out_of_a_sweep(lamella: Lamella, sweep: Path, name: str) -> None:
    copy, outside = Path(shutil.copytree(sweep, "s")), Path("outside")
    shutil.copytree(next(path for path in copy.iterdir() if path.is_dir()), outside)
    if name == "member":
        name = next(path.name for path in copy.iterdir() if path.is_dir())
        shutil.rmtree(copy / name)
    else:
        (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to((outside / ("" if (outside / name).is_dir() else "new")).absolute())
    before = contents(Path())
    result = lamella("resume", str(copy))
    assert result.status == 2
    assert f"{copy / name} is a link that leads out of the sweep; put there what it links to" in result.err
    assert contents(Path()) == before
    assert not (outside / "new").exists()


def plan_anew(sweep: Path) -> Path:
    """Return the directory of a member that is planned, and that has not started, in a copy of a sweep."""
    copy = Path(shutil.copytree(sweep, "s"))
    member = next(path for path in copy.iterdir() if path.is_dir())
    shutil.rmtree(member)
    member.mkdir()
    return member


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a FIFO"])
def test_a_planned_run_writes_into_its_directory_only(lamella: Lamella, sweep: Path, kind: str) -> None:
    member, outside = plan_anew(sweep), Path("outside")
    if kind == "a FIFO":
        os.mkfifo(member / "log.txt")
    else:
        (member / "log.txt").symlink_to(outside.absolute())
        if kind == "a link":
            outside.write_text("mine")
    result = lamella("resume", str(member))
    assert result.status == 2
    assert "cannot write there" in result.err
    assert (outside.read_text() if kind == "a link" else outside.exists()) in ("mine", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "events.out.tfevents.1.x.1.0", "git.patch", "new"])
def test_a_fifo_in_a_run_stops_no_command(lamella: Lamella, run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    for line in (["eval"], ["inspect"], ["export", "--format", "pt2"], ["resume", "trainer.max_epochs=3"]):
        result = lamella(line[0], str(run), *line[1:])
        assert result.status == 2
        assert f"{run / name} is neither a file nor a directory; remove it" in result.err
    assert lamella("runs").status == 0
    assert stat.S_ISFIFO((run / name).lstat().st_mode)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".lock", "plan.jsonl", "study.db", "x.out"])
def test_a_fifo_in_a_sweep_stops_no_command(lamella: Lamella, sweep: Path, name: str) -> None:
    copy = Path(shutil.copytree(sweep, "s"))
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    result = lamella("resume", str(copy))
    assert result.status == 2
    assert f"{copy / name}" in result.err or "its plan is damaged" in result.err
    assert lamella("runs", str(copy)).status == (2 if name == "plan.jsonl" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a link", "a FIFO"])
def test_the_cache_of_images_follows_no_link_and_waits_for_no_fifo(
    lamella: Lamella, image_root: Path, kind: str
) -> None:
    line = ("train", *TINY, "data=image_folder", f"data.root={image_root}", "data.cache=memmap", "data.shape=[3,28,28]")
    assert lamella(*line).status == 0
    [lock] = Path("outputs/.cache").glob("*.lock")
    lock.unlink()
    if kind == "a link":
        Path("mine").write_text("mine")
        lock.symlink_to(Path("mine").absolute())
    else:
        os.mkfifo(lock)
    result = lamella(*line)
    assert (result.status, "data.cache: " in result.err) == (2, True)
    assert kind == "a FIFO" or Path("mine").read_text() == "mine"


def test_loops_of_links_end(lamella: Lamella, run: Path) -> None:
    (run / "loop").symlink_to("loop")
    assert lamella("eval", str(run)).status == 0


@pytest.mark.slow
def test_files_of_a_run_are_not_written_over(lamella: Lamella, run: Path, sweep: Path) -> None:
    Image.new("L", (28, 28)).save("x.png")
    copy = Path(shutil.copytree(sweep, "s"))
    [events] = run.glob("events.out.tfevents.*")
    Path("link.json").symlink_to(run / "checkpoints/best.ckpt")
    before = contents(Path())
    for line in (
        ["eval", str(run), "--out", str(run / "checkpoints/best.ckpt")],
        ["eval", str(run), "--out", str(events)],
        ["eval", str(run), "--out", str(run / "config.yaml")],
        ["eval", str(run), "--out", str(copy / "sweep.json")],
        ["eval", str(run), "--out", "link.json"],
        ["predict", str(run), "x.png", "--out", str(run / "run.json")],
        ["predict", str(run), "x.png", "--out", str(run / "metrics.jsonl")],
        ["predict", str(run), "x.png", "--out", str(copy / "plan.jsonl")],
        ["compare", str(run), str(run), "--plot", str(events)],
        ["inspect", str(run), "--gradients", "--graph", str(run / "checkpoints/last.ckpt")],
    ):
        result = lamella(*line)
        assert result.status == 2
        assert "this file is a part of a run; choose another name" in result.err
    assert contents(Path()) == before


@pytest.mark.slow
def test_a_picture_replaces_a_link_and_not_its_target(lamella: Lamella, run: Path) -> None:
    Path("mine").write_text("mine")
    for name, line in {
        "curves.png": ["compare", str(run), str(run), "--plot", "curves.png"],
        "graph.dot": ["inspect", str(run), "--gradients", "--graph", "graph.dot"],
    }.items():
        Path(name).symlink_to("mine")
        assert lamella(*line).status == 0
        assert not Path(name).is_symlink()
    assert Path("mine").read_text() == "mine"


@pytest.mark.slow
def test_settings_of_matplotlib_in_the_working_directory_start_no_latex(
    lamella: Lamella, run: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bin").mkdir()
    for name in ("latex", "dvipng", "gs", "dvips", "kpsewhich"):
        Path("bin", name).write_text(f"#!/bin/sh\ntouch {marks}/{name}\n")
        Path("bin", name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:{os.environ['PATH']}")
    Path("matplotlibrc").write_text("text.usetex: True\n")
    program = Program(Path(), "compare", str(run), str(run), "--plot", "curves.png")
    assert program.wait() == 0, program.err


def test_a_deleted_working_directory_is_an_error(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").resolve().rmdir()
    assert lamella("--version").status == 0

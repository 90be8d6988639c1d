"""`lamella completion`: the words that a command line can be continued with, and real shells that complete them."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Lamella, Project

from lamella.__main__ import COMMANDS
from lamella.config.candidates import config_keys

RUN = "outputs/default/seed=1,trainer=debug"
# Names that a shell would act on, or split.
FOLDERS = (
    "new\nline",
    "two  spaces",
    "user@host",
    "day 1/a=b",
    "run $(touch pwned)",
    "it's; touch pwned; 'x",
    "it's `\"\\",
    "wow! $1",
)


@pytest.fixture
def workplace(lamella: Lamella, project: Project, trained: Path) -> Lamella:
    """A working directory with a network of the project's own, a run and a folder whose name has a space."""
    project({"network/mine.yaml": "# Mine alone.\nname: Mine\nown: {depth: 3}\nlayers: [Flatten]\n"})
    shutil.copytree(trained, RUN)
    Path("my pictures/cats").mkdir(parents=True)
    Path("my pictures/list.csv").touch()
    for name in FOLDERS:
        Path(name).mkdir(parents=True)
    return lamella


def words(lamella: Lamella, *given: str) -> dict[str, str]:
    """The candidates for the last word, with what they mean."""
    result = lamella("completion", "zsh", "--", *given)
    assert (result.status, result.err) == (0, "")
    lines = [line.partition("\t") for line in result.out.splitlines()]
    return {word: meaning for word, _, meaning in lines if word}


# The words of a command line: candidates that are there, and candidates that are not.
CASES: dict[tuple[str, ...], tuple[set[str], set[str]]] = {
    ("help", ""): ({*COMMANDS}, {"--help"}),
    ("nothing", ""): (set(), {""}),
    ("train", ""): ({"network=", "network.", "seed=", "experiment=", "hydra/launcher="}, {"hydra.", "defaults."}),
    ("train", "network="): ({"network=mine", "network=cnn"}, {"network=default"}),
    ("train", "network=mine", "network."): ({"network.own.", "network.layers=", "network.freeze="}, {"network.depth="}),
    ("train", "network=mine", "network.own."): ({"network.own.depth="}, set()),
    ("train", "experiment=mnist_cnn", "optimizer."): ({"optimizer.lr=", "optimizer.groups="}, {"optimizer.groups.0="}),
    ("train", "++optimizer.l"): ({"++optimizer.lr="}, {"optimizer.lr="}),
    ("train", "~trainer.pro"): ({"~trainer.profile"}, set()),
    ("train", "metrics=[f1,au"): ({"metrics=[f1,auroc]"}, set()),
    ("train", "trainer.profile=t"): ({"trainer.profile=true"}, {"trainer.profile=false"}),
    ("train", "data.root=my pictures/"): ({"data.root=my pictures/cats/", "data.root=my pictures/list.csv"}, set()),
    ("train", "-"): ({"--cfg", "--config-dir", "--multirun"}, set()),
    ("train", "--cfg", ""): ({"job"}, {"network="}),
    ("inspect", ""): ({"network=", "outputs/"}, {"conf/"}),
    ("inspect", "--gr"): ({"--graph", "--gradients"}, set()),
    ("inspect", "--checkpoint", ""): ({"best", "last", "conf/"}, {"NAME"}),
    ("inspect", "--checkpoint", "last", "network=m"): ({"network=mine"}, set()),
    ("find", ""): ({"lr"}, {"network="}),
    ("find", "lr", "lo"): ({"loss=", "loss."}, set()),
    ("eval", ""): ({"outputs/"}, {"conf/", "network="}),
    ("eval", "outputs/default/"): ({RUN}, {f"{RUN}/"}),
    ("eval", RUN, "data=mn"): ({"data=mnist"}, set()),
    ("predict", RUN, "two"): ({"two  spaces/"}, {"two"}),
    ("predict", RUN, "my pictures/"): ({"my pictures/cats/", "my pictures/list.csv"}, set()),
    ("export", RUN, "--format", ""): ({"onnx", "pt2", "safetensors"}, {"outputs/"}),
    ("export", RUN, "--format=o"): ({"--format=onnx"}, set()),
    ("runs", ""): ({"outputs/", "conf/"}, {"pyproject.toml"}),
    ("runs", "new"): (set(), {"new", "new?line/"}),
    ("runs", "outputs", ""): (set(), {"outputs/"}),
    ("runs", "--sort", ""): ({"val/accuracy", "test/loss", "seconds"}, {"optimizer.lr", "environment"}),
    ("runs", "--sort", "optimizer."): ({"optimizer.lr"}, set()),
    ("runs", "--columns", "seed,val/"): ({"seed,val/loss"}, set()),
    ("runs", "nowhere", "--sort", ""): ({"seconds"}, set()),
    ("why", "optimizer."): ({"optimizer.lr"}, set()),
    ("why", "optimizer.lr", "optimizer=sg"): ({"optimizer=sgd"}, set()),
    ("completion", ""): ({"bash", "zsh", "fish"}, set()),
    ("completion", "--"): ({"--help"}, set()),
}


@pytest.mark.slow
def test_candidates(workplace: Lamella) -> None:
    Path("conf/experiment").mkdir()
    Path("conf/experiment/circle.yaml").write_text("defaults: [circle]\n")
    Path("conf/network/broken.yaml").write_text("layers: [\n")
    Path("outputs/damaged").mkdir()
    Path("outputs/damaged/run.json").write_text("{")
    for given, (there, absent) in CASES.items():
        found = words(workplace, *given)
        assert there <= set(found), (given, found)
        assert not absent & set(found), (given, found)
        assert all(word.startswith(given[-1]) for word in found)
    assert words(workplace, "tr") == {"train": COMMANDS["train"][1]}
    assert words(workplace, "train", "optimizer.lr") == {"optimizer.lr=": "1e-3"}
    assert words(workplace, "train", "network=mi")["network=mine"] == "Mine alone."
    assert words(workplace, "train", "experiment=circle", "network=broken", "se") == {"seed=": "0"}


@pytest.mark.slow(8)
@pytest.mark.parametrize(
    "given",
    [[], ["network=cnn", "metrics=[f1,top5]", "scheduler=sequential"]]
    + [[f"experiment={name}"] for name in ("mnist_cnn", "char_gpt", "[finetune,unet_shapes]")],
    ids=" ".join,
)
def test_keys_are_those_that_hydra_composes(lamella: Lamella, given: list[str]) -> None:
    def leaves(node: object, key: str) -> Iterator[str]:
        if isinstance(node, dict) and node:
            for name, inner in node.items():
                yield from leaves(inner, f"{key}.{name}".lstrip("."))
        else:
            yield key

    config = yaml.safe_load(lamella("train", "--cfg", "job", *given).out)
    found = {key for key in config_keys(given) if not key.startswith("hydra.")}
    assert found == set(leaves(config, ""))


def test_each_command_completes_its_options(lamella: Lamella) -> None:
    for name in COMMANDS:
        assert words(lamella, name, "--"), name


def test_mistakes(lamella: Lamella) -> None:
    lamella("completion").check_refusal(
        "lamella completion takes SHELL: bash, zsh or fish; `lamella completion --help` says more"
    )
    lamella("completion", "tcsh").check_refusal("invalid choice: 'tcsh' (choose from 'bash', 'zsh', 'fish')")


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(lamella completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "source <(lamella completion zsh)"),
    "fish": (["fish", "--no-config", "--interactive"], "lamella completion fish | source"),
}
# What is typed after `lamella `: what the words are in the end.
TYPED = {
    "tr\t": "train",
    "train network=min\tseed=1": "train network=mine seed=1",
    "train optimizer.lr\t3e-3": "train optimizer.lr=3e-3",
    "train experiment=mnist_cn\tdata.drop\tt\t": "train experiment=mnist_cnn data.drop_last=true",
    "train -m network=mine,resnet2\t": "train -m network=mine,resnet20",
    "train 'metrics=[f1,aur\t": "train metrics=[f1,auroc]",
    "train data.root=my\tca\t": "train data.root=my pictures/cats/",
    "eval outp\tde\tse\t": f"eval {RUN}",
    "runs --so\tval/a\t--rev\t": "runs --sort val/accuracy --reverse",
    "why seed ++network.fr\tnull": "why seed ++network.freeze=null",
    "completion fi\t": "completion fish",
    "runs two\t": "runs two  spaces/",
    "runs user@h\t": "runs user@host/",
}
# The same in bash with quotes, which bash closes after a single candidate.
QUOTED = {
    "runs 'day 1/'a\t": "runs day 1/a=b/",
    """runs 'run\t""": "runs run $(touch pwned)/",
    """runs "run\t""": "runs run $(touch pwned)/",
    """runs "it's;\t""": "runs it's; touch pwned; 'x/",
    """runs 'it\t;\t""": "runs it's; touch pwned; 'x/",
    """runs "it's \t""": """runs it's `"\\/""",
    """runs 'wow\t""": "runs wow! $1/",
    """runs "wow\t\"""": "runs wow",
    """train data.root='my\t""": "train data.root=my pictures/",
}


class Shell:
    """A shell on a terminal of its own, and what it has written there."""

    def __init__(self, arguments: list[str]) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environ = os.environ | {"PATH": path, "TERM": "xterm", "HOME": os.getcwd(), "COLUMNS": "500", "LINES": "50"}
        self.terminal, inner = pty.openpty()
        command = ["setsid", "--ctty", *arguments]  # job control needs a terminal that belongs to the shell
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environ)
        os.close(inner)
        self.written = ""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the shell has written a line with this text alone."""
        deadline = time.monotonic() + 60
        while not re.search(rf"(^|[\r\n]|\x1b\S*){re.escape(text)}\r*\n", self.written):
            assert time.monotonic() < deadline, self.written
            if select.select([self.terminal], [], [], 0.2)[0]:
                try:
                    self.written += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError as error:
                    raise AssertionError(self.written) from error

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.terminal)


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", SHELLS)
def test_real_shells(workplace: Lamella, name: str) -> None:
    arguments, script = SHELLS[name]
    shell = Shell(arguments)
    try:
        shell.type(f"{script}\r")
        shell.type("echo rea''dy\r")
        shell.wait_for("ready")
        for typed, line in [*TYPED.items(), *(QUOTED.items() if name == "bash" else [])]:
            for part in re.findall(r"[^\t]+\t?", f"lamella {typed}"):
                shell.type(part)
            shell.type("\x01echo \r")  # the first key goes to the beginning of the line
            shell.wait_for(f"lamella {line}")
        assert not Path("pwned").exists()
    finally:
        shell.end()

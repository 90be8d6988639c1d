"""The README and the docs: every file in them is written and every command in them is run, in their order.

What a `console` block shows is what its command prints, and the charts are what the commands draw;
LAMELLA_WRITE_DOCS=1 writes both anew.
"""

import contextlib
import doctest
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
from conftest import Lamella, write_mnist
from PIL import Image
from programs import wait_until

from lamella.data import digits

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# About how many seconds the commands of a page take, where these are many.
SECONDS = {
    "README.md": 60, "augmentation.md": 10, "configs.md": 6, "data.md": 20, "datasets.md": 12, "evaluate.md": 3,
    "export.md": 6, "fine-tuning.md": 15, "networks.md": 4,
    "optimizers.md": 15, "performance.md": 50, "recipes.md": 45, "reliability.md": 20, "runs.md": 20,
    "python.md": 9, "segmentation.md": 10, "starting.md": 9, "study-note.md": 3, "sweeps.md": 115, "tables.md": 9,
    "tasks.md": 7, "tensorboard.md": 20, "text.md": 7, "tracking.md": 8, "when-it-does-not-learn.md": 12,
}  # fmt: skip


def long(page: Path) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow(SECONDS[page.name])] if page.name in SECONDS else []


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, text, and the file that a block is: named in its first line, or last before it."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        language, block = match[1], match[2]
        named = re.match(r"# ([\w/]+\.\w+)\n", block) or re.search(
            r"Write `([\w/.]+)`:\s*$", text[: match.start()].rstrip()
        )
        yield language, block, named[1] if named else ""


def commands(block: str) -> list[str]:
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def workplace(lamella: Lamella) -> Lamella:
    """A working directory with what the docs assume: MNIST in data/ and pictures in pictures/."""
    samples = digits().train
    repeated = samples.inputs[:1300].repeat(4, 1, 1, 1), samples.targets[:1300].repeat(4)  # type: ignore[index]
    write_mnist(Path("data"), repeated, (samples.inputs[1500:], samples.targets[1500:]))  # type: ignore[index]
    for number in range(150):
        folder = Path("pictures/train") / ("cat", "dog")[int(samples.targets[number]) % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(samples.inputs[number][0].numpy()).save(folder / f"{number}.png")  # type: ignore[index]
    return lamella


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=long(page)) for page in PAGES])
def test_page(workplace: Lamella, page: Path) -> None:
    examples: dict[str, Any] = {}  # what the page has named so far
    for language, block, file in blocks(page):
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(block)
        elif language == "python":
            exec(compile(block, str(page), "exec"), {})
        elif language == "pycon":
            test = doctest.DocTestParser().get_doctest(block, examples, page.name, str(page), 0)
            doctest.DebugRunner().run(test, clear_globs=False)
            examples = test.globs
        elif language == "sh":
            for command in commands(block):
                run(workplace, command)
        elif language == "console":
            command, _, shown = block.partition("\n")
            result = workplace(*shlex.split(command.removeprefix("$ lamella ")))
            assert result.status == 0, f"{command}\n{result.err}"
            if os.environ.get("LAMELLA_WRITE_DOCS") == "1":
                written = f"```console\n{command}\n{result.out.rstrip()}\n```"
                page.write_text(page.read_text().replace(f"```console\n{block}```", written))
            else:
                assert_same(result.out.rstrip(), shown.rstrip())
        else:
            assert language in ("", "yaml"), block
    for picture in set(re.findall(r"!\[.*\]\((.*)\)", page.read_text())) & set(DRAWN):
        assert Path(DRAWN[picture]).is_file()
        if os.environ.get("LAMELLA_WRITE_DOCS") == "1":
            shutil.copy(DRAWN[picture], page.parent / picture)


# The charts of the docs, and where the commands of their pages draw them.
DRAWN = {"curves.png": "curves.png", "leaderboard.png": "outputs/default/widths/leaderboard.png"}
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")


def assert_same(printed: str, shown: str) -> None:
    """The same text, and nearly the same numbers, which another processor rounds otherwise; times are not compared."""
    texts = [re.sub(r"\d+\.\d s$", "… s", text, flags=re.M) for text in (printed, shown)]
    texts = [re.sub(r"^machine  .*$", "machine …", text, flags=re.M) for text in texts]
    texts = [re.sub(r"largest error \S+;", "largest error …;", text) for text in texts]
    # Rounding may change a number's width, and with it the spaces around.
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in texts]
    assert words[0] == words[1]
    numbers = [list(map(float, NUMBER.findall(text))) for text in texts]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-3, rel=1e-2)


# What makes a command of the docs short here.
BRIEF = {
    "bench/augment.py": ["--repeats", "1", "--images", "300"],
    "bench/epoch.py": ["--repeats", "1", "--threads", "1", "--network", "mlp"],
    "bench/estimate.py": ["--repeats", "1", "--case", "tabular_classes"],
    "bench/exact.py": ["--repeats", "1", "--case", "digits"],
    "bench/fast.py": ["--help"],
    "bench/fused.py": ["--repeats", "1", "--seeds", "1", "--network", "mlp"],
    "bench/gpu.py": ["--device", "cpu", "--small", "--rounds", "1", "--steps", "exact resume"],
    "bench/images.py": ["--repeats", "1", "--images", "200"],
    "bench/kill.py": ["--trials", "1", "--config", "steps"],
    "bench/layouts.py": ["--repeats", "1", "--network", "cnn-28"],
    "bench/loop.py": ["--repeats", "1", "--threads", "1", "--case", "mlp"],
    "bench/machine_use.py": ["--seconds", "3", "--children", "1"],
    "bench/recipes.py": ["--recipe", "digits_mixup_ema", "--seeds", "1", "--epochs", "1"],
    "bench/runs.py": ["--repeats", "1", "--runs", "20"],
    "bench/stack.py": ["--networks", "2", "--repeats", "2"],
    "bench/start.py": ["--repeats", "1"],
    "bench/sweep.py": ["--repeats", "1", "--jobs", "2", "--plan", "10"],
    "bench/ties.py": ["5"],
    "bench/visuals.py": ["--repeats", "1", "--network", "mlp"],
    "bench/wait.py": ["--repeats", "1"],
}
# What makes a training on MNIST short here.
FEW = ["data.val_size=100", "+trainer.limit_train_batches=3"]


def run(lamella: Lamella, command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "cd":
        os.chdir(*arguments)
    elif command == "python -m pytest":
        programs.run(Path(), kind=programs.Pytest)
    elif program == "python":
        script = (str(ROOT / arguments[0]), *arguments[1:], *BRIEF[arguments[0]])
        programs.run(Path(), *script, kind=programs.Script)
    elif command.startswith(("lamella board", "tensorboard")):
        serve(program, arguments)
    elif command.startswith("lamella warm"):
        programs.run(Path(), *arguments, kind=programs.RealProgram)
    elif "trainer=ddp" in command:
        programs.run(Path(), *arguments, "trainer.max_epochs=1")
    else:
        assert program == "lamella", command
        mnist = arguments[0] == "train" and {"data=mnist", "experiment=mnist_cnn"} & set(arguments)
        result = lamella(*arguments, *(FEW if mnist else []))
        assert result.status == 0, f"{command}\n{result.err}"


def serve(program: str, arguments: list[str]) -> None:
    """Start a server on a free port, see that it answers, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = [sys.executable, "-m", "lamella" if program == "lamella" else "tensorboard.main"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*module, *arguments, "--port", str(port)], stdout=quiet, stderr=quiet)

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as response:
            return bool(response.status == 200)
        return False

    try:
        wait_until(answers, 60)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow(15)
def test_networks_of_the_docs_train(workplace: Lamella) -> None:
    names = []
    for _, block, file in blocks(ROOT / "docs" / "networks.md"):
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(block)
            names += [Path(file).stem] if file.startswith("conf/network/") else []
    assert len(names) == 8
    pictures = ("data=image_folder", "data.root=pictures", "data.shape=[3,32,32]")
    for name in names:
        data = pictures if name == "photo" else ()
        result = workplace("train", f"network={name}", "trainer=debug", *data)
        assert result.status == 0, result.err


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_lists_every_option() -> None:
    text = (ROOT / "README.md").read_text()
    options = [path for path in (ROOT / "conf").glob("*/*.yaml") if path.stem != "default"]
    assert [path.stem for path in options if f"`{path.stem}`" not in text] == []


@pytest.mark.slow
def test_what_the_readme_shows_is_what_is_printed(lamella: Lamella) -> None:
    shown = next(block for language, block, _ in blocks(ROOT / "README.md") if block.startswith("epoch"))
    printed = lamella("train").out
    # The last digits depend on the machine.
    forms = [re.sub(r"[\d.]+", "0", text).splitlines() for text in (shown, printed)]
    assert forms[0] == forms[1][-len(forms[0]) :]

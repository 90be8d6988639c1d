"""What every command that takes a run directory makes of a wrong one: exit 2, a way out, and no file changed."""

import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Lamella, contents
from PIL import Image

import lamella as package
from lamella.errors import RequestError

pytestmark = pytest.mark.slow

COMMANDS = {
    "inspect": ["inspect", "RUN"],
    "eval": ["eval", "RUN"],
    "predict": ["predict", "RUN", "x.png"],
    "resume": ["resume", "RUN"],
    "explain-nan": ["explain-nan", "RUN"],
    "reproduce": ["reproduce", "RUN"],
    "export": ["export", "RUN", "--format", "pt2"],
    "compare": ["compare", "RUN", "RUN"],
}


Change = Callable[[Path], object]  # called with the run directory that it changes


def record(**fields: object) -> Change:
    def write(run: Path) -> None:
        old = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(old | fields))

    return write


def file(name: str, text: str | None) -> Change:
    return lambda run: (run / name).write_text(text) if text is not None else (run / name).unlink()


def in_turn(*changes: Change) -> Change:
    """Return a function that makes all changes, one after another."""
    return lambda run: [change(run) for change in changes]


def add(text: str) -> Change:
    def write(run: Path) -> None:
        (run / "config.yaml").write_text((run / "config.yaml").read_text() + text)

    return write


def flip(run: Path) -> None:
    """Change one bit of each checkpoint, in the middle of its weights."""
    for checkpoint in (run / "checkpoints").iterdir():
        data = bytearray(checkpoint.read_bytes())
        data[len(data) // 2] ^= 1
        checkpoint.unlink()  # two of them are one file
        checkpoint.write_bytes(data)


# Each list holds the one before eight times.
LAUGHS = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 8)}]\n" for before, name in pairwise("abcdefghi")
)
DAMAGED = "is not a run directory: its run.json is damaged"
WRONG: dict[str, tuple[Change, str]] = {
    "no directory": (shutil.rmtree, "is not there; a run is a directory that `lamella train` has made"),
    "a file": (in_turn(shutil.rmtree, lambda run: run.write_text("")), "is a file; a run is a directory"),
    "an empty directory": (
        in_turn(shutil.rmtree, Path.mkdir),
        "is not a run directory: it holds no run.json; `lamella train` makes one",
    ),
    "a sweep's directory": (
        in_turn(lambda run: run.rename("x"), Path.mkdir, lambda run: Path("x").rename(run / "seed=1")),
        "is not a run directory, it holds runs; give one of them, as outputs/default/run/seed=1",
    ),
    "no config": (file("config.yaml", None), "is not a run directory: it holds no config.yaml"),
    "no JSON": (file("run.json", '{"status": '), "is not a run directory: its run.json is damaged (Expecting value"),
    "another JSON": (file("run.json", "[]"), f"{DAMAGED}, it holds no mapping"),
    "deep JSON": (file("run.json", "[" * 100_000), "is not a run directory: its run.json is damaged ("),
    "bytes": (
        lambda run: (run / "run.json").write_bytes(b"\xff\xfe"),
        "is not a run directory: its run.json is damaged",
    ),
    "no YAML": (file("config.yaml", "a: [1"), "is not a run directory: its config.yaml is damaged ("),
    "another YAML": (file("config.yaml", "- 1"), "config.yaml is damaged, data is not there or wrong"),
    "a config without a group": (
        file("config.yaml", "data: {}\nnetwork: {}"),
        "config.yaml is damaged, loss is not there or wrong",
    ),
    "no status": (record(status=None), f"{DAMAGED}, status is None"),
    "metrics that are none": (record(metrics=[1]), "run.json is damaged, metrics is [1]"),
    "a metric that is no number": (
        record(metrics={"val/loss": "x"}),
        "run.json is damaged, metrics is {'val/loss': 'x'}",
    ),
    "a metric that no float holds": (
        record(metrics={"val/loss": 10**400}),
        "run.json is damaged (the number 1000000000… is too large)",
    ),
    "overrides that are none": (record(overrides="a=1"), "run.json is damaged, overrides is 'a=1'"),
    "another status": (record(status="\x1b]0;owned"), r"status is '\x1b]0;owned'; it is one of running, finished"),
    "overrides of other kinds": (record(overrides=[1, {}]), "run.json is damaged, overrides is [1, {}]"),
    "reads that are none": (record(reads=[1]), "run.json is damaged, reads is [1]"),
    "reads of other kinds": (record(reads={"data.seed": ["a"]}), "reads is {'data.seed': ['a']}"),
    "choices that are none": (record(choices=["a"]), "run.json is damaged, choices is ['a']"),
    "an environment that is none": (record(environment=[1]), "run.json is damaged, environment is [1]"),
    "a config without a seed": (
        lambda run: (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("\nseed: 0", "")),
        "config.yaml is damaged, seed is not there or wrong",
    ),
    "tuples": (add("x: !!pairs [a: 1]"), "x.0 is ('a', 1); a config holds text, numbers"),
    "dates": (add("x: 2020-01-02"), "x is datetime.date(2020, 1, 2); a config holds text, numbers"),
    "keys that are no text": (add("x: {1.5: 2}"), "x: a key is text or a whole number, and not 1.5"),
    "a list in itself": (add("x: &a [*a]"), "lists and mappings are nested too deep, or hold themselves"),
    "a billion laughs": (
        add(LAUGHS),
        "lists and mappings are nested too deep, or hold themselves",
    ),
    "a device as its record": (
        in_turn(file("run.json", None), lambda run: (run / "run.json").symlink_to("/dev/zero")),
        "run.json is a link that leads out of the run",
    ),
    "a pipe as its record": (
        in_turn(file("run.json", None), lambda run: os.mkfifo(run / "run.json")),
        "its run.json cannot be read (no ordinary file)",
    ),
    "a record without a format": (record(format=None), "its record is of format None, written by lamella 0.1.0"),
    "a later version": (
        record(format=2, versions={"lamella": "9.1.0"}),
        "its record is of format 2, written by lamella 9.1.0; this is lamella 0.1.0, which reads format 1:\n"
        "  install the version that wrote it",
    ),
    "an unknown format": (record(format="x", versions=None), "of format 'x', written by another lamella"),
}


@pytest.fixture
def wrong(run: Path, request: pytest.FixtureRequest) -> str:
    """Makes a run directory a wrong one; gives what is said of it."""
    Image.new("L", (28, 28)).save("x.png")
    change, message = request.param
    change(run)
    return str(message)


def refused(lamella: Lamella, command: str, run: Path) -> str:
    before = contents(Path(".")) if not run.joinpath("run.json").is_fifo() else {}
    result = lamella(*(str(run) if part == "RUN" else part for part in COMMANDS[command]))
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    assert not before or contents(Path()) == before
    return str(result.err)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG, indirect=True)
def test_what_is_no_run(lamella: Lamella, run: Path, wrong: str, command: str) -> None:
    assert f"error: {run}" in (message := refused(lamella, command, run))
    assert wrong in message


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG, indirect=True)
def test_the_same_from_python(run: Path, wrong: str) -> None:
    with pytest.raises(RequestError) as raised:
        package.load(run)
    assert wrong in str(raised.value)


CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "none yet": (
        in_turn(lambda run: shutil.rmtree(run / "checkpoints"), record(status="interrupted", epochs=0)),
        "there is no such checkpoint; a run has its first one after an epoch",
    ),
    "damaged": (flip, "this is not a complete checkpoint of Lamella's, its checksum does not match its content"),
    "cut off": (
        lambda run: [path.write_bytes(path.read_bytes()[:9999]) for path in (run / "checkpoints").iterdir()],
        "this is not a complete checkpoint of Lamella's, it has no checksum at its end",
    ),
    "of another network": (
        lambda run: file("config.yaml", (run / "config.yaml").read_text().replace("Linear: 128", "Linear: 127"))(run),
        "it does not fit the network of config.yaml: Error(s) in loading state_dict",
    ),
}


@pytest.mark.parametrize("command", ["inspect", "eval", "predict", "export"])
@pytest.mark.parametrize("wrong", CHECKPOINTS.values(), ids=CHECKPOINTS, indirect=True)
def test_checkpoints(lamella: Lamella, run: Path, wrong: str, command: str) -> None:
    assert wrong in refused(lamella, command, run)


HALVES = {
    "shape": ("shape:\n  - 1\n", "shape:\n  - x\n", "data.shape is ['x', 28, 28]; it takes the sizes of a sample"),
    "mean": ("mean:\n  - 0.3057", "mean:\n  - x", "was trained with data.mean.0=0.3057"),
    "classes": ("classes:\n  - '0'\n", "classes: 5\n  #", "data.classes is 5; Data takes a list"),
    "two means": ("mean:\n", "mean:\n  - 0.5\n", "and config.yaml has data.mean.0=0.5"),
}


@pytest.mark.parametrize("key", HALVES)
def test_a_config_that_says_wrong_things_of_the_data(lamella: Lamella, run: Path, key: str) -> None:
    Image.new("L", (28, 28)).save("x.png")
    old, new, message = HALVES[key]
    text = (run / "config.yaml").read_text()
    assert old in text
    if key == "classes":
        new, old = "classes: 5\n", text[text.index("  classes:") : text.index("  mean:")].lstrip()
    (run / "config.yaml").write_text(text.replace(old, new))
    assert message in refused(lamella, "predict", run)

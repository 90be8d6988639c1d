"""What the tests share: the command line called in this process, real digits as files, and a finished run."""

import fcntl
import logging
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import programs
import pytest
import torch
from PIL import Image
from torch import Tensor

from lamella.__main__ import main
from lamella.data import digits


@dataclass(frozen=True)
class Result:
    """What a command printed and its exit status."""

    status: int
    out: str
    err: str

    def check_refusal(self, *texts: str) -> None:
        """Check that a request was refused before anything was written, with an error that has these texts."""
        assert self.status == 2, self.out
        assert self.err.startswith("error: "), self.err
        for text in texts:
            assert text in self.err
        assert not Path("outputs").exists()


Lamella = Callable[..., Result]
# A LightningModule of a project, for a file that imports torch, pytorch_lightning as pl and nn. LAST: its last layers.
OWN_MODULE = """
class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)LAST)
    def training_step(self, batch, number):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest tests first, so that no worker has a long one to itself in the end."""

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return float(mark.args[0]) if mark and mark.args else 5 * bool(mark)

    items.sort(key=seconds, reverse=True)


@pytest.fixture
def lamella(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lamella]:
    """Call `lamella` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.delenv("COLUMNS", raising=False)  # the width of the terminal that the tests run in
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as the command sets it
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])  # Hydra adds one for this test's output

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["lamella", *arguments])
        threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
        try:
            status = main()
        except SystemExit as exit:
            status = int(exit.code or 0)
        finally:
            torch.set_num_threads(threads)
            signal.signal(signal.SIGINT, handler)
        return Result(status, *capsys.readouterr())

    yield call
    # The next test's modules may have the same names.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


Project = Callable[..., None]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Write a project: files of conf/, and modules by their names, from which a config may build."""

    def write(conf: Mapping[str, str] | None = None, directory: Path = tmp_path, **modules: str) -> None:
        files = {f"{name}.py": text for name, text in modules.items()}
        files |= {f"conf/{name}": text for name, text in (conf or {}).items()}
        files["pyproject.toml"] = f"[tool.lamella]\ntargets = {list(modules)}\n"
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """Start the process from which programs and the jobs of sweeps are forked."""
    programs.start_server()


@pytest.fixture(autouse=True)
def no_program_is_left() -> Iterator[None]:
    """End what a test that failed has left."""
    yield
    programs.end_all()


Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Shared:
    """Return a directory that is filled once, for all workers of pytest-xdist; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if hasattr(request.config, "workerinput") else base

    def directory(name: str, fill: Callable[[Path], object]) -> Path:
        path, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                fill(path)
                done.touch()
        return path

    return directory


@pytest.fixture(scope="session")
def trained(shared: Shared) -> Path:
    """A finished run on the digits, two epochs; not to be changed."""
    options = ("trainer.max_epochs=2", "device.threads=1")
    directory = shared("trained", lambda path: programs.run(path, "train", *options))
    return next(directory.glob("outputs/default/*"))


@pytest.fixture
def run(lamella: Lamella, trained: Path) -> Path:
    """A copy of `trained` in the working directory."""
    return Path(shutil.copytree(trained, "outputs/default/run"))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, and what it holds."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def digit_images() -> tuple[Tensor, Tensor]:
    """300 handwritten digits, uint8 (300, 1, 28, 28), and their labels (300,)."""
    samples = digits().train
    assert isinstance(samples.inputs, Tensor)
    return samples.inputs[:300], samples.targets[:300]


def write_mnist(root: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
    """Write images uint8 (N, 1, 28, 28) and labels (N,) into the files that MNIST comes in."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        header = struct.pack(">IIII", 0x803, len(images), 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        header = struct.pack(">II", 0x801, len(labels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="session")
def mnist_root(shared: Shared, digit_images: tuple[Tensor, Tensor]) -> Path:
    """Real digits in the files that MNIST comes in: 200 to train on and 100 to test on."""
    images, labels = digit_images
    train, test = (images[:200], labels[:200]), (images[200:], labels[200:])
    return shared("mnist", lambda root: write_mnist(root, train, test))


@pytest.fixture
def image_root(tmp_path: Path, digit_images: tuple[Tensor, Tensor]) -> Path:
    """Real digits 0, 1 and 2 as PNG files: root/train/<class>/<number>.png."""
    images, labels = digit_images
    root = tmp_path / "pictures"
    names = ("zero", "one", "two")
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        if label < len(names):
            folder = root / "train" / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{number:03}.png")
    return root

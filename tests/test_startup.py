"""The start of a command: what it imports, that a module which is put off works when it is used, and its end."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

NOT_USED = (
    "torchvision",
    "scipy",
    "matplotlib",
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "triton",
    "sklearn",
    "pandas",
)


def python(directory: Path, text: str) -> str:
    """Run a program in a new process, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", text], cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow(6)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_run_imports_only_what_it_uses(tmp_path: Path, network: str) -> None:
    out = python(
        tmp_path,
        "import sys\nfrom lamella.__main__ import main\nfrom lamella.startup.lazy_modules import is_imported\n"
        f"sys.argv = ['lamella', 'train', 'trainer.max_epochs=1', 'network={network}']\nassert main() == 0\n"
        f"print('imported:', [name for name in {NOT_USED} if is_imported(name)])\n",
    )
    assert out.endswith("imported: []\n")


# What a user may do with each module that is put off, after the import of Lightning, and what is printed.
USES = {
    "torchvision": (
        "from torchmetrics.detection import IntersectionOverUnion\nimport torch\n"
        "boxes = [{'boxes': torch.tensor([[0.0, 0, 2, 2]]), 'labels': torch.tensor([1])}]\n"
        "print(IntersectionOverUnion()(boxes, boxes)['iou'].item())\n",
        "1.0",
    ),
    "torchvision.models": (
        "import torchvision.models as models\nfrom torchvision.models import resnet18\n"
        "print(models.resnet18 is resnet18, 'resnet50' in dir(models))\n",
        "True True",
    ),
    "scipy": (
        "import scipy.optimize\nimport torch\nfrom torchmetrics.audio import PermutationInvariantTraining\n"
        "from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio as ratio\n"
        "sound = torch.rand(2, 4, 50)\nfound = PermutationInvariantTraining(ratio)(sound, sound.flip(1))\n"
        "print(bool(found > 50), scipy.optimize.linear_sum_assignment([[1, 0], [0, 1]])[1])\n",
        "True [1 0]",
    ),
    "matplotlib": (
        "from torchmetrics.classification import BinaryAccuracy\nimport matplotlib, torch\nmatplotlib.use('Agg')\n"
        "metric = BinaryAccuracy()\nmetric.update(torch.ones(2), torch.ones(2))\nfigure, _ = metric.plot()\n"
        "print(type(figure).__name__, matplotlib.__version__[:2])\n",
        "Figure 3.",
    ),
    "sympy": ("import sympy\nprint(sympy.sqrt(16), isinstance(sympy.Symbol('x'), sympy.Basic))\n", "4 True"),
    "the compiler": (
        "import torch\nfrom pytorch_lightning.utilities.compile import from_compiled\n"
        "module = pytorch_lightning.LightningModule()\n"
        "layer = torch.nn.Linear(2, 2)\noptimizer = torch.optim.Adam(layer.parameters())\n"
        "layer(torch.ones(1, 2)).sum().backward()\noptimizer.step()\n"
        "print(from_compiled(torch.compile(module)) is module)\n"
        "@torch.compile(backend='eager')\ndef step():\n    optimizer.zero_grad()\n"
        "    loss = layer(torch.ones(1, 2)).sum()\n    loss.backward()\n    optimizer.step()\n    return loss\n"
        "print(bool(step() != step()))\n",
        "True\nTrue",
    ),
    "a module below the compiler": (
        "import torch, torch._dynamo.config as config, importlib.util as util\nprint(config.suppress_errors)\n"
        "print(torch._dynamo.config is config, util.find_spec('torch._dynamo.nothing'))\n"
        "from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "with FakeTensorMode():\n    print(torch.ones(2).shape)\n",
        "False\nTrue None\ntorch.Size([2])",
    ),
    "what is not compiled": (
        "import torch\nfrom torch import nn\nclass Net(nn.Module): pass\n"
        "@torch.compiler.disable(recursive=False)\ndef double(x): return 2 * x\n"
        "layer = torch.compiler.disable(nn.Linear(2, 2))\n"
        "print(double(2), torch.compiler.disable(Net) is Net, len([*layer.parameters()]))\n",
        "4 True 2",
    ),
    "symbolic shapes": (
        "import torch\nwith torch.device('meta'):\n    print(torch.nn.Linear(2, 3)(torch.ones(4, 2)).shape)\n"
        "batch = {0: torch.export.Dim('batch')}\n"
        "exported = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(4, 2),), dynamic_shapes=(batch,))\n"
        "print(exported.module()(torch.ones(7, 2)).shape)\n",
        "torch.Size([4, 3])\ntorch.Size([7, 3])",
    ),
}


@pytest.mark.slow(7)
@pytest.mark.parametrize("use", USES)
def test_a_module_that_is_put_off_works_when_it_is_used(tmp_path: Path, use: str) -> None:
    text, expected = USES[use]
    before = "import lamella, pytorch_lightning\n"
    assert python(tmp_path, before + text).strip() == expected


def test_a_library_that_does_more_with_a_stand_in_is_imported_as_usual(tmp_path: Path) -> None:
    """A stand-in cannot be added to a number: the first import fails, and the second one has no stand-ins."""
    package = tmp_path / "pytorch_lightning"
    package.mkdir()
    (package / "__init__.py").write_text("from pytorch_lightning.inner import circle\n")
    (package / "inner.py").write_text("from scipy.constants import pi\nprint('import')\ncircle = 2 * pi\n")
    text = "import lamella, sys\nsys.path.insert(0, '')\nimport pytorch_lightning\nprint(pytorch_lightning.circle)\n"
    assert python(tmp_path, text) == "import\nimport\n6.283185307179586\n"


def test_a_module_that_cannot_be_imported_is_tried_again(tmp_path: Path) -> None:
    package = tmp_path / "sympy"
    package.mkdir()
    (package / "__init__.py").write_text("import missing\n")
    text = (
        "import lamella, sys\nsys.path.insert(0, '')\nimport sympy\n"
        "for _ in range(2):\n    try:\n        sympy.sqrt\n"
        "    except ModuleNotFoundError as error:\n        print(error)\n"
        "open('missing.py', 'w').close()\nopen('sympy/__init__.py', 'a').write('sqrt = 3\\n')\nprint(sympy.sqrt)\n"
    )
    assert python(tmp_path, text) == "No module named 'missing'\n" * 2 + "3\n"


def test_the_end_of_a_program_writes_what_is_in_buffers(tmp_path: Path) -> None:
    """A program ends without taking its objects apart, which is when Python closes files that are open."""
    python(
        tmp_path,
        "import atexit, sys\nfrom lamella.__main__ import run_program\n"
        "kept = open('kept.txt', 'w')\nkept.write('all of it')\nsys.argv = ['lamella', '--version']\n"
        "both = open('both.bin', 'w+b')\nboth.write(b'all of it')\n"
        "status = run_program()\natexit.register(lambda: open('later.txt', 'w').write('called'))\nsys.exit(status)\n",
    )
    assert (tmp_path / "kept.txt").read_text() == "all of it"
    assert (tmp_path / "both.bin").read_text() == "all of it"
    assert (tmp_path / "later.txt").read_text() == "called"


@pytest.mark.parametrize("before", ["archive = zipfile.ZipFile('a.zip', 'w')\narchive.writestr('a', 'all of it')", ""])
def test_the_end_of_a_program_that_has_more_to_do(tmp_path: Path, before: str) -> None:
    """An archive is completed when it is closed, and what was registered before the program is called after it."""
    registered = "atexit.register(lambda: print('called'))" if not before else ""
    out = python(
        tmp_path,
        "import atexit, sys, zipfile\nfrom lamella.__main__ import run_program\nsys.argv = ['lamella', '--version']\n"
        f"{before}\n{registered}\nsys.exit(run_program())\n",
    )
    assert out.startswith("lamella ")
    if before:
        assert zipfile.ZipFile(tmp_path / "a.zip").read("a") == b"all of it"
    else:
        assert out.endswith("called\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_at_the_end(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lamella", "--help"],
            cwd=tmp_path,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


def test_the_end_of_a_program_has_its_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lamella", "trian"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: there is no command 'trian'; did you mean train?\n"

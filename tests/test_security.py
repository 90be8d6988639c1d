"""Configs, checkpoints and run directories of somebody who means harm: refused, with nothing called or imported."""

import hashlib
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import programs
import pytest
import torch
import yaml
from conftest import Lamella, Shared, contents
from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from omegaconf import OmegaConf
from PIL import Image

import lamella as package
from lamella.config import guard, hydra_internals
from lamella.errors import RequestError
from lamella.runs.checkpoints import KEYS, _archive_end

pytestmark = pytest.mark.slow

EVIL = "open('hacked', 'w').close()\n\nclass Net:\n    pass\n"
# What no group builds, whatever its arguments are.
TARGETS = [
    "os.system",
    "os.popen",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.open",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "pathlib.Path.unlink",
    "pathlib.Path",
    "shutil.rmtree",
    "pickle.loads",
    "numpy.load",
    "importlib.import_module",
    "runpy.run_path",
    "evil",
    "evil.Net",
    "conf.evil.Net",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load",
    "torch.serialization.load",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "omegaconf.OmegaConf.load",
    "yaml.unsafe_load",
    # Within what is allowed: functions, and ways out of it.
    "lamella.__main__.main",
    "lamella.commands.train.main",
    "lamella.runs.writer.RunWriter",
    "lamella.runs.checkpoints.read_checkpoint",
    "lamella.config.targets.instantiate",
    "lamella.config.targets.sys.modules.clear",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.warnings.warn",
    "torch.nn.functional.torch.hub.load",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.init.normal_",
    "torch.nn.Module.register_buffer",
    "torch.nn.Module.__init__",
    "torch.nn.Linear.__init__.__globals__.clear",
    "torch.optim.optimizer.functools.partial",
    "torch.optim.Optimizer.load_state_dict",
    "torchvision.io.read_image",
    "torchvision.io.write_file",
    "torchvision.datasets.ImageFolder",
    "torchvision.datasets.MNIST",
    "torchvision.datasets.utils.download_url",
    "torchvision.models.get_model",
    "torchvision.models.get_weight",
    "torchvision.models.resnet._resnet",
    "torchvision.models.resnet.load_state_dict_from_url",
    "torchvision.transforms.Lambda",
    "torchmetrics.utilities.data.to_onehot",
    "pytorch_lightning.seed_everything",
    "pytorch_lightning.loggers.CSVLogger",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.core.saving.load_from_checkpoint",
    "torch.nn:os.system",
    "torch.nn.functional:torch.hub.load",
    "torch.nn..Linear",
    ".torch.nn.Linear",
    "torch.nn.Linear ",
    "torch.nn",
    7,
    ["torch.nn.Linear"],
]
CALL = {"_target_": "os.system", "_args_": ["touch hacked"]}
LOAD = {"_target_": "torch.load", "f": "payload.pt", "weights_only": False}
# The places where a config may hold a `_target_`, each as the message about it begins.
PLACES: dict[str, dict[str, Any]] = {
    "network._target_ is 'os.system'": {"network": CALL},
    "network._args_.0._target_ is 'os.system'": {"network": {"_target_": "torch.nn.Sequential", "_args_": [CALL]}},
    "network.weights._target_: there is no such key": {
        "network": {"_target_": "torchvision.models.resnet18", "weights": LOAD}
    },
    "network._args_.0._target_ is 'torch.optim.SGD'; it takes a subclass of Module": {
        "network": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.optim.SGD", "params": []}]}
    },
    "network._partial_ is True; only an argument takes it": {
        "network": {"_target_": "torch.nn.Linear", "_partial_": True, "in_features": 1, "out_features": 1}
    },
    "network.layers.1._target_ is 'os.system'": {"network": {"layers": ["Flatten", CALL]}},
    "network.layers.body.inner.0._target_ is 'os.system'": {
        "network": {"layers": {"flatten": "Flatten", "body": {"inner": [CALL]}}}
    },
    "network.layers.1.Repeat.layers.0._target_ is 'os.system'": {
        "network": {"layers": ["Flatten", {"Repeat": {"times": 2, "layers": [CALL]}}]}
    },
    "network.layers.1.Residual.0._target_ is 'os.system'": {"network": {"layers": ["Flatten", {"Residual": [CALL]}]}},
    "network.layers.1.in_features._target_ is 'torch.load'": {
        "network": {"layers": ["Flatten", {"_target_": "torch.nn.Linear", "in_features": LOAD, "out_features": 10}]}
    },
    "network.layers.1.out_features is '${oc.create:{_target_: os.abort}}'; what is called": {
        "network": {
            "layers": [
                "Flatten",
                {
                    "_target_": "torch.nn.Linear",
                    "in_features": 784,
                    "out_features": "\\${oc.create:{_target_: os.abort}}",
                },
            ]
        }
    },
    "loss._target_ is 'os.system'": {"loss": CALL},
    "loss._target_ is 'torchvision.models.resnet18', a function; here it takes a class": {
        "loss": {"_target_": "torchvision.models.resnet18"}
    },
    "loss.weight._target_ is 'torch.load'": {"loss": {"_target_": "torch.nn.CrossEntropyLoss", "weight": LOAD}},
    "optimizer._target_ is 'os.system'": {"optimizer": CALL},
    "optimizer._target_ is 'torch.nn.Linear'; it takes a subclass of Optimizer": {
        "optimizer": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    },
    "optimizer.lr._target_ is 'torch.load'": {"optimizer": {"_target_": "torch.optim.Adam", "lr": LOAD}},
    "optimizer.betas.0._target_ is 'os.system'": {"optimizer": {"_target_": "torch.optim.Adam", "betas": [CALL, 0.9]}},
    "scheduler._target_ is 'os.system'": {"scheduler": CALL | {"interval": "epoch", "warmup_steps": 0}},
    "scheduler.lr_lambda._target_ is 'builtins.eval'": {
        "scheduler": {
            "_target_": "torch.optim.lr_scheduler.LambdaLR",
            "lr_lambda": {"_target_": "builtins.eval", "_partial_": True},
            "interval": "epoch",
            "warmup_steps": 0,
        }
    },
    "network._target_whitelist_: there is no such key": {
        "network": {"_target_": "torch.nn.Linear", "_target_whitelist_": ["os"], "in_features": 1, "out_features": 1}
    },
    "data._target_ is 'os.system'": {"data": CALL},
    "data.source._target_ is 'os.system'": {"data": {"source": CALL}},
    "data.source._target_ is 'torchvision.datasets.FakeData'; it takes a subclass of Splits": {
        "data": {"source": {"_target_": "torchvision.datasets.FakeData"}}
    },
    "data.source._target_ is 'lamella.data.images.progress', a function; here it takes a class": {
        "data": {"source": {"_target_": "lamella.data.images.progress"}}
    },
    "data.augment._target_ is 'os.system'": {"data": {"augment": CALL}},
    "trainer._target_ is 'os.system'": {"trainer": CALL},
    "trainer.callbacks.0._target_ is 'os.system'": {"trainer": {"callbacks": [CALL]}},
    "trainer.callbacks.0._target_ is 'torch.nn.ReLU'; it takes a subclass of Callback": {
        "trainer": {"callbacks": [{"_target_": "torch.nn.ReLU"}]}
    },
    "trainer.callbacks.0.setup._target_ is 'os.system'": {
        "trainer": {"callbacks": [{"_target_": "pytorch_lightning.callbacks.LambdaCallback", "setup": CALL}]}
    },
    "trainer.logger.0._target_ is 'os.system'": {"trainer": {"logger": [CALL]}},
    "trainer.logger.0._target_ is 'pytorch_lightning.callbacks.Timer'; it takes a subclass of Logger": {
        "trainer": {"logger": [{"_target_": "pytorch_lightning.callbacks.Timer"}]}
    },
    "trainer.profiler._target_ is 'os.system'": {"trainer": {"profiler": CALL}},
    "trainer.strategy._target_ is 'os.system'": {"trainer": {"strategy": CALL}},
    "trainer.plugins: Lamella sets this argument of the Trainer": {"trainer": {"plugins": [LOAD]}},
    "visuals.mine._target_ is 'os.system'": {"visuals": {"mine": CALL}},
    "visuals.mine._target_ is 'pytorch_lightning.loggers.CSVLogger'; it takes a subclass of Callback": {
        "visuals": {"mine": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "."}}
    },
}
HYDRA: dict[str, dict[str, Any]] = {
    "callbacks": {"callbacks": {"mine": CALL}},
    "job_logging": {"job_logging": {"handlers": {"mine": {"()": "os.system", "command": "touch hacked"}}}},
    "hydra_logging": {"hydra_logging": {"handlers": {"mine": {"()": "builtins.open", "file": "hacked", "mode": "w"}}}},
    "launcher": {"launcher": {"_target_": "os.system", "command": "touch hacked"}},
    "launcher's argument": {"launcher": {"mine": CALL}},
    "sweeper's argument": {"sweeper": {"params": {"seed": CALL}}},
    "job.env_set": {"job": {"env_set": {"LD_PRELOAD": "evil.so"}}},
    "job.env_copy": {"job": {"env_copy": ["HOME"]}},
    "run.dir": {"run": {"dir": "hacked"}},
    "sweep.dir": {"sweep": {"dir": "hacked"}},
    "sweep.subdir": {"sweep": {"subdir": "hacked"}},
    "output_subdir": {"output_subdir": "hacked"},
    "searchpath": {"searchpath": ["pkg://evil"]},
    "job.chdir": {"job": {"chdir": True}},
}


@pytest.fixture(autouse=True)
def unharmed(lamella: Lamella) -> Any:
    """A directory with what an attacker left there; in the end nothing of it has run."""
    Path("evil.py").write_text(EVIL)
    Path("conf").mkdir()
    Path("conf/evil.py").write_text(EVIL)
    Path("payload.pt").write_bytes(pickle.dumps(Payload()))
    before, variables, modules = contents(Path()), dict(os.environ), set(sys.modules)
    yield
    after = contents(Path())
    assert not Path("hacked").exists()
    assert {name: after.get(name) for name in before} == before
    assert not {name for name in set(sys.modules) - modules if "evil" in name}
    assert dict(os.environ).get("LD_PRELOAD") == variables.get("LD_PRELOAD")


class Payload:
    """Touches a file where a pickle of it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


def refused(result: Any) -> str:
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    return str(result.err)


def experiment(changes: dict[str, Any]) -> None:
    Path("conf/experiment").mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(changes, sort_keys=False)
    Path("conf/experiment/own.yaml").write_text(f"# @package _global_\n{text}")


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_targets_of_a_network(lamella: Lamella, target: Any) -> None:
    Path("conf/network").mkdir()
    Path("conf/network/own.yaml").write_text(yaml.safe_dump({"_target_": target}))
    message = refused(lamella("train", "network=own"))
    assert "network._target_ is " in message
    assert "from conf/network/own.yaml" in message
    assert not Path("outputs").exists()


@pytest.fixture(scope="module")
def default_config(shared: Shared) -> str:
    """The config of a command without overrides, as YAML."""

    def fill(path: Path) -> None:
        (path / "job.yaml").write_text(programs.run(path, "train", "--cfg", "job"))

    return (shared("default-config", fill) / "job.yaml").read_text()


@pytest.mark.parametrize("place", PLACES)
def test_places(lamella: Lamella, default_config: str, place: str) -> None:
    """The place is named, and what is wrong there, where a project has a group of its own."""
    [(group, node)] = PLACES[place].items()
    base = yaml.safe_load(default_config)[group]
    whole = node if "layers" in node else {**base, **node}
    Path("conf", group).mkdir()
    Path("conf", group, "own.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    message = refused(lamella("train", f"{group}=own"))
    assert message.startswith(f"error: {place}")
    assert re.search(rf"\n  from conf/{group}/own\.yaml(:\d+)?\n$", message)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("place", HYDRA)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2")], ids=["run", "sweep"])
def test_hydras_own_keys(lamella: Lamella, place: str, sweep: tuple[str, ...]) -> None:
    experiment({"hydra": HYDRA[place]})
    assert "hydra" in refused(lamella("train", *sweep, "experiment=own"))
    assert not list(Path().rglob("run.json"))


@pytest.mark.parametrize(
    "override",
    [
        "hydra.searchpath=[pkg://evil]",
        "hydra.searchpath=[file:///tmp]",
        "+hydra.callbacks.mine._target_=evil.Net",
        "+hydra.job.env_set.LD_PRELOAD=evil.so",
        "hydra.job.env_copy=[HOME]",
        "hydra/job_logging=default",
        "hydra.output_subdir=hacked",
        "hydra.run.dir=hacked",
        "+hydra.launcher.mine._target_=os.system",
        "network._target_=os.system",
        "+network._target_=os.system",
        "optimizer._target_=torch.load",
        "+data.source._target_=evil.Net",
        "+trainer.callbacks=[{_target_: os.system, command: touch hacked}]",
        "+visuals.mine._target_=evil.Net",
        "+optimizer._partial_=true",
        "hydra.sweep.dir=hacked",
        "--experimental-rerun=payload.pt",
        "--exp=payload.pt",
    ],
)
def test_overrides(lamella: Lamella, override: str) -> None:
    refused(lamella("train", override))
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", "${oc.env:SECRET,x}", "${oc.env:${monitor}}", "a-${oc.env:SECRET}"]
)
def test_the_environment_is_not_read(lamella: Lamella, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setenv("val/accuracy", "s3cret")
    experiment({"name": text})
    message = refused(lamella("train", "experiment=own"))
    assert "a config reads the environment variables that pyproject.toml names" in message
    assert "s3cret" not in message
    assert not Path("outputs").exists()


def test_a_variable_that_is_named_is_read(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN", "seen")
    monkeypatch.setenv("SECRET", "s3cret")
    Path("pyproject.toml").write_text('[tool.lamella]\nenvironment = ["OPEN", "UNSET"]\n')
    experiment({"name": "${oc.env:OPEN}"})
    assert lamella("train", "experiment=own", "trainer=debug").status == 0
    assert Path("outputs/seen").is_dir()
    assert not [name for name, text in contents(Path("outputs")).items() if b"s3cret" in text]
    experiment({"name": "${oc.env:UNSET}"})
    assert "oc.env:UNSET: this environment variable is not set" in refused(lamella("train", "experiment=own"))
    experiment({"name": "${oc.env:UNSET,other}"})
    assert lamella("train", "experiment=own", "trainer=debug").status == 0
    assert Path("outputs/other").is_dir()
    Path("pyproject.toml").write_text("[tool.lamella]\nenvironment = 3\n")
    assert "[tool.lamella] environment is 3; it takes names of variables" in refused(lamella("train", "experiment=own"))


# The commands that take a run directory from whomever it comes.
COMMANDS = {
    "inspect": ("inspect", "RUN"),
    "eval": ("eval", "RUN"),
    "predict": ("predict", "RUN", "x.png"),
    "resume": ("resume", "RUN", "trainer.max_epochs=3"),
    "reproduce": ("reproduce", "RUN"),
    "export": ("export", "RUN", "--format", "pt2"),
}


@pytest.fixture
def stranger(run: Path) -> Path:
    """A run directory, to be changed by an attacker."""
    Image.new("L", (28, 28)).save("x.png")
    shutil.copy("evil.py", run / "evil.py")
    return run


def call(lamella: Lamella, command: str, run: Path) -> Any:
    return lamella(*(str(run) if part == "RUN" else part for part in COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("group", ["network", "loss", "data", "layers"])
def test_a_strangers_config(lamella: Lamella, stranger: Path, command: str, group: str) -> None:
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    if group == "layers":
        config["network"]["layers"] = ["Flatten", {"_target_": "evil.Net"}, {"Linear": 10}]
    elif group == "data" and command == "predict":
        config["loss"] = {"_target_": "torch.nn.CrossEntropyLoss", "weight": LOAD}  # it builds no data
    else:
        config[group] = {**config[group], "_target_": "evil.Net"}
    (stranger / "config.yaml").write_text(yaml.safe_dump(config))
    before = contents(stranger)
    message = refused(call(lamella, command, stranger))
    assert "evil" in message or "torch.load" in message
    assert contents(stranger) == before


@pytest.mark.parametrize("command", ["inspect", "eval", "predict", "export"])
def test_what_only_training_builds_is_not_built(lamella: Lamella, stranger: Path, command: str) -> None:
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    config["trainer"]["callbacks"] = [{"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "dirpath": "hacked"}]
    config["visuals"] = {"mine": {"_target_": "evil.Net"}}
    (stranger / "config.yaml").write_text(yaml.safe_dump(config))
    assert call(lamella, command, stranger).status == 0


def zipped(content: bytes) -> bytes:
    """A checkpoint as torch writes it, with a pickle of one's own and the checksum that belongs to it."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {}}, buffer)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return signed(out.getvalue())


def signed(data: bytes) -> bytes:
    """Bytes with the checksum of theirs at the end, as anybody can make it."""
    body = data[:-2] if data.endswith(b"\0\0") else data
    digest = hashlib.sha256(body + b"\0\0")
    return body + _archive_end(digest.hexdigest())


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    others = dict.fromkeys(KEYS, None) if isinstance(content, dict) and content else {}
    torch.save({**others, **content} if others else content, buffer)
    return signed(buffer.getvalue())


CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle": (lambda: pickle.dumps(Payload()), "it has no checksum at its end"),
    "a pickle with a checksum": (lambda: signed(pickle.dumps(Payload())), "this is not a checkpoint: "),
    "a pickle in an archive": (lambda: zipped(pickle.dumps(Payload())), "this is not a checkpoint: "),
    "a payload among the weights": (lambda: saved({"state_dict": {"network.2.weight": Payload()}}),
                                   "this is not a checkpoint: "),
    "a whole module": (lambda: saved({"state_dict": torch.nn.Linear(1, 1)}), "this is not a checkpoint: "),
    "an import": (lambda: zipped(b"cevil\nNet\n."), "this is not a checkpoint: "),
    "a call of getattr": (lambda: zipped(b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR."), "this is not a checkpoint: "),
    "other weights": (lambda: saved({"state_dict": {"network.0.weight": torch.ones(3)}}), "does not fit the network"),
    "values that are no tensors": (lambda: saved({"state_dict": {"network.2.weight": "x"}}), "does not hold tensors"),
    "no weights": (lambda: saved({}), "this is not a checkpoint: "),
    "a list": (lambda: saved([1]), "this is not a checkpoint: "),
    "nothing": (lambda: b"", "it has no checksum at its end"),
    "zeros": (lambda: bytes(5000), "it has no checksum at its end"),
    "a checksum alone": (lambda: signed(b""), "this is not a checkpoint: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("command", ["inspect", "eval", "predict", "export"])
def test_a_strangers_checkpoint(lamella: Lamella, stranger: Path, kind: str, command: str) -> None:
    content, message = CHECKPOINTS[kind]
    for file in (stranger / "checkpoints").iterdir():
        file.unlink()
        file.write_bytes(content())
    before = contents(stranger)
    assert message in refused(call(lamella, command, stranger))
    assert contents(stranger) == before


@pytest.mark.parametrize(
    "kind", ["a pickle in an archive", "a pickle with a checksum", "an import", "a list", "no weights"]
)
def test_a_strangers_checkpoint_is_not_trained_on(lamella: Lamella, stranger: Path, kind: str) -> None:
    for file in (stranger / "checkpoints").iterdir():
        file.unlink()
        file.write_bytes(CHECKPOINTS[kind][0]())
    before = contents(stranger)
    refused(lamella("resume", str(stranger), "trainer.max_epochs=3"))
    assert contents(stranger) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "link", ["checkpoints/best.ckpt", "metrics.jsonl", "log.txt", "config.yaml", "eval.json", "checkpoints"]
)
def test_links_out_of_the_run(lamella: Lamella, stranger: Path, command: str, link: str) -> None:
    outside = Path("outside")
    if link == "checkpoints":
        (stranger / link).rename(outside)
    else:
        outside.write_bytes((stranger / link).read_bytes() if (stranger / link).exists() else b"mine")
        (stranger / link).unlink(missing_ok=True)
    (stranger / link).symlink_to(outside.absolute())
    before = contents(Path())
    message = refused(call(lamella, command, stranger))
    assert f"{stranger / link} is a link that leads out of the run" in message
    assert contents(Path()) == before


def test_a_link_as_the_record(lamella: Lamella, stranger: Path) -> None:
    (stranger / "run.json").rename("outside")
    (stranger / "run.json").symlink_to(Path("outside").absolute())
    assert "is a link that leads out of the run" in refused(lamella("eval", str(stranger)))


def test_a_run_does_not_say_what_may_be_built(
    lamella: Lamella, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from afar, nor where one has gone into it."""
    (stranger / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["evil"]\n')
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    config["network"] = {"_target_": "evil.Net"}
    (stranger / "config.yaml").write_text(yaml.safe_dump(config))
    (stranger / "conf/network").mkdir(parents=True)
    (stranger / "conf/network/mlp.yaml").write_text("_target_: evil.Net\n")
    assert "network._target_ is 'evil.Net'; a config may build from" in refused(lamella("eval", str(stranger)))
    home = Path.cwd()
    monkeypatch.chdir(stranger)
    for arguments in (["eval", "."], ["inspect"], ["train"]):
        message = refused(lamella(*arguments))
        assert "network._target_ is 'evil.Net'" in message
        assert "what pyproject.toml allows does not count inside of a run directory" in message
    with pytest.raises(RequestError, match="does not count inside of a run directory"):
        package.load(".")
    monkeypatch.chdir(home)


HUB = "${oc.create:{_target_: torch.hub.load, repo_or_dir: hub, source: local, model: boom, trust_repo: true}}"


@pytest.fixture
def hub(stranger: Path) -> Path:
    """What `torch.hub.load` imports, which Hydra would let a config call."""
    for folder in (Path("hub"), stranger):
        folder.mkdir(exist_ok=True)
        (folder / "hubconf.py").write_text(f"{EVIL}\ndef boom():\n    pass\n")
    return stranger


@pytest.mark.parametrize("command", [*COMMANDS, "load"])
@pytest.mark.parametrize("tag", ["!!pairs", "!!omap"])
def test_tuples_hide_no_interpolation(lamella: Lamella, hub: Path, command: str, tag: str) -> None:
    text = (hub / "config.yaml").read_text()
    network = f'network:\n  _target_: torch.nn.Sequential\n  _args_: {tag}\n  - x: "{HUB}"\n  freeze: []\n'
    (hub / "config.yaml").write_text(re.sub(r"^network:\n(?:[ -].*\n)+", network, text, flags=re.M))
    if command == "load":
        with pytest.raises(RequestError, match="a config holds text"):
            package.load(hub)
    else:
        assert "a config holds text, numbers" in refused(call(lamella, command, hub))


@pytest.mark.parametrize("command", ["eval", "resume", "export", "inspect"])
def test_the_name_of_a_directory_is_no_interpolation(lamella: Lamella, hub: Path, command: str) -> None:
    named = hub.rename(hub.parent / HUB)
    assert call(lamella, command, named).status == 0


def test_a_repository_starts_no_program(lamella: Lamella, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path.cwd()
    for folder in (home / stranger, home):
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        subprocess.run(["git", "config", "core.fsmonitor", f"touch {home}/hacked; false"], cwd=folder, check=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.fsmonitor=false")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert lamella("train", "trainer=debug").status == 0
    [path] = [path for path in Path("outputs/default").iterdir() if path.name != "run"]
    assert re.search(r'"commit": "\w{40}"', (path / "run.json").read_text())
    monkeypatch.chdir(stranger)
    assert lamella("reproduce", ".").status == 0
    monkeypatch.chdir(home)


def test_a_package_of_a_librarys_opens_no_other(lamella: Lamella) -> None:
    Path("pyproject.toml").write_text('[tool.lamella]\ntargets = ["torch.fft"]\n')
    Path("conf/network").mkdir()
    Path("conf/network/own.yaml").write_text("_target_: torch.nn.modules.module.torch.hub.load\n")
    assert "which leads out of what a config may build" in refused(lamella("train", "network=own"))


def test_an_image_starts_no_program(lamella: Lamella, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin/gs").write_text("#!/bin/sh\ntouch hacked\n")
    Path("bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path.cwd()}/bin:{os.environ['PATH']}")
    Path("e.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    result = lamella("predict", str(stranger), "e.png")
    assert (result.status, "e.png is no readable image" in result.err) == (1, True)


def test_runs_reads_nothing_from_elsewhere(lamella: Lamella, stranger: Path) -> None:
    Path("secret.yaml").write_text("aws: SECRETKEY\n")
    (stranger / "config.yaml").unlink()
    (stranger / "config.yaml").symlink_to(Path("secret.yaml").absolute())
    assert "SECRETKEY" not in lamella("runs", "--columns", "directory,aws").out


def test_a_module_beside_a_run_hides_no_library(lamella: Lamella, stranger: Path) -> None:
    for name in ("yaml", "torch", "PIL", "safetensors", "onnx"):
        (stranger / f"{name}.py").write_text(EVIL)
        Path(f"{name}.py").write_text(EVIL)
    paths = [path for path in sys.path if path not in ("", str(Path.cwd()))]
    sys.path[:] = paths
    for command in ("eval", "predict", "inspect"):
        assert call(lamella, command, stranger).status == 0
    assert sys.path == paths
    for name in ("yaml", "torch", "PIL", "safetensors", "onnx"):
        Path(f"{name}.py").unlink()


def test_a_record_writes_no_codes_to_the_terminal(lamella: Lamella, stranger: Path) -> None:
    text = (stranger / "run.json").read_text()
    (stranger / "run.json").write_text(re.sub(r'"name": "\w+"', '"name": "\\\\u001b]0;owned\\\\u0007"', text, count=1))
    assert "owned" in (stranger / "run.json").read_text()
    for arguments in (["runs"], ["compare", str(stranger), str(stranger)], ["runs", "--columns", "name"]):
        result = lamella(*arguments)
        assert result.status == 0
        assert "\x1b" not in result.out


@pytest.fixture
def hostile_callback(lamella: Lamella) -> str:
    """Return an override by which Hydra would call code in the working directory, which then writes the file `ran`."""
    Path("hostile.py").write_text(
        "from pathlib import Path\n\nclass Evil:\n    def __init__(self):\n        Path('ran').touch()\n"
    )
    sys.path.insert(0, str(Path.cwd()))
    return "+hydra.callbacks.x._target_=hostile.Evil"


UNCHECKED = "composed a config that Lamella could not check"


def test_a_callback_would_run_without_the_guard(hostile_callback: str) -> None:
    """Hold the test itself: without the guard, the callback writes its file."""
    getattr(hydra_main, hydra_internals.CALLBACKS)(
        OmegaConf.create({"hydra": {"callbacks": {"x": {"_target_": "hostile.Evil"}}}})
    )
    assert Path("ran").exists()


def test_a_version_of_hydra_that_was_not_tried_is_refused(
    lamella: Lamella, monkeypatch: pytest.MonkeyPatch, hostile_callback: str
) -> None:
    monkeypatch.setattr(hydra, "__version__", "1.4.0")
    for arguments in ([], [hostile_callback], ["-m", "seed=1,2", hostile_callback]):
        assert f"Hydra 1.4.0 {UNCHECKED}" in refused(lamella("train", *arguments))
    assert not Path("outputs").exists()
    assert not Path("ran").exists()


def test_a_hydra_whose_loader_is_not_replaced_is_refused(
    lamella: Lamella, monkeypatch: pytest.MonkeyPatch, hostile_callback: str
) -> None:
    """As in a version of Hydra that finds the class of its config loader elsewhere."""
    monkeypatch.setattr(hydra_main, "Elsewhere", None, raising=False)
    monkeypatch.setattr(hydra_internals, "LOADER", "Elsewhere")
    searched = ["-m", "hydra/sweeper=optuna", "seed=choice(1,2)"]
    for arguments in ([], ["-m", "seed=1,2"], searched, [hostile_callback], [*searched, hostile_callback]):
        assert UNCHECKED in refused(lamella("train", *arguments))
    assert not Path("outputs").exists()
    assert not Path("ran").exists()


@pytest.mark.parametrize("method", ["load_configuration", "_process_config_searchpath"])
def test_a_hydra_that_does_not_call_the_guard_is_refused(
    lamella: Lamella, monkeypatch: pytest.MonkeyPatch, method: str, hostile_callback: str
) -> None:
    """As Hydra 1.4 will do, whose main program composes without `load_configuration`."""
    monkeypatch.delattr(hydra_internals.CheckingConfigLoader, method)
    for arguments in ([], ["-m", "seed=1,2"], [hostile_callback], ["-m", "seed=1,2", hostile_callback]):
        assert UNCHECKED in refused(lamella("train", *arguments))
    assert not Path("outputs").exists()
    assert not Path("ran").exists()


def test_the_guard_raises_for_a_config_that_it_has_not_checked() -> None:
    with pytest.raises(RuntimeError, match="install hydra-core"):
        guard.require_checked(ConfigLoaderImpl(ConfigSearchPathImpl()))
    with pytest.raises(RuntimeError, match="install hydra-core"):
        guard.require_checked(guard.GuardedConfigLoader(ConfigSearchPathImpl()))

"""Private names of other libraries: each file that may use them, and what happens when a later version lacks one."""

import ast
import json
import re
from pathlib import Path

import packages
import pytest
import pytorch_lightning as pl
import torch
from conftest import Lamella
from torch import nn

from lamella import lightning_internals, torch_internals
from lamella.data import Data
from lamella.runs.checkpoints import read_checkpoint
from lamella.training import optimizer_kernels
from lamella.training.checkpointing import Checkpoints
from lamella.training.trainer import CALLBACK_HOOKS

# One file for each library.
ADAPTERS = {
    "lamella.lightning_internals": "pytorch_lightning",
    "lamella.torch_internals": "torch",
    "lamella.config.hydra_internals": "hydra and omegaconf",
    "lamella.startup.ending": "atexit",
    "lamella.startup.substitutes": "torch's compiler",
    "lamella.sweeps.launch.forkserver": "multiprocessing",
    "lamella.sweeps.search.study": "optuna",
}
TRAIN = ("train", "trainer.max_epochs=2", "device.threads=1", "visuals=none")


# Public names that begin with an underscore: os._exit, those of named tuples, types for type checkers, and the keys of
# Hydra's configs.
HYDRA_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_", "_global_", "_self_"}
PUBLIC = {"_exit", "_asdict", "_fields", "_typeshed"} | HYDRA_KEYS


def private_names(tree: ast.Module) -> set[str]:
    """Return the private names of other modules that a module uses: as attributes, in imports and in strings.

    A private attribute is the module's own only where the module defines it, and uses it as an attribute of `self`.
    """
    own, found = defined_names(tree), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (node.attr in own and ast.unparse(node.value) == "self"):
            found.add(node.attr)
        elif isinstance(node, ast.Import):
            found |= {part for item in node.names for part in item.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(item.name for item in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\b_\w+", node.value)) - own
    return {name for name in found if re.match("_[a-zA-Z]", name)} - PUBLIC


def defined_names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines: functions, classes, variables and attributes of `self`."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_private_names_of_other_libraries_are_in_the_adapters() -> None:
    used = {name: private_names(ast.parse(path.read_text())) for name, path in packages.modules().items()}
    assert used.pop("lamella.config.launcher") == {"_internal"}  # in the `_target_` of Hydra's own basic launcher
    assert {name for name, names in used.items() if names} == set(ADAPTERS), used


@pytest.mark.parametrize(
    "text",
    [
        "def _run(): pass\ntrainer._run()",
        "class A:\n    def f(self): return self._run()",
        "getattr(trainer, '_run')",
        "attrgetter('fit_loop._run')",
        "from trainer import _run",
        "from trainer._run import f",
        "import trainer._run",
    ],
)
def test_a_private_name_of_another_module_is_found(text: str) -> None:
    assert private_names(ast.parse(text)) == {"_run"}


def test_private_names_of_a_module_are_its_own() -> None:
    assert private_names(ast.parse("class A:\n    def _run(self): self._run()\n    def f(self): 'As `_run`.'")) == set()


def run(lamella: Lamella, *overrides: str) -> tuple[str, list[dict[str, float]], dict[str, torch.Tensor]]:
    """Train, and return what was printed, the metrics of the epochs without times, and the weights."""
    done = lamella(*TRAIN, *overrides)
    assert done.status == 0, done.err
    path = max(Path("outputs/default").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: line[name] for name in line if name not in ("seconds", "samples_per_second")} for line in lines]
    return done.out, metrics, read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_without_lightnings_counters_a_chunk_is_one_batch(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    out, metrics, weights = run(lamella)
    assert "without" not in out
    monkeypatch.setattr(
        lightning_internals, "CHUNK_NAMES", (*lightning_internals.CHUNK_NAMES, "fit_loop.epoch_loop._gone")
    )
    out, slow_metrics, slow_weights = run(lamella)
    assert "without chunks: this version of pytorch-lightning has no trainer.fit_loop.epoch_loop._gone\n" in out
    assert slow_metrics == metrics
    assert same(slow_weights, weights)


@pytest.mark.slow
def test_a_run_is_not_resumed_where_lightning_has_changed(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    run(lamella)
    [path] = Path("outputs/default").iterdir()
    before = (path / "checkpoints" / "last.ckpt").read_bytes()
    monkeypatch.setattr(lightning_internals, "RESUME_NAMES", ("fit_loop._gone",))
    done = lamella("resume", str(path), "trainer.max_epochs=3")
    assert done.status == 2
    assert "cannot be resumed with pytorch-lightning 2." in done.err
    assert "its Trainer has no fit_loop._gone" in done.err
    assert (path / "checkpoints" / "last.ckpt").read_bytes() == before
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_without_the_fused_kernels_steps_are_torchs_own(
    lamella: Lamella, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    out, metrics, weights = run(lamella, f"optimizer={optimizer}")
    assert "without" not in out
    monkeypatch.setattr(optimizer_kernels, "_TRIED", {})
    for name in ("adam_kernel", "sgd_kernel"):
        monkeypatch.setattr(optimizer_kernels, name, lambda group, states: torch._fused_gone_)  # type: ignore[attr-defined]
    optimizer_kernels._print_once.cache_clear()
    out, slow_metrics, slow_weights = run(lamella, f"optimizer={optimizer}")
    assert "without direct steps of " in out
    assert slow_metrics == metrics
    assert same(slow_weights, weights)


@pytest.mark.slow
def test_a_kernel_that_computes_something_else_is_not_used(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    _, metrics, weights = run(lamella)
    kernel = torch_internals.adam_kernel

    def wrong(group: torch_internals.ParamGroup, states: list[dict[str, torch.Tensor]]) -> torch_internals.Kernel:
        step = kernel(group, states)
        return lambda gradients: step([2 * gradient for gradient in gradients])

    monkeypatch.setattr(optimizer_kernels, "_TRIED", {})
    monkeypatch.setattr(optimizer_kernels, "adam_kernel", wrong)
    optimizer_kernels._print_once.cache_clear()
    out, slow_metrics, slow_weights = run(lamella)
    assert "without direct steps of Adam: its result differs from the optimizer's own step\n" in out
    assert slow_metrics == metrics
    assert same(slow_weights, weights)


def test_attributes_of_every_module_are_those_of_this_torch() -> None:
    assert vars(nn.Module()).keys() == torch_internals.MODULE_ATTRIBUTES


def test_hooks_of_a_callback_are_those_of_this_lightning() -> None:
    methods = {name for name, value in vars(pl.Callback).items() if callable(value) and not name.startswith("_")}
    assert set(CALLBACK_HOOKS) == methods - {"state_dict", "load_state_dict"}


def test_keys_in_checkpoints_do_not_follow_the_names_of_classes() -> None:
    assert Checkpoints.__qualname__ == "Checkpoints"
    assert lightning_internals.datamodule_key(Data) == "Data"


def test_the_shape_of_a_gradient_is_unknown_without_its_metadata() -> None:
    class Node:
        pass

    assert torch_internals.gradient_shape((torch.ones(2, requires_grad=True) * 2).grad_fn) == (2,)  # type: ignore[arg-type]
    assert torch_internals.gradient_shape(Node()) == ()  # type: ignore[arg-type]

"""Many batches as one of Lightning's steps: the same bits as one by one."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill
import pytest
import torch
from conftest import Lamella, Project
from torch import nn

from lamella.config.compose import compose_one
from lamella.experiment.build import prepare_experiment
from lamella.runs.checkpoints import read_weights
from lamella.training.optimizer_kernels import DirectOptimizer

NAMES = ("plain", "steps", "augment", "plateau", "one_cycle", "accumulate", "early", "val", "growing", "max_steps")
CONFIGS = {name: kill.CONFIGS[name] for name in NAMES}
CONFIGS |= {
    "clipped": ("trainer.gradient_clip_val=0.1", "scheduler=one_cycle", "network=mlp"),
    "bf16": ("device.precision=bf16-mixed", "network=cnn", "network.widths=[4,8]"),
    "interval": ("+trainer.val_check_interval=7", "trainer.accumulate_grad_batches=3"),
    "across": ("+trainer.val_check_interval=9", "+trainer.check_val_every_n_epoch=null"),
    "limited": ("+trainer.limit_train_batches=5", "data.batch_size=32"),
    "lbfgs": (
        "optimizer=lbfgs",
        "optimizer.max_iter=2",
        "+trainer.limit_train_batches=4",
    ),
}


def train(lamella: Lamella, name: str, *options: str) -> Path:
    result = lamella("train", *kill.BASE, f"name={name}", *options)
    assert result.status == 0, result.err
    [path] = Path("outputs", name).iterdir()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_bits_as_one_by_one(lamella: Lamella, name: str) -> None:
    options = CONFIGS[name]
    one = train(lamella, "one", *options, "trainer.chunk=1")
    for chunk in ("auto", "7") if name in ("plain", "steps", "accumulate") else ("7",):
        assert kill.differences(one, train(lamella, f"chunks-{chunk}", *options, f"trainer.chunk={chunk}")) == []


@pytest.mark.slow
def test_bf16_in_chunks_has_the_bits_of_a_loop_by_hand(lamella: Lamella) -> None:
    options = (*kill.BASE, *CONFIGS["bf16"], "network.dropout=0", "trainer.max_epochs=1", "trainer.chunk=50")
    path = train(lamella, "bf16", *options)
    experiment = prepare_experiment(compose_one(list(options)).config)
    network, loss_function = experiment.task.network.train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for inputs, targets in experiment.data.train_dataloader():
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_function(network(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = read_weights(path / "checkpoints/last.ckpt")
    assert all(torch.equal(value, trained[f"network.{name}"]) for name, value in network.state_dict().items())


def test_a_cpu_without_bfloat16_is_noted(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    result = lamella("train", "device=cpu", "device.precision=bf16-mixed", "network=linear", "trainer.max_epochs=1")
    assert "note: device.precision is bf16-mixed, but this CPU has no instructions for bfloat16" in result.err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_found_in_its_step(lamella: Lamella) -> None:
    found = []
    for chunk in ("1", "7"):
        options = (
            "optimizer=sgd",
            "optimizer.lr=30",
            "optimizer.momentum=0",
            "network=linear",
            f"trainer.chunk={chunk}",
        )
        result = lamella("train", *kill.BASE, f"name=chunks-{chunk}", "loss=mse", *options)
        assert result.status == 1
        [path] = Path("outputs", f"chunks-{chunk}").iterdir()
        found.append(json.loads((path / "run.json").read_text())["error"])
    assert found[0].startswith("NonFiniteLoss: the loss is ")
    assert int(found[0].partition(" at step ")[2].partition(" ")[0]) > 2  # inside a chunk
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_before_optimizer_step"])
def test_a_callback_that_looks_at_each_batch_sees_each(lamella: Lamella, project: Project, hook: str) -> None:
    project(
        seen=(
            "import pytorch_lightning as pl\n"
            "class Seen(pl.Callback):\n"
            "    steps = []\n"
            f"    def {hook}(self, trainer, *given):\n"
            "        self.steps.append(trainer.global_step)\n"
            "    def on_train_epoch_end(self, trainer, pl_module):\n"
            "        print('seen', len(self.steps), 'of', trainer.global_step)\n"
        )
    )
    for group in ("trainer.callbacks=[{_target_: seen.Seen}]", "+visuals.seen={_target_: seen.Seen}"):
        result = lamella("train", *kill.BASE, "trainer.max_epochs=1", group)
        assert result.status == 0, result.err
        assert "seen 11 of 11" in result.out or "seen 22 of 11" in result.out


@pytest.mark.slow
def test_with_a_size_callbacks_are_called_between_chunks(lamella: Lamella, project: Project) -> None:
    project(
        seen=(
            "import pytorch_lightning as pl\n"
            "class Seen(pl.Callback):\n"
            "    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):\n"
            "        print('seen', trainer.global_step, float(outputs['loss']) > 0, len(batch[0]))\n"
        )
    )
    options = ("trainer.max_epochs=1", "trainer.chunk=4", "trainer.callbacks=[{_target_: seen.Seen}]")
    result = lamella("train", *kill.BASE, *options)
    assert result.status == 0, result.err
    seen = [line.split()[1] for line in result.out.splitlines() if line.startswith("seen")]
    assert seen == ["1", "5", "9", "11"]


OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"maximize": True}),
    "unfused": (torch.optim.Adam, {"fused": False}),
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-3, "dampening": 0.1}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "cycled": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"fused": None}),
}


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_called_directly_takes_the_same_step(name: str, device: str) -> None:
    kind, options = OPTIMIZERS[name]
    options = {key: value for key, value in ({"fused": True} | options).items() if value is not None}
    first = nn.ModuleList([nn.Linear(17, 33), nn.BatchNorm1d(33), nn.Linear(33, 3), nn.Linear(33, 3)]).to(device)
    networks = [first, copy.deepcopy(first)]
    made = [kind([{"params": one[:2].parameters()}, {"params": one[2:].parameters(), "lr": 0.1}], lr=0.01, **options)
            for one in networks]  # fmt: skip
    direct = DirectOptimizer(made[1])

    def backward(network: Any, inputs: torch.Tensor, number: int) -> torch.Tensor:
        # The last layer has no gradient in some steps, and in the first one; torch's fused SGD cannot do without.
        heads = network[2:] if number % 4 == 2 or "momentum" in options else network[2:3]
        loss: Any = sum(head(network[1](network[0](inputs))).square().mean() for head in heads)
        loss.backward()
        detached: torch.Tensor = loss.detach()
        return detached

    for number in range(12):
        inputs = torch.randn(8, 17, device=device)
        made[0].zero_grad()
        direct.zero_grad()
        loss = backward(networks[0], inputs, number)
        made[0].step()
        assert torch.equal(direct.step(lambda: backward(networks[1], inputs, number)), loss)  # noqa: B023
        for optimizer in made:
            optimizer.param_groups[0]["lr"] *= 0.9
            if name == "cycled":
                optimizer.param_groups[0]["momentum"] = (0.9, 0.5, 0.0)[number % 3]
        if number == 5:
            direct = DirectOptimizer(made[1])  # as at the beginning of another chunk, now with all states
    assert len(direct.kernels) == (0 if name in ("unfused", "rmsprop") else 2)
    states = [optimizer.state_dict()["state"] for optimizer in made]
    assert all(map(torch.equal, networks[0].parameters(), networks[1].parameters()))
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert state.keys() == states[1][key].keys()
        assert all(torch.equal(value, states[1][key][name]) for name, value in state.items())


def test_an_optimizer_that_clears_gradients_its_own_way_does() -> None:
    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            super().zero_grad(set_to_none=False)

    network = nn.Linear(2, 1)
    network(torch.ones(1, 2)).sum().backward()
    DirectOptimizer(Own(network.parameters())).zero_grad()
    assert network.weight.grad is not None
    assert not network.weight.grad.any()
    DirectOptimizer(torch.optim.SGD(network.parameters())).zero_grad()
    assert network.weight.grad is None


def test_an_optimizer_called_directly_calls_its_hooks() -> None:
    network, called = nn.Linear(2, 1), []
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    optimizer.register_step_post_hook(lambda *given: called.append(1))
    direct = DirectOptimizer(optimizer)
    for _ in range(3):
        direct.step(lambda: network(torch.ones(1, 2)).sum().backward())
    assert len(called) == 3

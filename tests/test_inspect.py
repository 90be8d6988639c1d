"""`lamella inspect`: everything that the study note prints by hand, compared with plain PyTorch on the same seed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Lamella
from torch import nn

from lamella.experiment.build import build_experiment
from lamella.inspection.activations import activations, layer_outputs
from lamella.inspection.gradients import check_gradients
from lamella.network.plan import plan, plan_module
from lamella.network.trace import layer_table
from lamella.training.objective import Objective
from lamella.training.optimizers import SINGLE, OptimizerPlan
from lamella.training.parameter_groups import Grouping
from lamella.training.scheduler import Schedule
from lamella.training.task import Task

NOTE = """NeuralNetwork(
  (flatten): Flatten(start_dim=1, end_dim=-1)
  (linear_relu_stack): Sequential(
    (0): Linear(in_features=784, out_features=512, bias=True)
    (1): ReLU()
    (2): Linear(in_features=512, out_features=512, bias=True)
    (3): ReLU()
    (4): Linear(in_features=512, out_features=10, bias=True)
    (5): ReLU()
  )
)"""


class NeuralNetwork(nn.Module):
    """The class of the note."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear_relu_stack(self.flatten(x))
        return output


def inspected(lamella: Lamella, *arguments: str) -> dict[str, Any]:
    result = lamella("inspect", *arguments, "--json")
    assert result.status == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def printed(text: str) -> list[str]:
    """The lines but those of `print(model)`, which are PyTorch's."""
    return [line for line in text.splitlines() if not re.match(r"\s+\(\w+\): ", line)]


def by_hand(lamella: Lamella, *overrides: str) -> tuple[NeuralNetwork, torch.Tensor, torch.Tensor]:
    """The note's class after the same seed, and the batch that is inspected."""
    config = yaml.safe_load(lamella("train", "--cfg", "job", "--resolve", *overrides).out)
    inputs, targets = next(iter(build_experiment(config).data.train_dataloader()))
    assert isinstance(inputs, torch.Tensor)
    torch.manual_seed(0)
    return NeuralNetwork(), inputs, targets


def test_the_structure_is_the_notes_character_for_character(lamella: Lamella) -> None:
    result = lamella("inspect", "network=neural_network", "device=cpu")
    assert result.status == 0, result.err
    assert result.out.startswith(f"Using cpu device\n\n{NOTE}\n\n")
    assert "\x1b" not in result.out
    assert [line for line in printed(result.out) if len(line) > 80] == []


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet", "cnn", "mlp"])
def test_the_table_fits_into_eighty_columns(lamella: Lamella, network: str) -> None:
    result = lamella("inspect", f"network={network}", "--activations", "--gradients")
    assert result.status == 0, result.err
    assert [line for line in printed(result.out) if len(line) > 80] == []


def test_shapes_of_the_note() -> None:
    rows = plan(["Flatten", {"Linear": 20}, "ReLU", {"Linear": 10}], (28, 28)).trace
    lines = [re.sub(r"\s{2,}", "|", line) for line in layer_table(rows, 3).splitlines()]
    assert lines == [
        "layer|class|input|output|parameters|mult-adds",
        "0|Flatten|(3, 28, 28)|(3, 784)|0|0",
        "1|Linear|(3, 784)|(3, 20)|15,700|15,680",
        "2|ReLU|(3, 20)|(3, 20)|0|0",
        "3|Linear|(3, 20)|(3, 10)|210|200",
        "total|15,910|15,880",
    ]


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        ({"Conv2d": [8, 3]}, (3, 10, 10), 8 * 8 * 8 * 3 * 9),
        ({"Conv2d": {"out_channels": 6, "kernel_size": 3, "groups": 3, "padding": 1}}, (3, 10, 10), 100 * 6 * 9),
        ({"ConvTranspose2d": [8, 2, 2]}, (3, 10, 10), 100 * 3 * 8 * 4),
        ({"Linear": 5}, (7, 4), 7 * 4 * 5),
        ({"LSTM": 6}, (7, 4), 7 * 4 * 6 * (4 + 6)),
        ({"Repeat": [2, ["Flatten", {"Linear": 4}]]}, (2, 2), 2 * 16),
    ],
)
def test_multiply_adds_are_those_of_the_formula(layer: Any, shape: tuple[int, ...], multiply_adds: int) -> None:
    assert sum(row.multiply_adds for row in plan([layer], shape).trace) == multiply_adds


@pytest.mark.slow
def test_a_batch_gives_what_plain_pytorch_gives(lamella: Lamella) -> None:
    found = inspected(lamella, "network=neural_network")["batch"]
    network, inputs, targets = by_hand(lamella, "network=neural_network")
    with torch.no_grad():
        logits = network(inputs)
    torch.testing.assert_close(torch.tensor(found["output"]), logits)
    probabilities = torch.tensor(found["probabilities"])
    torch.testing.assert_close(probabilities, nn.Softmax(dim=1)(logits))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(64))
    assert found["predicted"] == [str(number) for number in logits.argmax(1).tolist()]
    assert found["true"] == [str(number) for number in targets.tolist()]
    assert found["requires_grad"] is False


def test_parameters_are_listed_as_the_note_lists_them(lamella: Lamella) -> None:
    result = lamella("inspect", "network=neural_network", "--parameters")
    torch.manual_seed(0)
    torch.set_printoptions(threshold=60, linewidth=80)
    for number, (name, value) in enumerate(NeuralNetwork().named_parameters()):
        shown = value.detach() if value.numel() <= 60 else value.detach()[:2]
        assert f"{number}  {name} | Size: {value.size()}\n{shown}" in result.out
    torch.set_printoptions(profile="default")


@pytest.mark.slow
def test_activations_are_those_before_and_after_each_layer(lamella: Lamella) -> None:
    found = inspected(lamella, "network=neural_network")["activations"]
    network, inputs, _ = by_hand(lamella, "network=neural_network")
    x = inputs
    with torch.no_grad():
        for item, layer in zip(found, [network.flatten, *network.linear_relu_stack], strict=True):
            y = layer(x)
            for values, expected in ((item["before"], x), (item["after"], y)):
                assert values["shape"] == list(expected.shape)
                assert values["first"] == pytest.approx(expected[0].flatten()[:6].tolist(), abs=1e-5)
                assert values["zeros"] == pytest.approx(float((expected == 0).float().mean()), abs=1e-4)
                assert values["mean"] == pytest.approx(float(expected.mean()), abs=1e-5)
                assert values["std"] == pytest.approx(float(expected.std(correction=0)), abs=1e-5)
            x = y
    dead = int((x == 0).all(0).sum())
    assert (found[-1]["dead"], found[-1]["units"]) == (dead, 10)
    assert dead > 0


def test_a_dead_relu_is_pointed_out(lamella: Lamella) -> None:
    result = lamella("inspect", "network=neural_network", "--activations")
    assert re.search(
        r"linear_relu_stack\.5  ReLU .*(\n.*){2}\n  dead: \d of 10 units are 0 for every sample", result.out
    )


@pytest.mark.slow
def test_gradients_are_what_backward_leaves(lamella: Lamella) -> None:
    found = inspected(lamella, "network=neural_network")["gradients"]
    network, inputs, targets = by_hand(lamella, "network=neural_network")
    loss = nn.CrossEntropyLoss()(network(inputs), targets)
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for item, (name, value) in zip(found["parameters"], network.named_parameters(), strict=True):
        assert value.grad is not None
        assert (item["name"], item["size"]) == (name, list(value.shape))
        assert item["norm"] == pytest.approx(float(value.grad.norm()), rel=1e-4)
        assert item["first"] == pytest.approx(value.grad.flatten()[:6].tolist(), abs=1e-6)
    assert found["check"]["passed"] is True
    assert found["check"]["entries"] >= 25
    assert found["check"]["error"] < 1e-6


def test_automatic_differentiation_as_in_the_note(lamella: Lamella) -> None:
    result = lamella("inspect", "experiment=autograd", "--gradients")
    assert result.status == 0, result.err
    torch.manual_seed(0)
    x, y = torch.ones(5), torch.zeros(3)
    w, b = torch.randn(5, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    z = torch.matmul(x, w) + b
    loss = nn.functional.binary_cross_entropy_with_logits(z, y)
    loss.backward()
    assert w.grad is not None
    assert b.grad is not None
    torch.set_printoptions(linewidth=80)
    assert f"z (1, 3), requires_grad=True\n{z.detach()[None]}" in result.out
    assert f"loss = {loss.item():.6f}, grad_fn=BinaryCrossEntropyWithLogitsBackward0" in result.out
    assert f"w.grad (5, 3), norm {float(w.grad.norm()):.6f}\n{w.grad}" in result.out
    assert f"b.grad (3,), norm {float(b.grad.norm()):.6f}\n{b.grad}" in result.out
    torch.set_printoptions(profile="default")
    assert all(torch.equal(row, b.grad) for row in w.grad)
    assert "requires_grad=False" in result.out[: result.out.index("Forward, loss, backward")]


@pytest.mark.slow
def test_training_the_note_drives_its_loss_to_the_minimum(lamella: Lamella) -> None:
    assert lamella("train", "experiment=autograd", "trainer.max_epochs=60").status == 0
    [path] = Path("outputs/autograd").glob("*/metrics.jsonl")
    losses = [json.loads(line)["train/loss"] for line in path.read_text().splitlines()]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.05 < losses[0]


@pytest.mark.slow
def test_the_graph_goes_from_the_loss_to_the_leaves(lamella: Lamella) -> None:
    graph = inspected(lamella, "network=neural_network")["graph"]
    assert graph[0]["name"] == "NllLossBackward0"
    leaves = {node["name"]: tuple(node["shape"]) for node in graph if node["leaf"]}
    assert leaves == {name: tuple(value.shape) for name, value in NeuralNetwork().named_parameters()}
    assert all(inner > number for number, node in enumerate(graph) for inner in node["inputs"])
    outputs = [node["shape"] for node in graph if node["name"] == "ReluBackward0"]
    assert outputs == [[64, 10], [64, 512], [64, 512]]


def test_the_graph_is_drawn(lamella: Lamella) -> None:
    result = lamella("inspect", "experiment=autograd", "--graph", "graph.dot")
    assert result.status == 0, result.err
    assert "drawn in graph.dot" in result.out
    assert re.search(r"BinaryCrossEntropyWithLogitsBackward0 +\(\) +from 1", result.out)
    text = Path("graph.dot").read_text()
    assert "BinaryCrossEntropyWithLogitsBackward0" in text
    assert "(5, 3)" in text


@pytest.mark.slow
def test_pictures_of_the_graph_take_graphviz(lamella: Lamella, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        result = lamella("inspect", "experiment=autograd", "--graph", f"graph.{suffix}")
        assert result.status == 0, result.err
        assert Path(f"graph.{suffix}").read_bytes().startswith(start)
    monkeypatch.setenv("PATH", "")
    result = lamella("inspect", "experiment=autograd", "--graph", "other.svg")
    assert result.status == 2
    assert "error: --graph other.svg: a picture needs Graphviz's program `dot`, which is not installed" in result.err
    result = lamella("inspect", "experiment=autograd", "--graph", "graph.pdf")
    assert result.status == 2
    assert "error: --graph graph.pdf: it takes a file that ends in .svg, .png, .dot" in result.err
    assert lamella("inspect", "experiment=autograd", "--graph", "nowhere/graph.dot").status == 2


@pytest.mark.slow
def test_a_run_is_inspected_with_its_trained_weights(lamella: Lamella) -> None:
    lamella("train", "network=linear", "trainer.max_epochs=3", "optimizer.lr=0.1")
    [path] = (path.parent for path in Path("outputs").rglob("run.json"))
    for name in ("best", "last"):
        found = inspected(lamella, str(path), *(["--checkpoint", "last"] if name == "last" else []))
        state = torch.load(path / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
        assert found["parameters"][0]["first"] == state["network.1.weight"].flatten()[:6].tolist()
    (path / "checkpoints/best.ckpt").write_bytes(b"no checkpoint")
    result = lamella("inspect", str(path))
    assert result.status == 2
    assert f"error: {path}/checkpoints/best.ckpt: this is not a complete checkpoint" in result.err
    (path / "checkpoints/best.ckpt").unlink()
    assert "there is no such checkpoint" in lamella("inspect", str(path)).err
    assert "a run is inspected as it was recorded" in lamella("inspect", str(path), "seed=1").err
    assert "error: nowhere is not there; a run is a directory" in lamella("inspect", "nowhere").err


@pytest.mark.slow
def test_frozen_parameters_are_shown_and_stay(lamella: Lamella) -> None:
    freeze = "network.freeze=[linear_relu_stack.0.*]"
    result = lamella("inspect", "network=neural_network", freeze, "--gradients", "--parameters")
    assert result.status == 0, result.err
    assert "frozen: 401,920 parameters (linear_relu_stack.0.weight,\n  linear_relu_stack.0.bias)" in result.out
    assert "linear_relu_stack.0.weight.grad is None: frozen" in result.out
    assert "0  linear_relu_stack.0.weight | Size: torch.Size([512, 784]) | frozen" in result.out

    result = lamella("train", "network=neural_network", freeze, "trainer.max_epochs=1")
    assert result.status == 0, result.err
    [path] = (path.parent for path in Path("outputs").rglob("run.json"))
    checkpoint = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    torch.manual_seed(0)
    for name, value in NeuralNetwork().named_parameters():
        frozen = name.startswith("linear_relu_stack.0.")
        assert torch.equal(checkpoint["state_dict"][f"network.{name}"], value) == frozen
    assert len(checkpoint["optimizer_states"][0]["state"]) == 4


def test_a_network_that_does_not_fit_is_still_described(lamella: Lamella) -> None:
    result = lamella("inspect", "network.width=400000", "network.depth=3", "--gradients")
    assert result.status == 0, result.err
    assert "Linear(in_features=400000, out_features=400000, bias=True)" in result.out
    assert "160,000,000,000" in result.out
    assert "No batch is run through the network: weights and gradients take" in result.out


def test_parameters_and_work_outside_of_leaves_are_counted() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.shared = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.attention(x + self.token, x, x, need_weights=False)[0]
            output: torch.Tensor = self.shared(self.shared(x))
            return output.reshape(-1, 8).sum(1).view(len(x), -1)

    rows = plan_module(Attending, (5, 8)).trace
    assert sum(row.parameters for row in rows) == sum(value.numel() for value in Attending().parameters())
    projections, attending, twice = 5 * 8 * 8 * 4, 2 * 5 * 5 * 8, 2 * 5 * 8 * 8
    assert sum(row.multiply_adds for row in rows) == projections + attending + twice
    assert rows[-1].layer == "Attending, other"


def test_inspecting_changes_neither_modes_nor_random_numbers() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval(), nn.Dropout(0.5))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for run in (activations, layer_outputs):
        run(network, torch.rand(5, 4, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in network] == [True, False, True]
    assert torch.equal(torch.rand(2), expected)


def test_features_of_sequences_are_units() -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.bias[1] = -1e6
    item = activations(nn.Sequential(layer, nn.ReLU()), torch.rand(5, 7, 4))[-1]
    assert (item.dead >= 1, item.units) == (True, 3)


def test_kinks_are_left_out_of_the_check() -> None:
    # Black pixels and biases of 0: every ReLU gets exactly 0, and moving a bias goes over its kink.
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    nn.init.zeros_(network.get_parameter("0.bias"))
    schedule = Schedule(lambda optimizer, length: torch.optim.lr_scheduler.ConstantLR(optimizer))
    objective = Objective(nn.CrossEntropyLoss(), "classes")
    task = Task()
    plan = OptimizerPlan(Grouping(lambda groups: torch.optim.SGD(groups, 0.1)))
    task.attach(network, objective, {SINGLE: plan}, schedule)
    found = check_gradients(task, torch.zeros(8, 1, 8, 8), torch.arange(8))
    assert found.kinks >= 1
    assert found.passed
    assert found.entries >= 10
    assert found.error < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "network=mlp,cnn"], "inspect looks at one network; leave -m out, and give each key one value"),
        (["--checkpoint", "last"], "--checkpoint is that of a run; give its directory"),
        (["network=mlp", "data.batch_size=1", "--gradients"], "a step of training fails on this batch: Expected more"),
    ],
)
def test_what_cannot_be_inspected_is_refused(lamella: Lamella, arguments: list[str], message: str) -> None:
    result = lamella("inspect", *arguments)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")


def test_other_tasks_are_shown_in_their_own_terms(lamella: Lamella) -> None:
    found = inspected(lamella, "experiment=autograd")
    assert torch.tensor(found["batch"]["probabilities"]).allclose(torch.tensor(found["batch"]["output"]).sigmoid())
    text = lamella("inspect", "experiment=autograd").out
    assert "sigmoid, one label at a time" in text
    assert "targets (1, 3)" in text

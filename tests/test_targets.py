"""What a config builds by `_target_`, through the command line: every optimizer, scheduler and kind of network."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from conftest import Lamella, Project
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lamella.errors import RequestError
from lamella.runs.checkpoints import read_checkpoint
from lamella.signatures import check_call

CONF = Path(__file__).parents[1] / "conf"
SHORT = ("trainer.max_epochs=1", "+trainer.limit_train_batches=2", "device.threads=1")
OWN = """
from torch import nn


def decay(epoch: int, factor: float) -> float:
    return factor**epoch


class Wrong(nn.Module):
    def __init__(self, units: int = 28) -> None:
        super().__init__()
        self.layer = nn.Linear(units, 10 if units else absent)

    def forward(self, x):
        return self.helper(x.flatten(1))

    def helper(self, x):
        return self.layer(x)
"""


@pytest.fixture
def own(project: Project) -> None:
    """Write a module of the project's own, which its pyproject.toml allows."""
    project(mine=OWN)


def subclasses(module: object, base: type) -> list[str]:
    """Return the names of the classes of a module that a config can build as a `base`."""
    found = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    return sorted(name for name, value in found.items() if value is not base and not name.startswith("_"))


def options(group: str) -> dict[str, str]:
    """Return the options of a group, by the name of the class."""
    files = [path for path in (CONF / group).glob("*.yaml") if path.stem != "default"]
    targets = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in files}
    return {target.rpartition(".")[2]: option for option, target in targets.items()}


# Losses of more than an output and targets, or with parameters, and those that need several shapes.
OTHER_LOSSES = {
    "AdaptiveLogSoftmaxWithLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "GaussianNLLLoss",
    "LinearCrossEntropyLoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "NLLLoss2d",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
}


def test_what_torch_has_is_an_option() -> None:
    assert {"Muon", *options("optimizer")} == set(subclasses(torch.optim, Optimizer))
    functions = {"LambdaLR", "MultiplicativeLR"}  # which take a function of the project's own
    assert {*functions, *options("scheduler")} == {*subclasses(lr_scheduler, LRScheduler)}
    losses = {name for name in dir(nn) if name.endswith("Loss")}
    assert set(options("loss")) == losses - OTHER_LOSSES


@pytest.mark.slow(20)
@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml")))
def test_every_optimizer_trains(lamella: Lamella, option: str) -> None:
    result = lamella("train", f"optimizer={option}", "network=mlp", *SHORT, "data.batch_size=500")
    if option == "sparse_adam":
        assert "optimizer: SparseAdam fails on a training batch of 500 samples: SparseAdam does not sup" in result.err
    else:
        assert result.status == 0, result.err
        [run] = Path("outputs/default").iterdir()
        assert lamella("resume", str(run), "trainer.max_epochs=2").status == 0


@pytest.mark.slow(20)
@pytest.mark.parametrize("option", sorted(set(options("scheduler").values())))
def test_every_schedule_keeps_the_proportion_of_the_rates(lamella: Lamella, option: str) -> None:
    groups = "optimizer.groups=[{match: '2.*', lr: 1e-2}, {match: biases, weight_decay: 0}]"
    result = lamella(
        "train", f"scheduler={option}", groups, "optimizer.weight_decay=0.1", *SHORT, "trainer.max_epochs=7"
    )
    assert result.status == 0, result.err
    [lines] = Path("outputs/default").glob("*/metrics.jsonl")
    rates = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(rates) == 7
    assert all(line["lr/2"] == pytest.approx(10 * line["lr"]) for line in rates)
    assert option == "constant" or option == "plateau" or len({line["lr"] for line in rates}) > 1


@pytest.mark.slow(20)
@pytest.mark.parametrize("option", sorted(set(options("loss").values())))
def test_every_loss_trains_what_it_is_for(lamella: Lamella, option: str) -> None:
    numbers = ("data=diabetes", "monitor=val/loss", "network.layers=[{Linear: 1}]", "network=linear")
    ends = {"nll": "{LogSoftmax: 1}", "kl_div": "{LogSoftmax: 1}", "bce": "Sigmoid"}
    chosen: tuple[str, ...] = ()
    if option in ends:
        chosen = ("network=linear", f"network.layers=[Flatten, {{Linear: 10}}, {ends[option]}]")
    elif option in ("l1", "smooth_l1", "huber", "mse", "poisson_nll"):
        chosen = numbers
    result = lamella("train", f"loss={option}", *chosen, *SHORT)
    if option in ("soft_margin", "hinge_embedding"):
        assert "takes targets of 1 and -1, but the targets have other values" in result.err
    else:
        assert result.status == 0, result.err


@pytest.mark.parametrize("option", ["nll", "kl_div"])
def test_a_loss_of_logarithms_refuses_other_outputs(lamella: Lamella, option: str) -> None:
    result = lamella("train", f"loss={option}")
    assert result.status == 2
    assert "Loss takes logarithms of probabilities, and the network gives other numbers; end it with " in result.err


@pytest.mark.parametrize(
    ("override", "option"),
    [
        ("optimizer._target_=torch.optim.SGD", "optimizer=sgd"),
        ("scheduler._target_=torch.optim.lr_scheduler.ExponentialLR", "scheduler=exponential"),
        ("loss._target_=torch.nn.L1Loss", "loss=l1"),
    ],
)
def test_a_class_over_the_keys_of_another_option_names_its_option(lamella: Lamella, override: str, option: str) -> None:
    group = option.partition("=")[0]
    result = lamella("train", override)
    assert result.status == 2
    assert result.err.startswith(f"error: {group}._target_ is torch.")
    assert f"; write {option},\n" in result.err
    assert f"- override /{group}: " in result.err
    assert f"from the command line: {override}" in result.err


PARTS = (
    "[{_target_: torch.optim.lr_scheduler.LinearLR}, {_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: 0.5}]"
)
DECAY = "lr_lambda: {_target_: mine.decay, _partial_: true, factor: 0.5}"
ARGUMENTS = {
    "ChainedScheduler": f"schedulers: {PARTS}",
    "CosineAnnealingLR": "T_max: 3",
    "CosineAnnealingWarmRestarts": "T_0: 3",
    "CyclicLR": "base_lr: 0.1, max_lr: 0.2",
    "ExponentialLR": "gamma: 0.5",
    "LambdaLR": DECAY,
    "MultiStepLR": "milestones: [1, 2]",
    "MultiplicativeLR": DECAY,
    "OneCycleLR": "max_lr: 0.1, total_steps: 20",
    "ReduceLROnPlateau": "factor: 0.5",
    "SWALR": "swa_lr: 0.1",
    "SequentialLR": f"schedulers: {PARTS}, milestones: [1]",
    "StepLR": "step_size: 2",
}


@pytest.mark.slow(7)
@pytest.mark.usefixtures("own")
def test_every_scheduler_takes_a_step_or_is_refused(lamella: Lamella) -> None:
    Path("conf/scheduler").mkdir(parents=True)
    names = [*subclasses(lr_scheduler, LRScheduler), "SWALR"]
    refused = {}
    for name in names:
        home = "swa_utils" if name == "SWALR" else "lr_scheduler"
        target = f"_target_: torch.optim.{home}.{name}"
        Path(f"conf/scheduler/{name}.yaml").write_text(f"{{{target}, {ARGUMENTS.get(name, '')}}}")
        result = lamella("inspect", f"scheduler={name}", "optimizer=sgd")
        if result.status:
            refused[name] = result.err
    assert len(names) > 15
    assert refused == {}


@pytest.mark.slow
def test_the_schedulers_of_a_sequence_are_checked_and_followed(lamella: Lamella, tmp_path: Path) -> None:
    (tmp_path / "conf/scheduler").mkdir(parents=True)
    text = """
        _target_: torch.optim.lr_scheduler.SequentialLR
        milestones: [1]
        schedulers:
          - {_target_: torch.optim.lr_scheduler.ConstantLR, factor: 0.5}
          - {_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: 0.1}
    """
    (tmp_path / "conf/scheduler/two.yaml").write_text(text)
    (tmp_path / "conf/scheduler/wrong.yaml").write_text(text.replace("gamma", "gama"))
    assert lamella("train", "scheduler=two", "optimizer.lr=0.1", "name=two", *SHORT, "trainer.max_epochs=3").status == 0
    [lines] = tmp_path.glob("outputs/two/*/metrics.jsonl")
    rates = [json.loads(line)["lr"] for line in lines.read_text().splitlines()]
    assert rates == pytest.approx([0.05, 0.1, 0.01])
    assert "scheduler.schedulers.1.gama: ExponentialLR has no such argument" in lamella("train", "scheduler=wrong").err


@pytest.mark.slow
def test_a_class_of_ones_own_leaves_the_arguments_of_the_option_out(lamella: Lamella, project: Project) -> None:
    project(
        mine="""import torch

class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.1): super().__init__(params, lr)

class Squares(torch.nn.MSELoss):
    def __init__(self): super().__init__()
"""
    )
    own = "optimizer._target_=mine.Mine"
    assert lamella("train", own, "loss._target_=mine.Squares", *SHORT).status == 0
    [path] = Path("outputs/default").glob("*")
    assert lamella("eval", str(path)).status == 0
    result = lamella("train", own, "optimizer.betas=[0.8,0.9]")
    assert (result.status, "optimizer.betas: Mine has no such argument" in result.err) == (2, True)
    result = lamella("train", own, "+optimizer.lrr=1")
    assert (result.status, "optimizer.lrr: Mine has no such argument" in result.err) == (2, True)


def test_a_key_that_is_null_can_be_deleted(lamella: Lamella) -> None:
    assert lamella("inspect", "~loss.weight").status == 0
    assert "loss.weigt" in lamella("inspect", "~loss.weigt").err


@pytest.mark.slow
def test_an_experiment_chooses_the_sweeper_and_the_launcher(lamella: Lamella, tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/search.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/sweeper: optuna\n  - override /hydra/launcher: basic\n"
        "  - _self_\nhydra:\n  sweeper:\n    n_trials: 2\n"
    )
    result = lamella("train", "--cfg", "hydra", "experiment=search")
    assert "lamella_sweep.Optuna" in result.out
    assert "BasicLauncher" in result.out
    assert "n_trials: 2" in result.out
    assert "lamella_sweep.Grid" in lamella("train", "--cfg", "hydra").out
    assert "lamella_sweep.Grid" in lamella("train", "--cfg", "hydra", "experiment=search", "hydra/sweeper=grid").out


def test_outputs_can_be_a_link_to_another_place(lamella: Lamella, tmp_path: Path) -> None:
    result = lamella("train", "hydra.run.dir=elsewhere")
    assert result.status == 2
    assert "ln -s DIRECTORY outputs" in result.err
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").symlink_to("elsewhere")
    assert lamella("train", "name=linked", *SHORT).status == 0
    assert len(list(tmp_path.glob("elsewhere/linked/*/run.json"))) == 1


@pytest.mark.slow
def test_a_frozen_network_keeps_the_statistics_of_its_normalisation(lamella: Lamella) -> None:
    assert lamella("train", "network=cnn", "network.freeze=[features.*]", *SHORT).status == 0
    [path] = Path("outputs/default").glob("*/checkpoints/last.ckpt")
    state = read_checkpoint(path)["state_dict"]
    assert int(state["network.features.2.num_batches_tracked"]) == 0
    assert torch.equal(state["network.features.2.running_mean"], torch.zeros(32))


@pytest.mark.usefixtures("own")
def test_an_error_in_a_layer_of_ones_own_names_file_and_line(lamella: Lamella) -> None:
    result = lamella("inspect", "network.layers=[{_target_: mine.Wrong}]")
    assert result.status == 2
    assert result.err.startswith(
        "error: network.layers.0: Wrong cannot take (1, 28, 28): network.layers.0.layer: Linear has in_features=28, "
        "what comes in is (784,)\n"
        "  mine.py, line 15, in forward: return self.helper(x.flatten(1))\n"
        "  mine.py, line 18, in helper: return self.layer(x)\n"
    )
    result = lamella("inspect", "network.layers=[{_target_: mine.Wrong, units: 0}]")
    assert result.status == 2
    assert "mine.py, line 12, in __init__: self.layer = nn.Linear(units, 10 if units else absent)" in result.err


PHOTO = "{Conv2d: [3, 1]}, {Upsample: 96}"
NETWORKS = {
    "alexnet": ("num_classes: 10", None),
    "googlenet": ("num_classes: 10, init_weights: false", None),
    "quantization.resnet18": ("num_classes: 10", None),
    "regnet_y_400mf": ("num_classes: 10", None),
    "resnet18": ("num_clases: 10", "network.layers.2.num_clases: resnet18 has no such argument"),
    "resnet34": ("weights: NONE", "weights is 'NONE'; resnet34 takes IMAGENET1K_V1 or DEFAULT or null"),
    "resnet50": ("weights: DEFAULT, num_classes: 10", "leave num_classes out"),
    "segmentation.fcn_resnet50": ("num_classes: 10", "write network.layers.2.weights_backbone=null, or ="),
    "segmentation.lraspp_mobilenet_v3_large": ("weights_backbone: null", "it returns OrderedDict where a tensor …"),
    "optical_flow.raft_small": ("progress: false", "a network turns one tensor into one"),
}


@pytest.mark.slow
def test_networks_of_torchvision_are_built_or_refused_with_what_to_type(lamella: Lamella) -> None:
    for name, (arguments, message) in NETWORKS.items():
        layers = f"network.layers=[{PHOTO}, {{_target_: torchvision.models.{name}, {arguments}}}]"
        result = lamella("inspect", "data.batch_size=8", "device.threads=1", layers)
        if message is None:
            assert result.status == 0, result.err
        else:
            assert result.status == 2
            assert message.rstrip("…") in result.err
            assert result.err.count("\n") <= 3


def test_a_whole_network_can_replace_layers(lamella: Lamella) -> None:
    result = lamella("inspect", "+network._target_=torchvision.models.resnet18")
    assert result.status == 2
    assert "network: ResNet cannot take (1, 28, 28): network.conv1: Conv2d has in_channels=3" in result.err


@pytest.mark.slow
def test_a_network_that_needs_values_is_planned_for_a_sweep(lamella: Lamella) -> None:
    regnet = "network.layers=[{Conv2d: [3, 1]}, {_target_: torchvision.models.regnet_y_400mf, num_classes: 10}]"
    short = *SHORT, "+trainer.limit_test_batches=1", "data.batch_size=8"
    result = lamella("train", "-m", "hydra/launcher=basic", regnet, *short, "seed=0")
    assert result.status == 0, result.err


def test_a_list_is_no_name_of_weights() -> None:
    with pytest.raises(RequestError, match=r"network.weights is \[\]; resnet18 takes .*IMAGENET1K_V1"):
        check_call(torchvision.models.resnet18, {"weights": []}, place="network")

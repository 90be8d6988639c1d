"""`optimizer.groups` and `optimizer.layer_decay`: who gets which options, with which bits, and what is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import Lamella
from killed import kill_and_resume
from torch import nn

from lamella.network import plan
from lamella.network.parameters import parameter_kinds, parameter_layers
from lamella.runs.checkpoints import read_checkpoint
from lamella.training.parameter_groups import Grouping, GroupRule, keep_proportions

SHORT = ("device=cpu", "device.threads=1", "visuals=none", "data.batch_size=256", "trainer.max_epochs=2")
VIT = ("network=vit", "network.width=8", "network.depth=2", "network.heads=2")
GROUPS = "optimizer.groups=[{match: head.*, lr: 1e-2}, {match: [norms, biases, embeddings], weight_decay: 0}]"


def the_run(name: str = "default") -> Path:
    [path] = Path("outputs", name).iterdir()
    return path


def rates(run: Path) -> dict[str, float]:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: value for name, value in last.items() if name.partition("/")[0] == "lr"}


@pytest.fixture
def network() -> nn.Module:
    """A network of 2 embeddings, 3 matrices, 2 norms and 4 biases."""
    return plan(
        {
            "body": [{"Embedding": {"num_embeddings": 16, "embedding_dim": 4}}, "Positions", "LayerNorm", "Flatten"],
            "middle": [{"Linear": 6}, "BatchNorm1d", "ReLU", {"Linear": 5}],
            "head": [{"Linear": 3}],
        },
        (8,),
        dtype=torch.int64,
    ).build()


def made(network: nn.Module, *rules: GroupRule, layer_decay: float = 1.0) -> torch.optim.Optimizer:
    grouping = Grouping(lambda groups: torch.optim.AdamW(groups, 0.1, weight_decay=0.5), rules, layer_decay)
    return grouping.optimizer(network, [name for name, _ in network.named_parameters()], {})


def options(network: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {names[one]: group[key] for group in optimizer.param_groups for one in group["params"]}


def test_the_kinds_of_parameters(network: nn.Module) -> None:
    kinds = parameter_kinds(network)
    found = {kind: [name for name, own in kinds.items() if kind in own] for kind in ("norms", "biases", "matrices")}
    assert found["norms"] == ["body.2.weight", "body.2.bias", "middle.1.weight", "middle.1.bias"]
    assert found["matrices"] == ["middle.0.weight", "middle.3.weight", "head.0.weight"]
    assert [name for name, own in kinds.items() if "embeddings" in own] == ["body.0.weight", "body.1.weight"]
    assert found["biases"] == ["body.2.bias", "middle.0.bias", "middle.1.bias", "middle.3.bias", "head.0.bias"]
    images = parameter_kinds(plan([{"Conv2d": [2, 1]}, "LayerNorm", "Flatten", {"Linear": 2}], (1, 4, 4)).build())
    assert images["1.weight"] == {"norms"}  # (2, 4, 4)
    recurrent = parameter_kinds(nn.GRU(3, 4))
    assert [name for name, own in recurrent.items() if "biases" in own] == ["bias_ih_l0", "bias_hh_l0"]


def test_each_rule_changes_what_it_says_and_a_later_one_holds(network: nn.Module) -> None:
    rules = (
        GroupRule(("head.*",), {"lr": 0.3}),
        GroupRule(("norms", "biases"), {"weight_decay": 0.0}),
        GroupRule(("head.0.bias",), {"lr": 0.4}),
    )
    optimizer = made(network, *rules)
    lr, decay = (options(network, optimizer, key) for key in ("lr", "weight_decay"))
    assert set(lr) == {name for name, _ in network.named_parameters()}
    assert {name: rate for name, rate in lr.items() if rate != 0.1} == {"head.0.weight": 0.3, "head.0.bias": 0.4}
    without = {name for name, value in decay.items() if value == 0}
    assert without == {name for name, kinds in parameter_kinds(network).items() if kinds & {"norms", "biases"}}
    assert optimizer.param_groups[0]["lr"] == 0.1  # the rate that is logged as lr comes first


def test_layers_of_networks() -> None:
    def layers(network: nn.Module) -> list[str]:
        found = parameter_layers(network)
        assert list(found) == [name for name, _ in network.named_parameters()]
        return list(dict.fromkeys(found.values()))

    with torch.device("meta"):
        vit, resnet = torchvision.models.vit_b_16(), torchvision.models.resnet18()
        assert layers(nn.Sequential(nn.Sequential(resnet), nn.Sequential(nn.Linear(2, 2))))[-2:] == ["0.0.fc", "1.0"]
    blocks = [f"encoder.layers.encoder_layer_{number}" for number in range(12)]
    assert layers(vit) == ["conv_proj", *blocks, "heads.head"]
    found = parameter_layers(vit)
    assert found["class_token"] == found["encoder.pos_embedding"] == "conv_proj"
    assert found["encoder.ln.weight"] == blocks[-1]
    stages = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert layers(resnet) == ["conv1", *stages, "fc"]
    with torch.device("meta"):
        googlenet = torchvision.models.googlenet(aux_logits=False, init_weights=False)
    assert layers(googlenet)[3:5] == ["inception3a", "inception3b"]  # and not the branches side by side
    split = {"layers": [{"Linear": 4}], "shortcut": [{"Linear": 4}]}
    assert layers(plan([{"Linear": 3}, [{"Residual": split}, "ReLU"], {"Linear": 2}], (3,)).build()) == [
        "0",
        "1.0",
        "2",
    ]
    copies = {"Repeat": [2, [{"Linear": "in"}, "ReLU", {"Linear": "in"}]]}
    assert layers(plan([{"Linear": 4}, copies, {"Linear": 2}], (3,)).build()) == ["0", "1.0", "1.1", "2"]
    block = {"Residual": [{"Linear": "in"}, "ReLU", {"Linear": "in"}]}
    repeated = plan([{"Linear": 4}, {"Repeat": [3, [block, "ReLU"]]}, {"Linear": 2}], (3,)).build()
    assert layers(repeated) == ["0", "1.0", "1.1", "1.2", "2"]


def test_a_layer_has_a_part_of_the_rate_of_the_next_one(network: nn.Module) -> None:
    lr = options(network, made(network, GroupRule(("head.*",), {"lr": 0.2}), layer_decay=0.5), "lr")
    assert lr["head.0.weight"] == 0.2
    assert lr["middle.3.weight"] == lr["middle.3.bias"] == 0.05
    assert lr["middle.0.weight"] == lr["middle.1.weight"] == 0.025  # a norm belongs to the layer before it
    assert lr["body.0.weight"] == lr["body.1.weight"] == lr["body.2.bias"] == 0.0125


def test_two_optimizers_in_one_do_what_each_would_do(network: nn.Module) -> None:
    """Muon with AdamW, as two optimizers of torch, for steps on both sides of a saved and loaded state."""
    twin = plan([{"Linear": 6}, "ReLU", {"Linear": 3}], (4,)).build()
    own = plan([{"Linear": 6}, "ReLU", {"Linear": 3}], (4,)).build()
    own.load_state_dict(twin.state_dict())
    matrices = [value for value in twin.parameters() if value.dim() == 2]
    others = [value for value in twin.parameters() if value.dim() != 2]
    expected = [torch.optim.AdamW(others, 0.1, weight_decay=0.5), torch.optim.Muon(matrices, 0.2)]
    rule = GroupRule(("matrices",), {}, lambda groups: torch.optim.Muon(groups, 0.2))

    def steps(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        for seed in range(3):
            inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
            network(inputs).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    first = made(own, rule)
    steps(twin, expected)
    steps(own, [first])
    second = made(own, rule)
    second.load_state_dict(first.state_dict())
    for group in second.param_groups:  # a rate that a scheduler sets after the load reaches the step
        group["lr"] /= 2
    for optimizer in expected:
        optimizer.param_groups[0]["lr"] /= 2
    steps(twin, expected)
    steps(own, [second])
    for one, other in zip(own.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rates_follow_the_first_group(network: nn.Module) -> None:
    optimizer = made(network, GroupRule(("head.*",), {"lr": 0.02}))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.05)
    for _ in range(9):
        optimizer.step()
        scheduler.step()
        keep_proportions(optimizer)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 5)


@pytest.mark.slow
def test_the_rates_are_logged(lamella: Lamella) -> None:
    result = lamella("train", *VIT, "optimizer=adamw", GROUPS, "scheduler=one_cycle", *SHORT)
    assert result.status == 0, result.err
    found = rates(the_run())
    assert list(found) == ["lr", "lr/head"]
    assert found["lr/head"] == pytest.approx(10 * found["lr"])
    [saved] = read_checkpoint(the_run() / "checkpoints/last.ckpt")["optimizer_states"]
    pairs = sorted((group["weight_decay"], group["lr_scale"]) for group in saved["param_groups"])
    assert pairs == [(0, 1), (0, 10), (0.01, 1), (0.01, 10)]
    assert lamella("eval", str(the_run())).status == 0


@pytest.mark.slow
def test_one_cycle_rises_to_the_rate_of_each_group(lamella: Lamella) -> None:
    # Each parameter has a rule with a rate, so that no group has optimizer.lr itself.
    groups = "optimizer.groups=[{match: '*', lr: 0.01}, {match: '2.*', lr: 0.04}]"
    options = ("optimizer=sgd", "optimizer.lr=0.1", "scheduler=one_cycle", "scheduler.pct_start=0.5")
    assert lamella("train", *options, groups, *SHORT).status == 0
    lines = [json.loads(line) for line in (the_run() / "metrics.jsonl").read_text().splitlines()]
    assert max(line["lr"] for line in lines) == pytest.approx(0.1, rel=0.1)  # of no group, and the measure of all
    assert max(line["lr/all"] for line in lines) == pytest.approx(0.01, rel=0.1)
    assert max(line["lr/2"] for line in lines) == pytest.approx(0.04, rel=0.1)


EXACT = {
    "groups": ("optimizer=adamw", GROUPS, "scheduler=one_cycle"),
    "decay": ("optimizer=sgd", "optimizer.layer_decay=0.6", "scheduler=cosine", "scheduler.eta_min=1e-4"),
    "muon": ("optimizer=muon", "scheduler=cosine", "scheduler.warmup_steps=3", "network.freeze={patches.*: 1}"),
}


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", EXACT)
def test_a_run_is_exact_in_chunks_and_after_a_kill(lamella: Lamella, tmp_path: Path, name: str) -> None:
    options = (*VIT, *EXACT[name], *SHORT, "trainer.checkpoint_every=2steps")
    kill_and_resume(tmp_path / "whole", tmp_path / "killed", *options, shares=(0.4, 0.5))
    for chunk in (1, 3):
        assert lamella("train", *options, f"trainer.chunk={chunk}", f"name=chunk{chunk}").status == 0
    one, three = (read_checkpoint(the_run(f"chunk{chunk}") / "checkpoints/last.ckpt") for chunk in (1, 3))
    assert all(torch.equal(value, three["state_dict"][key]) for key, value in one["state_dict"].items())


@pytest.mark.parametrize("options", [["optimizer.layer_decay=0.5"], ["optimizer.groups=[{match: '*', lr: 1e-2}]"]])
def test_a_single_group_has_its_rate(lamella: Lamella, options: list[str]) -> None:
    result = lamella("train", "network=linear", *options, "scheduler=one_cycle", *SHORT)
    assert result.status == 0, result.err
    found = rates(the_run())
    [rate, own] = found.values()
    assert own == pytest.approx(rate * (1 if "decay" in options[0] else 10))


@pytest.mark.slow
def test_options_for_what_another_optimizer_trains(lamella: Lamella) -> None:
    groups = "[{match: matrices, _target_: torch.optim.Muon, lr: 1e-3}, {match: '2.weight', momentum: 0.5}]"
    assert lamella("train", f"optimizer.groups={groups}", *SHORT).status == 0
    [saved] = read_checkpoint(the_run() / "checkpoints/last.ckpt")["optimizer_states"]
    assert sorted(group["momentum"] for group in saved["param_groups"] if "momentum" in group) == [0.5, 0.95]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["lbfgs", "adam"])
def test_only_sgd_has_groups_by_thaw(lamella: Lamella, option: str) -> None:
    """A run with Adam that was begun before there were groups goes on, and LBFGS takes one group."""
    result = lamella("train", f"optimizer={option}", "network.freeze={1.0.*: 1}", *SHORT, "data.batch_size=1294")
    assert result.status == 0, result.err
    [saved] = read_checkpoint(the_run() / "checkpoints/last.ckpt")["optimizer_states"]
    assert len(saved["param_groups"]) == 1


@pytest.mark.slow
def test_groups_in_a_sweep_and_of_a_frozen_network(lamella: Lamella) -> None:
    result = lamella("train", "-m", "optimizer=muon", "optimizer.groups.0.momentum=0.9,0.95", *SHORT)
    assert result.status == 0, result.err
    result = lamella("train", *VIT, "network.freeze=[norms, patches.*]", "optimizer.layer_decay=0.5", *SHORT, "name=f")
    assert result.status == 0, result.err
    assert rates(the_run("f")).keys() == {"lr", "lr/head.2", "lr/blocks.0.0", "lr/blocks.0.1"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_groups_of_a_network_that_is_divided_are_refused(lamella: Lamella) -> None:
    result = lamella("train", "trainer=fsdp", "optimizer.layer_decay=0.5", "device=cuda", *SHORT[1:])
    assert result.status == 2
    assert "error: optimizer: its groups go by the names and shapes of parameters, and trainer.strategy" in result.err


MISTAKES = {
    "optimizer.groups=norms": ["optimizer.groups is 'norms'; it takes a list, as [{match: norms, weight_decay: 0}]"],
    "optimizer.groups=[norms]": ["optimizer.groups.0 is 'norms'; it takes options with a `match`, as in [{match: no"],
    "optimizer.groups=[{lr: 1}]": ["optimizer.groups.0 has no `match`; it takes a pattern", "or norms, biases, emb"],
    "optimizer.groups=[{match: 3, lr: 1}]": ["optimizer.groups.0.match is 3; it takes a pattern"],
    "optimizer.groups=[{match: norms}]": ["optimizer.groups.0 gives norms no options; write some, as in [{match: nor"],
    "optimizer.groups=[{match: nroms, lr: 1}]": ["groups.0.match: no parameter", "'nroms'; did you mean norms?"],
    "optimizer.groups=[{match: embeddings, lr: 1}]": ["groups.0.match: the network has no embeddings that are trained"],
    "optimizer.groups=[{match: norms, lrr: 1}]": ["optimizer.groups.0.lrr: Adam has no such argument; did you mean lr"],
    "optimizer.groups=[{match: norms, lr: fast}]": ["optimizer.groups.0.lr is 'fast'; Adam takes float"],
    "optimizer.groups=[{match: norms, lr: -1}]": ["optimizer.groups.0.lr: Invalid learning rate: -1"],
    "optimizer.groups=[{match: norms, _target_: os.system}]": ["optimizer.groups.0._target_ is 'os.system'; a config"],
    "optimizer.groups=[{match: '*', _target_: torch.optim.Muon}]": [
        "optimizer.groups.0: Muon only supports 2D parameters"
    ],
    "optimizer.lr=0 optimizer.groups=[{match: norms, lr: 1}]": ["optimizer.lr is 0, and a group has 1: a schedule"],
    "optimizer.groups=[{match: norms, lr: 0}]": ["optimizer.groups.0.lr is 0: a schedule keeps the proportion of the"],
    "optimizer.groups=[{match: norms, _target_: torch.optim.LBFGS}]": ["optimizer.groups.0: LBFGS calls the network"],
    "optimizer.groups={match: norms, lr: 1}": ["optimizer.groups is {'match': 'norms', 'lr': 1}; it takes a list, as"],
    "optimizer=muon +optimizer.betas=[0.8,0.9] optimizer.groups=[{match: matrices, _target_: torch.optim.Muon}, "
    "{match: 2.*, betas: [0.7,0.8]}]": [
        "optimizer.groups.1.betas: some of these parameters are trained by Muon, which"
    ],
    "optimizer.layer_decay=1.5": ["optimizer.layer_decay is 1.5; it takes a factor between 0 and 1, as 0.75"],
    "optimizer.layer_decay=true": ["optimizer.layer_decay is True; it takes a factor between 0 and 1"],
    "optimizer=lbfgs optimizer.layer_decay=0.5": ["optimizer: LBFGS doesn't support per-parameter options"],
    "network.freeze=[embeddings]": ["network.freeze: no parameter is called like 'embeddings'"],
    "scheduler=sequential scheduler.milestones=[7]": ["scheduler.milestones is [7], and the run has 2 epochs, so that"],
    "scheduler=sequential scheduler.schedulers=[3]": [
        "scheduler.schedulers is [3]; it takes a list of nodes with a `_"
    ],
}


@pytest.mark.parametrize("option", MISTAKES)
def test_mistakes(lamella: Lamella, option: str) -> None:
    result = lamella("train", *SHORT, *re.split(r" (?=\S+=)", option))
    result.check_refusal(*MISTAKES[option])


def test_an_error_names_the_rate_of_the_key(lamella: Lamella) -> None:
    """Each parameter has a rate of its own, and the message is about optimizer.lr."""
    groups = "optimizer.groups=[{match: '*', lr: 1e30}]"
    result = lamella("train", "optimizer=sgd", "optimizer.lr=0.5", groups, *SHORT)
    assert result.status == 1
    assert "with learning rate 0.5; try a smaller optimizer.lr" in result.err

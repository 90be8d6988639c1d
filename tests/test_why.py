"""`lamella why`: where each value comes from, and what it is held against: the config that Hydra composes."""

import re
from functools import cache, partial
from pathlib import Path

import hydra
import pytest
from conftest import Lamella, Project
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lamella.config.files import SHIPPED
from lamella.config.origins import Origins, composed_files
from lamella.config.value_text import parse_value

CONF = {
    "network/mine.yaml": (
        "name: Mine\nwidth: 16\ndouble: ${mul:${network.width},2}\nlayers:\n"
        "  - Flatten\n  - Linear: ${network.double}\n  - Linear: ${data.num_classes}\n"
    ),
    "optimizer/adam.yaml": "_target_: torch.optim.Adam\nlr: 2e-3\n",
    "experiment/tuned.yaml": (
        "# @package _global_\ndefaults:\n  - override /network: mine\n  - override /optimizer: adamw\n  - _self_\n"
        "name: tuned\noptimizer:\n  lr: 3e-3\n  betas: [0.8, 0.9]\n"
    ),
    "experiment/again.yaml": (
        "# @package _global_\ndefaults:\n  - tuned\n  - override /optimizer: radam\n  - _self_\nname: again\n"
    ),
}
# What is asked: what is printed, with S for the folder of Lamella's own configs, and # for a line in it.
REPORTS = {
    "optimizer.lr experiment=tuned optimizer.lr=0.3": """
optimizer.lr is 0.3
  0.3   from the command line: optimizer.lr=0.3
  3e-3  from conf/experiment/tuned.yaml:8
  1e-3  from S/optimizer/adamw.yaml:#
experiment=tuned
  tuned  from the command line: experiment=tuned
  null   from S/config.yaml:#
optimizer=adamw
  adamw  from conf/experiment/tuned.yaml:4
  adam   from S/config.yaml:#
""",
    "network.layers[1].Linear network=mine network.width=8 ++network.width=9": """
network.layers.1.Linear is 18
  ${network.double}  from conf/network/mine.yaml:6
network.layers.1.Linear reads network.double, which is 18
  ${mul:${network.width},2}  from conf/network/mine.yaml:3
network.double reads network.width, which is 9
  9   from the command line: ++network.width=9
  8   from the command line: network.width=8
  16  from conf/network/mine.yaml:2
network=mine
  mine  from the command line: network=mine
  mlp   from S/config.yaml:#
""",
    "optimizer.betas.0 experiment=tuned optimizer={betas:[0.7,0.9]}": """
optimizer.betas.0 is 0.7
  0.7  from the command line: optimizer={betas:[0.7,0.9]}
  0.8  from conf/experiment/tuned.yaml:9
  0.9  from S/optimizer/adamw.yaml:#
experiment=tuned
  tuned  from the command line: experiment=tuned
  null   from S/config.yaml:#
optimizer=adamw
  adamw  from conf/experiment/tuned.yaml:4
  adam   from S/config.yaml:#
""",
    "trainer.profile ~trainer.profile": """
trainer.profile is deleted
  deleted  from the command line: ~trainer.profile
  false    from S/trainer/default.yaml:#
trainer=default
  default  from S/config.yaml:#
""",
    "optimizer experiment=again +optimizer.foreach=true": """
optimizer
  optimizer.groups        null               from S/config.yaml:#
  optimizer.layer_decay   null               from S/config.yaml:#
  optimizer._target_      torch.optim.RAdam  from S/optimizer/radam.yaml:#
  optimizer.lr            0.003              from conf/experiment/tuned.yaml:8
  optimizer.betas         [0.8, 0.9]         from conf/experiment/tuned.yaml:9
  optimizer.weight_decay  0                  from S/optimizer/radam.yaml:#
  optimizer.foreach       true               from the command line: +optimizer.foreach=true
optimizer=radam
  radam  from conf/experiment/again.yaml:4
  adamw  from conf/experiment/tuned.yaml:4
  adam   from S/config.yaml:#
experiment=again
  again  from the command line: experiment=again
  null   from S/config.yaml:#
""",
    "hydra/launcher hydra/launcher=fused": """
hydra/launcher=fused
  fused  from the command line: hydra/launcher=fused
  local  from S/sweep.yaml:#
""",
    "network.layers network=mine network.layers.0=ReLU data.num_classes=10": """
network.layers is [ReLU, {Linear: 32}, {Linear: 10}]
  ReLU                                                          from the command line: network.layers.0=ReLU
  [Flatten, {Linear: $…ouble}}, {Linear: ${data.num_classes}}]  from conf/network/mine.yaml:4
network.layers reads network.double, which is 32
  ${mul:${network.width},2}  from conf/network/mine.yaml:3
network.layers reads data.num_classes, which is 10
  10  from the command line: data.num_classes=10
  10  from S/data/digits.yaml:#
network.double reads network.width, which is 16
  16  from conf/network/mine.yaml:2
network=mine
  mine  from the command line: network=mine
  mlp   from S/config.yaml:#
data=digits
  digits  from S/config.yaml:#
""",
    "": """
key           value  Lamella's default  from
optimizer.lr  0.002  1e-3               conf/optimizer/adam.yaml:2
""",
    "experiment=tuned seed=3 trainer.max_epochs=10 ~trainer.profile data.shape.0=3": """
key              value            Lamella's default  from
network          mine             mlp                conf/experiment/tuned.yaml:3
optimizer        adamw            adam               conf/experiment/tuned.yaml:4
experiment       tuned            null               the command line: experiment=tuned
name             tuned            default            conf/experiment/tuned.yaml:6
seed             3                0                  the command line: seed=3
network.name     Mine             -                  conf/network/mine.yaml:1
network.width    16               -                  conf/network/mine.yaml:2
network.double   32               -                  conf/network/mine.yaml:3
network.layers   [Flatten, {Linear: 32}, {Linear: 10}]  -                  conf/network/mine.yaml:4
optimizer.lr     0.003            1e-3               conf/experiment/tuned.yaml:8
optimizer.betas  [0.8, 0.9]       [0.9, 0.999]       conf/experiment/tuned.yaml:9
data.shape       [3, 28, 28]      [1, 28, 28]        S/data/digits.yaml:# and the command line: data.shape.0=3
trainer.profile  deleted          false              the command line: ~trainer.profile
""",
}


@pytest.mark.slow(2)
@pytest.mark.parametrize("asked", REPORTS)
def test_reports(lamella: Lamella, project: Project, asked: str) -> None:
    project(CONF)
    result = lamella("why", *asked.split())
    assert result.status == 0, result.err
    printed = re.sub(rf"{SHIPPED}([\w/]+\.yaml):\d+", r"S\1:#", result.out).splitlines()
    shown = REPORTS[asked].strip().splitlines()
    if not asked or "=" in asked.split()[0]:  # the path of the configs decides how wide a column is
        printed, shown = ([re.sub(r"  +", "  ", line) for line in lines] for lines in (printed, shown))
    assert printed == shown


def test_nothing_differs(lamella: Lamella) -> None:
    assert lamella("why").out == "every key is at Lamella's default\n"


OPTIONS = {group: st.sampled_from(["", *names]) for group, names in {
    "network": ["cnn", "resnet18", "gpt"], "optimizer": ["sgd", "muon"], "scheduler": ["one_cycle", "sequential"],
    "experiment": ["mnist_cnn", "char_gpt", "[finetune,unet_shapes]"], "metrics": ["f1", "[auroc,top5]"],
}.items()}  # fmt: skip
GIVEN = (
    "seed=4", "data.shape=[3,8,8]", "trainer={max_epochs: 3}", "++optimizer.lr=2e-3", "~name", "+data.x={y:[1]}",
    "network={weights: null}", "data.augment=[{crop: 2},flip]", "device.threads=null", "trainer.callbacks=[x]",
)  # fmt: skip


@pytest.mark.slow(10)
@given(options=st.fixed_dictionaries(OPTIONS), settings_given=st.lists(st.sampled_from(GIVEN), unique=True))
@settings(max_examples=10, deadline=None)
def test_the_last_word_is_what_hydra_composes(options: dict[str, str], settings_given: list[str]) -> None:
    overrides = [f"{group}={name}" for group, name in options.items() if name] + settings_given
    with hydra.initialize_config_dir(str(SHIPPED), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config", overrides))
        loader = GlobalHydra.instance().config_loader()
        origins = Origins(overrides, cache(partial(composed_files, loader, overrides)))
        for key, value in leaves(config, ""):
            last = origins.of_value(key)[0]
            assert same(last.value, value), (key, last, value)
            if last.file:
                line = last.file.path.read_text().splitlines()[int(last.place.rpartition(":")[2]) - 1]
                assert key.rpartition(".")[2] in line or {"-", "[", "{"} & set(line), (key, line)


def leaves(node: object, key: str) -> list[tuple[str, object]]:
    """The keys and values that are no mapping, also those within lists."""
    if isinstance(node, dict) and node:
        return [leaf for name, inner in node.items() for leaf in leaves(inner, f"{key}.{name}".lstrip("."))]
    within = (
        [leaf for number, inner in enumerate(node) for leaf in leaves(inner, f"{key}.{number}")]
        if isinstance(node, list)
        else []
    )
    return [(key, node), *within]


def same(written: object, value: object) -> bool:
    if isinstance(written, list | dict) and type(written) is type(value):
        pairs = zip(*(node.values() if isinstance(node, dict) else node for node in (written, value)), strict=True)
        return all(same(one, other) for one, other in pairs)
    return written == value or (isinstance(written, str) and parse_value(written) == value)


def test_of_a_run(lamella: Lamella, run: Path) -> None:
    """The record says what the command line set; of all else it does not say which file did."""
    (run.parent / "conf").mkdir()  # is not composed
    printed = lamella("why", "trainer.max_epochs", str(run)).out.splitlines()
    config = (run / "config.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(config, 1) if "max_epochs: 2" in text)
    assert printed == [
        f"trainer.max_epochs is 2 in {run}/config.yaml:{line}",
        "  2  from the command line: trainer.max_epochs=2",
        "trainer=default",
        "  not set by an override; the record does not say which file sets it",
    ]
    printed = lamella("why", "data.seed", str(run)).out.splitlines()
    assert re.fullmatch(rf"data\.seed reads seed, which is 0 in {run}/config.yaml:\d+", printed[2])
    assert "  trainer.max_epochs  " in lamella("why", "trainer", str(run)).out
    refused = lamella("why", "trainer.max_epoch", str(run))
    assert (refused.status, refused.err) == (
        2, "error: trainer.max_epoch: there is no such key; did you mean trainer.max_epochs?\n"
    )  # fmt: skip
    assert lamella("why", str(run)).err == f"error: {run}: the key comes before the run; write lamella why KEY {run}\n"


MISTAKES = {
    "optimizer.lrr": ["optimizer.lrr: there is no such key; did you mean optimizer.lr?"],
    "lr": ["lr: there is no such key; did you mean optimizer.lr?"],
    "epochs": ["epochs: there is no such key; did you mean trainer.max_epochs?"],
    "nonsense": ["nonsense: there is no such key; `lamella train --cfg job` prints all keys"],
    "seed outputs/nowhere": ["outputs/nowhere is not there; a run is a directory that `lamella train` has made"],
    "seed name data": ["why takes one key, and after it overrides or one run directory"],
    "seed outputs/x seed=3": ["why takes one key, and after it overrides or one run directory"],
    "optimizer.lr optimizer": ["one run directory; got optimizer.lr and optimizer"],
    "-m seed=1,2": ["why looks at one config; leave -m out"],
    "seed seed=1,2": ["seed=1,2: several values are a sweep"],
    "seed --srot": ["--srot: "],
    "optimizer.lr experiment=wrong": ["optimizer.lr is 'abc'", "from conf/experiment/wrong.yaml:3\n"],
}


@pytest.mark.slow(1)
@pytest.mark.parametrize("asked", MISTAKES)
def test_mistakes(lamella: Lamella, project: Project, asked: str) -> None:
    project({"experiment/wrong.yaml": "# @package _global_\noptimizer:\n  lr: abc\n"})
    lamella("why", *asked.split()).check_refusal(*MISTAKES[asked])


def test_two_words_in_quotes(lamella: Lamella) -> None:
    asked = "optimizer.lr experiment=mnist_cnn"
    lamella("why", asked).check_refusal(f"{asked}: these are 2 words; leave out the quotes around them")
    lamella("why", "optimizer.lr = 3").check_refusal("no space around the equals sign; write optimizer.lr=3")


@pytest.mark.slow
def test_errors_name_the_line(lamella: Lamella, project: Project) -> None:
    """Also where a file merges mappings, or repeats one by an alias."""
    project(
        {
            "data/merged.yaml": (
                "defaults: [digits, _self_]\nx: &x\n  dataset: none\nsource:\n  <<: *x\n  _target_: os.system\n"
            ),
            "network/repeated.yaml": "layers:\n  - &a {Linear: [1, 2, 3,\n      4, 5, 6]}\n  - *a\n",
        }
    )
    lamella("train", "data=merged").check_refusal("error: data.source", "\n  from conf/data/merged.yaml:6\n")
    lamella("train", "network=repeated").check_refusal("error: network.layers.0", "from conf/network/repeated.yaml:2\n")

"""Mistakes of a first day: each is refused with exit status 2, nothing is written, and a line says what to type."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Lamella

GLOBAL = "# @package _global_\n"
READING = '"${{data.{}}}"'
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in ("ab", "bc", "cd", "de", "ef", "fg")
)
FILES: dict[str, str | bytes] = {
    "conf/experiment/one.yaml": f"{GLOBAL}name: one\n",
    "conf/experiment/fast.yaml": f"{GLOBAL}optimizer:\n  lr: abc\n",
    "conf/experiment/nested.yaml": f"{GLOBAL}defaults:\n  - fast\n  - _self_\nname: nested\n",
    "conf/experiment/overrides.yaml": (
        f"{GLOBAL}defaults:\n  - override /optimizer: sgd\n  - _self_\noptimizer:\n  momentum: x\n"
    ),
    "conf/experiment/again.yaml": f"{GLOBAL}defaults:\n  - /optimizer: sgd\n",
    "conf/experiment/width.yaml": f"{GLOBAL}trainer:\n  max_epochs: ten\n",
    "conf/experiment/plain.yaml": "hello\n",
    "conf/experiment/items.yaml": "- name: x\n",
    "conf/experiment/header.yaml": "# @package _global_ please\nname: x\n",
    "conf/experiment/bom.yaml": b"\xef\xbb\xbf# @package _global_\noptimizer:\n  lr: abc\n",
    "conf/experiment/colon.yaml": f"{GLOBAL}name:x\nseed: 1\n",
    "conf/experiment/quote.yaml": f'{GLOBAL}name: "x\n',
    "conf/experiment/bracket.yaml": f"{GLOBAL}data:\n  shape: [1, 28, 28\n",
    "conf/experiment/twice.yaml": f"{GLOBAL}name: a\nname: b\n",
    "conf/experiment/indent.yaml": f"{GLOBAL}optimizer:\n  lr: 0.1\n   betas: [0.9, 0.9]\n",
    "conf/experiment/nbsp.yaml": f"{GLOBAL}optimizer:\n\u00a0\u00a0lr: 0.1\n\u00a0 - x\n",
    "conf/experiment/loops.yaml": f"{GLOBAL}name: &a [*a]\n",
    "conf/experiment/lists.yaml": GLOBAL
    + "data:\n  classes: [a]\n"
    + "".join(
        f"  {after}: [{', '.join([READING.format(before)] * 10)}]\n"
        for before, after in (("classes", "b"), *zip("bcdefgh", "cdefghi", strict=True))
    ),
    "conf/experiment/texts.yaml": GLOBAL
    + "data:\n  a: x\n"
    + "".join(f"  a{'b' * number}b: ${{.a{'b' * number}}}${{.a{'b' * number}}}\n" for number in range(40)),
    "conf/network/mine.yml": "name: M\nlayers: [Flatten, {Linear: 10}]\n",
    "conf/networks/other.yaml": "name: M\nlayers: [Flatten, {Linear: 10}]\n",
    "conf/network/tab.yaml": "name: X\nlayers:\n\t- ReLU\n",
    "conf/network/laughs.yaml": f"{LAUGHS}layers: *g\n",
    "conf/optimizer/odd.yaml": "_target_: torch.optim.SGD\nlr: 0.1\nmomentun: 0.9\n",
    "conf/scheduler/odd.yaml": "_target_: torch.optim.lr_scheduler.StepLR\nstep_size: often\n",
    "notes.txt": "nothing\n",
}

# The arguments of a command: what the error says, in this order.
TRAIN = {
    # dashes
    "--lr 0.1": ["--lr: an override has no dashes; write optimizer.lr=0.1"],
    "--lr=0.1": ["write optimizer.lr=0.1"],
    "-lr=0.1": ["write optimizer.lr=0.1"],
    "--batch-size 32": ["write data.batch_size=32"],
    "--batch_size=32": ["write data.batch_size=32"],
    "--seed 1": ["write seed=1"],
    "--network cnn": ["write network=cnn"],
    "--experiment=one": ["write experiment=one"],
    "--experiment one": ["write experiment=one"],
    "--max_epochs 3": ["write trainer.max_epochs=3"],
    "--epochs 3": ["did you mean trainer.max_epochs?"],
    "--gpus 2": ["write trainer.devices=NUMBER, and device=cuda"],
    "--resume outputs/x": ["lamella resume RUN"],
    "--trainer.max_epochs=3": ["write trainer.max_epochs=3"],
    "--config-name=foo": ["chosen with experiment=NAME"],
    "--config-name foo": ["chosen with experiment=NAME"],
    "-cn foo": ["chosen with experiment=NAME"],
    "--config-path=foo": ["another folder is --config-dir DIR"],
    "-sc install=bash": ["`lamella completion bash` prints what lets bash complete"],
    "--hydra-help": ["`lamella train --help` lists the groups"],
    "--experimental-rerun x.pickle": ["`lamella reproduce RUN` trains a recorded run again"],
    "--foo": ["there is no such option; `lamella train --help` lists them"],
    "-x": ["there is no such option"],
    "--cfg": ["this option takes a value"],
    "—m seed=1,2": ["this begins with a dash of the wrong kind; write -m"],
    "––cfg job": ["this begins with a dash of the wrong kind; write --"],
    # no equals sign
    "mlp": ["write network=mlp"],
    "sgd": ["write optimizer=sgd"],
    "one": ["write experiment=one"],
    "experiment": ["write experiment=OPTION; known: again, autoencoder"],
    "network": ["write network=OPTION; known: affine, autoencoder"],
    "conf/experiment/one.yaml": ["write experiment=one"],
    "experiment/one.yaml": ["write experiment=one"],
    "one.yaml": ["write experiment=one"],
    "conf/network/mine.yml": ["write network=mine"],
    "optimizer.lr": ["an override is KEY=VALUE, without spaces; write optimizer.lr=VALUE"],
    "optimizer.lr = 0.1": ["an override is KEY=VALUE, without spaces; write optimizer.lr=VALUE"],
    "optimizer.lr:0.1": ["write optimizer.lr=0.1"],
    "lr": ["did you mean optimizer.lr=…?"],
    "cpu": ["write device=cpu"],
    "resnet1": ["did you mean network=resnet"],
    "notes.txt": ["an override is KEY=VALUE"],
    # values that need quotes
    "name=über": ["'ü' at character 6", "put quotes around the value: 'name=\"über\"'"],
    "name=a=b": ["'=' at character 7", "'name=\"a=b\"'"],
    "data.root=~/pics": ["'~' at character 11", "'data.root=\"~/pics\"'"],
    "data.root=/data/a#1": ["'#' at character 18", "'data.root=\"/data/a#1\"'"],
    "name=a;b": ["';' at character 7", "'name=\"a;b\"'"],
    "name=a&b": ["'&' at character 7", "'name=\"a&b\"'"],
    "name=what!": ["'!' at character 10", "'name=\"what!\"'"],
    "name=(x)": ["'name=\"(x)\"'"],
    "name=<x>": ["'<' at character 6", "'name=\"<x>\"'"],
    "name=it's": ["'name=\"it'\"'\"'s\"'"],
    'network.freeze={"layer*":1,conv1.*:null}': [
        "is not part of a plain value; leave the quotes around the key out: 'network.freeze={layer*:1,conv1.*:null}'\n"
    ],
    "network.layers=[{a;b:1}]": [
        "';' at character 19",
        "put quotes around the text that it is in, within the brackets",
    ],
    "name='abc": ["put quotes around the value"],
    "name=a]": ["'name=\"a]\"'"],
    "optimizer.lr==0.1": ["there is one equals sign; write optimizer.lr=0.1"],
    "network.width=[1": ["a bracket is not closed"],
    "data.shape=[1, 28, 28]": ["a bracket is not closed; where spaces are meant, put quotes around all of it"],
    "network.layers=[Flatten,{Linear: 10}]": ["a bracket is not closed"],
    "optimizer.lr=0.1, 0.2": ["there is no space between several values; write optimizer.lr=0.1,"],
    "ü=1": ["'ü' at character 1 cannot be in a key"],
    "optimizer..lr=1": ["'.' at character 10 cannot be in a key"],
    "optimizer[lr]=1": ["'[' at character 10 cannot be in a key"],
    # functions and sweeps
    "-m seed=rnage(0,3)": ["there is no function 'rnage'; did you mean range?"],
    "-m seed=rand(3)": ["there is no function 'rand'; known: bool, choice"],
    "-m trainer.gradient_clip_val=choice(null,0.5)": ["write trainer.gradient_clip_val=null,0.5"],
    "-m seed=choice()": ["empty choice is not legal"],
    "-m seed=range(a,b)": ["range does not take text"],
    "-m optimizer.lr=interval(0.1)": ["missing a required argument: 'end'"],
    "optimizer.lr=0.1,0.2": ["several values are a sweep, which takes `lamella train -m`", "optimizer.lr=[0.1,0.2]"],
    "seed=range(0,3)": ["several values are a sweep, which takes `lamella train -m`"],
    "sweep.name=x": ["this is for a sweep, which takes -m"],
    "-m hydra/launcher=local,fused seed=1,2": ["Sweeping over Hydra's configuration is not supported"],
    # groups
    "network=[mlp,cnn]": ["write network=mlp, and several are a sweep: lamella train -m network=mlp,cnn"],
    "optimizer=[1]": ["a group takes one option; write optimizer=OPTION"],
    "optimizer=[{lr:0.1}]": ["a group takes one option; write optimizer=OPTION"],
    "experiment=[{a:1}]": ["a group takes one option; write experiment=OPTION"],
    "+experiment=one": ["write experiment=one"],
    "+network=cnn": ["write network=cnn"],
    "++network=cnn": ["write network=cnn"],
    "~network": ["a run needs every group; write network=OPTION"],
    "network=null": ["a run needs every group; write network=OPTION"],
    "network=": ["a run needs every group; write network=OPTION"],
    "network=Cnn": ["did you mean cnn?"],
    "network=mine": ["conf/network/mine.yml: the name of a config file ends in .yaml; rename it"],
    "network=mine.yml": ["conf/network/mine.yml: the name of a config file ends in .yaml; rename it"],
    "network=other": ["the folder conf/networks has another name than the group; rename it to conf/network"],
    "networks=other": ["networks: there is no such group; did you mean network?"],
    "experiment=nothing": ["experiment=nothing: there is no such option"],
    "Network=cnn": ["Network: there is no such key; did you mean network?"],
    "model=cnn": ["model: there is no such key; write network=OPTION"],
    "dataset=mnist": ["dataset: there is no such key; did you mean data?"],
    "logger=csv": ["+trainer.logger=[{_target_: …}]"],
    "+logger=csv": ["+trainer.logger=[{_target_: …}]", "the command line: +logger=csv"],
    "ckpt_path=last.ckpt": ["`lamella resume RUN` goes on with a run"],
    "+ckpt_path=last.ckpt": ["`lamella resume RUN` goes on with a run", "the command line: +ckpt_path=last.ckpt"],
    "callbacks=early": ["did you mean trainer.callbacks?"],
    "epochs=3": ["did you mean trainer.max_epochs?"],
    "lr=0.1": ["did you mean optimizer.lr?"],
    "learning_rate=0.1": ["did you mean optimizer.lr?"],
    "batch_size=3": ["did you mean data.batch_size?"],
    # keys and values that need no torch
    "optimizer.lr=abc": ["optimizer.lr is 'abc'; Adam takes float", "the command line: optimizer.lr=abc"],
    "optimizer.lr=true": ["optimizer.lr is True; Adam takes float"],
    "optimizer.betas=3": ["optimizer.betas is 3; Adam takes a list"],
    "optimizer={lr:abc}": ["optimizer.lr is 'abc'", "the command line: optimizer={lr:abc}"],
    "+optimizer.lrr=1": ["optimizer.lrr: Adam has no such argument; did you mean lr", "+optimizer.lrr=1"],
    "+optimizer.lr=1": ["optimizer.lr: this key is there already; write optimizer.lr=… without a plus"],
    "optimizer=odd": ["optimizer.momentun: SGD has no such argument; did you mean momentum", "conf/optimizer/odd.yaml"],
    "scheduler=odd": ["scheduler.step_size is 'often'; StepLR takes int", "conf/scheduler/odd.yaml"],
    "trainer.max_epochs=ten": ["trainer.max_epochs is 'ten'; Trainer takes int or null"],
    "+trainer.limit_train_batches=some": ["trainer.limit_train_batches is 'some'; Trainer takes int or float or null"],
    "+trainer.max_epoch=2": ["trainer.max_epoch: Trainer has no such argument; did you mean max_epochs"],
    "data.batch_size=big": ["data.batch_size is 'big'; Data takes int"],
    "data.augment=[{crop:all}]": ["data.augment.0.crop.padding is 'all'; crop takes int"],
    "data.in_memory=perhaps": ["data.in_memory is 'perhaps'; Data takes bool"],
    "+data.folder=x": ["data.folder: Data has no such argument"],
    "device.threads=many": ["device.threads is 'many'; device takes int or null"],
    "loss.weight=3": ["loss.weight is 3; CrossEntropyLoss takes a list of numbers or null"],
    "loss.label_smoothing=much": ["loss.label_smoothing is 'much'; CrossEntropyLoss takes float"],
    "seed=x": ["seed is 'x'; it takes a whole number from 0 on", "the command line: seed=x"],
    "seed=-1": ["seed is -1; it takes a whole number from 0 on"],
    "name=../x": ["name is '../x'; it names a directory in outputs/", "the command line: name=../x"],
    "name=3": ["name is 3; it names a directory in outputs/"],
    "+sed=1": ["sed: there is no such key; did you mean seed?"],
    "-m seed=1,2 optimizer.lr=abc": ["optimizer.lr is 'abc'; Adam takes float", "the command line: optimizer.lr=abc"],
    "-m network=mlp,cnn trainer.max_epochs=x": ["trainer.max_epochs is 'x'; Trainer takes int or null"],
    "--cfg job optimizer.lr=abc": ["optimizer.lr is 'abc'; Adam takes float"],
    "optimizer.lr=abc --cfg job": ["optimizer.lr is 'abc'; Adam takes float"],
    # files
    "experiment=[one,fast]": ["optimizer.lr is 'abc'", "from conf/experiment/fast.yaml"],
    "experiment=[fast,one]": ["optimizer.lr is 'abc'", "from conf/experiment/fast.yaml"],
    "experiment=nested": ["optimizer.lr is 'abc'", "from conf/experiment/fast.yaml"],
    "experiment=overrides": ["optimizer.momentum is 'x'; SGD takes float", "from conf/experiment/overrides.yaml"],
    "experiment=width": ["trainer.max_epochs is 'ten'", "from conf/experiment/width.yaml"],
    "experiment=width trainer.max_epochs=x": ["trainer.max_epochs is 'x'", "the command line: trainer.max_epochs=x"],
    "experiment=bom": ["optimizer.lr is 'abc'", "from conf/experiment/bom.yaml"],
    "experiment=again": [
        "optimizer: this group is chosen twice; a file chooses another with",
        "- override /optimizer: OPTION",
    ],
    "experiment=plain": ["conf/experiment/plain.yaml holds a plain value, where keys are expected"],
    "experiment=items": ["conf/experiment/items.yaml holds a list, where keys are expected"],
    "experiment=header": ["conf/experiment/header.yaml: the header takes one name, as in `# @package _global_`"],
    "experiment=colon": ["conf/experiment/colon.yaml, line 3", "check the dashes, colons and indentation"],
    "experiment=quote": ["conf/experiment/quote.yaml, line 3", "this is no YAML"],
    "experiment=bracket": ["conf/experiment/bracket.yaml, line 4", "this is no YAML"],
    "experiment=twice": ["conf/experiment/twice.yaml, line 3", "found duplicate key name"],
    "experiment=indent": ["conf/experiment/indent.yaml, line 4", "this is no YAML"],
    "experiment=nbsp": ["conf/experiment/nbsp.yaml", "indent with ordinary spaces"],
    "experiment=loops": ["conf/experiment/loops.yaml, line 2: an alias names a value that contains it"],
    "experiment=lists": ["its interpolations lead to more than 10,000 others", "conf/experiment/lists.yaml"],
    "experiment=texts": ["its interpolations lead to more than 10,000 others", "conf/experiment/texts.yaml"],
    "--cfg job --resolve experiment=texts": ["its interpolations lead to more than 10,000 others"],
    "network=tab": ["conf/network/tab.yaml, line 3", "indent with ordinary spaces"],
    "network=laughs": ["conf/network/laughs.yaml: with its aliases it has more than 1,000,000 values"],
}
OTHERS = {
    "eval": ["lamella eval takes RUN; `lamella eval outputs/NAME/RUN` names a run"],
    "predict": ["lamella predict takes RUN; `lamella predict outputs/NAME/RUN` names a run"],
    "resume": ["lamella resume takes RUN;"],
    "reproduce": ["lamella reproduce takes RUN;"],
    "compare": ["lamella compare takes RUN;"],
    "export": ["lamella export takes --format"],
    "export run --format tflite": ["argument --format: invalid choice: 'tflite' (choose from 'onnx'"],
    **{
        f"{command} conf conf/experiment conf/network{option}": [f"lamella {command} takes one run directory; got 3\n"]
        for command, option in (
            ("eval", ""),
            ("resume", ""),
            ("reproduce", ""),
            ("explain-nan", ""),
            ("export", " --format onnx"),
        )
    },
    "eval run --lr 1": ["--lr: an override has no dashes; write optimizer.lr=1"],
    "eval run --checkpiont last": ["--checkpiont: there is no such option; did you mean --checkpoint?"],
    "eval run --checkpoint": ["argument --checkpoint: expected one argument"],
    "runs --srot loss": ["--srot: there is no such option; did you mean --sort?"],
    "runs outputs more": ["more: this is one argument too many; `lamella runs --help`"],
    "runs --csv --json": ["argument --json: not allowed with argument --csv"],
    "board outputs more": ["more: this is one argument too many"],
    "board --port x": ["argument --port: invalid int value: 'x'"],
    "predict run a.png --top x": ["argument --top: invalid int value: 'x'"],
    "inspect -m seed=1,2": ["inspect looks at one network; leave -m out"],
    "inspect --lr 1": ["--lr: an override has no dashes; write optimizer.lr=VALUE"],
    "inspect trainer.max_epochs=3 trainer.swa=9": ["trainer.swa is 9, but the run ends after epoch 3"],
    "inspect trainer.ema=0.9 device.precision=bf16-true": ["trainer.ema adds a small share of the weights to their"],
    "inspect optimizer.lr=abc": ["optimizer.lr is 'abc'"],
    "inspect name=a=b": ["'name=\"a=b\"'"],
}
COMMANDS = {f"train {given}": parts for given, parts in TRAIN.items()} | OTHERS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files; no mistake changes it."""
    root = tmp_path_factory.mktemp("project")
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def files(root: Path) -> Iterator[str]:
    return (str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.slow(1)
@pytest.mark.parametrize("given", COMMANDS)
def test_a_mistake_says_what_to_type(
    lamella: Lamella, project: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(project)
    before = set(files(project))
    result = lamella(*given.split(" "))
    assert result.status == 2, result.out + result.err
    block = result.err
    assert block.startswith("error: ")
    assert len(block.splitlines()) <= 4
    for part in COMMANDS[given]:
        assert part in block, block
        block = block[block.index(part) + len(part) :]
    assert set(files(project)) == before


def test_there_are_enough_mistakes() -> None:
    assert len(COMMANDS) >= 120

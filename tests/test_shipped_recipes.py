"""The recipes in conf/experiment: what they compute, and that their benchmark trains each of them."""

import json
from pathlib import Path

import programs
import pytest
import torch
from conftest import Lamella
from killed import kill_and_resume
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lamella.config.compose import compose_one
from lamella.data import Data
from lamella.experiment.build import prepare_experiment
from lamella.runs.checkpoints import TRAINED, read_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_epoch_on_photographs_is_that_of_a_loop_written_by_hand(lamella: Lamella, image_root: Path) -> None:
    overrides = [
        *("experiment=cifar10_resnet", "network.width=4", "data=image_folder", f"data.root={image_root}"),
        *("data.shape=[3,32,32]", "data.batch_size=8", "trainer.max_epochs=1", "device=cpu", "device.threads=1"),
    ]
    result = lamella("train", *overrides, "visuals=none")
    assert result.status == 0, result.err
    [run] = Path("outputs/cifar10_resnet").iterdir()

    experiment = prepare_experiment(compose_one(overrides).config)
    network, data = experiment.task.network, experiment.data
    assert isinstance(data, Data)
    data.chunk = lambda number: 1
    batches = [(inputs, targets) for inputs, targets, *_ in data.train_dataloader()]
    assert len(batches) > 5
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    plain = {parameter for norm in norms for parameter in norm.parameters()}
    plain |= {value for name, value in network.named_parameters() if name.endswith("bias")}
    decayed = [value for value in network.parameters() if value not in plain]
    groups: list[dict[str, object]] = [{"params": decayed}, {"params": [*plain], "weight_decay": 0}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9, weight_decay=2e-3, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(batches), final_div_factor=1)
    rule = get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=rule, use_buffers=True)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    network.train()
    for number, (inputs, targets) in enumerate(batches):
        loss(network(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if number < len(batches) - 1:
            scheduler.step()
        average.update_parameters(network)

    saved = read_checkpoint(run / "checkpoints/last.ckpt")
    for kind, expected in (("state_dict", average.module), (TRAINED, network)):
        floats = {name: value for name, value in expected.state_dict().items() if value.is_floating_point()}
        for name, value in floats.items():
            assert torch.allclose(saved[kind][f"network.{name}"], value, rtol=1e-5, atol=1e-5), (kind, name)


PRACTICE = """# @package _global_
defaults:
  - override /network: cnn
  - override /optimizer: adamw
  - override /scheduler: cosine
  - override /metrics: [f1]
  - _self_
network:
  widths: [4, 8]
  weights: {from: "BASE", skip: [classifier.4.*]}
  freeze: {features.*: 1}
data:
  batch_size: 128
  augment: [{crop: 1}, randaugment, {mixup: 0.2}]
loss: {label_smoothing: 0.1}
optimizer:
  lr: 1e-3
  layer_decay: 0.8
  groups: [{match: classifier.4.*, lr: 1e-2}, {match: [norms, biases], weight_decay: 0}]
scheduler: {warmup_steps: 5}
trainer: {max_epochs: 3, ema: 0.9, early_stopping: 2, keep_top: 2, gradient_clip_val: 1.0, checkpoint_every: 2steps}
"""


@pytest.mark.slow(20)
def test_a_recipe_of_all_parts_is_exact(lamella: Lamella, tmp_path: Path) -> None:
    """Weights, a new head, a thaw, rates by layer and group, mixed images, averages, early stopping, in one file."""
    base = ("network=cnn", "network.widths=[4,8]", "device=cpu", "device.threads=1", "visuals=none", "name=base")
    assert lamella("train", *base, "trainer.max_epochs=1").status == 0
    [trained] = Path("outputs/base").iterdir()
    text = PRACTICE.replace("BASE", str(trained.resolve()))
    for directory in ("whole", "killed"):
        path = tmp_path / directory / "conf/experiment/practice.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    options = ("experiment=practice", "device=cpu", "device.threads=1", "visuals=none")
    run, printed = kill_and_resume(tmp_path / "whole", tmp_path / "killed", *options, shares=(0.3, 0.4, 0.5))
    assert "Traceback" not in printed
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"lr", "val/f1", "lr/classifier.4", "lr/features.4", "lr/features.0"} <= set(last)
    assert len(list((run / "checkpoints").glob("epoch-*.ckpt"))) == 2


@pytest.mark.slow(60)
def test_the_benchmark_trains_each_side_once(tmp_path: Path, digit_images: tuple[Tensor, Tensor]) -> None:
    images, _ = digit_images
    for number in range(10):
        for part, count in (("train", 52), ("test", 4)):
            folder = tmp_path / "data/cifar10_small" / part / f"class{number}"
            folder.mkdir(parents=True)
            for place in range(count):
                Image.fromarray(images[number + 10 * (place % 29), 0].numpy()).save(folder / f"{place}.png")
    script = (str(ROOT / "bench/recipes.py"), "data", "--epochs", "1", "--seeds", "2", "--output", "out")
    recipes = ("--recipe", "finetune", "digits_mixup_ema")
    first, second = (programs.run(tmp_path, *script, *recipes, kind=programs.Script) for _ in range(2))
    assert first == second
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == [
        "`finetune`",
        "without trained weights",
        "`digits_mixup_ema`",
        "without mixed images and averaged weights",
        "without augmentation and averaged weights",
    ]
    assert {row[1] for row in rows[2:]} == {"2"}
    assert all("points, p = " in row[4] for row in rows[2:] if row[0].startswith("without"))
    records = [json.loads(path.read_text()) for path in tmp_path.glob("out/outputs/*/*/run.json")]
    assert [fields["status"] for fields in records] == ["finished"] * 11

"""Many batches as one of Lightning's steps: the same bits as one by one."""

from pathlib import Path

import kill
import pytest
from conftest import Lamella

LACKING = ("~optimizer.momentum", "~optimizer.weight_decay", "~optimizer.nesterov", "~optimizer.fused")
CONFIGS = {name: options for name, options in kill.CONFIGS.items() if name not in ("ddp", "loader", "workers")}
CONFIGS |= {
    "clipped": ("trainer.gradient_clip_val=0.1", "scheduler=one_cycle", "network=mlp"),
    "interval": ("+trainer.val_check_interval=7", "trainer.accumulate_grad_batches=3"),
    "across": ("+trainer.val_check_interval=9", "+trainer.check_val_every_n_epoch=null"),
    "limited": ("+trainer.limit_train_batches=5", "data.batch_size=32"),
    "lbfgs": (
        "optimizer=sgd",
        "optimizer._target_=torch.optim.LBFGS",
        "~optimizer.momentum",
        "~optimizer.weight_decay",
    ),
}


def train(lamella: Lamella, name: str, *options: str) -> Path:
    result = lamella("train", *kill.BASE, f"name={name}", *options)
    assert result.status == 0, result.err
    [path] = Path("outputs", name).iterdir()
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_bits_as_one_by_one(lamella: Lamella, name: str) -> None:
    options = CONFIGS[name]
    one = train(lamella, "one", *options, "trainer.chunk=1")
    for chunk in ("auto", "7"):
        assert kill.differences(one, train(lamella, f"chunks-{chunk}", *options, f"trainer.chunk={chunk}")) == []

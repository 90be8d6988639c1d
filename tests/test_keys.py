"""Each key changes what a run computes or records, or is refused; and `eval` repeats the test of the run."""

import json
import random
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
from conftest import Lamella, Shared

BASE = (
    "network=linear",
    "device=cpu",
    "device.threads=1",
    "visuals=none",
    "trainer.max_epochs=2",
    "data.batch_size=400",
)
CALLBACK = "trainer.callbacks=[{_target_: pytorch_lightning.callbacks."
# Sets of overrides: each is one choice, and a draw takes several of them.
CHOICES = {
    "data": [
        "data.batch_size=324",
        "data.batch_size=300 data.drop_last=true",
        "data.val_size=100",
        "data.test_size=0.3",
        "data.split_seed=1",
        "data.seed=1",
        "data.augment=[{crop: 2},{mixup: 0.2}]",
        "data.augment=[flip]",
        "data.mean=[0.5]",
        "data.std=[0.5]",
    ],
    "loss": [
        "loss=mse",
        "loss=bce_with_logits",
        "loss.label_smoothing=0.2",
        "loss.weight=[1,1,1,1,1,1,1,1,1,9]",
        "loss.ignore_index=3",
        "+loss.reduction=sum",
    ],
    "precision": [
        "device.precision=bf16-true",
        "device.precision=bf16-mixed",
        "device.precision=16-mixed",
        "device.precision=64-true",
        "+trainer.precision=bf16-true",
    ],
    "callbacks": [
        f"{CALLBACK}EMAWeightAveraging,decay: 0.5}}]",
        f"{CALLBACK}WeightAveraging}}]",
        f"{CALLBACK}StochasticWeightAveraging,swa_lrs: 0.1}}]",
        f"{CALLBACK}ModelPruning,pruning_fn: l1_unstructured,amount: 0.5}}]",
        f"{CALLBACK}EarlyStopping,monitor: val/loss,verbose: true}}]",
        f"{CALLBACK}EarlyStopping,monitor: val/loss,stopping_threshold: 9}}]",
        f"{CALLBACK}ModelCheckpoint,dirpath: kept,monitor: val/loss}}]",
        f"{CALLBACK}GradientAccumulationScheduler,scheduling: {{1: 2}}}}]",
        f"{CALLBACK}LearningRateFinder}}]",
        f"{CALLBACK}ModelSummary}}]",
    ],
    "trainer": [
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=0.01",
        "trainer.gradient_clip_val=0.01 +trainer.gradient_clip_algorithm=value",
        "trainer.test=false",
        "+trainer.limit_train_batches=2",
        "+trainer.limit_val_batches=0",
        "+trainer.limit_test_batches=0.1",
        "+trainer.overfit_batches=1",
        "+trainer.max_steps=3",
        "+trainer.check_val_every_n_epoch=2",
        "+trainer.profiler=simple",
        "+trainer.enable_model_summary=true",
        *(
            f"+trainer.{name}={value}"
            for name, value in {
                "accelerator": "cpu",
                "barebones": "true",
                "default_root_dir": "elsewhere",
                "deterministic": "true",
                "enable_autolog_hparams": "false",
                "enable_checkpointing": "false",
                "limit_predict_batches": 1,
                "log_every_n_steps": 1,
                "model_registry": "x",
                "plugins": "[]",
                "reload_dataloaders_every_n_epochs": 1,
                "use_distributed_sampler": "true",
            }.items()
        ),
    ],
    "rest": ["optimizer=sgd", "+optimizer.params=[1]", "scheduler=one_cycle", "scheduler.warmup_steps=3", "seed=1"],
}
ALL = [choice for choices in CHOICES.values() for choice in choices]


def the_run(directory: Path) -> Path:
    [path] = directory.glob("outputs/*/*/run.json")
    return path.parent


def computed(run: Path) -> list[Any]:
    """What a run has computed, recorded and printed, without what is measured and what names the config."""
    record = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [{key: value for key, value in line.items() if "second" not in key} for line in lines]
    weights = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    printed = [line for line in (run / "log.txt").read_text().splitlines() if not line.startswith(("epoch", "dir"))]
    kept = sorted(path.name for path in (run / "kept").glob("*"))
    return [record["metrics"], epochs, {key: value.tolist() for key, value in weights.items()}, printed, kept]


@pytest.fixture(scope="module")
def base(shared: Shared) -> list[Any]:
    return computed(the_run(shared("keys", lambda path: programs.run(path, "train", *BASE))))


def refused(result: Any, overrides: list[str]) -> bool:
    """Whether a request was refused, with one of its keys, and left nothing."""
    if result.status == 0:
        return False
    assert result.status == 2, result.err
    error = result.err.partition("\n  from ")[0]
    assert any(override.partition("=")[0].strip("+") in error for override in overrides), result.err
    assert not Path("outputs").exists()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("choice", ALL, ids=str)
def test_a_key_changes_something_or_is_refused(lamella: Lamella, base: list[Any], choice: str) -> None:
    overrides = [f"{key}={value}" for key, value in split(choice)]
    if not refused(lamella("train", *BASE, *overrides), overrides):
        assert computed(the_run(Path())) != base


@pytest.mark.slow
@pytest.mark.parametrize("number", range(12))
def test_eval_repeats_the_test_of_any_run(lamella: Lamella, number: int) -> None:
    chance = random.Random(number)
    groups = chance.sample(list(CHOICES), 3)
    overrides = [f"{key}={value}" for group in groups for key, value in split(chance.choice(CHOICES[group]))]
    if refused(lamella("train", *BASE, *overrides), overrides):
        return
    run = the_run(Path())
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    result = lamella("eval", str(run))
    assert result.status == 0, result.err
    found = json.loads((run / "eval.json").read_text())["metrics"]
    if "trainer.test=false" not in overrides:
        assert found == {key: value for key, value in recorded.items() if key.startswith("test/")}
    shown = " ".join(f"{key.removeprefix('test/')} {value:.4f}" for key, value in found.items())
    assert result.out.splitlines()[1].endswith(f" samples  {shown}")


def split(choice: str) -> list[tuple[str, str]]:
    """The keys and values of a choice, of which only a list contains spaces."""
    parts = [choice] if "[{" in choice else choice.split()
    return [(part.partition("=")[0], part.partition("=")[2]) for part in parts]

"""Tests of this project: `python -m pytest`."""

from pathlib import Path

import mine
import pytest
import torch

import lamella

ROOT = Path(__file__).parent


def test_waves_are_added() -> None:
    x = torch.rand(5, 2)
    waves = mine.Waves(frequencies=3)(x)
    assert waves.shape == (5, 2 * (1 + 2 * 3))
    assert waves[:, :2].equal(x)


def test_the_experiment_trains_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conf", "mine.py", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)  # the run is stored there
    run = lamella.train(["experiment=first", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"])
    assert run["status"] == "finished"
    assert run["steps"] == 1
    assert set(run.metrics) >= {"val/accuracy", "test/accuracy"}

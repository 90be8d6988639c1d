"""The folders in examples/: each trains as a loop written by hand, from the same seeds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from conftest import Lamella
from killed import kill_and_resume
from torch import Tensor, nn
from torch.nn import functional

import lamella as api
from lamella import load, seeds
from lamella.data import Data, digits
from lamella.data.loader import Batches

EXAMPLES = Path(__file__).parents[1] / "examples"
CPU = torch.device("cpu")
SHORT = ("device=cpu", "device.threads=1", "visuals=none", "trainer.max_epochs=2")
Step = Callable[[Tensor, Tensor], Tensor]


def example(name: str, directory: Path) -> None:
    """Copy an example into a directory."""
    shutil.copytree(EXAMPLES / name, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("outputs"))


def train(lamella: Lamella, name: str, *options: str) -> Path:
    """Train an experiment in the working directory, and return the directory of its run."""
    result = lamella("train", f"experiment={name}", *SHORT, *options)
    assert result.status == 0, result.err
    [record] = Path("outputs", name).glob("*/run.json")
    return record.parent


def metrics(run: Path) -> list[dict[str, float]]:
    """The metrics of each epoch of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """The training loss of each epoch of a run."""
    return [line["train/loss"] for line in metrics(run)]


def epochs_by_hand(mean: float, std: float, batch_size: int, epochs: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """The batches of each epoch over the digits, images and labels, each with its seed."""
    data = Data(digits(), [1, 28, 28], batch_size, 10, mean=[mean], std=[std], test_size=0.2, val_size=0.1)
    epoch = 0
    batches = Batches(data.train, batch_size, normalize=data.normalize, shuffle=True, epoch=lambda: epoch)

    def seeded(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = seeds.batch_seeds(0, 0, epoch, len(batches))
        for number, (images, labels) in zip(numbers, batches, strict=True):
            seeds.reseed(number, CPU)
            assert isinstance(images, Tensor)
            yield images, labels

    for epoch in range(epochs):
        yield seeded(epoch)


def losses_by_hand(
    parameters: Iterable[nn.Parameter],
    step: Step,
    mean: float = 0.3057,
    std: float = 0.3248,
    batch_size: int = 64,
    epochs: int = 2,
) -> list[float]:
    """The training loss of each epoch of a loop over the digits. step: returns the loss of images and labels."""
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)
    found = []
    for batches in epochs_by_hand(mean, std, batch_size, epochs):
        total, count = 0.0, 0
        for images, labels in batches:
            loss = step(images, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total, count = total + loss.item() * len(images), count + len(images)
        found.append(total / count)
    return found


def mlp(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for size in (784, width):
        layers += [nn.Linear(size, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@pytest.mark.slow
def test_vae(lamella: Lamella, tmp_path: Path) -> None:
    example("vae", tmp_path)
    run = train(lamella, "vae")
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 32))
    decoder = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 784), nn.Unflatten(1, (1, 28, 28)))

    def step(images: Tensor, labels: Tensor) -> Tensor:
        code = encoder(images)
        mean, deviation = code[:, :16], torch.exp(0.5 * code[:, 16:])
        posterior, prior = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
        drawn = decoder(mean + torch.randn(len(images), 16) * deviation).sigmoid()
        likelihood = -functional.binary_cross_entropy(drawn, images, reduction="none").sum((1, 2, 3))
        return (torch.distributions.kl_divergence(posterior, prior).sum(1) - likelihood).mean()

    expected = losses_by_hand([*encoder.parameters(), *decoder.parameters()], step, 0.0, 1.0)
    assert losses(run) == pytest.approx(expected, rel=1e-4)
    assert [line["train/reconstruction"] + line["train/kl"] for line in metrics(run)] == pytest.approx(losses(run))
    tested = lamella("eval", str(run))
    assert tested.status == 0, tested.err
    assert f"{json.loads((run / 'run.json').read_text())['metrics']['test/kl']:.4f}" in tested.out
    again = lamella("reproduce", str(run))
    assert again.status == 0, again.out + again.err


KILLED = {
    "vae": (),
    # Each optimizer has its own number of steps, by which its warm-up and its schedule go.
    "gan": ("+optimizer.generator.every=2", "scheduler=cosine", "scheduler.warmup_steps=4"),
}


@pytest.mark.slow(7)
@pytest.mark.parametrize(("folder", "name"), [*((name, name) for name in KILLED), ("gan_lightning", "gan")])
def test_killed_and_resumed(tmp_path: Path, folder: str, name: str) -> None:
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    for directory in (reference, killed):
        example(folder, directory)
    each = ("data.batch_size=256", "trainer.checkpoint_every=1steps")
    options = (f"experiment={name}", *SHORT, *each, *(KILLED[name] if folder == name else ()))
    kill_and_resume(reference, killed, *options)


class Losses(pl.Callback):
    """Seeds each batch of a plain Trainer as Lamella does, and keeps what is logged in each epoch."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.epoch, self.found = batches, 0, list[dict[str, float]]()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
        seeds.reseed(seeds.batch_seeds(0, 0, self.epoch, len(self.batches))[batch_idx], CPU)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: object) -> None:
        self.found.append({f"train/{name}": float(value) for name, value in trainer.callback_metrics.items()})
        self.epoch += 1


@pytest.mark.slow(10)
def test_gan_lightning(lamella: Lamella, tmp_path: Path) -> None:
    """With a plain Trainer, which has the same batches, the module has the same losses to the bit."""
    example("gan_lightning", tmp_path)
    run = train(lamella, "gan")
    data = Data(digits(), [1, 28, 28], 64, 10, mean=[0.5], std=[0.5], test_size=0.2, val_size=0)
    batches = Batches(data.train, 64, normalize=data.normalize, shuffle=True, epoch=lambda: trained.epoch)
    trained = Losses(batches)
    torch.manual_seed(0)
    module = sys.modules["gan"].GAN()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=[trained], **quiet).fit(module, batches)  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [{name: line[name] for name in ("train/d_loss", "train/g_loss")} for line in lines] == trained.found
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert all(value.equal(saved["state_dict"][name]) for name, value in module.state_dict().items())
    assert saved["hyper_parameters"] == {"code": 16, "width": 128, "lr": 2e-4}
    drawn = api.load(run).network(torch.randn(3, 16))
    assert drawn.shape == (3, 1, 28, 28)
    refused = lamella("eval", str(run))
    assert (refused.status, refused.err.splitlines()[-1]) == (
        2, f"error: {run}: gan.GAN has no test_step, so it cannot be tested"
    )  # fmt: skip
    again = lamella("reproduce", str(run))
    assert again.status == 0, again.out + again.err


class UNet(nn.Module):
    """The network of the diffusion model, as a class, with its modules in the order in which they are drawn."""

    def __init__(self) -> None:
        super().__init__()

        def again(width: int) -> nn.Sequential:
            conv = nn.Conv2d(width, width, 3, padding=1)
            return nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), conv, nn.GroupNorm(4, width), nn.SiLU())

        self.first = nn.Conv2d(2, 16, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), again(32))
        self.inner = nn.Sequential(nn.Conv2d(32, 64, 4, 2, 1), again(64), nn.ConvTranspose2d(64, 32, 2, 2))
        self.up = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1), again(32), nn.ConvTranspose2d(32, 16, 2, 2))
        self.last = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), again(16), nn.Conv2d(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        half = self.down(x)
        y: Tensor = self.last(torch.cat([x, self.up(torch.cat([half, self.inner(half)], 1))], 1))
        return y


@pytest.mark.slow(20)
def test_ddpm(lamella: Lamella, tmp_path: Path) -> None:
    example("ddpm", tmp_path)
    run = train(lamella, "ddpm", "task.steps=25", "trainer.max_epochs=1")
    torch.manual_seed(0)
    network = UNet()
    left = torch.ones(26)
    for number in range(25):
        left[number + 1] = left[number] * (1 - (0.1 + (20 - 0.1) * number / 24) / 25)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        times = torch.randint(25, (len(images),))
        noise = torch.randn_like(images)
        kept = left[times + 1][:, None, None, None]
        level = (times / 25)[:, None, None, None].expand(-1, 1, 28, 28)
        found = network(torch.cat([kept**0.5 * images + (1 - kept) ** 0.5 * noise, level], 1))
        return functional.mse_loss(found, noise)

    expected = losses_by_hand(network.parameters(), step, 0.5, 0.5, epochs=1)
    assert losses(run) == pytest.approx(expected, rel=1e-4)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "sample.py", str(run)], check=True, env=environment)
    assert Path("samples.png").stat().st_size > 1000


@pytest.mark.slow
def test_simclr(lamella: Lamella, tmp_path: Path) -> None:
    example("simclr", tmp_path)
    run = train(lamella, "simclr", "trainer.max_epochs=1")
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    network = nn.Sequential(
        *convs, nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)
    )

    def step(images: Tensor, labels: Tensor) -> Tensor:
        views = []
        for _ in range(2):
            angle, scale, across, down = torch.rand(4, len(images)) * 0.6 - 0.3
            rows = [
                torch.stack([(1 + scale) * angle.cos(), -(1 + scale) * angle.sin(), across], 1),
                torch.stack([(1 + scale) * angle.sin(), (1 + scale) * angle.cos(), down], 1),
            ]
            grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
            moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
            views.append(moved + 0.1 * torch.randn_like(moved))
        first, second = (functional.normalize(code) for code in network(torch.cat(views)).chunk(2))
        both, count = torch.cat([first, second]), len(images)
        total = 0.0 * both.sum()
        weights = (both @ both.T / 0.5).exp() * (1 - torch.eye(2 * count))
        for one in range(2 * count):
            total = total - (weights[one, (one + count) % (2 * count)] / weights[one].sum()).log()
        return total / (2 * count)

    expected = losses_by_hand(network.parameters(), step, batch_size=128, epochs=1)
    assert losses(run) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_distillation(lamella: Lamella, tmp_path: Path) -> None:
    example("distillation", tmp_path)
    missing = lamella("train", "experiment=distillation")
    assert missing.status == 2
    assert missing.err.startswith(
        "error: task.teacher: outputs/teacher/experiment=teacher is not there; a run is a dir"
    )
    assert missing.err.endswith("  from conf/experiment/distillation.yaml:7\n")
    teacher_run = train(lamella, "teacher", "trainer.max_epochs=1")
    run = train(lamella, "distillation", f"task.teacher={json.dumps(str(teacher_run))}")
    teacher = mlp(512).eval()
    state = torch.load(teacher_run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    weights = [value for name, value in state.items() if name.startswith("network.")]
    teacher.load_state_dict(dict(zip(teacher.state_dict(), weights, strict=True)))
    torch.manual_seed(0)
    network = mlp(16)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        output = network(images)
        with torch.no_grad():
            answers = (teacher(images) / 2).softmax(1)
        distance = (answers * (answers.log() - (output / 2).log_softmax(1))).sum(1).mean() * 4
        loss: Tensor = 0.5 * distance + 0.5 * functional.cross_entropy(output, labels)
        return loss

    expected = losses_by_hand(network.parameters(), step)
    assert losses(run) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_gan(lamella: Lamella, tmp_path: Path) -> None:
    example("gan", tmp_path)
    run = train(lamella, "gan", "+optimizer.generator.every=2")
    torch.manual_seed(0)
    first, second, last = nn.Linear(32, 256), nn.Linear(256, 256), nn.Linear(256, 784)
    norm = nn.BatchNorm1d(256)
    layers = [nn.Linear(784, 256), nn.Linear(256, 256), nn.Linear(256, 1)]
    parts = {"discriminator": nn.ModuleList(layers), "generator": nn.ModuleList([first, second, norm, last])}
    optimizers = {name: torch.optim.Adam(part.parameters(), 2e-4, (0.5, 0.999)) for name, part in parts.items()}

    def draw(count: int) -> Tensor:
        code = functional.leaky_relu(first(torch.randn(count, 32)), 0.2)
        return torch.tanh(last(functional.leaky_relu(norm(second(code)), 0.2)))

    def odds(images: Tensor) -> Tensor:
        for layer in layers[:2]:
            images = functional.dropout(functional.leaky_relu(layer(images), 0.2), 0.3)
        found: Tensor = layers[2](images)
        return found

    judge = functional.binary_cross_entropy_with_logits
    for batches, line in zip(epochs_by_hand(0.5, 0.5, 64, 2), metrics(run), strict=True):
        totals, counts = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0)
        for number, (images, _) in enumerate(batches):
            for name in ("discriminator", "generator")[: 1 + (number % 2 == 0)]:
                score = odds(draw(len(images)))
                if name == "generator":
                    loss = judge(score, torch.ones_like(score))
                else:
                    real = odds(images.flatten(1))
                    loss = judge(real, torch.ones_like(real)) + judge(score, torch.zeros_like(score))
                optimizers[name].zero_grad()
                torch.autograd.backward(loss)
                optimizers[name].step()
                totals[name] += loss.item() * len(images)
                counts[name] += len(images)
        assert {name: line[f"train/{name}_loss"] for name in parts} == pytest.approx(
            {name: totals[name] / counts[name] for name in parts}, rel=1e-4
        )
    drawn = load(run, "last").network["generator"](torch.randn(3, 32))  # type: ignore[index]
    assert drawn.shape == (3, 1, 28, 28)
    assert drawn.abs().max() <= 1


@pytest.mark.slow
def test_focal(lamella: Lamella, tmp_path: Path) -> None:
    example("focal", tmp_path)
    run = train(lamella, "focal")
    torch.manual_seed(0)
    network = mlp(128)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        right = network(images).log_softmax(1)[torch.arange(len(images)), labels]
        loss: Tensor = -((1 - right.exp()) ** 2 * right).mean()
        return loss

    assert losses(run) == pytest.approx(losses_by_hand(network.parameters(), step), rel=1e-4)

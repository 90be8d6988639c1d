"""Augmentation: what each transform does, that its bits depend on counters alone, and what mixing does to targets."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import torch
import yaml
from conftest import Lamella, Project, Result
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from lamella.data import Augment, Augmentation, Batches, Color, Crop, Erase, Flip, Rotate, Samples
from lamella.data.augmentation import Listed
from lamella.data.normalize import Normalize
from lamella.data.policies import CHANGES, RandAugment, TrivialAugment
from lamella.data.transforms import Transform, moved
from lamella.experiment.augmentation import build_augment
from lamella.training.objective import Objective

COUNT, SHAPE = 24, (3, 16, 16)
V2 = "torchvision.transforms.v2."


def noise(*shape: int) -> Tensor:
    """Images without two equal windows and without black."""
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Everywhere(nn.Module):
    """A transform of one's own that draws from every generator there is."""

    def forward(self, images: Tensor) -> Tensor:
        amount = random.random() + float(np.random.rand()) + torch.rand(images.shape)
        return (images.float() + 20 * amount).clamp(0, 255).to(torch.uint8)


EACH: dict[str, object] = {
    "crop": {"crop": 4},
    "reflect": {"crop": {"padding": 4, "reflect": True}},
    "flip": "flip",
    "rotate": {"rotate": 20},
    "erase": {"erase": 6},
    "color": {"color": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.2}},
    "randaugment": {"randaugment": [3, 20]},
    "trivialaugment": "trivialaugment",
    "own": {"_target_": "test_augment.Everywhere"},
}
TORCHVISION: dict[str, dict[str, Any]] = {
    "ElasticTransform": {"alpha": 40, "sigma": 2},
    "RandomAffine": {"degrees": 20, "translate": [0.2, 0.2], "shear": 10},
    "RandomPerspective": {"p": 1},
    "RandomResizedCrop": {"size": [16, 16]},
    "RandomCrop": {"size": 16, "padding": 3},
    "RandomVerticalFlip": {},
    "RandomErasing": {"p": 1, "value": 9},
    "ColorJitter": {"brightness": 0.4, "hue": 0.1},
    "GaussianBlur": {"kernel_size": 3},
    "RandomPhotometricDistort": {},
    "RandomChannelPermutation": {},
    "AutoAugment": {"policy": "CIFAR10"},
    "AugMix": {},
    "RandAugment": {},
    "JPEG": {"quality": [5, 50]},
    "RandomChoice": {"transforms": [{"_target_": f"{V2}RandomInvert", "p": 1}, {"_target_": f"{V2}Identity"}]},
}  # fmt: skip
EACH |= {name: {"_target_": f"{V2}{name}", **arguments} for name, arguments in TORCHVISION.items()}
BATCHED: dict[str, object] = {
    "mixup": {"mixup": 0.4},
    "cutmix": "cutmix",
    "own": {"_target_": "test_augment.Everywhere", "per": "batch"},
    "v2": {"_target_": f"{V2}RandomRotation", "degrees": 20, "per": "batch"},
}


@pytest.fixture(autouse=True)
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["test_augment"]\n')
    monkeypatch.chdir(tmp_path)


def built(*entries: object) -> Augmentation:
    listed = build_augment(list(entries))
    assert listed is not None
    return Augmentation(listed, COUNT)


def batches(augment: Augmentation | None, **options: Any) -> Batches:
    """Serve images, from 0 to 1, whose targets are their numbers."""
    samples = Samples(noise(COUNT, *SHAPE), torch.arange(COUNT))
    options = {"batch_size": 8, "shuffle": True, "seed": 3, "epoch": lambda: 1, **options}
    options["normalize"] = Normalize.of(None, None, SHAPE)
    return Batches(samples, augment=augment, **options)


def served(loader: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        for inputs, targets in chain(getattr(batch, "before", ()), [(batch[0], batch[1])]):
            assert isinstance(inputs, Tensor)
            yield inputs, targets


def by_number(loader: Batches) -> Tensor:
    """Images in the order of their numbers."""
    images, numbers = (torch.cat(parts) for parts in zip(*served(loader), strict=True))
    return images[numbers.argsort()]


@pytest.mark.parametrize("entry", EACH.values(), ids=EACH)
def test_an_image_depends_on_seed_epoch_and_index_alone(entry: object) -> None:
    augment, plain, state = built(entry), by_number(batches(None)), torch.get_rng_state()
    first = by_number(batches(augment))
    ways: list[dict[str, Any]] = [
        {"batch_size": 1}, {"batch_size": 24, "shuffle": False}, {"chunk": lambda number: 2}, {"num_workers": 0},
    ]  # fmt: skip
    for options in ways:
        assert torch.equal(by_number(batches(augment, **options)), first)
    shares = [chain(*served(batches(augment, world=2, rank=rank))) for rank in (0, 1)]
    halves = list(chain(*shares))
    images, numbers = torch.cat(halves[::2]), torch.cat(halves[1::2])
    assert torch.equal(images[numbers.argsort()], first)
    start = list(served(batches(augment, start=lambda: 1)))
    assert all(map(torch.equal, chain(*start), chain(*list(served(batches(augment)))[1:])))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first != plain).flatten(1).any(1).float().mean() > 0.2
    for other in (by_number(batches(augment, seed=4)), by_number(batches(augment, epoch=lambda: 2))):
        assert not torch.equal(other, first)


@pytest.mark.parametrize("entry", BATCHED.values(), ids=BATCHED)
def test_a_batch_depends_on_seed_epoch_and_number_alone(entry: object) -> None:
    augment = built({"crop": 2}, entry)
    first = list(served(batches(augment)))
    for options in ({"chunk": lambda number: 2}, {"num_workers": 0}):
        assert all(map(torch.equal, chain(*served(batches(augment, **options))), chain(*first)))
    resumed = list(served(batches(augment, start=lambda: 2)))
    assert all(map(torch.equal, chain(*resumed), chain(*first[2:])))
    other = list(served(batches(augment, epoch=lambda: 2)))
    assert not any(torch.equal(one, same) for (one, _), (same, _) in zip(other, first, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_workers_augment_as_this_process_does() -> None:
    augment = built({"crop": 2}, "randaugment", EACH["own"], BATCHED["own"], EACH["ElasticTransform"], "mixup")
    first = list(served(batches(augment)))
    assert all(map(torch.equal, chain(*served(batches(augment, num_workers=2))), chain(*first)))


def changed(transform: Transform, images: Tensor) -> Tensor:
    return transform(images, transform.draw(len(images), 0, 0, 0))


def test_crop_takes_each_window_and_flip_either_side() -> None:
    images = noise(2400, 3, 5, 8)
    windows = pad(images, (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 8, 1)  # (B, channels, down, right, height, width)
    versions = torch.stack([images, images.flip(3)], 2)[:, :, None]
    mirrored = pad(images.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8).unfold(2, 5, 1).unfold(3, 8, 1)
    for transform, expected in ((Crop(2), windows), (Crop(2, reflect=True), mirrored), (Flip(), versions)):
        found = (expected == changed(transform, images)[:, :, None, None]).all(-1).all(-1).all(1).flatten(1)
        assert found.sum(1).eq(1).all()
        share = 2400 / found.shape[1]
        assert ((found.sum(0) - share).abs() < 3 * share**0.5).all()
    assert changed(Flip(0.1), images).ne(images).flatten(1).any(1).float().mean() == pytest.approx(0.1, abs=0.03)


def test_two_epochs_show_both_sides_of_each_image() -> None:
    augment, plain = built({"flip": {"alternate": True}}), by_number(batches(None))
    epochs = [by_number(batches(augment, epoch=lambda number=number: number)) for number in range(4)]
    mirrored = [(epoch != plain).flatten(1).any(1) for epoch in epochs]
    assert 0 < mirrored[0].sum() < COUNT
    assert torch.equal(torch.where(mirrored[0][:, None, None, None], plain.flip(3), plain), epochs[0])
    assert torch.equal(mirrored[1], ~mirrored[0])
    assert torch.equal(epochs[2], epochs[0])
    assert torch.equal(epochs[3], epochs[1])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (10, 6)])
def test_rotation_reaches_its_limit_either_way(height: int, width: int) -> None:
    images = noise(3, 2, height, width)
    turned = Rotate(90)(images, torch.tensor([0.0, 0.5, 1.0])[:, None])
    # Quarter turns put pixels on pixels: the middle square turns, and what is beside it becomes black.
    top, left = max(0, height - width) // 2, max(0, width - height) // 2
    square = images[:, :, top : height - top, left : width - left]
    quarters = [pad(square[number].rot90(turn, (1, 2)), (left, left, top, top)) for number, turn in ((0, -1), (2, 1))]
    assert (turned.int() - torch.stack([quarters[0], images[1], quarters[1]]).int()).abs().max() <= 1


def test_small_rotations_keep_the_brightness(digit_images: tuple[Tensor, Tensor]) -> None:
    images = digit_images[0]
    turned = changed(Rotate(15), images)
    assert torch.allclose(turned.float().flatten(1).sum(1), images.float().flatten(1).sum(1), rtol=0.1)
    assert (turned.int() - images).flatten(1).abs().amax(1).gt(1).float().mean() > 0.9


def test_erase_blackens_one_square() -> None:
    images = noise(500, 2, 9, 12)
    black = changed(Erase(4), images).eq(0).all(1)
    rows, columns = black.any(2).sum(1), black.any(1).sum(1)
    assert torch.equal(black.flatten(1).sum(1), rows * columns)
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [2, 3, 4]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_as_those_of_torchvision(name: str) -> None:
    images, drawn = noise(9, 3, 6, 6), torch.linspace(0, 1, 9)[:, None].expand(9, 4)
    found = Color(**{name: 0.4})(images, drawn)
    amounts = 0.4 * (2 * drawn[:, 0] - 1)
    adjust = getattr(functional, f"adjust_{name}")
    expected = [adjust(image, float(amount + (name != "hue"))) for image, amount in zip(images, amounts, strict=True)]
    assert (found.int() - torch.stack(expected).int()).abs().max() <= 1


EQUAL: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda image: image,
    "brightness": lambda image: functional.adjust_brightness(image, 1.5),
    "color": lambda image: functional.adjust_saturation(image, 1.5),
    "contrast": lambda image: functional.adjust_contrast(image, 1.5),
    "sharpness": lambda image: functional.adjust_sharpness(image, 1.5),
    "posterize": lambda image: functional.posterize(image, 6),
    "solarize": lambda image: functional.solarize(image, 127.5),
    "autocontrast": functional.autocontrast,
    "equalize": functional.equalize,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_policies_are_those_of_torchvision(name: str, channels: int) -> None:
    images = noise(5, channels, 8, 8) // 2
    amount = 2.0 if name == "posterize" else 0.5
    found = CHANGES[name](images, torch.full((5, 1, 1, 1), amount))
    assert (found.int() - EQUAL[name](images).int()).abs().max() <= 1


def test_policies_choose_each_change() -> None:
    images = noise(1, 1, 8, 8).expand(3000, -1, -1, -1)
    for policy in (RandAugment(1, 15), TrivialAugment()):
        kinds = torch.unique(changed(policy, images).flatten(1), dim=0)
        assert len(kinds) > 17  # 14 changes, some of them in two directions
    assert torch.equal(moved(images[:1], torch.tensor([[[1.0, 0, 2], [0, 1, 0]]]))[..., :-2], images[:1, :, :, 2:])


def test_policies_move_masks_with_images() -> None:
    classes = (torch.arange(48)[:, None] // 16 + torch.arange(48) // 24).expand(50, -1, -1)
    images = (60 * classes).to(torch.uint8)[:, None]
    for policy in (RandAugment(2, 20), TrivialAugment()):
        drawn = torch.rand(50, policy.numbers, generator=torch.Generator().manual_seed(0))
        drawn[:, ::2] *= 0.35  # the first five of the 14 changes
        changed_images, moved_classes = policy.apply(images, classes, drawn, 255, ())
        assert moved_classes is not None
        near = (changed_images[:, 0] / 60 - torch.where(moved_classes == 255, 0, moved_classes)).abs() < 0.6
        assert near.float().mean() > 0.97
        assert 0.02 < (moved_classes == 255).float().mean() < 0.6


def test_mixtures_have_the_classes_of_both_images() -> None:
    plain, mixes = (list(served(batches(built("flip", *names), batch_size=3))) for names in ([], ["mixup", "cutmix"]))
    kinds = set()
    for (images, numbers), (mixed, targets) in zip(plain, mixes, strict=True):
        assert targets.shape == (3, COUNT)
        assert torch.allclose(targets.sum(1), torch.ones(3))
        share = float(targets[0, numbers[-1]])  # of the image before
        both = one_hot(numbers, COUNT), one_hot(numbers.roll(1), COUNT)
        assert torch.allclose(targets, both[0] * (1 - share) + both[1] * share)
        others = images.roll(1, 0)
        from_other = (mixed == others).all(1)
        kinds.add(is_cut := bool((from_other | (mixed == images).all(1)).all()))
        if is_cut:
            assert float(from_other.float().mean()) == pytest.approx(share, abs=0.02)
        else:
            assert torch.allclose(mixed, images * (1 - share) + others * share, atol=1e-5)
    assert kinds == {True, False}  # both occur in the batches of this epoch


def test_the_loss_of_a_mixture_is_that_of_both_classes() -> None:
    objective = Objective(nn.CrossEntropyLoss(label_smoothing=0.1), "classes")
    output, first, second = torch.randn(6, 4), torch.arange(6) % 4, torch.arange(1, 7) % 4
    soft = 0.7 * one_hot(first, 4) + 0.3 * one_hot(second, 4)
    expected = 0.7 * objective(output, first) + 0.3 * objective(output, second)
    assert torch.allclose(objective(output, soft), expected)
    assert torch.equal(objective.indices(soft), first)


def test_a_recorded_augment_draws_what_it_drew() -> None:
    """The numbers that Lamella 0.1 drew for a sample, and the pixels that it made with them."""
    images = noise(60, 1, 6, 9)
    augment = Augment(crop=2, flip=True, rotation=20)
    images_of = Batches(
        Samples(images, torch.arange(60)), 7, augment=Augmentation(augment, 60), shuffle=True, epoch=lambda: 2, seed=5
    )
    assert torch.equal(by_number(images_of), augment(images, augment.draw(60, 5, 2)))
    assert augment.draw(60, 5, 2)[7].tolist() == pytest.approx(DRAWN)


DRAWN = [0.20630395412445068, 0.3652658462524414, 0.7600157856941223, 0.372768759727478]


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with mixing, and a transform of torchvision; not to be changed."""
    root = tmp_path_factory.mktemp("mixed")
    programs.run(root, "train", *MIXED)
    return next(root.glob("outputs/default/*"))


ELASTIC = f"{{_target_: {V2}ElasticTransform,alpha: 20}}"
MIXED = (
    f"data.augment=[{{crop: 2}},{ELASTIC},{{mixup: 0.4}},cutmix]", "network=linear", "device=cpu", "device.threads=1",
    "trainer.max_epochs=2", "metrics=[f1,auroc]", "data.batch_size=256", "visuals=none",
)  # fmt: skip


def done(result: Result) -> str:
    assert result.status == 0, result.err
    return result.out


@pytest.mark.slow
def test_every_command_takes_a_run_with_mixing(lamella: Lamella, mixed_run: Path) -> None:
    run = Path(shutil.copytree(mixed_run, "run"))
    record = json.loads((run / "run.json").read_text())
    assert record["metrics"]["val/accuracy"] > record["metrics"]["train/accuracy"] > 0.2
    assert "train/f1" in record["metrics"]
    entries = yaml.safe_load((run / "config.yaml").read_text())["data"]["augment"]
    assert [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries][2:] == ["mixup", "cutmix"]
    done(lamella("eval", str(run)))
    tested = json.loads((run / "eval.json").read_text())["metrics"]
    assert tested == {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    shown = done(lamella("inspect", str(run), "--gradients"))
    assert (
        "Augmentation of training batches\nCrop(padding=2, reflect=False)\nElasticTransform(alpha=[20.0, 20.0]" in shown
    )
    assert "Mixup(alpha=0.4)\nCutmix(alpha=1.0)\n" in shown
    assert "sample 0: predicted" in shown
    assert "bit for bit" in done(lamella("reproduce", str(run)))


def listed(augment: Sequence[Listed] | Augment | None) -> Sequence[Listed]:
    assert isinstance(augment, Sequence)
    return augment


def test_entries_are_written_in_several_ways() -> None:
    for entries in (["flip", {"flip": None}, {"flip": 0.5}, {"flip": [0.5]}, {"flip": {"p": 0.5}}],):
        assert listed(build_augment(entries)) == [Flip()] * 5
    [external] = listed(build_augment([{"_target_": f"{V2}RandomInvert", "p": 1, "per": "batch"}]))
    assert isinstance(getattr(external, "transform", None), v2.RandomInvert)
    assert build_augment(None) is None
    assert build_augment([]) == []
    assert build_augment({"crop": 2, "flip": True}) == Augment(2, True)


OWN = """
import torch

def same(image, mask=None): return image
def floats(image): return image.float()
def smaller(image): return image[:, 1:]
def text(image): return "an image"
def fails(image): return image.nothing
class NoCall: pass
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("floats", "floats makes float32 (1, 28, 28) of an image, uint8 (1, 28, 28); a transform keeps the shape and"),
        ("smaller", "smaller makes uint8 (1, 27, 28) of an image"),
        ("text", "text makes a str of an image"),
        ("fails", "fails fails for uint8 (1, 28, 28): 'Tensor' object has no attribute 'nothing'\n  mine.py, line 8"),
        ("NoCall", "NoCall cannot be called; give it a method __call__(image)"),
        ("same,amount: 3", "data.augment.0.amount: same has no such argument"),
    ],
)
def test_a_transform_of_ones_own_that_cannot_work_is_refused(
    lamella: Lamella, project: Project, given: str, message: str
) -> None:
    project(mine=OWN)
    result = lamella("train", "network=linear", f"data.augment=[{{_target_: mine.{given}}}]")
    assert (result.status, message in result.err) == (2, True), result.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{_target_: mine.same}", "same says nothing of masks; let it take (image, mask) and return both"),
        (
            f"{{_target_: {V2}RandomRotation,degrees: 9,fill: 3}}",
            "RandomRotation has fill=3, which the masks would get",
        ),
    ],
)
def test_a_transform_that_does_not_know_masks_is_refused(
    lamella: Lamella, project: Project, entry: str, message: str
) -> None:
    project(mine=OWN)
    result = lamella("train", "data=shapes", "data.source.count=60", "network=unet", f"data.augment=[{entry}]")
    assert (result.status, message in result.err) == (2, True), result.err

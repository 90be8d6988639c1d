"""Train the recipes in conf/experiment with several seeds, and compare each with a training that lacks a part of it.

    python bench/recipes.py ROOT [--recipe mnist_cnn …] [--seeds N] [--epochs N] [--output DIR]

ROOT contains MNIST as torchvision stores it, and Fashion-MNIST and CIFAR-10 where these are at hand. Without
Fashion-MNIST, its recipe is trained on MNIST. Without CIFAR-10, its recipe is trained on photographs in the folders
cifar10_small/train/CLASS and cifar10_small/test/CLASS. For `finetune`, the same network is trained on eight classes of
these folders; it then gets 50 images of each of the other two, drawn by the seed. A difference is paired by the seed,
and its p is that of a paired t-test. The runs are kept below DIR, and those that are finished there are not trained
again. The output is a Markdown table.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

FOLDERS = ["data=image_folder", "data.shape=[3,32,32]"]
FEW = 50  # images of each class for `finetune`


@dataclass(frozen=True)
class Recipe:
    """A recipe: with how many seeds it is trained, and what its comparisons change, by what they lack."""

    seeds: int
    without: dict[str, list[str]] = field(default_factory=dict)


RECIPES = {
    "mnist_cnn": Recipe(5),
    "fashion_cnn": Recipe(5),
    "cifar10_resnet": Recipe(
        3,
        {
            "averaged weights": ["trainer.ema=null"],
            "erased squares": ["data.augment=[{crop: 4}, flip]"],
            "one-cycle": ["scheduler=constant"],
        },
    ),
    "finetune": Recipe(5, {"trained weights": ["network.weights=null"]}),
    "digits_mixup_ema": Recipe(
        10,
        {
            "mixed images and averaged weights": ["data.augment=[{crop: 1}]", "trainer.ema=null"],
            "augmentation and averaged weights": ["data.augment=[]", "trainer.ema=null"],
        },
    ),
}


def train(name: str, overrides: list[str]) -> Path:
    """Train a run, unless it is finished, and return its directory."""
    place = Path("outputs", name)
    if not any(json.loads(path.read_text())["status"] == "finished" for path in place.glob("*/run.json")):
        command = [sys.executable, "-m", "lamella", "train", *overrides, f"name={name}"]
        subprocess.run(command, stdout=sys.stderr, check=True)
    return next(place.glob("*/run.json")).parent


def divide(photos: Path, seeds: int) -> None:
    """Link the photographs: eight classes to `eight`, and FEW of each of the other two to `two/SEED`."""
    classes = sorted(path.name for path in (photos / "train").iterdir())
    for part in ("train", "test"):
        for name in classes[:8]:
            link(Path("eight", part, name), sorted((photos / part / name).iterdir()))
        for seed in range(seeds):
            for name in classes[8:]:
                files = sorted((photos / part / name).iterdir())
                chosen = random.Random(seed).sample(files, FEW) if part == "train" else files
                link(Path("two", str(seed), part, name), chosen)


def link(folder: Path, files: list[Path]) -> None:
    """Make a folder of links to files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)


def data_overrides(recipe: str, root: Path, seed: int) -> list[str]:
    """Return the overrides that say where the data of a recipe is."""
    if recipe == "finetune":
        [base] = Path("outputs/eight").iterdir()
        return [f'network.weights.from="{base}"', f"data.root={Path('two', str(seed)).resolve()}"]
    if recipe == "fashion_cnn" and not (root / "FashionMNIST").is_dir():
        return ["data=mnist", f"data.root={root}"]
    if recipe == "cifar10_resnet" and not (root / "cifar-10-batches-py").is_dir():
        return [*FOLDERS, f"data.root={root / 'cifar10_small'}"]
    return [] if recipe.startswith("digits") else [f"data.root={root}"]


def accuracies(recipe: str, side: str, changes: list[str], root: Path, seeds: int, more: list[str]) -> list[float]:
    """Train one side of a recipe with each seed, print a row of the table, and return the test accuracies."""
    found, seconds = [], []
    for seed in range(seeds):
        overrides = [f"experiment={recipe}", *data_overrides(recipe, root, seed), f"seed={seed}", *more]
        run = train(f"{recipe}-{side or 'whole'}-{seed}".replace(" ", "_"), [*overrides, *changes])
        record = json.loads((run / "run.json").read_text())
        found.append(record["metrics"]["test/accuracy"])
        seconds.append(record["seconds"])
    mean, spread = statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0
    title = f"without {side}" if side else f"`{recipe}`"
    print(f"| {title} | {len(found)} | {mean:.2%} ± {spread:.2%} | {statistics.median(seconds):.0f} s |", end="")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    root, output = options.root.resolve(), options.output or Path(tempfile.mkdtemp(prefix="recipes"))
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(output)
    from scipy.stats import ttest_rel

    more = [f"trainer.max_epochs={options.epochs}"] if options.epochs else []
    print(f"{platform.machine()}, {os.cpu_count()} cores\n")
    print("| recipe | n | test accuracy | time of a run | the recipe is better by |\n| --- | --- | --- | --- | --- |")
    for name in options.recipe:
        recipe = RECIPES[name]
        seeds = options.seeds or recipe.seeds
        if name == "finetune":
            divide(root / "cifar10_small", seeds)
            train("eight", ["experiment=cifar10_resnet", *FOLDERS, f"data.root={Path('eight').resolve()}", *more])
        whole = accuracies(name, "", [], root, seeds, more)
        print(" |", flush=True)
        for side, changes in recipe.without.items():
            other = accuracies(name, side, changes, root, seeds, more)
            better = statistics.fmean(whole) - statistics.fmean(other)
            p = f", p = {ttest_rel(whole, other).pvalue:.2g}" if seeds > 1 else ""
            print(f" {100 * better:.2f} points{p} |", flush=True)


if __name__ == "__main__":
    main()

"""Train experiment=cifar10_fast and experiment=cifar10_resnet for about the same time, and compare their accuracies.

    python bench/fast.py ROOT [--seeds 3] [--device cuda]

ROOT contains CIFAR-10 as torchvision or its authors store it, or photographs of it in the folders
cifar10_small/train/CLASS and cifar10_small/test/CLASS. The second side gets as many epochs as `--epochs` says. For the
photographs, both have numbers that suit 5,000 images and one thread of a processor. Each run is a whole program, from
the command to its end; the time of the processor is that of the program with its start. All images that are not for the
test are trained with. The output is a Markdown table of medians with the smallest and largest values.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timed import reason

VIEWS = "flip,shift"
# What suits few images: smaller batches, the rate in proportion to them, and a network of half the size.
FEW = {
    "cifar10_fast": ["data.batch_size=125", "optimizer.lr=0.19", "network.widths=[64,128,128]", "trainer.max_epochs=5"],
    "cifar10_resnet": ["trainer.ema=0.9"],
}


def data_overrides(root: Path) -> list[str]:
    """Return the overrides of the pictures in a folder: CIFAR-10, or else photographs in folders."""
    if any((root / f"cifar-10-batches-{version}").is_dir() for version in ("bin", "py")):
        return [f"data.root={root}", "data.download=false"]
    folders = ["data=image_folder", f"data.root={root / 'cifar10_small'}", "data.shape=[3,32,32]"]
    return [*folders, "data.mean=[0.4914,0.4822,0.4465]", "data.std=[0.2470,0.2435,0.2616]"]


def train(
    directory: Path, recipe: str, name: str, overrides: Sequence[str], limit: float | None = None
) -> dict[str, Any]:
    """Train a recipe in a directory, as a program of its own, and return what it took and what it reached.

    Raises RuntimeError with the reason if the program fails, and subprocess.TimeoutExpired after `limit` seconds.
    """
    lamella = [sys.executable, "-m", "lamella"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    _call([*lamella, "train", f"experiment={recipe}", f"name={name}", *overrides], directory, limit)
    whole, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    [run] = (directory / "outputs" / name).iterdir()
    _call([*lamella, "eval", str(run), "--views", VIEWS], directory, limit)
    record, epochs = json.loads((run / "run.json").read_text()), (run / "metrics.jsonl").read_text().splitlines()
    return {
        "command, s": whole,
        "processor, s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "training, s": sum(json.loads(line)["seconds"] for line in epochs),
        "accuracy": record["metrics"]["test/accuracy"],
        "with views": json.loads((run / "eval.json").read_text())["metrics"]["test/accuracy"],
        "memory, GB": record["usage"].get("gpu_memory_gb", record["usage"]["memory_gb"])["peak"],
    }


def _call(command: Sequence[str], directory: Path, limit: float | None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(reason(done.stderr))


def row(title: str, runs: Sequence[dict[str, Any]]) -> str:
    """Return the medians of the runs of a recipe as a row of a table."""
    cells = [f"`{title}`, n = {len(runs)}"]
    for key in runs[0]:
        values = [run[key] for run in runs]
        form = ".1%" if key in ("accuracy", "with views") else ".1f"
        spread = f" ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else ""
        cells.append(f"{statistics.median(values):{form}}{spread}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of cifar10_resnet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--override", nargs="*", default=[], help="of both sides")
    options = parser.parse_args()
    data = data_overrides(options.root.resolve())
    shared = [*data, f"device={options.device}", "device.threads=1", "visuals=none", *options.override]
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(options.seeds):
            for recipe in FEW:
                own = FEW[recipe] if "data=image_folder" in data else []
                if recipe == "cifar10_resnet":
                    own = [*own, "data.val_size=0", "monitor=train/loss", f"trainer.max_epochs={options.epochs}"]
                run = train(Path(directory), recipe, f"{recipe}{seed}", [*own, *shared, f"seed={seed}"])
                found.setdefault(recipe, []).append(run)
                print(row(f"{recipe}, seed {seed}", [run]), file=sys.stderr, flush=True)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.device}\n")
    print(f"| recipe | {' | '.join(next(iter(found.values()))[0])} |\n{'| --- ' * 7}|")
    for recipe, runs in found.items():
        print(row(recipe, runs))


if __name__ == "__main__":
    main()

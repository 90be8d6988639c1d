"""Compare what sweeps are estimated to take with what they take, for sweeps of the shipped experiments.

    python bench/estimate.py [--repeats 3] [--case NAME …] [--data ROOT]

Each sweep is four seeds of a recipe, or a grid of widths and learning rates, with two jobs at a time. The table gives
the estimates of time, disk and memory divided by what was taken, as medians with the smallest and the largest value.
The memory taken is the largest of any process of the sweep, read ten times a second. ROOT contains MNIST as torchvision
stores it; without it, these sweeps are left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

SEEDS = "seed=0,1,2,3"
CASES = {
    "digits": [SEEDS, "trainer.max_epochs=30"],
    "digits_grid": ["network.width=32,128,512", "optimizer.lr=1e-2,1e-3,1e-4", "trainer.max_epochs=20"],
    "digits_resnet": [SEEDS, "experiment=digits_resnet", "trainer.max_epochs=12"],
    "digits_mixup_ema": [SEEDS, "experiment=digits_mixup_ema"],
    "tabular_classes": [SEEDS, "experiment=tabular_classes"],
    "text_classes": [SEEDS, "experiment=text_classes"],
    "forecast": [SEEDS, "experiment=forecast"],
    "unet_shapes": [SEEDS, "experiment=unet_shapes"],
    "char_gpt": [SEEDS, "experiment=char_gpt", "+trainer.max_steps=60"],
    "mnist": ["seed=0,1,2", "data=mnist", "trainer.max_epochs=6"],
    "mnist_cnn": ["seed=0,1", "experiment=mnist_cnn", "trainer.max_epochs=2"],
}


def sweep(overrides: list[str]) -> dict[str, float]:
    """Run a sweep, and return the ratios of the estimates to what was taken, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as directory:
        line = ["train", "-m", *overrides, "sweep.name=s", "sweep.measure=true", "hydra.launcher.slots=2", "device=cpu"]
        peak, announced = 0, False
        with (Path(directory) / "out").open("w+") as out:
            command = [sys.executable, "-m", "lamella", *line]
            process = subprocess.Popen(command, cwd=directory, stdout=out, stderr=subprocess.STDOUT)
            while process.poll() is None:
                announced = announced or "of disk" in (Path(directory) / "out").read_text()
                with suppress(psutil.Error):
                    jobs = psutil.Process(process.pid).children(recursive=True) if announced else []
                    peak = max([peak, *(job.memory_info().rss for job in jobs)])
                time.sleep(0.1)
            assert process.returncode == 0, (Path(directory) / "out").read_text()
        [record] = Path(directory).glob("outputs/*/s/sweep.json")
        estimate = json.loads(record.read_text())["estimate"]
        files = {file.stat().st_ino: file.stat().st_size for file in record.parent.glob("*/**/*") if file.is_file()}
        return {
            "seconds": estimate["took"],
            "time": estimate["seconds"] / estimate["took"],
            "disk": estimate["disk"] / sum(files.values()),
            "memory": estimate["memory"] / peak,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST is; default: data")
    options = parser.parse_args()
    print("| sweep | took | time | disk | memory |\n| --- | --- | --- | --- | --- |", flush=True)
    for case in options.case:
        overrides = list(CASES[case])
        if "mnist" in case:
            if not (options.data / "MNIST").is_dir():
                continue
            overrides.append(f"data.root={options.data.absolute()}")
        found = [sweep(overrides) for _ in range(options.repeats)]
        took = f"{statistics.median(one['seconds'] for one in found):.0f} s"
        cells = [
            f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
            for values in ([one[name] for one in found] for name in ("time", "disk", "memory"))
        ]
        print(f"| `{case}` | {took} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

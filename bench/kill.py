"""Kill runs at random moments, resume them, and compare the results with those of runs that were not killed.

    python bench/kill.py [--trials 300] [--jobs 2] [--seed 0]

A trial trains one of the configs below, is killed with SIGKILL one to three times, is resumed each time, and must end
with the same bits: weights, optimizer, schedulers and progress in both checkpoints, every line of metrics.jsonl, every
point in TensorBoard and the metrics of each sample, except for times. Each command is a real process, forked from a
process that has done the imports, because otherwise each start would take five seconds.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

SAMPLES = "samples.npz"
MEASURED = ("seconds", "samples_per_second")  # times, which are never the same
P = ParamSpec("P")
R = TypeVar("R")
BASE = ("device=cpu", "device.threads=1", "data.batch_size=128", "trainer.max_epochs=3")
CALLBACK = "trainer.callbacks=[{_target_: pytorch_lightning.callbacks."
GROWING = CALLBACK + "GradientAccumulationScheduler, scheduling: {0: 1, 1: 3}}]"
METRICS = "metrics=[f1,auroc,calibration_error]"
CONFIGS = {
    "plain": ("network.dropout=0.2",),
    "steps": ("network.dropout=0.2", "trainer.checkpoint_every=1steps", "visuals=full"),
    "augment": (
        "data.augment=[{crop: 2},{rotate: 10},randaugment,{mixup: 0.4},cutmix]",
        "trainer.checkpoint_every=3steps",
    ),
    "cnn": ("network=cnn", "network.widths=[4,8]", "trainer.checkpoint_every=2steps", "data.augment=[{crop: 1}]"),
    "bf16": (
        "network=cnn",
        "network.widths=[4,8]",
        "device.precision=bf16-mixed",
        "device.channels_last=true",
        "trainer.ema=0.9",
        "trainer.checkpoint_every=2steps",
    ),
    "ema": ("network.dropout=0.2", "trainer.ema=0.9", "trainer.keep_top=2", "trainer.checkpoint_every=2steps"),
    "loader": ("data.in_memory=false", "trainer.checkpoint_every=2steps", "network.dropout=0.1"),
    "workers": ("data.in_memory=false", "data.num_workers=2", "trainer.checkpoint_every=2steps"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "optimizer.lr=0.1", "trainer.checkpoint_every=2steps"),
    "one_cycle": ("scheduler=one_cycle", "trainer.checkpoint_every=2steps"),
    "cosine": ("scheduler=cosine", "scheduler.warmup_steps=9", "optimizer=sgd", "trainer.checkpoint_every=4steps"),
    "step": ("scheduler=step", "scheduler.step_size=1", "optimizer=adamw", "trainer.checkpoint_every=1steps"),
    "accumulate": ("trainer.accumulate_grad_batches=4", "trainer.checkpoint_every=1steps", "network.dropout=0.2"),
    "early": (
        "trainer.early_stopping=1",
        "trainer.keep_top=2",
        "optimizer.lr=0.1",
        "trainer.max_epochs=9",
        "trainer.checkpoint_every=5steps",
    ),
    "val": ("+trainer.val_check_interval=0.25", "trainer.checkpoint_every=1steps", "monitor=val/loss", "trainer.swa=2"),
    "rarely": ("+trainer.check_val_every_n_epoch=2", "scheduler=plateau", "trainer.checkpoint_every=2steps"),
    "growing": (GROWING, "trainer.checkpoint_every=1steps", "network.dropout=0.2"),
    "thaw": (
        "network=cnn",
        "network.widths=[4,8]",
        "network.freeze={features.*: 1, classifier.1.*: 2}",
        "optimizer=sgd",
        "trainer.checkpoint_every=2steps",
    ),
    "max_steps": ("+trainer.max_steps=27", "trainer.checkpoint_every=2steps", "network.dropout=0.2"),
    "text": (
        "experiment=char_gpt",
        "data.size=60000",
        "data.length=32",
        "network.width=16",
        "network.depth=1",
        "network.dropout=0.1",
        "trainer.checkpoint_every=2steps",
    ),
    "metrics": (METRICS, "trainer.checkpoint_every=2steps", "monitor=val/auroc"),
    "ddp": ("trainer=ddp", "trainer.devices=2", "trainer.checkpoint_every=2steps", "trainer.ema=0.9", METRICS),
}


def beside(directory: Path, name: str) -> Path:
    """Return the file `name` beside a directory: the `output` of its commands, or how the last one `ended`."""
    return directory.with_name(f"{directory.name}.{name}")


def command(directory: Path, arguments: tuple[str, ...], moment: int | None = None, states: Path | None = None) -> None:
    """Run one command of Lamella, and end this forked process by SIGKILL at the moment of this number.

    A moment is a call of one of Lightning's hooks, the start of writing a checkpoint, or a file that is synced, linked
    or renamed, once the run has a record. If the command is not killed, its exit status and the number of moments are
    written to the file `ended`.

    states: a folder for copies of `directory`, one for each moment at which its files have changed, named by the
    moment's number. A copy is what a kill at that moment would leave on the disk.
    """
    import torch

    from lamella import __main__

    os.setpgid(0, 0)
    os.chdir(directory)
    count, copied = 0, _state(directory)

    def counted(function: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            nonlocal count, copied
            count += run_of(Path()) is not None  # what comes before leaves nothing behind
            if count and count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            if states and (state := _state(directory)) != copied:
                copied = state
                subprocess.run(["cp", "-a", directory, states / str(count)], check=True)  # keeps hard links
            return function(*args, **kwargs)

        return call

    if moment is not None:
        from pytorch_lightning.trainer import call as calls

        # A private function of Lightning, through which it calls every hook of every callback.
        calls._call_callback_hooks = counted(calls._call_callback_hooks)
        torch.save = counted(torch.save)
        os.replace, os.link, os.fsync = counted(os.replace), counted(os.link), counted(os.fsync)
    output = os.open(beside(directory, "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["lamella", *arguments]
    try:
        status = __main__.main()
    except SystemExit as left:
        status = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 70
    beside(directory, "ended").write_text(f"{status} {count}")
    os._exit(status)


def _state(directory: Path) -> list[tuple[str, int, int, int]]:
    """Return the path, inode, size and time of change of each file in a directory."""
    files = [(path, path.stat()) for path in sorted(directory.rglob("*"))]
    return [(str(path), file.st_ino, file.st_size, file.st_mtime_ns) for path, file in files]


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["lamella.experiment.session", "lamella.commands.train", "lamella.commands.resume", "hydra.main"]
)


def lamella(
    directory: Path,
    *arguments: str,
    moment: int | None = None,
    states: Path | None = None,
    seconds: float | None = None,
) -> int:
    """Run a command in a process of its own, and return its exit status, -9 if it was killed.

    moment and states: as in `command`. seconds: kill the command after this time.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(argument.startswith("trainer=ddp") for argument in arguments) or "ddp" in directory.name:
        return _program(directory, arguments, seconds)
    ended = beside(directory, "ended")
    ended.unlink(missing_ok=True)
    process = CONTEXT.Process(target=command, args=(directory, arguments, moment, states))
    process.start()
    process.join(seconds)
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    return int(ended.read_text().split()[0]) if ended.exists() else -signal.SIGKILL


def _program(directory: Path, arguments: tuple[str, ...], seconds: float | None) -> int:
    """Run a command as a program, because it starts further processes with the command line of the program."""
    with beside(directory, "output").open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lamella", *arguments],
            cwd=directory,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def run_of(directory: Path) -> Path | None:
    """Return the run that was started in a directory, None if it was killed before it had a record."""
    return next((path.parent for path in directory.glob("outputs/*/*/run.json")), None)


def differences(one: Path, other: Path) -> list[str]:
    """Return the differences between two run directories, except for times."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = [{file.name for file in path.glob("checkpoints/epoch-*")} for path in (one, other)]
    found = [f"kept by one alone: {name}" for name in names[0] ^ names[1]]
    for name in ("last.ckpt", "best.ckpt", *(names[0] & names[1])):
        files = (path / "checkpoints" / name for path in (one, other))
        a, b = (torch.load(file, map_location="cpu", weights_only=True) for file in files)
        found += [f"{name}: {place}" for place in unequal(a, b)]
    records = [json.loads((path / "run.json").read_text()) for path in (one, other)]
    for key in ("status", "epochs", "steps", "metrics", "best_epoch", "error"):
        found += [f"run.json: {key}{place}" for place in unequal(records[0][key], records[1][key])]
    kept_samples = [path.read_bytes() if path.exists() else None for path in (one / SAMPLES, other / SAMPLES)]
    found += [SAMPLES] * (kept_samples[0] != kept_samples[1])
    lines = []
    for path in (one, other):
        parsed = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        lines.append([{key: value for key, value in line.items() if key not in MEASURED} for line in parsed])
    found += [f"metrics.jsonl: {place}" for place in unequal(lines[0], lines[1])]
    points = []
    for path in (one, other):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "histograms": 0}).Reload()
        tags = events.Tags()
        kept: list[tuple[str, object]] = []
        for tag in tags["scalars"]:
            if tag.startswith("machine/"):
                continue
            values = [(p.step, None if tag.rpartition("/")[2] in MEASURED else p.value) for p in events.Scalars(tag)]
            kept.append((tag, values))
        kept += [(tag, [(p.step, p.encoded_image_string) for p in events.Images(tag)]) for tag in tags["images"]]
        kept += [
            (tag, [(p.step, str(p.histogram_value)) for p in events.Histograms(tag)]) for tag in tags["histograms"]
        ]
        kept += [(tag, [p.step for p in events.Tensors(tag)]) for tag in tags["tensors"]]
        points.append(sorted(kept))
    found += [f"events: {place}" for place in unequal(points[0], points[1])]
    for path in (one, other):
        found += [f"left over: {file}" for file in path.rglob(".*")]
    return found


def unequal(a: object, b: object, place: str = "") -> list[str]:
    """Return the places at which two nested dicts, lists and tensors differ."""
    import torch

    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in ("files", "paused", *MEASURED)]
        return [inner for key in keys for inner in unequal(a.get(key), b.get(key), f"{place}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [inner for i in range(len(a)) for inner in unequal(a[i], b[i], f"{place}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return [] if same and a.numpy().tobytes() == b.numpy().tobytes() else [place]
    return [] if type(a) is type(b) and a == b else [f"{place}: {str(a)[:60]} is {str(b)[:60]}"]


def trial(folder: Path, name: str, reference: Path, seconds: float, chance: random.Random) -> tuple[int, list[str]]:
    """Train, kill and resume a run until it has finished. Return the number of kills, and the differences."""
    kills = chance.randint(1, 3)
    arguments, done = ("train", *BASE, *CONFIGS[name]), 0
    while True:
        left = chance.uniform(0.0, 1.0) * seconds if done < kills else None
        status = lamella(folder, *arguments, seconds=left)
        done += status == -signal.SIGKILL
        run = run_of(folder)
        if status not in (0, -signal.SIGKILL):
            return done, [f"exit status {status}: {beside(folder, 'output').read_text()[-2000:]}"]
        if run:
            arguments = ("resume", str(run.relative_to(folder)))
            if status == 0 and done == 0:  # the run ended before it was killed
                return trial(folder.with_name(f"{folder.name}-again"), name, reference, seconds * 0.9, chance)
            if status == 0:
                return done, differences(reference, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", nargs="+", default=list(CONFIGS))
    options = parser.parse_args()
    trials, killed, failed = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        references: dict[str, tuple[Path, float]] = {}
        for name in options.config:
            directory = Path(folder, f"reference-{name}")
            lamella(directory, "train", *BASE, *CONFIGS[name])  # the first start is slower
            directory = Path(folder, f"reference-{name}-again")
            start = time.perf_counter()
            status = lamella(directory, "train", *BASE, *CONFIGS[name])
            seconds, run = time.perf_counter() - start, run_of(directory)
            if status or run is None:
                sys.exit(f"{name}: {beside(directory, 'output').read_text()}")
            references[name] = run, seconds

        def one(number: int) -> tuple[str, int, list[str]]:
            name = options.config[number % len(options.config)]
            chance = random.Random(f"{options.seed} {number}")
            directory = Path(folder, f"{name}-{number}")
            return name, *trial(directory, name, *references[name], chance)

        with ThreadPoolExecutor(options.jobs) as pool:
            for name, kills, found in pool.map(one, range(options.trials)):
                trials[name] += 1
                killed[name] += kills
                failed[name] += bool(found)
                for text in found[:5]:
                    print(f"  {name}: {text}", flush=True)
    for name in trials:
        print(f"{name:<12}{trials[name]:>5} trials{killed[name]:>6} kills{failed[name]:>5} failures")
    print(f"{'all':<12}{trials.total():>5} trials{killed.total():>6} kills{failed.total():>5} failures")
    sys.exit(failed.total() > 0)


if __name__ == "__main__":
    main()

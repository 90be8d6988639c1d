"""Check and measure training on a GPU: epochs against loops written by hand, sweeps, CIFAR-10, exact resume, tests.

    python bench/gpu.py ROOT [--output DIR] [--minutes 7] [--steps mlp tests …]
    python bench/gpu.py ROOT --device cpu --small --rounds 1     # tries the script itself on a machine without a GPU

ROOT contains MNIST as torchvision stores it, and CIFAR-10 where it is at hand, as torchvision or its authors store it;
`experiment=cifar10_fast` is trained on it as a user does. The script makes other pictures of this size itself, on which
an accuracy means nothing. Every side of a comparison trains the network that Lamella builds on the same samples, in
whole batches of 64, and validates after each epoch. The loop by hand has normalised floats on the GPU, a fused
optimizer and no training metrics; it is run as it is and with `torch.compile(mode="reduce-overhead")`. Lamella has its
progress bar, metrics, pictures and checkpoints. The sides take turns, each in a process of its own, and all epochs but
the first of a process are timed from outside. As long as there is time, further rounds add epochs. A step that fails or
takes too long is reported, and the others go on. `gpu.json` and `gpu.md` in DIR are written anew after each step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import fast
import fused
import kill
from epoch import NETWORKS
from timed import Values, reason, timed_epochs

# The overrides of each case beside those of its data, and the sides that are compared.
SIDES = ("eager", "lamella", "compiled", "lamella without graphs")
CASES = {
    "mlp": (NETWORKS["mlp"], SIDES),
    "cnn": (["network=cnn"], SIDES[:3]),
    "neural_network": (NETWORKS["neural_network"], SIDES[:3]),
    "resnet18": (["network=resnet18"], SIDES[:3]),
    "cnn, bf16": (["network=cnn", "device.precision=bf16-mixed"], SIDES[:3]),
    "resnet18, bf16": (["network=resnet18", "device.precision=bf16-mixed"], SIDES[:3]),
}
EPOCHS = 3  # of each process
SWEEPS = {
    "fused sweep": ["hydra/launcher=fused", "hydra.launcher.slots=1"],
    "sweep of eight processes at a time": ["hydra.launcher.slots=8"],
    "sweep of one after another": ["hydra/launcher=basic"],
}
# What is killed and resumed, each at these moments of `kill.lamella`.
EXACT = {"mlp": ["network=mlp", "network.dropout=0.2"], "cnn": ["network=cnn", "network.widths=[4,8]"]}
MOMENTS = (60, 120)
# The second are tests that take the GPU by themselves where there is one.
FILES = ("train", "eval", "predict", "task", "metrics", "weights", "freezing", "optimizers", "visuals", "masks", "text")
TESTS = {
    "tests": ["tests/test_gpu.py", "tests/test_chunks.py::test_an_optimizer_called_directly_takes_the_same_step"],
    "suite": [*(f"tests/test_{name}.py" for name in FILES), "-m", "not slow"],
}
PICTURES = """import torch
from lamella.data import Samples, Splits

def pictures(count: int) -> Splits:
    chance = torch.Generator().manual_seed(0)
    kinds = torch.randint(256, (10, 3, 32, 32), generator=chance)
    def part(count: int) -> Samples:
        targets = torch.randint(10, (count,), generator=chance)
        noise = torch.randint(-64, 64, (count, 3, 32, 32), generator=chance)
        return Samples((kinds[targets] + noise).clamp(0, 255).to(torch.uint8), targets)
    return Splits(part(count), part(1024), part(10000 if count == 50000 else 1024))
"""


def bare(overrides: list[str], epochs: int, compiled: bool) -> None:
    """Train with a loop written by hand, which takes the network and the normalised samples from Lamella."""
    import torch
    from torch.nn.functional import cross_entropy

    from lamella.config.compose import compose_one
    from lamella.data import Data
    from lamella.experiment.build import prepare_experiment

    experiment = prepare_experiment(compose_one(overrides).config)
    data, model, device = experiment.data, experiment.task.network, torch.device(experiment.device.accelerator)
    assert isinstance(data, Data)
    data.setup("fit")
    parts = [next(iter(data.batches(part, batch_size=len(part)))) for part in (data.train, data.val)]
    (inputs, targets), (val_inputs, val_targets) = [[part.to(device) for part in pair] for pair in parts]  # type: ignore[union-attr]
    half = torch.autocast(device.type, torch.bfloat16, enabled=experiment.device.precision == "bf16-mixed")
    torch.set_num_threads(experiment.device.threads)
    model.to(device)
    size, whole = data.batch_size, len(inputs) // data.batch_size * data.batch_size

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(inputs), targets)

    run = torch.compile(forward, mode="reduce-overhead") if compiled else forward
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for epoch in range(epochs):
        model.train()
        for indices in torch.randperm(len(inputs), device=device)[:whole].split(size):  # type: ignore[no-untyped-call]
            with half:
                loss = run(inputs[indices], targets[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad(), half:
            batches = zip(val_inputs.split(4 * size), val_targets.split(4 * size), strict=True)
            right = sum((model(x).argmax(1) == y).sum() for x, y in batches)
        print(f"epoch {epoch + 1}/{epochs}", float(right) / len(val_inputs), flush=True)  # waits for the device


def lamella(overrides: list[str]) -> None:
    """Train with Lamella, and print the metrics of the last epoch, among them the time without checkpoints."""
    from lamella import __main__

    sys.argv = ["lamella", "train", *overrides]
    if status := __main__.main():
        sys.exit(status)
    path = max(Path("outputs").rglob("metrics.jsonl"), key=os.path.getmtime)
    print("last", path.read_text().splitlines()[-1])


@dataclass(frozen=True)
class Setting:
    """What the steps share: the device, the folder of the data, and where files are written.

    small: a few samples and members, and no torch.compile, which takes long on a CPU.
    """

    device: str
    root: Path
    directory: Path
    output: Path
    small: bool

    @property
    def digits(self) -> list[str]:
        """Return the overrides of MNIST."""
        return ["data=digits"] if self.small else ["data=mnist", f"data.root={self.root}"]

    def pictures(self, count: int) -> list[str]:
        """Return the overrides of made pictures. count: of those for training."""
        made = f"+data.source={{_target_: pictures.pictures, count: {256 if self.small else count}}}"
        return ["data=cifar10", "~data.source", "~data.root", "~data.download", made]


def case(setting: Setting, name: str, found: Values, limit: float) -> None:
    """Train each side of a case, and add the seconds of its epochs and what it printed to `found`."""
    overrides, sides = CASES[name]
    data = setting.pictures(20480) if "resnet" in name else setting.digits
    shared = [*data, *overrides, "data.drop_last=true"]
    shared += [f"device={setting.device}", "device.threads=1", f"trainer.max_epochs={EPOCHS}", "trainer.test=false"]
    end = time.monotonic() + limit
    for side in sides:
        if side == "compiled" and setting.small:
            continue
        function: Callable[..., None] = partial(bare, epochs=EPOCHS, compiled=side == "compiled")
        function = lamella if side.startswith("lamella") else function
        options = [*shared, *["device.graph=false"] * side.endswith("graphs")]
        try:
            new = timed_epochs(function, options, directory=setting.directory, limit=end - time.monotonic())
            found[side] = {**new, "seconds": found.get(side, {}).get("seconds", []) + new["seconds"]}
        except Exception as error:
            found.setdefault(side, {"seconds": []})["error"] = str(error)


def sweep(setting: Setting, name: str, found: Values, limit: float) -> None:
    """Train 8 members for each seed with a launcher, and add the seconds of the whole program to `found`."""
    found["members"] = 8 * (1 if setting.small else 4)
    options = [f"device={setting.device}", *SWEEPS[name]]
    seconds, found["width"] = fused.sweep(setting.digits, "mlp", found["members"] // 8, *options, limit=limit)
    found["seconds"] = round(seconds, 1)


def cifar(setting: Setting, name: str, found: Values, limit: float) -> None:
    """Train experiment=cifar10_fast with a few seeds, and add what each run took and reached to `found`."""
    data, end = fast.data_overrides(setting.root), time.monotonic() + limit
    found["data"] = "made" if setting.small or "data=image_folder" in data else "CIFAR-10"
    if found["data"] == "made":
        data = setting.pictures(50000)
    small = ["network.widths=[4,8,8]", "data.batch_size=64", "optimizer.lr=0.1", "trainer.max_epochs=2"]
    options = [*data, *(small if setting.small else []), f"device={setting.device}", "device.precision=bf16-mixed"]
    found["runs"] = []
    for seed in range(1 if setting.small else 3):
        left = end - time.monotonic()
        if not found["runs"] or left > 2 * found["runs"][-1]["command, s"]:
            run = fast.train(setting.directory, name, f"fast{seed}", [*options, f"seed={seed}"], left)
            found["runs"].append({key: round(value, 4) for key, value in run.items()})


def exact(setting: Setting, name: str, found: Values, limit: float) -> None:
    """Kill and resume deterministic runs, and add the number of kills and the differences to `found`."""
    found |= {"kills": 0, "differences": []}
    for network, overrides in EXACT.items():
        options = [*overrides, f"device={setting.device}", "device.deterministic=true", "data.batch_size=256"]
        options += ["trainer.max_epochs=2", "trainer.checkpoint_every=2steps"]
        runs = []
        for moment in (None, *MOMENTS):
            folder = setting.directory / f"exact-{network}-{moment}"
            status = kill.lamella(folder, "train", *options, moment=moment, seconds=limit)
            run = kill.run_of(folder)
            if run and moment and status < 0:
                found["kills"] += 1
                status = kill.lamella(folder, "resume", str(run.relative_to(folder)), seconds=limit)
            if status or not run:
                raise RuntimeError(reason(kill.beside(folder, "output").read_text()))
            runs.append(run)
        found["differences"] += [f"{network}: {text}" for run in runs[1:] for text in kill.differences(runs[0], run)]


def tests(setting: Setting, name: str, found: Values, limit: float) -> None:
    """Run tests, and add the last line and those that fail to `found`."""
    log, workers = setting.output / f"{name}.log", str(min(8, os.cpu_count() or 1))
    command = [sys.executable, "-m", "pytest", "-n", workers, "-W", "ignore", "-p", "no:cacheprovider", *TESTS[name]]
    with log.open("w") as file:
        done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=file, stderr=file, timeout=limit)
    lines = log.read_text().strip().splitlines()
    found |= {"result": lines[-1].strip("= "), "failed": [line for line in lines if line.startswith(("FAIL", "ERR"))]}
    if done.returncode:
        raise RuntimeError(f"see {log.name}")


STEPS: dict[str, Callable[[Setting, str, Values, float], None]] = {
    **dict.fromkeys(list(CASES)[:3], case),
    "cifar10_fast": cifar,
    "resnet18": case,
    "tests": tests,
    **dict.fromkeys(SWEEPS, sweep),
    "exact resume": exact,
    **dict.fromkeys(list(CASES)[4:], case),
    "suite": tests,
}


def attempt(setting: Setting, name: str, step: Values, limit: float) -> None:
    """Take a step, and note in it how long it took and why it failed."""
    began = time.monotonic()
    try:
        STEPS[name](setting, name, step, limit)
    except subprocess.TimeoutExpired as error:
        step["error"] = f"took longer than {error.timeout:.0f} s"
    except Exception as error:
        step["error"] = (str(error).splitlines() or [type(error).__name__])[0][:300]
    step["took"] = round(time.monotonic() - began, 1)


def table(results: Values) -> str:
    """Return the results as Markdown."""
    lines = ["| case | side | epoch, s (min–max, n) | × eager | peak MiB | notes |", "| --- " * 6 + "|"]
    others = ["| step | result |", "| --- | --- |"]
    for name, step in results["steps"].items():
        if name not in CASES:
            others.append(f"| {name} | {json.dumps(step)} |")
        for side, values in ((side, step[side]) for side in SIDES if side in step):
            seconds, notes = values["seconds"], " ".join([values.get("error", ""), *values.get("notes", [])])
            if seconds:
                middle, eager = statistics.median(seconds), step.get("eager", {}).get("seconds")
                spread = f"{middle:.3f} ({min(seconds):.3f}–{max(seconds):.3f}, {len(seconds)})"
                ratio = f"{middle / statistics.median(eager):.2f}" if eager else ""
                lines.append(f"| {name} | {side} | {spread} | {ratio} | {values['peak_mib']} | {notes} |")
            else:
                lines.append(f"| {name} | {side} | failed | | | {notes} |")
    return "\n".join([results["machine"], "", *lines, "", *others, ""])


def machine(device: str) -> str:
    """Return what the figures depend on, as a line."""
    import torch

    place = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    return f"{place}, {', '.join(f'{name} {version(name)}' for name in ('torch', 'pytorch-lightning', 'lamella'))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--limit", type=float, default=150, help="the seconds of a step")
    parser.add_argument("--steps", choices=STEPS, nargs="+", default=list(STEPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    end, output = time.monotonic() + 60 * options.minutes, options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    results: Values = {"machine": machine(options.device), "steps": {}}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "pictures.py").write_text(PICTURES)
        (directory / "pyproject.toml").write_text('[tool.lamella]\ntargets = ["pictures"]\n')
        setting = Setting(options.device, Path(options.root).resolve(), directory, output, options.small)
        for number in range(options.rounds):
            for name in options.steps if number == 0 else [name for name in options.steps if name in CASES]:
                step, left = results["steps"].setdefault(name, {}), end - time.monotonic()
                if left > max(10, step.get("took", 0)):
                    attempt(setting, name, step, min(left, options.limit))
                    print(f"{name}: {step['took']} s {step.get('error', '')}", flush=True)
                elif not step:
                    step["error"] = "there was no time left"
                (output / "gpu.json").write_text(json.dumps(results, indent=1))
                (output / "gpu.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()

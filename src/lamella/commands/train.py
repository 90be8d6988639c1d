"""lamella train [OVERRIDE…]: one run, or with -m one for each combination of the overrides."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from lamella import summary
from lamella.compose import OUTPUTS, Job, run
from lamella.errors import RequestError, first_line
from lamella.record import Run, claim, slug

# Set for the processes that Lightning starts beside this one: they take part in the run that is there.
DIRECTORY = "LAMELLA_RUN"


def main(arguments: list[str]) -> int:
    members: list[dict[str, Any]] = []
    try:
        return run(lambda job: train(job, members), arguments, check)
    finally:
        if members:  # also when the sweep is interrupted
            print(f"\n{summary.leaderboard(members)}")


def check(job: Job) -> None:
    """Build a member of a sweep, and let it go. Raises RequestError where it cannot be run."""
    from lamella import build

    _refuse_several_processes(job.config)
    _ = build.experiment(job.config, job.references).task


def _refuse_several_processes(config: dict[str, Any]) -> None:
    import torch

    trainer, accelerator = config["trainer"], config["device"].get("accelerator")
    devices = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if accelerator in ("auto", "cuda") else 1
    many = len(devices) > 1 if isinstance(devices, list) else str(devices) not in ("0", "1")
    many = many or trainer.get("num_nodes", 1) != 1
    if many or str(trainer.get("strategy")).startswith(("ddp", "fsdp", "deepspeed")):
        raise RequestError(
            "trainer: several processes in a sweep: one member's would run into the next one's;\n"
            "  start each member as a `lamella train` of its own",
            "trainer.strategy",
        )


def train(job: Job, members: list[dict[str, Any]]) -> int:
    """Build everything, then train: a wrong request shows before a run directory is made."""
    from lamella import build
    from lamella.fit import rank

    if job.sweep:
        _refuse_several_processes(job.config)
    experiment = build.experiment(job.config, job.references)
    if rank() > 0:
        return _take_part(experiment)
    parameters = sum(parameter.numel() for parameter in experiment.task.parameters())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path = claim(job.sweep or OUTPUTS / experiment.name, slug(job.overrides))
    os.environ[DIRECTORY] = str(path)
    record = Run(
        path,
        job.text,
        {
            "name": experiment.name,
            "overrides": job.overrides,
            "seed": experiment.seed,
            "device": experiment.device.accelerator,
            "parameters": parameters,
        },
    )
    with record.log() as log:
        if job.sweep:
            print(f"\n[{job.number + 1}] {' '.join(job.overrides)}")
        print(f"Using {experiment.device.accelerator} device")
        status = _run(experiment, record, log)
    if job.sweep:
        members.append({"path": path, "monitor": experiment.monitor, **record.fields})
    return status


def _take_part(experiment: Any) -> int:
    """What a process does that Lightning has started beside the first one, which keeps the record."""
    from lamella.fit import fit, rank

    if DIRECTORY not in os.environ:
        raise RequestError("LOCAL_RANK is set: start `lamella train` alone, it starts the other processes itself")
    path = Path(os.environ[DIRECTORY])
    try:
        fit(experiment, path)
    except RequestError:
        return 2  # the first process says it, and takes the directory away
    except Exception as error:
        with (path / "log.txt").open("a") as log:
            traceback.print_exc(file=log)
        print(f"error: process {rank()}: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


def _run(experiment: Any, record: Run, log: Any) -> int:
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    from lamella.fit import fit

    def on_epoch(metrics: dict[str, float], outcome: Any) -> None:
        record.epoch(metrics, **vars(outcome))
        print(summary.epoch(metrics, experiment.epochs))

    try:
        settings = {key: summary.number(value) for key, value in summary.settings(record.fields["overrides"]).items()}
        outcome = fit(experiment, record.path, on_epoch, settings)
    except SIGTERMException:
        record.close("interrupted")
        print(f"terminated; what there is: {record.path}", file=sys.stderr)
        raise SystemExit(143) from None
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns Ctrl-C into an exit and leaves the signal ignored.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        record.close("interrupted")
        print(f"interrupted; what there is: {record.path}", file=sys.stderr)
        raise KeyboardInterrupt from None
    except Exception as error:
        if isinstance(error, RequestError) and not (record.path / "checkpoints").exists():
            record.discard()
            raise
        traceback.print_exc(file=log)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc(file=sys.__stderr__)
        record.close("failed", error=f"{type(error).__name__}: {error}")
        print(
            f"error: {type(error).__name__}: {first_line(error)}\n  the whole of it: {record.path}/log.txt",
            file=sys.stderr,
        )
        return 1
    record.close("finished", **vars(outcome))
    print(summary.finished(outcome.best_epoch, outcome.epochs, outcome.metrics, record.path))
    return 0

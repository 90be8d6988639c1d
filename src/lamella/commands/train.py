"""lamella train [OVERRIDE…]: one run, or with -m one for each combination of the overrides."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamella import summary
from lamella.commands import resume
from lamella.compose import OUTPUTS, Job, run
from lamella.errors import RequestError
from lamella.names import slug
from lamella.records import read


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
    from lamella.attempt import JOB, attempt, begin, take_part
    from lamella.fit import rank

    if rank() > 0:
        return take_part()
    if job.sweep:
        _refuse_several_processes(job.config)
    elif path := _requeued(OUTPUTS / str(job.config.get("name")), job.overrides, os.environ.get(JOB)):
        print(f"the job was requeued: going on with {path}")
        return resume.go_on(path, [])
    experiment = build.experiment(job.config, job.references)
    parent, name = job.sweep or OUTPUTS / experiment.name, slug(job.overrides)
    record = begin(experiment, parent, name, job.text, job.overrides, reads=job.reads, choices=job.choices)
    if job.sweep:
        print(f"\n[{job.number + 1}] {' '.join(job.overrides)}")
    status = attempt(experiment, record)
    if job.sweep:
        members.append({"path": record.path, "monitor": experiment.monitor, **record.fields})
    return status


def _requeued(parent: Path, overrides: list[str], job: str | None) -> Path | None:
    """The run that this job of Slurm's had begun when it was taken off its machine, if it is one that was."""
    if job is None or not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return None
    for path in sorted(path.parent for path in parent.glob("*/run.json")):
        with suppress(RequestError):  # one that is damaged is another's
            fields, _ = read(path)
            if fields.get("job") == job and fields["overrides"] == overrides:
                return path
    return None

"""lamella train [OVERRIDE…]: one run, or with -m one for each combination of the overrides."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from lamella.commands import resume
from lamella.compose import OUTPUTS, Job, run
from lamella.errors import RequestError
from lamella.names import claim, slug
from lamella.records import read


def main(arguments: list[str]) -> int:
    return run(train, arguments)


def train(job: Job) -> int:
    """Build everything, then train: a wrong request shows before a run directory is made."""
    from lamella import build
    from lamella.attempt import JOB, attempt, begin, take_part
    from lamella.fit import rank

    if rank() > 0:
        return take_part()
    if path := _requeued(OUTPUTS / str(job.config.get("name")), job.overrides, os.environ.get(JOB)):
        print(f"the job was requeued: going on with {path}")
        return resume.go_on(path, [])
    experiment = build.experiment(job.config, job.references)
    make = partial(claim, OUTPUTS / experiment.name, slug(job.overrides))
    return attempt(experiment, begin(experiment, make, job.config, job.overrides, reads=job.reads, choices=job.choices))


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

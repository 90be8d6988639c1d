"""lamella train [OVERRIDE…]: train one run, or with -m one run for each combination of the values."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.console import print
from lamella.distributed import rank
from lamella.experiment.requeue import find_requeued_run
from lamella.experiment.resume import resume_run
from lamella.runs.names import OUTPUTS, check_run_name, claim_directory, slug
from lamella.tracking.trackers import check_trackers


def main(arguments: list[str]) -> int:
    """Compose the config and train, and return the exit status."""
    return compose_and_call(train, arguments)


def train(job: ComposedConfig, started: Callable[[Path], object] = lambda path: None) -> int:
    """Train one run and return the exit status.

    Everything is built and tried before the run directory is created: a wrong request leaves no directory behind.
    started: called with the run directory before the training.
    """
    if "name" in job.config:  # a missing key is reported with all others
        check_run_name(job.config["name"])  # needs no torch
    check_trackers(job.config.get("tracking") or {})

    from lamella.experiment.build import prepare_experiment
    from lamella.experiment.memory_format import with_memory_format
    from lamella.experiment.rehearsal import rehearse
    from lamella.experiment.session import create_run, join_run, train_run

    if rank() > 0:
        return join_run()
    if path := find_requeued_run(OUTPUTS / str(job.config.get("name")), job.overrides):
        print(f"the job was requeued: going on with {path}")
        started(path)
        return resume_run(path)
    experiment = prepare_experiment(job.config, job.references, written=job.written)
    experiment.data.check_headers()  # names every unreadable file before the trial meets the first
    rehearse(experiment, job.config)
    experiment, config = with_memory_format(experiment, job.config)
    make = partial(claim_directory, OUTPUTS / experiment.name, slug(job.overrides))
    writer = create_run(experiment, make, config, job.overrides, reads=job.reads, choices=job.choices)
    started(writer.path)
    return train_run(experiment, writer)

"""Train a run or a sweep for a caller in Python: what a command prints as an error is an exception here."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

from lamella.commands import train as command
from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.errors import RequestError, RunFailed
from lamella.runs.listing import Record, Runs, runs
from lamella.runs.reader import read_record

LOCK = RLock()  # runs of one process share the generators of torch, so that they train one after another


def train_in_process(overrides: Sequence[str]) -> Record:
    """Train one run and return it. Raises as `lamella.train` does."""
    paths: list[Path] = []

    def task(job: ComposedConfig) -> int:
        _check_one_process(job)
        return command.train(job, started=paths.append)

    arguments = _checked(overrides, "train")
    with _in_process():
        status = compose_and_call(task, arguments)
    record = Record(paths[0], read_record(paths[0]))
    if status:
        raise RunFailed(f"{record.path}: {record['error']}\n  the full traceback: {record.path}/log.txt", record.path)
    return record


def sweep_in_process(overrides: Sequence[str]) -> Runs:
    """Train the runs of a sweep that are missing, and return all of its runs. Raises as `lamella.sweep` does."""
    from lamella.sweeps.run import LATEST

    arguments = ["-m", *_checked(overrides, "sweep")]
    try:
        with _in_process():
            compose_and_call(command.train, arguments)
    except SystemExit as end:
        if end.code != 1:
            raise
        run = LATEST.get()
        causes = "".join(f"\n  {name}: {cause}" for name, cause in run.failures.items())
        what = f"{len(run.failures)} of {run.total} jobs failed" if causes else "the sweep is not complete"
        raise RunFailed(f"{run.sweep.path}: {what}{causes}", run.sweep.path) from None
    done = LATEST.get().sweep
    return runs(done.path).by((done.fields["objectives"] or [done.fields["monitor"]])[0])


def _checked(overrides: Sequence[str], name: str) -> list[str]:
    """Return the overrides. Raises RequestError for anything else than a list of texts, and for an option."""
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise RequestError(
            f'`lamella.{name}` takes a list of overrides, as in ["network=cnn", "seed=1"]; got {overrides!r}'
        )
    for text in overrides:
        if text.startswith(("-", "hydra.mode=")):
            raise RequestError(
                f"{text}: lamella.{name} takes overrides and no options; lamella.train trains one run, and "
                "lamella.sweep one for each combination"
            )
    return list(overrides)


def _check_one_process(job: ComposedConfig) -> None:
    """Raise RequestError for a run of several processes, each of which would start the caller's program again."""
    from lamella.training.device import needs_own_program, process_count, resolve_accelerator

    trainer, accelerator = job.config["trainer"], resolve_accelerator(job.config["device"]["accelerator"])
    if needs_own_program(trainer, process_count(trainer, accelerator)):
        key = "trainer.strategy" if trainer.get("strategy", "auto") != "auto" else "trainer.devices"
        raise RequestError(
            f"{key} is {trainer[key.partition('.')[2]]!r}, which needs a program of its own; in a terminal:\n"
            f"  {shlex.join(['lamella', 'train', *job.overrides])}",
            key,
        )


@contextmanager
def _in_process() -> Iterator[None]:
    """Leave what a command changes in its process as it was before the block.

    These are the state of Hydra, all generators of random numbers, and what `_kept_settings` keeps. Raises
    KeyboardInterrupt where Ctrl-C has ended the block.
    """
    import torch

    from lamella.seeds import kept_random_state

    used = "cuda" if torch.cuda.is_initialized() else "cpu"  # type: ignore[no-untyped-call]
    with LOCK, kept_random_state(torch.device(used)), _kept_settings():
        state = Singleton.get_state()
        GlobalHydra.instance().clear()
        try:
            yield
        except SystemExit as end:
            # Lightning ends the program after a KeyboardInterrupt.
            if end.code == 128 + signal.SIGINT or isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        finally:
            Singleton.set_state(state)


@contextmanager
def _kept_settings() -> Iterator[None]:
    """Keep torch's settings, the root logger and those of Lightning, the environment, and where Python imports from."""
    import torch

    from lamella.training.trainer import LIGHTNING, MESSENGERS

    named = map(logging.getLogger, (*LIGHTNING, *MESSENGERS))
    loggers = [(one, one.level, one.handlers[:], one.propagate) for one in (logging.root, *named)]
    environ, path = dict(os.environ), sys.path[:]
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        for logger, level, handlers, propagate in loggers:
            logger.setLevel(level)
            logger.handlers, logger.propagate = handlers, propagate

"""Run a sweep from start to end: train the members that are missing, then rank all of them."""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from itertools import islice
from pathlib import Path

from lamella.config.launcher import SLURM, check_launcher, is_fused, is_local
from lamella.console import print, tolerant_output
from lamella.errors import RequestError
from lamella.experiment.requeue import requeue_slurm_job
from lamella.interrupts import Interrupts
from lamella.runs.charts import plot_against
from lamella.runs.ranking import record_value
from lamella.runs.sweep_directory import Member, Sweep
from lamella.sweeps.estimate import Estimate
from lamella.sweeps.fused.grouping import FusedGroups
from lamella.sweeps.job import Job
from lamella.sweeps.launch.in_process import launch_in_process
from lamella.sweeps.launch.local import NOTICE, LocalLauncher
from lamella.sweeps.launch.progress import SweepProgress
from lamella.sweeps.launch.slurm import launch_on_slurm
from lamella.sweeps.launch.worker import failure_cause, output_file
from lamella.sweeps.leaderboard import Leaderboard, time_line
from lamella.sweeps.measurement import DIRECTORY as MEASURED
from lamella.tables import format_duration, format_size
from lamella.tracking.following import Tracked, following

LATEST: ContextVar["SweepRun"] = ContextVar("LATEST")  # the sweep that was run last, for a caller in Python


class SweepRun:
    """Trains the members of a sweep that are not finished, then shows and saves the leaderboard.

    notes: remarks about the plan, for the first line that is printed. members: the members to train, by default those
    that are not finished; a search chooses each member only when it is asked for the next one. total: how many members
    the sweep has in the end, by default those of the plan. at_once: how many jobs a launcher takes from `members` at a
    time, by default as many as it can run. given: the keys of `hydra.launcher` that the command line set. estimate: of
    what the sweep takes, None if there is none. budget: the seconds in which the sweep has to end; a job is started
    only if it ends in time should it take as long as the longest one. Raises RequestError for a launcher that is not
    allowed.

    Jobs share decoded images within `sharing_images`.
    """

    def __init__(
        self,
        sweep: Sweep,
        notes: Sequence[str] = (),
        members: Iterator[Member] | None = None,
        total: int | None = None,
        at_once: int | None = None,
        given: Collection[str] = (),
        estimate: Estimate | None = None,
        budget: float | None = None,
    ) -> None:
        check_launcher(sweep.fields["launcher"], given)
        self.sweep, self.notes, self.at_once = sweep, notes, at_once
        self.launcher, self.monitor = sweep.fields["launcher"], sweep.fields["monitor"]
        self.max_failures: int | None = sweep.fields["max_failures"]
        self.unfinished = sweep.unfinished()
        self.members = iter(self.unfinished) if members is None else members
        self.finished = len(sweep.members) - len(self.unfinished)
        self.total = len(sweep.members) if total is None else total
        self.local = LocalLauncher(self.launcher.get("slots")) if is_local(self.launcher) else None
        self.groups = FusedGroups(self.launcher["width"]) if is_fused(self.launcher) else None
        self.failures: dict[str, str] = {}  # for each member that failed, the cause
        self.interrupts = Interrupts(self._end_at_once, NOTICE, self._forward_signal)
        self.progress = SweepProgress(self.total, self.finished)
        self.estimate, self.budget, self.begun = estimate, budget, time.monotonic()
        self.starts: dict[Path, float] = {}  # when each running job was handed to the launcher
        self.longest = estimate.longest if estimate else 0.0

    def run(self, on_end: Callable[[], None] = lambda: None) -> int:
        """Run the sweep and return the exit status.

        on_end: called when the last job has ended, before the leaderboard is shown.
        """
        LATEST.set(self)
        shutil.rmtree(self.sweep.path / MEASURED, ignore_errors=True)  # a process that was killed may have left it
        with tolerant_output():
            print(self.announcement(), flush=True)
            if self.estimate:
                self._show_estimate(self.estimate)
            try:
                begun = time.monotonic()
                with following(self.sweep.path, self._tracked, is_sweep=True):
                    with self.interrupts, self.progress:
                        self._launch()
                    if not self.interrupts.received:
                        self._report_time(time.monotonic() - begun)
                    on_end()
                    is_written = show_leaderboard(self.sweep)
            except BaseException:  # for example the disk is full, and the next job cannot be planned
                self._forward_signal(signal.SIGTERM)
                raise
            finally:
                self._report_failures()
            if self.interrupts.received:
                requeue_slurm_job(self.interrupts.received)
                return 128 + self.interrupts.received
            return 1 if self.failures or not is_written else 0

    def announcement(self) -> str:
        """Return the line that says how many jobs there are and how many of them run at a time."""
        parts = [f"{self.total} job{'s' * (self.total != 1)}"]
        if self.finished:
            parts.append(f"{self.finished} of them finished")
        parts += self.notes
        if self.local and self.unfinished:
            count = self.local.at_a_time(self.total - self.finished, self.unfinished[0].config)
            unit = f" program{'s' * (count > 1)}" if self.groups else ""
            parts.append(f"{count}{unit} at a time")
        return f"{self.sweep.path}: {', '.join(parts)}"

    def _show_estimate(self, estimate: Estimate) -> None:
        """Print what the sweep will take, warn if the disk is too small for it, and keep it in `sweep.json`."""
        self.sweep.update(estimate=estimate.fields())
        print(estimate.line(), flush=True)
        free = shutil.disk_usage(self.sweep.path).free
        if free < estimate.disk:
            print(f"warning: {self.sweep.path}: only {format_size(free)} are free on this disk", file=sys.stderr)

    def _report_time(self, took: float) -> None:
        """Print what the budget left out, or keep the seconds that the sweep took beside its estimate."""
        left_out = self.total - self.progress.ended
        if left_out and not self._has_time():
            print(
                f"\n{left_out} of {self.total} trials were not started, because they might not have ended within "
                f"sweep.budget, {format_duration(self.budget or 0)}; to go on, enter the command again"
            )
        if self.estimate and not left_out:
            self.sweep.update(estimate={**self.estimate.fields(), "took": round(took, 1)})

    def _tracked(self) -> Tracked:
        """Return the trackers of each member."""
        members = self.sweep.members.items()
        return {self.sweep.path / name: list(member.config.get("tracking") or {}) for name, member in members}

    def _launch(self) -> None:
        """Hand the jobs to the launcher, and return when none is running any more."""
        if self.local:
            self.local.run(self._job_groups(self.local), self.progress, self._job_ended, self.interrupts)
            return
        launch = launch_on_slurm if self.launcher["_target_"] == SLURM else launch_in_process
        at_a_time = self.at_once or self.launcher.get("array_parallelism", self.total)
        launch(self.launcher, self.sweep.path, self._jobs(), at_a_time, self._job_ended, self.interrupts)

    def _jobs(self) -> Iterator[Job]:
        """Yield the job of each member, as long as a job would end within the budget."""
        while self._has_time() and (member := next(self.members, None)):
            self.starts[self.sweep.path / member.name] = time.monotonic()
            yield Job(self.sweep.path / member.name, member.config, member_label(self.sweep, member))

    def _has_time(self) -> bool:
        """Return whether another job would end within the budget."""
        return self.budget is None or time.monotonic() - self.begun + self.longest <= self.budget

    def _job_groups(self, local: LocalLauncher) -> Iterator[Sequence[Job]]:
        """Yield the jobs that share a process: a group of the fused launcher, or else one job."""
        jobs = self._jobs()
        while self.groups and (batch := list(islice(jobs, self.at_once or self.total))):
            groups, reasons = self.groups.of(batch, local.at_a_time(len(batch), batch[0].config))
            for reason, count in reasons.items():
                print(f"{count} of {len(batch)} jobs run{'s' if count == 1 else ''} alone: {reason}", flush=True)
            yield from groups
        yield from ([job] for job in jobs)

    def _job_ended(self, job: Job, status: int) -> bool:
        """Print the result of a job that ended with exit status `status`. Return False if no more jobs may start."""
        record, interrupted = self.sweep.record(job.path.name), bool(self.interrupts.received)
        if record and record["status"] == "finished":
            self.longest = max(self.longest, time.monotonic() - self.starts[job.path])
            value = record_value(record, self.monitor)
            result = f"{self.monitor} {value:.4f}" if value is not None else "finished"
            self.progress.print_result(job.label, f"{result}  {record['seconds']:.1f} s")
        elif interrupted and not (record and record["status"] == "failed"):
            self.progress.print_result(job.label, "interrupted", more=False)
        else:
            self.failures[job.path.name] = failure_cause(job.path, status)
            self.progress.print_result(job.label, f"failed: {self.failures[job.path.name]}")
        if record and (status in (0, 1) or interrupted or record["status"] == "finished"):
            output_file(job.path).unlink(missing_ok=True)  # log.txt of the run contains the same lines
        return not self._too_many_failures()

    def _too_many_failures(self) -> bool:
        return self.max_failures is not None and len(self.failures) >= self.max_failures

    def _forward_signal(self, number: int) -> None:
        """Tell the local jobs to save and end when the first signal arrives."""
        if self.local:
            self.local.send_signal(number)

    def _end_at_once(self) -> None:
        """Tell the local jobs to end at once when a second signal arrives."""
        if self.local:
            self.local.send_signal(self.interrupts.received, again=True)

    def _report_failures(self) -> None:
        """Print the cause and the output file of each failed job, and how to go on."""
        if self.failures:
            stopped = f"; sweep.max_failures is {self.max_failures}" if self._too_many_failures() else ""
            print(f"\n{len(self.failures)} failed{stopped}")
        for name, cause in self.failures.items():
            path = self.sweep.path / name
            file = output_file(path) if output_file(path).exists() else path / "log.txt"
            print(f"  {member_label(self.sweep, self.sweep.members[name])}: {cause}\n    {file}")
        if self.interrupts.received:
            print(f"\ninterrupted; to go on: lamella resume {self.sweep.path}")
        elif self.failures:
            print(f"\nto try again: lamella resume {self.sweep.path}")


def member_label(sweep: Sweep, member: Member) -> str:
    """Return the label of a member: its overrides of the swept keys, or else the name of its directory."""
    swept = tuple(f"{key}=" for key in sweep.fields["swept"])
    return " ".join(text for text in member.overrides if text.startswith(swept)) or member.name


def show_leaderboard(sweep: Sweep) -> bool:
    """Print the leaderboard and write it into the sweep's directory as CSV, as JSON and as a chart.

    Returns False, after a message, where the files cannot be written.
    """
    board = Leaderboard(sweep)
    print(f"\n{board.table()}")
    if line := time_line(sweep):
        print(f"\n{line}")
    points = {key: values for key, values in board.points().items() if any(scores for _, scores in values)}
    try:
        board.save()
        if points:
            plot_against(points, board.objectives[0], sweep.path / "leaderboard.png")
    except RequestError as error:  # matplotlib is not installed
        print(error)
    except OSError as error:
        reason = f"the leaderboard cannot be written there ({error.strerror})"
        print(f"error: {sweep.path}: {reason}; to see it again: lamella runs {sweep.path}", file=sys.stderr)
        return False
    return True

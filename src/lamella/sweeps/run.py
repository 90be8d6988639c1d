"""Run a sweep from start to end: train the members that are missing, then rank all of them."""

import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from itertools import islice

from lamella.config.launcher import SLURM, check_launcher, is_fused, is_local
from lamella.console import print, tolerant_output
from lamella.data.cache import sharing_images
from lamella.errors import RequestError
from lamella.experiment.requeue import requeue_slurm_job
from lamella.interrupts import Interrupts
from lamella.runs.charts import plot_against
from lamella.runs.ranking import record_value
from lamella.runs.sweep_directory import Member, Sweep
from lamella.sweeps.fused.grouping import FusedGroups
from lamella.sweeps.job import Job
from lamella.sweeps.launch.in_process import launch_in_process
from lamella.sweeps.launch.local import NOTICE, LocalLauncher
from lamella.sweeps.launch.progress import SweepProgress
from lamella.sweeps.launch.slurm import launch_on_slurm
from lamella.sweeps.launch.worker import failure_cause, output_file
from lamella.sweeps.leaderboard import Leaderboard

LATEST: ContextVar["SweepRun"] = ContextVar("LATEST")  # the sweep that was run last, for a caller in Python


class SweepRun:
    """Trains the members of a sweep that are not finished, then shows and saves the leaderboard.

    notes: remarks about the plan, for the first line that is printed. members: the members to train, by default those
    that are not finished; a search chooses each member only when it is asked for the next one. total: how many members
    the sweep has in the end, by default those of the plan. at_once: how many jobs a launcher takes from `members` at a
    time, by default as many as it can run. given: the keys of `hydra.launcher` that the command line set. Raises
    RequestError for a launcher that is not allowed.
    """

    def __init__(
        self,
        sweep: Sweep,
        notes: Sequence[str] = (),
        members: Iterator[Member] | None = None,
        total: int | None = None,
        at_once: int | None = None,
        given: Collection[str] = (),
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

    def run(self, on_end: Callable[[], None] = lambda: None) -> int:
        """Run the sweep and return the exit status.

        on_end: called when the last job has ended, before the leaderboard is shown.
        """
        LATEST.set(self)
        with tolerant_output():
            print(self.announcement(), flush=True)
            try:
                with self.interrupts, self.progress, sharing_images(self.sweep.path):
                    self._launch()
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

    def _launch(self) -> None:
        """Hand the jobs to the launcher, and return when none is running any more."""
        if self.local:
            self.local.run(self._job_groups(self.local), self.progress, self._job_ended, self.interrupts)
            return
        launch = launch_on_slurm if self.launcher["_target_"] == SLURM else launch_in_process
        at_a_time = self.at_once or self.launcher.get("array_parallelism", self.total)
        launch(self.launcher, self.sweep.path, self._jobs(), at_a_time, self._job_ended, self.interrupts)

    def _jobs(self) -> Iterator[Job]:
        """Yield the job of each member."""
        for member in self.members:
            yield Job(self.sweep.path / member.name, member.config, member_label(self.sweep, member))

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

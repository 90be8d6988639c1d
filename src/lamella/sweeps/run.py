"""A sweep, start to end: what is missing of the plan is run, and the members are put side by side."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice

from lamella.config.launcher import SLURM, check_launcher, is_fused, is_local
from lamella.console import tolerant_output
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


@tolerant_output()
def run_sweep(
    sweep: Sweep,
    notes: Sequence[str],
    jobs: Iterator[Member] | None = None,
    total: int | None = None,
    settle: Callable[[], None] = lambda: None,
    at_once: int | None = None,
    given: Collection[str] = (),
) -> int:
    """Run what is missing, then show and save the leaderboard; returns the exit status.

    notes: said about the plan. jobs: which members to run, in place of those that are not finished, and `total` how
    many there are to be in all. settle: called when all is over. at_once: how many a launcher other than local gets
    at a time; None: as many as it can have. given: as for launchers.check.
    """
    check_launcher(sweep.fields["launcher"], given)
    missing = sweep.unfinished()
    done = len(sweep.members) - len(missing)
    total = len(sweep.members) if total is None else total
    launcher, limit = sweep.fields["launcher"], sweep.fields["max_failures"]
    slots = LocalLauncher(launcher.get("slots")) if is_local(launcher) else None
    at_a_time = at_once or launcher.get("array_parallelism", total)
    if slots and missing:
        at_a_time = slots.at_a_time(total - done, missing[0].config)
    groups = FusedGroups(launcher["width"]) if is_fused(launcher) else None
    said = [f"{total} job{'s' * (total != 1)}", *([f"{done} of them finished"] if done else []), *notes]
    unit = f" program{'s' * (at_a_time > 1)}" if groups else ""
    said += [f"{at_a_time}{unit} at a time"] if slots and missing else []
    print(f"{sweep.path}: {', '.join(said)}", flush=True)
    failures: dict[str, str] = {}

    def begun() -> Iterator[Job]:
        for member in jobs or missing:
            yield Job(sweep.path / member.name, member.config, member_label(sweep, member))

    def together() -> Iterator[Sequence[Job]]:
        waiting = begun()
        while slots and groups and (batch := list(islice(waiting, at_once or total))):
            found, reasons = groups.of(batch, slots.at_a_time(len(batch), batch[0].config))
            for reason, count in reasons.items():
                print(f"{count} of {len(batch)} by {'themselves' if count > 1 else 'itself'}: {reason}", flush=True)
            yield from found
        yield from ([job] for job in waiting)

    def over(job: Job, status: int) -> bool:
        fields = sweep.record(job.path.name)
        if fields and fields["status"] == "finished":
            found = record_value(fields, sweep.fields["monitor"])
            shown = f"{sweep.fields['monitor']} {found:.4f}" if found is not None else "finished"
            meter.say(job.label, f"{shown}  {fields['seconds']:.1f} s")
        elif interrupts.received and not (fields and fields["status"] == "failed"):
            meter.say(job.label, "interrupted", going=False)
        else:
            failures[job.path.name] = failure_cause(job.path, status)
            meter.say(job.label, f"failed: {failures[job.path.name]}")
        if fields and (status in (0, 1) or interrupts.received or fields["status"] == "finished"):
            output_file(job.path).unlink(missing_ok=True)  # its log says as much
        return limit is None or len(failures) < limit

    def end() -> None:
        if slots:
            slots.tell(interrupts.received, again=True)

    first = slots.tell if slots else lambda number: None
    with Interrupts(end, NOTICE, first) as interrupts, SweepProgress(total, done) as meter:
        if slots:
            slots.run(together(), meter, over, interrupts)
        elif missing or jobs:
            launch = launch_on_slurm if launcher["_target_"] == SLURM else launch_in_process
            launch(launcher, sweep.path, begun(), at_a_time, over, interrupts)
    settle()
    _show(sweep)
    if failures:
        stopped = f"; sweep.max_failures is {limit}" if limit is not None and len(failures) >= limit else ""
        print(f"\n{len(failures)} failed{stopped}")
        for name, why in failures.items():
            printed, log = output_file(sweep.path / name), sweep.path / name / "log.txt"
            print(f"  {member_label(sweep, sweep.members[name])}: {why}\n    {printed if printed.exists() else log}")
    if interrupts.received or failures:
        print(f"\n{'interrupted; to go on' if interrupts.received else 'to try again'}: lamella resume {sweep.path}")
    if interrupts.received:
        requeue_slurm_job(interrupts.received)
        return 128 + interrupts.received
    return 1 if failures else 0


def member_label(sweep: Sweep, member: Member) -> str:
    """What a person calls a member: the values that were swept."""
    swept = tuple(f"{key}=" for key in sweep.fields["swept"])
    return " ".join(text for text in member.overrides if text.startswith(swept)) or member.name


def _show(sweep: Sweep) -> None:
    board = Leaderboard(sweep)
    print(f"\n{board.table()}")
    board.save()
    points = {key: found for key, found in board.points().items() if any(scores for _, scores in found)}
    if points:
        try:
            plot_against(points, board.objectives[0], sweep.path / "leaderboard.png")
        except RequestError as error:
            print(error)

"""A sweep, start to end: what is missing of the plan is run, and the members are put side by side."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from lamella import grid as values
from lamella import launchers, sweeps
from lamella.attempt import requeue
from lamella.errors import RequestError
from lamella.groups import Groups
from lamella.guard import fused, inside, local
from lamella.interrupts import Interrupts
from lamella.leaderboard import Leaderboard, value
from lamella.meter import Meter
from lamella.names import slug
from lamella.plan import Planner
from lamella.plots import against
from lamella.processes import cause, output
from lamella.record import unheard
from lamella.request import Request
from lamella.slots import NOTICE, Job, Slots
from lamella.sweeps import Member, Sweep


def grid(loader: ConfigLoader, config: DictConfig, arguments: Sequence[str]) -> None:
    """Plan every combination of the values, and run what is missing.

    Raises RequestError, and SystemExit with the exit status where it is not 0.
    """
    request = Request.of(loader, config, arguments)
    jobs = values.jobs(request.overrides, values.pairs(request.options.zip))
    planner = Planner(loader, config, alone=not inside(request.launcher))
    with ExitStack() as stack:
        known = sweeps.is_sweep(request.path)
        sweep = stack.enter_context(sweeps.held(request.path)) if known else None
        there = sweep.members if sweep else {}
        planned, duplicates, invalid = planner.plans([job for job in jobs if slug(job) not in there])
        if invalid and not request.options.skip_invalid:
            raise SystemExit(2)
        if not (planned or there):
            raise RequestError("no job is left that can be run")
        if sweep is None:
            fields = request.fields(planned[0], request.threads(len(planned), planned[0].member.config))
            sweep = stack.enter_context(sweeps.held(request.path, fields))
        if "search" in sweep.fields:
            raise RequestError(f"{request.path} is a search; choose another sweep.name", "sweep.name")
        if slug(jobs[0]) in there:
            _say_if_changed(planner, there[slug(jobs[0])])
        request.update(sweep)
        configs = {json.dumps(member.config) for member in sweep.members.values()}
        members = [one.with_threads(sweep.fields["threads"]).member for one in planned]
        new = [one for one in members if one.name not in sweep.members and json.dumps(one.config) not in configs]
        duplicates += len(members) - len(new)
        sweep.add(new)
        notes = [f"{duplicates} duplicate{'s' * (duplicates > 1)} dropped"] if duplicates else []
        notes += [f"{invalid} that cannot be run left out"] if invalid else []
        notes += [f"the largest network has {max(one.parameters for one in planned):,} parameters"] if planned else []
        status = run(sweep, notes, given=request.given)
    if status:
        raise SystemExit(status)


def resume(path: Path) -> int:
    """Run what is missing of the sweep in `path`; returns the exit status. Raises RequestError."""
    with sweeps.held(path) as sweep:
        return run(sweep, [])


@unheard()
def run(
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
    launchers.check(sweep.fields["launcher"], given)
    missing = sweep.unfinished()
    done = len(sweep.members) - len(missing)
    total = len(sweep.members) if total is None else total
    launcher, limit = sweep.fields["launcher"], sweep.fields["max_failures"]
    slots = Slots(launcher.get("slots")) if local(launcher) else None
    at_a_time = at_once or launcher.get("array_parallelism", total)
    if slots and missing:
        at_a_time = slots.at_a_time(total - done, missing[0].config)
    groups = Groups(launcher["width"]) if fused(launcher) else None
    said = [f"{total} job{'s' * (total != 1)}", *([f"{done} of them finished"] if done else []), *notes]
    unit = f" program{'s' * (at_a_time > 1)}" if groups else ""
    said += [f"{at_a_time}{unit} at a time"] if slots and missing else []
    print(f"{sweep.path}: {', '.join(said)}", flush=True)
    failures: dict[str, str] = {}

    def begun() -> Iterator[Job]:
        for member in jobs or missing:
            yield Job(sweep.path / member.name, member.config, label(sweep, member))

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
            found = value(fields, sweep.fields["monitor"])
            shown = f"{sweep.fields['monitor']} {found:.4f}" if found is not None else "finished"
            meter.say(job.label, f"{shown}  {fields['seconds']:.1f} s")
        elif interrupts.received and not (fields and fields["status"] == "failed"):
            meter.say(job.label, "interrupted", going=False)
        else:
            failures[job.path.name] = cause(job.path, status)
            meter.say(job.label, f"failed: {failures[job.path.name]}")
        if fields and (status in (0, 1) or interrupts.received or fields["status"] == "finished"):
            output(job.path).unlink(missing_ok=True)  # its log says as much
        return limit is None or len(failures) < limit

    def end() -> None:
        if slots:
            slots.tell(interrupts.received, again=True)

    first = slots.tell if slots else lambda number: None
    with Interrupts(end, NOTICE, first) as interrupts, Meter(total, done) as meter:
        if slots:
            slots.run(together(), meter, over, interrupts)
        elif missing or jobs:
            launchers.launch(launcher, sweep.path, begun(), at_a_time, over, interrupts)
    settle()
    _show(sweep)
    if failures:
        stopped = f"; sweep.max_failures is {limit}" if limit is not None and len(failures) >= limit else ""
        print(f"\n{len(failures)} failed{stopped}")
        for name, why in failures.items():
            printed, log = output(sweep.path / name), sweep.path / name / "log.txt"
            print(f"  {label(sweep, sweep.members[name])}: {why}\n    {printed if printed.exists() else log}")
    if interrupts.received or failures:
        print(f"\n{'interrupted; to go on' if interrupts.received else 'to try again'}: lamella resume {sweep.path}")
    if interrupts.received:
        requeue(interrupts.received)
        return 128 + interrupts.received
    return 1 if failures else 0


def label(sweep: Sweep, member: Member) -> str:
    """What a person calls a member: the values that were swept."""
    swept = tuple(f"{key}=" for key in sweep.fields["swept"])
    return " ".join(text for text in member.overrides if text.startswith(swept)) or member.name


def _say_if_changed(planner: Planner, member: Member) -> None:
    """One member stands for all: what its config would be by now."""
    try:
        now = planner.composed.job(member.overrides).config
    except Exception:
        return  # the plan counts
    then = member.config
    device = {**now.get("device", {}), "threads": then["device"]["threads"]}
    if {**now, "device": device} != then:
        print(
            "conf/ says something else than when this sweep was planned; the plan counts, sweep.name=… begins another"
        )


def _show(sweep: Sweep) -> None:
    board = Leaderboard(sweep)
    print(f"\n{board.table()}")
    board.save()
    points = {key: found for key, found in board.points().items() if any(scores for _, scores in found)}
    if points:
        try:
            against(points, board.objectives[0], sweep.path / "leaderboard.png")
        except RequestError as error:
            print(error)

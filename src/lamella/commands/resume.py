"""lamella resume RUN [KEY=VALUE…]: finish an interrupted run or sweep in its directory.

lamella resume outputs/default/defaults
lamella resume outputs/default/defaults trainer.max_epochs=20
"""

from collections.abc import Sequence
from pathlib import Path

from lamella.commands.parser import CommandParser
from lamella.config.launcher import is_local
from lamella.errors import RequestError
from lamella.experiment.resume import resume_run
from lamella.runs.identity import CHANGEABLE_KEYS
from lamella.runs.sweep_directory import Sweep, is_sweep
from lamella.runs.trash import cleaned_hint
from lamella.sweeps.launch.forkserver import warm_up


def main(arguments: list[str]) -> int:
    """Finish the run or the sweep in a directory, and return the exit status."""
    parser = CommandParser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a run or of a sweep")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=f"one of {', '.join(CHANGEABLE_KEYS)}")
    options = parser.parse_args(arguments)
    parser.check_one_run(options.overrides)
    path: Path = options.run
    if not (path / "run.json").exists() and is_sweep(path):
        return _resume_sweep(path, options.overrides)
    if not path.exists() and (hint := cleaned_hint(path)):
        raise RequestError(f"{path} is not there{hint}")
    return resume_run(path, options.overrides)


def _resume_sweep(path: Path, overrides: Sequence[str]) -> int:
    """Finish all members of a sweep as they were planned, and return the exit status. Raises RequestError."""
    if overrides:
        raise RequestError(f"{overrides[0]}: a sweep goes on as it was planned; give the directory of one member")
    fields = Sweep(path).fields
    if is_local(fields["launcher"]):
        warm_up()
    from lamella.sweeps.grid import resume_grid
    from lamella.sweeps.search.search import resume_search

    if "search" in fields:
        return resume_search(path)
    return resume_grid(path)

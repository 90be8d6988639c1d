"""Open the study in which Optuna keeps the trials of a search.

This file is the only one that touches a private name of Optuna.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.errors import RequestError, first_line
from lamella.runs.reader import check_entry

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"  # an SQLite database in the directory of the sweep


def create_study(directory: Path, directions: "Sequence[optuna.study.StudyDirection]") -> "optuna.Study":
    """Return the study of the search in `directory`, and create it if there is none.

    directions: of the objectives, whether each one is maximized or minimized.
    """
    import optuna

    storage = _storage(directory)
    return optuna.create_study(study_name="sweep", storage=storage, directions=list(directions), load_if_exists=True)


@contextmanager
def study_errors(directory: Path) -> Iterator[None]:
    """Raise RequestError in place of what Optuna raises where it cannot read or write the study in `directory`."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = first_line(error.__cause__ or error)
        raise RequestError(f"{directory / STUDY}: the results of the search cannot be kept there: {reason}") from error


def load_study(directory: Path, pruner: "optuna.pruners.BasePruner") -> "optuna.Study":
    """Return the existing study of the search in `directory`, whose trials `pruner` judges."""
    import optuna

    return optuna.load_study(study_name="sweep", storage=_storage(directory), pruner=pruner)


def open_trial(study: "optuna.Study", number: int) -> "optuna.Trial":
    """Return the trial of this number in a form that can be changed.

    Touches `FrozenTrial._trial_id`: Optuna has no public way to continue a trial in another process. Raises
    RequestError if this version of Optuna has no such attribute.
    """
    import optuna

    trial_id: int | None = getattr(study.trials[number], "_trial_id", None)
    if trial_id is None:
        raise RequestError(f"a search cannot continue a trial with Optuna {optuna.__version__}; install Optuna 5.0")
    return optuna.Trial(study, trial_id)


def _storage(directory: Path) -> "optuna.storages.RDBStorage":
    """Return the database of a search. Raises RequestError where it, or a file beside it, is a link elsewhere."""
    import optuna
    import sqlalchemy

    for file in directory.glob(f"{STUDY}*"):  # SQLite writes to study.db-journal too
        check_entry(directory, file, "sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = sqlalchemy.URL.create("sqlite", database=str((directory / STUDY).absolute()))
    return optuna.storages.RDBStorage(str(url), engine_kwargs={"connect_args": {"timeout": 60}})

"""Check the options of a search, which are the values of `hydra.sweeper`."""

from dataclasses import dataclass, fields

from lamella.config.values import Config
from lamella.errors import RequestError, nearest

SAMPLERS = ("tpe", "random", "grid", "cmaes")
PRUNERS = ("median", "hyperband")


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search.

    n_trials: the number of trials in all. sampler: one of SAMPLERS. pruner: one of PRUNERS, None to end no trial
    early. seed: of the sampler. n_jobs: the number of trials that a launcher other than the local one runs at a time.
    """

    n_trials: int
    sampler: str
    pruner: str | None
    seed: int
    n_jobs: int

    @classmethod
    def of(cls, values: Config) -> "SearchOptions":
        """Check the values of `hydra.sweeper`. Raises RequestError for an unknown key or a wrong value."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                key = f"hydra.sweeper.{name}"
                raise RequestError(f"{key}: there is no such key; {nearest(name, (*known, 'params'))}", key)
        for name in known:
            if name not in values:
                raise RequestError(f"hydra.sweeper.{name} is missing, and a search needs it")
        for name, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RequestError(
                    f"hydra.sweeper.{name} is {value!r}; it takes a whole number from {least} on",
                    f"hydra.sweeper.{name}",
                )
        for name, names in (("sampler", SAMPLERS), ("pruner", (None, *PRUNERS))):
            if values[name] not in names:
                hint = nearest(str(values[name]), [allowed or "null" for allowed in names])
                raise RequestError(f"hydra.sweeper.{name} is {values[name]!r}; {hint}", f"hydra.sweeper.{name}")
        options = cls(**values)
        options.check_packages()
        return options

    def check_packages(self) -> None:
        """Raise RequestError if a package that the search needs is not installed."""
        try:
            import optuna  # noqa: F401

            if self.sampler == "cmaes":
                import cmaes  # noqa: F401
        except ImportError as error:
            raise RequestError(f"hydra/sweeper=optuna needs {error.name}; uv pip install -e '.[optuna]'") from error

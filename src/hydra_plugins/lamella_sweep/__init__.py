"""Lamella's sweepers: every combination of the values, or a search with Optuna."""

from collections.abc import Mapping

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Grid(Sweeper):
    """Runs every combination of the values. params: values of config keys, before those of the command line."""

    def __init__(self, params: Mapping[str, object] | None = None) -> None:
        self.params = [f"{key}={value}" for key, value in (params or {}).items()]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the config loader and the composed config from Hydra. Raises RuntimeError if nobody has checked it."""
        from lamella.config.guard import require_checked

        require_checked(hydra_context.config_loader)
        self.loader, self.composed = hydra_context.config_loader, config

    def sweep(self, arguments: list[str]) -> None:
        """Run every combination of the values in `arguments`. Raises SystemExit if the exit status is not 0."""
        self.prepare(arguments)
        from lamella.sweeps.grid import run_grid

        run_grid(self.loader, self.composed, [*self.params, *arguments])

    def prepare(self, arguments: list[str]) -> None:
        """Check the values that all jobs have, and start the process that the jobs are forked from.

        The imports of that process run beside the imports of this one. Raises RequestError.
        """
        from lamella.config.composed import SweepComposer
        from lamella.config.launcher import is_local
        from lamella.sweeps.launch import forkserver

        SweepComposer(self.loader, self.composed).check_constants([*self.params, *arguments])
        if is_local(self.composed.hydra.launcher):
            forkserver.warm_up()


class Optuna(Grid):
    """Searches with Optuna.

    params: as for Grid. options: the other keys of `hydra.sweeper`, which the search checks.
    """

    def __init__(self, params: Mapping[str, object] | None = None, **options: object) -> None:
        super().__init__(params)
        self.options = options

    def sweep(self, arguments: list[str]) -> None:
        """Search the values that `arguments` describe. Raises SystemExit if the exit status is not 0."""
        self.prepare(arguments)
        from lamella.sweeps.search.search import run_search

        run_search(self.loader, self.composed, [*self.params, *arguments], self.options)

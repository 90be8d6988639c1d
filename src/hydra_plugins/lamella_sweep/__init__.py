"""Lamella's sweepers: every combination of the values, or a search with Optuna."""

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Grid(Sweeper):
    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.composed = hydra_context.config_loader, config

    def sweep(self, arguments: list[str]) -> None:
        self.warm_up()
        from lamella.sweeps.grid import run_grid

        run_grid(self.loader, self.composed, [*_written(self.params), *arguments])

    def warm_up(self) -> None:
        """Let the jobs' imports begin while this process has its own."""
        from lamella.config.launcher import is_local
        from lamella.sweeps.launch import forkserver

        if is_local(self.composed.hydra.launcher):
            forkserver.warm_up()


class Optuna(Grid):
    def __init__(self, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(params)
        self.options = options

    def sweep(self, arguments: list[str]) -> None:
        self.warm_up()
        from lamella.sweeps.search.search import run_search

        run_search(self.loader, self.composed, [*_written(self.params), *arguments], self.options)


def _written(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]

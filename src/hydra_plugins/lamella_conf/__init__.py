"""A plugin of Hydra that puts the working directory's `conf/` before Lamella's own on the search path."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lamella.config.files import SHIPPED, project_folder


class LamellaConf(SearchPathPlugin):
    """Adds the project's own configs to the search path of Lamella's command line, and of no other program."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the project's `conf/` first if Lamella's own configs are on the search path."""
        lamella_composes = any(
            Path(item.path.removeprefix("file://")) == SHIPPED for item in search_path.get_path() if item.path
        )
        if lamella_composes and project_folder().is_dir():
            search_path.prepend("project", f"file://{project_folder().absolute()}", "main")

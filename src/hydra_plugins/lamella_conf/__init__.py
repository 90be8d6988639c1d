"""Puts the working directory's `conf/` before Lamella's own on the search path."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lamella.config.files import SHIPPED, project_folder


class LamellaConf(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = any(Path(item.path.removeprefix("file://")) == SHIPPED for item in search_path.get_path() if item.path)
        if ours and project_folder().is_dir():
            search_path.prepend("project", f"file://{project_folder().absolute()}", "main")

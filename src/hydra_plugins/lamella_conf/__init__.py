"""Puts the working directory's `conf/` before Lamella's own on the search path."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lamella import conf


class LamellaConf(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = any(Path(item.path.removeprefix("file://")) == conf.OWN for item in search_path.get_path() if item.path)
        if ours and conf.PROJECT.is_dir():
            search_path.prepend("project", f"file://{conf.PROJECT.absolute()}", "main")

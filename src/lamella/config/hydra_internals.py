"""The private names of Hydra and OmegaConf that Lamella uses, all in this file.

Checked with Hydra 1.3.8 and OmegaConf 2.3. If a later version lacks a name that a check needs, Lamella stops with an
error. If only speed or a message needs the name, Lamella works without it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import hydra
from hydra._internal import hydra as hydra_main
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, Node, OmegaConf

from lamella.config.files import shown_path
from lamella.config.yaml_files import load_yaml
from lamella.errors import RequestError

TRIED_HYDRA = "1.3."  # the versions whose insides are known
CALLBACKS = "Callbacks"  # the name by which Hydra's main program finds the class of its callbacks
LOADER = "ConfigLoaderImpl"  # the name by which Hydra's main program finds the class of its config loader
RUN_ONE = "hydra.mode=RUN"  # what Hydra appends to the overrides of a single run
MERGE_OVERRIDES = "_apply_overrides_to_config"


class ConfigFolder(FileConfigSource):
    """A folder of config files, read by `load_yaml`. Overrides `load_config` of Hydra's private FileConfigSource."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the content of a file and its header. Raises RequestError that names the file."""
        path = Path(self.path, self._normalize_file_name(config_path))
        text, config = load_yaml(path)
        try:
            header = self._get_header_dict(text[:512])
        except ValueError as error:
            raise RequestError(
                f"{shown_path(path)}: the header takes one name, as in `# @package _global_` ({error})"
            ) from error
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header=header)


class CheckingConfigLoader(ConfigLoaderImpl):
    """A config loader that checks each config before Hydra acts on it.

    A subclass says what is checked. `checked` is True once the latest config has passed, and `checked_config` is the
    latest config that any loader of the class has checked. The class overrides
    `load_configuration` and `_process_config_searchpath` of Hydra's private ConfigLoaderImpl; if Hydra calls neither
    of them any more, `checked` stays False, and `lamella.config.guard.require_checked` raises an error.
    """

    checked = False
    checked_config: ClassVar[DictConfig | None] = None
    _search_path_checked = False
    _composed: tuple[list[str], DictConfig] | None = None

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository.sources = [
            ConfigFolder(source.provider, source.full_path()) if source.scheme() == "file" else source
            for source in self.repository.get_sources()
        ]

    def check_search_path(self, sets_search_path: bool) -> None:
        """Raise RequestError if the overrides or the primary config may not set `hydra.searchpath`."""
        raise NotImplementedError

    def check_config(self, config: DictConfig) -> None:
        """Raise RequestError if the composed config, which is not resolved yet, sets what it may not."""
        raise NotImplementedError

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a config and check it. Raises RequestError, and what Hydra raises."""
        self.checked = False
        if (config := self._composed_for_mode(overrides)) is None:
            self._search_path_checked = False
            config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        self._composed = None if validate_sweep_overrides else ([*overrides, RUN_ONE], config)
        if not self._search_path_checked:
            raise RuntimeError(unchecked_message())
        self.check_config(config)
        self.checked, type(self).checked_config = True, config
        return config

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Return the options of a config group. Hydra copies the repository with all its schemas for each group."""
        if config_name or overrides:
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        return self.repository.get_group_options(group_name, results_filter)

    def _composed_for_mode(self, overrides: list[str]) -> DictConfig | None:
        """Return the config that Hydra has composed to find its mode, if it is the config of the run, None otherwise.

        Hydra composes each config twice, which takes more than a tenth of a second.
        """
        if self._composed is None or self._composed[0] != overrides:
            return None
        config = self._composed[1]
        if "???" in config.hydra.runtime.choices.values():
            return None  # an option that is missing is an error in a run
        self.validate_sweep_overrides_legal(OverridesParser.create().parse_overrides(overrides), RunMode.RUN, True)
        config.hydra.mode = RunMode.RUN
        config.hydra.overrides.hydra.append(RUN_ONE)
        return config

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Override], repo: CachingConfigRepository
    ) -> None:
        # Hydra imports the packages that hydra.searchpath names while it composes, so a later check would be too late.
        loaded = repo.load_config(config_path=config_name) if config_name else None
        primary = loaded.config if loaded and isinstance(loaded.config, DictConfig) else OmegaConf.create({})
        overridden = any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides)
        self.check_search_path(overridden or bool(OmegaConf.select(primary, "hydra.searchpath")))
        self._search_path_checked = True
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


class PlannedConfigLoader(ConfigLoaderImpl):
    """A config loader for Hydra's launchers that composes nothing and hands the run's directory on as `path`."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return a copy of the master config whose `path` is the one override that was given."""
        config = copy.deepcopy(master_config)
        config.hydra.overrides.task, config.path = sweep_overrides, sweep_overrides[0]
        return config


def unchecked_message() -> str:
    """Return the error message for a version of Hydra that passes the checks by."""
    return (
        f"Hydra {hydra.__version__} composed a config that Lamella could not check, so nothing is run; "
        "install hydra-core 1.3.8"
    )


@contextmanager
def composing_with(loader: type[CheckingConfigLoader]) -> Iterator[None]:
    """Let `hydra.main` compose configs with `loader` within the block, and act only on configs that it has checked.

    Replaces the classes `ConfigLoaderImpl` and `Callbacks` in `hydra._internal.hydra`: Hydra composes a config and acts
    on it in one call, and has no public place in between. Callbacks are the first thing that Hydra makes of a config.
    Raises RuntimeError for a version of Hydra that was not tried, before it has composed anything.
    """
    if not hydra.__version__.startswith(TRIED_HYDRA):
        raise RuntimeError(unchecked_message())

    def checked_callbacks(config: DictConfig | None = None) -> Callbacks:
        if config is not None and config is not loader.checked_config:
            raise RuntimeError(unchecked_message())
        return Callbacks(config)

    originals = {name: getattr(hydra_main, name) for name in (LOADER, CALLBACKS)}
    merge = getattr(ConfigLoaderImpl, MERGE_OVERRIDES, None)
    setattr(hydra_main, LOADER, loader)
    setattr(hydra_main, CALLBACKS, checked_callbacks)
    if merge:
        setattr(ConfigLoaderImpl, MERGE_OVERRIDES, staticmethod(partial(_merge_and_delete, merge)))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(hydra_main, name, original)
        if merge:
            setattr(ConfigLoaderImpl, MERGE_OVERRIDES, staticmethod(merge))


def _merge_and_delete(
    merge: Callable[[list[Override], DictConfig], None], overrides: list[Override], config: DictConfig
) -> None:
    """Set the values of overrides in a config with Hydra's `merge`, which takes a key that is null for missing.

    A key that `~key` deletes, and that is null, gets another value first.
    """
    for override in overrides:
        place, _, key = str(override.key_or_group).rpartition(".")
        node = OmegaConf.select(config, place) if override.is_delete() and place else None
        if isinstance(node, DictConfig) and key in node and node[key] is None:
            node[key] = ""
    merge(overrides, config)


def can_merge_overrides() -> bool:
    """Return True if `merge_overrides` works with this version of Hydra; otherwise each job is composed in full."""
    return hasattr(ConfigLoaderImpl, MERGE_OVERRIDES)


def merge_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Set the values of parsed overrides in a composed config, in place, without composing it again.

    Calls `ConfigLoaderImpl._apply_overrides_to_config`, which takes a tenth of the time that composing takes. Raises
    what Hydra raises.
    """
    getattr(ConfigLoaderImpl, MERGE_OVERRIDES)(list(overrides), config)


def with_project_folder(loader: ConfigLoader, folder: Path) -> ConfigLoader:
    """Return a config loader of the same class that finds the project's own configs in `folder`, if that exists.

    Makes a ConfigSearchPathImpl, because a search path cannot be copied and changed through Hydra's public classes.
    """
    search_path = ConfigSearchPathImpl()
    search_path.config_search_path = [
        item for item in loader.get_search_path().get_path() if item.provider != "project"
    ]
    if folder.is_dir():
        search_path.prepend("project", f"file://{folder.absolute()}", "main")
    assert isinstance(loader, ConfigLoaderImpl)
    return type(loader)(search_path)


def launcher_context() -> HydraContext:
    """Return what a launcher of Hydra needs besides its config: a loader that composes nothing, and no callbacks."""
    return HydraContext(config_loader=PlannedConfigLoader(ConfigSearchPathImpl()), callbacks=Callbacks())


def config_root(node: object) -> object:
    """Return the config at the top of the tree that `node` is in, or None if it is in none.

    Calls `Node._get_root`, to suggest names in error messages. Without that method nothing is suggested.
    """
    get_root = getattr(node, "_get_root", None)
    return get_root() if isinstance(node, Node) and get_root else None

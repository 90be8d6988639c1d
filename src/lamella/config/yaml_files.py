"""Load a config file as OmegaConf reads it, with errors that name the file."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lamella.config.files import check_aliases, named_stream, read_config, shown_path
from lamella.errors import RequestError


def load_yaml(path: Path) -> tuple[str, DictConfig]:
    """Return the text of a config file, and its content.

    Raises RequestError if the file is not UTF-8, has other than keys, or has aliases that make it too large. Raises
    YAMLError if it is no YAML.
    """
    text = read_config(path)
    check_aliases(text, path)
    config = OmegaConf.load(named_stream(text, path))
    if not isinstance(config, DictConfig):
        raise RequestError(f"{shown_path(path)} holds a list, where keys are expected")
    if ":" not in text and len(config):  # OmegaConf takes plain text for a key
        raise RequestError(f"{shown_path(path)} holds a plain value, where keys are expected")
    return text, config

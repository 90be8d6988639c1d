"""Functions that apply overrides to the config of a recorded run."""

import re
from collections.abc import Collection, Mapping, Sequence
from textwrap import shorten

from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf

from lamella.config.compose import compose_one
from lamella.config.diagnostics import as_request_error
from lamella.config.grammar import parse_overrides
from lamella.config.guard import register_resolvers
from lamella.config.hydra_internals import merge_overrides
from lamella.config.values import Config, key_of, source_keys, walk
from lamella.errors import RequestError, nearest

# The groups that may differ between training and testing. What the network sees has to stay as it was.
TESTED_WITH = ("data", "device")


def apply_overrides(
    config: Config, fields: Config, overrides: Sequence[str], keys: Collection[str], why: str
) -> Config:
    """Return a copy of `config` with `overrides` applied, and with every key that read an overridden key changed too.

    The overrides are read as `lamella train` reads them. One that the run was trained with may be given again, though
    its key may not be overridden: it changes nothing. fields: the record of the run. keys: the keys that may be
    overridden. why: the text that follows any other key in the error. Raises RequestError.
    """
    given = parse_overrides([text for text in overrides if text not in fields["overrides"] or key_of(text) in keys])
    if not given:
        return config
    for override in given:
        if override.key_or_group not in keys:
            key = override.key_or_group
            raise RequestError(f"{key} {why}" + (f";\n  {nearest(key, keys)}" if keys else ""), key)
        if override.is_add():
            override.type = OverrideType.FORCE_ADD  # the plus was needed when the run was composed
    register_resolvers()
    try:
        changed = OmegaConf.create({key: _escaped(value) for key, value in config.items()})
        OmegaConf.set_struct(changed, True)
        merge_overrides(given, changed)
        _update_readers(changed, fields["reads"], [override.key_or_group for override in given])
        plain = OmegaConf.to_container(changed, resolve=True)
    except Exception as error:
        raise as_request_error(error) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _escaped(node: object) -> object:
    """Return a recorded config in which OmegaConf reads `${` as text, because a record is resolved already."""
    if isinstance(node, Mapping):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node


def _update_readers(config: DictConfig, reads: Mapping[str, str], given: Collection[str]) -> None:
    """Set every key that read one of the overridden keys to its new value, in place.

    reads: by a key, the key that its whole value was interpolated from. given: the overridden keys.
    """

    def is_changed(key: str) -> bool:
        return any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in given)

    for key in reads:
        source = next(filter(is_changed, source_keys(key, reads)), None)
        if source and not is_changed(key):
            OmegaConf.update(config, key, OmegaConf.select(config, source), merge=False)


def config_for_testing(fields: Config, config: Config, overrides: Sequence[str]) -> Config:
    """Return the config with which a recorded run is tested, on the data and the device that `overrides` name.

    An option such as data=mnist is composed from `conf/`, and keeps the normalisation that the network was trained
    with. The shape of a sample and the classes have to be as in training. Callbacks, loggers and everything else that
    only training needs is left out. fields: the record of the run. Raises RequestError.
    """
    base = {
        **config,
        "data": _without_download(config["data"]),
        "visuals": {},
        "trainer": {"_target_": "pytorch_lightning.Trainer", "devices": 1},
    }
    parsed = parse_overrides(overrides)
    for override in parsed:
        key = override.key_or_group
        if key.partition(".")[0] not in TESTED_WITH and override.input_line not in fields["overrides"]:
            raise RequestError(
                f"{key} has to stay as it was in training; a run is tested on other data or another device:\n"
                "  data=OPTION, data.KEY=VALUE, device=OPTION, device.KEY=VALUE",
                key,
            )
        text = override.input_line
        if (key == "device.compile" or text == "device.channels_last=auto") and text not in fields["overrides"]:
            raise RequestError(f"{text} changes how training steps are taken, and a test takes none; leave it out", key)
    keys = [override.key_or_group for override in parsed]
    groups = [
        one.key_or_group for one in parsed if one.key_or_group in TESTED_WITH and not isinstance(one.value(), dict)
    ]
    composed = [text for text, key in zip(overrides, keys, strict=True) if key.partition(".")[0] in groups]
    if composed:
        job = compose_one([*composed, f"seed={config['seed']}"])
        base |= {group: job.config[group] for group in groups}
        for name in ("mean", "std", *(key for key in ("shape", "dtype") if base["data"].get(key, "") is None)):
            if "data" in groups and f"data.{name}" not in keys:
                base["data"][name] = config["data"].get(name)
        if "data" in groups and "data.download" not in keys:
            base["data"] = _without_download(base["data"])
    others = [text for text in overrides if text not in composed]
    known = [key for group in TESTED_WITH for key in (group, *(key for key, _ in walk(base[group], group)))]
    changed = apply_overrides(base, fields, others, known, "is no key of the run's config")
    _check_inputs(config["data"], changed["data"])
    return changed


def _without_download(data: Config) -> Config:
    """Return the group `data` without a download, because what reads a run uses no network that it was not asked to."""
    return {
        name: False if name == "download" else _without_download(value) if isinstance(value, dict) else value
        for name, value in data.items()
    }


def _check_inputs(trained: Config, tested: Config) -> None:
    """Raise RequestError if the data of a test differ from those of the training in what the network depends on."""
    for name in ("shape", "num_classes", "classes", "mean", "std"):
        was, now = trained.get(name), tested.get(name)
        if was != now:
            raise RequestError(
                f"data.{name} is {shorten(str(now), 120)}, but the run was trained with {shorten(str(was), 120)}",
                f"data.{name}",
            )

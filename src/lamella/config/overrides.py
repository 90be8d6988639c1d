"""The config of a recorded run, changed where that is possible."""

from collections.abc import Collection, Mapping, Sequence
from textwrap import shorten
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lamella.config.compose import compose_one
from lamella.config.values import walk
from lamella.errors import RequestError, first_line, nearest

# What a run is tested with may be other than what it was trained with; what the network sees may not.
TESTED_WITH = ("data", "device")


def apply_overrides(
    config: Mapping[str, Any], reads: Mapping[str, str], overrides: Sequence[str], keys: Collection[str], why: str
) -> dict[str, Any]:
    """`config` with `overrides`, each KEY=VALUE with one of `keys`, and with all that read their value from these.

    why: said of any other key. Raises RequestError.
    """
    given = {}
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals:
            raise RequestError(f"{text}: an override is KEY=VALUE")
        if key not in keys:
            raise RequestError(f"{key} {why};\n  {nearest(key, keys)}", key)
        given[key] = text
    try:
        changed = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        for key, read_from in reads.items():
            if read_from in given and key not in given:
                OmegaConf.update(changed, key, OmegaConf.select(changed, read_from), merge=False)
        plain: Any = OmegaConf.to_container(changed)
    except (YAMLError, OmegaConfBaseException) as error:
        raise RequestError(f"{' '.join(overrides)}: cannot be read: {first_line(error)}") from error
    return {str(key): value for key, value in plain.items()}


def config_for_testing(
    fields: Mapping[str, Any], config: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """The config of a run to test it with, on other data or another device where `overrides` say so.

    An option, as data=mnist, is composed from `conf/`; what the network has learned with, its classes and the
    normalisation, stays. Nothing that only training needs is left in. Raises RequestError.
    """
    base = {**config, "visuals": {}, "trainer": {"_target_": "pytorch_lightning.Trainer", "devices": 1}}
    keys = [text.partition("=")[0] for text in overrides]
    for text, key in zip(overrides, keys, strict=True):
        if key == text:
            raise RequestError(f"{text}: an override is KEY=VALUE")
        if key.partition(".")[0] not in TESTED_WITH:
            raise RequestError(
                f"{key} cannot be another than in training; a run is tested on other data or another device:\n"
                "  data=OPTION, data.KEY=VALUE, device=OPTION, device.KEY=VALUE",
                key,
            )
    groups = [group for group in TESTED_WITH if group in keys]
    composed = [text for text, key in zip(overrides, keys, strict=True) if key.partition(".")[0] in groups]
    if composed:
        job = compose_one([*composed, f"seed={config['seed']}"])
        base |= {group: job.config[group] for group in groups}
        for name in ("mean", "std"):
            if "data" in groups and f"data.{name}" not in keys:
                base["data"][name] = config["data"].get(name)
    others = [text for text in overrides if text not in composed]
    known = [key for group in TESTED_WITH for key, _ in walk(base[group], group)]
    changed = apply_overrides(base, fields["reads"], others, known, "is no key of the run's config")
    for name in ("shape", "num_classes", "classes", "mean", "std"):
        was, now = config["data"].get(name), changed["data"].get(name)
        if was != now:
            raise RequestError(
                f"data.{name} is {shorten(str(now), 120)}, but the run was trained with {shorten(str(was), 120)}",
                f"data.{name}",
            )
    return changed

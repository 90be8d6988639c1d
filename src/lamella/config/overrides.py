"""Functions that apply overrides to the config of a recorded run."""

from collections.abc import Collection, Mapping, Sequence
from textwrap import shorten

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lamella.config.compose import compose_one
from lamella.config.values import Config, walk
from lamella.errors import RequestError, first_line, nearest

# The groups that may differ between training and testing. What the network sees has to stay as it was.
TESTED_WITH = ("data", "device")


def apply_overrides(
    config: Config, reads: Mapping[str, str], overrides: Sequence[str], keys: Collection[str], why: str
) -> Config:
    """Return a copy of `config` with `overrides` applied, and with every key that read an overridden key changed too.

    reads: by a key, the key that its whole value was interpolated from. overrides: KEY=VALUE. keys: the keys that may
    be overridden. why: the text that follows any other key in the error. Raises RequestError.
    """
    given = set()
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals:
            raise RequestError(f"{text}: an override is KEY=VALUE")
        if key not in keys:
            raise RequestError(f"{key} {why};\n  {nearest(key, keys)}", key)
        given.add(key)
    try:
        changed = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides)))
        for key, read_from in reads.items():
            if read_from in given and key not in given:
                OmegaConf.update(changed, key, OmegaConf.select(changed, read_from), merge=False)
        plain = OmegaConf.to_container(changed)
    except (YAMLError, OmegaConfBaseException) as error:
        raise RequestError(f"{' '.join(overrides)}: cannot be read: {first_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


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
    keys = [_testing_key(text) for text in overrides]
    groups = [group for group in TESTED_WITH if group in keys]
    composed = [text for text, key in zip(overrides, keys, strict=True) if key.partition(".")[0] in groups]
    if composed:
        job = compose_one([*composed, f"seed={config['seed']}"])
        base |= {group: job.config[group] for group in groups}
        for name in ("mean", "std"):
            if "data" in groups and f"data.{name}" not in keys:
                base["data"][name] = config["data"].get(name)
        if "data" in groups and "data.download" not in keys:
            base["data"] = _without_download(base["data"])
    others = [text for text in overrides if text not in composed]
    known = [key for group in TESTED_WITH for key, _ in walk(base[group], group)]
    changed = apply_overrides(base, fields["reads"], others, known, "is no key of the run's config")
    _check_inputs(config["data"], changed["data"])
    return changed


def _without_download(data: Config) -> Config:
    """Return the group `data` without a download, because what reads a run uses no network that it was not asked to."""
    source = data.get("source")
    if not isinstance(source, dict) or "download" not in source:
        return data
    return {**data, **({"download": False} if "download" in data else {}), "source": {**source, "download": False}}


def _testing_key(override: str) -> str:
    """Return the key of an override. Raises RequestError if it is not one of the groups in TESTED_WITH."""
    key, equals, _ = override.partition("=")
    if not equals:
        raise RequestError(f"{override}: an override is KEY=VALUE")
    if key.partition(".")[0] not in TESTED_WITH:
        raise RequestError(
            f"{key} has to stay as it was in training; a run is tested on other data or another device:\n"
            "  data=OPTION, data.KEY=VALUE, device=OPTION, device.KEY=VALUE",
            key,
        )
    return key


def _check_inputs(trained: Config, tested: Config) -> None:
    """Raise RequestError if the data of a test differ from those of the training in what the network depends on."""
    for name in ("shape", "num_classes", "classes", "mean", "std"):
        was, now = trained.get(name), tested.get(name)
        if was != now:
            raise RequestError(
                f"data.{name} is {shorten(str(now), 120)}, but the run was trained with {shorten(str(was), 120)}",
                f"data.{name}",
            )

"""lamella why [KEY] [OVERRIDE… | RUN]: show where a value comes from, and what it replaces.

lamella why optimizer.lr experiment=mnist_cnn
lamella why optimizer network=cnn optimizer=sgd
lamella why optimizer.lr outputs/default/defaults
lamella why experiment=mnist_cnn seed=3               # every key that is not at Lamella's default
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from lamella.commands.parser import CommandParser
from lamella.config.compose import compose_and_call
from lamella.config.composed import ComposedConfig
from lamella.config.files import SHIPPED, chooses_option, is_override
from lamella.config.hints import CHOSEN, hint_for_key
from lamella.config.interpolations import keys_read
from lamella.config.origins import ConfigFile, Origin, Origins, composed_files
from lamella.config.value_text import parse_value
from lamella.config.values import flow_text, key_of, source_keys, walk
from lamella.console import print
from lamella.errors import RequestError, nearest_keys
from lamella.runs.reader import read_run
from lamella.tables import format_table, shorten_middle

WIDTH = 60  # characters of a value that are shown
NONE = "-"
UNKNOWN = "not set by an override; the record does not say which file sets it"


def main(arguments: list[str]) -> int:
    """Print where a value comes from, or the values that are not Lamella's default; return the exit status."""
    if "-m" in arguments or "--multirun" in arguments:
        raise RequestError("why looks at one config; leave -m out, and give each key one value")
    parser = CommandParser(__doc__)
    parser.add_argument("given", nargs="*", metavar="KEY | OVERRIDE | RUN", help="as for `lamella train`; a run")
    given: list[str] = parser.parse_intermixed_args(arguments).given
    words, overrides = [text for text in given if not is_override(text)], list(filter(is_override, given))
    if words and (Path(words[0]) / "run.json").is_file():
        raise RequestError(f"{words[0]}: the key comes before the run; write lamella why KEY {words[0]}")
    if len(words) > 2 or (len(words) == 2 and overrides):
        raise RequestError("why takes one key, and after it overrides or one run directory")
    if len(words) == 2 and "/" not in words[1] and not Path(words[1]).exists():
        raise RequestError(f"why takes one key, and after it overrides or one run directory; got {' and '.join(words)}")
    key = re.sub(r"\[(\w+)\]", r".\1", words[0]) if words else None
    if key and len(words) == 2:
        print(_recorded(key, Path(words[1])))
        return 0
    reports: list[str] = []

    def explain(job: ComposedConfig) -> int:
        origins = Origins(overrides, cache(partial(composed_files, GlobalHydra.instance().config_loader(), overrides)))
        reports.append(_composed(key, job, origins) if key else _differences(job, origins))
        return 0

    status = compose_and_call(explain, overrides)
    print(*reports, sep="", end="\n" if reports else "")
    return status


def _composed(key: str, job: ComposedConfig, origins: Origins) -> str:
    """Return where a key, the keys that it reads and the options that write them come from. Raises RequestError."""
    values, blocks, groups = dict(walk(job.config)), list[str](), [key]
    if key not in values and not origins.of_value(key) and not origins.of_choice(key):
        raise _unknown(key, values)
    names, readers = [key], {key: ""}  # the keys to explain, and which key reads each
    for name in names:
        setting = origins.of_value(name)
        if isinstance(values.get(name), Mapping):
            blocks.append(_mapping(name, values[name], origins))
            said = [origins.of_value(inner)[:1] for inner, _ in _settings(values[name], name)]
            groups += [origin.file.group for [origin] in said if origin.file]
        elif setting:
            text = _shown(values.get(name, setting[0].value))
            head = f"{readers[name]} reads {name}, which is {text}" if readers[name] else f"{name} is {text}"
            blocks.append(_block(head, [*origins.inside(name), *setting]))
            read = [other for other in keys_read(setting[0].value, name) if other in values and other not in readers]
            readers |= dict.fromkeys(read, name)
            names += dict.fromkeys(read)
            groups += [origin.file.group for origin in setting if origin.file]
    return "\n".join([*blocks, *_choices(dict.fromkeys(groups), job.choices, origins)])


def _choices(groups: Iterable[str], choices: Mapping[str, str], origins: Origins) -> Iterator[str]:
    """Yield who has chosen the option of each group, and which other options it replaces."""
    for group in groups:
        chain = origins.of_choice(group)
        # Of several files that override one group, the one that Hydra reads first decides.
        chain.sort(key=lambda origin: origin.file is not None and origin.text != choices.get(group))
        if chain:
            yield _block(f"{group}={chain[0].text}", chain)


def _differences(job: ComposedConfig, origins: Origins) -> str:
    """Return a table of the options and the values that are not Lamella's own.

    Lamella's default of a key is what its own files say about the key with the same options, without an experiment.
    """
    shipped = [replace(file, path=SHIPPED / f"{file.name}.yaml") for file in origins.files()]
    own = Origins([], lambda: [file for file in shipped if file.group != "experiment"])
    rows = []
    given = [key_of(override) for override in origins.overrides if chooses_option(override)]
    for group in dict.fromkeys([*CHOSEN, *given]):
        chain, default = origins.of_choice(group), own.of_choice(group)
        if chain and (not default or chain[0].text != default[0].text):
            rows.append([group, chain[0].text, default[0].text if default else NONE, chain[0].place])
    values, known = dict(_settings(job.config)), dict(walk(job.config))
    others = [key for text in origins.overrides if (key := key_of(text)) not in known and not chooses_option(text)]
    for key in dict.fromkeys([*values, *others]):  # the others are deleted, or Hydra's own
        said, default = [*origins.inside(key), *origins.of_value(key)], own.of_value(key)
        if not said or (said[0].file in shipped and said[0].file.group != "experiment"):
            continue
        value = values.get(key, said[0].text)
        if default and value in (default[0].text, parse_value(default[0].text)):
            continue
        place = origins.place_of(key, follow=False)
        rows.append([key, _shown(value), _shown(default[0].text) if default else NONE, str(place)])
    if not rows:
        return "every key is at Lamella's default"
    heads = ["key", "value", "Lamella's default", "from"]
    return format_table([heads, *rows], droppable=[heads[2]])


def _recorded(key: str, run: Path) -> str:
    """Return what the record of a run knows about where a key and the keys that it reads come from.

    Raises RequestError.
    """
    record, config = read_run(run)
    values, given, blocks = dict(walk(config)), Origins(record["overrides"]), list[str]()
    if key not in values:
        raise _unknown(key, values)
    file = ConfigFile(run / "config.yaml")
    if isinstance(values[key], Mapping):
        blocks.append(_mapping(key, values[key], Origins(given.overrides, lambda: [file])))
    else:
        names = [key, *source_keys(key, record["reads"])]
        for reader, name in zip(["", *names], names, strict=False):
            place = Origins([], lambda: [file]).place_of(name, follow=False)
            head = f"{reader} reads {name}, which is" if reader else f"{name} is"
            chain = [*given.inside(name), *given.of_value(name)]
            blocks.append(_block(f"{head} {_shown(values[name])} in {place}", chain, UNKNOWN))
    for group in (key.partition(".")[0], "experiment"):
        if option := record["choices"].get(group):
            blocks.append(_block(f"{group}={option}", given.of_choice(group), UNKNOWN))
    return "\n".join(blocks)


def _block(head: str, chain: Sequence[Origin], otherwise: str = "") -> str:
    """Return a heading, and below it a line for everything that has been said, the strongest first.

    otherwise: the line for an empty chain.
    """
    rows = [[_shown(origin.value), f"from {origin.place}"] for origin in chain] or [[otherwise]]
    return "\n".join([head, *(f"  {line}" for line in format_table(rows).splitlines())])


def _mapping(key: str, node: object, origins: Origins) -> str:
    """Return a line for each value in a mapping, with the place that sets it."""
    rows = [[name, _shown(value), f"from {origins.place_of(name)}"] for name, value in _settings(node, key)]
    return "\n".join([key, *(f"  {line}" for line in format_table(rows).splitlines())])


def _settings(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield the key and the value of everything in a node that is no mapping. A list is one value."""
    if isinstance(node, Mapping) and node:
        for name, inner in node.items():
            yield from _settings(inner, f"{key}.{name}" if key else name)
    else:
        yield key, node


def _shown(value: object) -> str:
    return shorten_middle(flow_text(value), WIDTH)


def _unknown(key: str, values: Iterable[str]) -> RequestError:
    """Return the error for a key that does not exist."""
    close = " or ".join(nearest_keys(key, values))
    hint = f"did you mean {close}?" if close else hint_for_key(key) or "`lamella train --cfg job` prints all keys"
    return RequestError(f"{key}: there is no such key; {hint}", key, unknown=True)

"""The words that a command line can be continued with, from the table of commands, their help, configs and runs."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lamella.config.candidates import Candidates, key_candidates, override_candidates, path_candidates
from lamella.runs.listing import Runs, first_runs

Commands = Mapping[str, tuple[str, str]]  # the table of commands: the arguments and the purpose of each, by name
# An option in the help of a command: its name, the kind of its value, and its meaning, which may have several lines.
OPTION = re.compile(r"^ +(?:-\w, )?(--[\w-]+)(?: (\S+))?(?:(?:  +|\n {20,})(.*(?:\n {20,}.*)*))?$", re.M)
SLOT = re.compile(r"\[[^]]*\]|\S+")


def candidates(words: Sequence[str], commands: Commands, help_of: Callable[[str], str]) -> Candidates:
    """Yield what the last word can become, with what it means; the caller leaves out what does not begin with it.

    words: those after `lamella`, of which the last one may be empty. help_of: returns the help of a command.
    """
    *before, word = words
    if not before:
        yield from ((name, purpose) for name, (_, purpose) in commands.items())
        yield from (("--help", "lists the commands"), ("--version", ""))
        return
    name, *given = before
    if name == "help" and not given:
        yield from ((other, purpose) for other, (_, purpose) in commands.items())
    if name not in commands:
        return
    text = help_of(name) if any(text.startswith("-") for text in (*given, word)) else ""
    options = {option: (kind, " ".join(meaning.split())) for option, kind, meaning in OPTION.findall(text)}
    kinds = {option: kind for option, (kind, _) in options.items() if kind}
    option, equals, value = word.partition("=")
    if equals and option in kinds:
        yield from ((f"{option}={text}", meaning) for text, meaning in _value_candidates(kinds[option], value, given))
    elif given and given[-1] in kinds:
        yield from _value_candidates(kinds[given[-1]], word, given)
    elif word.startswith("-"):
        yield from ((option, meaning) for option, (_, meaning) in options.items())
    else:
        values = {number + 1 for number, text in enumerate(given) if text in kinds}
        others = [text for number, text in enumerate(given) if number not in values and not text.startswith("-")]
        yield from _argument_candidates(commands[name][0], word, others)


def _argument_candidates(usage: str, word: str, others: Sequence[str]) -> Candidates:
    """Yield what an argument without dashes can become. usage: of the command. others: its other arguments."""
    slots = SLOT.findall(re.sub(r"--[\w-]+ \S+", "", usage))
    if len(others) >= len(slots) and not (slots and "…" in slots[-1]):
        return
    slot = slots[min(len(others), len(slots) - 1)]
    names = re.findall(r"[\w=-]+", slot)
    if "KEY" in names:
        yield from key_candidates(word, others)
    if {"OVERRIDE", "KEY=VALUE"} & set(names):
        yield from override_candidates(word, others)
    yield from _path_candidates(names, word)


def _value_candidates(kind: str, word: str, given: Sequence[str]) -> Candidates:
    """Yield what the value of an option can become. kind: as the help of the command has it."""
    names = re.findall(r"[\w=-]+", kind)
    if {"KEY", "CONDITION"} & set(names):
        directory = next((text for text in given if Path(text).is_dir()), "outputs")
        start = word[: 1 + max(map(word.rfind, ", "))]  # the keys before this one
        found = first_runs(directory, 10) if Path(directory).is_dir() else Runs()
        # A run has more than a hundred keys with a dot, which are those of its config.
        keys = found.keys() if "." in word else {key for row in found.rows() for key in row}
        yield from ((f"{start}{key}", "") for key in keys)
    yield from _path_candidates(names, word)


def _path_candidates(names: Sequence[str], word: str) -> Candidates:
    """Yield the words and the paths that the names in a usage stand for: those in small letters mean themselves."""
    yield from ((name, "") for name in names if name.islower())
    if "RUN" in names and not word and Path("outputs").is_dir():
        yield "outputs/", ""
    elif {"RUN", "DIR", "SWEEP", "PATH", "FILE"} & set(names):
        yield from path_candidates(word, only_folders=not {"PATH", "FILE"} & set(names))

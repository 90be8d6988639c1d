"""Read the command line of `lamella train` and `lamella inspect`, and refuse what Hydra would misread."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

from lamella.config.files import GROUPS, LISTS
from lamella.config.grammar import parse_overrides
from lamella.config.hints import CHOSEN, hint_for_option
from lamella.errors import RequestError

# Hydra's options: those alone, those with a value, and those whose value may be missing, with the missing value.
ALONE = ("-h", "--help", "--version", "--resolve", "-r", "--run", "-m", "--multirun")
WITH_VALUE = ("-c", "--cfg", "-p", "--package", "-cd", "--config-dir")
INFO = ("-i", "--info")
PRINTING = {"-c", "--cfg", "-h", "--help", "-i", "--info", "--version"}  # those that print something and run nothing
# Options of Hydra that Lamella does not have, with what to type instead.
STARTS = "a config starts from config.yaml; conf/experiment/NAME.yaml is chosen with experiment=NAME"
FOLDERS = "configs come from conf/ and from Lamella; another folder is --config-dir DIR"
HELP = "there is no such option; `lamella train --help` lists the groups and their options"
SHELLS = "`lamella completion bash` prints what lets bash complete, and also takes zsh and fish"
REFUSED = {
    **dict.fromkeys(("--config-name", "-cn"), STARTS),
    **dict.fromkeys(("--config-path", "-cp"), FOLDERS),
    "--hydra-help": HELP,
    **dict.fromkeys(("--shell-completion", "-sc"), SHELLS),
    "--experimental-rerun": "this would run what a file holds; `lamella reproduce RUN` trains a recorded run again",
}


@dataclass(frozen=True)
class CommandLine:
    """The arguments of a command that composes a config.

    options: Hydra's options with their values. overrides: the texts of the overrides. multirun: whether the command
    line asks for a sweep.
    """

    options: list[str]
    overrides: list[str]
    multirun: bool

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "CommandLine":
        """Read `arguments`. Raises RequestError for what is no option, no override, or no value that a run can take."""
        options, overrides, names = [], [], set[str]()
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            if argument[:1] in "–—" and argument:
                dashes = "-" * (1 + (len(argument) > 2))
                raise RequestError(
                    f"{argument}: this begins with a dash of the wrong kind; write {dashes}{argument[1:]}"
                )
            if not argument.startswith("-"):
                overrides.append(argument)
                continue
            if argument == "--":
                continue
            name, equals, value = argument.partition("=")
            following = next((text for text in rest[:1] if "=" not in text and not text.startswith("-")), None)
            name = _option_name(name, value if equals else following, argument)
            names.add(name)
            if name in WITH_VALUE and not equals:
                if not rest:
                    raise RequestError(f"{argument}: this option takes a value")
                value = rest.pop(0)
            elif name in INFO and not equals:
                value = rest.pop(0) if rest and "=" not in rest[0] and not rest[0].startswith("-") else "all"
            options += [f"{name}={value}" if name in INFO else name] + ([value] if name in WITH_VALUE else [])
        multirun = bool(names & {"-m", "--multirun"}) or "hydra.mode=MULTIRUN" in overrides
        for override in parse_overrides(overrides, several=multirun):
            _check_override(override, sweeps=multirun or bool(names & PRINTING))
        return cls(options, overrides, multirun)

    @property
    def prints_config(self) -> bool:
        """Return True if Hydra only prints the config of one run."""
        return not self.multirun and bool({"-c", "--cfg"} & set(self.options))

    @property
    def checking(self) -> list[str]:
        """Return the arguments that compose the same config and print nothing."""
        places = [place for place, name in enumerate(self.options) if name in ("-cd", "--config-dir")]
        return [*(text for place in places for text in self.options[place : place + 2]), *self.overrides]

    @property
    def arguments(self) -> list[str]:
        """Return the arguments in the order in which argparse, which Hydra uses, can read them."""
        return [*self.options, *self.overrides]


def _option_name(name: str, value: str | None, argument: str) -> str:
    """Return the full name of one of Hydra's options, which may be abbreviated.

    value: what is written after the option, None for nothing. Raises RequestError for any other option.
    """
    known = (*ALONE, *WITH_VALUE, *INFO)
    if name in known:
        return name
    if name in REFUSED:
        raise RequestError(f"{argument}: {REFUSED[name]}")
    whole = [option for option in known if name.startswith("--") and len(name) > 3 and option.startswith(name)]
    if len(whole) == 1:
        return whole[0]
    raise RequestError(f"{argument}: {hint_for_option(name, value)}")


def _check_override(override: Override, sweeps: bool) -> None:
    """Raise RequestError for an override that Hydra would misread, or that no run can take.

    sweeps: whether keys below `sweep` have a meaning.
    """
    text, key, value = override.input_line, override.key_or_group, override.value()
    if key.startswith("sweep.") and not sweeps:
        raise RequestError(f"{text}: this is for a sweep, which takes -m")
    if key not in CHOSEN or isinstance(value, dict):
        return
    if key in GROUPS and key not in LISTS and (override.is_delete() or value in (None, "")):
        raise RequestError(f"{text}: a run needs every group; write {key}=OPTION (conf/{key}/ holds the options)")
    if (override.is_add() or override.is_force_add()) and override.package is None:
        raise RequestError(f"{text}: a group is chosen without a plus; write {key}={value}")
    if isinstance(value, list) and not (key in ("experiment", *LISTS) and all(isinstance(name, str) for name in value)):
        names = [name for name in value if isinstance(name, str)]
        several = f", and several are a sweep: lamella train -m {key}={','.join(names)}" if len(names) > 1 else ""
        raise RequestError(f"{text}: a group takes one option; write {key}={names[0] if names else 'OPTION'}{several}")

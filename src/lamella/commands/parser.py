"""The parser of a command's arguments, whose errors are those of any wrong request."""

import argparse
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from lamella.config.hints import hint_for_option
from lamella.errors import RequestError, nearest


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that raises RequestError where argparse would print its usage and end the program.

    text: the docstring of the command's module: a line "lamella NAME …: what it does.", and examples, with which the
    help ends.
    """

    def __init__(self, text: str | None) -> None:
        first, _, examples = (text or "").strip().partition("\n\n")
        usage, _, description = " ".join(first.split()).partition(": ")
        super().__init__(
            " ".join(usage.split()[:2]),
            description=description[:1].upper() + description[1:],
            epilog=f"examples:\n{textwrap.indent(examples, '  ')}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise RequestError with what to type instead."""
        usage = " ".join(self.format_usage().split())
        missing = re.fullmatch(r"the following arguments are required: (.*)", message)
        if missing:
            # argparse counts arguments that may be left out, which the usage has in brackets.
            names = [name for name in missing[1].split(", ") if f"[{name}" not in usage or f"{name} [{name}" in usage]
            raise RequestError(f"{self.prog} takes {' and '.join(names)}; {self._example(names)}")
        unknown = re.fullmatch(r"unrecognized arguments: (\S*)(?: ([^\s-]\S*))?.*", message)
        if unknown:
            if "RUN" in usage and not unknown[1].startswith("-"):
                self.check_one_run(message.split()[2:])
            name, equals, value = unknown[1].partition("=")
            raise RequestError(f"{unknown[1]}: {self._hint(name, value if equals else unknown[2], usage)}")
        raise RequestError(f"{self.prog}: {message}")

    def parse_words(self, arguments: list[str]) -> argparse.Namespace:
        """Parse arguments that are all positional, also words that begin with a minus sign.

        Raises RequestError for what looks like an option, except for `--help`.
        """
        if {"-h", "--help"} & {*arguments} or not arguments:
            return self.parse_args(arguments)
        if option := next((word for word in arguments if re.fullmatch(r"--[\w-]+(=.*)?", word)), None):
            self.error(f"unrecognized arguments: {option}")
        return self.parse_args(["--", *arguments])

    def check_one_run(self, others: Iterable[str]) -> None:
        """Raise RequestError if there is a directory among the arguments after RUN, as a pattern of the shell gives."""
        if count := sum(Path(text).is_dir() for text in others):
            raise RequestError(f"{self.prog} takes one run directory; got {count + 1}")

    def _example(self, names: list[str]) -> str:
        """Return how the arguments that are missing may look."""
        if "RUN" in names:
            return f"`{self.prog} outputs/NAME/RUN` names a run, and `lamella runs` lists them"
        return f"`{self.prog} --help` says more"

    def _hint(self, name: str, value: str | None, usage: str) -> str:
        """Return what to type instead of an argument that the command does not take."""
        if not name.startswith("-"):
            return f"this is one argument too many; `{self.prog} --help` says what it takes"
        options = re.findall(r"--[a-z]+", usage)
        hint = nearest(name, options)
        if "?" not in hint and ("KEY=VALUE" in usage or "OVERRIDE" in usage):
            return hint_for_option(name, value)
        return f"there is no such option; {hint if options else f'`{self.prog} --help` says what it takes'}"

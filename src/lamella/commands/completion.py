"""lamella completion bash|zsh|fish: print the script that lets a shell complete commands, options, keys and runs.

source <(lamella completion bash)        # a line of ~/.bashrc
source <(lamella completion zsh)         # a line of ~/.zshrc
lamella completion fish | source         # a line of ~/.config/fish/config.fish
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import MappingProxyType

from lamella.commands.candidates import Commands, candidates
from lamella.commands.parser import CommandParser
from lamella.config.file_keys import keys_in_file
from lamella.config.files import SHIPPED
from lamella.console import print

SHELLS = ("bash", "zsh", "fish")


def main(arguments: list[str], commands: Commands = MappingProxyType({})) -> int:
    """Print the script of a shell, or the words that its command line can be continued with.

    commands: the table of commands.
    """
    place = arguments.index("--") if "--" in arguments else len(arguments)  # the words of a command line follow
    parser = CommandParser(__doc__)
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to run the script")
    shell: str = parser.parse_args(arguments[:place]).shell
    words = arguments[place + 1 :]
    if not words:
        print(Path(__file__).with_name(f"completion.{shell}").read_text(), end="")
    elif shell == "bash":
        print(*_bash_words(words[0], commands), sep="\n")
    else:
        found = sorted(dict(_fitting(words, commands)).items())
        print(*(f"{word}  {meaning}" if meaning else word for word, meaning in found), sep="\n")
    return 0


def _fitting(words: Sequence[str], commands: Commands) -> Iterator[tuple[str, str]]:
    """Yield the candidates that begin with the last word."""
    return ((word, meaning) for word, meaning in candidates(words, commands, _help) if word.startswith(words[-1]))


def _help(name: str) -> str:
    """Return the help of a command."""
    if name == "train":  # Hydra prints this help, and would compose a config before
        return str(keys_in_file(SHIPPED / "config.yaml")["hydra.help.template"][0])
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        import_module(f"lamella.commands.{name.replace('-', '_')}").main(["--help"])
    return out.getvalue()


def _bash_words(line: str, commands: Commands) -> list[str]:
    """Return the candidates for the last word of a line as bash takes them: quoted, and without what it has split off.

    Bash splits a word after each `=` and `:`, except within quotes.
    """
    quote, words = _split(line)
    found = dict(_fitting(words[1:], commands))
    start = "" if quote else words[-1][: 1 + max(map(words[-1].rfind, "=:"))]
    return sorted(word.removeprefix(start) if quote else _escaped(word.removeprefix(start)) for word in found)


def _split(line: str) -> tuple[str, list[str]]:
    """Return the quote that a line ends within, "" for none, and the words of the line; the last one may be empty."""
    for quote in ("", "'", '"'):
        try:
            words = shlex.split(f"{line}\0{quote}")
        except ValueError:
            continue
        return quote, [word.removesuffix("\0") for word in words]
    return "", [line, ""]


def _escaped(word: str) -> str:
    """Return a word in which the characters that bash would act on stand behind a backslash."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", word)

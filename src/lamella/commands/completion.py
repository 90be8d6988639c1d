"""lamella completion bash|zsh|fish: print the script that lets a shell complete commands, options, keys and runs.

source <(lamella completion bash)        # a line of ~/.bashrc
source <(lamella completion zsh)         # a line of ~/.zshrc
lamella completion fish | source         # a line of ~/.config/fish/config.fish
"""

import re
import shlex
import sys
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
from lamella.errors import RequestError
from lamella.tables import printable

SHELLS = ("bash", "zsh", "fish")
CLOSED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", re.S)  # what is quoted in a line, but for a quote that is open


def main(arguments: list[str], commands: Commands = MappingProxyType({})) -> int:
    """Print the script of a shell, or the words that its command line can be continued with.

    commands: the table of commands.
    """
    place = arguments.index("--") if "--" in arguments else len(arguments)  # the words of a command line follow
    parser = CommandParser(__doc__)
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    if not arguments[:place]:
        raise RequestError("lamella completion takes SHELL: bash, zsh or fish; `lamella completion --help` says more")
    shell: str = parser.parse_args(arguments[:place]).shell
    words = arguments[place + 1 :]
    if not words:
        print(Path(__file__).with_name(f"completion.{shell}").read_text(), end="")
    elif shell == "bash":
        print(*(f"{word}\n" for word in _bash_words(words[0], "".join(words[1:]), commands)), sep="", end="")
    else:  # the shells split a line at its tab, which no candidate contains
        found = sorted(dict(_fitting(words, commands)).items())
        sys.stdout.writelines(f"{word}\t{printable(meaning)}\n" for word, meaning in found)
    return 0


def _fitting(words: Sequence[str], commands: Commands) -> Iterator[tuple[str, str]]:
    """Yield the candidates that begin with the last word, without names of files that have control characters."""
    found = candidates(words, commands, _help)
    return ((word, meaning) for word, meaning in found if word.startswith(words[-1]) and word.isprintable())


def _help(name: str) -> str:
    """Return the help of a command."""
    if name == "train":  # Hydra prints this help, and would compose a config before
        return str(keys_in_file(SHIPPED / "config.yaml")["hydra.help.template"][0])
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        import_module(f"lamella.commands.{name.replace('-', '_')}").main(["--help"])
    return out.getvalue()


def _bash_words(line: str, breaks: str, commands: Commands) -> list[str]:
    """Return the candidates for the last word of a line as bash takes them: quoted, and without what it has split off.

    breaks: the characters at which bash splits a word, except within quotes: its COMP_WORDBREAKS. Bash splits before an
    `@`, and after each other one.
    """
    masked = CLOSED.sub(lambda found: "_" * len(found[0]), line)
    opened = re.search("[\"']", masked)
    quote = opened[0] if opened else ""
    place = opened.start() if opened else max(masked.rfind(letter) + (letter != "@") for letter in f" {breaks}")
    words, start = shlex.split(f"{line}\0{quote}"), shlex.split(f"{line[:place]}\0")[-1].rstrip("\0")
    words[-1] = words[-1].rstrip("\0")
    found = [word.removeprefix(start) for word, _ in _fitting(words[1:], commands)]
    if quote == '"':  # where no character keeps bash from replacing `!`
        found = [word for word in found if "!" not in word]
    return sorted({_quoted(word, quote) for word in found})


def _quoted(word: str, quote: str) -> str:
    """Return a word in which bash acts on no character, to stand after an opening quote, or "" for none."""
    if quote == "'":
        return word.replace("'", r"'\''")
    return re.sub(r'([$`"\\])' if quote else r"([^\w@%+=:,./~-])", r"\\\1", word)

"""The console script `lamella`: the table of commands, each of which is imported when it is called."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `python -m lamella` has put the working directory there, in which a file may have the name of any module.
    del sys.path[0]

import locale
import signal
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module

from lamella.console import exit_status, loading_notice, prepare_streams, print, print_uncaught
from lamella.distributed import is_ranked
from lamella.errors import nearest
from lamella.interrupts import SIGNALS, limit_exit
from lamella.startup.ending import quick_end
from lamella.startup.lazy_imports import no_garbage_collection
from lamella.warm.address import is_private, socket_path

COMMANDS = {
    "new": ("DIR", "a project of your own, which trains at once"),
    "train": ("[OVERRIDE…]", "fit, then test the best checkpoint; -m: one run per combination"),
    "inspect": ("[OVERRIDE… | RUN]", "structure, shapes, one forward and backward pass, the graph"),
    "check-data": ("[OVERRIDE…]", "duplicates, damaged files and more, in the data of a config"),
    "find": ("lr [OVERRIDE…]", "a learning rate, by a short training in which it rises"),
    "explain-nan": ("RUN", "where the first number that is not finite came from"),
    "eval": ("RUN [OVERRIDE…]", "test a run's best checkpoint, on its own data or other data"),
    "predict": ("RUN PATH…", "class probabilities for image files or folders"),
    "resume": ("RUN [KEY=VALUE…]", "finish what was interrupted, in place"),
    "reproduce": ("RUN", "train again from the record: is the result the same, bit for bit?"),
    "export": ("RUN --format FORMAT", "the network for other runtimes: onnx, pt2 or safetensors"),
    "runs": ("[DIR]", "list runs; sort and filter them"),
    "compare": ("RUN RUN…", "what differs in config and in result"),
    "note": ('RUN… "TEXT"', "add a note to runs or sweeps, or print the notes"),
    "tag": ("RUN… WORD… -WORD…", "add tags to runs or sweeps, and remove them"),
    "clean": ("[DIR]", "move runs, checkpoints or the image cache to a trash, and back"),
    "why": ("[KEY] [OVERRIDE… | RUN]", "where a value comes from: the override, or the line of the file"),
    "completion": ("bash|zsh|fish", "the script that lets a shell complete commands, keys and runs"),
    "sync": ("RUN… --to TRACKER", "send runs to MLflow, W&B or a CSV file"),
    "schema": ("[DIR]", "JSON Schemas, from which editors complete and check config files"),
    "warm": ("[--stop]", "a server, from which the commands that follow start at once"),
    "board": ("[DIR]", "TensorBoard on the outputs, on this machine only"),
}

WITHOUT_TORCH = ("new", "runs", "compare", "note", "tag", "clean", "why", "completion", "sync", "warm", "board")
# The options that print something and load no torch.
QUICK_OPTIONS = {"-h", "--help", "-c", "--cfg", "-i", "--info", "--version"}


def run_program() -> int:
    """Run one command as the program of this process, and return its exit status.

    The process then ends without taking its objects apart, which would take as long as importing a third of torch.
    """
    end = quick_end()
    try:
        end.status = main()
    except SystemExit as error:
        end.status = error.code if isinstance(error.code, int) else int(bool(error.code))
        raise
    return end.status


def main() -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 wrong request, 130 interrupted."""
    if sys.platform == "win32":
        print("error: Lamella needs a POSIX system (Linux or macOS); on Windows use WSL", file=sys.stderr)
        return 2
    os.environ["PYTHONSAFEPATH"] = "1"  # no process that is started here imports from the working directory either
    sys.excepthook = print_uncaught
    _use_utf8()
    prepare_streams()
    _shorten_temporary_paths()
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name == "help" and arguments:
        name, arguments = arguments[0], ["--help"]
    elif arguments == ["help"]:
        arguments = ["--help"]
    if name in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if name == "--version":
        from lamella import __version__

        print(f"lamella {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}; {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    # Nothing has to be saved yet, and in the middle of an import KeyboardInterrupt would show as another error.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if is_ranked():  # the process of rank 0 receives the signals and tells the other ranks when to end
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    # Threads that wait in loops for each other are slow where other programs run. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = {argument.partition("=")[0] for argument in arguments}
    loads_torch = name not in WITHOUT_TORCH and not QUICK_OPTIONS & options and "torch" not in sys.modules
    if loads_torch and not is_ranked() and is_private(socket_path()):
        from lamella.warm.client import run_warm

        if (warm := run_warm()) is not None:
            return warm
    status, module = 1, name.replace("-", "_")
    more: dict[str, object] = {"completion": COMMANDS, "warm": main}
    given = (arguments, more[name]) if name in more else (arguments,)
    try:
        with loading_notice() if loads_torch else nullcontext():
            status = exit_status(lambda: _command(module)(*given))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
        raise
    finally:
        if status:
            limit_exit(status)
    return status


def _command(module: str) -> Callable[..., int]:
    """Import the module of a command, and return its main function."""
    with no_garbage_collection():
        main: Callable[..., int] = import_module(f"lamella.commands.{module}").main
    return main


def _use_utf8() -> None:
    """Start the program again in Python's UTF-8 mode where the locale encodes the names of files in another way.

    Names and files are then the same on every machine. What is printed keeps the encoding of the locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ.setdefault("PYTHONIOENCODING", locale.getencoding())
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _shorten_temporary_paths() -> None:
    """Let Python choose the directory of temporary files where the given one is too long for sockets.

    The processes of a sweep and of a data loader reach each other through sockets in that directory, by paths of at
    most 103 bytes, of which multiprocessing takes 32.
    """
    for name in ("TMPDIR", "TEMP", "TMP"):
        if name in os.environ and len(os.fsencode(os.path.abspath(os.environ[name]))) > 71:
            del os.environ[name]


def _usage() -> str:
    """Return the list of commands that `lamella --help` prints."""
    lines = [f"  lamella {f'{name} {given}':<27}  {text}" for name, (given, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lamella COMMAND …",
            "",
            *lines,
            "",
            "lamella help COMMAND shows the options of a command and examples.",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_program())

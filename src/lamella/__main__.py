"""The console script: the table of commands, each imported when it is called."""

import signal
import sys
from importlib import import_module

from lamella.console import exit_status
from lamella.distributed import is_ranked
from lamella.errors import nearest

COMMANDS = {
    "train": ("[OVERRIDE…]", "fit, then test the best checkpoint; -m: one run per combination"),
    "inspect": ("[OVERRIDE… | RUN]", "structure, shapes, one forward and backward pass, the graph"),
    "eval": ("RUN [OVERRIDE…]", "test a run's best checkpoint, on its own data or other data"),
    "predict": ("RUN PATH…", "class probabilities for image files or folders"),
    "resume": ("RUN [KEY=VALUE…]", "finish what was interrupted, in place"),
    "reproduce": ("RUN", "train again from the record: is the result the same, bit for bit?"),
    "export": ("RUN --format FORMAT", "the network for other runtimes: onnx, pt2 or safetensors"),
    "runs": ("[DIR]", "list runs; sort and filter them"),
    "compare": ("RUN RUN…", "what differs in config and in result"),
    "board": ("[DIR]", "TensorBoard on the outputs, on this machine only"),
}


def main() -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong request, 130 interrupted."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
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
    # Ctrl-C in the middle of an import would show as whatever that import makes of it; there is nothing to save yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if is_ranked():  # a process that takes part in a run; the first one says when it ends
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    return exit_status(lambda: int(import_module(f"lamella.commands.{name}").main(arguments)))


def _usage() -> str:
    lines = [f"  lamella {f'{name} {given}':<27}  {text}" for name, (given, text) in COMMANDS.items()]
    return "\n".join(["usage: lamella COMMAND …", "", *lines, "", "lamella COMMAND --help says more."])


if __name__ == "__main__":
    sys.exit(main())
if __name__ == "__main__":
    sys.exit(main())

"""The console script: the table of commands, each imported when it is called."""

import os
import signal
import sys
from importlib import import_module

from lamella.errors import RequestError, nearest
from lamella.summary import printable

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
    if "LOCAL_RANK" in os.environ:  # a process that takes part in a run; the first one says when it ends
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    try:
        status = int(import_module(f"lamella.commands.{name}").main(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read along has seen enough
        status = 0
    except RequestError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = 2
    except OSError as error:  # a path that the system does not take, say
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        status = 2
    try:
        sys.stdout.flush()
    except OSError:
        # Whoever read along is gone, or the disk is full; Python would complain once more as it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _usage() -> str:
    lines = [f"  lamella {f'{name} {given}':<27}  {text}" for name, (given, text) in COMMANDS.items()]
    return "\n".join(["usage: lamella COMMAND …", "", *lines, "", "lamella COMMAND --help says more."])


if __name__ == "__main__":
    sys.exit(main())

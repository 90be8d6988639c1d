"""lamella board [DIR] [--port PORT]: start TensorBoard on the outputs, for this machine only.

lamella board
lamella board outputs/default --port 0
"""

import os
import sys
from pathlib import Path

from lamella.commands.parser import CommandParser
from lamella.console import print


def main(arguments: list[str]) -> int:
    """Replace this process by TensorBoard, or return the exit status 2 if there is no such directory."""
    parser = CommandParser(__doc__)
    parser.add_argument("directory", metavar="DIR", nargs="?", default="outputs", type=Path, help="default: outputs")
    parser.add_argument("--port", type=int, default=6006, help="default: 6006; 0 for any that is free")
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        print(f"error: {options.directory} is not a directory; `lamella train` makes outputs/", file=sys.stderr)
        return 2
    where = ["--logdir", str(options.directory), "--host", "127.0.0.1", "--port", str(options.port)]
    # TensorBoard replaces this process, so that Ctrl-C and signals reach TensorBoard itself.
    return os.execv(sys.executable, [sys.executable, "-P", "-m", "tensorboard.main", *where])

"""lamella schema [DIR] [--vscode]: write JSON Schemas of the config files, for an editor to complete and check them.

lamella schema
lamella schema --vscode
"""

from pathlib import Path

from lamella.commands.parser import CommandParser
from lamella.console import print


def main(arguments: list[str]) -> int:
    """Write a schema for each config group, for experiments and for config.yaml, and return the exit status."""
    parser = CommandParser(__doc__)
    default = Path(".lamella", "schema")
    parser.add_argument("directory", metavar="DIR", nargs="?", default=default, type=Path, help=f"default: {default}")
    parser.add_argument("--vscode", action="store_true", help="name the schemas in .vscode/settings.json")
    options = parser.parse_args(arguments)
    from lamella.editors.write import write_schemas

    for line in write_schemas(options.directory, options.vscode):
        print(line)
    return 0

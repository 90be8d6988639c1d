"""Config files and where to find them: the project's own `conf/` first, then the one that comes with Lamella."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import yaml

from lamella.config.values import LARGEST, key_of
from lamella.errors import RequestError

GROUPS = (
    "data",
    "network",
    "loss",
    "optimizer",
    "scheduler",
    "device",
    "trainer",
    "visuals",
    "metrics",
    "tracking",
    "task",
)
LISTS = ("metrics", "tracking")  # the groups that take a list of options, or none
OPTIONAL = (*LISTS, "task")  # the groups that the configs of earlier versions lack
# Lamella's own configs are beside this package in a wheel, and at the top of the repository in an editable install.
SHIPPED = next(
    path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[3] / "conf") if path.is_dir()
)
_project = ContextVar("project", default=Path("conf"))


def project_folder() -> Path:
    """Return the folder whose configs come before the shipped ones: `conf/` in the working directory."""
    return _project.get()


@contextmanager
def composing_from(folder: Path) -> Iterator[None]:
    """Compose from `folder` in place of the project's `conf/`, as a resumed search does from its copy."""
    token = _project.set(folder)
    try:
        yield
    finally:
        _project.reset(token)


def find_config(name: str) -> Path | None:
    """Return the file that a config such as "network/cnn" is read from, or None if there is none."""
    candidates = [folder / f"{name}.yaml" for folder in (project_folder(), SHIPPED)]
    return next((path for path in candidates if path.is_file()), None)


def chooses_option(override: str) -> bool:
    """Return True if an override chooses an option of a config group, and sets no key."""
    name, value = key_of(override), override.partition("=")[2]
    return not value.startswith("{") and any((folder / name).is_dir() for folder in (project_folder(), SHIPPED))


def is_override(text: str) -> bool:
    """Return True if an argument is an override, and False if it is a word or a path, which may contain `=` too."""
    return "=" in text.partition("/")[0] or text.startswith(("~", "+")) or ("=" in text and chooses_option(text))


def read_config(path: Path) -> str:
    """Return the text of a config file, without the byte order mark that some editors write.

    Raises RequestError if the file is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{shown_path(path)}: this is not UTF-8 ({error.reason}); save the file as UTF-8") from error


def check_aliases(text: str, path: Path) -> None:
    """Raise RequestError if the aliases in a config file make it endless, or too large for any memory.

    Raises YAMLError if the text is no YAML.
    """
    size = _expanded_size(yaml.compose(named_stream(text, path)), shown_path(path)) if "*" in text else 0
    if size > LARGEST:
        raise RequestError(f"{shown_path(path)}: with its aliases it has more than {LARGEST:,} values")


def named_stream(text: str, path: Path) -> io.StringIO:
    """Return the text of a config file as a stream with a name, so that errors of the parser name the file."""
    stream = io.StringIO(text)
    setattr(stream, "name", str(path))  # noqa: B010
    return stream


def read_raw(path: Path) -> object:
    """Return the content of a config file as it is written, before composition, or None if it cannot be read."""
    try:
        text = read_config(path)
        check_aliases(text, path)
        content: object = yaml.safe_load(text)
    except (OSError, RequestError, yaml.YAMLError):
        return None
    return content


def shown_path(path: Path) -> str:
    """Return a path for a message, relative to the working directory if the file is below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _expanded_size(root: yaml.Node | None, path: str) -> int:
    """Return how many values a file has once every alias is replaced by what it names.

    Raises RequestError if a value contains itself.
    """
    sizes: dict[int, int] = {}
    open_nodes = set[int]()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise RequestError(f"{path}, line {node.start_mark.line + 1}: an alias names a value that contains it")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            items = node.value if isinstance(node, yaml.CollectionNode) else []
            children = [child for item in items for child in (item if isinstance(item, tuple) else [item])]
            sizes[id(node)] = 1 + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    return size(root) if root else 0

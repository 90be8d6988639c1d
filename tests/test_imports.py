"""The direction of imports, and what is not imported at all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lamella"

# Who may import whom: strictly downward. Modules of one row do not know each other.
LEVELS = [
    {"errors", "seeds", "counters", "kernels", "losses"},
    {"chunks"},
    {
        "arguments",
        "layers",
        "conf",
        "data",
        "names",
        "project",
        "summary",
        "task",
        "pictures",
        "plots",
        "graph",
        "archive",
        "exports",
        "interrupts",
        "grid",
        "space",
        "pruning",
    },
    {"forked", "sizes", "targets", "guard", "records", "progress", "activations", "gradients"},
    {
        "trace",
        "stacks",
        "device",
        "schedules",
        "explain",
        "visuals",
        "record",
        "listing",
        "processes",
        "meter",
    },
    {"network", "checkpoints", "sweeps", "captured"},
    {"trainers", "leaderboard"},
    {"build", "compose", "slots"},
    {"fit", "evaluation", "recorded", "plan", "launchers", "groups"},
    {"attempt", "model", "request"},
    {"sweeping"},
    {"search"},
    {"commands"},
    {"fused"},
    {"__main__"},
]
# The parts that are usable from a notebook: they take plain values.
PLAIN = (
    "listing", "records", "names", "exports", "plots", "network", "trace", "sizes", "layers", "activations",
    "gradients", "graph", "pictures", "data", "task", "record", "summary", "arguments", "errors", "archive",
    "interrupts", "checkpoints", "seeds", "counters", "kernels", "chunks", "losses", "project", "processes", "meter",
    "sweeps", "leaderboard", "slots", "pruning", "stacks",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """The modules that a file imports, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def part(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def level(name: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if name in names)


FILES = [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("lamella.")}
    known = {name for name in own if any(name in names for names in LEVELS)} - {part(path)}
    assert all(level(name) < level(part(path)) for name in known)


@pytest.mark.parametrize("path", [path for path in FILES if part(path) in PLAIN], ids=lambda path: path.name)
def test_plain_parts_know_no_config(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] in ("hydra", "omegaconf")}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--cfg", "job"], ["train", "network=cnnn"]])
def test_no_torch_where_none_is_needed(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom lamella.__main__ import main\n"
        f"sys.argv = ['lamella', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr.endswith("False\n")


def test_no_file_holds_a_second_concept() -> None:
    assert {path.name: count for path in FILES if (count := len(path.read_text().splitlines())) > 300} == {}

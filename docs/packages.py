"""Draw docs/packages.svg: the packages of src/lamella and which of them imports which.

    python docs/packages.py

An arrow stands for at least one import, also inside of a function, for type checkers alone, or by a string that names
a module. An arrow that other arrows imply is left out. Tests hold the picture and the direction of the imports.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
ROOT = SOURCE / "lamella"
GROUND = "ground"  # the files beside the packages
PICTURE = Path(__file__).with_name("packages.svg")


def modules() -> dict[str, Path]:
    """Return every module of Lamella by its dotted name; a package stands for its `__init__.py`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, known: Mapping[str, Path]) -> set[str]:
    """Return the modules of Lamella that the module `name` imports."""
    tree = ast.parse(known[name].read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{item.name}" for item in node.names}
            found |= {item if item in known else node.module for item in inner}
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            prefix = str(node.values[0].value)
            found |= {module for module in known if prefix.startswith("lamella.") and module.startswith(prefix)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found |= {node.value}
    return {module for module in found if module in known and module not in (name, "lamella")}


def package(name: str) -> str:
    """Return the package of a module, "ground" for the files beside the packages."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[1]).is_dir() else GROUND


def arrows() -> dict[str, set[str]]:
    """Return for each package the packages that it imports. `__main__` is a package by itself, at the top."""
    known = modules()
    found: dict[str, set[str]] = {node: set() for node in [*map(package, known), "__main__"]}
    for name in known:
        # The face of the whole package hands `load` and `runs` on, when they are called.
        if name == "lamella":
            continue
        origin = "__main__" if name == "lamella.__main__" else package(name)
        found[origin] |= {package(module) for module in imports(name, known)} - {origin}
    return found


def levels(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the level of each node, one more than its highest target. Raises ValueError where there is a circle."""
    found: dict[str, int] = {}
    visiting: list[str] = []

    def visit(node: str) -> int:
        if node in visiting:
            raise ValueError(" -> ".join([*visiting[visiting.index(node) :], node]))
        if node not in found:
            visiting.append(node)
            found[node] = 1 + max((visit(other) for other in sorted(graph[node])), default=-1)
            visiting.pop()
        return found[node]

    for node in sorted(graph):
        visit(node)
    return found


def purpose(name: str) -> str:
    """Return the first line of a package's docstring."""
    lines = {GROUND: "errors, signatures, tables: what every package needs", "__main__": "the table of commands"}
    if name in lines:
        return lines[name]
    return str(ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text()))).splitlines()[0].rstrip(".")


WIDTH, HEIGHT, GAP, ROW = 400, 64, 40, 102  # pixels
LETTERS = 56  # so many letters of a text fit into the width of a box


def draw() -> str:
    """Return the picture as SVG."""
    graph = arrows()
    level = levels(graph)
    rows = [sorted(name for name in level if level[name] == number) for number in range(max(level.values()) + 1)]
    width = max(len(row) for row in rows) * (WIDTH + GAP) + GAP
    height = len(rows) * ROW
    place: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP) + GAP) / 2
        for column, name in enumerate(row):
            place[name] = (left + column * (WIDTH + GAP), height - (number + 1) * ROW + 20)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#8a94a3"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, other in _needed(graph):
        (x1, y1), (x2, y2) = place[name], place[other]
        x2 += WIDTH / 2
        if level[name] - level[other] == 1:
            x1, y1 = x1 + WIDTH / 2, y1 + HEIGHT
            bend = f"{x1:g} {(y1 + y2) / 2:g}"
        else:  # past the boxes in between, from the side of the box
            x1, y1 = x1 + (WIDTH if x2 > x1 + WIDTH / 2 else 0), y1 + HEIGHT / 2
            bend = f"{x2:g} {y1:g}"
        lines.append(
            f'<path d="M{x1:g} {y1:g}C{bend} {x2:g} {(y1 + y2) / 2:g} {x2:g} {y2:g}" fill="none" '
            'stroke="#8a94a3" stroke-width="1.4" marker-end="url(#tip)"/>'
        )
    for name, (x, y) in place.items():
        lines += [
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="#eef3fb" stroke="#5b7db1"/>',
            f'<text x="{x + 14:g}" y="{y + 21:g}" font-weight="bold">{escape(name)}</text>',
        ]
        for number, line in enumerate(textwrap.wrap(purpose(name), LETTERS)):
            lines.append(
                f'<text x="{x + 14:g}" y="{y + 38 + 16 * number:g}" fill="#444" font-size="12">{escape(line)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def _needed(graph: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield the arrows that no chain of other arrows implies."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*(reached(other) for other in graph[name]))

    for name in sorted(graph):
        implied = set().union(*(reached(other) for other in graph[name])) if graph[name] else set()
        yield from ((name, other) for other in sorted(graph[name] - implied))


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"drawn in {re.sub(r'.*/docs/', 'docs/', str(PICTURE))}")

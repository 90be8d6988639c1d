"""The computational graph that backward walks: from the loss to the leaves."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lamella.errors import RequestError

GRAPH_SUFFIXES = (".svg", ".png", ".dot")


@dataclass(frozen=True)
class GraphNode:
    """One operation or leaf. shape: of what it gives. inputs: the numbers of the nodes that it was computed from."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    leaf: bool = False


def graph_nodes(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> list[GraphNode]:
    """The graph of `loss`, which is node 0; every node comes before its inputs."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    order: list[Any] = []
    seen: set[Any] = set()

    stack: list[tuple[Any, bool]] = [(loss.grad_fn, False)]  # not by recursion: networks may be deeper than Python's
    while stack:
        function, done = stack.pop()
        if done:
            order.append(function)
        elif function not in seen:
            seen.add(function)
            stack.append((function, True))
            stack += [(inner, False) for inner, _ in function.next_functions if inner is not None]
    order.reverse()
    numbers = {function: number for number, function in enumerate(order)}
    return [_node(function, numbers, names) for function in order]


def _node(function: Any, numbers: Mapping[Any, int], names: Mapping[int, str]) -> GraphNode:
    variable = getattr(function, "variable", None)
    if variable is not None:
        return GraphNode(names.get(id(variable), "leaf"), tuple(variable.shape), (), leaf=True)
    shapes = [tuple(metadata.shape) for metadata in function._input_metadata]
    inputs = tuple(numbers[inner] for inner, _ in function.next_functions if inner is not None)
    return GraphNode(function.name(), shapes[0] if shapes else (), inputs)


def graph_text(graph: list[GraphNode]) -> list[str]:
    """The `grad_fn` chain, a line for each operation: its number, name, shape, and what it was computed from."""
    width = max(len(node.name) for node in graph if not node.leaf)
    lines = []
    for number, node in enumerate(graph):
        if not node.leaf:
            sources = [
                f"{graph[inner].name} {graph[inner].shape}" if graph[inner].leaf else str(inner)
                for inner in node.inputs
            ]
            line = f"{number:>3}  {node.name:<{width}}  {node.shape!s:<12}  from {', '.join(sources) or 'the data'}"
            lines += textwrap.wrap(line, 80, subsequent_indent=" " * 9, drop_whitespace=False, break_long_words=False)
    return lines


def draw_graph(graph: list[GraphNode], path: Path) -> None:
    """Write the graph to a .svg, .png or .dot file; the first two need Graphviz's program `dot`.

    Raises RequestError for another ending, and where something that it needs is not installed.
    """
    if path.suffix not in GRAPH_SUFFIXES:
        raise RequestError(f"--graph {path}: it takes a file that ends in {', '.join(GRAPH_SUFFIXES)}")
    try:
        import graphviz
    except ImportError:
        raise RequestError("--graph: drawing takes the package graphviz; pip install 'lamella[graph]'") from None
    drawing = graphviz.Digraph(node_attr={"fontname": "sans-serif", "fontsize": "11"}, edge_attr={"color": "#777777"})
    for number, node in enumerate(graph):
        style = {"shape": "ellipse", "style": "filled", "fillcolor": "#dbe9f6"} if node.leaf else {"shape": "box"}
        drawing.node(str(number), f"{node.name}\n{node.shape}", **style)
        for inner in node.inputs:
            drawing.edge(str(number), str(inner))
    try:
        if path.suffix == ".dot":
            path.write_text(drawing.source)
        else:
            path.write_bytes(drawing.pipe(format=path.suffix[1:]))
    except graphviz.ExecutableNotFound:
        raise RequestError(
            f"--graph {path}: a picture takes Graphviz's program `dot`, which is not installed; a .dot file does not"
        ) from None
    except OSError as error:
        raise RequestError(f"--graph {path}: cannot write there ({error.strerror})") from error

"""The autograd graph, which backward walks from the loss to the leaves."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.autograd.graph import Node

from lamella.atomic_files import replacing
from lamella.errors import RequestError
from lamella.torch_internals import gradient_shape

GRAPH_SUFFIXES = (".svg", ".png", ".dot")


@dataclass(frozen=True)
class GraphNode:
    """An operation or a leaf of the graph.

    name: of the operation, or of the parameter that is the leaf. shape: of the output. inputs: the numbers of the nodes
    from which the output was computed.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    leaf: bool = False


def graph_nodes(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> list[GraphNode]:
    """Return the nodes of the graph of `loss`. Node 0 is the loss, and every node comes before its inputs.

    parameters: by the names that their leaves get.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = _topological_order(loss)
    numbers = {function: number for number, function in enumerate(order)}
    return [_node(function, numbers, names) for function in order]


def _topological_order(loss: Tensor) -> list[Node]:
    """Return the autograd functions below `loss`, each before the functions of its inputs."""
    order: list[Node] = []
    seen: set[Node] = set()
    # Not recursive, because a network may be deeper than Python's limit of recursion. A function is visited twice: it
    # joins the order, which is built from its end, at the second visit, after all of its inputs.
    assert loss.grad_fn is not None
    stack = [(loss.grad_fn, False)]
    while stack:
        function, inputs_done = stack.pop()
        if inputs_done:
            order.append(function)
        elif function not in seen:
            seen.add(function)
            stack.append((function, True))
            stack += [(inner, False) for inner, _ in function.next_functions if inner is not None]
    return order[::-1]


def _node(function: Node, numbers: Mapping[Node, int], names: Mapping[int, str]) -> GraphNode:
    """Return the node of an autograd function. Only the function of a leaf has a `variable`."""
    variable = getattr(function, "variable", None)
    if variable is not None:
        return GraphNode(names.get(id(variable), "leaf"), tuple(variable.shape), (), leaf=True)
    inputs = tuple(numbers[inner] for inner, _ in function.next_functions if inner is not None)
    return GraphNode(function.name(), gradient_shape(function), inputs)


def graph_text(graph: list[GraphNode]) -> list[str]:
    """Return a line for each operation: its number, name, shape and inputs. Long lines are wrapped."""
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
    """Write a picture of the graph to a .svg or .png file, which needs Graphviz's program `dot`, or to a .dot file.

    Raises RequestError for another ending, and where the package graphviz or the program is not installed.
    """
    if path.suffix not in GRAPH_SUFFIXES:
        raise RequestError(f"--graph {path}: it takes a file that ends in {', '.join(GRAPH_SUFFIXES)}")
    try:
        import graphviz
    except ImportError:
        raise RequestError("--graph: this needs the package graphviz; uv pip install -e '.[graph]'") from None
    drawing = graphviz.Digraph(node_attr={"fontname": "sans-serif", "fontsize": "11"}, edge_attr={"color": "#777777"})
    for number, node in enumerate(graph):
        style = {"shape": "ellipse", "style": "filled", "fillcolor": "#dbe9f6"} if node.leaf else {"shape": "box"}
        drawing.node(str(number), f"{node.name}\n{node.shape}", **style)
        for inner in node.inputs:
            drawing.edge(str(number), str(inner))
    try:
        picture = drawing.source.encode() if path.suffix == ".dot" else drawing.pipe(format=path.suffix[1:])
        with replacing(path) as temporary:
            temporary.write_bytes(picture)
    except graphviz.ExecutableNotFound:
        raise RequestError(
            f"--graph {path}: a picture needs Graphviz's program `dot`, which is not installed; a .dot file does not"
        ) from None
    except OSError as error:
        raise RequestError(f"--graph {path}: cannot write there ({error.strerror})") from error

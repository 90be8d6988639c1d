"""Plan the network of a config: a stack of layers, a module from elsewhere, or several of them by name."""

from collections.abc import Callable, Mapping

from torch import nn

from lamella.config.values import Config
from lamella.data.samples import InputType, Shape, input_type, plain_shape
from lamella.errors import RequestError, nearest
from lamella.experiment.initial_weights import InitialWeights
from lamella.network.plan import Plan, plan, plan_module, plan_together

RUN_KEYS = ("freeze", "class_dim")  # of the group `network`, which are not about its layers
STACK_KEYS = ("name", "layers", "init")


def plan_network(
    node: Config,
    shape: Shape,
    dtype: InputType,
    make: Callable[[str, Config], Callable[[], nn.Module]],
    is_read: Callable[[str], bool],
    recorded: bool,
) -> Plan:
    """Plan the network of the config group `network`. Raises RequestError.

    shape, dtype: of a sample. make: returns the function that builds the `_target_` of a node, which has a key.
    is_read: returns whether an interpolation reads a key. recorded: as in `lamella.network.plan`.
    """
    run_keys = RUN_KEYS if InitialWeights.is_argument(node) else (*RUN_KEYS, "weights")
    if "weights" in node and run_keys == RUN_KEYS and "_target_" not in node and not is_read("network.weights"):
        raise RequestError(
            f"network.weights is {node['weights']!r}, a name of torchvision's weights, and this network is none of "
            "torchvision's; it takes a run directory or a file",
            "network.weights",
        )
    node = {key: value for key, value in node.items() if key not in run_keys}

    def plan_stack(node: Config, place: str, shape: Shape, dtype: InputType) -> Plan:
        if "_target_" in node:
            return plan_module(make(place, node), shape, place, dtype)
        _check_read(node, place, STACK_KEYS, is_read)
        name = node.get("name", "Network")
        if not isinstance(name, str) or not name.isidentifier():
            raise RequestError(f"{place}.name is {name!r}; it is printed as a class name", f"{place}.name")
        return plan(node["layers"], shape, name, f"{place}.layers", recorded, dtype, node.get("init"))

    if _is_stack(node):
        return plan_stack(node, "network", shape, dtype)
    stacks = {name: stack for name, stack in node.items() if _is_stack(stack)}
    if not stacks:
        _check_read(node, "network", STACK_KEYS, is_read)
        raise RequestError("network: it takes `layers`, a list or a mapping, or a `_target_`", "network")
    for name, stack in node.items():
        if isinstance(stack, Mapping) and name not in stacks and not is_read(f"network.{name}"):
            key = f"network.{name}"
            raise RequestError(f"{key}: a stack takes `layers` or a `_target_`, and this one has neither", key)
    _check_read(node, "network", list(stacks), is_read)
    plans = {}
    for name, stack in stacks.items():
        layers = {key: value for key, value in stack.items() if key not in ("shape", "dtype")}
        given = (shape, dtype)
        if "shape" in stack:
            given = (plain_shape(stack["shape"]), input_type(stack.get("dtype", "float32")))
        plans[name] = plan_stack(layers, f"network.{name}", *given)
    return plan_together(plans)


def _is_stack(node: object) -> bool:
    return isinstance(node, Mapping) and ("layers" in node or "_target_" in node)


def _check_read(node: Config, place: str, keys: tuple[str, ...] | list[str], is_read: Callable[[str], bool]) -> None:
    """Raise RequestError for a key that is none of `keys`, and that no interpolation reads."""
    unread = [key for key in node if key not in keys and not is_read(f"{place}.{key}")]
    if unread:
        known = [*keys, *(key for key in node if key not in unread)]
        raise RequestError(
            f"{place}.{unread[0]}: nothing in the network reads this key; {nearest(unread[0], known)}",
            f"{place}.{unread[0]}",
            unknown=True,
        )

"""The present names of classes that have moved, for recorded configs and for configs of an earlier version."""

from collections.abc import Mapping

# A name that ends with a dot is a module, and stands for all names in it.
MOVED = {
    "lamella.layers.": "lamella.network.",
    "lamella.data.serve.": "lamella.data.",
    "lamella.data.batches.": "lamella.data.",
    "lamella.pruning.": "lamella.sweeps.search.pruning.",
    "lamella.visuals.Samples": "lamella.visuals.SampleImages",
}


def present_name(path: str) -> str:
    """Return the present name of the class that a `_target_` names."""
    for old, new in MOVED.items():
        if path == old or (old.endswith(".") and path.startswith(old)):
            return new + path.removeprefix(old)
    return path


def with_present_names(node: object) -> object:
    """Return a config, or a part of it, in which every `_target_` has its present name."""
    if isinstance(node, Mapping):
        return {
            key: present_name(value) if key == "_target_" and isinstance(value, str) else with_present_names(value)
            for key, value in node.items()
        }
    return [with_present_names(item) for item in node] if isinstance(node, list | tuple) else node

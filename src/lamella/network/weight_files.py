"""Read weights that were saved as a state dict: the tensors of a network by their names."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lamella.errors import RequestError

# The keys below which training scripts save a state dict, beside an optimizer's for example.
NESTED = ("state_dict", "model_state_dict", "model")
KEY = "network.weights"
WAY = "torch.save(network.state_dict(), FILE) writes the weights of a network"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of torch.save, or in a .safetensors file, by their names.

    Nothing in the file is run. Raises RequestError where the file is damaged or holds something else.
    """
    place = f"{KEY}: {path}"
    try:
        loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except ImportError as error:
        raise RequestError(f"{place}: reading it needs {error.name}; uv pip install -e '.[export]'", KEY) from error
    except Exception as error:
        # torch raises an OSError without the name of the file for an archive that has lost its end.
        if isinstance(error, OSError) and error.filename:
            raise RequestError(f"{place}: it cannot be read ({error.strerror})", KEY) from error
        reason = "it is damaged, or no file of weights"
        if found := re.search(r"(?:GLOBAL|class|global) (\w+\.[\w.]+)", str(error)):
            reason = f"it holds {found[1]}, which is no tensor, and is not read, because that could run code"
        raise RequestError(f"{place}: {reason};\n  {WAY}", KEY) from error
    nested = [loaded[key] for key in NESTED if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)]
    found_state = nested[0] if nested else loaded
    items = found_state.items() if isinstance(found_state, Mapping) else ()
    state = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not state:
        raise RequestError(f"{place}: it holds no tensors by name;\n  {WAY}", KEY)
    return state


def _load_tensors(path: Path) -> object:
    # Files of early versions of torch are no archives, and cannot be mapped into memory.
    loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return loaded


def _load_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    return load_file(path)

"""What a network takes: one batch of samples, or several batches by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]
Named = Mapping[str, Tensor] | None
Shape = Sequence[int] | Mapping[str, Sequence[int]]
DType = torch.dtype | Mapping[str, torch.dtype]


def zero_batch(shape: Shape, dtype: DType, batch: int, device: torch.device | str) -> Inputs:
    """Return `batch` samples of zeros. shape, dtype: of one sample, or of one sample of each named input."""
    if not isinstance(shape, Mapping):
        assert isinstance(dtype, torch.dtype)
        return torch.zeros(batch, *shape, dtype=dtype, device=device)
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shape, dtype)
    return {name: torch.zeros(batch, *size, dtype=dtypes[name], device=device) for name, size in shape.items()}


def zeros_on_cpu(inputs: Inputs) -> Inputs:
    """Return zeros on the CPU of the shapes and dtypes of `inputs`."""
    if isinstance(inputs, Mapping):
        return {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in inputs.items()}
    return torch.zeros(inputs.shape, dtype=inputs.dtype)


def named_inputs(inputs: Inputs) -> Mapping[str, Tensor]:
    """Return the inputs of a network by name. A single one is called `input`."""
    return inputs if isinstance(inputs, Mapping) else {"input": inputs}


def first_tensor(inputs: Inputs) -> Tensor:
    """Return a tensor as it is, and of named inputs the first one. All of them have the same number of samples."""
    return next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs


def sample_shape(batch: Tensor) -> tuple[int, ...]:
    """Return the shape of one sample of a batch, that is, without the first dimension."""
    return tuple(batch.shape[1:])


def shape_text(inputs: Inputs) -> str:
    """Return the shape of one sample, and of named inputs the shape of each, as text."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {sample_shape(x)}" for name, x in inputs.items())
    return str(sample_shape(inputs))

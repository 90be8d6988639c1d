"""Define the layers that rearrange the values of each sample. Dimensions are counted as in torch: 0 is the batch."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import pad


class Permute(nn.Module):
    """Reorders the dimensions, as torch's permute. dims: all of them, of which the first is 0, the batch.

    Shapes: (B, T, C) in and (B, C, T) out for the dims 0, 2, 1.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        if sorted(dims) != list(range(len(dims))) or not dims or dims[0] != 0:
            raise ValueError(f"its dims are {list(dims)}; they name each dimension once, first 0, the batch: [0, 2, 1]")
        self.dims = tuple(dims)

    def forward(self, input: Tensor) -> Tensor:
        """Return the values in the new order."""
        return input.permute(self.dims)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"dims={self.dims}"


class Reshape(nn.Module):
    """Gives each sample another shape, in which one size may be -1, which is then inferred.

    Shapes: (B, …) in, (B, *shape) out.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, input: Tensor) -> Tensor:
        """Return the reshaped samples."""
        return input.reshape(input.shape[0], *self.shape)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"shape={self.shape}"


class Pad(nn.Module):
    """Adds positions with a constant value before and after those of dimension `dim`.

    Shapes: (B, …, T, …) in, (B, …, before + T + after, …) out.
    """

    def __init__(self, dim: int, before: int = 0, after: int = 0, value: float = 0.0) -> None:
        super().__init__()
        if dim == 0:
            raise ValueError("its dim is 0, the batch; the first dimension of a sample is 1")
        self.dim, self.before, self.after, self.value = dim, before, after, value

    def forward(self, input: Tensor) -> Tensor:
        """Return the padded values."""
        if not -input.dim() < self.dim < input.dim():
            raise IndexError(f"its dim is {self.dim}, and a batch has {input.dim()} dimensions")
        later = (input.dim() - 1 - self.dim) % input.dim()  # the dimensions that come after `dim`
        return pad(input, [0, 0] * later + [self.before, self.after], value=self.value)

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        return f"dim={self.dim}, before={self.before}, after={self.after}, value={self.value}"

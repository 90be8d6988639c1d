"""Build the loss from the config group `loss`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lamella.config.values import Config
from lamella.errors import RequestError


def build_loss(node: Config, weights: Tensor | None, make: Callable[[Config], Callable[[], nn.Module]]) -> nn.Module:
    """Return the loss, with class weights as tensors. Raises RequestError.

    weights: of each class (K,), in place of the word "balanced". make: returns the function that makes the object of a
    node.
    """
    node = dict(node)
    if isinstance(node.get("weight"), str):
        node["weight"] = weights
    for key in ("weight", "pos_weight"):
        if isinstance(node.get(key), list):
            try:
                node[key] = torch.tensor(node[key], dtype=torch.float32)
            except (TypeError, ValueError) as error:
                raise RequestError(f"loss.{key} is {node[key]}; it takes numbers", f"loss.{key}") from error
    loss = make(node)()
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "batchmean"):
        raise RequestError(f"loss.reduction is {reduction!r}; a step takes the mean of its batch", "loss.reduction")
    return loss

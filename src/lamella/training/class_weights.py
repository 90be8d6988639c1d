"""Weigh the classes in the loss by how rare they are, for `loss.weight: balanced`."""

import torch
from torch import Tensor, nn

from lamella import signatures
from lamella.config.targets import resolve_target
from lamella.config.values import Config
from lamella.data import Data, RunData
from lamella.errors import RequestError
from lamella.training.objective import INDEXED

KEY = "loss.weight"


def balanced_weights(node: Config, data: RunData) -> Tensor | None:
    """Return the weight of each class, float32 (K,), None if the weight in the config group `loss` is not "balanced".

    The weight of a class with n of the N training targets is N / (K n), as scikit-learn computes it for its
    `class_weight="balanced"`. Targets that the loss ignores do not count. Raises RequestError for another word, for a
    loss that takes no weight for each class, for targets that are no classes, and for a class without any target.
    """
    if not isinstance(value := node.get("weight"), str):
        return None
    if not isinstance(data, Data):
        raise RequestError(f"{KEY} is {value}, but Lamella does not count these samples; write a list of numbers", KEY)
    loss = resolve_target(node.get("_target_"), "loss._target_", nn.Module)
    name, targets, classes = getattr(loss, "__name__", str(loss)), data.train.targets, data.num_classes
    if value != "balanced":
        raise RequestError(f"{KEY} is {value!r}; it takes balanced, a list of numbers, or null", KEY)
    # The other losses of torch take a weight for each element of an output.
    if "weight" not in signatures.parameters(loss) or (loss.__module__.startswith("torch.") and loss not in INDEXED):
        raise RequestError(
            f"{KEY} is balanced, but {name} takes no weight for each class; take loss=cross_entropy", KEY
        )
    if targets.is_floating_point() or data.reconstructs or not classes:
        raise RequestError(f"{KEY} is balanced, but the targets of these samples are no classes; leave it null", KEY)
    if data.weights is not None:
        raise RequestError(
            f"{KEY} is balanced, and data.sampler draws rare classes more often already; leave one of them null", KEY
        )
    counts = torch.bincount(targets[(targets >= 0) & (targets < classes)].long(), minlength=classes)
    if missing := [name for name, count in zip(data.classes, counts.tolist(), strict=True) if not count]:
        raise RequestError(
            f"{KEY} is balanced, but there is no training sample of {', '.join(missing)}; write a list with a weight "
            f"for each of the {classes} classes",
            KEY,
        )
    return (counts.sum() / (classes * counts.double())).float()

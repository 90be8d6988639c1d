"""Read `trainer.overfit`: whether a run trains and validates with the same few batches, to see whether it can learn."""

from collections.abc import Collection

from lamella.config.values import Config
from lamella.errors import RequestError

LIMITS = ("limit_train_batches", "limit_val_batches")  # the arguments of the Trainer that it sets


def overfit_batches(node: Config) -> int | None:
    """Return the number of batches that each epoch takes, None for all. Raises RequestError for a wrong value.

    node: the config group `trainer`.
    """
    value = node.get("overfit")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RequestError(
            f"trainer.overfit is {value!r}; it takes a number of batches from 1 on, or null", "trainer.overfit"
        )
    return value


def overfit_limits(node: Config) -> dict[str, int]:
    """Return the arguments of the Trainer with which it takes so many batches. node: the config group `trainer`."""
    batches = overfit_batches(node)
    return dict.fromkeys(LIMITS, batches) if batches is not None else {}


def wants_test(node: Config, written: Collection[str]) -> bool:
    """Return whether the best checkpoint is tested, which tells nothing of a run that overfits.

    node: the config group `trainer`. written: the keys that were set for this run. Raises RequestError where it asks
    for both.
    """
    test: bool = node.get("test", True)
    if test and "trainer.test" in written and overfit_batches(node):
        raise RequestError(
            "trainer.test is true, but a run with trainer.overfit is not tested; leave one of them out", "trainer.test"
        )
    return test and not overfit_batches(node)


def check_overfit(node: Config, batches: int | None, mixes: bool) -> None:
    """Raise RequestError for keys that contradict `trainer.overfit`, and for more batches than an epoch has.

    node: the config group `trainer`. batches: of an epoch, None where it is not known. mixes: whether the images of
    two classes are mixed.
    """
    wanted = overfit_batches(node)
    if wanted is None:
        return
    for name in LIMITS:
        if node.get(name) is not None:
            raise RequestError(
                f"trainer.{name} is {node[name]}, and trainer.overfit={wanted} sets it; leave one of them out",
                f"trainer.{name}",
            )
    if mixes:
        raise RequestError(
            "data.augment mixes classes, so that the loss stays far from 0, and trainer.overfit is to bring it there; "
            "leave\n  mixup and cutmix out, or write data.augment=[]",
            "data.augment",
        )
    if batches is not None and batches < wanted:
        raise RequestError(
            f"trainer.overfit is {wanted}, but an epoch has {batches} batches; write a smaller number, or a smaller "
            "data.batch_size",
            "trainer.overfit",
        )

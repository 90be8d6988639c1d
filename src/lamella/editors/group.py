"""Describe a config group whose keys are the arguments of a `_target_`, and further ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamella.editors.calls import Schema, value_of
from lamella.editors.targets import Targets

EPOCHS = value_of("integer", "null", minimum=1)
LIST = value_of("array", "null")


@dataclass(frozen=True)
class Group:
    """A config group. key: its name. own: the modules of the project. read: its keys that interpolations read."""

    key: str
    own: Sequence[str]
    read: Sequence[str]

    @property
    def free(self) -> tuple[str, ...]:
        """Return the keys of the group that no target has to take."""
        return (*self.read, "defaults")

    def written(
        self, targets: Targets, extra: Mapping[str, Schema] | None = None, others: Schema | bool = False
    ) -> Schema:
        """Return the schema of a group with a `_target_`.

        extra: the keys that are no arguments, of which the targets know. others: the schema of any other key.
        """
        extra = {**{key: {} for key in self.read}, "defaults": {}, **(extra or {})}
        return {
            "type": ["object"],
            "properties": {"_target_": targets.path(), **extra},
            "if": {"required": ["_target_"]},
            "then": targets.part(),
            "else": {
                "properties": {**dict.fromkeys(extra, True), **targets.arguments()},
                "additionalProperties": others,
            },
            "$defs": targets.definitions,
        }

    def targets(self, kinds: type | tuple[type, ...], homes: Sequence[str], **more: object) -> Targets:
        """Return what the `_target_` of the group may name. more: as for `Targets`."""
        return Targets(self.key, kinds, homes, self.own, **more)  # type: ignore[arg-type]

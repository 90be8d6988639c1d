"""What `hydra.launcher` may be: which launchers run the jobs of a sweep, and with which values."""

from collections.abc import Collection, Mapping
from typing import Any

from lamella.config.values import walk
from lamella.errors import RequestError

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
# The launchers that run a job within a process of theirs.
IN_PROCESS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "basic",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": "ray",
}
# What the Slurm launcher's own config computes.
COMPUTED = ("${hydra.sweep.dir}/.submitit/%j", "${hydra.job.name}")


def is_local(node: Mapping[str, Any]) -> bool:
    """Whether a launcher is Lamella's own, which is no class."""
    return "_target_" not in node


def is_fused(node: Mapping[str, Any]) -> bool:
    """Whether it is the one that trains several jobs as one program."""
    return is_local(node) and "width" in node


def runs_in_process(node: Mapping[str, Any]) -> bool:
    """Whether a launcher runs a job within a process of its own, and not as one of the job's."""
    return node.get("_target_") in IN_PROCESS


def check_launcher_target(node: Mapping[str, Any]) -> None:
    """Raise RequestError where `node` is none of the launchers that run what a sweep has planned."""
    check_plain_values(node, "launcher")
    target = node.get("_target_")
    if target is not None and target != SLURM and target not in IN_PROCESS:
        raise RequestError(
            f"hydra.launcher is {target}; a sweep runs with local, slurm, basic, joblib or ray: "
            "hydra/launcher=NAME, where its package is installed",
            "hydra.launcher",
        )


def check_plain_values(node: Mapping[str, Any], key: str) -> None:
    """Raise RequestError where Hydra would build or compute what stands in a launcher or a sweeper."""
    values = {name: value for name, value in node.items() if name != "_target_"}
    for place, value in walk(values, f"hydra.{key}"):
        if place.endswith("._target_"):
            raise RequestError(f"{place}: a {key} takes values, and builds nothing", place)
        if isinstance(value, str) and value not in COMPUTED and ("${" in value or "\n" in value):
            raise RequestError(f"{place} is {value!r}; a {key} takes plain values", place)


# What submitit puts into a script.
SHELL = ("setup", "srun_args", "additional_parameters", "python", "use_srun")


def check_launcher(node: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Raise RequestError where `node` is no launcher that runs what a sweep has planned.

    given: the keys of `hydra.launcher` that the command line set; what becomes part of a shell script has to be there.
    """
    check_launcher_target(node)
    for name in SHELL:
        if node.get(name) and name not in given:
            raise RequestError(
                f"hydra.launcher.{name}: this is run by a shell, so it is taken from the command line alone;\n"
                "  give the sweep's line with it",
                f"hydra.launcher.{name}",
            )
    for name in ("tasks_per_node", "nodes"):
        if node.get("_target_") == SLURM and node.get(name) != 1:
            raise RequestError(
                f"hydra.launcher.{name} is {node.get(name)!r}; a job is one task of Slurm's, which starts "
                "trainer.devices processes itself",
                f"hydra.launcher.{name}",
            )

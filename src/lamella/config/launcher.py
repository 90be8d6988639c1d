"""Checks of `hydra.launcher`: which launchers may run the jobs of a sweep, and with which values."""

from collections.abc import Collection

from lamella.config.project import inside_run_directory
from lamella.config.values import Config, walk
from lamella.errors import RequestError

SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
# The launchers that run a job inside a process of their own, by the names of their options.
IN_PROCESS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "basic",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": "ray",
}
# The interpolations in the Slurm launcher's own config.
COMPUTED = ("${hydra.sweep.dir}/.submitit/%j", "${hydra.job.name}")


def is_local(node: Config) -> bool:
    """Return True for Lamella's own launchers, local and fused, which have no `_target_`."""
    return "_target_" not in node


def is_fused(node: Config) -> bool:
    """Return True for the launcher that trains several jobs as one program."""
    return is_local(node) and "width" in node


def runs_in_process(node: Config) -> bool:
    """Return True for a launcher that runs a job inside its own process and gives the job no process."""
    return node.get("_target_") in IN_PROCESS


def check_launcher_target(node: Config) -> None:
    """Raise RequestError if `node` is no launcher that can run the planned jobs of a sweep."""
    check_plain_values(node, "launcher")
    target = node.get("_target_")
    if target is not None and target != SLURM and target not in IN_PROCESS:
        raise RequestError(
            f"hydra.launcher is {target}; a sweep runs with local, slurm, basic, joblib or ray: "
            "hydra/launcher=NAME, where its package is installed",
            "hydra.launcher",
        )
    if IN_PROCESS.get(str(target)) == "ray" and inside_run_directory():
        raise RequestError(
            "hydra.launcher is ray, whose processes import from the working directory; "
            "start the command outside of the sweep's directory",
            "hydra.launcher",
        )


def check_plain_values(node: Config, key: str) -> None:
    """Raise RequestError if a value in the config of a launcher or a sweeper is one that Hydra builds or computes.

    key: "launcher" or "sweeper".
    """
    values = {name: value for name, value in node.items() if name != "_target_"}
    for place, value in walk(values, f"hydra.{key}"):
        if place.endswith("._target_"):
            raise RequestError(f"{place}: a {key} takes values, and builds nothing", place)
        if isinstance(value, str) and value not in COMPUTED and ("${" in value or "\n" in value):
            raise RequestError(f"{place} is {value!r}; a {key} takes plain values", place)


# The keys whose values submitit puts into a shell script.
SHELL = ("setup", "srun_args", "additional_parameters", "python", "use_srun")


def check_launcher(node: Config, given: Collection[str] = ()) -> None:
    """Raise RequestError if `node` is no launcher that can run the planned jobs of a sweep, with these values.

    given: the keys of `hydra.launcher` that the command line set. The keys in SHELL have to be among them, because a
    config may come from a stranger.
    """
    check_launcher_target(node)
    for name in SHELL:
        if node.get(name) and name not in given:
            raise RequestError(
                f"hydra.launcher.{name}: a shell runs this value, so it must be on the command line;\n"
                f"  enter the sweep's command again with hydra.launcher.{name}=…",
                f"hydra.launcher.{name}",
            )
    for name in ("tasks_per_node", "nodes"):
        if node.get("_target_") == SLURM and node.get(name) != 1:
            raise RequestError(
                f"hydra.launcher.{name} is {node.get(name)!r}; a job is one task of Slurm's, which starts "
                "trainer.devices processes itself",
                f"hydra.launcher.{name}",
            )

"""Say what a process and a fork of the server have to have in common: whatever was used up when all was imported.

What can be given to a fork afterwards is in `process.py`.
"""

import os
import sys
from contextlib import suppress

from lamella.warm.address import PACKAGE

# Variables that are read when a library is loaded, by the beginnings of their names. A test holds that no library which
# is imported reads others.
VARIABLES = tuple(
    """
    ABSL_ AOT ATEN_ BLIS_ C10_ CI COMPILE_ CUBLAS CUDA_ CUDNN CUTE CUTLASS_ CXX DNNL_ DOCTEST_ DUMP_ DYLD_ ENABLE_ FAKE_
    FLYDSL_ FSSPEC_ FX_ GLIBC_ GOMP_ GOTO_ GROUP_RANK HIP_ HOME HSA_ INDUCTOR_ JOBLIB_ JSM_ KINETO_ KMP_ LANG LC_ LD_
    LNAME LOCAL_ LOCPATH LOGNAME LOG_ LOKY_ MALLOC_ MASTER_ MATPLOTLIBRC MIOPEN_ MKL_ MLFLOW_ MPL MPMATH_ NCCL_
    NODE_RANK NPY_ NUMEXPR_ NUMPY_ NVIDIA_ OMPI_ OMP_ ONEDNN_ OPENBLAS_ PANDAS_ PARTITIONER_ PILLOW_ PMI POSSIBLE_
    PROTOCOL_BUFFERS_ PSUTIL_ PT2_ PYPARSING PYTHON PYTORCH_ RANK ROCM_ ROCR_ SAGE_ SCIPY_ SKIP_ SKLEARN_ SLURM_ SOURCE_
    SYMPY_ TEMP TEMPORARILY_ TMP TMPDIR TORCH TQDM_ TRITON_ TZ UNSAFE_ USER VECLIB_ WORLD_SIZE XDG_CACHE_HOME
    XDG_CONFIG_HOME XDG_DATA_HOME XLA_ XNNPACK_
    """.split()  # noqa: SIM905
)
# Lines of /proc/self/status: what the kernel allows a process, and on which cores.
STATUS = ("NoNewPrivs", "Seccomp", "Cap", "Cpus_allowed", "Mems_allowed")
# Files of control groups, of both versions, and how their values begin where nothing is limited.
LIMITS = (
    "cpu.max",
    "cpu.cfs_quota_us",
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "memory.limit_in_bytes",
    "pids.max",
)
UNLIMITED = ("max", "-1", "92233720")

Identity = dict[str, object]  # values of JSON, each by the words that a message names it with


def identity() -> Identity:
    """Return what has to be equal in the server and in a command that it runs."""
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name.islower() and name[0] != "_"}
    flags = {name: value for name, value in flags.items() if isinstance(value, int) and name != "safe_path"}
    # What stands between `python` and the arguments, without the name of the program: options, or a profiler.
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    root = os.stat("/")
    found: Identity = {
        "the version of Python": sys.version,
        "the environment": [sys.prefix, sys.base_prefix, PACKAGE],
        "the options of Python": [
            flags,
            [word for word in options if word not in ("-P", "-m", "lamella", sys.argv[0])],
        ],
        "the user": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups())],
        "the root directory": [root.st_dev, root.st_ino],
        **{f"the variable {name}": value for name, value in os.environ.items() if name.startswith(VARIABLES)},
    }
    if sys.platform == "linux":
        with open("/proc/self/status") as file:
            lines = [line.split() for line in file if line.startswith(STATUS)]
        namespaces = sorted(os.listdir("/proc/self/ns"))
        found["what the kernel allows"] = [os.sched_getscheduler(0), *lines]
        found["the container"] = [os.readlink(f"/proc/self/ns/{name}") for name in namespaces]
        found["the limits of the control group"] = _control_group_limits()
    return found


def difference(server: Identity, command: Identity) -> str | None:
    """Return in words the first thing that differs between two processes, None if there is none."""
    return next((name for name in {**server, **command} if server.get(name) != command.get(name)), None)


def _control_group_limits() -> list[str]:
    """Return what limits the control groups of this process and those above them, as `systemd-run -p MemoryMax=` does.

    Two terminals are in different groups, which have the same limits as a rule.
    """
    found = []
    with open("/proc/self/cgroup") as file:
        groups = [line.strip().split(":", 2)[1:] for line in file]
    for controller, group in groups:
        while group.strip("/"):
            for name in LIMITS:
                with suppress(OSError), open(f"/sys/fs/cgroup/{controller}{group}/{name}") as file:
                    if not (limit := file.read().strip()).startswith(UNLIMITED):
                        found.append(f"{name} {limit}")
            group = os.path.dirname(group)
    return found

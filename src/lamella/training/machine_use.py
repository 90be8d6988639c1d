"""Measure how much of the machine a run uses: processor, memory and GPU, once a second from a thread."""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil
import torch

from lamella.runs.schema import Usage

INTERVAL = 1.0  # seconds between two samples
SHARE = 0.002  # of the time of one core is what the search for child processes may take
POINTS = 500  # after that many points, each further one stands for 1/POINTS of the time so far
GB = 1e9  # bytes
UNMEASURED = (OSError, psutil.Error)  # what reading /proc may raise, for example in a container; no run ends by it


@dataclass(frozen=True)
class UsePoint:
    """What was used on average over a span of time.

    second: the end of the span, in seconds since the measurement began. ended: the same as Unix time. values: by the
    names that `MachineUse` lists.
    """

    second: float
    ended: float
    values: Mapping[str, float]


class MachineUse:
    """How much of the machine this process and its children use, measured within a `with` block.

    Attributes:
        points: the averages of successive spans. A span takes a second at first, and later 1/POINTS of the whole time,
            so that a run of three days has less than 4,000 points.

    The names of the values, the last three for CUDA devices alone:
        cores: CPU cores that the processes of the run keep busy; machine_cores: those that all programs keep busy.
        memory_gb: memory of the processes of the run. What workers share with each other counts once.
        gpu_percent: share of the time in which the GPU computes anything, gpu_memory_gb: memory that is taken on it,
        gpu_watts: its power. All three are of the first GPU that is visible, whichever programs use it.

    accelerator: "cuda" for the values of the GPU.
    """

    def __init__(self, accelerator: str) -> None:
        self.points: list[UsePoint] = []
        self._accelerator = accelerator
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._next_search = time.monotonic() + INTERVAL
        self._seconds = 0.0
        self._sums: dict[str, float] = {}
        self._peaks: dict[str, float] = {}
        self._span, self._span_sums = 0.0, dict[str, float]()
        self._last: tuple[float, float, float] = 0.0, 0.0, 0.0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_end, name="machine use", daemon=True)

    def __enter__(self) -> "MachineUse":
        # A first sample is taken by this thread, so that the other one imports nothing while workers are forked.
        with suppress(*UNMEASURED):
            self._last = self._busy_seconds()
            self._gpu()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def totals(self) -> tuple[float, dict[str, float], dict[str, float]]:
        """Return how many seconds were measured, the sums of value times seconds, and the peaks, by name."""
        with self._lock:
            return self._seconds, dict(self._sums), dict(self._peaks)

    def _sample_until_end(self) -> None:
        while not self._end.wait(INTERVAL):
            self.sample()

    def sample(self) -> None:
        """Add what was used since the sample before this one, unless that was a moment ago or cannot be measured."""
        with self._lock, suppress(*UNMEASURED):
            before, (now, own, everything) = self._last, self._busy_seconds()
            elapsed = now - before[0]
            # The kernel counts the time of a process in steps of 10 ms.
            if elapsed < 0.1 and self._seconds:
                return
            self._last = now, max(own, before[1]), everything
            cores = os.cpu_count() or 1
            values = {
                "cores": min((self._last[1] - before[1]) / elapsed, cores),
                "machine_cores": min(max((everything - before[2]) / elapsed, 0.0), cores),
                "memory_gb": self._memory(),
                **self._gpu(),
            }
            self._seconds += elapsed
            self._span += elapsed
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * elapsed
                self._span_sums[name] = self._span_sums.get(name, 0.0) + value * elapsed
                self._peaks[name] = max(self._peaks.get(name, 0.0), value)
            if self._span >= self._seconds / POINTS:
                means = {name: total / self._span for name, total in self._span_sums.items()}
                self.points.append(UsePoint(self._seconds, time.time(), means))
                self._span, self._span_sums = 0.0, {}

    def _busy_seconds(self) -> tuple[float, float, float]:
        """Return the time of a clock, and the CPU seconds of this process with its children and of all programs.

        Children that have ended are part of the times that the kernel keeps for this process.
        """
        if time.monotonic() >= self._next_search:
            started = time.thread_time()
            self._children = self._process.children(recursive=True)  # reads a file for each process of the machine
            self._next_search = time.monotonic() + max(INTERVAL, (time.thread_time() - started) / SHARE)
        own = sum(self._process.cpu_times()[:4])
        for child in self._children:
            with suppress(psutil.Error):
                own += sum(child.cpu_times()[:2])
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        return time.monotonic(), own, sum(times[: _counted(times)]) - idle

    def _memory(self) -> float:
        """Return the resident memory of this process and of what each child has for itself, in GB."""
        size = self._process.memory_info().rss
        for child in self._children:
            with suppress(psutil.Error):
                info = child.memory_info()
                size += info.rss - getattr(info, "shared", 0)
        return size / GB

    def _gpu(self) -> dict[str, float]:
        """Return the values of the GPU, without those that the GPU or its driver does not report."""
        values: dict[str, float] = {}
        if self._accelerator == "cuda":
            # A part of a GPU (MIG), for example, has no utilization of its own.
            with suppress(Exception):
                values["gpu_percent"] = float(torch.cuda.utilization(0))
            with suppress(Exception):
                values["gpu_memory_gb"] = torch.cuda.device_memory_used(0) / GB
            with suppress(Exception):
                values["gpu_watts"] = torch.cuda.power_draw(0) / 1000
        return values


class RunUse:
    """What a run has used of the machine, in this process and in those that trained it before.

    machine: measures this process, which may train several runs. earlier: what the record holds of the processes
    before, empty for a new run.
    """

    def __init__(self, machine: MachineUse, earlier: Usage) -> None:
        self.machine, self.earlier = machine, earlier
        self._taken = 0

    def new_points(self) -> list[UsePoint]:
        """Return the points that were not returned before, with seconds that count from the start of the run."""
        points = self.machine.points[self._taken :]
        self._taken += len(points)
        before = self.earlier.get("cores", {}).get("seconds", 0.0)
        return [replace(point, second=before + point.second) for point in points]

    def usage(self) -> Usage:
        """Return the means and the peaks so far, empty before the first sample."""
        seconds, sums, peaks = self.machine.totals()
        usage = dict(self.earlier)
        for name, total in sums.items():
            before = self.earlier.get(name, {"mean": 0.0, "peak": 0.0, "seconds": 0.0})
            measured = before["seconds"] + seconds
            usage[name] = {
                "mean": _rounded((before["mean"] * before["seconds"] + total) / measured),
                "peak": _rounded(max(before["peak"], peaks[name])),
                "seconds": round(measured, 3),
            }
        return usage


def _counted(times: tuple[float, ...]) -> int:
    """Return how many of the system's CPU times add up to the whole: the times of guests are part of the others."""
    names: tuple[str, ...] = times._fields  # type: ignore[attr-defined]
    return names.index("guest") if "guest" in names else len(names)


def _rounded(value: float) -> float:
    """Return a value with three significant digits, which are more than a sample has."""
    return float(f"{value:.3g}")

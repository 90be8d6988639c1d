"""Choose how many networks are computed as one."""

import statistics

MEASURED_STEPS = 5  # with each width; the first of them is not counted


class FusedWidth:
    """Chooses the number of networks that are computed as one, by measuring the first steps.

    members: the number of networks, with which the measurement begins. Attributes:
        size: the present width.
        chosen: whether the measurement is over.
    """

    def __init__(self, members: int) -> None:
        self.size = members
        self.seconds: dict[int, list[float]] = {}  # for each width, what a step of one member took
        self.chosen = False

    def record_step(self, seconds: float) -> None:
        """Record what a step of one member took, and change `size` once it was measured often enough."""
        times = self.seconds.setdefault(self.size, [])
        if self.chosen or len(times) == MEASURED_STEPS:
            return
        times.append(seconds)
        if len(times) == MEASURED_STEPS:
            best = min(self.seconds, key=self.step_seconds)
            if self.size == 1:
                self.size, self.chosen = best, True
            else:
                # Once a smaller width is slower, no other is tried except 1.
                self.size = self.size // 2 if best == self.size else 1

    def step_seconds(self, size: int) -> float:
        """Return the median of the seconds that a step of one member takes with this width."""
        return statistics.median(self.seconds[size][1:])

    def measured(self) -> str:
        """Return as text what a step of one member takes with the chosen width, and with the others."""
        others = [
            f"{f'with {size} at once' if size > 1 else 'by itself'} {1e3 * self.step_seconds(size):.2f} ms"
            for size in sorted(self.seconds)
            if size != self.size
        ]
        return "; ".join([f"{1e3 * self.step_seconds(self.size):.2f} ms for a step of one", *others])

    def limit(self, size: int) -> None:
        """Measure again from `size` on, because more networks cannot be computed as one."""
        self.seconds, self.size, self.chosen = {}, size, False

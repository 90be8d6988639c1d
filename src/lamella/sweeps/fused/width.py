"""How many networks are computed as one."""

import statistics

TRIED = 5  # steps with each width; the first of them is not counted


class FusedWidth:
    """How many of the networks are computed as one: what is fastest, tried on the first steps."""

    def __init__(self, members: int) -> None:
        self.size = members
        self.seconds: dict[int, list[float]] = {}
        self.chosen = False

    def took(self, seconds: float) -> None:
        """Note what a step of one member has taken."""
        kept = self.seconds.setdefault(self.size, [])
        if self.chosen or len(kept) == TRIED:
            return
        kept.append(seconds)
        if len(kept) == TRIED:
            best = min(self.seconds, key=self.step)
            if self.size == 1:
                self.size, self.chosen = best, True
            else:
                # Where fewer are slower, still fewer are not tried, but for one.
                self.size = self.size // 2 if best == self.size else 1

    def step(self, size: int) -> float:
        """Seconds that a step of one member takes with such a width."""
        return statistics.median(self.seconds[size][1:])

    def measured(self) -> str:
        """What a step of one member takes with the width that is chosen, and with those that are not."""
        others = [
            f"{f'with {size} at once' if size > 1 else 'by itself'} {1e3 * self.step(size):.2f} ms"
            for size in sorted(self.seconds)
            if size != self.size
        ]
        return "; ".join([f"{1e3 * self.step(self.size):.2f} ms for a step of one", *others])

    def limit(self, size: int) -> None:
        """More cannot be computed as one."""
        self.seconds, self.size, self.chosen = {}, size, False

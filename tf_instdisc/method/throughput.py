"""How fast a training loop runs, and how long it waits for its input."""

import time
from collections.abc import Iterator
from typing import Any


class Stopwatch:
    """Counts images and time over one epoch.

    Attributes:
        images: Images of the finished steps.
        waited: Seconds spent waiting for input.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts counting from zero."""
        self.images = 0
        self.waited = 0.0
        self._started = time.perf_counter()

    def wait_for(self, iterator: Iterator[Any]) -> Any:
        """Returns `next(iterator)`, and counts the time until it came."""
        asked = time.perf_counter()
        item = next(iterator)
        self.waited += time.perf_counter() - asked
        return item

    def read(self) -> dict[str, float]:
        """Images a second, and the share of time spent waiting, in [0, 1]."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        return {
            "images_per_second": self.images / elapsed,
            "input_wait": self.waited / elapsed,
        }

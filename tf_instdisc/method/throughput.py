"""The speed of a training loop, and the time it waits for its input."""

import time
from collections.abc import Iterator
from typing import Any


class Stopwatch:
    """Counts images and time over one epoch.

    Attributes:
        images: Number of images in the finished steps, of all hosts.
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
        """Returns `next(iterator)`, and adds the time that it took."""
        asked = time.perf_counter()
        item = next(iterator)
        self.waited += time.perf_counter() - asked
        return item

    def read(self) -> dict[str, float]:
        """Returns images per second, and the fraction of time waited."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        return {
            "images_per_second": self.images / elapsed,
            "input_wait": self.waited / elapsed,
        }

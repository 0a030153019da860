"""Embeds image files in batches whose size follows from measured times."""

import math
import threading
import time
from collections.abc import Iterator

import numpy as np

from tf_instdisc.serving.embedder import Embedder, embed_contents

_SMALLEST = 8
LARGEST = 256

# Camera photographs fill the memory before they fill a batch.
_MAX_BYTES = 64 * 2**20

# Number of calls of each size; the first one prepares the model.
_CALLS = 3

# A larger batch must save this fraction of the time per image.
_GAIN = 0.05

# Seconds. A longer call saves little, and may miss the deadline of a server.
_LONGEST = 5.0


class BatchSize:
    """The number of images in each call of a model.

    Unless it is given, the number doubles from 8 up to 256 as long as this
    reduces the time per image by 5% and a call takes at most about 5 seconds,
    and the fastest one is kept. Threads may share it.

    Attributes:
        value: The number for the next call.
    """

    def __init__(self, given: int | None = None):
        self.value = given or _SMALLEST
        self._is_settled = given is not None
        self._times: list[float] = []
        self._fastest = math.inf
        self._lock = threading.Lock()

    def record(self, number: int, seconds: float) -> None:
        """Records a call with `number` images.

        Calls with another number than `value` are ignored.
        """
        with self._lock:
            if not self._is_settled and number == self.value:
                self._add(seconds / number)

    def _add(self, seconds_per_image: float) -> None:
        self._times.append(seconds_per_image)
        if len(self._times) < _CALLS:
            return
        least, self._times = min(self._times[1:]), []
        if least >= (1 - _GAIN) * self._fastest:
            self.value //= 2
            self._is_settled = True
            return
        self._fastest = least
        larger = 2 * self.value
        if larger > LARGEST or larger * least > _LONGEST:
            self._is_settled = True
        else:
            self.value = larger


class BatchedEmbedder:
    """Embeds any number of image files.

    Args:
        embedder: As in `embed_contents`.
        batch_size: As in `BatchSize`.
    """

    def __init__(self, embedder: Embedder, batch_size: int | None = None):
        self._embedder = embedder
        self._size = BatchSize(batch_size)

    def __call__(
        self, contents: Iterator[tuple[bytes, str]]
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Embeds image files in batches of at most 64 MiB.

        Args:
            contents: Pairs of the bytes of a file and a text; at least one.

        Returns:
            Embeddings, float `[number, embedding_dim]`; whether each is valid,
            bool `[number]`; and the texts.
        """
        rows, valid = [], []
        texts: list[str] = []
        for batch in self._batches(contents):
            start = time.perf_counter()
            response = embed_contents(
                [file for file, _ in batch], self._embedder
            )
            self._size.record(len(batch), time.perf_counter() - start)
            rows.append(response["embedding"])
            valid.append(response["valid"])
            texts += [text for _, text in batch]
        return np.concatenate(rows), np.concatenate(valid), texts

    def _batches(
        self, contents: Iterator[tuple[bytes, str]]
    ) -> Iterator[list[tuple[bytes, str]]]:
        batch: list[tuple[bytes, str]] = []
        num_bytes = 0
        for pair in contents:
            is_full = num_bytes + len(pair[0]) > _MAX_BYTES
            if batch and (is_full or len(batch) >= self._size.value):
                yield batch
                batch, num_bytes = [], 0
            batch.append(pair)
            num_bytes += len(pair[0])
        yield batch

"""Labels of a TFDS data set, cached between starts."""

import hashlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc import checksums


def kept(
    memory: pathlib.Path | None,
    name: str,
    read: Callable[[], np.ndarray],
    shards: Sequence,
    *origin: object,
) -> np.ndarray:
    """Returns the labels cached by an earlier start, or reads them now.

    Cached labels are used if they have the same origin and come from the same
    shards, as identified by name, size and time of the last change.

    Args:
        memory: `.npz` file that caches the labels; or None to read them.
        name: Which labels, if the file caches several kinds.
        read: Reads the labels.
        shards: The instructions with which TFDS reads the shards.
        *origin: Anything else that determines the labels; compared as text.

    Returns:
        The labels.
    """
    if memory is None:
        return read()
    return checksums.kept(memory, name, _key(shards, origin), read)


def _key(shards: Sequence, origin: tuple[object, ...]) -> str:
    statuses = [tf.io.gfile.stat(shard.filename) for shard in shards]
    parts = [
        (
            shard.filename,
            shard.skip,
            shard.take,
            status.length,
            status.mtime_nsec,
        )
        for shard, status in zip(shards, statuses, strict=True)
    ]
    return hashlib.sha256(repr((origin, parts)).encode()).hexdigest()

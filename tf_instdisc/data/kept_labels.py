"""Labels of a streamed data set, cached between starts."""

import contextlib
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc import checksums
from tf_instdisc.errors import DamagedFileError


def kept(
    memory: pathlib.Path | None,
    read: Callable[[], np.ndarray],
    shards: Sequence,
    *origin: object,
) -> np.ndarray:
    """Returns the labels cached by an earlier start, or reads them now.

    Cached labels are used if they have the same origin and come from the same
    shards, as identified by name, size and time of the last change.

    Args:
        memory: `.npz` file that caches the labels; or None to read them.
        read: Reads the labels, int64 `[size]`.
        shards: The instructions with which TFDS reads the shards.
        *origin: Anything else that determines the labels; compared as text.

    Returns:
        int64 `[size]`.
    """
    if memory is None:
        return read()
    key = _key(shards, origin)
    labels = _load(memory, key)
    if labels is None:
        labels = read()
        # If this fails, the next start takes longer, but nothing else changes.
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            checksums.write_arrays(memory, key=key, labels=labels)
    return labels


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


def _load(memory: pathlib.Path, key: str) -> np.ndarray | None:
    """Returns the labels cached under this key, or None."""
    if not memory.exists():
        return None
    try:
        with checksums.arrays(memory, "") as file:
            return file["labels"] if file["key"] == key else None
    except (DamagedFileError, OSError):
        print(f"{memory} is damaged: all labels are read again.", flush=True)
        return None

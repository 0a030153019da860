"""Which image files can be decoded, remembered between starts."""

import contextlib
import hashlib
import os
import pathlib
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc import checksums, progress
from tf_instdisc.data import decode
from tf_instdisc.errors import DamagedFileError

_SAVED_EVERY = 60.0  # seconds
_MISSING = 0
_VERSION = 2  # Files that passed an earlier version are checked again.


def readable_files(
    folder: str, names: list[str], memory: pathlib.Path | None = None
) -> np.ndarray:
    """Determines which images can be decoded; each file is decoded once.

    A file is recognized by its name, its size and the time of its last
    change.

    Args:
        names: Paths relative to the folder.
        memory: `.npz` file with the results of earlier starts, to which the
            new results are added; or None to decode everything. It is also
            written during the checks, so that a start after a kill does not
            begin from scratch.

    Returns:
        bool `[len(names)]`.
    """
    paths = [os.path.join(folder, name) for name in names]
    keys = np.array(
        [_key(*pair) for pair in zip(names, paths, strict=True)], np.uint64
    )
    exists = keys != _MISSING
    readable = np.isin(keys, _load(memory)) & exists
    unknown = np.flatnonzero(~readable & exists)
    if not len(unknown):
        return readable
    saved = time.monotonic()
    dataset = decodable(read_files([paths[i] for i in unknown]))
    done = 0
    with progress.tracking("checking images", len(unknown)) as advance:
        for index, *_ in dataset.as_numpy_iterator():
            advance(index + 1 - done)
            done = index + 1
            readable[unknown[index]] = True
            if time.monotonic() - saved > _SAVED_EVERY:
                _save(memory, keys[readable])
                saved = time.monotonic()
    _save(memory, keys[readable])
    return readable


def read_files(paths: Sequence[str]) -> tf.data.Dataset:
    """Returns the contents of files, scalar strings."""
    dataset = tf.data.Dataset.from_tensor_slices(paths)
    return dataset.map(tf.io.read_file, num_parallel_calls=tf.data.AUTOTUNE)


def decodable(images: tf.data.Dataset) -> tf.data.Dataset:
    """Returns which of some encoded images can be decoded, and their sizes.

    Returns:
        A dataset, in order, of the position of an image, int64 scalar, and of
        what `decode_smallest` returns.
    """

    @tf.autograph.experimental.do_not_convert
    def decode_one(
        index: tf.Tensor, contents: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        # Ops whose result is not returned may not be run.
        return index, *decode.decode_smallest(contents)

    dataset = images.enumerate().map(
        decode_one, num_parallel_calls=tf.data.AUTOTUNE
    )
    return dataset.ignore_errors()


def _key(name: str, path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return _MISSING
    text = f"{_VERSION} {status.st_size} {status.st_mtime_ns} {name}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _load(memory: pathlib.Path | None) -> np.ndarray:
    """Returns the keys of files that could be read at an earlier start."""
    nothing = np.zeros([0], np.uint64)
    if memory is None or not memory.exists():
        return nothing
    try:
        with checksums.arrays(memory, "") as file:
            return file["keys"]
    except (DamagedFileError, OSError):
        print(f"{memory} is damaged: all images are decoded again.", flush=True)
        return nothing


def _save(memory: pathlib.Path | None, keys: np.ndarray) -> None:
    """Saves the keys of readable files only.

    An unreadable file may be repaired without changing its size or time.
    """
    if memory is None:
        return
    # If this fails, the next start takes longer, but nothing else changes.
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        checksums.write_arrays(memory, keys=keys)

"""Numbered versions of a model, which are published atomically."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from tf_instdisc import atomic, remote
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import local_path, without_wildcards


def versions(export_dir: str) -> list[int]:
    """Returns the sorted versions in a directory; [] if it is missing."""
    if not os.path.isdir(export_dir):
        return []
    return sorted(int(n) for n in os.listdir(export_dir) if n.isdecimal())


def newest_version(
    path: str | os.PathLike,
    argument: str = "saved_model",
    marker: str = "saved_model.pb",
) -> pathlib.Path:
    """Returns the newest version in a directory, or the directory itself.

    Each version holds the file `marker`; `argument` is for error messages.

    Raises:
        FileNotFoundError: If `path` is neither a version nor holds one.
    """
    path = pathlib.Path(local_path(path, argument))
    if not (path / marker).exists():
        numbers = versions(os.fspath(path))
        if not numbers:
            raise MissingFileError(
                f"`{argument}` must hold {marker} or numbered versions. "
                f"Received: {argument}={os.fspath(path)!r}"
            )
        path = path / str(numbers[-1])
    return path


def load(version: pathlib.Path) -> Any:
    """Loads the SavedModel in the directory of a version."""
    import tensorflow as tf

    with without_wildcards(version) as folder:
        return tf.saved_model.load(folder)


def write_version(
    export_dir: str,
    write: Callable[[pathlib.Path], None],
    argument: str = "export_dir",
) -> pathlib.Path:
    """Writes the next version of a model, and uploads it if it is remote.

    A server polls for numbered directories every second and treats each as a
    version, so an incomplete version must never have a number.

    Args:
        export_dir: Directory of the model; it is created if it is missing.
        write: Called with a hidden directory in it, to fill.
        argument: The name of `export_dir` in an error message.

    Returns:
        The directory of the version.

    Raises:
        ValueError: If `export_dir` is a file.
    """
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise UsageError(
            f"`{argument}` must be a directory. "
            f"Received: {argument}={export_dir!r}, a file"
        )
    os.makedirs(export_dir, exist_ok=True)
    with atomic.filling(pathlib.Path(export_dir, "version")) as hidden:
        write(hidden)
        version = _publish(hidden)
    remote.send(version)
    return version


def _publish(hidden: pathlib.Path) -> pathlib.Path:
    """Renames a directory to the next free number, and returns its path."""
    while True:
        number = max([0, *versions(os.fspath(hidden.parent))]) + 1
        target = hidden.with_name(str(number))
        try:
            # Fails if another export has just published this number.
            atomic.rename_directory(hidden, target)
        except OSError:
            if not target.exists():
                raise
        else:
            return target

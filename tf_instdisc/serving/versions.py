"""Numbered versions of a model, which are published atomically."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from tf_instdisc import atomic
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import local_path

_PARTIAL = ".partial-"


def versions(export_dir: str) -> list[int]:
    """Returns the sorted versions in a directory; [] if it is missing."""
    if not os.path.isdir(export_dir):
        return []
    return sorted(int(n) for n in os.listdir(export_dir) if n.isdecimal())


def newest_version(saved_model: str) -> pathlib.Path:
    """Returns the directory of an exported model's newest version.

    Raises:
        FileNotFoundError: If `saved_model` is neither a version nor holds one.
    """
    path = pathlib.Path(local_path(saved_model, "saved_model"))
    if not (path / "saved_model.pb").exists():
        numbers = versions(os.fspath(path))
        if not numbers:
            raise MissingFileError(
                "`saved_model` must hold saved_model.pb or numbered versions. "
                f"Received: saved_model={os.fspath(path)!r}"
            )
        path = path / str(numbers[-1])
    return path


@contextlib.contextmanager
def new_version(
    export_dir: str, argument: str = "export_dir"
) -> Iterator["PendingVersion"]:
    """Yields a hidden directory to fill, and removes it unless published.

    A server polls for numbered directories every second and treats each as a
    version, so an incomplete version must never have a number.

    Args:
        export_dir: Directory of the model; it is created if it is missing.
        argument: Its name in an error message.

    Yields:
        The version to fill, on the same file system as the other versions.

    Raises:
        ValueError: If `export_dir` is a file.
    """
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise UsageError(
            f"`{argument}` must be a directory. "
            f"Received: {argument}={export_dir!r}, a file"
        )
    os.makedirs(export_dir, exist_ok=True)
    partial, descriptor = _make_partial(export_dir)
    # mkdtemp grants access only to its owner, but the server is another user.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(partial, 0o777 & ~umask)
    try:
        yield PendingVersion(pathlib.Path(partial), pathlib.Path(export_dir))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def _make_partial(export_dir: str) -> tuple[str, int]:
    """Creates a locked hidden directory; removes those of killed processes."""
    parent = os.open(export_dir, os.O_RDONLY)
    try:
        # Without locks, as on some network file systems, leftovers are kept.
        can_lock = _flock(parent, fcntl.LOCK_EX)
        for left in pathlib.Path(export_dir).glob(f"{_PARTIAL}*"):
            if can_lock and _is_left_over(left):
                shutil.rmtree(left, ignore_errors=True)
        partial = tempfile.mkdtemp(prefix=_PARTIAL, dir=export_dir)
        descriptor = os.open(partial, os.O_RDONLY)
        _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(parent)
    return partial, descriptor


def _is_left_over(partial: pathlib.Path) -> bool:
    try:
        descriptor = os.open(partial, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        return False
    return True


class PendingVersion:
    """A version that is being written.

    Attributes:
        path: The hidden directory.
    """

    def __init__(self, path: pathlib.Path, export_dir: pathlib.Path):
        self.path = path
        self._export_dir = export_dir

    def publish(self) -> pathlib.Path:
        """Renames the directory to the next free number after syncing it.

        Returns:
            The directory of the version.
        """
        while True:
            number = max([0, *versions(os.fspath(self._export_dir))]) + 1
            target = self._export_dir / str(number)
            try:
                # Fails if another export has just published this number.
                atomic.rename_directory(self.path, target)
            except OSError:
                if not target.exists():
                    raise
            else:
                return target

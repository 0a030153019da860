"""Atomic writes: a file is written completely or not at all.

A file is written under a temporary name in the same directory, synced to disk
and then renamed. No reader sees half of it, even after a kill or a power loss.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from tf_instdisc.errors import StorageError
from tf_instdisc.paths import is_url, local_path

PREFIX = ".partial-"
_SECONDS_OF_WRITING = 3600  # The longest pause while writing one file.
# The longest pause between two new files in a directory, as when the index of
# a large collection is built.
_SECONDS_OF_FILLING = 24 * 3600


@contextlib.contextmanager
def reporting(place: str, cure: str) -> Iterator[None]:
    """Reports a failed write with its location and a remedy.

    Raises:
        StorageError: If the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written: {error.strerror or error}. {cure}"
        ) from error


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike,
    before_rename: Callable[[pathlib.Path], None] | None = None,
) -> Iterator[pathlib.Path]:
    """Replaces a file with what the block writes, unless the block fails.

    The temporary file has the same suffix, and each thread has its own, so
    that the last of several writers wins. A file that a killed process left
    behind is removed by a later write, once it is an hour old. Symbolic links
    are followed, and an existing file keeps its mode. A path that cannot be
    replaced, such as `/dev/stdout`, is written directly.

    Args:
        path: The file; one that is given by a URL is uploaded at the end.
        before_rename: Called with the temporary file once it is completely
            on disk.

    Yields:
        The path to write to.

    Raises:
        OSError: If the file cannot be written. The old file is unchanged.
        StorageError: If `path` is a URL that cannot be written.
    """
    target = pathlib.Path(
        os.path.realpath(local_path(path, "output", "output"))
    )
    if target.exists() and not target.is_file():
        yield target
        return
    own = f"{PREFIX}{os.getpid()}-{threading.get_native_id()}-"
    partial = target.with_name(own + target.name)
    try:
        remove_left_over(target)
        partial.unlink(missing_ok=True)
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        sync(partial)
        if before_rename is not None:
            before_rename(partial)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync(target.parent)
    if is_url(path):
        from tf_instdisc import remote

        remote.send(target)


@contextlib.contextmanager
def filling(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a hidden directory, which the block fills and renames.

    It is beside the target, whose name remains free until then. Directories of
    processes that no longer exist are removed first.

    Args:
        target: A path in an existing directory.

    Yields:
        The directory; it is removed unless the block has renamed it.

    Raises:
        OSError: If the directory cannot be made.
    """
    remove_left_over(target)
    own = f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex}-"
    # The mode of `tempfile.TemporaryDirectory` would hide it from a server.
    partial = target.with_name(own + target.name)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_left_over(target: pathlib.Path) -> None:
    """Removes what processes that no longer exist left behind for a path.

    Their temporary files and directories are named `.partial-PROCESS-ANY-`
    followed by the name of the path. The process of a file that is less than
    an hour old, or of a directory that is less than a day old, may belong to
    another host or container.
    """
    pattern = rf"{re.escape(PREFIX)}(\d+)-\w+-{re.escape(target.name)}"
    # The directory cannot be listed, or another process removes the file;
    # leftovers do no harm.
    with contextlib.suppress(PermissionError, FileNotFoundError):
        for name in os.listdir(target.parent):
            found = re.fullmatch(pattern, name, re.DOTALL)
            if found and not is_alive(int(found[1])):
                left = target.with_name(name)
                age = time.time() - left.stat().st_mtime
                if left.is_dir() and age > _SECONDS_OF_FILLING:
                    shutil.rmtree(left, ignore_errors=True)
                elif not left.is_dir() and age > _SECONDS_OF_WRITING:
                    left.unlink()


def is_alive(process: int) -> bool:
    """Returns whether a process of this host exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # It belongs to another user.
    return True


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(
    path: str | os.PathLike, text: str, errors: str = "strict"
) -> None:
    """Writes a file atomically, in UTF-8."""
    write_bytes(path, text.encode("utf-8", errors))


def sync(path: str | os.PathLike) -> None:
    """Waits until a file or a directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def rename_directory(
    partial: str | os.PathLike, path: str | os.PathLike
) -> None:
    """Renames a directory once everything in it is on disk.

    Raises:
        OSError: If `path` exists and is not an empty directory.
    """
    for folder, _, files in os.walk(os.fspath(partial)):
        for name in (*files, "."):
            sync(os.path.join(folder, name))
    os.rename(partial, path)
    sync(os.path.dirname(os.path.abspath(path)))

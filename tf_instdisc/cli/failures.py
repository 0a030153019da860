"""Tells expected failures from faults in the program."""

import errno
import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from tf_instdisc.errors import RunError, StorageError, UsageError
from tf_instdisc.text import shown_message

_WRONG_PATH = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
_FULL_OR_BROKEN_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
}
_OUT_OF_MEMORY = (
    "The memory is not enough. Try a smaller --batch_size, --image_size or "
    "--width; instdisc-plan tells what a run needs."
)


def end_with_reader() -> None:
    """Lets the process end quietly once nobody reads its output, as `head`.

    For commands that only print. Others would end while they write files.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def end(message: str, status: int) -> NoReturn:
    """Ends the process with one message and an exit status."""
    # Parts that come from files or servers have been escaped where they were
    # put in; whatever has not is at least kept from the terminal here.
    print(shown_message(f"error: {message}"), file=sys.stderr, flush=True)
    sys.exit(status)


def describe(
    error: Exception, named_paths: Iterable[str]
) -> tuple[str, int] | None:
    """One sentence and the exit status of an expected failure.

    Args:
        error: What ended a command.
        named_paths: What the user has given and may be a path. An OSError
            is expected only at these, or where the disk is full or broken.

    Returns:
        None if the error is a fault in the program.
    """
    if isinstance(error, UsageError | RunError):
        return str(error), error.exit_status
    if isinstance(error, MemoryError):
        return _OUT_OF_MEMORY, UsageError.exit_status
    if isinstance(error, OSError):
        return _describe_os_error(error, named_paths)
    return _describe_tensorflow_error(error)


def _describe_os_error(
    error: OSError, named_paths: Iterable[str]
) -> tuple[str, int] | None:
    where = error.filename2 or error.filename
    if error.errno in _FULL_OR_BROKEN_DISK:
        place = f" ({where})" if where else ""
        return f"{error.strerror}{place}.", StorageError.exit_status
    if not isinstance(where, str | bytes | os.PathLike):
        return None
    where = os.path.abspath(os.fsdecode(where))
    if not any(_is_near(where, path) for path in named_paths):
        return None
    status = StorageError.exit_status
    if error.errno in _WRONG_PATH:
        status = UsageError.exit_status
    return f"{where}: {error.strerror}.", status


def _is_near(where: str, named: str) -> bool:
    """Whether a file is the named one, beside or below it, or on the way."""
    named = os.path.abspath(os.path.expanduser(named))
    return (
        os.path.dirname(where) == os.path.dirname(named)
        or f"{where}{os.sep}".startswith(f"{named.rstrip(os.sep)}{os.sep}")
        or f"{named}{os.sep}".startswith(f"{where.rstrip(os.sep)}{os.sep}")
    )


def _describe_tensorflow_error(error: Exception) -> tuple[str, int] | None:
    """TensorFlow's errors that cannot be the program's."""
    # A command that has not imported TensorFlow has none of its errors.
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    if errors is None or not isinstance(error, errors.OpError):
        return None
    first_line = error.message.partition("\n")[0]
    if "No space left on device" in error.message:
        return f"No space left on device: {first_line}", 74
    if isinstance(error, errors.ResourceExhaustedError):
        return f"{_OUT_OF_MEMORY} ({first_line})", UsageError.exit_status
    if isinstance(error, errors.PermissionDeniedError):
        return f"Permission denied: {first_line}", StorageError.exit_status
    if isinstance(error, errors.DataLossError):
        return (
            f"A data file is damaged: {first_line}. Remove the prepared data "
            "set, so that it is prepared again."
        ), StorageError.exit_status
    return None

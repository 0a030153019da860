"""Distinguishes expected failures from bugs in the program."""

import errno
import os
import re
import select
import signal
import sys
from typing import NoReturn, TextIO

from tf_instdisc import remote
from tf_instdisc.errors import RunError, StorageError, UsageError
from tf_instdisc.paths import is_url
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
    "There is not enough memory. Try a smaller --batch_size, --image_size or "
    "--width; instdisc-plan prints what a run needs."
)
_DECODES = re.compile(r"\{\{node [^}]*(Assert|[Dd]ecode)")
# What TensorFlow adds to a reason: lines of their own, and parts of its line.
_ABOUT_GRAPHS = re.compile(
    r"\s|$|Graph execution error|Detected at|<stack|Node: |\d+ root error"
)
_OPERATIONS = re.compile(
    r"\{\{.*?\}\}|Error in user-defined function.*?iterator: \S+:|\[Op:.*"
)


def exit_quietly_if_output_closes() -> None:
    """Lets the process end quietly when its output is closed, as by `head`.

    Only commands that do not write files should use this.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def end(message: str, status: int) -> NoReturn:
    """Ends the process with one message and an exit status."""
    # Text from files or servers was escaped when it was inserted; anything
    # else is at least kept from the terminal here.
    message = remote.named(message)
    print(shown_message(f"error: {message}"), file=sys.stderr, flush=True)
    if _is_closed(sys.stdout):
        # Python would fail again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _is_closed(stream: TextIO | None) -> bool:
    """Returns whether a stream is a pipe whose reader is closed."""
    poll = select.poll()
    try:
        # None where the standard output was closed from the beginning.
        poll.register(stream.fileno() if stream else -1, select.POLLOUT)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def describe(error: Exception, data: str = "") -> tuple[str, int] | None:
    """Returns one sentence and the exit status of an expected failure.

    Args:
        error: The exception that ended a command. An OSError is expected if it
            names a file, or if the disk is full or broken.
        data: The flags that name the images.

    Returns:
        The message and the status; None for a bug in the program.
    """
    if isinstance(error, UsageError | RunError):
        return str(error), error.exit_status
    if isinstance(error, MemoryError):
        return _OUT_OF_MEMORY, UsageError.exit_status
    if isinstance(error, OSError):
        return _describe_os_error(error)
    return _describe_tensorflow_error(error, data)


def _describe_os_error(error: OSError) -> tuple[str, int] | None:
    where = error.filename2 or error.filename
    if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
        message = "The output was closed before the command had ended."
        return message, StorageError.exit_status
    if error.errno in _FULL_OR_BROKEN_DISK:
        place = f" ({where})" if where else ""
        return f"{error.strerror}{place}.", StorageError.exit_status
    if not isinstance(where, str | bytes | os.PathLike) or not error.strerror:
        return None
    where = os.fsdecode(where)
    if not is_url(where):
        where = os.path.abspath(where)
    status = StorageError.exit_status
    if error.errno in _WRONG_PATH:
        status = UsageError.exit_status
    return f"{where}: {error.strerror}.", status


def _describe_tensorflow_error(
    error: Exception, data: str
) -> tuple[str, int] | None:
    """Describes TensorFlow's errors that are not bugs in the program."""
    # If TensorFlow has not been imported, its errors cannot occur.
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    if errors is None or not isinstance(error, errors.OpError):
        return None
    reason = _reason(error.message)
    if "No space left on device" in error.message:
        return f"No space left on device: {reason}", 74
    if isinstance(error, errors.ResourceExhaustedError):
        return f"{_OUT_OF_MEMORY} ({reason})", UsageError.exit_status
    if isinstance(error, errors.PermissionDeniedError):
        return f"Permission denied: {reason}", StorageError.exit_status
    if isinstance(error, errors.DataLossError):
        return (
            f"A data file is damaged: {reason}. Remove the prepared "
            "dataset, so that it is prepared again."
        ), StorageError.exit_status
    if "IteratorGetNext" not in error.message:  # It does not read images.
        return None
    if isinstance(error, errors.NotFoundError):
        return (
            f"A file has vanished: {reason}. Restore it, and run the same "
            "command again."
        ), StorageError.exit_status
    is_invalid = isinstance(error, errors.InvalidArgumentError)
    if is_invalid and _DECODES.search(error.message):
        return (
            f"Images must be files that can be decoded. Received: {data}, "
            f"with an image that cannot be: {reason}. Repair or remove it; of "
            "a dataset, leave it out by the split, or prepare the dataset "
            "again."
        ), StorageError.exit_status
    return None


def _reason(message: str) -> str:
    """Returns what TensorFlow says, without its graph and operations."""
    lines = message.splitlines()
    reasons = (line for line in lines if not _ABOUT_GRAPHS.match(line))
    return _OPERATIONS.sub("", next(reasons, lines[0])).strip(" .")

"""Ends a command at Ctrl-C with one line and exit status 130."""

import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator

EXIT_STATUS = 128 + signal.SIGINT
_LINE = "error: interrupted. The same command can be started again.\n"


class Interrupted(KeyboardInterrupt):
    """Ends the command like Ctrl-C, raised by a custom handler."""


@contextlib.contextmanager
def ending_the_command() -> Iterator[None]:
    """Ends the command at the first Ctrl-C, and immediately at the second.

    The first one raises KeyboardInterrupt, so that the command can clean up.
    Within the context, exceptions that result from it are not shown.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can handle signals in Python.
        yield
        return
    is_interrupted = False
    # The standard error may be redirected while TensorFlow starts.
    try:
        error_fd = os.dup(2)
    except OSError:  # It is closed.
        error_fd = 2

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        del number
        nonlocal is_interrupted
        if is_interrupted or _is_importing(frame):
            end_at_once(error_fd)
        is_interrupted = True
        raise KeyboardInterrupt

    def show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
        # Python ignores exceptions in destructors and callbacks.
        if is_interrupted:
            end_at_once(error_fd)
        unraisable_hook(unraisable)

    before = signal.signal(signal.SIGINT, interrupt)
    unraisable_hook = sys.unraisablehook
    sys.unraisablehook = show_unraisable
    try:
        yield
    except BaseException as error:
        if not (is_interrupted or isinstance(error, Interrupted)):
            raise
        sys.stderr.write(_LINE)
        sys.exit(EXIT_STATUS)
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = unraisable_hook
        if error_fd != 2:
            os.close(error_fd)


def end_at_once(error_fd: int = 2) -> None:
    """Ends the process without cleanup; files are written atomically."""
    with contextlib.suppress(OSError):
        os.write(error_fd, _LINE.encode())
    os._exit(EXIT_STATUS)


def _is_importing(frame: types.FrameType | None) -> bool:
    """Returns whether a module is being imported; C can hide the error."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

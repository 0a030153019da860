"""Starts TensorFlow without its messages about the machine."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, without their messages.

    TensorFlow 2.21 writes to standard error before it reads
    `TF_CPP_MIN_LOG_LEVEL`, for instance about drivers that are missing on a
    machine without a GPU. If the variable is set, all messages are shown, for
    instance those of a process that ends while TensorFlow starts.
    """
    if _LEVEL in os.environ or sys.stderr is None:
        return
    os.environ[_LEVEL] = "2"
    try:
        with _held_back():
            import tensorflow as tf

            tf.config.list_physical_devices()
    finally:
        # TensorFlow has read it. Other processes must not find it set.
        del os.environ[_LEVEL]


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Shows what native code writes to standard error only on failure."""
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            shown = os.dup(2)
        except OSError:  # The temporary file cannot be created.
            yield
            return
        stack.callback(os.close, shown)
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            os.dup2(shown, 2)

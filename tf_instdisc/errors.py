"""Expected failures, each with its own exit status.

The commands show these errors as one sentence. Any other exception is a bug in
the program and keeps its traceback. From the exit status, a scheduler can tell
whether to run the same command again. Numbers from 64 on are those of BSD's
sysexits.
"""

import importlib.util


class UsageError(ValueError):
    """An argument, a flag or a file given by the user is wrong.

    It is raised where arguments enter the package. The message states what is
    required, what was received, and how to correct it.

    Attributes:
        exit_status: The exit status of a command that fails with this error.
    """

    exit_status = 2


class MissingExtraError(UsageError):
    """The packages of an extra are not installed."""


def require_tensorflow_backend(backend: str) -> None:
    """Raises UsageError unless Keras computes with TensorFlow.

    Args:
        backend: The name of Keras' backend.
    """
    if backend != "tensorflow":
        raise UsageError(
            "Training, evaluation, search and export need Keras' TensorFlow "
            f"backend. Received: backend={backend!r}. Set the environment "
            "variable KERAS_BACKEND=tensorflow before Keras is imported."
        )


def require_extra(extra: str, *modules: str) -> None:
    """Raises MissingExtraError unless the modules of an extra are installed."""
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        raise MissingExtraError(
            f"This needs the extra '{extra}'. Received: no "
            f"{', no '.join(missing)}. Install it: pip install "
            f"'tf_instdisc[{extra}]'"
        )


class MissingFileError(FileNotFoundError, UsageError):
    """A file or directory given by the user does not exist."""


class RunError(Exception):
    """A run or another command cannot continue.

    Attributes:
        exit_status: The exit status of a command that fails with this error.
    """

    exit_status = 1


class NonFiniteError(RunError):
    """The loss or weights are NaN or infinite; a retry would not help."""

    exit_status = 3


class WorkerLostError(RunError):
    """Another host was lost; run the same commands again."""

    exit_status = 69


class ServingError(RunError, RuntimeError):
    """A server did not respond, rejected a request or sent an invalid response.

    The message begins with the code and a colon.
    """

    def __init__(self, message: str):
        super().__init__(message)
        is_temporary = self.code in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "ABORTED",
            "CANCELLED",
        )
        self.exit_status = 69 if is_temporary else UsageError.exit_status

    @property
    def code(self) -> str:
        """Name of the gRPC status, or of its equivalent over REST.

        For example, `"UNAVAILABLE"`, `"DEADLINE_EXCEEDED"`, `"NOT_FOUND"`,
        `"INVALID_ARGUMENT"` or `"RESOURCE_EXHAUSTED"`, and `"INTERNAL"` for
        a response that no exported model gives.
        """
        return str(self).partition(":")[0]


class LockedError(RunError):
    """Another process is writing to the same directory."""

    exit_status = 73


class StorageError(RunError):
    """The run's directory cannot be written, or its contents are damaged."""

    exit_status = 74


class DamagedFileError(StorageError):
    """A file is missing, or its content is not what was written."""


class RunStoppedError(RunError):
    """The run was stopped by a signal, and saved; run the command again."""

    exit_status = 75

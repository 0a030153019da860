"""Expected failures, each with its own exit status; it imports nothing.

Commands show these as one sentence. Every other exception is a fault in the
program and keeps its traceback. A scheduler can tell from the exit status
whether to start the same command again. Numbers from 64 on are those of BSD's
sysexits.
"""


class UsageError(ValueError):
    """An argument, a flag, or a file that the user names is wrong.

    Raised where arguments enter the package. The message says what is
    required, what was received, and how to correct it.

    Attributes:
        exit_status: Of the command that ends with it.
    """

    exit_status = 2


class MissingFileError(FileNotFoundError, UsageError):
    """A file or directory that the user names does not exist."""


class RunError(Exception):
    """A run cannot go on.

    Attributes:
        exit_status: Of the command that ends with it.
    """

    exit_status = 1


class NonFiniteError(RunError):
    """Loss or weights are NaN or infinite; again would be the same."""

    exit_status = 3


class WorkerLostError(RunError):
    """Another host went away; start the same commands again."""

    exit_status = 69


class LockedError(RunError):
    """Another process is writing into the same directory."""

    exit_status = 73


class StorageError(RunError):
    """The run's directory cannot be written, or what it holds is damaged."""

    exit_status = 74


class DamagedFileError(StorageError):
    """A file is not what was written, or is gone."""


class RunStoppedError(RunError):
    """Stopped by SIGTERM or SIGINT, and saved; start the command again."""

    exit_status = 75

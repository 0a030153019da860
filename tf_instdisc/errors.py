"""Ends of a run that are no fault in the program; it imports nothing.

Each has an exit status of its own, so that a scheduler can tell whether to
start the same command again. Numbers from 64 on are those of BSD's sysexits.
"""


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


class StorageError(RunError):
    """The run's directory cannot be written, or what it holds is damaged."""

    exit_status = 74


class RunStoppedError(RunError):
    """Stopped by SIGTERM and saved; start the same command again."""

    exit_status = 75

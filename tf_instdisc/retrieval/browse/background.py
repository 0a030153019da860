"""Computations that take a while, beside the server."""

import threading
import traceback
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

_Result = TypeVar("_Result")


def start(function: Callable[[], _Result]) -> futures.Future[_Result]:
    """Calls a function in a thread that does not keep the process alive.

    The threads of an executor would be waited for when the server ends.
    """
    future: futures.Future[_Result] = futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            # The page shows one sentence; whoever mends it needs more.
            traceback.print_exception(error)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future

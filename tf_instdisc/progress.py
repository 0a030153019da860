"""Shows how far long work is; the module imports nothing heavy."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_QUIET_SECONDS = 5.0
_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 30.0
_BAR = 20


@contextlib.contextmanager
def tracking(
    what: str,
    total: int | None = None,
    output: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of work that takes more than five seconds.

    A terminal shows a bar, which disappears at the end. A log file gets a line
    every half minute.

    ```python
    with progress.tracking("encoding", len(images)) as advance:
        for batch in batches:
            encode(batch)
            advance(len(batch))
    ```

    Args:
        what: What is done, such as "encoding".
        total: Number of units of work, if it is known.
        output: Where the progress is written; by default the standard error.
        clock: Returns the time in seconds.

    Yields:
        A function to call with the number of units that are completed.
    """
    output = output or sys.stderr
    is_terminal = output is not None and output.isatty()
    pause = _TERMINAL_SECONDS if is_terminal else _LOG_SECONDS
    begin = clock()
    shown_at = begin + _QUIET_SECONDS - pause if is_terminal else begin
    done = 0
    is_open = False

    def advance(count: int) -> None:
        nonlocal done, shown_at, is_open
        done += count
        now = clock()
        is_last = total is not None and done >= total
        if output is None or is_last or now - shown_at < pause:
            return
        shown_at = now
        line = _line(what, done, total, now - begin, is_terminal)
        if is_terminal:
            is_open = True
            line = f"\r\033[K{line}"
        print(line, end="" if is_terminal else "\n", file=output, flush=True)

    try:
        yield advance
    finally:
        if is_open:
            print("\r\033[K", end="", file=output, flush=True)


def duration(seconds: float) -> str:
    """Returns a duration as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"


def _line(
    what: str, done: int, total: int | None, seconds: float, has_bar: bool
) -> str:
    if not total:
        return f"{what}  {done:,}"[:79]
    parts = [what]
    if has_bar:
        filled = min(_BAR * done // total, _BAR)
        parts.append(f"[{'#' * filled}{' ' * (_BAR - filled)}]")
    left = seconds / done * max(total - done, 0) if done else 0.0
    parts += [f"{done:,}/{total:,}", f"{duration(left)} left"]
    return "  ".join(parts)[:79]

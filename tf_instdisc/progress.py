"""Shows the progress of long work; the module imports nothing heavy."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


@contextlib.contextmanager
def tracking(
    what: str, total: int | None = None
) -> Iterator[Callable[[int], object]]:
    """Shows the progress of work that takes more than five seconds.

    A terminal shows a bar, which disappears at the end. If the standard error
    is anything else, such as a log file, it gets a line every half minute.

    ```python
    with progress.tracking("encoding", len(images)) as advance:
        for batch in batches:
            encode(batch)
            advance(len(batch))
    ```

    Args:
        what: What is done, such as "encoding".
        total: Number of units of work, if it is known.

    Yields:
        A function to call with the number of units that are completed.
    """
    from tqdm import tqdm

    output = sys.stderr
    is_terminal = output is not None and output.isatty()
    pause = 0.2 if is_terminal else 30
    with tqdm(
        desc=what,
        total=total,
        leave=False,
        file=output if is_terminal else _Lines(output),
        mininterval=pause,
        # Otherwise tqdm guesses after how many units to look at the clock.
        miniters=1,
        disable=output is None,
        dynamic_ncols=True,
        # Below another bar, tqdm would write to the log that it goes up a line.
        position=None if is_terminal else 0,
        delay=5,
    ) as bar:
        yield bar.update


class _Lines:
    """Writes each state of a bar as a line."""

    def __init__(self, output: TextIO):
        self._output = output

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=self._output)

    def flush(self) -> None:
        self._output.flush()


def duration(seconds: float) -> str:
    """Returns a duration as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"

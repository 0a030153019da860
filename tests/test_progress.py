"""What long work shows of its progress."""

import contextlib
import io

import pytest

from tests.test_progress_lines import Terminal
from tf_instdisc import progress


def shown(output, seconds_a_step, total, steps, size=10):
    """Returns what work shows by a clock that counts its steps."""
    now = [0.0]
    with progress.tracking("encoding", total, output, lambda: now[0]) as step:
        for _ in range(steps):
            now[0] += seconds_a_step
            step(size)
    return output.getvalue()


@pytest.mark.parametrize("output", (Terminal, io.StringIO))
def test_work_of_five_seconds_shows_nothing(output):
    assert shown(output(), 0.49, 100, 10) == ""


def test_a_terminal_shows_a_bar_that_disappears():
    text = shown(Terminal(), 1, 100, 10)
    frames = text.split("\r\033[K")
    assert frames[0] == frames[-1] == ""
    assert frames[1] == "encoding  [##########          ]  50/100  0:05 left"
    assert "\n" not in text
    assert all(len(frame) < 80 for frame in frames)


def test_a_log_has_a_line_every_half_minute():
    assert shown(io.StringIO(), 10, 100_000, 7).splitlines() == [
        "encoding  30/100,000  27:46:10 left",
        "encoding  60/100,000  27:45:40 left",
    ]


def test_without_a_total_only_the_count_is_shown():
    assert shown(io.StringIO(), 10, None, 3) == "encoding  30\n"


def test_a_failure_leaves_no_bar():
    output, times = Terminal(), iter((0.0, 9.0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        progress.tracking("encoding", 2, output, times.__next__) as advance,
    ):
        advance(1)
        raise KeyboardInterrupt
    assert "1/2" in output.getvalue()
    assert output.getvalue().endswith("\r\033[K")

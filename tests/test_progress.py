"""What long work shows of its progress."""

import contextlib
import io
import sys

import pytest
import tqdm

from tests.test_progress_lines import Terminal
from tf_instdisc import progress


def shown(monkeypatch, output, seconds_a_step, total, steps):
    """Returns what work shows by a clock that counts its steps of ten."""
    now = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", output)
    with progress.tracking("encoding", total) as advance:
        for _ in range(steps):
            now[0] += seconds_a_step
            advance(10)
    return output.getvalue()


@pytest.mark.parametrize("output", (Terminal, io.StringIO))
def test_work_of_five_seconds_shows_nothing(monkeypatch, output):
    assert not shown(monkeypatch, output(), 0.49, 100, 10).strip()


def test_a_terminal_shows_a_bar_that_disappears(monkeypatch):
    text = shown(monkeypatch, Terminal(), 1, 100, 10)
    assert "encoding:  50%|" in text
    assert "50/100" in text
    assert "\n" not in text
    assert not text.rpartition("\r")[2].strip()


def test_a_log_has_a_line_every_half_minute(monkeypatch):
    lines = shown(monkeypatch, io.StringIO(), 10, 100_000, 7).splitlines()
    assert len(lines) == 2
    assert "30/100000 [00:30<27:46:10" in lines[0]
    assert "60/100000" in lines[1]


def test_without_a_total_only_the_count_is_shown(monkeypatch):
    (line,) = shown(monkeypatch, io.StringIO(), 10, None, 3).splitlines()
    assert line.startswith("encoding: 30it [00:30")


def test_a_failure_leaves_no_bar(monkeypatch):
    output = Terminal()
    monkeypatch.setattr(sys, "stderr", output)
    times = iter([0.0] + [9.0] * 9)
    monkeypatch.setattr(tqdm.std, "time", times.__next__)
    with (
        contextlib.suppress(KeyboardInterrupt),
        progress.tracking("encoding", 2) as advance,
    ):
        advance(1)
        raise KeyboardInterrupt
    assert "1/2" in output.getvalue()
    assert not output.getvalue().rpartition("\r")[2].strip()


def test_a_closed_standard_error_shows_nothing(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", None)
    with progress.tracking("encoding", 2) as advance:
        now[0] += 60
        advance(2)
    assert not capsys.readouterr().out

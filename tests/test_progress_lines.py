"""What training prints of its progress."""

import contextlib
import io
import types

import pytest

from tf_instdisc.training.progress_lines import EpochLines


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(
    output,
    seconds_a_step,
    epochs,
    steps,
    first_epoch=0,
    skip_steps=0,
    step_logs=None,
    **logs,
):
    """Returns what a training prints, by a clock that counts its steps."""
    now = [0.0]
    lines = EpochLines(output, clock=lambda: now[0])
    lines.set_params({"epochs": epochs, "steps": steps})
    lines.set_model(types.SimpleNamespace(skip_steps=skip_steps))
    lines.on_train_begin()
    for epoch in range(first_epoch, epochs):
        lines.on_epoch_begin(epoch)
        for batch in range(lines.model.skip_steps, steps):
            now[0] += seconds_a_step
            lines.on_train_batch_end(batch, {"loss": 1.0, **(step_logs or {})})
        lines.model.skip_steps = 0
        lines.on_epoch_end(epoch, {"loss": 2.5, **logs})
    return output.getvalue()


def test_a_log_has_one_line_for_each_epoch():
    text = printed(
        io.StringIO(), 0.5, 12, 4, knn_top1=0.1234, images_per_second=1234.5
    )
    first, *_, last = text.splitlines()
    assert len(text.splitlines()) == 12
    assert first == (
        "epoch  1/12  loss 2.5000  kNN 12.3%  1,234 images/s  0:22 left"
    )
    assert last == "epoch 12/12  loss 2.5000  kNN 12.3%  1,234 images/s"


def test_the_time_left_counts_the_epochs_of_this_process():
    text = printed(io.StringIO(), 100, 203, 10, first_epoch=200)
    shown = [line for line in text.splitlines() if "step" not in line]
    assert [line.partition("2.5000")[2] for line in shown] == [
        "  33:20 left",
        "  16:40 left",
        "",
    ]


def test_skipped_steps_of_a_resumed_epoch_take_no_time():
    text = printed(io.StringIO(), 100, 2, 10, skip_steps=9)
    assert text.splitlines()[0] == "epoch 1/2  loss 2.5000  16:40 left"


def test_a_long_epoch_has_a_line_every_five_minutes():
    text = printed(io.StringIO(), 100, 1, 10)
    assert text.splitlines() == [
        "epoch 1/1  step 3/10  loss 1.0000  11:40 left",
        "epoch 1/1  step 6/10  loss 1.0000  6:40 left",
        "epoch 1/1  step 9/10  loss 1.0000  1:40 left",
        "epoch 1/1  loss 2.5000",
    ]


@pytest.mark.parametrize("seconds", [0.1, 1, 4000])
def test_a_terminal_shows_steps_and_keeps_one_line(seconds):
    speed = {"images_per_second": 1234.5, "input_wait": 0.25}
    text = printed(Terminal(), seconds, 1, 10, step_logs=speed, knn_top1=0.5)
    assert text.endswith("\r\033[Kepoch 1/1  loss 2.5000  kNN 50.0%\n")
    assert text.count("\n") == 1
    assert "step 4/10  loss 1.0000  1,234 images/s  input 25%" in text
    assert all(len(part) < 80 for part in text.split("\r"))


def test_a_stopped_epoch_leaves_no_line_on_a_terminal():
    output = Terminal()
    lines = EpochLines(output, clock=iter(range(9)).__next__)
    lines.set_params({"epochs": 2, "steps": 3})
    lines.on_train_begin()
    lines.on_epoch_begin(0)
    lines.on_train_batch_end(0)
    with pytest.raises(KeyboardInterrupt), contextlib.closing(lines):
        raise KeyboardInterrupt
    assert "step 1/3" in output.getvalue()
    assert output.getvalue().endswith("\r\033[K")

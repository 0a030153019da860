"""Ctrl-C, in real processes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests import finished_run, small_run
from tf_instdisc.runs import checkpoints

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


def _start(*command, cwd=ROOT):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _wait_for(path, process, seconds=120):
    for _ in range(10 * seconds):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert path.exists(), process.communicate()


def test_ctrl_c_saves_the_training(tmp_path):
    run_dir = tmp_path / "run"
    command = ("-m", "tests.small_run", run_dir, "seconds_per_step=0.5")
    with _start(*command, "epochs=50", "minutes=60") as process:
        _wait_for(run_dir / "checkpoints" / "checkpoint-000001", process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    assert "Start the same command again" in stderr
    saved, _ = checkpoints.find_newest(run_dir / "checkpoints")
    # Inside an epoch, so that it was saved when it was stopped.
    assert saved.progress["images"] % small_run.SETTINGS["num_images"]


_COMMAND = """
import pathlib, time, types
from tf_instdisc.cli import launch
def main():
    {imports}
    pathlib.Path({mark!r}).touch()
    try:
        {work}
    finally:
        {cleanup}
launch.launch(types.SimpleNamespace(SETTINGS=(), main=main))
"""
_SLEEP = "time.sleep(60)"


@pytest.mark.exhaustive_variants("import tensorflow*")
@pytest.mark.parametrize(
    ("imports", "work", "cleanup"),
    [
        ("pass", _SLEEP, "pass"),
        # An interrupt in the middle of `tf.zeros` can crash TensorFlow 2.21.
        ("import tensorflow as tf; x = tf.ones(9)", "while True: x + x", "0"),
        # An error raised during the cleanup hides the interrupt.
        ("pass", _SLEEP, "raise ValueError"),
        # A second one does not wait for the cleanup.
        ("pass", _SLEEP, _SLEEP),
    ],
)
def test_a_command_ends_with_one_line(tmp_path, imports, work, cleanup):
    mark = tmp_path / "mark"
    code = _COMMAND.format(
        imports=imports, mark=str(mark), work=work, cleanup=cleanup
    )
    with _start("-c", code) as process:
        _wait_for(mark, process)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        if cleanup == _SLEEP:
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    lines = stderr.splitlines()
    assert lines[-1].startswith("error: interrupted")
    assert "Traceback" not in stderr


def test_ctrl_c_while_modules_are_imported(tmp_path):
    (tmp_path / "slow_module.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('mark').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    raise ImportError('hidden')\n"
    )
    code = (
        "import sys, types; sys.path.insert(0, '.')\n"
        "from tf_instdisc.cli import launch\n"
        "main = lambda: __import__('slow_module')\n"
        "launch.launch(types.SimpleNamespace(SETTINGS=(), main=main))\n"
    )
    with _start("-c", code, cwd=tmp_path) as process:
        _wait_for(tmp_path / "mark", process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr.count("\n") == 1


def test_a_real_command(tmp_path):
    folder = tmp_path / "images"
    finished_run.fill_folder(folder, [f"{n}.png" for n in range(8)])
    finished_run.make_run(tmp_path / "run", folder)
    command = ("embed", "--run_dir=run", f"--images={folder}", "--output=o.npz")
    with _start("-m", "tf_instdisc", *command, cwd=tmp_path) as process:
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("error: interrupted")

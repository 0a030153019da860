"""TensorFlow's messages about the machine do not hide those of a command."""

import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


def report(*search_path, **variables):
    environment = {**os.environ, **variables}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    paths = [*map(str, search_path), str(ROOT)]
    return subprocess.run(
        [sys.executable, "-m", "tf_instdisc", "report", "--run_dir=nowhere"],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_prints_its_own_lines_only():
    ended = report()
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "nowhere" in ended.stderr


@pytest.mark.exhaustive
def test_a_locale_that_is_not_utf_8_is_refused():
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = report(**variables)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: Python must use UTF-8")
    assert "PYTHONUTF8=1" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "nowhere" in report(**{**variables, "PYTHONUTF8": "1"}).stderr


def test_messages_are_shown_if_tensorflow_cannot_start(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        "os.write(2, b'the driver is too old\\n')\n"
        "raise ImportError('no TensorFlow')\n"
    )
    ended = report(tmp_path)
    assert ended.returncode == 1
    assert "the driver is too old" in ended.stderr
    assert "no TensorFlow" in ended.stderr


def test_ctrl_c_while_tensorflow_starts_is_one_line(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os, signal, time\n"
        "os.write(2, b'the driver is old\\n')\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(9)\n"
    )
    ended = report(tmp_path)
    assert ended.returncode == 130
    assert ended.stderr.splitlines() == [
        "error: interrupted. The same command can be started again."
    ]

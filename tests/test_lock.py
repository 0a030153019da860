"""One process at a time writes into a directory."""

import concurrent.futures
import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from tests import commands, finished_run
from tf_instdisc import errors
from tf_instdisc.runs import lock
from tf_instdisc.serving import versions

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
_HOLD = """
import sys, time
from tf_instdisc.runs import lock
with lock.holding(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path / "run"`."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def hold(directory):
    with lock.holding(directory):
        return json.loads((directory / lock.FILE).read_text())


def test_the_second_is_refused_and_told_who_was_first(tmp_path, other):
    with pytest.raises(errors.LockedError) as caught:
        hold(tmp_path / "run")
    assert f"process {other.pid} of host {socket.gethostname()}" in str(
        caught.value
    )
    assert "-c" in str(caught.value)


@pytest.mark.parametrize("has_flock", (True, False))
def test_another_thread_is_refused_and_this_one_goes_on(
    tmp_path, monkeypatch, has_flock
):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "no locks")

    if not has_flock:
        monkeypatch.setattr(fcntl, "flock", unsupported)
    directory = tmp_path / "run"
    with lock.holding(directory):
        assert hold(directory)["process"] == os.getpid()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            other = pool.submit(hold, directory)
            with pytest.raises(errors.LockedError, match=str(os.getpid())):
                other.result()
    assert hold(directory)["process"] == os.getpid()


@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGTERM))
def test_the_lock_of_a_dead_process_is_released(tmp_path, other, number):
    other.send_signal(number)
    other.wait()
    assert (tmp_path / "run" / lock.FILE).exists()
    assert hold(tmp_path / "run")["process"] == os.getpid()
    assert os.listdir(tmp_path / "run") == []


def test_a_stopped_process_still_holds_it(tmp_path, other):
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(errors.LockedError):
        hold(tmp_path / "run")


def _left(tmp_path, **changes):
    """A lock file that differs from the one this process would write."""
    content = hold(tmp_path)
    file = tmp_path / lock.FILE
    file.write_text(json.dumps({**content, **changes}))
    return file


def test_a_lock_of_another_host_is_refused_with_the_way_out(tmp_path):
    file = _left(tmp_path, host="elsewhere", process=77)
    with pytest.raises(errors.LockedError) as caught:
        hold(tmp_path)
    assert "process 77 of host elsewhere" in str(caught.value)
    assert f"remove {file}" in str(caught.value)
    file.unlink()
    hold(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"process": 2**22 + 1},
        # The process lives, but was started at another time.
        {"process": os.getppid(), "process_started": "1"},
        {"process": os.getppid(), "boot": "another"},
        {"process": None},
        {"process": "1; rm"},
    ],
)
def test_a_dead_ones_lock_is_taken_over(tmp_path, changes):
    _left(tmp_path, **changes)
    assert hold(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize("content", (b"", b"{", b"\xff\x00", b"[1]", b"7"))
def test_a_torn_lock_file_is_taken_over(tmp_path, content):
    (tmp_path / lock.FILE).write_bytes(content)
    assert hold(tmp_path)["process"] == os.getpid()


@pytest.mark.parametrize("number", (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP))
def test_without_flock_the_file_decides(tmp_path, monkeypatch, other, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(errors.LockedError, match=f"process {other.pid} of"):
        hold(tmp_path / "run")
    other.kill()
    other.wait()
    hold(tmp_path / "run")


def test_it_is_released_also_after_an_error_and_may_be_nested(tmp_path):
    def fail():
        with (
            lock.holding(tmp_path),
            lock.holding(f"{tmp_path}/../{tmp_path.name}"),
        ):
            assert os.listdir(tmp_path) == [lock.FILE]
            raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            fail()
        assert os.listdir(tmp_path) == []


def test_a_new_directory_that_stays_empty_is_removed(tmp_path):
    hold(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    for path in ("file", "file/run"):
        with pytest.raises(errors.UsageError, match="file"):
            hold(tmp_path / path)


def test_commands_that_write_are_refused_and_readers_are_not(tmp_path, other):
    folder = tmp_path / "images"
    finished_run.fill_folder(folder, [f"{n}.png" for n in range(8)])
    run = finished_run.make_run(tmp_path / "run", folder)
    before = sorted(run.path.iterdir())
    arguments = {
        "train": [f"--images={folder}", "--image_size=16", "--run_dir=run"],
        "update": [f"--images={folder}", "--run_dir=run"],
        "evaluate": ["--run_dir=run"],
        "neighbors": ["--run_dir=run", "--query=random:1", "--format=tsv"],
    }
    cases = [{"command": c, "arguments": a} for c, a in arguments.items()]
    *refused, reader = commands.run_all(cases, tmp_path)
    for result in refused:
        assert result.returncode == 73, result.stderr
        assert f"process {other.pid} of host" in result.stderr
        assert "Traceback" not in result.stderr
    assert reader.returncode == 0, reader.stderr
    assert sorted(run.path.iterdir()) == before


def test_exports_remove_what_killed_ones_have_left(tmp_path):
    code = (
        "import os, signal, sys; from tf_instdisc.serving import versions\n"
        "def write(path):\n"
        "    (path / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "versions.write_version(sys.argv[1], write)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False
    )
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()

    def first(path):
        # The process of a recent one may live on another host.
        assert left.exists()
        os.utime(left, (0, 0))
        os.utime(path, (0, 0))
        versions.write_version(str(tmp_path), lambda path: None)
        assert not left.exists()
        # The first one lives.
        assert path.exists()

    versions.write_version(str(tmp_path), first)
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]

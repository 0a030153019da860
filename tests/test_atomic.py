"""Files are written completely or not at all."""

import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from tf_instdisc import atomic


def make_old(path):
    os.utime(path, (time.time() - 7200,) * 2)


def test_a_failed_write_leaves_the_file_and_nothing_else(tmp_path):
    path = tmp_path / "bank.npz"
    path.write_bytes(b"old")

    class PlannedError(Exception):
        pass

    def fail_half_way():
        with atomic.replacing(path) as partial:
            partial.write_bytes(b"half")
            raise PlannedError

    with pytest.raises(PlannedError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["bank.npz"]


@pytest.mark.parametrize("is_there", (True, False))
def test_a_kill_leaves_the_file_and_the_next_write_cleans_up(
    tmp_path, is_there
):
    path = tmp_path / "encoder.keras"
    if is_there:
        path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from tf_instdisc import atomic\n"
        "with atomic.replacing(sys.argv[1]) as partial:\n"
        "    partial.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -9
    assert path.exists() == is_there
    (left,) = tmp_path.glob(".partial-*")
    make_old(left)
    atomic.write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["encoder.keras"]


def test_a_disk_that_is_gone_is_not_replaced_by_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.write_text(tmp_path / "mounted" / "run" / "a.tsv", "text")
    assert not list(tmp_path.iterdir())


def test_the_suffix_is_kept(tmp_path):
    with atomic.replacing(tmp_path / "a.keras") as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".keras"
        partial.touch()


def test_links_are_followed_and_modes_kept(tmp_path):
    path = tmp_path / "there" / "page.html"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "page.html"
    link.symlink_to(path)
    atomic.write_text(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        atomic.write_text(pipe, "text")
        assert reader.stdout.read() == b"text"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_directory_gets_its_name_with_all_its_files(tmp_path):
    partial = tmp_path / "partial"
    (partial / "variables").mkdir(parents=True)
    (partial / "variables" / "data").write_text("x")
    (tmp_path / "1" / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        atomic.rename_directory(partial, tmp_path / "1")
    atomic.rename_directory(partial, tmp_path / "2")
    assert (tmp_path / "2" / "variables" / "data").read_text() == "x"


@pytest.mark.parametrize("in_threads", (True, False))
def test_concurrent_writers_write_complete_files(tmp_path, in_threads):
    """The second writer starts and finishes while the first one is writing."""
    path = tmp_path / "page.html"
    first, second = b"a" * 100_000, b"b" * 50_000

    def write_second():
        if in_threads:
            atomic.write_bytes(path, second)
            return
        code = (
            "import sys; from tf_instdisc import atomic\n"
            "atomic.write_bytes(sys.argv[1], b'b' * 50_000)\n"
        )
        subprocess.run([sys.executable, "-c", code, path], check=True)

    other = threading.Thread(target=write_second)
    with atomic.replacing(path) as partial:
        partial.write_bytes(first[:10])
        other.start()
        other.join()
        assert path.read_bytes() == second
        with open(partial, "ab") as file:
            file.write(first[10:])
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["page.html"]


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    done = subprocess.Popen(["true"])
    done.wait()
    left = f".partial-{done.pid}-{done.pid}-page.html"
    others = {
        f".partial-{os.getppid()}-1-page.html",
        f".partial-{done.pid}-1-other.html",
        ".partial-page.html",
        ".partial-999999999999999999999-1-page.html",
    }
    for name in {left, *others}:
        (tmp_path / name).write_text("half")
        make_old(tmp_path / name)
    recent = f".partial-{done.pid}-1-page.html"
    (tmp_path / recent).write_text("half, from another host")
    others.add(recent)
    atomic.write_text(tmp_path / "page.html", "whole")
    assert set(os.listdir(tmp_path)) == {"page.html", *others}


def test_a_directory_is_hidden_until_it_is_filled(tmp_path):
    target = tmp_path / "run"

    def fail():
        with atomic.filling(target) as partial:
            (partial / "half").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert os.listdir(tmp_path) == []
    with atomic.filling(target) as partial, atomic.filling(target) as other:
        assert partial != other
        assert partial.name.startswith(atomic.PREFIX)
        target.with_name("plain").mkdir()
        assert partial.stat().st_mode == (tmp_path / "plain").stat().st_mode
        (partial / "file").touch()
        atomic.rename_directory(partial, target)
    assert sorted(os.listdir(tmp_path)) == ["plain", "run"]
    assert os.listdir(target) == ["file"]

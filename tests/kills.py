"""Kills a call at each of its file operations, within one process.

A killed process does nothing more: from the operation on, every further one
below the watched directory fails with a `BaseException`, so that no handler
tidies up. What was written before is on the disk, and of the write that is
killed the first half. Files that C++ writes (TensorFlow's checkpoints) count
as one operation, and HDF5 files within a `.keras` file are written by Python.
"""

import builtins
import contextlib
import gc
import io
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_instdisc.runs import lock


class Killed(BaseException):
    """Stands for SIGKILL."""


class _Watched:
    """A file that is written without a buffer, so that none outlives a kill."""

    def __init__(self, file, operations):
        self._file = file
        self._operations = operations

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __iter__(self):
        return iter(self._file)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._operations.count("write", half)
        written = self._file.write(data)
        self._file.flush()
        return written

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def truncate(self, *size):
        self._operations.count("truncate")
        return self._file.truncate(*size)


class Operations:
    """Counts the file operations below a directory, and fails from one on.

    Args:
        root: The directory.
        last: Number of the operation that is killed, from 0; None for none.

    Attributes:
        names: What was done, in order.
    """

    def __init__(self, root: pathlib.Path, last: int | None = None):
        self.root = os.path.realpath(root)
        self.last = last
        self.names: list[str] = []
        self._descriptors: list[int] = []

    @property
    def is_dead(self) -> bool:
        return self.last is not None and len(self.names) > self.last

    def count(self, name: str, at_kill: Callable[[], object] = lambda: None):
        was_dead = self.is_dead
        self.names.append(name)
        if self.is_dead:
            if not was_dead:
                at_kill()
            raise Killed(f"{name}, operation {len(self.names) - 1}")

    def _is_below(self, path, dir_fd=None) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.fsdecode(path)
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return f"{os.path.abspath(path)}/".startswith(f"{self.root}/")

    def _watch(self, function, name):
        def watched(path, *arguments, **keywords):
            if self._is_below(path, keywords.get("dir_fd")):
                self.count(f"{name} {os.path.basename(str(path))}")
            return function(path, *arguments, **keywords)

        return watched

    def _descriptor(self, path, flags, *arguments, **keywords):
        is_below = self._is_below(path, keywords.get("dir_fd"))
        if is_below and flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            self.count(f"open {os.path.basename(str(path))}")
        descriptor = self._real_os_open(path, flags, *arguments, **keywords)
        if is_below:
            self._descriptors.append(descriptor)
        return descriptor

    def _close_all(self):
        """As the kernel does for a process that ends, its locks included."""
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                if self._is_below(descriptor):
                    os.close(descriptor)

    def _open(self, path, mode="r", *arguments, **keywords):
        writes = bool(set(mode) & set("wax+")) and self._is_below(path)
        if writes:
            self.count(f"open {os.path.basename(str(path))}")
        file = self._real_open(path, mode, *arguments, **keywords)
        return _Watched(file, self) if writes else file

    @contextlib.contextmanager
    def watched(self):
        """Watches the operations of all code within the context."""
        self._real_open = builtins.open
        self._real_os_open = os.open
        names = (
            "replace rename mkdir unlink remove rmdir fsync truncate ftruncate "
            "pwrite"
        )
        places = [(os, name) for name in names.split()]
        with contextlib.ExitStack() as stack:
            for place, name in places:
                function = getattr(place, name)
                setattr(place, name, self._watch(function, name))
                stack.callback(setattr, place, name, function)
            checkpoint = tf.train.Checkpoint
            write = checkpoint.write
            checkpoint.write = lambda state, path, *more: (
                self.count("checkpoint"),
                write(state, path, *more),
            )[1]
            stack.callback(setattr, checkpoint, "write", write)
            for place in (builtins, io):
                place.open = self._open
                stack.callback(setattr, place, "open", self._real_open)
            os.open = self._descriptor
            stack.callback(setattr, os, "open", self._real_os_open)
            hook = sys.unraisablehook
            # A dead process's zip files would write their ends.
            sys.unraisablehook = lambda _: None
            stack.callback(setattr, sys, "unraisablehook", hook)
            stack.callback(self._close_all)
            stack.callback(gc.collect)
            yield


def survive_all(
    make: Callable[[pathlib.Path], object],
    call: Callable[[pathlib.Path], object],
    outcome: Callable[[pathlib.Path], object],
    place: pathlib.Path,
    *,
    is_done: type[Exception] | tuple[type[Exception], ...] = (),
    between: Callable[[pathlib.Path], object] = lambda path: None,
    compares_files: bool = True,
) -> int:
    """Kills a call at its operations, one after the other; calls it again.

    The outcome must be that of an undisturbed call, and no other file may be
    left.

    Args:
        make: Makes what the call finds, in a directory that exists.
        call: The call.
        outcome: What it has made, of arrays, numbers and text.
        place: An empty directory for all of this.
        is_done: What the second call may raise where nothing was left to do.
        between: Checks what readers meet between the two calls.
        compares_files: Whether the same files must be there at the end.

    Returns:
        The number of kills.
    """
    with _without_waiting():
        return _survive_all(
            make, call, outcome, place, is_done, between, compares_files
        )


@contextlib.contextmanager
def _without_waiting():
    """Omits waiting for the disk, which a kill does not affect.

    The garbage collections after each kill skip objects that existed before.
    """
    sync = os.fsync
    os.fsync = lambda descriptor: None
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        os.fsync = sync


def _kills(names: list[str]) -> list[int]:
    """All operations, but only the first and last of consecutive writes."""
    return [
        number
        for number, name in enumerate(names)
        if {name} != set(names[max(0, number - 1) : number + 2])
        or name != "write"
    ]


def _survive_all(make, call, outcome, place, is_done, between, compares_files):
    undisturbed = place / "undisturbed"
    undisturbed.mkdir()
    make(undisturbed)
    operations = Operations(undisturbed)
    with operations.watched():
        call(undisturbed)
    wanted, files = outcome(undisturbed), _files(undisturbed)
    kills = _kills(operations.names)
    assert kills, "nothing was written"
    for last in kills:
        path = place / "killed"
        path.mkdir()
        make(path)
        killed = Operations(path, last)
        with killed.watched(), contextlib.suppress(Killed):
            call(path)
        assert killed.is_dead, operations.names[last]
        between(path)
        with contextlib.suppress(is_done):
            call(path)
        where = f"killed at operation {last}, {operations.names[last]}"
        if compares_files:
            found = _files(path)
            others = sorted({*found} ^ {*files})
            assert not others, f"{where}: {others}"
        assert_same(outcome(path), wanted, where)
        shutil.rmtree(path)
    return len(kills)


def _files(root):
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        # The lock of a dead process is taken over by the next that locks, and
        # a half-written list of checksums is removed by the next write.
        if path.name != lock.FILE
        and not re.fullmatch(r"\.partial-[\d-]+-checksums.json", path.name)
    )


def assert_same(found, wanted, where=""):
    """Compares nested outcomes; floats up to rounding."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key, value in wanted.items():
            assert_same(found[key], value, f"{where}: {key}")
    elif isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=where)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted, err_msg=where)
    else:
        assert found == wanted, where

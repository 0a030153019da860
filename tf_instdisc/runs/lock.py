"""A lock that lets only one process, and one of its threads, write to a run.

The lock is `fcntl.flock` on the file `lock`: the kernel releases it when the
process ends, however it ends. The file names the holder of the lock. This is
for people, and for file systems whose `flock` is missing or does not reach
other hosts, as on some network file systems: there, the file decides.

The copy of a run at a URL is locked in the same way, and the run itself by an
object that is created on the condition that it does not exist.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
from collections.abc import Iterator

from tf_instdisc import atomic, remote, remote_sync
from tf_instdisc.errors import LockedError, RunError, UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.remote_copy import Copy
from tf_instdisc.runs.files import writing

FILE = "lock"

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
# The thread that has locked a directory; if it locks the directory again, that
# is part of the same work.
_held: dict[pathlib.Path, int] = {}
_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def holding(
    directory: str | os.PathLike, *, is_run: bool = True
) -> Iterator[None]:
    """Prevents other processes and threads from writing to a directory.

    A lock left by a dead process of this host is taken over. The directory is
    created if it is missing, and removed again if it stays empty. A run at a
    URL is brought up to date first, and written to its URL at the end.

    Args:
        directory: The directory, or the URL of a run.
        is_run: Whether it holds a run. If not, nothing is downloaded or
            uploaded, and a lock left on another host is taken over as well
            where the file system supports `flock`.

    Raises:
        UsageError: If there is a file at this path.
        LockedError: If another process or thread is writing to it, or a
            process on another host may be.
        StorageError: If the lock or, at the end, the URL cannot be written.
    """
    path = pathlib.Path(
        os.path.realpath(local_path(directory, "run_dir", "run"))
    )
    thread = threading.get_ident()
    if _held.get(path) == thread:
        yield
        return
    # Where `flock` is not supported, the file does not tell threads apart.
    if _held.setdefault(path, thread) != thread:
        raise _refusal(path / FILE, _identity())
    try:
        with _locking(path, is_run):
            yield
    finally:
        del _held[path]


@contextlib.contextmanager
def _locking(path: pathlib.Path, is_run: bool) -> Iterator[None]:
    is_new = not path.exists()
    file = path / FILE
    with writing(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
            descriptor = _acquire(file, is_run)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(
                "The directory must not be a file, or be inside a file. "
                f"Received: {path}"
            ) from None
    try:
        copy = remote.copy_of(path) if is_run else None
        with _holding_url(path, copy) if copy else _NOTHING:
            yield
    finally:
        with contextlib.suppress(OSError):
            # Before the release: afterwards it may belong to another process.
            file.unlink()
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):
                path.rmdir()


def holding_if_remote(
    directory: pathlib.Path | None,
) -> contextlib.AbstractContextManager[None]:
    """Locks a run at a URL, so that what the block writes is uploaded.

    Does nothing for a local run.
    """
    if directory is None or remote.copy_of(directory) is None:
        return _NOTHING
    return holding(directory)


@contextlib.contextmanager
def _holding_url(path: pathlib.Path, copy: Copy) -> Iterator[None]:
    """Locks a run at its URL, and writes what is left of killed processes."""
    is_locked = _create(path, copy)
    try:
        remote_sync.pull(copy)
        remote_sync.push(copy)
        try:
            yield
        except BaseException:
            # What has been done is kept, as in a local directory.
            with _only_warning():
                remote_sync.push(copy)
            raise
        remote_sync.push(copy)
    finally:
        if is_locked:
            with _only_warning():
                copy.store.remove([FILE])


def _create(path: pathlib.Path, copy: Copy) -> bool:
    """Creates the lock at the URL; returns False if locks cannot be used."""
    content = json.dumps(_identity(), indent=1) + "\n"
    try:
        while True:
            other = copy.store.create(FILE, content.encode())
            if other is None:
                return True
            holder = _parsed(other)
            if holder and _may_live(holder):
                raise _refusal(path / FILE, holder)
            copy.store.remove([FILE])
    except NotImplementedError:
        print(
            f"warning: {copy.url} cannot be locked. Let only one process "
            "write to it at a time.",
            file=sys.stderr,
        )
        return False


@contextlib.contextmanager
def _only_warning() -> Iterator[None]:
    try:
        yield
    except RunError as error:
        print(f"warning: {error}", file=sys.stderr)


def _acquire(file: pathlib.Path, is_run: bool) -> int:
    """Returns a descriptor of the locked file, after naming us as holder."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_certain = _lock(descriptor, file) and not is_run
            if not _is_at(descriptor, file):
                # Its holder has just removed it.
                os.close(descriptor)
                continue
            holder = _read(descriptor)
            if holder and not is_certain and _may_live(holder):
                raise _refusal(file, holder)
            content = json.dumps(_identity(), indent=1) + "\n"
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content.encode(), 0)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        atomic.sync(file.parent)
        return descriptor


def _lock(descriptor: int, file: pathlib.Path) -> bool:
    """Returns whether the file system supports such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(file, _read(descriptor)) from None
    except OSError as error:
        # The contents of the file must suffice.
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _is_at(descriptor: int, file: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> dict:
    """Returns the holder of the lock; empty if the file does not name it."""
    return _parsed(os.pread(descriptor, 10_000, 0))


def _parsed(content: bytes) -> dict:
    try:
        found = json.loads(content)
    except ValueError:
        # The process was killed while writing it.
        return {}
    return found if isinstance(found, dict) else {}


def _identity() -> dict:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "command": " ".join(sys.argv)[:1000],
        "process_started": _start_of(os.getpid()),
        "boot": _boot(),
    }


def _may_live(holder: dict) -> bool:
    """Returns whether the process named by a lock may still be running."""
    if holder.get("host") != socket.gethostname():
        return True
    if holder.get("boot") != _boot():
        return False
    process = holder.get("process")
    if not isinstance(process, int) or process == os.getpid():
        return False
    if not atomic.is_alive(process):
        return False
    # The process id may have been reused since.
    return _start_of(process) == holder.get("process_started")


def _start_of(process: int) -> str | None:
    """Returns the start time of a process, in kernel ticks since boot."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # The name before it is in parentheses and may contain anything.
    return text.rpartition(")")[2].split()[19]


def _boot() -> str | None:
    try:
        path = pathlib.Path("/proc/sys/kernel/random/boot_id")
        return path.read_text().strip()
    except OSError:
        return None


def _refusal(file: pathlib.Path, holder: dict) -> LockedError:
    who = "another process"
    if holder:
        who = (
            f"process {holder.get('process')} of host {holder.get('host')} "
            f"({str(holder.get('command'))[:200]})"
        )
    cure = "Wait until it has ended, or choose another directory."
    if holder and holder.get("host") != socket.gethostname():
        cure += f" If that process has ended, remove {file}."
    return LockedError(
        remote.named(f"{file.parent} is being written by {who}. {cure}")
    )

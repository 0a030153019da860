"""The working copy of a URL, and what is known of it."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from tf_instdisc import atomic
from tf_instdisc.paths import CACHE_CURE, caches
from tf_instdisc.remote_store import Store

# Folders of a run that stay on this machine.
_PRIVATE = ("features/", "checkpoints/partial/")


@dataclasses.dataclass
class State:
    """What is known of a copy, in `state.json` beside it.

    Attributes:
        manifest: The id of the manifest; None without one.
        files: By name, `object` and `version` of what the URL holds; for a
            run, the entries of the manifest.
        local: By name, the size, time and inode of each local file when it was
            identical; the other files were not downloaded.
        pending: `manifest` and `local` once the upload of a manifest has
            succeeded; it may have succeeded although it raised an error.
    """

    manifest: str | None = None
    files: dict[str, Any] = dataclasses.field(default_factory=dict)
    local: dict[str, list[int] | None] = dataclasses.field(default_factory=dict)
    pending: dict[str, Any] = dataclasses.field(default_factory=dict)

    def accept(self, manifest: dict[str, Any] | None) -> None:
        """Makes the pending state this one if its manifest was uploaded."""
        if manifest and manifest["id"] == self.pending.get("manifest"):
            self.manifest, self.files = manifest["id"], manifest["files"]
            self.local, self.pending = self.pending["local"], {}


class Copy:
    """The copy of a URL; `path` is a file or a directory.

    Args:
        url: The URL.
        is_output: Whether it is the copy for outputs. Files in it that were
            not uploaded are never read as inputs.
    """

    def __init__(self, url: str, is_output: bool):
        self.url = url
        self.is_output = is_output
        self.store = Store(url)
        # Each process of a cluster has its own, as if on its own host.
        task = ""
        with contextlib.suppress(ValueError, AttributeError):
            task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", "")
        key = hashlib.sha256(f"{url} {task}".encode()).hexdigest()[:16]
        self.folder = caches() / "remote" / (key + "-output" * is_output)
        # In a folder of its own, beside which a file may have any name.
        name = (url.partition("?")[0] if self.store.is_web else url).rpartition(
            "/"
        )[2]
        self.path = self.folder / "copy" / (name or "root")
        self.listed_at = -math.inf

    def file(self, name: str) -> pathlib.Path:
        """Returns the path of a file; the name of the copy itself is ""."""
        return self.path / name if name else self.path

    @contextlib.contextmanager
    def locked(self) -> Iterator[State]:
        """Locks the copy against other processes, and yields its state.

        Raises:
            StorageError: If the copy cannot be locked.
        """
        with contextlib.ExitStack() as stack:
            with self.writing():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self.folder / "sync", "a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print(
                        f"waiting for another process that copies {self.url}",
                        file=sys.stderr,
                        flush=True,
                    )
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield self._state()

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Reports a failed write as a StorageError that names the copy."""
        return atomic.reporting(
            f"The copy of {self.url} in {self.folder}", CACHE_CURE
        )

    def _state(self) -> State:
        if self.path.exists():
            with contextlib.suppress(OSError, ValueError, TypeError):
                text = (self.folder / "state.json").read_text()
                return State(**json.loads(text))
        return State()

    def save(self, state: State) -> None:
        """Writes the state."""
        text = json.dumps(dataclasses.asdict(state))
        with self.writing():
            atomic.write_text(self.folder / "state.json", text)

    def names(self) -> list[str]:
        """Lists the files of a run that belong at the URL."""
        return sorted(
            name
            for folder, _, files in os.walk(self.path)
            for file in files
            if not file.startswith(atomic.PREFIX)
            for path in [os.path.join(folder, file)]
            for name in [os.path.relpath(path, self.path)]
            if not is_private(name)
        )


def is_private(name: str) -> bool:
    """Returns whether a file of a run stays on this machine."""
    return name == "lock" or name.startswith(_PRIVATE)


def status_of(path: pathlib.Path) -> list[int] | None:
    """Returns what changes when a file is written; None without the file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]
